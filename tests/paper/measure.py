"""measure.py: a task with a model: its questions with as many shots as fit, its results, its columns."""
import collections
import concurrent.futures
import os

import sandbox
from items import Broken, at
from llama import SEQUENCES, key_of, passes_time
from multiple_choice import neutral, score_line

SECONDS_OF_A_PROGRAM = 0.1


def first_of_groups(questions, limit):
    """The first questions of each group."""
    seen = collections.Counter()
    for question in questions:
        seen[str(question.group)] += 1
        if limit is None or seen[str(question.group)] <= limit:
            yield question


def read(task, data):
    own = os.path.join(data, f"{task.name}.jsonl")
    return neutral(own) if task.neutral and os.path.exists(own) else task.read(data)


def prompt_bytes(task, question):
    """The prompt as `llama` reads it; for multiple choice with the longest ending, to be counted."""
    text = question.prompt()
    if not task.tokens:
        text += max(("".join(ending) for ending in question.endings), key=len, default="")
    data = text.encode()
    if b"\0" in data:
        raise ValueError("a NUL in the prompt")
    return data


def fit(task, questions, llama):
    """Leaves out shots, the last ones first, until each question fits. Returns the tokens of each, None if it is too long."""
    counts = [None] * len(questions)
    room = llama.context - task.tokens
    todo = list(range(len(questions)))
    while todo:
        counted = llama.count([at(questions[i].where, prompt_bytes, task, questions[i]) for i in todo])
        for i, count in zip(todo, counted):
            counts[i] = count
        todo = [i for i in todo if (counts[i] is None or counts[i] > room) and questions[i].shots]
        for i in todo:
            questions[i].shots = questions[i].shots[:-1]
    return counts


class Run:
    """A task's questions, their results, and its columns."""

    def __init__(self, task, llama, given):
        self.task, self.samples = task, given.samples if given.samples and task.samples > 1 else task.samples
        if self.samples < task.least:
            raise Broken(f"{task.name} needs --samples {task.least} or more")
        self.path = task.judge and os.path.join(given.judge, f"{task.name}.{task.judge}")
        self.questions = list(first_of_groups(read(task, given.data), given.limit))
        if not self.questions:
            raise Broken("no items in its files")
        all_shots = [len(question.shots) for question in self.questions]
        self.counts = fit(task, self.questions, llama)
        self.fewer = sum(len(question.shots) < n for question, n in zip(self.questions, all_shots))
        self.columns, self.too_long = [], 0

    def remaining(self, llama, records):
        """(items that are not known, tokens of their prompts, texts to be generated)."""
        if self.task.tokens:
            keys = llama.text_keys(self.task, self.inputs(), self.samples)
        else:
            keys = [[key] for key in llama.item_keys(self.inputs())]
        missing = [sum(key not in records.known for key in row) for row in keys]
        return (sum(map(bool, missing)), sum(count or 0 for count, n in zip(self.counts, missing) if n), sum(missing))

    def seconds(self, speed, tokens, texts):
        """An estimate; texts that end early take less."""
        seconds = passes_time(speed, tokens, 256)
        if self.task.tokens and texts:
            seconds += passes_time(speed, texts * self.task.tokens, min(SEQUENCES, texts))
        return seconds + self.task.runs_programs * texts * SECONDS_OF_A_PROGRAM / (os.cpu_count() or 1)

    def inputs(self):
        """What `llama` reads: lines of score, or prompts."""
        make = (lambda question: question.prompt().encode()) if self.task.tokens else score_line
        return [at(question.where, make, question) for question in self.questions]

    def measure(self, llama, records):
        if self.task.tokens:
            results = llama.generate(self.task, self.inputs(), self.counts, self.samples, records)
            self.too_long = sum("error" in samples[0] for samples in results)
            if self.task.runs_programs:
                results = grade(self.task, self.questions, results, records)
        else:
            results = llama.score(self.task.name, self.inputs(), records)
            self.too_long = sum("error" in result for result in results)
        pairs = list(zip(self.questions, results))
        self.columns = self.task.columns(pairs, self.path) if self.task.judge else self.task.columns(pairs)

    def notes(self):
        notes = [self.task.protocol]
        if self.samples > 1:
            notes.append(f"{self.samples} samples of each")
        if self.fewer:
            notes.append(f"{self.fewer} questions with fewer examples, to fit in the context")
        if self.too_long:
            notes.append(f"{self.too_long} questions do not fit in the context and count as wrong")
        if self.task.judge and not self.columns:
            notes.append(f"the texts are in {self.path}, not judged yet")
        return notes


def grade(task, questions, results, records):
    """The results with "passed", from running each program with its tests. Equal programs run once."""
    jobs = {}  # key -> (program, tests)
    keys = []
    for question, samples in zip(questions, results):
        programs = [None if "error" in sample else question.answer(sample["text"]) for sample in samples]
        keys.append([program and key_of("program", *program) for program in programs])
        jobs.update((key, program) for key, program in zip(keys[-1], programs) if key and key not in records.known)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            for key, (passed, why) in zip(jobs, pool.map(lambda job: sandbox.run(*job), jobs.values())):
                records.add(key, {"task": task.name}, {"passed": passed, "why": why})
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [[{**sample, "passed": records.known[key]["passed"]} if key else sample for key, sample in zip(row, samples)]
            for row, samples in zip(keys, results)]
