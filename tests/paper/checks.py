"""checks.py: what the tests of these scripts share."""
import contextlib
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
COUNT = [0, 0]  # passed, failed


def check(what, fine, seen=""):
    COUNT[not fine] += 1
    if not fine:
        print(f"FAIL: {what}: {seen}".replace("\n", "\n    "))


def command(*words, stdin=b""):
    """(exit code, stdout, stderr)"""
    done = subprocess.run(words, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.returncode, done.stdout, done.stderr.decode()


def row(*words):
    code, out, errors = command(sys.executable, os.path.join(HERE, "row.py"), *words)
    return code, out.decode(), errors


def write(name, data):
    """Bytes, a text, or objects as JSON lines."""
    if not isinstance(data, (bytes, str)):
        data = "".join(json.dumps(item) + "\n" for item in data)
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "wb") as stream:
        stream.write(data if isinstance(data, bytes) else data.encode())


@contextlib.contextmanager
def replaced(files):
    """Files with other contents for a while; None: absent."""
    before = {}
    for name, data in files.items():
        before[name] = open(name, "rb").read() if os.path.exists(name) else None
        if data is not None:
            write(name, data)
        elif before[name] is not None:
            os.remove(name)
    try:
        yield
    finally:
        for name, data in before.items():
            if data is not None:
                write(name, data)
            elif os.path.exists(name):
                os.remove(name)


STAND_IN = """#!{python} -SB
# Speaks as `llama`, but the texts are those of answers.json: of each prompt a list, one a sample.
import json, os, sys
words = sys.argv[1:]
option = lambda name, other: words[words.index(name) + 1] if name in words else other
if "--json" not in words or "-0" not in words or "--no-lookup" in words:
    os.execv({llama!r}, [{llama!r}, *words])
answers = json.load(open("answers.json"))
first, samples = int(option("-s", "1")) - 1, int(option("-k", "1"))
for i, prompt in enumerate(sys.stdin.buffer.read().decode().split("\\0")[:-1]):
    for k in range(samples):
        print(json.dumps({{"prompt": i, "sample": k, "text": answers[prompt][(first + k) % len(answers[prompt])], "finish": "stop",
                          "prompt_tokens": 9}}), flush=True)
"""


def write_stand_in(llama, answers):
    """A command ./stand-in."""
    write("answers.json", json.dumps(answers))
    write("stand-in", STAND_IN.format(python=sys.executable, llama=llama))
    os.chmod("stand-in", 0o755)
    return "./stand-in"
