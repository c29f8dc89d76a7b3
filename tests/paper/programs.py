"""programs.py: HumanEval and MBPP, as questions whose answers are programs, and pass@k.

HumanEval's prompt is the file's, as it is. MBPP is asked with three examples (tasks 2, 3 and 4) in the words of its authors.
A question's answer is a function that makes of a generated text (program, tests): a text passes if the program runs, and
then the tests, without an exception. sandbox.py runs them."""
import math

from items import Question, one, questions, read_json, take
from multiple_choice import percent

STOPS = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]  # of HumanEval: the function has ended


def humaneval(data):
    def make(item):
        prompt, tests, name = (take(item, key) for key in ("prompt", "test", "entry_point"))
        return Question(prompt, lambda text: (prompt + text, f"{tests}\ncheck({name})\n"))

    return questions(read_json(one(data, "humaneval/HumanEval.jsonl.gz")), make)


def mbpp(data):
    def make(item):
        tests = "\n".join(take(item, "test_list", list))
        setup = take(item, "test_setup_code") + "\n"
        text = f"You are an expert Python programmer, and here is your task: {take(item, 'text')} Your code should pass " \
               f"these tests:\n\n{tests}\n[BEGIN]\n"
        return Question(text, lambda code: (setup + code, tests), group=f"mbpp/{take(item, 'task_id', int)}")

    records = list(read_json(one(data, "mbpp/mbpp.jsonl")))
    shots = [question.text + take(item, "code").replace("\r\n", "\n") + "\n[DONE]\n\n"
             for question, (_, item) in zip(questions(records, make), records) if take(item, "task_id", int) in (2, 3, 4)]
    for question, (_, item) in zip(questions(records, make), records):
        if 11 <= item["task_id"] <= 510:  # the test split
            question.shots, question.group = shots, ""
            yield question


def pass_at(k, n, passed):
    """The unbiased estimate, from n samples, of the probability that at least one of k passes."""
    return 1 - math.comb(n - passed, k) / math.comb(n, k)


def pass_rate(name, k):
    """The mean of the questions' pass@k. A sample that was not graded counts as wrong."""
    return lambda results: [(name, *percent([pass_at(k, len(samples), sum(sample.get("passed", False) for sample in samples))
                                             for _, samples in results]))]
