"""check_rows.py: row.py as a whole, with the real command and our tiny model."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

import published
from checks import HERE, check, command, replaced, row, write, write_stand_in
from items import Broken
from llama import Llama, Records
from multiple_choice import score_line
from tasks import TASKS

SVG = "{http://www.w3.org/2000/svg}"


def cells(out):
    """column -> the cells of its line: measured, error, items, the paper's numbers."""
    found = {}
    for line in out.splitlines():
        parts = re.split(r"  +", line.strip())
        if len(parts) == 8:
            found[parts[0]] = parts[1:]
    return found


def test_usage(llama, model):
    for words in ["", "a b", "a b c --limit x", "a b c --limit 0", "a b c --samples 0", "a b c nothing", "a b c table10"]:
        code, out, errors = row(*words.split())
        check(f"usage: {words}", code == 2 and out == "" and "Traceback" not in errors, errors)
    code, out, errors = row("-h")
    check("-h", code == 0 and out.startswith("usage: row.py LLAMA MODEL DATA TASK..."), errors)
    code, out, errors = row("--list")
    check("--list", code == 0 and all(f"\n  {name} " in out for name in TASKS) and
          all(f"Table {n}:" in out for n in "3 4 5 6 7 8 9 11 12 13 14".split()) and
          all(task.licence in out and task.files in out and task.home in out for task in TASKS.values()), out)
    code, out, errors = row(llama, "no model", ".", "boolq")
    check("a command that fails", code == 1 and "ended with exit code 3" in errors and "Traceback" not in errors, errors)
    code, out, errors = row(llama, model, ".", "humaneval-1", "truthfulqa")
    check("options that are needed", code == 1 and "humaneval-1: absent: --run-untrusted-code" in errors and
          "truthfulqa: absent: --judge FOLDER" in errors, errors)
    code, out, errors = row(llama, model, "no folder", "mmlu")
    check("no data", code == 1 and "mmlu: absent: no folder/mmlu" in errors, errors)
    with replaced({"boolq/dev.jsonl": "{"}):
        code, out, errors = row(llama, model, ".", "boolq", "piqa", "--limit", "1")
    check("a broken file stops its task alone", code == 1 and "boolq: boolq/dev.jsonl:1: not JSON" in errors and "piqa" in out, errors)
    code, out, errors = row(llama, model, ".", "mbpp-80", "--run-untrusted-code", "--samples", "79", "--estimate")
    check("too few samples", code == 1 and "mbpp-80 needs --samples 80 or more" in errors, errors)
    for option, path in (("--plot", "no/x.svg"), ("--judge", "no")):
        code, out, errors = row(llama, model, ".", "toxicity-basic", option, path)
        check(f"no folder for {option}", code == 2 and f"{option}: no such folder: no\n" in errors, errors)
    for path in (".", "/dev/full"):
        code, out, errors = row(llama, model, ".", "piqa", "--out", path)
        check(f"--out {path}", code == 1 and errors == f"{path}: not a file\n", errors)
    code, out, errors = row(llama, model, "no folder")
    check("nothing to measure", code == 1 and "piqa: absent" in errors, errors)
    with replaced({"boolq/dev.jsonl": "", "truthfulqa/TruthfulQA.csv": "Question\n"}):
        code, out, errors = row(llama, model, ".", "boolq", "truthfulqa", "--judge", ".")
    check("empty files", code == 1 and out == "" and errors.count(": no items in its files\n") == 2, errors)
    code, out, errors = row(llama, model, ".", "winogrande", "--options=-c 20")
    check("a short context", code == 0 and cells(out)["winogrande"][2] == "3", errors)


def test_broken_command(llama, model):
    """A command that is not `llama`, or that ends too early."""
    code, out, errors = row("/bin/echo", model, ".", "piqa")
    check("not llama", code == 1 and errors.startswith("/bin/echo: not JSON") and errors.count("\n") == 1, errors)
    for name, end, expected in (("too few results", "exit 0", "results, not 3"), ("half a result", "printf {; exit 0", "not JSON"),
                                ("a signal", "kill -9 $$", "exit code -9")):
        for task, word in (("piqa", "score"), ("nq-0", "--stop"), ("siqa", "-q")):
            write("early", f'#!/bin/sh\ncase " $* " in *" {word} "*) {llama!r} "$@" | head -n 1; {end};; esac\nexec {llama!r} "$@"\n')
            os.chmod("early", 0o755)
            code, out, errors = row("./early", model, ".", task)
            check(f"{name} of {task}", code == 1 and out == "" and expected in errors and "Traceback" not in errors, errors)


def test_all(llama, model):
    """Every task that takes one text of a prompt, one item of each subject or category."""
    names = [name for name, task in TASKS.items() if task.samples == 1]
    os.makedirs("judge", exist_ok=True)
    code, out, errors = row(llama, model, ".", *names, "--limit", "1", "--judge", "judge", "--plot", "all.svg")
    found = cells(out)
    check("all tables", code == 0 and "Estimate" in errors and "in all" in errors, out + errors)
    columns = set(published.NUMBERS) - {name for name, task in TASKS.items() if task.samples > 1}
    check("all columns", set(found) >= columns and len(found) == len(columns | {"truthfulqa-mc1", "truthfulqa-mc2", "lambada", "bbh",
                                                                                     "bbh-cot"}), sorted(set(found) ^ columns))
    check("the paper's numbers", all(found[name][3:] == published.numbers(name) for name in columns), found)
    notes = re.sub(r"\s+", " ", out)
    check("notes", all(TASKS[name].protocol in notes for name in names))
    svg = xml.etree.ElementTree.parse("all.svg").getroot()
    titles = [title.text for title in svg.iter(SVG + "title")]
    bars = sum(number != "-" for name in columns for number in published.numbers(name))
    measured = sum(cell[0] != "-" for name, cell in found.items() if name)
    check("the plot's bars", sum("paper" in title for title in titles) == bars and
          sum("measured" in title for title in titles) == measured, (len(titles), bars, measured))
    bar = next(rect for rect in svg.iter(SVG + "rect") if rect.find(SVG + "title") is not None and
               rect.find(SVG + "title").text == "boolq, paper 65B: 85.3")
    check("a bar's height", abs(float(bar.get("height")) - 85.3 / 100 * 180) < 0.06, bar.get("height"))


TEXTS = {  # a task: of each question three samples, right, wrong or malformed
    "nq-0": [[" a heron, or\nQ"], [" nobody"], [""]],
    "triviaqa-0": [[" The Grey-Heron"], [" ,"]],
    "gsm8k": [["#### 7,000", "####", "#### 7000"], ["#### 7", "#### 8", "#### 8.0"], ["5", "#### -5", "#### -"]],
    "math": [[r"\boxed{1/2}", r"\boxed{", r"\boxed{0.5}"], [r"\boxed 5", "4", r"$\boxed{x = 5}$"], ["", r"\boxed{2\sqrt3}", r"\fbox{2}"]],
    "bbh": [[" 2\n"], [" 3"]],
    "bbh-cot": [["So the answer is 3."], ["So the answer is 4."]],
}
GRADED = {"nq-0": "33.3", "nq-1": "33.3", "nq-5": "33.3", "nq-64": "33.3", "triviaqa-0": "50.0", "triviaqa-1": "50.0", "triviaqa-5": "50.0",
          "triviaqa-64": "50.0", "gsm8k": "66.7", "gsm8k-maj": "66.7", "math": "66.7", "math-maj": "100.0", "bbh": "50.0", "bbh-cot": "50.0"}


def test_texts(llama, model):
    """Every task whose texts are compared, from the files to the row, with texts in the place of the model's."""
    texts = {question.prompt(): samples for name in GRADED for question, samples in
             zip(TASKS[name].read("."), TEXTS.get(name) or TEXTS[name.partition("-")[0] + "-0" * (name[0] in "nt")])}
    code, out, errors = row(write_stand_in(llama, texts), model, ".", *GRADED, "--samples", "3")
    found = {name: cell[0] for name, cell in cells(out).items() if name}
    check("the values of texts", code == 0 and found == GRADED, errors + str(found))


def test_as_by_hand(llama, model):
    """Picks and texts are what `llama` prints for the same input."""
    for name in ("piqa", "winogrande", "crows-pairs"):
        code, lines, errors = row(llama, model, ".", name, "--print")
        code, out, errors = command(llama, "score", model, "--json", stdin=lines.encode())
        by_hand = [json.loads(line) for line in out.splitlines()][:-1]
        check(f"--print {name}", lines.encode() == b"".join(score_line(q) + b"\n" for q in TASKS[name].read(".")))
        results = Llama(llama, model).score(name, lines.encode().splitlines(), Records())
        check(f"the picks of {name}", [result["pick"] for result in results] == [result["pick"] for result in by_hand])
        right = TASKS[name].columns(list(zip(TASKS[name].read("."), results)))
        _, out, _ = row(llama, model, ".", name)
        check(f"the row of {name}", all(f"{value:.1f}" == cells(out)[column][0] for column, value, _, n in right if n), out)
    plain, streamed = (row(llama, model, ".", "piqa", "gsm8k", *more)[1] for more in
                       ((), ("--options=--memory stream --memory-limit 64M -t 1", "--draft", model)))
    check("streamed, on one thread, with a draft model", plain == streamed and "gsm8k" in plain, streamed)
    task = TASKS["nq-1"]
    code, prompts, errors = row(llama, model, ".", "nq-1", "--print")
    code, out, errors = command(llama, model, "-0", "--temp", "0", "-n", "64", "--stop", "\n", stdin=prompts.encode())
    texts = [prompt.encode() for prompt in prompts.split("\0")[:-1]]
    program = Llama(llama, model)
    results = program.generate(task, texts, program.count(texts), 1, Records())
    check("texts", [samples[0]["text"] for samples in results] == out.decode().split("\0")[:-1], out)
    task = TASKS["gsm8k-maj"]
    results = Llama(llama, model, seed=5).generate(task, [b"Once", b"There was\n"], [2, 4], 3, Records())
    for prompt, samples in zip((b"Once", b"There was\n"), results):
        for k, sample in enumerate(samples):
            code, out, errors = command(llama, model, "-0", "-s", str(5 + k), "--temp", "0.6", "--top-p", "0.95", "-n", "256", "--stop",
                                        "Question:", stdin=prompt + b"\0")
            check(f"sample {k} of {prompt}", out.decode() == sample["text"] + "\0", out)


def test_continued(llama, model):
    """A run that is stopped and continued has the same table and computes nothing again; so has a file whose end is torn."""
    words = [llama, model, ".", "piqa", "nq-0", "gsm8k-maj", "--samples", "3"]
    _, whole, _ = row(*words, "--out", "whole.results")
    with open("whole.results", "rb") as stream:
        lines = stream.read().splitlines(True)
    check("a result of each", len(lines) == 3 + 3 + 9, len(lines))
    for kept, torn in ((0, b""), (2, b'{"key": "x'), (7, lines[7][:-1]), (10, b""), (len(lines), b"\xff")):
        write("some.results", b"".join(lines[:kept]) + torn)
        _, out, errors = row(*words, "--out", "some.results")
        with open("some.results", "rb") as stream:
            now = stream.read().splitlines(True)
        check(f"continued after {kept} results", out == whole and now[:kept] == lines[:kept] and sorted(now) == sorted(lines), out + errors)
        left = sum(int(number) for number in re.findall(r"(\d+) of +3 items", errors))
        check(f"the estimate after {kept} results", left == {0: 9, 2: 7, 7: 3, 10: 2, len(lines): 0}[kept], errors)
    for other in (["--seed", "2"], ["--options=--fast"]):
        _, out, _ = row(*words, "--out", "some.results", *other)
        with open("some.results", "rb") as stream:
            check(f"other results with {other}", len(stream.read().splitlines()) > len(lines))
        os.remove("some.results")
        write("some.results", b"".join(lines))
    shutil.copytree(model, "other")
    code, before, errors = row(llama, "other", ".", "nq-0", "--out", "other.results")
    with open("other/consolidated.00.pth", "r+b") as stream:
        data = stream.read()
        stream.seek(len(data) // 2)
        stream.write(bytes(64))
    code, after, errors = row(llama, "other", ".", "nq-0", "--out", "other.results")
    check("other weights in the same folder", code == 0 and "nq-0  3 of  3 items" in re.sub(r" +(?=\d)", "  ", errors), errors)
    records = Records("new.results")
    records.add("key", {"task": "boolq"}, {"passed": True})
    with open("new.results") as stream:
        check("a result is written at once", json.load(stream) == {"key": "key", "task": "boolq", "passed": True})
    try:
        check("one run at a time", Records("new.results") is None)
    except Broken as error:
        check("one run at a time", str(error) == "new.results: another run writes it", error)
    write("some.results", b"".join(lines[:2]) + b"[]\n")
    code, out, errors = row(*words, "--out", "some.results")
    check("another file", code == 1 and errors == "some.results:3: not a result of row.py\n", errors)
    with open("whole.results", "rb") as stream:
        check("and it stays", stream.read() == b"".join(lines))


def test_interrupted(llama, model):
    """Ctrl-C and kill -9 while texts are generated."""
    words = [llama, model, ".", "bbh", "gsm8k-maj", "--samples", "12"]
    _, whole, _ = row(*words)
    for number in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen([sys.executable, os.path.join(HERE, "row.py"), *words, "--out", "cut.results"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        while process.poll() is None and not (os.path.exists("cut.results") and os.path.getsize("cut.results") > 500):
            time.sleep(0.01)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        out, errors = process.communicate()
        check(f"ended by {number.name}", process.returncode in (130, -9) and out == b"" and b"Traceback" not in errors, errors.decode())
        check("with some results", 0 < os.path.getsize("cut.results"))
        deadline = time.monotonic() + 20
        while True:  # its llama may need a moment to end
            code, out, errors = row(*words, "--out", "cut.results")
            if "another run writes it" not in errors or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        check(f"continued after {number.name}", code == 0 and out == whole, out + errors)
        os.remove("cut.results")


def test_programs(llama, model):
    """Solutions in the place of the model's texts: the canonical ones, wrong ones, and a part of the samples."""
    double, root = [question.prompt() for question in TASKS["humaneval-1"].read(".")]
    answers = {double: ["    return 2 * x\n"], root: ["    return math.sqrt(x)\n"]}
    for samples, right, columns in [(4, 2, ["50.0", "0.0", "2"]), (1, 1, ["100.0", "0.0", "2"]), (4, 0, ["0.0", "0.0", "2"])]:
        texts = {prompt: text * right + ["    return None\n"] * (samples - right) for prompt, text in answers.items()}
        stand_in = write_stand_in(llama, texts)
        code, out, errors = row(stand_in, model, ".", "humaneval-1", "--samples", str(samples), "--run-untrusted-code", "--out", "code.results")
        if "filter" in errors:
            print("SKIP: running programs:", errors)
            return
        check(f"{right} of {samples} samples pass", code == 0 and cells(out).get("humaneval-1", [])[:3] == columns, out + errors)
        os.remove("code.results")
    add = [question.prompt() for question in TASKS["mbpp-1"].read(".")]
    stand_in = write_stand_in(llama, {double: ["    return 2 * x\n"] + ["    return 1\n"] * 99, root: ["    return 0\n"],
                                      add[0]: ["def add(x): return x + 11"] + ["x"] * 99, add[1]: ["y"]})
    words = [stand_in, model, ".", "table8", "--samples", "100", "--run-untrusted-code", "--out", "code.results"]
    code, out, errors = row(*words)
    found = {name: cell[:3] for name, cell in cells(out).items() if name}
    check("pass@k with one right sample of 100", found == {"humaneval-1": ["0.5", "0.5", "2"], "humaneval-100": ["50.0", "50.0", "2"],
                                                           "mbpp-1": ["0.5", "0.5", "2"], "mbpp-80": ["40.0", "40.0", "2"]}, out + errors)
    with open("code.results") as stream:
        graded = [json.loads(line) for line in stream if "passed" in line]
    size = os.path.getsize("code.results")
    check("equal programs run once", len(graded) == 6 and sum(each["passed"] for each in graded) == 2, graded)
    code, again, errors = row(*words)
    check("programs do not run again", again == out and os.path.getsize("code.results") == size, again)


def test_lines_instead(llama, model):
    """TASK.jsonl in DATA."""
    item = {"context": "Once upon a", "endings": [" time", " door"], "label": 0}
    write("own/piqa.jsonl", [item, {**item, "label": 1}])
    code, out, errors = row(llama, model, "own", "piqa")
    check("TASK.jsonl", code == 0 and cells(out)["piqa"][:3] == ["50.0", "50.0", "2"], out + errors)
    write("own/piqa.jsonl", [{**item, "label": 2}])
    code, out, errors = row(llama, model, "own", "piqa")
    check("its errors", code == 1 and "own/piqa.jsonl:1: the right ending is not one of the 2" in errors, errors)


def test_too_long(llama, model):
    """What does not fit in the context is wrong, and a note says how many."""
    long = "the king " * 2000
    with replaced({"RACE/test/high/1.txt": json.dumps({"article": long, "questions": ["Who?", "What?"], "options": [["a", "b"]] * 2,
                                                       "answers": ["A", "A"]}), "nq/NQ-open.dev.jsonl": [{"question": long, "answer": ["x"]}]}):
        code, out, errors = row(llama, model, ".", "race-high", "nq-5")
    out = re.sub(r"\s+", " ", out)
    check("too long", code == 0 and "race-high: 2 questions do not fit in the context and count as wrong" in out and
          "nq-5: 1 questions do not fit" in out and "race-high 0.0 0.0 2" in out, out + errors)
