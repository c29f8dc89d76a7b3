"""trace.py LIBRARY COMMAND MODEL [TOKEN...]: every intermediate of a forward pass, ours against numpy's.

The model is computed here a second time, in float64 and straight from the paper's equations, sharing no code
with the library: the checkpoint (PyTorch's zip form) is read with Python's own zipfile and pickle. Through
llama_trace come ours. Each name must be there once, and no element off by more than 1e-5. `COMMAND trace` must
print the shapes, means, rms and CRC-32 of the same arrays."""
import ctypes
import io
import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
import zlib

import numpy as np

LIMIT = 1e-5
CHECKED = [0]  # lines that were compared


class Reader(pickle.Unpickler):
    def __init__(self, data, archive, root):
        super().__init__(io.BytesIO(data))
        self.archive, self.root = archive, root

    def find_class(self, module, name):
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, shape, stride, *rest: np.lib.stride_tricks.as_strided(
                storage[offset:], shape, [s * storage.itemsize for s in stride]).astype(np.float64)
        return {"HalfStorage": "<f2", "FloatStorage": "<f4", "OrderedDict": dict}[name]

    def persistent_load(self, pid):
        return np.frombuffer(self.archive.read(f"{self.root}/data/{pid[2]}"), pid[1])


def read_model(folder):
    archive = zipfile.ZipFile(f"{folder}/consolidated.00.pth")
    name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
    weights = Reader(archive.read(name), archive, name[: -len("/data.pkl")]).load()
    return json.load(open(f"{folder}/params.json")), weights


def forward(params, w, tokens, last=1):
    """Meta's model, each intermediate under its module's name: a list of (name, [rows][cols]), the output at its end.
    That has the logits of so many last tokens."""
    seen = []
    dim, heads = params["dim"], params["n_heads"]
    kv_heads = params.get("n_kv_heads") or heads
    width, n = dim // heads, len(tokens)
    freqs = 1 / params.get("rope_theta", 10000.0) ** (np.arange(0, width, 2) / width)
    turn = np.exp(1j * np.outer(np.arange(n), freqs))[:, None, :]

    def note(name, x):
        seen.append((name, x))
        return x

    def norm(name, x):
        return note(name, x / np.sqrt((x * x).mean(1, keepdims=True) + params["norm_eps"]) * w[name + ".weight"])

    def product(name, x):
        return note(name, x @ w[name + ".weight"].T)

    def rope(x, count):
        z = x.reshape(n, count, width)
        z = (z[..., 0::2] + 1j * z[..., 1::2]) * turn
        return np.stack([z.real, z.imag], -1).reshape(n, count, width)

    x = note("tok_embeddings", w["tok_embeddings.weight"][tokens])
    for layer in range(params["n_layers"]):
        at = f"layers.{layer}."
        h = norm(at + "attention_norm", x)
        q, k, v = (product(f"{at}attention.{name}", h) for name in ("wq", "wk", "wv"))
        q, k = rope(q, heads), rope(k, kv_heads)
        note(at + "attention.xq", q.reshape(n, -1))
        note(at + "attention.xk", k.reshape(n, -1))
        k = k.repeat(heads // kv_heads, 1)
        v = v.reshape(n, kv_heads, width).repeat(heads // kv_heads, 1)
        q, k, v = (z.swapaxes(0, 1) for z in (q, k, v))
        scores = q @ k.swapaxes(1, 2) / math.sqrt(width) + np.triu(np.full((n, n), -np.inf), 1)
        note(at + "attention.scores", scores.reshape(heads * n, n))
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p = p / p.sum(-1, keepdims=True)
        note(at + "attention.probs", p.reshape(heads * n, n))
        mixed = note(at + "attention.output", (p @ v).swapaxes(0, 1).reshape(n, dim))
        x = note(at + "h", x + product(at + "attention.wo", mixed))
        h = norm(at + "ffn_norm", x)
        gate, up = product(at + "feed_forward.w1", h), product(at + "feed_forward.w3", h)
        silu = note(at + "feed_forward.silu", gate / (1 + np.exp(-gate)))
        gated = note(at + "feed_forward.gated", silu * up)
        x = note(f"layers.{layer}", x + product(at + "feed_forward.w2", gated))
    product("output", norm("norm", x)[-last:])
    return seen


def ours(library, folder, tokens):
    lib, seen = ctypes.CDLL(library), []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_float),
                                ctypes.c_size_t, ctypes.c_size_t)

    @callback
    def note(user, name, x, rows, cols):
        seen.append((name.decode(), np.ctypeslib.as_array(x, (rows, cols)).copy()))

    model, session = ctypes.c_void_p(), ctypes.c_void_p()
    assert lib.llama_open(ctypes.byref(model), folder.encode(), None, None) == 0, folder
    assert lib.llama_session_new(ctypes.byref(session), model, None, None) == 0
    assert lib.llama_trace(session, note, None) == 0
    assert lib.llama_eval(session, 0, (ctypes.c_int32 * len(tokens))(*tokens), ctypes.c_size_t(len(tokens))) == 0
    return seen


def check_sums(got):
    """The steps of the residual stream add up to the bit, probabilities to 1, and scores are masked."""
    seen, failures = dict(got), 0
    x = seen["tok_embeddings"]
    for layer in range(sum(name.endswith(".h") for name in seen)):
        at = f"layers.{layer}."
        probs, scores = seen[at + "attention.probs"].astype(np.float64), seen[at + "attention.scores"]
        h, after = seen[at + "h"], seen[f"layers.{layer}"]
        for what, holds in (("h is not the sum", np.array_equal(h, x + seen[at + "attention.wo"])),
                            ("the layer's result is not the sum", np.array_equal(after, h + seen[at + "feed_forward.w2"])),
                            ("gated is not the product", np.array_equal(
                                seen[at + "feed_forward.gated"], seen[at + "feed_forward.silu"] * seen[at + "feed_forward.w3"])),
                            ("the probabilities have another sum than 1", np.abs(probs.sum(1) - 1).max() < 1e-6),
                            ("a masked probability is not 0", (probs[np.isneginf(scores)] == 0).all())):
            CHECKED[0] += 1
            if not holds:
                failures += 1
                print(f"FAIL: layer {layer}: {what}")
        x = after
    return failures


def compare_printed(library, command, folder):
    text = "a student looks inside"
    ids = subprocess.run([command, "tokenize", folder, text, "--bos"], capture_output=True, text=True, check=True)
    printed = subprocess.run([command, "trace", folder, text], capture_output=True, text=True, check=True)
    lines = printed.stdout.splitlines()
    traced = ours(library, folder, [int(t) for t in ids.stdout.split()])
    failures = int(len(lines) != len(traced))
    for line, (name, x) in zip(lines, traced):
        exact = x[np.isfinite(x)].astype(np.float64)
        heads = json.load(open(f"{folder}/params.json"))["n_heads"] if name.endswith((".scores", ".probs")) else 0
        shape = f"{heads}, {len(x) // heads}, {x.shape[1]}" if heads else f"{x.shape[0]}, {x.shape[1]}"
        start = f"{name:<30} [{shape}]  mean {exact.mean():.6g}"
        end = f"  rms {math.sqrt((exact ** 2).mean()):.6g}  crc32 {zlib.crc32(x.astype('<f4').tobytes()):08x}  first " \
            + " ".join(f"{v:.7g}" for v in x[0, :4])
        if not (line.startswith(start[:-2]) and line.endswith(end)):
            failures += 1
            print(f"FAIL: {line}\n  not {start}{end}")
    print(f"trace: {len(lines)} lines printed")
    CHECKED[0] += len(lines)
    return failures


def compare_files(command, folder, tokens, want, got):
    """`trace --npy`: each array in a file of its name, with the bits of llama_trace; and `--json` says the same."""
    heads, failures = json.load(open(f"{folder}/params.json"))["n_heads"], 0
    with tempfile.TemporaryDirectory() as out:
        text = " ".join(map(str, tokens))
        run = subprocess.run([command, "trace", folder, "--ids", text, "--no-bos", "--npy", f"{out}/new", "--json"],
                             capture_output=True, text=True, check=True)
        lines = [json.loads(line) for line in run.stdout.splitlines()]
        for (name, reference), (_, x), line in zip(want, got, lines):
            a = np.load(f"{out}/new/{name}.npy")
            shape = (heads, len(x) // heads, x.shape[1]) if name.endswith((".scores", ".probs")) else x.shape
            error = np.where(a.reshape(x.shape) == reference, 0, a.reshape(x.shape) - np.where(np.isinf(reference), 0, reference))
            finite = x[np.isfinite(x)].astype(np.float64)
            first = [float(v) if np.isfinite(v) else None for v in x[0, :4]]
            if not (a.dtype == np.float32 and a.shape == shape and a.tobytes() == x.tobytes() and np.abs(error).max() <= LIMIT
                    and line["name"] == name and tuple(line["shape"]) == shape and len(line) == 6
                    and line["crc32"] == f"{zlib.crc32(x.astype('<f4').tobytes()):08x}"
                    and math.isclose(line["mean"], finite.mean(), rel_tol=1e-6, abs_tol=1e-9)
                    and math.isclose(line["rms"], math.sqrt((finite ** 2).mean()), rel_tol=1e-6)
                    and [None if v is None else np.float32(v) for v in line["first"]] == [None if v is None else np.float32(v) for v in first]):
                failures += 1
                print(f"FAIL: --npy, --json: {name} {a.shape}: {line}")
        if not len(os.listdir(f"{out}/new")) == len(lines) == len(got):
            failures += 1
            print(f"FAIL: {len(os.listdir(f'{out}/new'))} files, {len(lines)} objects, not {len(got)}")
    CHECKED[0] += len(got)
    return failures


def main():
    library, command, folder = sys.argv[1:4]
    tokens = [int(t) for t in sys.argv[4:]] or [1, 100, 201, 5, 7, 100]
    want, got = forward(*read_model(folder), tokens), ours(library, folder, tokens)
    failures, worst = 0, 0.0
    for (name, a), (traced, b) in zip(want, got):
        same = name == traced and a.shape == b.shape
        error = np.where(a == b, 0, np.abs(np.where(a == b, 0, a) - np.where(a == b, 0, b))).max() if same else math.inf
        worst = max(worst, error)
        if error > LIMIT:
            failures += 1
            print(f"FAIL: {traced} {b.shape}: {error:.2e} off {name} {a.shape}")
    if len(want) != len(got):
        failures += 1
        print(f"FAIL: {len(got)} intermediates, not {len(want)}")
    print(f"trace: {folder}: {len(got)} intermediates, the worst element off by {worst:.2e}")

    failures += check_sums(got) + compare_files(command, folder, tokens, want, got)
    if os.path.exists(f"{folder}/tokenizer.model"):
        failures += compare_printed(library, command, folder)
    print(f"trace: {max(len(want) + CHECKED[0] - failures, 0)} passed, {failures} failed")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
