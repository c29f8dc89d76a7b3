"""exercises.py LLAMA MODEL [--case NAME]: the solutions of README's exercises work: each patch is applied to a copy of
the sources, and its trace is compared with that of LLAMA: what has to change does, and nothing else does."""
import math
import os
import shutil
import subprocess
import sys

sys.path.insert(0, "tests/tools")
from book import SENTENCE, read_npy  # noqa: E402

WORK = "build/work/exercises"
SOURCES = ("llama.c", "llama.h", "tokenizer.c", "main.c")
counts = {True: 0, False: 0}
llama, model = sys.argv[1:3]


def check(ok, text):
    counts[bool(ok)] += 1
    if not ok:
        print(f"FAIL: {text}")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-500:]}{done.stderr[-500:]}")


def solve(name):
    """Returns the command that a patch makes."""
    folder = f"{WORK}/{name}"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for source in SOURCES:
        shutil.copy(source, folder)
    run("patch", "-s", "-p1", "-d", folder, "-i", os.path.abspath(f"tests/examples/{name}.patch"))
    run(os.environ.get("CC", "cc"), "-std=c11", "-Og", "-pthread", "-Wall", "-Wextra", "-Werror", "-o", f"{folder}/llama",
        *(f"{folder}/{source}" for source in SOURCES if source.endswith(".c")), "-lm")
    return f"{folder}/llama"


def trace(command, *options):
    """Returns the arrays of a trace, in the order in which they are computed: {name: (shape, numbers)}."""
    folder = f"{WORK}/npy"
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run([command, "trace", model, SENTENCE, "--npy", folder, *options], capture_output=True, text=True, check=True,
                          stdin=subprocess.DEVNULL)
    names = [line.split()[0] for line in done.stdout.splitlines()]
    if len(names) < 40:
        raise RuntimeError(f"a trace of {len(names)} names")
    return {name: read_npy(f"{folder}/{name}.npy") for name in names}


def compare(name, changed, first):
    """Checks that all steps before `first` have the same bits as without the patch, that `first` and the output have
    not, and that one thread and plain C give the bits of all. Returns the two traces."""
    command = solve(name)
    before, after = trace(llama), trace(command)
    check(list(before) == list(after), f"{name}: the names of the trace are others")
    for step in list(before)[:list(before).index(first)]:
        check(before[step] == after[step], f"{name}: {step} changes")
    for step in (*changed, "output"):
        check(before[step] != after[step], f"{name}: {step} does not change")
    check(trace(command, "--kernels", "scalar", "-t", "1") == after, f"{name}: plain C and one thread give other bits")
    return before, after


def near(what, got, want, limit):
    worst = max(abs(a - b) for a, b in zip(got, want))
    check(len(got) == len(want) and worst <= limit, f"{what} is {worst:.1e} off")


def case_rope_theta():
    before, after = compare("rope_theta", ["layers.0.attention.xq", "layers.0.attention.xk"], "layers.0.attention.xq")
    check(after == trace(llama, "--rope-theta", "500000"), "rope_theta: not the bits of --rope-theta 500000")
    check(before["layers.0.attention.wv"] == after["layers.0.attention.wv"], "rope_theta: the values change")
    for name in ("layers.0.attention.xq", "layers.0.attention.xk"):
        (rows, width), x = after[name]
        check(x[:width] == before[name][1][:width], f"rope_theta: {name} changes at position 0")
        for t in range(1, rows):
            check(x[t * width:(t + 1) * width] != before[name][1][t * width:(t + 1) * width], f"rope_theta: {name}, position {t}, stays")
        near(f"rope_theta: the length of the pairs of {name}", [math.hypot(x[i], x[i + 1]) for i in range(0, len(x), 2)],
             [math.hypot(*before[name][1][i:i + 2]) for i in range(0, len(x), 2)], 1e-5)


def case_gelu():
    _, after = compare("gelu", ["layers.0.feed_forward.silu", "layers.0.feed_forward.gated"], "layers.0.feed_forward.silu")
    for layer in range(4):
        at = f"layers.{layer}.feed_forward."
        a, b = after[at + "w1"][1], after[at + "w3"][1]
        gelu = [v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v ** 3))) for v in a]
        near(f"gelu: layer {layer}", after[at + "silu"][1], gelu, 1e-5)
        near(f"gelu: layer {layer}, with erf", after[at + "silu"][1], [v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in a], 1e-3)
        near(f"gelu: layer {layer}, the product", after[at + "gated"][1], [g * v for g, v in zip(gelu, b)], 1e-4)


def case_attention_sink():
    _, after = compare("attention_sink", ["layers.0.attention.probs", "layers.0.attention.output"], "layers.0.attention.probs")
    for layer in range(4):
        at = f"layers.{layer}.attention."
        (heads, rows, positions), scores = after[at + "scores"]
        probs, values, mixed = after[at + "probs"][1], after[at + "wv"][1], after[at + "output"][1]
        width = len(values) // positions // heads
        for i in range(0, heads * rows * positions, positions):
            head, row = divmod(i // positions, rows)
            e = [math.exp(s) for s in scores[i:i + positions]]
            near(f"attention_sink: layer {layer}, head {head}, row {row}", probs[i:i + positions], [v / (1 + sum(e)) for v in e], 1e-6)
            check(sum(probs[i:i + positions]) < 1, f"attention_sink: layer {layer}, head {head}, row {row} leaves nothing to the sink")
            near(f"attention_sink: layer {layer}, head {head}, row {row}, the output",
                 mixed[(row * heads + head) * width:][:width],
                 [sum(probs[i + j] * values[(j * heads + head) * width + d] for j in range(row + 1)) for d in range(width)], 1e-5)


def main():
    only = sys.argv[4] if len(sys.argv) > 4 else None
    if not shutil.which("patch"):
        print("SKIP: exercises (no patch here)")
        return
    for name in ("rope_theta", "gelu", "attention_sink"):
        if only in (None, name):
            print(f"-- {name}", flush=True)
            try:
                globals()[f"case_{name}"]()
            except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                check(False, f"{name}: {error}")
    print(f"--\nexercises: {counts[True]} passed, {counts[False]} failed")
    sys.exit(counts[False] > 0 or not counts[True])


if __name__ == "__main__":
    main()
