"""items.py: how the published files are read, and what a question is.

Every complaint about a file is one line: FILE:LINE: what is wrong."""
import csv
import dataclasses
import gzip
import itertools
import json
import pathlib


class Broken(Exception):
    """What is wrong, for stderr."""


class Absent(Exception):
    """A file that is not in DATA."""


@dataclasses.dataclass
class Question:
    """A prompt is the head, as many shots as fit, and the text. A task uses either endings or an answer of its own."""
    text: str
    answer: object  # the number of the right ending, or what the task's grader needs
    endings: tuple = ()  # of multiple choice: a text, or (text that ends the context, text that is scored)
    head: str = ""
    shots: list = ()
    group: str = ""  # a subject or category
    where: str = ""  # FILE:LINE

    def prompt(self, shots=None):
        return self.head + "".join(self.shots[:shots]) + self.text


def at(where, function, *arguments):
    """function(*arguments); an error in it is reported as one of the line `where`."""
    try:
        return function(*arguments)
    except json.JSONDecodeError as error:
        raise Broken(f"{where}: not JSON: {error.msg}") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise Broken(f"{where}: {error}") from None


def take(record, name, kind=str, of=str):
    """record[name], if it has this type."""
    value = record.get(name) if isinstance(record, dict) else None
    if type(value) is not kind or kind is list and not all(type(element) is of for element in value):
        raise ValueError(f'no "{name}" that is a {kind.__name__}' + f" of {of.__name__}" * (kind is list))
    return value


def one(data, name):
    """The path of a file in DATA."""
    path = pathlib.Path(data) / name
    if not path.exists():
        raise Absent(str(path))
    return str(path)


def many(data, pattern):
    """The paths of the files that fit a pattern, by name and by number: 2.txt comes before 10.txt."""
    def order(path):
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part)
                for part in (*path.parts[:-1], *path.name.split("."))]

    paths = sorted(pathlib.Path(data).glob(pattern), key=order)
    if not paths:
        raise Absent(str(pathlib.Path(data) / pattern))
    return list(map(str, paths))


# The readers yield ("FILE:LINE", record).


def lines(file):
    opened = gzip.open if file.endswith(".gz") else open
    with opened(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            yield f"{file}:{number}", at(f"{file}:{number}", line.decode)


def read_json(file):
    """A JSON value on each line."""
    for where, text in lines(file):
        if text.strip():
            yield where, at(where, json.loads, text)


def read_whole(file):
    """One JSON value."""
    with open(file, "rb") as stream:
        return at(file, lambda: json.loads(stream.read().decode("utf-8-sig")))


def read_list(file, name=None):
    """A JSON list of objects: the whole file, or what its object has under a name."""
    value = read_whole(file)
    if name is None:
        name, value = "", {"": value}
    for i, item in enumerate(at(file, take, value, name, list, dict)):
        yield f"{file}: {name}[{i}]", item


def read_labelled(file, labels):
    """JSON lines, and the file of their labels: ("FILE:LINE", record, label)."""
    numbers = ((where, text) for where, text in lines(labels) if text.strip())
    for item, label in itertools.zip_longest(read_json(file), numbers):
        if not item or not label:
            raise Broken(f"{item[0]}: no label in {labels}" if item else f"{label[0]}: no item in {file}")
        yield (*item, at(label[0], int, label[1].strip()))


def read_csv(file):
    """Lists of fields."""
    rows = csv.reader(text.removeprefix("\ufeff") for _, text in lines(file))
    where = f"{file}:1"
    while (row := at(where, next, rows, None)) is not None:
        if row:
            yield where, row
        where = f"{file}:{rows.line_num + 1}"


def read_table(file, separator=","):
    """Objects; the first row has their keys."""
    rows = read_csv(file) if separator == "," else ((where, text.rstrip("\r\n").split(separator)) for where, text in lines(file))
    keys = None
    for where, row in rows:
        if keys is None:
            keys = row
        elif len(row) != len(keys):
            raise Broken(f"{where}: {len(row)} fields, not {len(keys)}")
        else:
            yield where, dict(zip(keys, row))


def questions(records, make):
    """A question of each record."""
    for where, *parts in records:
        question = at(where, make, *parts)
        question.where = where
        yield question
