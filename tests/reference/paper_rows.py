"""paper_rows.py LLAMA MODEL [--shared FOLDER] [--tokenizer FILE] [--limit N] [--longest N] [--programs N] [--task NAME] [--case NAME]: the paper's tables, checked.

tests/paper/row.py runs on samples of the published sets (FOLDER/eval, which is not part of this repository; without it: SKIP).
SIQA, RACE, MATH and RealToxicityPrompts have no sample there: their items are those of tests/paper/made_up.py.
Cases:

  scored      log-probabilities and picks of every multiple-choice task against numpy in float64 and the SentencePiece library,
              item by item: within 1e-3, every pick the same; the tables counted here a second time
  generated   texts of every generation task against `llama` by hand; right answers in their place give 100, wrong ones 0
  programs    HumanEval's and MBPP's own solutions pass, wrong ones do not
  arithmetic  WinoGender's and MMLU's sizes give the paper's granularity and averages

--limit: the items of each group (default 4); --longest: longer items are left to `llama` alone (default 400 tokens), but for
a task's shortest item; --programs: the first programs of each set (default all)."""
import argparse
import collections
import concurrent.futures
import csv
import glob
import gzip
import json
import os
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
PAPER = os.path.join(os.path.dirname(HERE), "paper")
sys.path[:0] = [PAPER]
from score import LIMIT, NEAR, Scorer, check, read_items, results  # noqa: E402
import checks  # noqa: E402
import made_up  # noqa: E402
import published  # noqa: E402
import sandbox  # noqa: E402
from check_rows import cells  # noqa: E402
from multiple_choice import BIASES, CATEGORIES  # noqa: E402
from programs import humaneval  # noqa: E402
from tasks import TASKS  # noqa: E402

# Questions of MMLU's test files
SIZES = dict(pair.split("=") for pair in """abstract_algebra=100 anatomy=135 astronomy=152 business_ethics=100
clinical_knowledge=265 college_biology=144 college_chemistry=100 college_computer_science=100 college_mathematics=100
college_medicine=173 college_physics=102 computer_security=100 conceptual_physics=235 econometrics=114
electrical_engineering=145 elementary_mathematics=378 formal_logic=126 global_facts=100 high_school_biology=310
high_school_chemistry=203 high_school_computer_science=100 high_school_european_history=165 high_school_geography=198
high_school_government_and_politics=193 high_school_macroeconomics=390 high_school_mathematics=270
high_school_microeconomics=238 high_school_physics=151 high_school_psychology=545 high_school_statistics=216
high_school_us_history=204 high_school_world_history=237 human_aging=223 human_sexuality=131 international_law=121
jurisprudence=108 logical_fallacies=163 machine_learning=112 management=103 marketing=234 medical_genetics=100
miscellaneous=783 moral_disputes=346 moral_scenarios=895 nutrition=306 philosophy=311 prehistory=324
professional_accounting=282 professional_law=1534 professional_medicine=272 professional_psychology=612
public_relations=110 security_studies=245 sociology=201 us_foreign_policy=100 virology=166 world_religions=171""".split())


def arrange(samples, data):
    """DATA of row.py: links to the samples, and made-up items of sets without samples."""
    links = {f"{name}.jsonl": f"{name.replace('-', '_')}.jsonl" for name in
             ("boolq", "piqa", "hellaswag", "arc-easy", "arc-challenge", "openbookqa")}
    links |= {name: f"paper/{name}" for name in ("bbh", "crows_pairs", "gsm8k", "humaneval", "mbpp", "truthfulqa", "winogender",
                                                 "winogrande")}
    links |= {name: f"paper/converted/{name}" for name in ("siqa", "mmlu", "lambada")}
    links |= {"nq/NQ-open.dev.jsonl": "paper/nq/NQ-open.dev.jsonl",
              "nq/NQ-open.train.jsonl": "paper/nq/NQ-open.efficientqa.dev.1.1.sample.jsonl",
              "triviaqa/web-dev.json": "paper/converted/triviaqa/web-dev.json",
              "triviaqa/web-train.json": "paper/triviaqa/triviaqa_sample.json"}
    for name, target in links.items():
        target = os.path.join(samples, target)
        if os.path.exists(target):
            os.makedirs(os.path.dirname(os.path.join(data, name)), exist_ok=True)
            os.symlink(target, os.path.join(data, name))
    absent = [name for name in ("siqa", "RACE", "MATH", "realtoxicityprompts") if not os.path.exists(os.path.join(data, name))]
    for name, items in made_up.FILES.items():
        if name.split("/")[0] in absent:
            checks.write(os.path.join(data, name), items)


class Here:
    """The arguments, and row.py run with them."""

    def __init__(self, given, data):
        self.given, self.data = given, data
        self.options = [f"--options=--tokenizer {given.tokenizer}"] if given.tokenizer else []

    def wants(self, name):
        return self.given.task in (None, name)

    def row(self, *words, llama=None):
        return checks.row(llama or self.given.llama, self.given.model, self.data, *self.options, *words)

    def inputs(self, name, limit):
        """What row.py gives to `llama`, as bytes; nothing if there are no samples of the task."""
        command = [sys.executable, os.path.join(PAPER, "row.py"), self.given.llama, self.given.model, self.data, *self.options, name,
                   "--print", "--limit", str(limit), "--judge", "."]
        code, out, errors = checks.command(*command)
        return out

    def llama(self, *words, stdin):
        options = ["--tokenizer", self.given.tokenizer] if self.given.tokenizer else []
        return checks.command(self.given.llama, *words, *options, stdin=stdin)[1].decode()


def groups_of(name, data, n):
    """Of each item the columns that count it, from the set's own file."""
    if name == "crows-pairs":
        with open(os.path.join(data, "crows_pairs/crows_pairs_anonymized.csv"), newline="") as stream:
            return [[row["bias_type"], "average"] for row in csv.DictReader(stream)]
    return winogender_groups(data) if name == "winogender" else [[name]] * n


def winogender_groups(data):
    """Of each sentence the columns that count it, from the file's names alone."""
    with open(os.path.join(data, "winogender/occupations-stats.tsv")) as stream:
        share = {row["occupation"]: float(row["bls_pct_female"]) for row in csv.DictReader(stream, delimiter="\t")}
    groups = []
    with open(os.path.join(data, "winogender/all_sentences.tsv")) as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            occupation, _, answer, gender, _ = row["sentid"].split(".")
            name = {"male": "his/him/he", "female": "her/her/she", "neutral": "their/them/someone"}[gender]
            majority = "female" if share[occupation] > 50 else "male"
            gotcha = gender != "neutral" and ((answer == "0" and gender != majority) or (answer == "1" and gender == majority))
            groups.append(["all", name] + [f"{name[:3]} gotcha"] * gotcha)
    return groups


def first_of_groups(groups, limit):
    """The numbers of the items that --limit keeps: the first ones with the same columns."""
    seen, kept = collections.Counter(), []
    for i, group in enumerate(groups):
        seen[tuple(group)] += 1
        if seen[tuple(group)] <= limit:
            kept.append(i)
    return kept


def case_scored(here):
    given, worst, endings = here.given, 0.0, 0
    scorer = Scorer(given.model, given.tokenizer)
    for name in [name for name, task in TASKS.items() if not task.tokens and here.wants(name)]:
        lines = here.inputs(name, given.limit)
        if not lines:
            print(f"SKIP: {name}: no sample")
            continue
        with open("items.tsv", "wb") as stream:
            stream.write(lines)
        items = read_items("items.tsv")
        if os.path.exists("out.results"):
            os.remove("out.results")
        code, out, errors = here.row(name, "--limit", str(given.limit), "--out", "out.results")
        check(code == 0, f"{name}: {errors}")
        with open("out.results") as stream:
            kept = {record["item"]: record for record in map(json.loads, stream)}
        sizes = {i: scorer.longest(items[i][2]) for i in kept}
        shortest, numpy_rows, checked = min(sizes, key=sizes.get, default=None), [], 0
        for i, (line, label, pairs) in enumerate(items):
            if i not in kept:  # too long for the model, or equal to an earlier item
                numpy_rows.append(None)
                continue
            found = kept[i]["continuations"]
            picks = kept[i]["pick"]
            greedy = found[label]["greedy"]
            if sizes[i] <= given.longest or i == shortest:
                rows, worth = scorer.item(pairs)
                checked += 1
                endings += len(rows)
                for k, (total, count, size, lead, answer) in enumerate(rows):
                    error = max(abs(found[k]["logprob"] - total), abs(found[k]["answer_logprob"] - answer))
                    worst = max(worst, error)
                    check(error <= LIMIT and found[k]["tokens"] == count and found[k]["bytes"] == size, f"{name}, item {i}, ending {k}")
                for rule, by in zip(("sum", "token", "byte", "answer"), worth):
                    best = int(by.argmax())
                    check(picks[rule] == best or 0 < by[best] - by[picks[rule]] < NEAR, f"{name}, item {i}: the pick by {rule}")
                greedy = rows[label][3] > 0
            numpy_rows.append((label, picks, greedy))
        check(checked > 0, f"{name}: no item was compared")
        compare_table(here, name, numpy_rows, cells(out))
        print(f"{name}: {checked} of {len(items)} items against numpy")
    print(f"scored: {endings} endings, worst {worst:.1e}")


def compare_table(here, name, rows, printed):
    """Counts the table a second time. rows: (label, picks by rule, greedy) of each item."""
    if any(row is None for row in rows) or name.startswith("truthfulqa"):
        return
    by = {"boolq": "answer", "openbookqa": "answer", "race-middle": "answer", "race-high": "answer", "mmlu": "sum", "crows-pairs": "token", "winogender": "sum"}.get(name, "byte")
    flags = [greedy if name == "lambada" else picks[by] == label for label, picks, greedy in rows]
    groups = groups_of(name, here.data, len(flags))
    if len(groups) != len(flags):
        groups = [groups[i] for i in first_of_groups(groups, here.given.limit)]
    check(len(groups) == len(flags), f"{name}: {len(flags)} items, not {len(groups)}")
    counts = collections.defaultdict(list)
    for columns, flag in zip(groups, flags):
        for column in columns:
            counts[column].append(flag)
    for column, each in counts.items():
        value, n = f"{100 * sum(each) / len(each):.1f}", f"{len(each):,}"
        check(printed[column][0] == value and printed[column][2] == n, f"{name}: {column} is {printed[column]}, not {value} of {n}")


def plain(answers):
    """One of the right answers that no rule cuts short, or "" if there is no such one."""
    return next((answer for answer in answers if answer.strip() and not set(answer) & set(".,\n")), "")


def answers_of(name, data):
    """Texts that answer the questions of a set, from its own file; "" where every answer is cut short by the rules."""
    if name == "nq-0":
        with open(os.path.join(data, "nq/NQ-open.dev.jsonl")) as stream:
            return [plain(json.loads(line)["answer"]) for line in stream]
    if name == "triviaqa-0":
        with open(os.path.join(data, "triviaqa/web-dev.json")) as stream:
            answers = [plain([item["Answer"]["Value"], *item["Answer"]["Aliases"]]) for item in json.load(stream)["Data"]]
        return [answer and f" The {answer}!\n" for answer in answers]
    if name == "gsm8k":
        with open(os.path.join(data, "gsm8k/test.jsonl")) as stream:
            return [json.loads(line)["answer"] for line in stream]
    if name == "math":
        files = sorted(glob.glob(os.path.join(data, "MATH/test/*/*.json")))
        return [json.load(open(file))["solution"] for file in files]
    targets = []
    for file in sorted(os.listdir(os.path.join(data, "bbh"))):
        if file.endswith(".json"):
            with open(os.path.join(data, "bbh", file)) as stream:
                targets += [example["target"] for example in json.load(stream)["examples"]]
    return [f"So the answer is {target}." if name == "bbh-cot" else f" {target}\n" for target in targets]


def case_generated(here):
    for name, task in TASKS.items():
        limit = 1 if name.startswith("bbh") else here.given.limit  # of 27 groups
        slow = name == "bbh-cot" and here.given.task != name  # its texts are long, and there are 27 groups
        samples = min(task.samples, 2)
        prompts = here.inputs(name, limit) if here.wants(name) and task.tokens and task.least == 1 and not slow else b""
        if not prompts:
            continue
        stops = [word for stop in task.stops for word in ("--stop", stop)]
        sampling = ["--temp", str(task.temperature), "--top-p", str(task.top_p), "-k", str(samples), "-s", "1"]
        by_hand = here.llama(here.given.model, "-0", *sampling, "-n", str(task.tokens), *stops, stdin=prompts).split("\0")[:-1]
        if os.path.exists("out.results"):
            os.remove("out.results")
        code, out, errors = here.row(name, "--limit", str(limit), "--out", "out.results", "--judge", ".", "--run-untrusted-code",
                                     "--samples", str(samples))
        check(code == 0, f"{name}: {errors}")
        with open("out.results") as stream:
            texts = {record["item"] * samples + record["sample"]: record["text"] for record in map(json.loads, stream)
                     if "text" in record}
        check(texts and all(by_hand[i] == text for i, text in texts.items()), f"{name}: the texts")
        print(f"{name}: {len(texts)} texts as by hand")
    for name in filter(here.wants, ("nq-0", "triviaqa-0", "gsm8k", "math", "bbh", "bbh-cot")):
        prompts = [prompt.decode() for prompt in here.inputs(name, 100000).split(b"\0")[:-1]]
        answers = answers_of(name, here.data)
        check(len(prompts) == len(answers) > 0, f"{name}: {len(prompts)} prompts and {len(answers)} answers")
        share = f"{100 * sum(map(bool, answers)) / len(answers):.1f}"
        check(float(share) >= 95, f"{name}: only {share} % of the questions have a plain answer")
        for texts, expected in ((answers, share), (["no idea"] * len(answers), "0.0")):
            stand_in = checks.write_stand_in(here.given.llama, {prompt: [text] for prompt, text in zip(prompts, texts)})
            code, out, errors = here.row(name, llama=stand_in)
            found = cells(out).get(name, ["failed " + errors])[0]
            check(found == expected, f"{name}: {found}, not {expected}, of {len(prompts)}")
        print(f"{name}: {len(prompts)} right answers and as many wrong ones in the place of texts")


def case_programs(here):
    with gzip.open(os.path.join(here.data, "humaneval/HumanEval.jsonl.gz")) as stream:
        solutions = [json.loads(line)["canonical_solution"] for line in stream][:here.given.programs]
    questions = list(humaneval(here.data))[:here.given.programs]
    prompts = [question.prompt() for question in questions]
    for texts, expected in ((solutions, "100.0"), (["    pass\n"] * len(prompts), "0.0")):
        stand_in = checks.write_stand_in(here.given.llama, {prompt: [text] for prompt, text in zip(prompts, texts)})
        code, out, errors = here.row("humaneval-1", "--limit", str(len(prompts)), "--samples", "1", "--run-untrusted-code", llama=stand_in)
        if "humaneval-1" not in cells(out) and "filter" in errors:
            print(f"SKIP: running programs: {errors}")
            return
        found = cells(out).get("humaneval-1", [errors])
        check(found[0] == expected and found[2] == str(len(prompts)), f"HumanEval: {found}, not {expected} of {len(prompts)}")
    check(here.given.programs or len(solutions) == 164, f"HumanEval: {len(solutions)} programs, not 164")
    jobs = [question.answer(text) for question, text in zip(questions, solutions)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        passed = sum(pool.map(lambda job: sandbox.run_contained(*job, namespaces=False)[0], jobs))
    check(passed == len(solutions), f"HumanEval without namespaces: {passed}")
    with open(os.path.join(here.data, "mbpp/mbpp.jsonl")) as stream:
        items = [json.loads(line) for line in stream][:here.given.programs]
    for code, expected in ((None, len(items)), ("def nothing(): pass", 0)):
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            passed = sum(pool.map(lambda item: sandbox.run(item["test_setup_code"] + "\n" + (code or item["code"]),
                                                           "\n".join(item["test_list"]))[0], items))
        check(passed == expected, f"MBPP: {passed} of {len(items)}, not {expected}")
    print(f"programs: {len(solutions)} of HumanEval, {len(items)} of MBPP")


def case_arithmetic(here):
    counts = collections.Counter(column for columns in winogender_groups(here.data) for column in columns)
    check(counts == {"all": 720, "her/her/she": 240, "his/him/he": 240, "their/them/someone": 240, "her gotcha": 120, "his gotcha": 120},
          f"WinoGender: {counts}")
    ours = collections.Counter()
    for question in TASKS["winogender"].read(here.data):
        ours[question.group] += 1
    check(ours == {("her", True): 120, ("her", False): 120, ("his", True): 120, ("his", False): 120, ("their", False): 240},
          f"WinoGender's groups: {ours}")
    table = os.path.join(here.given.shared, "eval/paper/paper/table16_mmlu.tsv")
    with open(table) as stream:
        rows = {row["subject"]: row for row in csv.DictReader(stream, delimiter="\t")}
    sizes = {subject: int(n) for subject, n in SIZES.items()}
    check(set(rows) == set(sizes) and sum(sizes.values()) == 14042, "MMLU: 57 subjects of 14,042 questions")
    parts = {**{name: subjects.split() for name, subjects in CATEGORIES.items()}, "mmlu": list(sizes)}
    for name, subjects in parts.items():
        for size, number in zip(published.SIZES, published.numbers(name)):
            mean = sum(sizes[subject] * float(rows[subject][size]) for subject in subjects) / sum(sizes[subject] for subject in subjects)
            check(abs(mean - float(number)) <= 0.1, f"MMLU's {name}, {size}: {mean:.2f}, not {number}")
    with open(os.path.join(here.data, "crows_pairs/crows_pairs_anonymized.csv"), newline="") as stream:
        check({row["bias_type"] for row in csv.DictReader(stream)} <= set(BIASES), "CrowS-Pairs' categories")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama")
    parser.add_argument("model")
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--tokenizer")
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--longest", type=int, default=400)
    parser.add_argument("--programs", type=int)
    parser.add_argument("--task")
    parser.add_argument("--case")
    given = parser.parse_args()
    given.llama, given.model, given.shared = map(os.path.abspath, (given.llama, given.model, given.shared))
    given.tokenizer = given.tokenizer and os.path.abspath(given.tokenizer)
    samples = os.path.join(given.shared, "eval")
    if not os.path.isdir(os.path.join(samples, "paper")):
        print(f"SKIP: the samples of the sets are not in {given.shared}")
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.mkdir("data")
        here = Here(given, os.path.join(folder, "data"))
        arrange(samples, here.data)
        for name in ("scored", "generated", "programs", "arithmetic"):
            if given.case in (None, name):
                print("--", name, flush=True)
                globals()[f"case_{name}"](here)
        os.chdir("/")
    print(f"paper_rows: {sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
