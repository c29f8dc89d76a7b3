r"""exact_match.py: the sets whose answers are generated and compared, as questions, and how texts are graded.

Natural Questions and TriviaQA are asked as in the LLaMA paper (arXiv 2302.13971, appendix A, figure 3) and graded by its
words: an answer ends at "the first line break, final dot or comma". It is right if it equals one of the answers after "we
lowercase generated answers and remove articles, punctuation and duplicate whitespaces". Our reading: it ends at the first
of these, as in lm-evaluation-harness. In TriviaQA punctuation becomes a space, as in its own script.

Of GSM8K and MATH the paper prints neither prompt nor shots. GSM8K is asked with lm-evaluation-harness's words and graded by
the number after "####". MATH is asked with Minerva's words and graded by the rules of the set's authors: two answers are
equal if they are the same text after spellings that mean the same in LaTeX were made one (`latex`).

BIG-bench hard is asked with its authors' three examples. Without the chain of thought each example shows its answer alone.

A set's grader makes of a text the answer that it gives, or None; a question's answer is the set of right ones."""
import collections
import functools
import itertools
import os
import re
import string
from decimal import Decimal

from items import Broken, Question, at, many, one, questions, read_json, read_list, read_whole, take
from multiple_choice import percent

# ---- Tables 4 and 5: closed-book questions ----

PUNCTUATION = string.punctuation + "‘’´`"


def normal(text, gap=""):
    """gap: what takes the place of punctuation."""
    text = text.lower().translate(str.maketrans(dict.fromkeys(PUNCTUATION, gap)))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def first_answer(text, gap=""):
    return normal(re.split("[\n.,]", text.strip())[0], gap)


def nq_item(item):
    """The question, the answer that a shot shows, the right answers."""
    question, answers = take(item, "question").strip(), take(item, "answer", list)
    if not question or not answers:
        raise ValueError("no question or no answer")
    question = question[0].upper() + question[1:] + "?" * (question[-1] != "?")  # published in lower case, without
    return question, answers[0], set(map(normal, answers))


def triviaqa_item(item):
    answer = take(item, "Answer", dict)
    answers = [take(answer, "Value")] + take(answer, "Aliases", list) + take(answer, "NormalizedAliases", list)
    answers += take(answer, "HumanAnswers", list) if "HumanAnswers" in answer else []
    return take(item, "Question"), answers[0], {normal(text, " ") for text in answers}


def with_examples(item, head, form, end):
    """A reader of questions whose shots are the first examples of another file."""
    def make(record):
        question, _, right = item(record)
        return Question(form.format(question), right, head=head)

    def read(records, examples):
        shots = []
        for where, record in examples:
            question, answer, _ = at(where, item, record)
            shots.append(f"{form.format(question)} {answer}{end}")
        for question in questions(records, make):
            question.shots = shots
            yield question

    return read


ask_nq = with_examples(nq_item, "Answer these questions:\n", "Q: {}\nA:", "\n")
ask_triviaqa = with_examples(triviaqa_item, "Answer these questions:\n", "Q: {}\nA:", "\n")


def nq(shots):
    return lambda data: ask_nq(read_json(one(data, "nq/NQ-open.dev.jsonl")), itertools.islice(
        read_json(one(data, "nq/NQ-open.train.jsonl")), shots) if shots else ())


def triviaqa(shots):
    return lambda data: ask_triviaqa(read_list(one(data, "triviaqa/web-dev.json"), "Data"), itertools.islice(
        read_list(one(data, "triviaqa/web-train.json"), "Data"), shots) if shots else ())


# ---- Table 7: mathematics ----


def number(text):
    found = re.search(r"####\s*\$?(-?[0-9,]*\.?[0-9]+)", text)
    return found and Decimal(found[1].replace(",", ""))


def gsm8k_item(item):
    answer = take(item, "answer")
    if number(answer) is None:
        raise ValueError('no number after "####" in "answer"')
    return take(item, "question"), answer, {number(answer)}


ask_gsm8k = with_examples(gsm8k_item, "", "Question: {}\nAnswer:", "\n\n")


def gsm8k(data):
    return ask_gsm8k(read_json(one(data, "gsm8k/test.jsonl")), itertools.islice(read_json(one(data, "gsm8k/train.jsonl")), 8))


def braces(text, at):
    """The text inside the braces that open at `at`, or None."""
    depth = 0
    for i in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[at + 1:i] if i > at else None
    return None


def boxed(text):
    r"""The text in the last \boxed{...} or \fbox{...}; also of \boxed 7."""
    found = list(re.finditer(r"\\f?box(?:ed)?\s*(?=[{\w])", text))
    if not found:
        return None
    end = found[-1].end()
    return braces(text, end) if text[end] == "{" else re.match(r"[^\s$.,]+", text[end:])[0]


# What makes no difference between two answers, by the rules of MATH's authors: spellings, in this order
SPELLINGS = [(re.compile(pattern), new) for pattern, new in [
    (r"\n|\\!|\\left(?![a-z])|\\right(?![a-z])|\^\\circ|\^\{\\circ\}|\\\$|\\?%", ""),
    (r"\\\\", r"\\"),
    (r"\\[td]frac", r"\\frac"),
    (r"\\text\{ .*", ""),  # units on the right
    (r"(^|[ {])\.(?=\d)", r"\g<1>0."),
    (r"^\s*\w{1,2}\s*=(?=[^=]*$)", ""),  # x = 3
    (r"\\sqrt\s*([^{\s\\])", r"\\sqrt{\1}"),
    (r" ", ""),
    (r"\\frac([^{\\])", r"\\frac{\1}"),  # \frac12, \frac1{72}
    (r"(\\frac\{[^{}]*\})([^{])", r"\1{\2}"),
    (r"^0\.5$", r"\\frac{1}{2}"),
    (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}"),
]]


def latex(answer):
    for pattern, new in SPELLINGS:
        answer = pattern.sub(new, answer)
    return answer


def math_answer(text):
    found = re.search(r"[Tt]he final answer is (.*?)\. I hope it is correct", text, re.DOTALL)
    answer = found[1].strip().strip("$") if found else boxed(text)
    return latex(answer) if answer and answer.strip() else None


def math(data):
    """The shots are the first training problems of four subjects."""
    def solved(record):
        answer = boxed(take(record, "solution"))
        if answer is None:
            raise ValueError(r'no \boxed{...} in "solution"')
        text = f"Problem:\n{take(record, 'problem')}\n\nSolution:"
        return text, f"{record['solution']}\nFinal Answer: The final answer is ${answer}$. I hope it is correct.", answer

    shots = []
    for subject in ("algebra", "counting_and_probability", "number_theory", "prealgebra"):
        file = many(data, f"MATH/train/{subject}/*.json")[0]
        text, solution, _ = at(file, solved, read_whole(file))
        shots.append(f"{text}\n{solution}\n\n")
    for file in many(data, "MATH/test/*/*.json"):
        text, _, answer = at(file, solved, read_whole(file))
        yield Question(text, {latex(answer)}, shots=shots, group=os.path.basename(os.path.dirname(file)), where=file)


# ---- BIG-bench hard ----


def chain_answer(text):
    found = re.search(r"the answer is (.*)", text)
    return found and found[1].strip().removesuffix(".")


def direct_answer(text):
    return text.strip().split("\n")[0].strip() or None


def bbh(chain):
    def examples(file):
        with open(file, "rb") as stream:
            text = at(file, stream.read().decode).partition("-----\n")[2].strip()
        head, *shots = text.split("\n\nQ: ")
        if not shots:
            raise Broken(f"{file}: no example")
        for shot in shots:
            question, _, thoughts = shot.partition("\nA: ")
            answer = chain_answer(thoughts)
            if not answer:
                raise Broken(f'{file}: an example without "the answer is"')
            yield head + "\n\n", f"Q: {question}\nA: {thoughts if chain else answer}\n\n"

    def make(item):
        end = "A: Let's think step by step.\n" if chain else "A:"
        return Question(f"Q: {take(item, 'input')}\n{end}", {take(item, "target").strip()})

    def read(data):
        for file in many(data, "bbh/*.json"):
            name = os.path.basename(file).removesuffix(".json")
            heads, shots = zip(*examples(one(data, f"bbh/cot-prompts/{name}.txt")))
            for question in questions(read_list(file, "examples"), make):
                question.head, question.shots, question.group = heads[0], list(shots), name
                yield question

    return read


# ---- Measures: results are (question, texts of its samples; an error if it does not fit) ----


def vote(answers):
    """The answer that most texts give; of several, the one that comes first. Texts without an answer have no vote."""
    counts = collections.Counter(answer for answer in answers if answer is not None)
    return counts.most_common(1)[0][0] if counts else None


def is_right(question, samples, grader):
    return vote([None if "error" in sample else grader(sample["text"]) for sample in samples]) in question.answer


def exact(name, grader):
    """The share of questions whose answer, or whose samples' majority, is right."""
    return lambda results: [(name, *percent([is_right(*pair, grader) for pair in results]))]


def mean_of_groups(name, grader):
    """The mean of the groups' shares, as BIG-bench hard's authors take it."""
    def columns(results):
        groups = collections.defaultdict(list)
        for question, samples in results:
            groups[question.group].append(is_right(question, samples, grader))
        parts = [percent(flags) for flags in groups.values()]
        n = max(len(parts), 1)
        return [(name, sum(value for value, _, _ in parts) / n, sum(error ** 2 for _, error, _ in parts) ** 0.5 / n, len(results))]

    return columns


trivia_answer = functools.partial(first_answer, gap=" ")
