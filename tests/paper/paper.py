"""paper.py LLAMA MODEL [--quick] [--case NAME]: the tests of the scripts for the paper's tables.

    python3 tests/paper/paper.py ./llama tests/tiny

The items are made up (made_up.py), a few of each set, in its published layout. --quick leaves out what takes long."""
import os
import sys
import tempfile

sys.dont_write_bytecode = True
import check_grades  # noqa: E402
import check_programs  # noqa: E402
import check_questions  # noqa: E402
import check_rows  # noqa: E402
import made_up  # noqa: E402
from checks import COUNT, HERE, check, write  # noqa: E402

MODULES = (check_questions, check_grades, check_programs, check_rows)
SLOW = ("fit", "forbidden", "stopped", "as_by_hand", "interrupted", "usage", "too_long", "lines_instead", "continued", "broken_command", "texts",
        "programs")


def cases():
    """name -> function"""
    return {name.removeprefix("test_"): function for module in MODULES for name, function in vars(module).items()
            if name.startswith("test_")}


def main():
    words = sys.argv[1:]
    only = words[words.index("--case") + 1] if "--case" in words else None
    quick = "--quick" in words
    llama, model = map(os.path.abspath, words[:2])
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the scripts see to it themselves
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, data in made_up.FILES.items():
            write(name, data)
        for name, case in cases().items():
            if only not in (None, name) or quick and name in SLOW:
                continue
            print("--", name, flush=True)
            given = {"llama": llama, "model": model, "all_of_them": not quick}
            case(*(given[parameter] for parameter in case.__code__.co_varnames[:case.__code__.co_argcount]))
        os.chdir(HERE)
    check("no __pycache__", not os.path.exists(os.path.join(HERE, "__pycache__")))
    print(f"paper: {COUNT[0]} passed, {COUNT[1]} failed")
    sys.exit(COUNT[1] > 0)


main()
