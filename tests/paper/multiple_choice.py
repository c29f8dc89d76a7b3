"""multiple_choice.py SET FILE... [--fit LLAMA MODEL]: a published set as the lines that `llama score` reads.

    python3 multiple_choice.py piqa valid.jsonl valid-labels.lst > piqa.tsv
    llama score LLaMA/7B -f piqa.tsv -q

    SET         FILE... (- is stdin)           items    home
    boolq       dev.jsonl                      3,270    github.com/google-research-datasets/boolean-questions
    piqa        valid.jsonl valid-labels.lst   1,838    yonatanbisk.com/piqa
    siqa        dev.jsonl dev-labels.lst       1,954    leaderboard.allenai.org/socialiqa (socialiqa-train-dev.zip)
    hellaswag   hellaswag_val.jsonl            10,042   github.com/rowanz/hellaswag
    winogrande  dev.jsonl                      1,267    winogrande.allenai.org (winogrande_1.1.zip)
    arc         ARC-Easy-Test.jsonl            2,376    allenai.org/data/arc (ARC-V1-Feb2018.zip)
                ARC-Challenge-Test.jsonl       1,172
    openbookqa  test.jsonl                     500      allenai.org/data/open-book-qa (OpenBookQA-V1-Sep2018.zip)
    mmlu        SUBJECT_dev.csv                         github.com/hendrycks/test (data.tar): the five shots
                SUBJECT_test.csv               14,042   of all 57 subjects
    lambada     lambada_test.jsonl             5,153    openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl
    items       any .jsonl                              {"context": "...", "endings": ["...", ...], "label": 0}

The LLaMA paper (arXiv 2302.13971, section 3) prints no prompt for these sets: it says that it follows Gao et al. 2021
and, in BoolQ and OpenBookQA, Brown et al. 2020 (GPT-3), all without an example, but for MMLU's five. So the prompts
below are our reading: the wording of Gao et al.'s program, lm-evaluation-harness; of MMLU, its form of the authors'.
LAMBADA is not in the paper. Which accuracy the paper's tables show: row.py.

--fit: a question of MMLU that is too long with five shots gets as many as fit, the first ones, as its authors do;
`LLAMA tokenize MODEL --count` counts. How many had fewer is said on stderr.

A broken line is said on stderr, as FILE:LINE: what; then nothing is written, and the exit code is 1.
"""
import argparse
import collections
import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys

CONTEXT = 2048  # tokens, of LLaMA


class Broken(Exception):
    """What is wrong, for stderr."""


def at(where, function, *arguments):
    """function(*arguments), its complaints as those of the line `where`."""
    try:
        return function(*arguments)
    except json.JSONDecodeError as error:
        raise Broken(f"{where}: not JSON: {error.msg}") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise Broken(f"{where}: {error}") from None


def run(command, data):
    """What a command makes of stdin; it has told on stderr why it fails."""
    done = subprocess.run(command, input=data, stdout=subprocess.PIPE)
    if done.returncode:
        raise Broken(f"{command[0]} ended with exit code {done.returncode}")
    return done.stdout.decode()


# How a set's files are read: ("FILE:LINE", what the set's function below takes) for each item.


def lines(file):
    with open(0 if file == "-" else file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            yield f"{file}:{number}", at(f"{file}:{number}", line.decode)


def read_json(file):
    for where, text in lines(file):
        if text.strip():
            yield where, at(where, json.loads, text)


def read_labelled(file, labels):
    numbers = ((where, text) for where, text in lines(labels) if text.strip())
    for item, label in itertools.zip_longest(read_json(file), numbers):
        if not item or not label:
            raise Broken(f"{item[0]}: no label in {labels}" if item else f"{label[0]}: no item in {file}")
        yield (*item, at(label[0], int, label[1].strip()))


def read_csv(file):
    rows = csv.reader(text for _, text in lines(file))
    where = f"{file}:1"
    while (row := at(where, next, rows, None)) is not None:
        if row:
            yield where, row
        where = f"{file}:{rows.line_num + 1}"


fewer_shots = collections.Counter()  # how many questions of MMLU got 0, 1, ... shots


def read_subject(dev, test, fit=None):
    subject = os.path.basename(test).rsplit("_", 1)[0].replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    shots = []
    for where, row in itertools.islice(read_csv(dev), 5):
        answer, question, endings = at(where, mmlu, "", row)
        shots.append(question + endings[answer] + "\n\n")
    for where, row in read_csv(test):
        n = len(shots)
        while fit and n and too_long(*fit, at(where, mmlu, head + "".join(shots[:n]), row)):
            n -= 1
        if n < len(shots):
            fewer_shots[n] += 1
        yield where, head + "".join(shots[:n]), row


def too_long(llama, model, item):
    _, context, endings = item  # the endings, " A" to " D", are of equal length
    return int(run([llama, "tokenize", model, "--count", "--bos", "-q"], (context + endings[0]).encode())) > CONTEXT


def tell_fewer_shots():
    if fewer_shots:
        parts = ", ".join(f"{count} with {n}" for n, count in sorted(fewer_shots.items()))
        print(f"mmlu: {sum(fewer_shots.values())} questions with fewer shots, to fit in {CONTEXT} tokens: {parts}",
              file=sys.stderr)


# Each set's item: the right ending's number, the context, the endings. An ending may be a pair: the end of its own
# context, and what is scored behind it.


def take(record, name, kind=str, of=str):
    value = record.get(name) if isinstance(record, dict) else None
    if type(value) is not kind or kind is list and not all(type(element) is of for element in value):
        raise ValueError(f'no "{name}" that is a {kind.__name__}' + f" of {of.__name__}" * (kind is list))
    return value


def spaced(text):
    """The space in front is no part of what is scored: an ending's length is that of its own text."""
    return (" ", text) if text.strip() else " " + text


def boolq(item):
    passage = take(item, "title") + " -- " + take(item, "passage")
    return int(take(item, "answer", bool)), f"{passage}\nQuestion: {take(item, 'question')}?\nAnswer:", [" no", " yes"]


def piqa(item, label):
    return label, f"Question: {take(item, 'goal')}\nAnswer:", [spaced(take(item, name)) for name in ("sol1", "sol2")]


def siqa(item, label):
    context = f"Q: {take(item, 'context')} {take(item, 'question')}\nA:"
    return label - 1, context, [spaced(take(item, "answer" + letter)) for letter in "ABC"]


def hellaswag(item):
    def clean(text):  # of WikiHow's marks
        return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")

    context = f"{take(item, 'activity_label')}: {take(item, 'ctx_a')} {take(item, 'ctx_b').capitalize()}"
    return take(item, "label", int), clean(context), [spaced(clean(ending)) for ending in take(item, "endings", list)]


def winogrande(item):
    """Scored is what follows the blank, behind each option in it."""
    before, blank, behind = take(item, "sentence").partition("_")
    if not blank:
        raise ValueError('no _ in "sentence"')
    endings = [(take(item, name), " " + behind.strip()) for name in ("option1", "option2")]
    return int(take(item, "answer")) - 1, before, endings


def openbookqa(item):
    question, key = take(item, "question", dict), take(item, "answerKey")
    choices = take(question, "choices", list, dict)
    labels = [take(choice, "label") for choice in choices]  # letters, in some items of ARC digits
    label = labels.index(key) if key in labels else -1
    return label, take(question, "stem"), [" " + take(choice, "text") for choice in choices]


def arc(item):
    label, stem, endings = openbookqa(item)
    return label, f"Question: {stem}\nAnswer:", [spaced(ending[1:]) for ending in endings]


def mmlu(prompt, row):
    if len(row) != 6 or row[5] not in list("ABCD"):
        raise ValueError("not question, A, B, C, D, answer")
    choices = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", row[1:]))
    return "ABCD".index(row[5]), f"{prompt}{row[0].strip()}{choices}\nAnswer:", [" A", " B", " C", " D"]


def lambada(item):
    """The one ending is the last word: right if greedy decoding tells it."""
    context, space, word = take(item, "text").rstrip().rpartition(" ")
    if not context:
        raise ValueError('fewer than two words in "text"')
    return 0, context, [space + word]


def items(item):
    endings, known = take(item, "endings", list), item.get("label") is not None
    return take(item, "label", int) if known else None, take(item, "context"), endings


SETS = {"boolq": boolq, "piqa": piqa, "siqa": siqa, "hellaswag": hellaswag, "winogrande": winogrande, "arc": arc,
        "openbookqa": openbookqa, "mmlu": mmlu, "lambada": lambada, "items": items}
READERS = {"piqa": read_labelled, "siqa": read_labelled, "mmlu": read_subject}  # of two files; the others: read_json
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def score_line(label, context, endings):
    if not endings or label is not None and not 0 <= label < len(endings):
        raise ValueError(f"the right ending is none of the {len(endings)}")
    parts = [(ending,) if isinstance(ending, str) else ending for ending in endings]
    texts = ["\\c".join(text.translate(ESCAPES) for text in part) for part in [(context,), *parts]]
    return "\t".join(["-" if label is None else str(label), *texts]).encode() + b"\n"


def convert(name, files, fit=None):
    """The set's lines for `llama score`, as bytes, one by one."""
    more = {"fit": fit} if name == "mmlu" else {}
    for where, *parts in READERS.get(name, read_json)(*files, **more):
        yield at(where, lambda item: score_line(*SETS[name](*item)), parts)


def write(pieces):
    """All to stdout, or none if one is broken."""
    data = b"".join(pieces)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def parser(doc):
    return argparse.ArgumentParser(description=doc, usage=doc.partition(": ")[0],
                                   formatter_class=argparse.RawDescriptionHelpFormatter)


def guarded(main):
    """Ends the program with main's exit code; a complaint is one line on stderr."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (Broken, OSError) as error:
        sys.exit(str(error))


def main():
    options = parser(__doc__)
    options.add_argument("set", choices=SETS)
    options.add_argument("file", nargs="+")
    options.add_argument("--fit", nargs=2, metavar=("LLAMA", "MODEL"))
    given = options.parse_args()
    if len(given.file) != 1 + (given.set in READERS):
        options.error(f"{given.set} is {1 + (given.set in READERS)} FILE")
    write(convert(given.set, given.file, given.fit))
    tell_fewer_shots()


if __name__ == "__main__":
    guarded(main)
