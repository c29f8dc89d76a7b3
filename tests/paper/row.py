"""row.py LLAMA MODEL DATA [SET...] [--limit N]: a row of the LLaMA paper's tables, measured and beside the paper's.

    python3 row.py ./llama LLaMA/7B data boolq piqa arc-easy        (LLAMA is the command; without a SET: all)

DATA is a folder with the published files, or some of them; multiple_choice.py and exact_match.py say where they are:

    boolq/dev.jsonl                  piqa/valid.jsonl         piqa/valid-labels.lst    siqa/dev.jsonl
    siqa/dev-labels.lst              winogrande/dev.jsonl     hellaswag/hellaswag_val.jsonl
    arc/ARC-Easy-Test.jsonl          openbookqa/test.jsonl    arc/ARC-Challenge-Test.jsonl
    nq/NQ-open.dev.jsonl             triviaqa/web-dev.json    gsm8k/test.jsonl         gsm8k/train.jsonl
    mmlu/dev/SUBJECT_dev.csv         mmlu/test/SUBJECT_test.csv (every subject there is)
    lambada/lambada_test.jsonl

Each set prints, between tabs: SET, accuracy, share, standard error, right, of how many; or SET, absent, FILE. The
accuracy is the one the paper (arXiv 2302.13971, section 3) shows: the log-probability per character of an ending (here
per byte, without the space in front); for BoolQ and OpenBookQA less that behind "Answer:"; of MMLU, 5-shot, the sum,
over all questions (our reading); exact match for Natural Questions and TriviaQA, 0-shot, and GSM8K, 8-shot; of LAMBADA,
which the paper has not, greedy. Then comes the row, in percent, above those of the paper's tables 3, 4, 5, 7 and 9.

--limit: only the first N items of each file. Exit code 1: a set failed, or one that was asked for is absent.
"""
import itertools
import json
import os
import pathlib
import sys

sys.dont_write_bytecode = True
import exact_match  # noqa: E402
from multiple_choice import Broken, at, convert, guarded, parser, run, tell_fewer_shots  # noqa: E402

SETS = {  # the set's name in the two scripts, the accuracy, its files (*: each subject)
    "boolq": ("boolq", "answer", "boolq/dev.jsonl"),
    "piqa": ("piqa", "byte", "piqa/valid.jsonl", "piqa/valid-labels.lst"),
    "siqa": ("siqa", "byte", "siqa/dev.jsonl", "siqa/dev-labels.lst"),
    "hellaswag": ("hellaswag", "byte", "hellaswag/hellaswag_val.jsonl"),
    "winogrande": ("winogrande", "byte", "winogrande/dev.jsonl"),
    "arc-easy": ("arc", "byte", "arc/ARC-Easy-Test.jsonl"),
    "arc-challenge": ("arc", "byte", "arc/ARC-Challenge-Test.jsonl"),
    "openbookqa": ("openbookqa", "answer", "openbookqa/test.jsonl"),
    "nq": ("nq", "exact", "nq/NQ-open.dev.jsonl"),
    "triviaqa": ("triviaqa", "exact", "triviaqa/web-dev.json"),
    "gsm8k": ("gsm8k", "exact", "gsm8k/test.jsonl", "gsm8k/train.jsonl"),
    "mmlu": ("mmlu", "sum", "mmlu/dev/*_dev.csv", "mmlu/test/*_test.csv"),
    "lambada": ("lambada", "greedy", "lambada/lambada_test.jsonl"),
}
PAPER = {
    "paper 7B": "76.5 79.8 48.9 76.1 70.1 72.8 47.6 57.2 16.8 50.0 11.0 35.1 -",
    "paper 13B": "78.1 80.1 50.4 79.2 73.0 74.8 52.7 56.4 20.1 56.6 17.8 46.9 -",
    "paper 33B": "83.1 82.3 50.4 82.8 76.0 80.0 57.8 58.6 24.9 65.1 35.6 57.8 -",
    "paper 65B": "85.3 82.8 52.3 84.2 77.0 78.9 56.0 60.2 23.8 68.2 50.9 63.4 -",
}
ENDS = {"nq": ("64", "\n"), "triviaqa": ("64", "\n"), "gsm8k": ("256", "Question:")}  # -n, --stop


def find(data, names):
    """The set's files: a list of them for each subject."""
    tail = len(names[-1].partition("*")[2])
    subjects = [path.name[:-tail] for path in sorted(pathlib.Path(data).glob(names[-1]))] if tail else [""]
    return [[os.path.join(data, name.replace("*", subject)) for name in names] for subject in subjects or ["*"]]


def choose(llama, model, limit, name, accuracy, groups):
    """The set's accuracy line, of all subjects' items together."""
    pieces = [piece for files in groups for piece in itertools.islice(convert(name, files, (llama, model)), limit)]
    tell_fewer_shots()
    for line in run([llama, "score", model, "-q"], b"".join(pieces)).split("\n"):
        if line.startswith(f"accuracy\t{accuracy}\t"):
            return line
    raise Broken(f"{llama} score told no accuracy {accuracy}")


def answer(llama, model, limit, name, _, groups):
    file, *shots = groups[0]
    prompts = itertools.islice(exact_match.prompts(name, file, (8, *shots) if shots else (0, None)), limit)
    tokens, stop = ENDS[name]
    told = run([llama, model, "-0", "--json", "--temp", "0", "-n", tokens, "--stop", stop], b"".join(prompts))
    results = ((f"result {i}", at(f"result {i}", json.loads, text)) for i, text in enumerate(told.split("\n")) if text)
    return exact_match.grade(name, file, results)


def print_table(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *rest in rows:
        print(first.ljust(widths[0]), *(share.rjust(width) for share, width in zip(rest, widths[1:])), sep="  ")


def main():
    options = parser(__doc__)
    options.add_argument("llama", metavar="LLAMA")
    options.add_argument("model", metavar="MODEL")
    options.add_argument("data", metavar="DATA")
    options.add_argument("set", nargs="*", metavar="SET", help=" ".join(SETS))
    options.add_argument("--limit", type=int, metavar="N")
    given = options.parse_intermixed_args()
    unknown = [name for name in given.set if name not in SETS]
    if unknown or given.limit is not None and given.limit < 1:
        options.error(f"no such set: {unknown[0]}" if unknown else "--limit: at least 1")
    row = {}
    for column in [name for name in SETS if name in given.set or not given.set]:
        name, accuracy, *names = SETS[column]
        groups = find(given.data, names)
        absent = [file for files in groups for file in files if not os.path.exists(file)]
        row[column] = "failed" if not absent or given.set else "-"
        if absent:
            print(column, "absent", absent[0], sep="\t", flush=True)
            continue
        try:
            measure = answer if accuracy == "exact" else choose
            line = measure(given.llama, given.model, given.limit, name, accuracy, groups)
            row[column] = f"{100 * float(line.split()[2]):.1f}"
            print(line.replace("accuracy", column, 1), flush=True)
        except (Broken, OSError, ValueError) as error:
            print(f"{column}: {error}", file=sys.stderr)
    papers = [[name, *(share for column, share in zip(SETS, text.split()) if column in row)]
              for name, text in PAPER.items()]
    print_table([["", *row], ["measured", *row.values()], *papers])
    return 1 if "failed" in row.values() else 0


if __name__ == "__main__":
    guarded(main)
