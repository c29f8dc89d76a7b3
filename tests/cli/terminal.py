"""terminal.py LLAMA MODEL [--case NAME]: the conversation (LLAMA MODEL -i) as a person at a terminal has it.
The command gets a pseudo-terminal, its controlling one: ^C typed into it is SIGINT. The echo and stderr come from it;
stdout is a pipe and has the replies alone, unless a case wants it on the screen as well. What the model writes is
arbitrary, but with --temp 0 always the same: replies are compared with replies."""
import contextlib, fcntl, json, os, re, select, signal, struct, subprocess, sys, tempfile, termios, time

LLAMA, MODEL = sys.argv[1:3]
WOODCUTTER, PRINCESS = b"There was once a poor woodcutter", b"The princess said"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a busy machine must not make the test slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background ^C is ignored, here and in children
results = []

def check(good, what, seen=b""):
    results.append(bool(good))
    if not good:
        print(f"FAIL: {what}; seen: {seen[-300:]!r}", flush=True)

def command(options):
    return [LLAMA, MODEL, "-i", "--temp", "0", *(() if "-n" in options else ("-n", "24")), *options]

def piped(lines, *options):
    """What stdout has when the lines come through a pipe."""
    text = b"".join(line + b"\n" for line in lines)
    run = subprocess.run(command(options), input=text, capture_output=True, timeout=30)
    check(run.returncode == 0 and run.stderr == b"", f"by pipes: {run.returncode}, not 0 and silence", run.stderr)
    return run.stdout

class Talk:
    """A conversation on a terminal. Leaving the `with` ends it, if it has not ended, and its exit code must be 0."""

    def __init__(self, *options, screen=False):
        self.master, slave = os.openpty()
        pipe, stdout = (self.master, slave) if screen else os.pipe()
        self.child = subprocess.Popen(command(options), stdin=slave, stdout=stdout, stderr=slave,
                                      start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        for fd in {slave, stdout}:
            os.close(fd)
        self.open = {self.master, pipe}
        self.seen = self.out = self.last = b""  # all from the terminal, all of stdout; the terminal's since a line
        self.mark = 0  # how far the terminal's was expected

    def read(self, seconds):
        """Wait so long for output, then take all there is."""
        for _ in range(64):  # it may be without end
            for fd in select.select(self.open, [], [], max(seconds, 0))[0]:
                got = b""
                with contextlib.suppress(OSError):  # a terminal without another side
                    got = os.read(fd, 65536)
                self.open -= set() if got else {fd}
                self.seen += got if fd == self.master else b""
                self.out += got if fd != self.master else b""
            seconds = 0

    def until(self, done, what, seconds):
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end or self.master not in self.open:
                raise TimeoutError(f"no {what} in {seconds} s, or ended; {self.seen[-300:]!r}, {self.out[-300:]!r}")
            self.read(end - time.monotonic())

    def expect(self, words, seconds=10):
        self.until(lambda: words in self.seen[self.mark:], repr(words), seconds)
        self.mark = self.seen.index(words, self.mark) + len(words)
        self.read(0)  # what stdout got before

    def send(self, data):
        if self.mark == 0:
            self.expect(b"> ", 30)
        for i in range(0, len(data), 256):
            os.write(self.master, data[i:i + 256])
            self.read(0)  # the echo must not pile up

    def say(self, line, seconds=10):
        """Type a line and wait for the prompt sign; what stdout got meanwhile."""
        out = len(self.out)
        self.send(line + b"\r")
        start = self.mark
        self.expect(b"> ", seconds)
        self.last = self.seen[start:self.mark]
        return self.out[out:]

    def end(self, last=b"/exit\r"):
        self.send(last)
        end = time.monotonic() + 10
        while self.child.poll() is None and time.monotonic() < end:
            self.read(0.05)
        self.read(0)
        check(self.child.returncode == 0, f"{last!r} ends it with {self.child.returncode}, not 0", self.seen)

    __enter__ = lambda self: self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None and self.child.returncode is None:
                self.end()
        finally:
            self.child.kill()  # nothing, where it has ended
            self.child.wait()

def turns():  # 1, 2. a reply to each line, in the context of all before; by pipes the same, and nothing else
    with Talk() as t:
        replies = [t.say(WOODCUTTER), t.say(PRINCESS)]
        t.end()
        check(all(len(r) > 9 and r.endswith(b"\n") for r in replies), "two replies, a newline behind each", t.out)
        check(replies[1] != piped([PRINCESS]), "the second turn knows of the first", t.out)
        by_pipe = piped([WOODCUTTER, PRINCESS])
        check(t.out == by_pipe, f"by pipes the same replies: {by_pipe!r}", t.out)
    with Talk(screen=True) as t:
        for line, reply in zip((WOODCUTTER, PRINCESS), replies):
            t.say(line)
            shown = re.sub(rb"(\r[^\r\n\x1b]*)+\x1b\[K", b"", t.last).replace(b"\r\n", b"\n")  # no progress line
            check(shown == line + b"\n" + reply + b"> ", f"on the screen stands {reply!r}", t.last)

def interrupts():  # 3. ^C ends a reply within 2 s, and at the prompt drops the line; the conversation goes on
    with Talk("-n", "-1", "--ignore-eos", "--kernels", "scalar", "-t", "1") as t:
        for line in (WOODCUTTER, PRINCESS):
            out = len(t.out)
            t.send(line + b"\r")
            t.until(lambda: len(t.out) > out + 60, "60 bytes of a reply", 20)
            t.send(b"\x03")
            t.expect(b"> ", 2)
            check(b"full" not in t.seen and t.out.endswith(b"\n"), "^C stops a reply, then a newline", t.seen + t.out)
        fresh = piped([PRINCESS], "--ignore-eos")
        check(not t.out[out:].startswith(fresh[:40]), "the next turn knows of the stopped reply", t.out)
    with Talk() as t:
        for typed in (b"half a line\x03", b"\x03"):
            t.send(typed)
            t.expect(b"> ")
        check(t.say(PRINCESS) == piped([PRINCESS]), "^C drops the half-typed line", t.out)

def commands():  # 4. /reset, /save, /load, /stats; no such command; //
    system = ("-p", "A fox lived by the sea.\n")
    with Talk(*system) as t, tempfile.TemporaryDirectory() as folder:
        t.say(WOODCUTTER)
        check(t.say(b"/reset") == b"", "/reset: nothing on stdout", t.out)
        fresh = piped([PRINCESS], *system)
        check(t.say(PRINCESS) == fresh != piped([PRINCESS]), f"/reset: back to the first text: {fresh!r}", t.out)
        saved = os.fsencode(folder) + b"/saved"
        for line, words in ((b"/save " + saved, b""), (b"/stats", b"tokens/s"), (b"/sing of the sea", b"/reset")):
            check(t.say(line) == b"" and words in t.last, f"{line!r}: {words!r}, on stderr alone", t.last)
        gone_on, want = t.say(WOODCUTTER), piped([PRINCESS, WOODCUTTER], *system)
        check(want == fresh + gone_on, f"commands are not sent: {want!r}", t.out)
        with Talk() as other:
            other.say(b"/load " + saved)
            check(other.say(WOODCUTTER) == gone_on, f"/load goes on from /save: {gone_on!r}", other.out)
    with Talk() as t:
        want = piped([PRINCESS], "--in-prefix", "/")
        check(t.say(b"//" + PRINCESS) == want != piped([PRINCESS]), f"//x sends /x: {want!r}", t.out)

def end_of_input():  # 5. ^D at an empty line: exit 0
    with Talk() as t:
        reply = t.say(PRINCESS)
        t.end(b"\x04")
        check(t.out == reply, "^D: nothing on stdout", t.out)

def unicode():  # 6. UTF-8 as it is typed
    line = "é 你好 🙂".encode()
    with Talk() as t:
        want = piped([line])
        check(t.say(line) == want != piped([b"  "]), f"{line!r}: by a pipe {want!r}", t.out)

def long_lines():  # 7. a terminal gives 4,095 bytes of a line at most: one that long may have lost its end
    text, options = b"The king and the queen went to the house of the old man. " * 100, ("-c", "4096", "-n", "8")
    with Talk(*options) as t:
        for size in (5000, 4095):
            check(t.say(text[:size], 30) == b"" and t.last.count(b"longer") == 1, f"{size} bytes: refused once", t.last)
            check(t.say(PRINCESS) == piped([PRINCESS], *options), "the line after it gets a reply", t.last + t.out)
            t.say(b"/reset")
        reply = t.say(text[:4094], 30)
        check(b"longer" not in t.last and (len(reply) > 1 or b"positions" in t.last), "4,094 bytes: a line", t.last)

def full():  # 8. the context is full: a note, and /reset makes room
    with Talk("-c", "40") as t:
        while b"context of 40 positions is full" not in t.seen and t.seen.count(b"> ") < 12:
            t.say(PRINCESS)
        check(b"context of 40 positions is full" in t.seen, "a note that the context is full", t.seen)
        t.say(b"/reset")
        check(t.say(PRINCESS) == piped([PRINCESS], "-c", "40"), "/reset makes room", t.seen + t.out)

def stops():  # 9. --in-prefix and --in-suffix around the line; a stop text is in no reply
    around = ("-e", "--in-prefix", "A: ", "--in-suffix", "\\nB:")
    with Talk(*around, "--stop", "A:") as t:
        reply = t.say(PRINCESS) + t.say(WOODCUTTER)
        check(b"A:" not in reply and len(reply) > 20, "no A: in a reply", reply)
    whole = piped([PRINCESS], *around)
    completion = [LLAMA, MODEL, "-e", "-p", "A: " + PRINCESS.decode() + "\\nB:", "--temp", "0", "-n", "24"]
    want = subprocess.run(completion, stdin=subprocess.DEVNULL, capture_output=True, timeout=30).stdout
    check(whole.strip() == want.strip() != b"", f"a first reply completes prefix + line + suffix: {want!r}", whole)
    want, stop, _ = whole.partition(whole[10:16])
    with Talk(*around, "--stop", "never", "--stop", os.fsdecode(stop)) as t:
        check(t.say(PRINCESS) == want + b"\n", f"before {stop!r} a reply ends: {want!r}", t.out)

def bars():  # what takes long shows how far it is, and how long it takes; not with -q
    items = b"0\t%s\t who lived alone\t king\n" % WOODCUTTER * 90
    for quiet in (False, True):
        master, slave = os.openpty()
        options = ["-t", "1", "--kernels", "scalar", *(["-q"] if quiet else [])]
        child = subprocess.Popen([LLAMA, "score", MODEL, *options], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=slave)
        os.close(slave)
        child.stdin.write(items)
        child.stdin.close()
        seen = b""
        with contextlib.suppress(OSError):  # a terminal without another side
            while got := os.read(master, 65536):
                seen += got
        os.close(master)
        check(child.wait(60) == 0, "a long score", seen)
        check(bool(re.search(rb"\rscore +[0-9]+% \[#* *\] [0-9]+ s left", seen)) != quiet, f"a bar, if not with -q ({quiet})", seen)
        check(seen == b"" if quiet else seen.endswith(b"\r\033[K"), "which is wiped away", seen)

def narrow():  # a bar fits the terminal, however wide it is
    items = b"0\t%s\t who lived alone\t king\n" % WOODCUTTER * 25
    for columns, room in ((40, True), (25, False), (80, True), (0, True)):
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        child = subprocess.Popen([LLAMA, "score", MODEL, "-t", "1", "--kernels", "scalar"],
                                 stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=slave)
        os.close(slave)
        child.stdin.write(items)
        child.stdin.close()
        seen = b""
        with contextlib.suppress(OSError):  # a terminal without another side
            while got := os.read(master, 65536):
                seen += got
        os.close(master)
        lines = seen.replace(b"\033[K", b"").split(b"\r")
        check(child.wait(60) == 0 and any(b"s left" in line for line in lines), f"{columns} columns: a bar", seen)
        check(all(len(line) < (columns or 80) for line in lines), f"{columns} columns: the bar fits", seen)
        check(any(b"[" in line for line in lines) == room, f"{columns} columns: a bar where there is room", seen)

def signals():  # what ^C, and SIGTERM, end in each phase of each command: all of it, soon, on a new line
    with tempfile.TemporaryDirectory() as folder:
        def file(name, data):
            with open(os.path.join(folder, name), "wb") as f:
                f.write(data)
            return os.path.join(folder, name)
        text = file("text", b"The king and the queen went to the house of the old man. " * 400000)
        long = file("long", b"The king and the queen went to the house of the old man. " * 400)
        items = file("items", b"0\t%s\t who lived alone\t king\n" % WOODCUTTER * 200000)
        slow, endless = ("--kernels", "scalar", "-t", "1"), ("-n", "-1", "--ignore-eos", "-c", "100000", "--temp", "0")
        phases = (
            ("tokenizing", ["tokenize", MODEL, "-f", text], 0.3),
            ("ppl, tokenizing", ["ppl", MODEL, text], 0.3),
            ("ppl, evaluating", ["ppl", MODEL, long, *slow], 1),
            ("score, reading", ["score", MODEL, "-f", items], 0.3),
            ("score, scoring", ["score", MODEL, "-f", file("some", b"0\t%s\t who lived alone\t king\n" % WOODCUTTER * 2000), *slow], 1),
            ("trace", ["trace", MODEL, "-f", long, "-c", "8000", *slow], 0.3),
            ("bench", ["bench", MODEL, *slow], 0.1),
            ("prompt", [MODEL, "-f", long, "-c", "8000", *slow], 1),
            ("generating", [MODEL, WOODCUTTER, *endless, *slow], 1),
            ("generating objects", [MODEL, WOODCUTTER, *endless, *slow, "--json"], 1),
            ("reading stdin", [MODEL], 0.3),
        )
        for name, arguments, delay in phases:
            for number in (signal.SIGINT, signal.SIGTERM):
                master, slave = os.openpty()
                with tempfile.TemporaryFile() as out:
                    stdin = subprocess.PIPE if name == "reading stdin" else subprocess.DEVNULL
                    child = subprocess.Popen([LLAMA, *arguments], stdin=stdin, stdout=out, stderr=slave)
                    os.close(slave)
                    time.sleep(delay)
                    check(child.poll() is None, f"{name}: it is still busy after {delay} s")
                    start = time.monotonic()
                    child.send_signal(number)
                    code = child.wait(30)
                    took = time.monotonic() - start
                    out.seek(0)
                    result, seen = out.read(), b""
                with contextlib.suppress(OSError):  # a terminal without another side
                    while got := os.read(master, 65536):
                        seen += got
                os.close(master)
                check(took < 0.5, f"{name}: {number.name} ends it within 0.2 s and what a busy machine adds; {took:.2f}")
                check(code == (130 if number == signal.SIGINT else -number), f"{name}: {number.name}: exit {code}", seen)
                check(seen.endswith((b"\n", b"\r\033[K")), f"{name}: {number.name}: on a new line", seen)
                if number == signal.SIGINT and name.startswith("generating"):
                    check(len(result) > 20, f"{name}: what there is of the text", result)
                if number == signal.SIGINT and name == "generating objects":
                    check(json.loads(result)["finish"] == "interrupted", f"{name}: an object", result)
        cache = file("cache", b"")
        command = [LLAMA, MODEL, "-f", long, "-c", "8000", "-n", "1", "--prompt-cache", cache]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        check(child.wait(30) == 130 and os.listdir(folder).count("cache") == 1 and os.path.getsize(cache) == 0
              and not [name for name in os.listdir(folder) if name.startswith("cache.")], "a cache stays as it was")

def long_reply():  # 10. on the screen a text stays as it came, however slow the model is
    slow = ("-n", "150", "--ignore-eos", "--kernels", "scalar", "-t", "1")
    with Talk(*slow, screen=True) as t:
        t.say(WOODCUTTER, 60)
        shown = t.last.partition(b"\r\n")[2]
        text = shown[shown.rfind(b"\x1b[K") + 3:] if b"\x1b[K" in shown else shown
        want = piped([WOODCUTTER], *slow)
        check(text.replace(b"\r\n", b"\n") == want + b"> ", f"no bar behind the first token: {want!r}", t.last)

def interrupted_save():  # 11. ^C while /save evaluates: no file, and the conversation goes on
    with tempfile.TemporaryDirectory() as folder:
        file, prompt = os.path.join(folder, "unsaved"), os.path.join(folder, "long")
        with open(prompt, "wb") as f:
            f.write(b"The king and the queen went to the house of the old man. " * 400)
        with Talk("-f", prompt, "-c", "8000", "-t", "1", "--kernels", "scalar", "-n", "4") as t:
            t.send(b"/save " + os.fsencode(file) + b"\r")
            t.expect(b"prompt", 30)  # the bar
            t.send(b"\x03")
            t.expect(b"is not written")
            t.expect(b"> ")
            check(not os.path.exists(file), "nothing is saved", t.seen)
            t.say(b"/reset")

for case in (bars, narrow, signals, turns, long_reply, interrupted_save, interrupts, commands, end_of_input, unicode, long_lines, full, stops):
    if sys.argv[3:] not in ([], ["--case", case.__name__]):
        continue
    print("--", case.__name__, flush=True)
    try:  # 10. every process ends by itself within 10 s, with 0: see Talk.end and piped
        case()
    except (OSError, subprocess.TimeoutExpired) as e:
        check(False, f"{case.__name__}: {e}")
print(f"terminal: {results.count(True)} passed, {results.count(False)} failed")
sys.exit(False in results)
