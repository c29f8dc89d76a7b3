"""book.py LLAMA MODEL PAGE: makes the source one HTML page, prose left and code right.

The prose is the comments of llama.c, and of llama.h for the functions that it declares. A comment that begins in the
first column explains the code after it, up to the next such comment or the next function. The numbers are what
LLAMA traces in MODEL for one sentence. The page needs no other file, no script and no font.

An error of the page is an error here: a name in STEPS that forward() or the trace does not have, for example."""
import html
import json
import os
import re
import struct
import subprocess
import sys
import tempfile

SENTENCE = "The king had three sons"
PYTORCH = "tests/examples/pytorch.py"
HEAT_MAPS = (1, 3)  # the layers whose probabilities are drawn
FOLDED = ("IV", "V", "VI", "IX", "X")  # the parts that are closed at first, and are not printed

# The steps of forward(): a piece of its line, which is there once; Meta's names of what the line computes, without
# "layers.N."; our function; an equation and a note for each name.
STEPS = [
    ("embed(s, s->x", ["tok_embeddings"], "embed", "x = E[token]", "a row of the table of embeddings"),
    ("&w->attention_norm", ["attention_norm"], "rmsnorm", "h = x / sqrt(mean(x^2) + eps) * attention_norm",
     "each row is scaled to a root mean square of 1, then each column by its weight"),
    ("&w->wq", ["attention.wq"], "matmul", "q = wq h", "the queries, all heads side by side"),
    ("&w->wk", ["attention.wk"], "matmul", "k = wk h", "the keys"),
    ("&w->wv", ["attention.wv"], "matmul", "v = wv h", "the values"),
    ("\"attention.xq\"", ["attention.xq"], "rope", "(a, b) = (a cos - b sin, a sin + b cos)",
     "each pair (a, b) of q is rotated by position * theta^(-2j/head_dim); position 0 stays as it is"),
    ("\"attention.xk\"", ["attention.xk"], "rope", "(a, b) = (a cos - b sin, a sin + b cos)",
     "the same for k; store_kv then writes k and v into the KV cache"),
    ("attention(s, s->mixed", ["attention.scores", "attention.probs", "attention.output"], "attention",
     ["scores = q K^T / sqrt(head_dim)", "probs = softmax(scores)", "h = probs V"],
     ["a matrix for each head, with a row for each token; the score of a position after the token is -infinity",
      "each row sums to 1", "the values mixed by probs, all heads side by side"]),
    ("&w->wo", ["attention.wo"], "matmul", "block_out = wo h", "what attention adds to the residual stream"),
    ("add(s, \"h\"", ["h"], "add", "x = x + block_out",
     "the residual stream after attention"),
    ("&w->ffn_norm", ["ffn_norm"], "rmsnorm", "h = x / sqrt(mean(x^2) + eps) * ffn_norm", ""),
    ("&w->w1", ["feed_forward.w1"], "matmul", "gate = w1 h", ""),
    ("&w->w3", ["feed_forward.w3"], "matmul", "up = w3 h", ""),
    ("swiglu(s, s->gate", ["feed_forward.silu", "feed_forward.gated"], "swiglu",
     ["silu(gate) = gate / (1 + exp(-gate))", "gate = silu(gate) * up"], ["", ""]),
    ("&w->w2", ["feed_forward.w2"], "matmul", "block_out = w2 gate", "what the feed-forward adds to the residual stream"),
    ("add(s, \"\"", [""], "add", "x = x + block_out", "the residual stream after the layer"),
    ("&m->norm", ["norm"], "rmsnorm", "h = x / sqrt(mean(x^2) + eps) * norm", ""),
]
OUTPUT = ("matmul(s, logits, &m->output", ["output"], "output", "logits = output h",
          "computed by output(), in part VII, for the rows whose logits are needed: here the last")
OUTSIDE = ("tok_embeddings", "norm", "output")  # the names without a layer


def fail(text):
    sys.exit(f"book.py: {text}")


# ---- Reading the source ----

class Chunk:
    """A comment and the code after it: text is the comment, code the lines, line the number of the first of them."""

    def __init__(self, text="", line=0):
        self.text, self.code, self.line = text, [], line
        self.functions = []  # (name, anchor)
        self.types = []

    def empty(self):
        return not self.text and not any(line.strip() for line in self.code)


class Part:
    """Holds the chunks between two banners, by sections: (title, anchor, chunks)."""

    def __init__(self, number, title):
        self.number, self.title = number, title
        self.sections = [("", "", [])]

    def chunks(self):
        return [c for section in self.sections for c in section[2]]


def comment_text(lines):
    """Returns the text of a comment without its stars, as lines."""
    text = "\n".join(lines).strip()
    text = text[2:-2]  # without the slashes
    return "\n".join(re.sub(r"^ ?\*? ?", "", line).rstrip() if i else line.strip()
                     for i, line in enumerate(text.split("\n"))).strip("\n")


def function_name(lines, i):
    """Returns the name of the function whose definition begins with line i, or None if none does."""
    if not re.match(r"(?!typedef|enum|#|_Static_assert|else)[A-Za-z_]", lines[i]):
        return None
    head = ""
    for line in lines[i:i + 12]:
        head += line + "\n"
        if re.search(r"[;{]", line):
            break
    head = re.sub(r"__attribute__\(\(.*?\)\)\s*", "", re.sub(r"/\*.*?\*/", "", head, flags=re.S), flags=re.S)
    found = re.match(r"[^;={]*?(FN\(\w+\)|\b(?!FN\()\w+)\s*\([^;={]*\)\s*\{", head)
    return found.group(1) if found else None


def anchor_of(name):
    return re.sub(r"\W+", "-", name).strip("-")


def read_source(path):
    """Returns the parts of a C file. What precedes the first banner is the part called "head"."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    parts = [Part("head", "The head of the file")]
    chunk, i = Chunk(line=1), 0
    anchors = {}

    def close(text="", line=0):
        nonlocal chunk
        if not chunk.empty():
            parts[-1].sections[-1][2].append(chunk)
        chunk = Chunk(text, line)

    while i < len(lines):
        line = lines[i]
        if line.startswith("/* ===="):
            close()
            number, title = re.match(r"/\* ([IVX]+)\. (.*?) *\*/", lines[i + 1]).groups()
            parts.append(Part(number, title))
            i += 3
        elif line.startswith("/* ----"):
            close()
            title = line[len("/* ---- "):].split(" ---- */")[0]
            parts[-1].sections.append((title, f"part-{parts[-1].number}-{anchor_of(title)}".lower(), []))
            i += 1
        elif line.startswith("/*"):
            end = i
            while not lines[end].rstrip().endswith("*/"):
                end += 1
            close(comment_text(lines[i:end + 1]), end + 2)
            i = end + 1
        else:
            name = function_name(lines, i)
            if name:
                if chunk.functions and not re.match(r"\S.*\}$", line) or chunk.types:
                    close(line=i + 1)
                count = anchors[name] = anchors.get(name, 0) + 1
                chunk.functions.append((name, f"fn-{anchor_of(name)}" + (f"-{count}" if count > 1 else "")))
            if re.match(r"(typedef )?(struct|enum)\b.*\{", line) and chunk.code and not lines[i - 1].strip():
                close(line=i + 1)
            found = re.match(r"(?:typedef )?(?:struct|enum) (\w+) \{|\} (\w+);$", line)
            if found:
                chunk.types += {found.group(1) or found.group(2)} - set(chunk.types)
            if not chunk.line or not chunk.code and not line.strip():
                chunk.line = i + 1 + (not line.strip())
            if chunk.code or line.strip():
                chunk.code.append(line)
            i += 1
    close()
    return parts, lines


def read_interface(path):
    """Returns the comment that llama.h has on each function: {name: text}."""
    comments = {}
    with open(path, encoding="utf-8") as file:
        source = file.read()
    for comment, names in re.findall(r"^(/\*(?:(?!\*/).)*?\*/)\n((?:LLAMAC_API [^;]*;\n)+)", source, re.M | re.S):
        for name in re.findall(r"LLAMAC_API [^;(]*?(\w+)\(", names):
            comments[name] = comment_text(comment.split("\n"))
    return comments


# ---- Prose ----

class Links:
    """What names link to."""

    def __init__(self, parts):
        self.functions, self.types = {}, {}
        self.parts = {part.number for part in parts}
        for part in parts:
            for chunk in part.chunks():
                for name, anchor in chunk.functions:
                    self.functions.setdefault(name, anchor)
                for name in chunk.types:
                    self.types.setdefault(name, chunk)

    def find(self, name):
        return self.functions.get(name) or self.find_type(name)

    def find_type(self, name):
        return f"type-{name}" if self.types.get(name) and not self.types[name].functions else None


def typeset(text, times=False):
    """Returns HTML of a piece of mathematics that is written in ASCII."""
    text = re.sub(r"\^\(([^()]*)\)", r"<sup>\1</sup>", text)
    text = re.sub(r"\^(-?\w+)", r"<sup>\1</sup>", text)
    text = re.sub(r"\bsqrt\(", "√(", text)
    text = re.sub(r"\bsum_(\w)\b", r"Σ<sub>\1</sub>", text)
    text = re.sub(r"\btheta\b", "θ", text)
    text = re.sub(r"(?<=\d) pi\b|(?<=n )pi\b|\bpi(?=/)", "π", text)
    text = text.replace(" &lt;= ", " ≤ ").replace(" &gt;= ", " ≥ ").replace(" - ", " − ") \
        if times else text.replace(" &lt;= ", " ≤ ")
    return re.sub(r" [*.] ", " · ", text) if times else text


def prose(text, links):
    """Returns HTML of a sentence or more: names of the source in type, and linked where they are defined."""
    def name(match):
        word = match.group(0)
        bare = re.sub(r"\(\)$", "", word)
        target = links.find(bare)
        shown = f"<code>{word}</code>"
        return f'<a href="#{target}">{shown}</a>' if target else shown

    text = html.escape(text, quote=False).replace("-&gt;", "->")
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", text)
    pieces = re.split(r"(<code>.*?</code>)", text)
    for i in range(0, len(pieces), 2):
        piece = re.sub(r"FN\(\w+\)|\b\w+(?:(?:->|\.)\w+)*->\w+(?:\[\w*\])*|\b[a-zA-Z0-9]*[a-z0-9]_\w+\b(?:\(\))?|\b[a-z]\w*\(\)|\b[A-Z]{2,}_[A-Z_0-9]+\b",
                       name, typeset(pieces[i]))
        piece = re.sub(r"\b([Pp]art(?:s)?) ([IVX]+)\b",
                       lambda m: f'<a href="#part-{m.group(2)}">{m.group(0)}</a>' if m.group(2) in links.parts else m.group(0), piece)
        pieces[i] = re.sub(r"arXiv:(\d+\.\d+)", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', piece)
    return "".join(pieces).replace("->", "-&gt;")


def table(lines, links):
    """Returns HTML of an indented block: a table whose columns are where most lines have two spaces or more."""
    rows = []
    for line in lines:
        cells = [(m.start(), m.group(0)) for m in re.finditer(r"\S+(?: \S+)*", line)]
        if len(cells) > 1 and (cells[1][1].startswith("= ") or re.fullmatch(r"[IVX]+\.", cells[0][1])):  # "x    = ..."
            cells[:2] = [(cells[0][0], f"{cells[0][1]} {cells[1][1]}")]
        rows.append(cells)
    columns = [at for at, _ in max(rows, key=len)]
    base = min(row[0][0] for row in rows)
    out = []  # [indent, {column: text}]
    for row in rows:
        if len(row) == 1 and out:  # a cell of the line above goes on: its column's, or an item of a list
            at, last = row[0][0], out[-1][1]
            goes_on = min(last, key=lambda c: abs(columns[c] - at))
            item = 0 in last and re.match(r"(-|\d+\.) ", last[0]) and at > base + out[-1][0]
            if item or goes_on > 0 and at >= columns[1] - 1:
                last[goes_on] += " " + row[0][1]
                continue
        placed, least = {}, 0
        for at, text in row:
            nearest = min(range(len(columns)), key=lambda c: abs(columns[c] - at))
            if not placed and at < (columns + [10 ** 6])[1] - 2:
                nearest = 0
            nearest = max(nearest, least)
            placed[nearest], least = text, nearest + 1
        out.append([row[0][0] - base if 0 in placed else 0, placed])
    count = max(max(placed) for _, placed in out) + 1
    body = ""
    for indent, placed in out:
        cells = ""
        for c in range(count):
            text = prose(placed.get(c, ""), links)
            if re.search(r"\S \+?= ", placed.get(c, "")):
                text = f'<span class="eq">{typeset(text, times=True)}</span>'
            pad = f' style="padding-left:{indent / 2}em"' if c == 0 and indent else ""
            span = f' colspan="{count}"' if len(placed) == 1 and c == 0 and 0 in placed and count > 1 else ""
            cells += f"<td{pad}{span}>{text}</td>"
            if span:
                break
        body += f"<tr>{cells}</tr>"
    return f'<div class="scroll"><table class="list">{body}</table></div>'


EQUATION = re.compile(r"(?:\w+(?:\[\w+\])*(?:, \w+)*|\([a-z, ]+\)) \+?= "
                      r"(?:(?!\. |: | {3}| with | for each | for some | over the |, where | for 0 |; ).)+")


def paragraph(text, links):
    """Returns HTML of a paragraph. An equation at its beginning gets a line of its own."""
    found = EQUATION.match(text)
    if not found or found.end() < 8 or len(found.group(0)) > 90:
        return f"<p>{prose(text, links)}</p>"
    rest = text[found.end():].strip()
    out = f'<p class="eq">{typeset(html.escape(found.group(0).rstrip(".,"), quote=False), times=True)}</p>'
    return out + (f"<p>{prose(rest.lstrip('.:; '), links)}</p>" if rest.strip(".:; ") else "")


def comment(text, links):
    """Returns HTML of a comment: paragraphs, and tables where lines are indented."""
    out, lines = [], text.split("\n")
    i = 0
    while i < len(lines):
        if not lines[i].strip():
            i += 1
            continue
        indented = lines[i].startswith("  ")
        end = i
        while end < len(lines) and lines[end].strip() and lines[end].startswith("  ") == indented:
            end += 1
        if indented:
            out.append(table(lines[i:end], links))
        else:
            out.append(paragraph(" ".join(lines[i:end]), links))
        i = end
    return "\n".join(out)


# ---- Code ----

KEYWORDS = set("""auto bool break case char const continue default do double else enum extern float for goto if inline int
int32_t int64_t long NULL ptrdiff_t restrict return short signed size_t sizeof static struct switch true false typedef uint16_t
uint32_t uint64_t union unsigned void volatile while""".split())
TOKEN = re.compile(r'(?P<comment>/\*.*?\*/|//[^\n]*)|(?P<text>"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\')|(?P<macro>^ *#\w+)'
                   r'|(?P<kernel>FN\(\w+\))|(?P<word>[A-Za-z_]\w*)|(?P<rest>.)', re.S | re.M)


def code(chunk, links):
    """Returns HTML of a chunk's code, each line with its number, calls linked to what they call."""
    lines = chunk.code
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    source, out = "\n".join(lines), []
    own = {name for name, _ in chunk.functions}
    for match in TOKEN.finditer(source):
        kind, word = match.lastgroup, match.group(0)
        shown = html.escape(word, quote=False)
        before, after = source[:match.start()].rstrip()[-2:], source[match.end():match.end() + 2].lstrip()
        if kind == "comment":
            shown = f"<em>{shown}</em>"
        elif kind == "text":
            shown = f"<samp>{shown}</samp>"
        elif kind == "macro" or word in KEYWORDS:
            shown = f"<b>{shown}</b>"
        elif kind in ("kernel", "word"):
            target = None
            if before.endswith((".", "->")):  # a kernel is called through a struct
                target = links.functions.get(f"FN({word})") if after.startswith("(") and "kernels" in source[:match.start()][-12:] else None
            elif word in own:
                at_head = re.search(r"(^|\n)[^ \n#/][^\n]*$", source[:match.start()])
                target = None
                shown = f"<strong>{shown}</strong>" if at_head and after.startswith("(") else shown
            elif after.startswith("(") or "_" in word:
                target = links.find(word) if after.startswith("(") or word in links.functions else links.find_type(word)
            if target and word not in chunk.types:
                shown = f'<a href="#{target}">{shown}</a>'
        out.append(shown)
    numbered, number = "", chunk.line
    for line in "".join(out).split("\n"):
        numbered += f'<i id="L{number}">{number}</i>{line}\n'
        number += 1
    return f"<pre>{numbered}</pre>" if lines else ""


def rows(chunk, links, interface, extra=""):
    """Returns HTML of a chunk: prose left, code right."""
    out = ""
    for name, anchor in chunk.functions:
        out += f'<h4 id="{anchor}"><a href="#{anchor}">{html.escape(name)}</a></h4>'
    for name in chunk.types:
        if links.types[name] is chunk and not chunk.functions:
            out += f'<h4 id="type-{name}"><a href="#type-{name}">{name}</a></h4>'
    out += comment(chunk.text, links)
    for name, _ in chunk.functions:
        if name in interface:
            out += f'<p class="from">llama.h says of <code>{name}</code>:</p>' + comment(interface[name], links)
    wide = " wide" if not chunk.code or len(chunk.text) > 400 + 120 * len(chunk.code) else ""  # the code is under the prose
    return f'<div class="row{wide}"><div class="prose">{out}{extra}</div><div class="code">{code(chunk, links)}</div></div>\n'


# ---- What the tiny model computes ----

def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        fail(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def read_npy(path):
    """Returns (shape, numbers) of a float32 array in NumPy's format, version 1 or 2."""
    with open(path, "rb") as file:
        data = file.read()
    wide = data[6] > 1
    start = (12 if wide else 10) + struct.unpack_from("<I" if wide else "<H", data, 8)[0]
    header = data[10:start].decode("latin-1")
    shape = tuple(int(n) for n in re.search(r"'shape': \(([^)]*)\)", header).group(1).split(",") if n.strip())
    count = 1
    for n in shape:
        count *= n
    if "'<f4'" not in header or len(data) != start + 4 * count:
        fail(f"{path} is not a complete array of float32")
    return shape, struct.unpack_from(f"<{count}f", data, start)


class Trace:
    """What the model computes for the sentence."""

    def __init__(self, llama, model):
        self.tokens = [int(t) for t in run(llama, "tokenize", model, SENTENCE, "--bos").split()]
        self.texts = [run(llama, "tokenize", model, "--special", "--decode", str(t)).strip("\n") for t in self.tokens]
        self.arrays = {}
        with tempfile.TemporaryDirectory() as folder:
            run(llama, "trace", model, SENTENCE, "--npy", folder)
            for name in os.listdir(folder):
                self.arrays[name[: -len(".npy")]] = read_npy(f"{folder}/{name}")
        self.layers = 1 + max(int(name.split(".")[1]) for name in self.arrays if name.startswith("layers."))
        answer = run(llama, model, SENTENCE, "-n", "1", "--temp", "0", "--json", "--logprobs", "5", "-q")
        self.next = [(t["text"], t["logprob"]) for t in json.loads(answer.split("\n")[0])["logprobs"][0]["top"]]

    def names(self, name):
        """Returns the names of the arrays of a step: one, or one for each layer."""
        if name in OUTSIDE:
            return [name]
        return [f"layers.{layer}.{name}".rstrip(".") for layer in range(self.layers)]


def full(name):
    return name if name in OUTSIDE else f"layers.N.{name}".rstrip(".")


def name_anchor(name):
    return "tiny-" + full(name)


def figures(trace, name):
    """Returns HTML of the first numbers of an array, in each layer: of row 0 and, after RoPE, of row 1, which is the first
    that it rotates. Of scores and probabilities: of the last row of head 0."""
    out = ""
    for each in trace.names(name):
        shape, x = trace.arrays.get(each) or fail(f"the trace has no {each}")
        seen = [v for v in x if abs(v) < float("inf")]
        rms = (sum(v * v for v in seen) / len(seen)) ** 0.5
        first = (shape[1] - 1) * shape[2] if len(shape) == 3 else 0
        numbers = " ".join(f"{v:.4f}" for v in x[first:first + 4])
        if name in ("attention.xq", "attention.xk"):
            numbers += " …<br>row 1: " + " ".join(f"{v:.4f}" for v in x[shape[1]:shape[1] + 4])
        layer = f"<td>{each.split('.')[1]}</td>" if name not in OUTSIDE else ""
        out += f"<tr>{layer}<td class=\"num\">{numbers} …</td><td class=\"num\">{rms:.4f}</td></tr>"
    layer = "<th>layer</th>" if name not in OUTSIDE else ""
    return f'<div class="scroll"><table class="figures"><tr>{layer}<th>first numbers</th><th>rms</th></tr>{out}</table></div>'


def heat_map(trace, layer):
    """Returns an SVG of a layer's probabilities: a square for each head, a row for each token."""
    shape, x = trace.arrays[f"layers.{layer}.attention.probs"]
    heads, n, positions = shape
    out, cell, left, top = "", 15, 46, 20
    size = cell * positions
    for h in range(heads):
        squares = ""
        for t in range(n):
            for j in range(t + 1):
                p = x[(h * n + t) * positions + j]
                says = f"{trace.texts[t]} looks at {trace.texts[j]}: {p:.2f}"
                squares += (f'<rect x="{left + cell * j}" y="{top + cell * t}" width="{cell - 1}" height="{cell - 1}" '
                            f'fill-opacity="{p:.2f}"><title>{html.escape(says)}</title></rect>')
            squares += (f'<text x="{left - 4}" y="{top + cell * t + 11}" text-anchor="end">'
                        f"{html.escape(trace.texts[t].strip())}</text>")
        grid = "".join(f"M{left} {top + cell * t}h{cell * min(t + 1, positions)}" f"M{left + cell * t} {top + cell * t}V{top + size}"
                       for t in range(n)) + f"M{left} {top + size}h{size}V{top + size - cell}"
        out += (f'<svg viewBox="0 0 {left + size + 4} {top + size + 4}" role="img" aria-label="layer {layer}, head {h}">'
                f'<text x="{left}" y="13">head {h}</text><path d="{grid}"/>{squares}</svg>')
    return f'<figure><div class="maps">{out}</div><figcaption>Layer {layer}. A row is a token that looks back, a column ' \
           f"a position that it looks at; full colour is probability 1.</figcaption></figure>"


def tiny_chapter(trace, places, links):
    """Returns HTML of the chapter on the numbers."""
    cells = "".join(f"<tr><td>{i}</td><td>{t}</td><td><code>{html.escape(text)}</code></td></tr>"
                    for i, (t, text) in enumerate(zip(trace.tokens, trace.texts)))
    heads, dim, hidden = (trace.arrays[f"layers.0.{name}"][0][at] for name, at in
                          (("attention.probs", 0), ("h", 1), ("feed_forward.w1", 1)))
    out = f"""<p>These are the numbers of our own small model (<code>tests/tiny</code>: {trace.layers} layers, {heads} heads of
{dim // heads} elements, dim {dim}, hidden {hidden}) for the sentence “{html.escape(SENTENCE)}”. They come from
<code>./llama trace tests/tiny "{html.escape(SENTENCE)}"</code>; with <code>--npy DIR</code> each array is a file that
<code>numpy.load</code> reads. An array of shape [{len(trace.tokens)}, {dim}] has a row for each token. “First numbers” are those of
row 0, or in attention's scores and probabilities those of the last row of head 0: a row per token, a number per position. rms is the
root mean square of the whole array, without the scores of -infinity.</p>
<table class="figures"><tr><th>position</th><th>token</th><th>text</th></tr>{cells}</table>"""
    for piece, names, function, equations, notes in STEPS + [OUTPUT]:
        for i, name in enumerate(names):
            shape = list(trace.arrays.get(trace.names(name)[0], ((),))[0]) or fail(f"the trace has no {name}")
            equation, says = (equations, notes) if isinstance(equations, str) else (equations[i], notes[i])
            where = "output()" if piece == OUTPUT[0] else "forward()"
            target = links.functions[function]
            out += f"""<section class="step"><h3 id="{name_anchor(name)}"><a href="#{name_anchor(name)}">{full(name)}</a></h3>
<p class="eq">{typeset(html.escape(equation, quote=False), times=True)}</p>
<p>{prose(says[:1].upper() + says[1:] + ". " if says else "", links)}Shape {shape}.
<a href="#L{places[name]}">{where}, line {places[name]}</a>; <a href="#{target}"><code>{function}()</code></a>.</p>
{figures(trace, name)}"""
            if name == "attention.probs":
                out += "".join(heat_map(trace, layer) for layer in HEAT_MAPS)
            out += "</section>\n"
    best = "".join(f"<tr><td><code>{html.escape(text)}</code></td><td class=\"num\">{2.718281828459045 ** p:.3f}</td></tr>"
                   for text, p in trace.next)
    return out + f"""<section class="step"><h3 id="next-token">The next token</h3><p>The softmax of the last row of
<code>output</code> gives the probability of each next token. These are the five most likely.
<a href="#{links.functions['distribute']}"><code>distribute()</code></a> applies temperature and filters, and
<a href="#{links.functions['draw_token']}"><code>draw_token()</code></a> draws.</p>
<table class="figures"><tr><th>next token</th><th>probability</th></tr>{best}</table></section>"""


# ---- The same steps in PyTorch ----

NOTES = {
    "tok_embeddings": "A row of any element type is widened to float32, exactly.",
    "attention_norm": "The mean of the squares is a dot product of x with itself, in the defined order of a sum (part III). "
                      "The weight is the last factor.",
    "attention.wq": "n rows at once: a prompt and a single token take the same line. Weights stay in the file's type; "
                    "x and all sums are float32.",
    "attention.xq": "Meta's pairs are neighbours, (0, 1), (2, 3) and so on, in place. Hugging Face's code pairs element j with "
                    "j + head_dim/2: files in its form have the rows of wq and wk in another order. pair_up reorders the outputs, "
                    "not the weights. The angles were computed before, once for each row (set_row): in float32, their sines in double.",
    "attention.xk": "After the rotation store_kv copies k and v into the KV cache, so that a key is rotated once only.",
    "attention.scores": "PyTorch computes all positions and masks the later ones. Here the loops of a row end at its own position: "
                        "scores of later ones, which later rows need, are not read. Heads that share keys read the "
                        "same cache: nothing is repeated in memory.",
    "attention.probs": "The highest score of the row is subtracted first. exp is exp_float, the same on all machines.",
    "attention.output": "Values are added in the order of their positions. The heads lie side by side afterwards; no transpose is needed.",
    "attention.wo": "",
    "h": "The sums of a matmul are complete before they are added to x.",
    "feed_forward.silu": "swiglu does both steps in one loop, in place.",
    "": "x is the only thing that goes from layer to layer.",
    "norm": "Only rows whose logits are needed come here: select_rows drops the others in the last layer. A trace keeps all.",
    "output": "This is after forward(). A prompt needs the logits of its last token only.",
}


def pytorch_chapter(places, lines, links):
    """Returns HTML of PyTorch's lines beside ours. A line of PYTORCH belongs to the step that it names."""
    with open(PYTORCH, encoding="utf-8") as file:
        theirs = file.read().split("\n")
    helpers = "\n".join(theirs)
    helpers = helpers[helpers.index("def rmsnorm"):helpers.index('x = step("tok_embeddings"')].strip().replace("\n\n\n", "\n\n")
    out = f"""<p>The left column is <code>{PYTORCH}</code>, which runs: it computes each step and compares it with what
<code>./llama trace MODEL TEXT --npy DIR</code> wrote. The right column is the line of ours that computes the same. Its number leads to
the source, and the name to the numbers of the tiny model.</p>
<div class="pair"><div class="code"><pre>{html.escape(helpers, quote=False)}</pre></div></div>"""
    for piece, names, function, _, _ in STEPS + [OUTPUT]:
        found = []
        for name in names:
            at = [line.strip() for line in theirs if f'= step("{name}",' in line]
            if len(at) != 1:
                fail(f"{PYTORCH} computes {name or 'layers.N'} {len(at)} times, not once")
            found += at
        number = places[names[0]]
        ours = re.sub(r" *(/\*.*)?$", "", lines[number - 1].strip())
        note = " ".join(NOTES[name] for name in names if NOTES.get(name))
        named = ", ".join(f'<a href="#{name_anchor(name)}">{full(name)}</a>' for name in names)
        shown = html.escape("\n".join(found), quote=False)
        out += f"""<div class="pair"><div class="code"><p class="label">PyTorch</p><pre>{shown}</pre></div>
<div class="code"><p class="label">llama.c</p><pre><a href="#L{number}">{number}</a>  {html.escape(ours, quote=False)}</pre></div>
<p class="note">{named}, by <a href="#{links.functions[function]}"><code>{function}()</code></a>. {prose(note, links)}</p></div>\n"""
    return out


# ---- The page ----

def find_places(lines):
    """Returns the number of the line that computes each name: in forward(), and in output()."""
    def body(head):
        first = next((i for i, line in enumerate(lines) if line.startswith(head) and ";" not in line), None)
        if first is None:
            fail(f"llama.c has no {head}")
        return first, lines.index("}", first)

    places = {}
    for group, head in ((STEPS, "static size_t forward("), ([OUTPUT], "static int output(")):
        first, last = body(head)
        for piece, names, *_ in group:
            found = [i for i in range(first, last) if piece in lines[i] + "\n"]
            if len(found) != 1:
                fail(f"{head}...) has {len(found)} lines with {piece!r}, not one")
            for name in names:
                places[name] = found[0] + 1
    return places


def trace_names(places):
    """Returns HTML of the names that the lines of forward() have in a trace, for the prose beside it."""
    out = ""
    for _, names, *_ in STEPS + [OUTPUT]:
        line = places[names[0]]
        named = "<br>".join(f'<a href="#{name_anchor(name)}">{full(name)}</a>' for name in names)
        out += f'<tr><td><a href="#L{line}">{line}</a></td><td>{named}</td></tr>'
    return ('<p>The lines, and the names of what they compute in a trace. A number leads to the line, and a name to what the tiny '
            f'model computes there:</p><table class="names">{out}</table>')


def contents(parts):
    """Returns HTML of the list of parts, sections and functions."""
    out = """<li><a href="#pytorch">The same steps in PyTorch</a></li><li><a href="#tiny">One sentence through the tiny model</a></li>"""
    for part in parts:
        inner = ""
        for title, anchor, chunks in part.sections:
            functions = {}  # a function that there is for each system has its first place here
            for chunk in chunks:
                for name, at in chunk.functions:
                    functions.setdefault(name, at)
            links = ", ".join(f'<a href="#{at}">{html.escape(name)}</a>' for name, at in functions.items())
            head = f'<a class="section" href="#{anchor}">{html.escape(title)}</a>' if title else ""
            if head or links:
                inner += f"<li>{head}{': ' if head and links else ''}{links}</li>"
        number = "" if part.number == "head" else f"{part.number}. "
        entry = f'<a href="#part-{part.number}">{number}{html.escape(part.title)}</a>'
        opened = "" if part.number in FOLDED else " open"
        out += f"<li><details{opened}><summary>{entry}</summary><ul>{inner}</ul></details></li>" if inner else f"<li>{entry}</li>"
    return f'<nav aria-label="Contents"><h2 id="contents">Contents</h2><ul class="toc">{out}</ul></nav>'


def page(parts, lines, interface, trace):
    links, places = Links(parts), find_places(lines)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "book.css"), encoding="utf-8") as file:
        style = file.read()
    out = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>llama.c, annotated</title><style>{style}</style></head><body>
<header><h1>llama.c, annotated</h1>
<p class="lead">LLaMA on a CPU, in C. This page is the source of the library, <code>llama.c</code>, with its own comments as
prose on the left and the code on the right. Begin with <a href="#{links.functions['forward']}">forward()</a>: it is all of LLaMA.
If you know PyTorch, begin with <a href="#pytorch">the same steps in PyTorch</a>. To see numbers, follow
<a href="#tiny">one sentence through the tiny model</a>. Names in the code lead to what they name.</p>
{contents(parts)}</header><main>
<h2 id="pytorch">The same steps in PyTorch</h2>
{pytorch_chapter(places, lines, links)}
<h2 id="tiny">One sentence through the tiny model</h2>
{tiny_chapter(trace, places, links)}
"""
    for part in parts:
        number = "" if part.number == "head" else f"{part.number}. "
        out += f'<h2 id="part-{part.number}">{number}{html.escape(part.title)}</h2>\n'
        folded = part.number in FOLDED
        if folded:
            out += f'<details class="part"><summary>Open part {part.number}: {len(part.chunks())} pieces of code, not needed to follow forward()</summary>\n'
        for title, anchor, chunks in part.sections:
            if title:
                out += f'<h3 id="{anchor}">{html.escape(title)}</h3>\n'
            for chunk in chunks:
                extra = trace_names(places) if ("forward", "fn-forward") in chunk.functions else ""
                out += rows(chunk, links, interface, extra)
        out += "</details>\n" if folded else ""
    return out + '</main><a class="top" href="#contents">Contents</a></body></html>\n'


def main():
    if len(sys.argv) != 4:
        fail("give LLAMA, MODEL and PAGE")
    parts, lines = read_source("llama.c")
    text = page(parts, lines, read_interface("llama.h"), Trace(sys.argv[1], sys.argv[2]))
    os.makedirs(os.path.dirname(sys.argv[3]) or ".", exist_ok=True)
    with open(sys.argv[3], "w", encoding="utf-8") as file:
        file.write(text)
    print(f"{sys.argv[3]}: {len(text.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
