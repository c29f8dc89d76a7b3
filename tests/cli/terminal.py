"""terminal.py LLAMA MODEL [--case NAME]: the conversation (LLAMA MODEL -i) as a person at a terminal has it.
The command gets a pseudo-terminal, its controlling one: ^C typed into it is SIGINT. The echo and stderr come from it.
In a Talk stdout is a pipe and has the replies alone, so there is no line editor. In an Edit stdout is the terminal, and a
small model of a screen says what a person sees there. What the model writes is arbitrary, but with --temp 0 always the
same: replies are compared with replies."""
import codecs, contextlib, fcntl, json, os, re, select, signal, struct, subprocess, sys, tempfile, termios, time, unicodedata

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

class Row(list):
    wrapped = False  # the next row continues this one

def columns_of(char):
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1

class Screen:
    """What a terminal with this many columns and rows shows. The rows that have scrolled away stay in `lines`."""

    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.lines, self.top, self.y, self.x = [Row()], 0, 0, 0
        self.pending, self.unknown = "", []
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def down(self):
        self.y += 1
        if self.y == len(self.lines):
            self.lines.append(Row())
        self.top = max(self.top, self.y - self.rows + 1)

    def put(self, char):
        width, row = columns_of(char), self.lines[self.y]
        if width == 0 and self.x:
            row[self.x - 1 - (row[self.x - 1] == "")] += char
            return
        if self.x + width > self.columns:
            row.wrapped = True
            self.down()
            self.x, row = 0, self.lines[self.y]
        row.extend(" " * (self.x + width - len(row)))
        row[self.x:self.x + width] = [char] + [""] * (width - 1)
        self.x += width

    def erase(self):
        del self.lines[self.y][self.x:]
        self.lines[self.y].wrapped = False

    def sequence(self, text):
        number = int(re.sub("[^0-9]", "", text) or 1)
        if text[-1] == "A":
            self.y = max(self.y - number, self.top)
        elif text[-1] == "C":
            self.x = min(self.x + number, self.columns - 1)
        elif text in ("[K", "[J"):
            self.erase()
            for y in range(self.y + 1, len(self.lines) if text == "[J" else 0):
                self.lines[y] = Row()
        elif text == "[H":
            self.y, self.x = self.top, 0
        elif text == "[2J":
            self.lines[self.top:] = [Row() for _ in self.lines[self.top:]]
        elif text not in ("[?2004h", "[?2004l"):
            self.unknown.append(text)

    def feed(self, data):
        for char in self.decode(data):
            if self.pending:
                self.pending += char
                if len(self.pending) > 2 and "@" <= char <= "~" or len(self.pending) == 2 and char != "[":
                    self.sequence(self.pending[1:])
                    self.pending = ""
            elif char == "\x1b":
                self.pending = char
            elif char == "\r":
                self.x = 0
            elif char == "\n":
                self.down()
            elif char == "\b":
                self.x -= 1
            elif char < " ":
                self.unknown.append(char)
            else:
                self.put(char)

    def resize(self, columns):
        """Wrap again what was wrapped, as terminals do that reflow."""
        old, self.columns = self.lines, columns
        self.lines, self.pending, at, more = [Row()], "", None, False
        x, y, self.y, self.x = self.x, self.y, 0, 0
        for i, row in enumerate(old):
            cells = [c for c in row if c] if i != y else row
            for k, cell in enumerate(cells):
                if (i, k) == (y, x):
                    at = self.y, self.x
                for char in cell:
                    self.put(char)
            if i == y and at is None:
                at = self.y + (self.x + x - len(row)) // columns, (self.x + x - len(row)) % columns
            if not row.wrapped and i + 1 < len(old):
                self.x = 0
                self.down()
        self.top = max(0, len(self.lines) - self.rows)
        self.y, self.x = at
        self.lines.extend(Row() for _ in range(self.y + 1 - len(self.lines)))

    def text(self, begin=0):
        """The lines, each in one piece."""
        out = ""
        for row in self.lines[begin:]:
            out += "".join(row) if row.wrapped else "".join(row).rstrip() + "\n"
        return out.rstrip("\n")

class Talk:
    """A conversation on a terminal. Leaving the `with` ends it, if it has not ended, and its exit code must be 0."""

    def __init__(self, *options, screen=False, term="xterm", columns=80, rows=24, before=()):
        self.master, self.slave = os.openpty()
        self.screen = Screen(columns, rows)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.mode = termios.tcgetattr(self.slave)
        pipe, stdout = (self.master, self.slave) if screen else os.pipe()
        self.child = subprocess.Popen([*before, *command(options)], stdin=self.slave, stdout=stdout, stderr=self.slave,
                                      env=dict(os.environ, TERM=term), start_new_session=True,
                                      preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        if stdout != self.slave:
            os.close(stdout)
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
                self.screen.feed(got if fd == self.master else b"")
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
        self.is_restored()

    def is_restored(self):
        check(termios.tcgetattr(self.slave) == self.mode, "the terminal's mode is what it was", self.seen)
        check(self.seen.count(b"\x1b[?2004h") == self.seen.count(b"\x1b[?2004l"), "marks around pasted text are off", self.seen)

    __enter__ = lambda self: self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None and self.child.returncode is None:
                self.end()
        finally:
            self.child.kill()  # nothing, where it has ended
            self.child.wait()
            os.close(self.slave)

def replies(lines, *options):
    """The reply to each line, as they come through a pipe. A newline in a line gets a backslash in front."""
    lines = [line.replace(b"\n", b"\\\n") for line in lines]
    ends = [len(piped(lines[:n], *options)) for n in range(len(lines))]
    whole = piped(lines, *options)
    return [whole[a:b].decode() for a, b in zip(ends, [*ends[1:], len(whole)])]

class Edit(Talk):
    """A conversation in the line editor."""

    def __init__(self, *options, sign=">", **how):
        self.sign = sign
        super().__init__(*options, screen=True, **how)
        self.ready()

    def ready(self, seconds=20):
        self.until(lambda: self.screen.text().endswith("\n" + self.sign), "prompt sign", seconds)
        self.shown = len(self.screen.text())

    def type(self, *keys):
        """Press keys, each when the one before has been drawn."""
        for key in keys:
            for i in range(0, len(key), 256):
                os.write(self.master, key[i:i + 256])
                self.read(0)
            self.settle()

    def settle(self):
        """Wait until nothing comes any more."""
        seen = -1
        while seen < len(self.seen):
            seen = len(self.seen)
            self.read(0.08)

    def enter(self, *keys, seconds=20):
        """Press keys and Enter, and wait for the next prompt. Returns what is new on the screen."""
        self.type(*keys)
        shown = self.shown
        os.write(self.master, b"\r")
        self.until(lambda: self.screen.text().endswith("\n" + self.sign) and len(self.screen.text()) > shown + 1, "prompt sign", seconds)
        self.ready()
        return self.screen.text()[shown - len(self.sign):-len(self.sign) - 1]

    def send(self, data):
        os.write(self.master, data)

    def row(self):
        return "".join(self.screen.lines[self.screen.y]).rstrip()

LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = (b"\x1b[" + key for key in (b"D", b"C", b"A", b"B", b"H", b"F", b"3~"))
paste = lambda text: b"\x1b[200~" + text.replace(b"\n", b"\r") + b"\x1b[201~"

def editing():  # cursor keys, words, the rest of the line, also in characters of two columns and with accents
    cases = {
        "cursor keys": ((b"The kng said", *[LEFT] * 7, b"i"), "The king said"),
        "the ends": ((b"king", HOME, b"The ", END, b" sad", LEFT, b"i", b"\x05", b"!", b"\x01", DELETE, b"t"), "the king said!"),
        "application keys": ((b"ing", b"\x1bOH", b"k", b"\x1bOF", b"s"), "kings"),
        "backspace": ((b"The kingg\x7f saidd\x08",), "The king said"),
        "Ctrl-B, F, D": ((b"abXc", b"\x02\x02", b"\x04", b"\x06", b"d"), "abcd"),
        "Ctrl-K": ((b"The king was old", *[LEFT] * 4, b"\x0b", b" sad"), "The king was sad"),
        "Ctrl-U": ((b"wrong The king", *[LEFT] * 8, b"\x15"), "The king"),
        "Ctrl-W": ((b"The king old  \x17said",), "The king said"),
        "words": ((b"one two three", b"\x1b[1;5D", b"\x1bb", b"X", b"\x1bf", b"Y", b"\x1b[1;5C", b"Z"), "one XtwoY threeZ"),
        "double width": (("你好世界".encode(), LEFT, LEFT, b"\x7f", "们".encode(), RIGHT, b"!"), "你们世!界"),
        "emoji": (("a🙂b🙂".encode(), LEFT, b"\x7f", b"c", b"\x02\x02", b"d"), "ad🙂c🙂"),
        "combining": (("xe\u0301y".encode(), LEFT, b"\x7f", b"a", HOME, RIGHT, "\u0308".encode()), "x\u0308ay"),
        "byte by byte": (tuple(bytes([b]) for b in "é你🙂".encode()), "é你🙂"),
        "control characters": ((b"a\x07b", paste(b"c\x1b[2J\x03\x9bd")), "abc^[[2J^C<9B>d"),
        "unknown control keys": ((b"a\x19b\x12c\x14d\x0fe\x00f\tg",), "abcdef\tg"),
        "unknown keys": ((b"a\x1b[15~b\x1b[1;2Pc\x1bxd\x1b[99;99;99;99;99;99;99u" + b"e",), "abcde"),
        "a sequence alone": ((b"ab\x1b", b"c"), "abc"),
    }
    with Edit("-n", "4") as t:
        for name, (keys, line) in cases.items():
            t.type(*keys)
            check(t.row() == f"> {line}".expandtabs(), f"{name}: {line!r} is on the screen: {t.row()!r}", t.seen)
            check(not t.screen.unknown, f"{name}: nothing else reaches the screen: {t.screen.unknown}", t.seen)
            if name == "control characters":
                t.type(b"\x15")
                continue
            new = t.enter()
            want = f"> {line}\n".expandtabs() + replies([line.encode()], "-n", "4")[0]
            check(new.rstrip() == want.rstrip(), f"{name}: {want!r} is said: {new!r}", t.seen)
            t.enter(b"/reset")

def history():  # up and down; what was begun is kept
    with Edit() as t:
        t.enter(WOODCUTTER)
        t.enter(PRINCESS)
        t.enter(b"/reset")
        t.type(b"draft", UP, UP)
        check(t.row() == "> " + PRINCESS.decode(), "two up", t.seen)
        t.type(UP, UP, UP)
        check(t.row() == "> " + WOODCUTTER.decode(), "the first line is the last of them", t.seen)
        t.type(b"\x0e", DOWN, DOWN, DOWN)
        check(t.row() == "> draft", "what was begun comes again", t.seen)
        new = t.enter(b"\x10\x10", b"!")
        check(new.startswith("> " + PRINCESS.decode() + "!\n" + replies([PRINCESS + b"!"])[0].rstrip()), "a line is said again", new.encode())
        t.enter(b"/reset")
        t.type(UP, UP)
        check(t.row() == "> " + PRINCESS.decode() + "!", "as it was changed", t.seen)
        t.type(b"\x15")

def pasting():  # newlines in what is pasted end no turn; 10 KB; what a terminal would act on
    text = b"The king and the queen went to the house of the old man.\n" * 3
    with Edit("-c", "4000") as t:
        t.type(paste(text), b"and")
        rows = t.screen.text().split("\n")[-4:]
        line = text.decode().split("\n")[0]
        check(rows == ["> " + line, "| " + line, "| " + line, "| and"], "the rows are on the screen", t.seen)
        new = t.enter()
        want = replies([text + b"and"], "-c", "4000")[0]
        check(new.rstrip().endswith("| and\n" + want.rstrip()), f"one reply: {want!r}", new.encode())
    long = (text * 60)[:10000]
    with Edit("-c", "4096", "-n", "8") as t:
        t.type(paste(long))
        check(len(t.screen.lines) - t.screen.top <= 24 and t.row().startswith("| "), "the end of a long line is on the screen", t.seen)
        t.type(LEFT * 3, b"X", b"\x7f", END)
        new = t.enter(seconds=60)
        want = replies([long], "-c", "4096", "-n", "8")[0].rstrip()
        check(new.rstrip().endswith(want), f"10 KB get one reply: {want!r}", new.encode())
        check(new.replace("\n| ", "\n").startswith("> " + long.decode().rstrip()), "all of it stays on the screen", new.encode())
        t.enter(b"/undo")
        check("there is no line" in t.enter(b"/undo"), "no turn but one", t.seen)
        new = t.enter(b"\x1b[200~one\\\r\ntwo\r\nthree\x1b[201~")
        check(new.startswith("> one\\\n| two\n| three\n"), "CR LF is a newline, a backslash in it stays", new.encode())

def long_line():  # a line of more than 4,095 bytes
    text = b"The king and the queen went to the house of the old man. " * 100
    with Edit("-c", "4096", "-n", "8") as t:
        new = t.enter(text[:4999], seconds=60)
        want = replies([text[:4999]], "-c", "4096", "-n", "8")[0]
        check(new.rstrip() == ("> " + text[:4999].decode() + "\n" + want).rstrip(), "a reply to 4,999 bytes", new.encode())

def backslash():  # a line goes on after a backslash at its end, in the editor, without it and through a pipe
    text = b"There was once\na king"
    want = replies([text])[0]
    completion = [LLAMA, MODEL, "-p", text.decode() + "\n", "--temp", "0", "-n", "24"]
    alone = subprocess.run(completion, stdin=subprocess.DEVNULL, capture_output=True, timeout=30).stdout.decode()
    check(alone.rstrip() == want.rstrip() != "", f"the lines are one text: {alone!r}", want.encode())
    with Edit() as t:
        t.type(b"There was once\\\r")
        check(t.row() == "|", "the second row has begun", t.seen)
        new = t.enter(b"a king")
        check(new.rstrip() == f"> There was once\n| a king\n{want}".rstrip(), f"the lines are one: {want!r}", new.encode())
        t.type(UP)
        check(t.row() == "| a king", "and one in the history", t.seen)
        t.type(b"\x15")
    with Talk() as t:
        t.send(b"There was once\\\r")
        t.expect(b"| ")
        check(t.say(b"a king").decode() == want, "without the editor the same", t.out)

def undo_retry():  # a turn back; the reply again with the next seed
    def said(lines, seed):
        return replies(lines, "--temp", "1", "-s", str(seed))
    with Edit("--temp", "1", "-s", "7") as t:
        first = t.enter(WOODCUTTER)
        check(first.rstrip() == f"> {WOODCUTTER.decode()}\n{said([WOODCUTTER], 7)[0]}".rstrip(), "seed 7", first.encode())
        for seed in (8, 9):
            again = t.enter(b"/retry")
            check(again.rstrip().endswith(said([WOODCUTTER], seed)[0].rstrip()) and f"seed {seed}" in again, f"/retry: seed {seed}", again.encode())
        second = t.enter(PRINCESS)
        check(second.rstrip() == f"> {PRINCESS.decode()}\n{said([WOODCUTTER, PRINCESS], 9)[1]}".rstrip(), "goes on after the last", second.encode())
        check("removed" in t.enter(b"/undo"), "/undo is acknowledged", t.seen)
        check(t.enter(PRINCESS) == second, "/undo and the same line: the same reply", t.seen)
        t.enter(b"/undo")
        t.enter(b"/undo")
        check("there is no line" in t.enter(b"/undo"), "no turn to take back", t.seen)
        check("there is no line" in t.enter(b"/retry"), "none to repeat", t.seen)
        new = t.enter(PRINCESS)
        check(new.rstrip().endswith(said([PRINCESS], 9)[0].rstrip()), "as from the start", new.encode())
    lines, options = [WOODCUTTER, PRINCESS], ("--temp", "1", "-s", "7")
    by_pipe = piped([WOODCUTTER, PRINCESS, b"/undo", PRINCESS, b"/retry"], *options).decode()
    want = said(lines, 7) + said(lines, 7)[1:]
    check(by_pipe.startswith("".join(want)) and len(by_pipe) > len("".join(want)), "through a pipe the same", by_pipe.encode())

def screen_of():  # greeting, prompt and prefixes are shown; commands are acknowledged
    system = ("-e", "-p", "A fox lived\\nby the sea.", "--in-prefix", "\\nAnn: ", "--in-suffix", "\\nBob:")
    with Edit(*system, sign="> Ann:") as t, tempfile.TemporaryDirectory() as folder:
        shown = t.screen.text().split("\n")
        check(len(shown) == 4 and "/help" in shown[0] and "Ctrl-D" in shown[0], "a greeting of one line", t.seen)
        check(shown[1:] == ["A fox lived", "by the sea.", "> Ann:"], f"the prompt and the prefix: {shown}", t.seen)
        new = t.enter(b"Who?")
        want = piped([b"Who?"], *system).decode().rstrip()
        check(new.rstrip() == f"> Ann: Who?\nBob:{want}", f"prefix, line, suffix, reply: {want!r}", new.encode())
        stats = t.enter(b"/stats")
        used = re.search(r"positions +([0-9]+) of ([0-9]+)", stats)
        check(used and 10 < int(used[1]) < int(used[2]), "/stats counts positions", stats.encode())
        for command, words in ((b"/help", ("/undo", "/retry", "/save FILE")), (b"/save " + os.fsencode(folder) + b"/s", ("saved in", "positions")),
                               (b"/reset", ("removed", "positions")), (b"/load " + os.fsencode(folder) + b"/s", ("loaded", used and used[1] or "?")),
                               (b"/nothing", ("no such chat command", "/help"))):
            new = t.enter(command)
            check(all(w in new for w in words), f"{command!r} is acknowledged with {words}", new.encode())
            check("Bob:" not in new, f"{command!r} is not sent", new.encode())
    with Edit("-q", "-p", "A fox") as t:
        check(t.screen.text() == "A fox\n>", "-q: no greeting", t.seen)

def interrupts_of_the_editor():  # ^C in a line, in a reply, at the prompt; ^D in a line; SIGINT
    with Edit("-n", "-1", "--ignore-eos", "--kernels", "scalar", "-t", "1") as t:
        t.type(b"half a line")
        t.send(b"\x03")
        t.until(lambda: t.screen.text().endswith("> half a line^C\n>"), "a new prompt", 5)
        t.send(b"\x03")
        t.until(lambda: t.screen.text().endswith("^C\n> ^C\n>"), "a new prompt", 5)
        t.type(b"ab", b"\x04", LEFT, b"\x04")
        check(t.row() == "> a", "^D deletes in a line", t.seen)
        os.kill(t.child.pid, signal.SIGINT)
        t.until(lambda: t.screen.text().endswith("> a^C\n>"), "a new prompt", 5)
        t.ready()
        for line in (WOODCUTTER, PRINCESS):
            shown = len(t.screen.text())
            t.send(line + b"\r")
            t.until(lambda: len(t.screen.text()) > shown + 120, "a reply", 20)
            t.send(b"\x03")
            t.ready(2)
        check("full" not in t.screen.text(), "^C stops a reply", t.seen)
        t.end(b"\x04")

def restored():  # the terminal's mode comes back, whatever ends the process or stops it
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGSEGV):
        with Edit() as t:
            t.type(b"half a line")
            check(termios.tcgetattr(t.slave) != t.mode, "the editor has its own mode", t.seen)
            os.kill(t.child.pid, number)
            check(t.child.wait(10) == -number, f"signal {number} ends it", t.seen)
            t.settle()
            t.is_restored()
    with Edit("-n", "-1", "--ignore-eos", "--kernels", "scalar", "-t", "1") as t:
        t.send(PRINCESS + b"\r")
        t.until(lambda: len(t.screen.text()) > t.shown + 100, "a reply", 20)
        os.kill(t.child.pid, signal.SIGTERM)
        check(t.child.wait(10) == -signal.SIGTERM, "SIGTERM in a reply", t.seen)
        t.settle()
        t.is_restored()
    shell = ["sh", "-c", 'set -m; "$0" "$@"; stty -a >&2; echo stopped; read x; fg >/dev/null; echo ended']
    with Talk(screen=True, before=shell) as t: # Ctrl-Z and fg
        t.until(lambda: t.screen.text().endswith("\n>"), "prompt sign", 20)
        for data in (b"half a", b"\x1a"):
            os.write(t.master, data)
            t.read(0.2)
        t.until(lambda: "stopped" in t.screen.text(), "the shell", 10)
        stty = t.screen.text().split("half a")[-1]
        check({"icanon", "echo", "isig"} <= set(stty.split()), "stopped, with the shell's mode", t.seen)
        os.write(t.master, b"\n")
        t.until(lambda: t.screen.text().endswith("> half a"), "the line again", 10)
        os.write(t.master, b" line\r")
        want = replies([b"half a line"])[0].rstrip()
        t.until(lambda: t.screen.text().endswith(f"> half a line\n{want}\n\n>") or t.screen.text().endswith(f"> half a line\n{want}\n>"), "the reply", 10)
        os.write(t.master, b"\x04")
        t.until(lambda: t.screen.text().endswith("ended"), "the end", 10)
        check(t.child.wait(10) == 0, "ends well", t.seen)
        t.is_restored()

def resize():  # the line is drawn again; 40 columns, rows that are full, characters at the edge
    text = "The old man went into the forest with 你好世界, his wife and both of their children"
    for first, second in ((80, 40), (40, 80), (40, 33), (31, 40)):
        with Edit("-n", "8", columns=first) as t:
            t.type(text.encode(), *[LEFT] * 20)
            t.screen.resize(second)
            fcntl.ioctl(t.slave, termios.TIOCSWINSZ, struct.pack("4H", 24, second, 0, 0))
            os.killpg(os.getpgid(t.child.pid), signal.SIGWINCH)
            t.type(b"X", b"\x7f")
            got = t.screen.text().split("\n")
            check(got[-1] == "> " + text and len(got) == 2, f"{first} to {second} columns: the line: {got}", t.seen)
            new = t.enter(b"\x05", b".")
            check(new.startswith(f"> {text}.\n"), f"{first} to {second} columns: the line: {new!r}", t.seen)
    with Edit("-n", "4", columns=40) as t:
        for size in (37, 38, 39, 77, 78, 79):
            line = ("The king " * 20)[:size - 1] + "x"
            t.type(line.encode())
            check(t.screen.text().split("\n")[-1].strip() == "> " + line, f"{size} characters: {line!r}", t.seen)
            t.type(LEFT, LEFT, b"\x7f", b"y", HOME, b"z", b"\x7f", END)
            line = line[:-3] + "y" + line[-2:]
            check(t.screen.text().split("\n")[-1].strip() == "> " + line, f"{size} characters, changed: {line!r}", t.seen)
            new = t.enter()
            check(new.startswith(f"> {line}\n"), f"{size} characters, said: {new!r}", t.seen)
            t.enter(b"/reset")
        line = "a" * 37 + "你" + "b" * 37 + "你"
        t.type(line.encode(), LEFT, LEFT, b"\x7f")
        check(t.screen.text().split("\n")[-1].strip().replace(" ", "") == ">" + line[:-3] + line[-2:], "two columns at the edge", t.seen)
        t.type(END, b"\x15")

def few_rows():  # a line that is longer than the screen
    text = " ".join(f"word{i}" for i in range(200))
    with Edit("-n", "4", columns=40, rows=6) as t:
        t.type(text.encode())
        check(t.row() == text[-len(t.row()):], f"its end is on the screen: {t.row()!r}", t.seen)
        t.type(HOME)
        check(t.row().startswith("> word0"), f"its begin is on the screen: {t.row()!r}", t.seen)
        t.type(b"X", END)
        for _ in range(20):
            t.type(b"Y", b"\x7f")
        check(len(t.screen.lines) < 30, f"nothing scrolls away: {len(t.screen.lines)} rows", t.seen)
        new = t.enter()
        check(("> X" + text) in new, "all of it stays on the screen", new.encode())

def dumb():  # TERM=dumb, and stdout elsewhere: the terminal's own lines, no escape sequence
    for options, how in (((), dict(screen=True, term="dumb")), ((), dict(term="xterm")), (("-p", "A fox lived by the sea.\n"), dict(screen=True, term="dumb"))):
        with Talk(*options, **how) as t:
            t.say(PRINCESS)
            t.say(b"/undo")
            check(termios.tcgetattr(t.slave) == t.mode, "the terminal's mode is left alone", t.seen)
            t.end(b"\x04")
            check(b"\x1b" not in t.seen + t.out, f"no escape sequence: {how}", t.seen + t.out)
    for line in (b"/help", b"/undo", b"/stats", b"/retry"):
        run = subprocess.run(command(()), input=PRINCESS + b"\n" + line + b"\n", capture_output=True, timeout=30, env=dict(os.environ, TERM="xterm"))
        check(run.returncode == 0 and b"\x1b" not in run.stdout + run.stderr, f"{line!r} through pipes: no escape sequence", run.stdout + run.stderr)

def prompt_at_once():  # the prompt is evaluated before the first line, with a bar; ^C leaves that to the first reply
    with tempfile.TemporaryDirectory() as folder:
        prompt = os.path.join(folder, "long")
        with open(prompt, "wb") as f:
            f.write(b"The king and the queen went to the house of the old man. " * 400)
        slow = ("-f", prompt, "-c", "8000", "-t", "1", "--kernels", "scalar", "-n", "4")
        with Talk(*slow, screen=True, columns=200) as t:
            t.expect(b"prompt", 30)
            t.until(lambda: b"%" in t.seen[t.mark:], "a bar", 10)
            os.write(t.master, b"\x03")
            t.until(lambda: t.screen.text().endswith("\n>"), "prompt sign", 5)
            check("interrupted" in t.screen.text(), "^C ends the evaluation", t.seen)
            t.mark = len(t.seen)
            t.end(b"\x04")

def growth():  # nothing grows with the turns
    def peak(turns, *options):
        text = b"/reset\nThe king\n" * turns
        child = subprocess.Popen(command((*options, "-n", "1", "-c", "64", "-t", "1")), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        child.stdin.write(text)
        child.stdin.close()
        _, status, usage = os.wait4(child.pid, 0)
        check(status == 0, f"{turns} turns", b"")
        return usage.ru_maxrss
    for options in ((), ("--ignore-eos",)):
        few, many = peak(500, *options), peak(4000, *options)
        check(many - few < 600, f"{options}: 3,500 more turns take {many - few} KB more")

def turns():  # 1, 2. a reply to each line, in the context of all before; by pipes the same, and nothing else
    with Talk() as t:
        said = [t.say(WOODCUTTER), t.say(PRINCESS)]
        t.end()
        check(all(len(r) > 9 and r.endswith(b"\n") for r in said), "two replies, each with a newline", t.out)
        check(said[1] != piped([PRINCESS]), "the second turn knows of the first", t.out)
        by_pipe = piped([WOODCUTTER, PRINCESS])
        check(t.out == by_pipe, f"by pipes the same replies: {by_pipe!r}", t.out)
    with Edit() as t:
        for line, reply in zip((WOODCUTTER, PRINCESS), said):
            new = t.enter(line)
            check(new.rstrip() == f"> {line.decode()}\n{reply.decode()}".rstrip(), f"the screen shows {reply!r}", t.seen)

def guesses():  # what is guessed changes no byte, in the editor and without, in a chat whose text repeats itself
    with tempfile.TemporaryDirectory() as half:  # a draft model that is right half of the time
        for name in ("consolidated.00.pth", "tokenizer.model"):
            os.symlink(os.path.abspath(os.path.join(MODEL, name)), os.path.join(half, name))
        with open(os.path.join(MODEL, "params.json"), encoding="ascii") as from_file, open(os.path.join(half, "params.json"), "w", encoding="ascii") as to:
            to.write(from_file.read().replace("1e-06", "0.03"))
        chat = (WOODCUTTER, WOODCUTTER, PRINCESS, WOODCUTTER, b"/retry", PRINCESS, b"/undo", PRINCESS)
        options = ("-n", "60", "--temp", "0.3", "-s", "8", "--ignore-eos", "-c", "1000")
        said, shown, made = {}, {}, {}
        ways = ((), ("--no-lookup",), ("--draft", MODEL), ("--draft", half), ("--draft", half, "--no-lookup"))
        for way in ways:
            with Talk(*options, *way) as t:
                said[way] = [t.say(line, 60) for line in chat]
                t.say(b"/stats")
                counts = re.search(rb"([0-9]+) of ([0-9]+) guesses came true", t.last)
            made[way] = int(counts[2]) if counts else -1
            with Edit(*options, *way) as t:
                for line in chat:
                    t.enter(line, seconds=60)
                shown[way] = t.screen.text()
        check(made["--no-lookup",] == 0 and sum(made.values()) > 0, f"guesses, if they are on: {made}")
        check(len(b"".join(said[()])) > 1000, "a long chat", b"".join(said[()]))
        for way in ways[1:]:
            check(said[way] == said[()], f"{way}: the same replies: {b''.join(said[()])[-300:]!r}", b"".join(said[way]))
            check(shown[way] == shown[()], f"{way}: the same screen: {shown[()][-300:]!r}", shown[way].encode())

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

def one_end():  # what is typed ends with one ^D, wherever it is read; without -f - nothing is read
    def typed(*arguments, keys=b"The king\n\x04"):
        master, slave = os.openpty()
        child = subprocess.Popen([LLAMA, *arguments], stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        os.write(master, keys)
        try:
            return child.communicate(timeout=10)[0], child.returncode
        except subprocess.TimeoutExpired:
            child.kill()
            return child.communicate()[0], "it still waits"
        finally:
            os.close(master)
            os.close(slave)
    for arguments in ([MODEL, "-f", "-", "-n", "5"], ["tokenize", MODEL, "-f", "-"], ["ppl", MODEL, "-"], ["trace", MODEL, "-f", "-"],
                      ["score", MODEL, "-f", "-"]):
        seen, code = typed(*arguments, keys=b"0\tThe king\t was\t sat\n\x04")
        check(code == 0 and seen, f"{arguments}: {code}", seen)
    for arguments, words in (([MODEL], b"no text: give a quoted argument"), (["ppl", MODEL], b"no text: give a FILE")):
        seen, code = typed(*arguments)
        check(code == 2 and words in seen and b"-f - reads what is typed" in seen, f"{arguments}: refused, {code}", seen)

def long_score(repeats, columns, *options, term="xterm", begin=False):
    """What a terminal of so many columns sees of it; with `begin`, only how it begins."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    slow = [] if begin else ["--kernels", "scalar"]
    child = subprocess.Popen([LLAMA, "score", MODEL, "-t", "1", *slow, *options],
                             stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=slave, env=dict(os.environ, TERM=term))
    os.close(slave)
    child.stdin.write(b"0\t%s\t who lived alone\t king\n" % WOODCUTTER * repeats)
    child.stdin.close()
    seen = b""
    with contextlib.suppress(OSError):  # a terminal without another side
        while got := os.read(master, 65536):
            seen += got
            if begin and b"[" in seen:  # the first bar is complete
                child.kill()
    os.close(master)
    check(child.wait(60) == (-signal.SIGKILL if begin else 0), "a long score", seen)
    return seen

def bars():  # what takes long shows how far it is, and how long it takes; not with -q
    for quiet in (False, True):
        seen = long_score(90, 0, *(["-q"] if quiet else []))
        check(bool(re.search(rb"\rscore +[0-9]+% \[#* *\] [0-9]+ s left", seen)) != quiet, f"a bar, if not with -q ({quiet})", seen)
        check(seen == b"" if quiet else seen.endswith(b"\r\033[K"), "which is wiped away", seen)
    seen = long_score(20000, 0, begin=True)
    check(bool(re.search(rb"\rscore +[0-9]+% \[", seen)) and b"left" not in seen, "no time left before it can be estimated", seen)
    seen = long_score(90, 0, term="dumb")
    check(seen == b"", "no bar on a dumb terminal", seen)

def narrow():  # a bar fits the terminal, however wide it is
    for columns, room in ((40, True), (25, False), (80, True), (0, True)):
        seen = long_score(90, columns)
        lines = seen.replace(b"\033[K", b"").split(b"\r")
        check(any(b"s left" in line for line in lines), f"{columns} columns: a bar", seen)
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
    with Edit(*slow) as t:
        new, want = t.enter(WOODCUTTER, seconds=60), replies([WOODCUTTER], *slow)[0]
        check(new.rstrip() == f"> {WOODCUTTER.decode()}\n{want}".rstrip(), f"no bar after the first token: {want!r}", t.seen)

def interrupted_save():  # 11. ^C while /save evaluates: no file, and the conversation goes on
    with tempfile.TemporaryDirectory() as folder:
        file, prompt = os.path.join(folder, "unsaved"), os.path.join(folder, "long")
        with open(prompt, "wb") as f:
            f.write(b"The king and the queen went to the house of the old man. " * 400)
        with Talk("-f", prompt, "-c", "8000", "-t", "1", "--kernels", "scalar", "-n", "4") as t:
            t.expect(b"prompt", 30)  # the bar of the prompt
            t.until(lambda: b"%" in t.seen[t.mark:], "a bar", 10)
            os.write(t.master, b"\x03")  # leaves the rest to /save
            t.expect(b"> ", 10)
            t.send(b"/save " + os.fsencode(file) + b"\r")
            t.until(lambda: b"%" in t.seen[t.mark:], "a bar", 10)
            t.send(b"\x03")
            t.expect(b"is not written")
            t.expect(b"> ")
            check(not os.path.exists(file), "nothing is saved", t.seen)
            t.say(b"/reset")

for case in (bars, narrow, one_end, signals, turns, guesses, long_reply, interrupted_save, interrupts, commands, end_of_input, unicode, long_lines, full, stops, editing,
             history, pasting, long_line, backslash, undo_retry, screen_of, interrupts_of_the_editor, restored, resize, few_rows, dumb,
             prompt_at_once, growth):
    if sys.argv[3:] not in ([], ["--case", case.__name__]):
        continue
    print("--", case.__name__, flush=True)
    try:  # 10. every process ends by itself within 10 s, with 0: see Talk.end and piped
        case()
    except (OSError, subprocess.TimeoutExpired) as e:
        check(False, f"{case.__name__}: {e}")
print(f"terminal: {results.count(True)} passed, {results.count(False)} failed")
sys.exit(False in results)
