"""score.py LLAMA MODEL ITEMS [N]: what `LLAMA score` prints of the first N items, or of all, against numpy's.

The items are computed here a second time, in float64 and with the SentencePiece library, sharing no code with the
program: the model is trace.py's. ITEMS is a .tsv as `score` reads it, or JSON lines of {"context", "endings",
"label"}. The rule of the tokens is EleutherAI's lm-evaluation-harness's. No log-probability may be off by more than
1e-3; all else must be equal, but where numpy has two candidates within 1e-4 of one another, either may be the best.

  --tokenizer FILE    tokenizer.model, where the model's folder has none
  --longest N         items of more tokens are left out (2048: LLaMA's context)
  --options "..."     more of them for `LLAMA score`
  --write             print numpy's figures in the format of `score`, compare nothing"""
import argparse
import functools
import json
import math
import re
import subprocess
import sys

import numpy as np
import sentencepiece

sys.dont_write_bytecode = True
from trace import forward, read_model  # ours, beside this file, not Python's

LIMIT, NEAR = 1e-3, 1e-4
RULES = ["sum", "token", "byte", "answer", "greedy"]
NAMED = {rb"\n": b"\n", rb"\t": b"\t", rb"\r": b"\r", rb"\\": b"\\", rb"\"": b'"', rb"\'": b"'"}
results = []


def check(good, what):
    results.append(bool(good))
    if not good:
        print(f"FAIL: {what}")


def unescape(field, cuts=True):
    """The text before the last \\c and the one behind it."""
    parts = [b""]
    for piece in re.findall(rb"\\x[0-9A-Fa-f]{2}|\\.|[^\\]+|\\", field, re.DOTALL):
        if piece == rb"\c" and cuts:
            parts.append(b"")
        elif piece[:2] == rb"\x" and len(piece) == 4:
            parts[-1] += bytes.fromhex(piece[2:].decode())
        else:
            parts[-1] += NAMED.get(piece, piece)
    return b"".join(parts[:-1]), parts[-1]


def read_items(path):
    """A list of (line for `score`, label or None, [(context, ending)]), the texts in bytes."""
    items = []
    for line in filter(None, open(path, "rb").read().split(b"\n")):
        if path.endswith(".tsv"):
            label, context, *endings = line.split(b"\t")
            context = unescape(context, cuts=False)[1]
            pairs = [(context + before, ending) for before, ending in map(unescape, endings)]
            items.append((line, None if label in (b"", b"-") else int(label), pairs))
        else:
            item = json.loads(line)
            texts, label = [text.encode() for text in (item["context"], *item["endings"])], item.get("label")
            escaped = [re.sub(rb"[\\\n\t\r]", lambda m: next(k for k in NAMED if NAMED[k] == m[0]), t) for t in texts]
            head = b"-" if label is None else b"%d" % label
            items.append((b"\t".join([head, *escaped]), label, [(texts[0], ending) for ending in texts[1:]]))
    return items


class Scorer:
    def __init__(self, folder, tokenizer):
        self.params, self.weights = read_model(folder)
        self.pieces = sentencepiece.SentencePieceProcessor(tokenizer or f"{folder}/tokenizer.model")
        self.logprobs = functools.lru_cache(8)(self.logprobs)

    def ids(self, text):
        return [self.pieces.bos_id(), *self.pieces.encode(text)]

    def tokens(self, context, ending):
        """The context's and the ending's."""
        own = context.decode("utf-8", "surrogateescape").rstrip().encode("utf-8", "surrogateescape")
        given, whole = self.ids(own), self.ids(context + ending)
        rest = whole[len(given):]
        return (given, rest) if rest else (whole[:-1], whole[-1:])

    def logprobs(self, tokens, last):
        logits = forward(self.params, self.weights, list(tokens), last)[-1][1]
        logits = logits - logits.max(1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def ending(self, context, ending):
        """Its log-probability, its number of tokens, and by how much the least of them is ahead of all others."""
        given, rest = self.tokens(context, ending)
        table = self.logprobs((*given, *rest[:-1]), len(rest))
        at = np.arange(len(rest)), rest
        others = table.copy()
        others[at] = -np.inf
        return table[at].sum(), len(rest), (table[at] - others.max(1)).min()

    def item(self, pairs):
        """Of each ending (log-probability, tokens, bytes, lead, log-probability after "Answer:"), and by each rule
        what it is worth."""
        rows = []
        for context, ending in pairs:
            total, count, lead = self.ending(context, ending)
            rows.append((total, count, len(ending), lead, self.ending(b"Answer:", ending)[0]))
        total, count, size, _, answer = np.array(rows).T
        return rows, np.array([total, total / count, total / size, total - answer])

    def longest(self, pairs):
        both = [pair for context, ending in pairs for pair in ((context, ending), (b"Answer:", ending))]
        return max(sum(map(len, self.tokens(*pair))) for pair in both)


def accuracy(right, labelled):
    """Lines of the accuracies; right: by rule, of each item that has a label."""
    lines = []
    for rule, count in zip(RULES, right if labelled else []):
        p = count / labelled
        error = math.sqrt(p * (1 - p) / (labelled - 1)) if labelled > 1 else 0
        lines.append(f"accuracy\t{rule}\t{p:.4f}\t{error:.4f}\t{count}\t{labelled}")
    return lines


def lines_of(items, scored):
    """numpy's figures as `score` prints them."""
    lines, right = [], [0] * len(RULES)
    for i, ((_, label, _), (rows, worth)) in enumerate(zip(items, scored)):
        for k, (total, count, size, lead, answer) in enumerate(rows):
            lines.append(f"ending\t{i}\t{k}\t{total:.6f}\t{count}\t{size}\t{int(lead > 0)}\t{answer:.6f}")
        best = worth.argmax(1)
        lines.append("\t".join(["pick", str(i), "-" if label is None else str(label), *map(str, best)]))
        if label is not None:
            hits = [*(best == label), rows[label][3] > 0]
            right = [count + int(hit) for count, hit in zip(right, hits)]
    return lines + accuracy(right, sum(label is not None for _, label, _ in items))


def compare(items, scored, lines):
    """The lines the program printed against numpy's figures. Returns the worst difference."""
    rest, worst, right = iter(lines), 0.0, [0] * len(RULES)
    for i, ((_, label, _), (rows, worth)) in enumerate(zip(items, scored)):
        greedy = []
        for k, (total, count, size, lead, answer) in enumerate(rows):
            name = f"item {i}, ending {k}"
            line = next(rest, "").split("\t")
            if len(line) != 8 or line[:3] != ["ending", str(i), str(k)]:
                check(False, f"{name}: the line is {line}")
                return worst
            for what, have, want in (("log-probability", line[3], total), ('after "Answer:"', line[7], answer)):
                error = abs(float(have) - want)
                worst = max(worst, error)
                check(error <= LIMIT, f"{name}: {what}: {have}, not {want:.6f}")
            check(line[4] == str(count), f"{name}: {line[4]} tokens, not {count}")
            check(line[5] == str(size), f"{name}: {line[5]} bytes, not {size}")
            check(line[6] == str(int(lead > 0)) or (line[6] in "01" and abs(lead) < NEAR),
                  f"{name}: greedy: {line[6]}, ahead by {lead:.6f}")
            greedy.append(line[6] == "1")
        line = next(rest, "").split("\t")
        if len(line) != 7 or line[:3] != ["pick", str(i), "-" if label is None else str(label)]:
            check(False, f"item {i}: the line is {line}")
            return worst
        for rule, pick, by in zip(RULES, map(int, line[3:]), worth):
            best = int(by.argmax())
            check(pick == best or (0 <= pick < len(by) and 0 < by[best] - by[pick] < NEAR),
                  f"item {i}: by {rule} {pick} is picked, not {best} of {by}")
        if label is not None:
            hits = [*(int(pick) == label for pick in line[3:]), greedy[label]]
            right = [count + int(hit) for count, hit in zip(right, hits)]
    want = accuracy(right, sum(label is not None for _, label, _ in items))
    have = list(rest)
    check(len(have) == len(want), f"{len(have)} lines of accuracy, not {len(want)}")
    for a, b in zip(have, want):
        check(a == b, f"{a!r}, not {b!r}")
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("llama", "model", "items"):
        parser.add_argument(name)
    parser.add_argument("n", nargs="?", type=int)
    parser.add_argument("--tokenizer")
    parser.add_argument("--longest", type=int, default=2048)
    parser.add_argument("--options", default="")
    parser.add_argument("--write", action="store_true")
    o = parser.parse_args()

    scorer, given = Scorer(o.model, o.tokenizer), read_items(o.items)[: o.n]
    items = [item for item in given if scorer.longest(item[2]) <= o.longest]
    scored = [scorer.item(pairs) for _, _, pairs in items]
    if o.write:
        print("\n".join(lines_of(items, scored)))
        return
    check(items, f"{o.items}: no items to score")
    command = [o.llama, "score", o.model, "-f", "-", *(["--tokenizer", o.tokenizer] if o.tokenizer else [])]
    text = b"".join(line + b"\n" for line, _, _ in items)
    run = subprocess.run(command + o.options.split(), input=text, capture_output=True)
    check(run.returncode == 0, f"{' '.join(command)}: exit code {run.returncode}: {run.stderr.decode()}")
    worst = compare(items, scored, run.stdout.decode().splitlines()) if run.returncode == 0 else math.nan
    print(f"score: {len(items)} items, {sum(len(pairs) for _, _, pairs in items)} endings, worst {worst:.1e}"
          + (f"; {len(given) - len(items)} items of more than {o.longest:,} tokens left out"
             if len(given) > len(items) else ""))
    print(f"score: {sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
