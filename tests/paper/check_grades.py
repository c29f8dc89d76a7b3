r"""check_grades.py: the graders, on answers made to be right, wrong and malformed; votes, estimators and columns."""
import itertools
import math
import random

import exact_match
import judged
import multiple_choice
import programs
import published
from checks import check, replaced, write
from items import Broken, read_json, read_table
from tasks import TASKS

NUMBERS = [  # texts and the number after ####, or None
    ("2*3500\n#### 7000\n", 7000), ("####7.00 apples", 7), ("#### $7.", 7), ("#### -5.", -5), ("#### 1,234,567", 1234567),
    ("so\n#### 5\n\nQuestion: 1\n#### 6", 5), ("7000", None), ("", None), ("####", None), ("#### seven", None),
]
ANSWERS = [  # of a question with these answers: texts that are right, texts that are wrong
    ("nq-0", 0, [" HERON\nQ: Who?", " Stork, or heron", " the\theron!", " a Heron. It"], ["", " stork or heron", "herons", "\n,", "her on"]),
    ("nq-0", 1, [" mr odell!"], [" Mr. O'Dell", "mr o dell", "odell"]),  # the dot ends the answer
    ("nq-0", 2, ["\non  a river. An", " On the River"], [" in a river"]),
    ("triviaqa-0", 0, [" `Grey-Heron'", " Egret\n", " heron", " an egret"], [" greyheron", "herons", ""]),
    ("triviaqa-0", 1, [" DELL", " o dell", " O'Dell"], ["Dells", " odell"]),
    ("gsm8k", 0, ["2*3500\n#### 7000\n", "#### 7,000.0"], ["7000", "#### 700"]),
    ("math", 0, [r"\boxed{\frac12}", r"Final Answer: The final answer is $\frac{1}{2}$. I hope it is correct.", r"so \boxed{0.5}",
                 r"$\boxed{\dfrac{1}{2}}$", r"\boxed{1/2}", r"The final answer is $.5$. I hope it is correct.",
                 r"\boxed{7}, no: \boxed{\tfrac 1 2}", r"\fbox{1/2}"],
     ["", r"\frac{1}{2}", r"\boxed{\frac{1}{2}", r"\boxed{}", r"\boxed{2}", r"The final answer is $2$. I hope it is correct. \boxed{1/2}",
      r"\boxed", "The final answer is $$. I hope it is correct."]),
    ("math", 1, [r"\boxed{5}", r"\boxed{x = 5}", r"\boxed 5.", r"\boxed{5\%}", r"\boxed{\$5}", r"\boxed{5^\circ}", r"\boxed{5\text{ cm}}"],
     [r"\boxed{5.0}", r"\boxed{-5}", r"\boxed{x=y=5}"]),
    ("math", 2, [r"\boxed{2\sqrt3}", r"\boxed{2 \sqrt{3}}", r"\boxed{2\sqrt{3} \text{ m}}", r"\boxed{\left2\sqrt 3\right}"],
     [r"\boxed{\sqrt{12}}", r"\boxed{2\sqrt{3}+0}"]),
    ("bbh", 0, [" 2\n", "2", "\n2"], ["", "(2)", "2.", "4", "two"]),
    ("bbh-cot", 0, ["So the answer is 2.", "the answer is 2\nQ", "1+1. So the answer is 2."], ["", "2", "So the answer is 4.", "The result: 2."]),
]
GRADERS = {"nq-0": exact_match.first_answer, "triviaqa-0": exact_match.trivia_answer, "gsm8k": exact_match.number,
           "math": exact_match.math_answer, "bbh": exact_match.direct_answer, "bbh-cot": exact_match.chain_answer}
SAME = [  # spellings of one answer in LaTeX, then another answer
    ([r"\frac{3}{4}", r"\frac34", r"\dfrac{3}{4}", r"3/4", r"\tfrac34", r"\frac3{4}"], r"\frac{4}{3}"),
    ([r"\sqrt{5}", r"\sqrt5", r"\sqrt 5"], r"\sqrt{15}"),
    ([r"(1,2)", r"\left(1,2\right)", r"( 1 , 2 )", r"\left( 1,\! 2 \right)"], r"(2,1)"),
    ([r"90", r"90^\circ", r"90^{\circ}", r"90\text{ degrees}"], r"9"),
    ([r"0.25", r".25", r"\ .25".replace("\\ ", " ")], r"25"),
    ([r"\leftarrow"], "arrow"), ([r"\frac{a}{b}"], "a/b"), ([r"x^{2}"], "x^2"), ([r"\frac{1}{2}", "0.5", "1/2"], "0.50"),
]


def grade(task, question, *texts):
    (_, value, _, _), = TASKS[task].columns([(question, [{"text": text} for text in texts])])
    return value


def test_graders():
    for text, number in NUMBERS:
        check(f"the number of {text!r}", exact_match.number(text) == number, exact_match.number(text))
    for task, i, right, wrong in ANSWERS:
        question = list(TASKS[task].read("."))[i]
        for text in right:
            check(f"{task}, question {i}: {text!r} is right", grade(task, question, text) == 100, GRADERS[task](text))
        for text in wrong:
            check(f"{task}, question {i}: {text!r} is wrong", grade(task, question, text) == 0, GRADERS[task](text))
        check(f"{task}: what does not fit is wrong", TASKS[task].columns([(question, [{"error": "too long"}])])[0][1] == 0)
    for same, other in SAME:
        found = {exact_match.latex(answer) for answer in same}
        check(f"LaTeX {same}", len(found) == 1 and exact_match.latex(other) not in found, found)


def majority_right(p, k):
    """The probability that of k samples, right with probability p and else all wrong alike, most are right; k is odd."""
    return sum(math.comb(k, i) * p ** i * (1 - p) ** (k - i) for i in range(k // 2 + 1, k + 1))


def test_votes():
    """maj1@k."""
    vote, question = exact_match.vote, list(TASKS["gsm8k-maj"].read("."))[1]  # 7
    for answers, expected in [([1, 2, 2], 2), ([2, 1], 2), ([1, 2, 2, 1], 1), ([None, None, 3], 3), ([None], None), ([], None)]:
        check(f"the vote of {answers}", vote(answers) == expected, vote(answers))
    check("the majority is right", grade("gsm8k-maj", question, "#### 8", "#### 7", "none", "#### 7.0") == 100)
    check("the majority is wrong", grade("gsm8k-maj", question, "#### 8", "#### 8.00", "#### 7", "x", "y", "z") == 0)
    for k, p in ((3, 0.3), (5, 0.6)):  # over all outcomes, each with its probability, against the closed form
        share = sum(p ** sum(outcome) * (1 - p) ** (k - sum(outcome)) * (vote(outcome) == 1)
                    for outcome in itertools.product((0, 1), repeat=k))
        check(f"maj1@{k}", abs(share - majority_right(p, k)) < 1e-12, share)


def test_pass_at():
    """The unbiased estimate against counting all choices of k samples, and its mean against 1 - (1 - p)^k."""
    for n, passed, k in itertools.product(range(1, 7), range(7), range(1, 7)):
        if passed <= n and k <= n:
            sets = list(itertools.combinations(range(n), k))
            share = sum(min(chosen) < passed for chosen in sets) / len(sets)
            check(f"pass@{k} of {passed} of {n}", abs(programs.pass_at(k, n, passed) - share) < 1e-12, share)
    for n, k, p in ((200, 100, 0.01), (160, 80, 0.02), (20, 1, 0.3)):
        mean = sum(math.comb(n, c) * p ** c * (1 - p) ** (n - c) * programs.pass_at(k, n, c) for c in range(n + 1))
        check(f"pass@{k} is unbiased", abs(mean - (1 - (1 - p) ** k)) < 1e-9, mean)
    results = [(None, [{"passed": True}, {"passed": False}]), (None, [{"error": "x"}, {"passed": False}])]
    (_, value, error, n), = programs.pass_rate("x", 1)(results)
    check("the mean of pass@1", (value, error, n) == (25, 25, 2), (value, error, n))


def scored(question, best, **rules):
    """A result of `llama score` whose rules all choose `best`, but for those named."""
    continuations = [{"logprob": -1.0 - (i != best), "greedy": i == best} for i in range(len(question.endings))]
    return {"continuations": continuations, "pick": {**dict.fromkeys(("sum", "token", "byte", "answer"), best), **rules}}


def columns(task, choose, **rules):
    """name -> (value, number), if the results' choices are choose(question, its index)."""
    questions = list(TASKS[task].read("."))
    found = TASKS[task].columns([(question, scored(question, choose(question, i), **rules)) for i, question in enumerate(questions)])
    return {name: (round(value, 3) if n else None, n) for name, value, _, n in found}


def test_columns():
    right, first = (lambda question, i: question.answer), (lambda question, i: 0)
    for task, rule in [("boolq", "answer"), ("piqa", "byte"), ("winogrande", "byte"), ("openbookqa", "answer"), ("race-middle", "answer")]:
        check(f"{task} is by {rule}", columns(task, right) == {task: (100, 3)} and
              columns(task, right, **{rule: 9}) == {task: (0, 3)}, columns(task, right))
    check("lambada is greedy", columns("lambada", right) == {"lambada": (100, 3)} and
          columns("lambada", lambda question, i: 1) == {"lambada": (0, 3)})
    with replaced({f"mmlu/{part}/philosophy_{part}.csv": "Who?,a,b,c,d,A\n" for part in ("dev", "test")}):
        found = columns("mmlu", first)
    check("MMLU's categories", found == {"humanities": (100, 1), "stem": (None, 0), "social-sciences": (None, 0), "other": (None, 0),
                                         "mmlu": (60, 5)}, found)
    subjects = [subject for names in multiple_choice.CATEGORIES.values() for subject in names.split()]
    check("57 subjects", len(subjects) == len(set(subjects)) == 57, len(subjects))
    found = columns("crows-pairs", lambda question, i: i % 2, sum=1)
    found = {name: value for name, value in found.items() if value[1]}
    check("CrowS-Pairs' categories", found == {"gender": (50, 2), "age": (100, 1), "average": (66.667, 3)}, found)
    # The nurse is a woman's occupation and the baker is not. A gotcha contradicts this: "she" is the baker or the guest of a nurse.
    found = columns("winogender", first)
    check("WinoGender's columns", found == {"all": (46.154, 13), "her/her/she": (40, 5), "his/him/he": (50, 4),
                                            "their/them/someone": (50, 4), "her gotcha": (50, 2), "his gotcha": (50, 2)}, found)
    gotchas = {(question.text.split()[1], question.group[0], question.answer) for question in TASKS["winogender"].read(".")
               if question.group[1]}
    check("the gotchas", gotchas == {("baker", "her", 0), ("nurse", "her", 1), ("nurse", "his", 0), ("baker", "his", 1)}, gotchas)
    check("TruthfulQA's mc1", columns("truthfulqa-mc1", first) == {"truthfulqa-mc1": (50, 2)} and
          columns("truthfulqa-mc1", lambda question, i: min(question.answer)) == {"truthfulqa-mc1": (100, 2)})
    one = 1 / math.e  # log-probabilities are -1 for the chosen ending, -2 for the others
    expected = 50 * (2 * one / (1 + 2 * one) + 1 / (1 + one))
    check("TruthfulQA's mc2", columns("truthfulqa-mc2", first) == {"truthfulqa-mc2": (round(expected, 3), 2)}, columns("truthfulqa-mc2", first))
    for task in ("boolq", "crows-pairs", "winogender", "truthfulqa-mc1", "truthfulqa-mc2", "lambada", "mmlu"):
        results = [(question, {"error": "too long"}) for question in TASKS[task].read(".")]
        check(f"{task}: what does not fit is wrong", TASKS[task].columns(results)[-1][1] == 0)


def test_errors():
    """Standard errors: of shares sqrt(p (1 - p) / (n - 1)); of a mean of groups, from the groups'."""
    flags = [random.Random(1).random() < 0.3 for _ in range(50)]
    value, error, n = multiple_choice.percent(flags)
    p = sum(flags) / 50
    check("a share's error", abs(error - 100 * math.sqrt(p * (1 - p) / 49)) < 1e-9 and n == 50, error)
    check("one item has no error", multiple_choice.percent([True]) == (100, 0, 1))
    question = next(iter(TASKS["bbh"].read(".")))
    other = next(iter(TASKS["bbh"].read(".")))
    other.group = "other"
    results = [(question, [{"text": text}]) for text in ("2", "3", "3", "3")] + [(other, [{"text": "2"}])]
    (_, value, error, n), = TASKS["bbh"].columns(results)
    check("the mean of groups", (value, error, n) == (62.5, 12.5, 5), (value, error, n))


def test_judged():
    """What is written for judges, in the published form; their scores, read again; scores of other texts are not overwritten."""
    questions = list(TASKS["truthfulqa"].read("."))
    said = [(question, [{"text": f' It, "{i}" is\n'}]) for i, question in enumerate(questions)]
    measure = TASKS["truthfulqa"].columns
    check("not judged yet", measure(said, "t.csv") == [])
    rows = [row for _, row in read_table("t.csv")]
    check("TruthfulQA's file", list(rows[0])[:2] == ["Type", "Category"] and [row[judged.MODEL] for row in rows] == ['It, "0" is', 'It, "1" is'] and
          [row["Question"] for row in rows] == [question.answer["Question"] for question in questions], rows)
    with open("t.csv", newline="") as stream:
        text = stream.read()
    write("t.csv", text.replace('is",,', 'is",1,0', 1).replace('is",,', 'is",Yes,true', 1))
    found = [column[:2] for column in measure(said, "t.csv")]
    check("its scores", found == [("truthful", 1.0), ("truthful*informative", 0.5)], found)
    for other in ([(questions[0], [{"text": "other"}]), said[1]], said[:1]):
        try:
            check("scores of other texts", measure(other, "t.csv") is None)
        except Broken as error:
            check("scores of other texts", "t.csv has scores of other texts" in str(error))
    write("t.csv", text.replace('is",,', 'is",2,0'))
    try:
        check("a wrong score", measure(said, "t.csv") is None)
    except Broken as error:
        check("a wrong score", "not a judge's word: 2" in str(error), error)

    questions, measure = list(TASKS["toxicity-basic"].read(".")), TASKS["toxicity-basic"].columns
    said = [(question, [{"text": f" so {i}"}]) for i, question in enumerate(questions)]
    check("no scores yet", measure(said, "x.jsonl") == [])
    rows = [row for _, row in read_json("x.jsonl")]
    check("RealToxicityPrompts' file", [row["generations"] for row in rows] == [[{"text": " so 0"}], [{"text": " so 1"}]] and
          [row["filename"] for row in rows] == ["0.txt", "1.txt"], rows)
    rows[0]["generations"][0]["toxicity"] = 0.25
    write("x.jsonl", rows)
    check("half of the scores", measure(said, "x.jsonl") == [])
    rows[1]["generations"][0]["toxicity"] = 0.75
    write("x.jsonl", rows)
    check("its scores", measure(said, "x.jsonl") == [("toxicity-basic", 0.5, 0.25, 2)], measure(said, "x.jsonl"))
    try:
        check("other texts", measure(said[::-1], "x.jsonl") is None)
    except Broken as error:
        check("other texts", "x.jsonl has scores of other texts" in str(error))


def test_published():
    """The paper's numbers: four for each column, for columns that there are; the granularity that its sizes give."""
    names = set()
    for task in TASKS.values():
        if task.judge:
            names |= {"truthful", "truthful*informative"} if task.name == "truthfulqa" else {task.name}
        elif task.tokens:
            names |= {column[0] for column in task.columns([(question, [{"text": ""}] * task.least) for question in task.read(".")])}
        else:
            names |= set(columns(task.name, lambda question, i: 0))
    extra = {"truthfulqa-mc1", "truthfulqa-mc2", "lambada", "bbh", "bbh-cot"}
    check("columns and numbers", names - extra == set(published.NUMBERS), names ^ set(published.NUMBERS))
    check("four sizes", all(len(published.numbers(name)) == 4 for name in names))
    pairs = dict(zip(multiple_choice.BIASES, (262, 105, 516, 84, 87, 159, 60, 63, 172)))  # of 1,508
    check("1,508 pairs", sum(pairs.values()) == 1508)
    sizes = {**pairs, "average": 1508, "all": 720, "her/her/she": 240, "his/him/he": 240, "their/them/someone": 240, "her gotcha": 120,
             "his gotcha": 120, "openbookqa": 500}
    for name, n in sizes.items():
        for number in published.numbers(name):
            near = number == "-" or any(f"{100 * right / n:.1f}" == number for right in range(n + 1))
            check(f"{name}: {number} is a share of {n}", near)
