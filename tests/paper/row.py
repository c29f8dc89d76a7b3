"""row.py LLAMA MODEL DATA TASK... [options] | --list: measures rows of the LLaMA paper's tables beside the paper's numbers.

    python3 row.py ./llama LLaMA/7B DATA table3 --out 7B.results --plot 7B.svg
    python3 row.py --list                       every task: its table, examples, items, files in DATA, licence, home

LLAMA is the command. DATA is a folder with the published files; a task of tables 3 and 6 may have TASK.jsonl instead, with a line for each item:
{"context": "...", "endings": ["...", ...], "label": 0}. A TASK is a name of --list or a table (table3); without
one, everything that DATA has is measured. Each table that is printed has for each column: the measured value, its standard
error, the number of items, the paper's numbers of four sizes; then what the paper does not say and what was chosen.

An estimate of the time comes first. With --out, all results are kept in a file as soon as they are there: the same command
continues where it was stopped. Results are the same for any number of threads and with or without --draft.

Tasks of table 8 run programs that the model wrote: only with --run-untrusted-code, and contained (sandbox.py). Tasks that a
judge decides write their texts to a file in the folder --judge; when scores are filled in there, the table has them.

Exit code 1: a task failed, or its data or an option that it needs is absent."""
import argparse
import collections
import math
import os
import signal
import sys
import textwrap

sys.dont_write_bytecode = True
import plot  # noqa: E402
import published  # noqa: E402
import sandbox  # noqa: E402
from items import Absent, Broken  # noqa: E402
from llama import Llama, Records  # noqa: E402
from measure import Run  # noqa: E402
from tasks import TASKS  # noqa: E402


def say(*words):
    print(*words, file=sys.stderr, flush=True)


# ---- Printing ----


def print_list():
    for table, (title, _, _) in published.TABLES.items():
        print(f"{'Table ' + table if table != '-' else 'Others'}: {title}")
        for task in TASKS.values():
            if task.table == table:
                print(f"  {task.name:20} {task.shots:>2} shots {task.items:6,} items  {task.files}")
                print(f"  {'':20} {task.licence}; {task.home}")


def duration(seconds):
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def print_estimates(runs, llama, records):
    """The time of what is not known yet."""
    speed, total = llama.speed(), 0
    say("Estimate of what is still to be done (less if texts end early):")
    for run in runs:
        items, tokens, texts = run.remaining(llama, records)
        total += (seconds := run.seconds(speed, tokens, texts))
        say(f"  {run.task.name:20} {items:6,} of {len(run.questions):6,} items  {tokens:11,} tokens of prompts  {duration(seconds)}")
    say(f"  {'in all':20} {duration(total)}")


def columns_of(table, runs):
    """(column, value, error, number, the paper's numbers) of a table; the value is None if no judge has decided."""
    rows = []
    for run in runs:
        if run.task.table == table:
            columns = run.columns or [(name, None, None, len(run.questions)) for name in without_judge(run.task)]
            rows += [(*column, published.numbers(column[0])) for column in columns]
    return rows


def without_judge(task):
    return ["truthful", "truthful*informative"] if task.name == "truthfulqa" else [task.name]


def print_table(table, rows, notes):
    title, unit, digits = published.TABLES[table]
    print(f"\n{'Table ' + table + ': ' if table != '-' else ''}{title} ({unit})")
    lines = [["", "measured", "+/-", "items", *published.SIZES]]
    for name, value, error, n, paper in rows:
        known = value is not None and not math.isnan(value)
        lines.append([name, *([f"{value:.{digits}f}", f"{error:.{digits}f}"] if known else ["-", "-"]), f"{n:,}", *paper])
    widths = [max(map(len, column)) for column in zip(*lines)]
    for first, *rest in lines:
        print(first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:])), sep="  ")
    for names, note in notes:
        print(textwrap.fill(f"{names}: {note}", 100, initial_indent="  ", subsequent_indent="    ",
                            break_on_hyphens=False))


def notes_of(table, runs):
    """Notes of a table's tasks; those that several tasks share come once."""
    notes = collections.defaultdict(list)
    for run in runs:
        if run.task.table == table:
            for note in run.notes():
                notes[note].append(run.task.name)
    return [(", ".join(names), note) for note, names in notes.items()]


def print_tables(runs):
    for table in published.TABLES:
        rows = columns_of(table, runs)
        if rows:
            print_table(table, rows, notes_of(table, runs))


def draw(path, model, runs):
    tables = []
    for table, (title, unit, _) in published.TABLES.items():
        rows = columns_of(table, runs)
        if not rows:
            continue
        columns = [(name, None if value is None or math.isnan(value) else value, error,
                    [None if number == "-" else float(number) for number in paper]) for name, value, error, _, paper in rows]
        most = 100 if unit == "percent" else 0.2 if table == "11" else 1
        tables.append((f"{'Table ' + table + ': ' if table != '-' else ''}{title} ({unit})", most, columns))
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(plot.draw(f"{model} and the LLaMA paper", tables, published.SIZES))


# ---- The command ----


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, usage=__doc__.partition(": ")[0],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama", metavar="LLAMA", nargs="?")
    parser.add_argument("model", metavar="MODEL", nargs="?")
    parser.add_argument("data", metavar="DATA", nargs="?")
    parser.add_argument("task", metavar="TASK", nargs="*")
    parser.add_argument("--list", action="store_true", help="print all tasks")
    parser.add_argument("--out", metavar="FILE", help="keep results in FILE, and use those that are there")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the tables")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N items (of each subject or category)")
    parser.add_argument("--samples", type=int, metavar="K", help="texts of each prompt, where a task takes several")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the first sample (default 1)")
    parser.add_argument("--judge", metavar="FOLDER", help="where texts for a judge are written, and scores read")
    parser.add_argument("--run-untrusted-code", action="store_true", help="run programs that the model wrote")
    parser.add_argument("--draft", metavar="MODEL", help="a smaller model for guesses")
    parser.add_argument("--options", default="", metavar="TEXT", help="more options of llama, as in --options=\"-t 4\": -t, --memory-limit, --tokenizer ...")
    parser.add_argument("--estimate", action="store_true", help="print the estimate and end")
    parser.add_argument("--print", action="store_true", help="print what `llama` would read, and end")
    given = parser.parse_intermixed_args()
    if given.list:
        return given
    if not given.data:
        parser.error("LLAMA, MODEL and DATA are needed, or --list")
    tables = {f"table{task.table}" for task in TASKS.values()} - {"table-"}
    for name in given.task:
        if name not in TASKS and name not in tables:
            parser.error(f"no such task: {name}; see --list")
    for name in ("limit", "samples"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"--{name}: at least 1")
    for name, folder in (("plot", given.plot and (os.path.dirname(given.plot) or ".")), ("judge", given.judge)):
        if folder and not os.path.isdir(folder):
            parser.error(f"--{name}: no such folder: {folder}")
    return given


def needs(task, given):
    """The option that the task needs and does not have, or nothing."""
    if task.runs_programs and not given.run_untrusted_code and not given.print:
        return "--run-untrusted-code"
    return "--judge FOLDER" if task.judge and not given.judge else ""


def prepare(given, llama):
    """(the runs that can be done, whether a task that was asked for cannot be)."""
    runs, failed = [], False
    for task in TASKS.values():
        if given.task and task.name not in given.task and f"table{task.table}" not in given.task:
            continue
        option = needs(task, given)
        try:
            if option:
                raise Absent(option)
            runs.append(Run(task, llama, given))
        except Absent as absent:
            say(f"{task.name}: absent: {absent}")
            failed |= bool(given.task)
        except (Broken, OSError) as error:
            say(f"{task.name}: {error}")
            failed = True
    return runs, failed


def print_inputs(runs):
    """For `llama score`: lines. For `llama -0`: prompts, each followed by a NUL."""
    for run in runs:
        end = b"\0" if run.task.tokens else b"\n"
        sys.stdout.buffer.write(b"".join(each + end for each in run.inputs()))


def main():
    given = arguments()
    if given.list or given.print:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if given.list:
        return print_list()
    options = given.options.split()
    llama = Llama(given.llama, given.model, options, given.draft, given.seed)
    runs, failed = prepare(given, llama)
    failed |= not runs
    if given.print:
        print_inputs(runs)
        return failed
    records = Records(given.out)
    if runs:
        print_estimates(runs, llama, records)
    if given.estimate:
        return failed
    done = []
    for run in runs:
        try:
            run.measure(llama, records)
            done.append(run)
        except (Broken, OSError, sandbox.Uncontained) as error:
            say(f"{run.task.name}: {error}")
            failed = True
    print_tables(done)
    if given.plot:
        draw(given.plot, given.model, done)
    return failed


if __name__ == "__main__":
    try:
        sys.exit(int(main() or 0))
    except KeyboardInterrupt:
        say("stopped; with --out the same command continues" if "--out" in sys.argv else "stopped")
        sys.exit(130)
    except (Broken, OSError) as error:
        sys.exit(str(error))
