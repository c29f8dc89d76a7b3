"""check_book.py LLAMA MODEL [--case NAME]: the page that book.py makes is whole, true and readable.

With BOOK=FILE in the environment, that page is checked and none is made."""
import html.parser
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import book  # noqa: E402: the sentence and the names
import browser  # noqa: E402

PARTS = ("I", "II", "VII", "VIII")  # of which the contents name every function
WORK = "build/work/book"
PAGE = os.environ.get("BOOK", f"{WORK}/index.html")
MAX_BYTES, MAX_SECONDS, MIN_CONTRAST = 3_000_000, 10, 4.5
counts = {True: 0, False: 0}


def check(ok, text):
    counts[bool(ok)] += 1
    if not ok:
        print(f"FAIL: {text}")


class Page(html.parser.HTMLParser):
    """What a page holds. Errors of its structure are in `errors`."""
    VOID = {"meta", "br", "path", "rect"}

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.contents, self.errors, self.open, self.texts = {}, [], [], [], [], {}
        self.anchor = ""  # the last heading or section with an id
        with open(path, encoding="utf-8") as file:
            self.source = file.read()
        self.feed(self.source)
        if self.open:
            self.errors.append(f"not closed: {self.open}")

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.handle_data(" ")
        if tag in ("script", "link", "img", "iframe", "object", "base") or {"src", "srcset", "onload"} & set(attrs):
            self.errors.append(f"<{tag}> may load or run something")
        if "id" in attrs:
            if attrs["id"] in self.ids:
                self.errors.append(f"id {attrs['id']} is there twice")
            self.ids[attrs["id"]] = tag
            if tag != "i":
                self.anchor = attrs["id"]
        if "href" in attrs:
            self.links.append(attrs["href"])
            if "nav" in self.open:
                self.contents.append(attrs["href"])
            self.texts.setdefault(self.anchor, "")
            self.texts[self.anchor] += f" <{attrs['href']}> "
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.errors.append(f"</{tag}> at {self.getpos()} closes {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data):
        self.texts[self.anchor] = self.texts.get(self.anchor, "") + data


def case_build(llama, model):
    """The page is made quickly, by Python's standard library alone, and is small."""
    if "BOOK" not in os.environ:
        start = time.monotonic()
        made = subprocess.run([sys.executable, "-I", "-S", "tests/tools/book.py", llama, model, PAGE], capture_output=True, text=True,
                              check=False, stdin=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        check(made.returncode == 0, f"book.py: {made.stderr}")
        check(seconds < MAX_SECONDS, f"book.py takes {seconds:.1f} s")
    size = os.path.getsize(PAGE)
    check(100_000 < size < MAX_BYTES, f"the page has {size} bytes")


def case_links(llama, model):
    page = Page(PAGE)
    for error in page.errors[:5]:
        check(False, error)
    check(not re.search(r"url\(|@import|@font-face", page.source), "the style loads something")
    broken = sorted({link for link in page.links if link.startswith("#") and link[1:] not in page.ids})
    check(not broken, f"links to nothing: {broken[:5]}")
    outside = sorted({link for link in page.links if not re.match(r"#.|https://arxiv\.org/abs/\d{4}\.\d{5}$", link)})
    check(not outside, f"links of another kind: {outside[:5]}")
    check(len(page.links) > 1000, f"there are {len(page.links)} links only")


def part_of_line():
    """Returns the part of each line of llama.c, by number, from 1 on."""
    parts, current = [None], "head"
    with open("llama.c", encoding="utf-8") as file:
        for line in file:
            found = re.match(r"/\* ([IVX]+)\. ", line)
            current = found.group(1) if found else current
            parts.append(current)
    return parts


def case_functions(llama, model):
    """The compiler's own list of the functions that llama.c defines, against the contents."""
    aux = f"{WORK}/functions"
    os.makedirs(WORK, exist_ok=True)
    done = subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-fsyntax-only", "-aux-info", aux, "llama.c"], capture_output=True,
                          text=True, check=False)
    if done.returncode or not os.path.exists(aux):
        print("SKIP: functions (cc has no -aux-info: it is not gcc)")
        return
    parts, page = part_of_line(), Page(PAGE)
    with open(aux, encoding="utf-8") as file:
        defined = re.findall(r"^/\* (?:\./)?llama\.c:(\d+):.F \*/ .*?(\w+) \(", file.read(), re.M)
    found = {number: 0 for number in PARTS}
    for line, name in defined:
        part = parts[int(line)]
        if part in PARTS:
            found[part] += 1
            check(f"#fn-{name}" in page.contents and page.ids.get(f"fn-{name}") == "h4", f"{name}, line {line}, is not in the contents")
    for part, count in found.items():
        check(count >= 3, f"the compiler names {count} functions in part {part}")


def case_names(llama, model):
    """Each name of a trace leads to its line and to the numbers that the trace prints."""
    printed = subprocess.run([llama, "trace", model, book.SENTENCE], capture_output=True, text=True, check=True,
                             stdin=subprocess.DEVNULL).stdout.splitlines()
    page = Page(PAGE)
    with open("llama.c", encoding="utf-8") as file:
        lines = file.read().split("\n")
    check(len(printed) > 40, f"the trace has {len(printed)} lines")
    for line in printed:
        name, shape, first = re.match(r"(\S+) +(\[.*?\]).* first (.*)", line).groups()
        text = page.texts.get("tiny-" + re.sub(r"^layers\.\d+", "layers.N", name))
        if text is None:
            check(False, f"{name} is not in the page")
            continue
        check(f"Shape {shape}." in text, f"{name} has the shape {shape}, the page says: {text[:300]}")
        if shape.count(",") == 1:
            want, shown = [float(v) for v in first.split()], [float(v) for v in re.findall(r"-?\d+\.\d{4}", text)]
            check(any(all(abs(a - b) < 6e-5 for a, b in zip(want, shown[i:i + 4])) for i in range(len(shown) - 3)),
                  f"{name} begins {first}, the page says: {text[:300]}")
        number = re.search(r"<#L(\d+)>", text)
        code = lines[int(number.group(1)) - 1] if number else ""
        check(number and f"L{number.group(1)}" in page.ids and re.search(r"\(s, .*\);", code), f"{name} leads to {code!r}")
        weight = name.split(".")[-1]
        check(weight not in ("wq", "wk", "wv", "wo", "w1", "w2", "w3") or f"&w->{weight}," in code, f"{name} leads to {code!r}")


def case_pytorch(llama, model):
    """The PyTorch that the page shows agrees with our trace, and each line of it is in the page."""
    with open(book.PYTORCH, encoding="utf-8") as file:
        source = file.read()
    with open(PAGE, encoding="utf-8") as file:
        shown = html.unescape(file.read())
    steps = [line.strip() for line in source.split("\n") if "= step(" in line]
    check(len(steps) >= 20, f"{book.PYTORCH} has {len(steps)} steps")
    for line in steps:
        check(line in shown, f"the page does not show {line}")
    folder = f"{WORK}/npy"
    trace = subprocess.run([llama, "trace", model, book.SENTENCE, "--npy", folder], capture_output=True, text=True, check=False,
                           stdin=subprocess.DEVNULL)
    check(trace.returncode == 0, f"llama trace --npy: {trace.stderr}")
    tokens = subprocess.run([llama, "tokenize", model, book.SENTENCE, "--bos"], capture_output=True, text=True, check=True,
                            stdin=subprocess.DEVNULL).stdout.split()
    done = subprocess.run(["sh", "tests/tools/python.sh", "torch,numpy", book.PYTORCH, model, folder, *tokens], capture_output=True,
                          text=True, check=False, stdin=subprocess.DEVNULL)
    if done.stdout.startswith("SKIP"):
        print(done.stdout.strip())
        return
    check(done.returncode == 0, f"{book.PYTORCH}: {done.stdout[-300:]}{done.stderr[-300:]}")


# Everything that is wider than the window, unless something around it scrolls
WIDE = """(() => { const found = [], width = document.documentElement.clientWidth;
  for (const e of document.querySelectorAll('body *')) {
    if (e.getBoundingClientRect().right <= width + 1) continue;
    let box = e.parentElement;
    while (box && getComputedStyle(box).overflowX == 'visible') box = box.parentElement;
    if (!box || box == document.documentElement || box == document.body) found.push(e.tagName + ' ' + e.textContent.slice(0, 60));
  }
  return {page: document.documentElement.scrollWidth, width, found}; })()"""

# The lowest contrast of a text with what is under it (WCAG 2: relative luminance), and that text
CONTRAST = """(() => { let worst = [99, '', ''], seen = 0;
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || e.tagName == 'title') continue;
    const style = getComputedStyle(e), ink = parse(e.closest('svg') ? style.fill : style.color).slice(0, 3);
    let under = e, paper = [0, 0, 0, 0];
    while (under && (paper = parse(getComputedStyle(under).backgroundColor)).length == 4 && paper[3] == 0) under = under.parentElement;
    if (!under) paper = [255, 255, 255];
    const a = light(ink), b = light(paper.slice(0, 3)), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen++;
    if (ratio < worst[0]) worst = [ratio, text.slice(0, 60), e.tagName + ' ' + ink + ' on ' + paper];
  }
  return {worst, seen}; })()"""


def case_browser(llama, model):
    """In a browser: nothing overflows, and all text has the contrast of WCAG AA, in both colour schemes and on paper."""
    if not browser.find():
        print("SKIP: browser (no chromium here)")
        return
    window = browser.Browser()
    for width, medium in ((1400, "screen"), (400, "screen"), (700, "print")):
        for scheme in ("light", "dark"):
            how = f"at {width} pixels, {scheme}, {medium}"
            window.open(PAGE, width, scheme, medium)
            window.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            wide = window.evaluate(WIDE)
            check(wide["width"] == width, f"{how}: the window has {wide['width']} pixels")
            check(wide["page"] <= width and not wide["found"], f"{how}: {wide['page']} pixels wide; {wide['found'][:3]}")
            contrast = window.evaluate(CONTRAST)
            check(contrast["seen"] > 10000, f"{how}: {contrast['seen']} texts only")
            check(contrast["worst"][0] >= MIN_CONTRAST, f"{how}: contrast {contrast['worst']}")
    window.open(PAGE, 1400)  # a link into a folded part opens it
    opened = window.evaluate("location.hash = 'fn-rope_freqs', document.getElementById('fn-rope_freqs').closest('details').open")
    check(opened, "a link into a folded part does not open it")
    window.close()


def main():
    llama, model = sys.argv[1:3]
    only = sys.argv[4] if len(sys.argv) > 4 else None
    if only and only != "build" and not os.path.exists(PAGE):
        case_build(llama, model)
    for name in ("build", "links", "functions", "names", "pytorch", "browser"):
        if only in (None, name):
            print(f"-- {name}", flush=True)
            globals()[f"case_{name}"](llama, model)
    print(f"--\nbook: {counts[True]} passed, {counts[False]} failed")
    sys.exit(counts[False] > 0 or not counts[True])


if __name__ == "__main__":
    main()
