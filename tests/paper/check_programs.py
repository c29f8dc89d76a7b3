"""check_programs.py: programs that are right, wrong and hostile, in the sandbox.

Every hostile program must be graded wrong, and must not change anything outside. They are run in both ways in which
the sandbox contains programs: with namespaces, if the system has them, and with the filter of system calls alone."""
import concurrent.futures
import itertools
import os
import socket
import sys
import tempfile

import sandbox
from checks import check
from tasks import TASKS

TESTS = "assert answer(3) == 4"
RIGHT = {  # all pass
    "plain": "def answer(x):\n    return x + 1",
    "imports": "import math, re, collections, itertools, heapq, typing\ndef answer(x):\n    return int(math.sqrt(9)) + 1",
    "prints": "print('x' * 10 ** 6)\ndef answer(x):\n    print(x)\n    return 4",
    "recursion": "def answer(x):\n    return 1 if x == 0 else 1 + answer(x - 1)",
    "a class": "class A:\n    def __init__(self, x): self.x = x\ndef answer(x): return A(x).x + 1",
    "much memory, freed": "def answer(x):\n    return len(bytes(10 ** 8)) and 4",
    "a caught exit": "import sys\ntry:\n    sys.exit(0)\nexcept SystemExit:\n    pass\ndef answer(x): return 4",
}
WRONG = {  # name: program
    "a wrong answer": "def answer(x): return x",
    "nothing": "",
    "a syntax error": "def answer(x: return 4",
    "an exception": "raise ValueError",
    "no such function": "def other(x): return 4",
    "NUL": "\0",
    "a lone surrogate": "x = '\ud800'; raise ValueError",
    "an endless recursion": "def answer(x): return answer(x)",
    "a crash": "import ctypes\nctypes.string_at(0)",
    "a crash in C": "exec('(' * 100000)\nanswer = None",
    "reads input": "def answer(x): return input('a number')",
}
MARKERS = "for word in ('passed', 'ok', '?', '1', 'True', 'namespaces and a filter of system calls\\n?'):\n"
HOSTILE = {
    "sys.exit": "import sys\nsys.exit(0)",
    "sys.exit in the answer": "import sys\ndef answer(x): sys.exit(0)",
    "exit 0 at once": "import os\nos._exit(0)",
    "exit 0 in the answer": "import os\ndef answer(x): os._exit(0)",
    "exit by an exception": "raise SystemExit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "a generator's exit": "raise GeneratorExit",
    "exit at exit": "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit",
    "prints markers": f"import os, sys\n{MARKERS}    print(word); print(word, file=sys.stderr)\nos._exit(0)",
    "the first part of the report": "import os\nfor fd in range(64):\n    try: os.write(fd, b'?')\n    except OSError: pass\nos._exit(0)",
    "markers to every descriptor": f"import os\n{MARKERS}    for fd in range(64):\n        try: os.write(fd, word.encode())\n"
    "        except OSError: pass\nos._exit(0)",
    "markers and exit in the answer": f"import os\ndef answer(x):\n    {MARKERS.strip()}\n        for fd in range(64):\n            try: "
    "os.write(fd, word.encode())\n            except OSError: pass\n    os._exit(0)",
    "closes every descriptor": "import os\nos.closerange(0, 64)\ndef answer(x): return 4",
    "closes every descriptor and sleeps": "import os, time\nos.closerange(0, 64)\ntime.sleep(1000)",
    "a built-in function replaced": "import builtins\nbuiltins.abs = lambda x: 0\n__builtins__['abs'] = lambda x: 0\ndef answer(x): return 9",
    "a module's function replaced": "import math\nmath.isclose = lambda *a, **k: True\nmath.fabs = lambda x: 0\ndef answer(x): return 9",
    "AssertionError replaced": "import builtins\nbuiltins.AssertionError = StopIteration\nAssertionError = None\ndef answer(x): return 9",
    "exec and compile replaced": "import builtins\nbuiltins.exec = builtins.compile = lambda *a: None\ndef answer(x): return 9",
    "os.write and os._exit replaced": "import os\nos.write = os.read = os._exit = lambda *a: 0\ndef answer(x): return 9",
    "a trace that leaves the test": "import sys, os\ndef trace(frame, event, arg):\n    if event == 'exception': os._exit(0)\n"
    "    return trace\nsys.settrace(trace)\ndef answer(x): return 9",
    "a trace that jumps over a test": "import sys\ndef trace(frame, event, arg):\n    if 'test' in frame.f_code.co_filename and event == "
    "'line' and frame.f_lineno == 2: frame.f_lineno = 3\n    return trace\nsys.settrace(trace)\ndef answer(x): return 9",
    "an endless loop": "while True: pass",
    "an endless loop in the answer": "def answer(x):\n    while True: pass",
    "a loop that catches everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "sleeps": "import time\ntime.sleep(1000)",
    "ignores signals": "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): "
    "pass\nwhile True: pass",
    "stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\ndef answer(x): return 9",
    "kills itself": "import os\nos.kill(os.getpid(), 9)\ndef answer(x): return 9",
    "raises its limits": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\nwhile True: pass",
    "a memory bomb": "x = [0]\nwhile True: x += x",
    "a memory bomb of bytes": "x = bytearray(1 << 40)",
    "600 MB": "x = bytearray(600 << 20)\ndef answer(x): return 4",
    "a memory bomb, caught": "x = []\nwhile True:\n    try: x.append(bytearray(1 << 24))\n    except MemoryError: pass",
    "a huge number": "x = 10 ** 10 ** 10",
    "huge output": "while True: print('x' * 10 ** 6)",
    "a huge report": "import os\nwhile True:\n    for fd in range(3, 64):\n        try: os.write(fd, b'x' * 10 ** 5)\n        except OSError: pass",
    "a huge exception": "raise type('E' * 10 ** 6, (Exception,), {})('x' * 10 ** 7)",
}
FORBIDDEN = {  # each part must raise an OSError, or the program passes (and the test fails)
    "fork": "os.fork()",
    "a fork bomb": "while True: os.fork()",
    "forkpty": "os.forkpty()",
    "spawn": "os.posix_spawn('/bin/sh', ['sh', '-c', 'exit'], {})",
    "exec": "os.execv('/bin/sh', ['sh', '-c', 'exit'])",
    "subprocess": "import subprocess; subprocess.run(['/bin/true'])",
    "system": "assert os.system('true') == 0 or raise_(OSError)",
    "vfork": "call('vfork')",
    "clone": "call('syscall', 56, 17, 0, 0, 0, 0)",
    "clone3": "call('syscall', 435, 0, 0)",
    "a thread": "import _thread; start(_thread)",
    "kill the parent": "os.kill(os.getppid(), 9)",
    "kill everything": "os.kill(-1, 9)",
    "stop the parent": "import signal; os.kill(os.getppid(), signal.SIGSTOP)",
    "kill the group": "os.killpg(0, 9)",
    "a descriptor of the parent": "os.pidfd_open(os.getppid())",
    "ptrace": "call('ptrace', 16, PARENT, 0, 0)",
    "the parent's memory": "open('/proc/%d/mem' % PARENT, 'rb')",
    "the parent's memory by a call": "call('syscall', 310, PARENT, 0, 0, 0, 0, 0)",
    "the parent's command": "open('/proc/%d/cmdline' % PARENT).read()",
    "the parent's environment": "open('/proc/%d/environ' % PARENT).read()",
    "the parent's files": "os.listdir('/proc/%d/fd' % PARENT)",
    "the parent's folder": "os.listdir('/proc/%d/cwd' % PARENT)",
    "its own memory by a file": "open('/proc/self/mem', 'rb')",
    "the secret": "open(SECRET).read()",
    "the folder of the secret": "os.listdir(os.path.dirname(SECRET))",
    "the secret in an old root": "os.chdir('/'); os.chdir('..'); open('.' + SECRET).read()",
    "the secret above the root": "open('/..' + SECRET).read()",
    "this test": "open(TEST).read()",
    "passwords": "open('/etc/passwd').read()",
    "a file outside": "open(OUTSIDE, 'w').write('x')",
    "a file of Python's library": "open(os.__file__, 'r+')",
    "a new file there": "open(os.path.join(os.path.dirname(os.__file__), 'made_by_a_program.py'), 'w')",
    "a new folder there": "os.mkdir(os.path.join(os.path.dirname(os.__file__), 'made_by_a_program'))",
    "remove the secret": "os.remove(SECRET)",
    "rename the secret": "os.rename(SECRET, SECRET + '.x')",
    "the mode of the secret": "os.chmod(SECRET, 0)",
    "the time of the secret": "os.utime(SECRET, (0, 0))",
    "cut the secret": "os.truncate(SECRET, 0)",
    "a link to the secret": "os.link(SECRET, 'made')",
    "remove its own folder": "os.rmdir(os.getcwd())",
    "the folder above": "open('../made', 'w')",
    "a link out": "os.symlink('/etc', '/made'); os.listdir('/made')",
    "a socket": "socket(); raise SystemExit",
    "a connection": "connect()",
    "a pair of sockets": "import socket; socket.socketpair()",
    "a device": "os.mknod('made', 0o60644, 0)",
    "a mount": "call('mount', b'none', b'/tmp', b'tmpfs', 0, 0)",
    "another root": "os.chroot('/tmp')",
    "new namespaces": "call('unshare', 0x10020000)",
    "another user": "os.setuid(0) if os.getuid() else raise_(OSError)",
    "a large file": "open('made', 'wb').write(bytes(1 << 22))",
    "many descriptors": "[os.dup(0) for _ in range(100)]",
    "another limit": "call('setrlimit', 0, 0)",
    "io_uring": "call('syscall', 425, 8, 0)",
}
HELP = '''
import os
PARENT, SECRET, OUTSIDE, TEST = {parent}, {secret!r}, {outside!r}, {test!r}
def raise_(error): raise error
def call(name, *arguments):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) == -1: raise OSError(ctypes.get_errno())
def start(_thread):
    try: _thread.start_new_thread(print, ())
    except RuntimeError: raise OSError
def socket():
    import _socket
    return _socket.socket()
def connect():
    import _socket
    _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM).connect(("127.0.0.1", {port}))
def answer(x):
    try:
        {body}
    except (OSError, ImportError):
        return "refused"
    return 4
'''
ABSOLUTE = "x = answer(3)\nassert abs(x - 4) < 1e-6\nx = 4"
OTHER_TESTS = {"a module's function replaced": "import math\nassert math.isclose(answer(3), 4)"}


def run_all(programs, namespaces, tests=TESTS, seconds=30):
    """name -> (passed, why). A busy machine may take long for programs that end by themselves."""
    def run(name):
        return sandbox.run_contained(programs[name], OTHER_TESTS.get(name, tests), namespaces, processor_seconds=1, seconds=seconds)[:2]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(programs, pool.map(run, programs)))


def ways():
    """Whether to ask for namespaces: yes and no, or only no. Prints a SKIP of what the system does not have."""
    try:
        _, _, how = sandbox.run_contained(RIGHT["plain"], TESTS)
    except sandbox.Uncontained as error:
        print(f"SKIP: running programs: {error}")
        return ()
    if not how.startswith("namespaces"):
        print("SKIP: namespaces: this system does not give them")
        return (False,)
    return (True, False)


QUICK = ("exit 0 at once", "prints markers", "markers and exit in the answer", "a built-in function replaced", "an endless loop",
         "a memory bomb of bytes")


def test_right_and_wrong(all_of_them):
    for namespaces in ways()[:None if all_of_them else 1]:
        for name, (passed, why) in run_all(RIGHT, namespaces).items():
            check(f"{name} passes (namespaces: {namespaces})", passed, why)
        for name, (passed, why) in run_all(WRONG, namespaces).items():
            check(f"{name} fails (namespaces: {namespaces})", not passed, why)


def test_hostile(all_of_them):
    for namespaces in ways()[:None if all_of_them else 1]:
        some = {name: program for name, program in HOSTILE.items() if all_of_them or name in QUICK}
        results = run_all(some, namespaces, ABSOLUTE, seconds=2)
        for name, (passed, why) in results.items():
            check(f"{name} is wrong (namespaces: {namespaces})", not passed, why)
        loop = {"an endless loop": HOSTILE["an endless loop"]}
        check("an endless loop ends by its processor time", run_all(loop, namespaces)["an endless loop"][1] == "killed (processor time)")


def test_stopped():
    """The time in which this process was stopped (Ctrl-Z, a sleeping machine) is not the program's."""
    class Clock:
        monotonic = itertools.count(0, 100).__next__

    found = ways()
    sandbox.time, clock = Clock, sandbox.time
    try:
        for namespaces in found:
            passed, why, _ = sandbox.run_contained(RIGHT["plain"], TESTS, namespaces)
            check(f"it passes (namespaces: {namespaces})", passed, why)
            passed, why, _ = sandbox.run_contained(HOSTILE["sleeps"], TESTS, namespaces, seconds=2)
            check(f"a sleep ends (namespaces: {namespaces})", why == "time", why)
    finally:
        sandbox.time = clock


def test_forbidden():
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        secret, outside = os.path.join(folder, "secret"), os.path.join(folder, "outside")
        with open(secret, "w") as stream:
            stream.write("4")
        known = {"parent": os.getpid(), "secret": secret, "outside": outside, "test": os.path.abspath(__file__),
                 "port": server.getsockname()[1]}
        programs = {name: HELP.format(body=body, **known) for name, body in FORBIDDEN.items()}
        passing = HELP.format(body="pass", **known)
        for namespaces in ways():
            check("without the attempt it passes", sandbox.run_contained(passing, TESTS, namespaces)[0])
            for name, (passed, why) in run_all(programs, namespaces, "assert answer(3) == 'refused', 1").items():
                check(f"{name} is refused (namespaces: {namespaces})", passed, why)
        try:
            server.accept()
            check("nobody connects", False)
        except BlockingIOError:
            check("nobody connects", True)
        library = os.listdir(os.path.dirname(os.__file__))
        check("nothing is written outside", os.listdir(folder) == ["secret"] and
              not {"made_by_a_program", "made_by_a_program.py"} & set(library), os.listdir(folder))
        with open(secret) as stream:
            check("nothing is changed", stream.read() == "4" and os.stat(secret).st_mtime > 0)
    check("this process is well", os.getpid() == known["parent"])
    check("no process is left", not any(sandbox.CONTAINED in line for line in command_lines()))


def command_lines():
    for process in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/cmdline") as stream:
                yield stream.read()
        except OSError:  # it has ended
            pass


def test_folder():
    """With namespaces the program has an empty folder of its own that takes 16 MB, and sees nothing else."""
    for namespaces in [way for way in ways() if way]:
        program = "import os\nassert os.listdir('.') == [] and os.getcwd() == '/tmp'\n" \
            "open('a', 'w').write('x')\nassert os.listdir('.') == ['a']\nassert os.getuid() != 0\n" \
            "assert set(os.listdir('/')) <= {'lib', 'lib64', 'usr', 'tmp', *LIBRARY}\n" \
            "n = 0\ntry:\n    while True:\n        open(f'b{n}', 'wb').write(bytes(1 << 19))\n        n += 1\n" \
            "except OSError: pass\nassert 20 < n <= 32\ndef answer(x): return 4\n"
        library = {path.split("/")[1] for path in map(os.path.realpath, sys.path + ["/lib", "/lib64"]) if path.count("/") > 1}
        passed, why = sandbox.run(program.replace("LIBRARY", repr(library)), TESTS)
        check("its folder", passed, why)


def test_sets():
    """Questions of the two sets, with programs in the place of the model's."""
    if not ways():
        return
    double, root = TASKS["humaneval-1"].read(".")
    for question, text, right in [(double, "    return 2 * x\n", True), (double, "    return x + x", True), (double, "    return 4\n", False),
                                  (double, "return 2 * x", False), (double, "", False), (root, "    return math.sqrt(x)\n", True),
                                  (root, "    return x ** 0.5\n\nroot = abs", False)]:
        check(f"HumanEval: {text!r}", sandbox.run(*question.answer(text))[0] is right)
    add = next(iter(TASKS["mbpp-1"].read(".")))
    for text, right in [("def add(x):\r\n  return x + 11", True), ("def add(x):\n  return 11", False), ("def add(x):", False)]:
        check(f"MBPP: {text!r}", sandbox.run(*add.answer(text))[0] is right)
