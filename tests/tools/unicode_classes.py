#!/usr/bin/python3
"""Print tokenizer.c's table of the letters (L) and numbers (N) of Unicode 16.0, or check it.

    unicode_classes.py [FILE]          the table, from Python's unicodedata (Python 3.14 has 16.0) or from
                                       DerivedGeneralCategory.txt of the Unicode Character Database
    unicode_classes.py --check [FILE]  compare tokenizer.c's table with it. With a unicodedata of another version,
                                       compares the characters that it knows

The table is a text of numbers, each for a run of code points of one class, from U+0000 on: (length - 1) * 2, plus 1 if
the class is not the first of those that can follow the class before, in the order other, letter, number. A number is
written in digits of 4 bits, the lowest first, each as the character '^' + digit, + 16 if another digit follows.
"""
import re, sys, unicodedata

VERSION, END = '16.0.0', 0x110000
OTHER, LETTER, NUMBER = range(3)


def classes(path):
    """The class of each code point, and which code points are known."""
    category = ['Cn'] * END
    if path:
        text = open(path, encoding='utf-8').read()
        if not re.match(r'# DerivedGeneralCategory-%s\.txt' % re.escape(VERSION), text):
            sys.exit(f'{path}: is not DerivedGeneralCategory-{VERSION}.txt')
        for first, last, name in re.findall(r'^([0-9A-F]+)(?:\.\.([0-9A-F]+))? *; *([A-Z][a-z])', text, re.M):
            for c in range(int(first, 16), int(last or first, 16) + 1): category[c] = name
    else: category = [unicodedata.category(chr(c)) for c in range(END)]
    return [{'L': LETTER, 'N': NUMBER}.get(name[0], OTHER) for name in category], [name != 'Cn' for name in category]


def encode(of):
    out, before, at = '', None, 0
    while at < END:
        end = at + 1
        while end < END and of[end] == of[at]: end += 1
        if end == END: break  # the rest is of the class "other"
        choices = [c for c in (OTHER, LETTER, NUMBER) if c != before]
        number = (end - at - 1) * 2 + (choices.index(of[at]) > 0)
        while True:
            out += chr(ord('^') + number % 16 + (16 if number > 15 else 0))
            number //= 16
            if not number: break
        before, at = of[at], end
    return out


def decode(text):
    of, before, number, shift = [], None, 0, 0
    for digit in (ord(c) - ord('^') for c in text):
        number |= (digit & 15) << shift
        shift += 4
        if digit < 16:
            before = [c for c in (OTHER, LETTER, NUMBER) if c != before][number & 1]
            of += [before] * (number // 2 + 1)
            number = shift = 0
    return of + [OTHER] * (END - len(of))


arguments = sys.argv[1:]
check = arguments[:1] == ['--check']
path = (arguments[check:] or [None])[0]
of, known = classes(path)
if check:
    source = re.search(r'unicode_runs\[\] =((?:\s*"[^"]*")+);', open('tokenizer.c', encoding='utf-8').read())
    table = decode(re.sub(r'[\s"]', '', source[1]))
    exact = path or unicodedata.unidata_version == VERSION
    wrong = [c for c in range(END) if table[c] != of[c] and (exact or known[c])]
    if wrong: print('%d of %d code points differ:' % (len(wrong), END if exact else sum(known)), *('U+%04X' % c for c in wrong[:9]))
    sys.exit(bool(wrong))
if not path and unicodedata.unidata_version != VERSION:
    sys.exit(f'unicodedata is of version {unicodedata.unidata_version}: give DerivedGeneralCategory.txt of {VERSION}')
text = encode(of)
assert decode(text) == of
for i in range(0, len(text), 94): print(f'    "{text[i:i + 94]}"' + ('' if i + 94 < len(text) else ';'))
