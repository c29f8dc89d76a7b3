"""sandbox.py: runs a program that a model wrote, and its tests, where they can do no harm.

    passed, why = run(program, tests)

The program runs in a Python process of its own (contained.py), which first gives up everything that it does not need:

  processes   it can start none, and no thread; it can send no signal: a filter of the kernel refuses these system calls
  network     it can open no socket (the filter), and its network is an empty one of its own
  files       it sees the folders of Python's library, read-only, and an empty folder of 16 MB; nothing else, no /proc
  limits      3 seconds of processor time, 9 seconds in all, 512 MB of memory, files of 1 MB, 64 open files
  output      goes to /dev/null

The views of network and files are namespaces. They need root, or a kernel that gives them to users. Without them the filter
also refuses to open or change any file; modules are loaded before. Without the filter no program is run at all.

A program passes if it ends, and then its tests end, without an exception; SystemExit is one too. The exit code and the
output mean nothing: the process must then fetch a random number and return it. The tests are compiled when the program has
ended. They run with their own copy of the built-in functions, and the modules that tests use are as they were. The process
gets the program and its tests, no solution, and it cannot read its parent. No grader in the same interpreter can stop a
program that searches its own process for this protocol, or whose results claim to equal everything.

Needs Linux on x86-64 or aarch64, as the library does."""
import ctypes
import marshal
import os
import secrets
import select
import subprocess
import sys
import tempfile
import time

PROCESSOR_SECONDS, SECONDS, TICK = 3, 9, 1
SET_DUMPABLE = 4
CONTAINED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "contained.py")


class Uncontained(Exception):
    """The system has no filter of system calls."""


def converse(process, report, answer, seconds):
    """What becomes of the process: (passed, why, what contained it)."""
    token, said, left, fetched = secrets.token_bytes(16), b"", seconds, False
    while True:
        start = time.monotonic()
        ready, _, _ = select.select([report], [], [], min(TICK, max(0, left)))
        left -= min(TICK, time.monotonic() - start)  # if this process was stopped for a while, that is not counted
        if not ready:
            if left <= 0:
                return False, "time", said
            continue
        part = os.read(report, 4096)
        said += part
        head, newline, rest = said.partition(b"\n")
        if not part or len(said) > 4096:
            break
        if rest == b"?" and not fetched:
            fetched = True
            try:
                os.write(answer, token)
            except BrokenPipeError:  # it has ended, or closed the pipe
                pass
    if rest == b"?" + token:
        return True, "passed", said
    if len(said) > 4096:
        return False, "a report of its own", said
    if rest[:1] == b"-":
        return False, rest[1:64].decode("ascii", "replace"), said
    try:
        process.wait(max(0, left))
    except subprocess.TimeoutExpired:
        return False, "time", said
    why = {-9: "killed (processor time)", -24: "processor time", -11: "crashed"}.get(process.returncode, "ended early")
    return False, why, said


def run(program, tests):
    """(whether the program passes its tests, why)."""
    passed, why, _ = run_contained(program, tests)
    return passed, why


def run_contained(program, tests, namespaces=True, processor_seconds=PROCESSOR_SECONDS, seconds=SECONDS):
    """(whether the program passes its tests, why, what contained it). Raises Uncontained."""
    ctypes.CDLL(None).prctl(SET_DUMPABLE, 0, 0, 0, 0)  # no process of the same user may read the memory of this one
    with tempfile.TemporaryDirectory(prefix="program-") as folder:
        report, child_report = os.pipe()
        child_answer, answer = os.pipe()
        given = marshal.dumps({"folder": folder, "program": program, "tests": tests, "namespaces": namespaces,
                               "seconds": processor_seconds})
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", CONTAINED, str(child_report), str(child_answer)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, env={},
            pass_fds=(child_report, child_answer), start_new_session=True)
        try:
            os.close(child_report)
            os.close(child_answer)
            try:
                process.stdin.write(given)
                process.stdin.close()
            except BrokenPipeError:
                pass
            passed, why, said = converse(process, report, answer, seconds)
        finally:
            process.kill()
            process.wait()
            os.close(report)
            os.close(answer)
    if said[:1] == b"!" or not said:
        raise Uncontained(said[1:].decode("ascii", "replace") or "Python cannot be started")
    return passed, why, said.partition(b"\n")[0].decode("ascii", "replace")
