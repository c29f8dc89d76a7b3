"""exact_match.py SET prompts FILE [--shots N FILE] | grade FILE: questions answered greedily, and the answers compared.

    python3 exact_match.py gsm8k prompts test.jsonl --shots 8 train.jsonl > gsm8k.prompts
    llama LLaMA/7B -0 -f gsm8k.prompts --json --temp 0 -n 256 --stop Question: > gsm8k.results
    python3 exact_match.py gsm8k grade test.jsonl < gsm8k.results

    SET       FILE                      items   home                                            -n    --stop
    nq        NQ-open.dev.jsonl         3,610   github.com/google-research-datasets/            64    a newline
                                                natural-questions (nq_open)
    triviaqa  web-dev.json                      nlp.cs.washington.edu/triviaqa                  64    a newline
                                                (triviaqa-rc.tar.gz, qa)
    gsm8k     test.jsonl, train.jsonl   1,319   github.com/openai/grade-school-math             256   Question:

`prompts` writes the prompts, a NUL behind each; --shots puts the first N items of a FILE of the same form in front of
each (the paper's tables: 0, 1, 5, 64; without: 0). `grade` reads what --json made of all or the first of them, and
prints, between tabs: accuracy, exact, the share that is right, its standard error, right, of how many.

Natural Questions and TriviaQA are asked as in the LLaMA paper (arXiv 2302.13971, appendix A: figure 3), and graded by
its words: the answer ends at "the first line break, final dot or comma", and is right if it is one of the answers after
"we lowercase generated answers and remove articles, punctuation and duplicate whitespaces". Our reading: it ends at the
first of these, as in lm-evaluation-harness; of TriviaQA punctuation becomes a space, as in its own script. Its
"filtered dev set" is the reading comprehension set's, whose half from the web is meant here (wikipedia-dev.json has the
same form). Which shots the paper took it does not say.

Of GSM8K the paper prints neither prompt nor shots. Our reading is lm-evaluation-harness's prompt, with the worked
answers as published, of eight shots (where it takes five); right if the number behind "####" is equal.
"""
import itertools
import json
import re
import string
import sys
from decimal import Decimal

sys.dont_write_bytecode = True
from multiple_choice import Broken, at, guarded, parser, read_json, take, write  # noqa: E402

PUNCTUATION = string.punctuation + "‘’´`"


def number(text):
    found = re.search(r"####\s*\$?(-?[0-9,]*\.?[0-9]+)", text)
    return found and Decimal(found[1].replace(",", ""))


def normal(text, gap=""):
    """gap: what takes the place of punctuation."""
    text = text.lower().translate(str.maketrans(dict.fromkeys(PUNCTUATION, gap)))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def first_answer(text, gap=""):
    return normal(re.split("[\n.,]", text.strip())[0], gap)


def read_document(file):
    with open(file, "rb") as stream:
        document = at(file, lambda: json.loads(stream.read().decode()))
    for i, item in enumerate(at(file, take, document, "Data", list, dict)):
        yield f"{file}: Data[{i}]", item


# Each set's item: the question, the answer a shot shows, the answers that are right.


def gsm8k(item):
    answer = take(item, "answer")
    if number(answer) is None:
        raise ValueError('no number behind "####" in "answer"')
    return take(item, "question"), answer, {number(answer)}


def nq(item):
    question, answers = take(item, "question").strip(), take(item, "answer", list)
    if not question or not answers:
        raise ValueError("no question or no answer")
    question = question[0].upper() + question[1:] + "?" * (question[-1] != "?")  # published in lower case, without
    return question, answers[0], set(map(normal, answers))


def triviaqa(item):
    answer = take(item, "Answer", dict)
    answers = [take(answer, "Value")] + take(answer, "Aliases", list) + take(answer, "NormalizedAliases", list)
    answers += take(answer, "HumanAnswers", list) if "HumanAnswers" in answer else []
    return take(item, "Question"), answers[0], {normal(text, " ") for text in answers}


SETS = {  # how a file is read, what an item is, what a text answers; head, question, what ends a shot
    "nq": (read_json, nq, first_answer, "Answer these questions:\n", "Q: {}\nA:", "\n"),
    "triviaqa": (read_document, triviaqa, lambda text: first_answer(text, " "), "Answer these questions:\n", "Q: {}\nA:", "\n"),
    "gsm8k": (read_json, gsm8k, number, "", "Question: {}\nAnswer:", "\n\n"),
}


def questions(name, file):
    read, item, *_ = SETS[name]
    return ((where, *at(where, item, record)) for where, record in read(file))


def prompts(name, file, shots=(0, None)):
    """The prompts, as bytes, one by one."""
    *_, head, form, end = SETS[name]
    n, source = shots
    for _, question, answer, _ in itertools.islice(questions(name, source), n) if n else ():
        head += f"{form.format(question)} {answer}{end}"
    for where, question, _, _ in questions(name, file):
        prompt = at(where, (head + form.format(question)).encode)
        if b"\0" in prompt:
            raise Broken(f"{where}: a NUL in the prompt")
        yield prompt + b"\0"


def grade(name, file, results):
    """The line of the accuracy; results: (where, an object of `llama --json`) of each."""
    answers = [right for *_, right in questions(name, file)]
    right = n = 0
    for where, result in results:
        i, text = at(where, take, result, "prompt", int), at(where, take, result, "text")
        if not 0 <= i < len(answers):
            raise Broken(f"{where}: there is no prompt {i} in {file}")
        right += SETS[name][2](text) in answers[i]
        n += 1
    if n == 0:
        raise Broken("no results to grade")
    error = (right / n * (1 - right / n) / (n - 1)) ** 0.5 if n > 1 else 0
    return f"accuracy\texact\t{right / n:.4f}\t{error:.4f}\t{right}\t{n}"


def main():
    options = parser(__doc__)
    options.add_argument("set", choices=SETS)
    options.add_argument("half", choices=("prompts", "grade"))
    options.add_argument("file")
    options.add_argument("--shots", nargs=2, metavar=("N", "FILE"), default=("0", None))
    given = options.parse_args()
    if not given.shots[0].isdecimal():
        options.error("--shots: how many?")
    if given.half == "grade":
        return print(grade(given.set, given.file, read_json("-")))
    return write(prompts(given.set, given.file, (int(given.shots[0]), given.shots[1])))


if __name__ == "__main__":
    guarded(main)
