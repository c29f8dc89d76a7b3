"""pytorch.py MODEL DIR TOKEN...: the steps of llama.c's forward() in PyTorch, each compared with ours.

    ./llama trace MODEL "The king" --npy DIR
    python3 pytorch.py MODEL DIR $(./llama tokenize MODEL "The king" --bos)

MODEL is a folder with params.json and one consolidated.00.pth. DIR has a file NAME.npy for each step. The script
prints the largest difference of each step and fails if one is above 1e-4. `make book` shows the lines that call step()
beside the lines of forward() that compute the same."""
import json
import sys

import numpy
import torch

LIMIT = 1e-4
folder, traced, tokens = sys.argv[1], sys.argv[2], torch.tensor([int(t) for t in sys.argv[3:]])
params = json.load(open(f"{folder}/params.json"))
weights = {name: w.float() for name, w in torch.load(f"{folder}/consolidated.00.pth").items()}
n, dim, heads, eps = len(tokens), params["dim"], params["n_heads"], params["norm_eps"]
kv_heads = params.get("n_kv_heads") or heads
head_dim = dim // heads
worst, failed = (0.0, ""), False
prefix = ""  # of the names of the current layer


def step(name, x):
    """Compares x with the traced array of this name, and returns x."""
    global worst, failed
    name = (prefix + name).rstrip(".")
    ours = torch.from_numpy(numpy.load(f"{traced}/{name}.npy"))
    theirs = x if x.shape == ours.shape else x[-len(ours):]  # the output has the last token's row only
    seen = torch.isfinite(theirs)  # scores of later positions are masked
    error = (theirs - ours)[seen].abs().max().item()
    print(f"{name:<32} {list(ours.shape)!s:<16} off by at most {error:.1e}")
    worst, failed = max(worst, (error, name)), failed or not error <= LIMIT
    return x


def weight(name):
    return weights[f"{prefix}{name}.weight"]


def rmsnorm(x, w):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * w


def rope(x):
    """Rotates the pairs (0, 1), (2, 3) ... of each head by position * theta^(-2j/head_dim)."""
    j = torch.arange(head_dim // 2)
    freqs = params.get("rope_theta", 10000.0) ** (-2 * j / head_dim)
    angle = torch.outer(torch.arange(n), freqs).unsqueeze(1)      # [n][1][head_dim/2]
    a, b = x.view(n, -1, head_dim // 2, 2).unbind(-1)             # [n][heads][head_dim/2]
    turned = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
    return torch.stack(turned, -1).flatten(1)


def split(x):
    """[n][heads * head_dim] to [heads][n][head_dim]; each head of keys and values serves several queries' heads."""
    x = x.view(n, -1, head_dim).transpose(0, 1)
    return x.repeat_interleave(heads // len(x), 0)


later = torch.ones(n, n, dtype=torch.bool).triu(1)  # the causal mask: positions after the row's own

x = step("tok_embeddings", weight("tok_embeddings")[tokens])
for layer in range(params["n_layers"]):
    prefix = f"layers.{layer}."

    h = step("attention_norm", rmsnorm(x, weight("attention_norm")))
    q = step("attention.wq", h @ weight("attention.wq").T)
    k = step("attention.wk", h @ weight("attention.wk").T)
    v = step("attention.wv", h @ weight("attention.wv").T)
    q = step("attention.xq", rope(q))
    k = step("attention.xk", rope(k))
    scores = step("attention.scores", (split(q) @ split(k).mT / head_dim ** 0.5).masked_fill(later, -torch.inf))
    probs = step("attention.probs", torch.softmax(scores, -1))
    h = step("attention.output", (probs @ split(v)).transpose(0, 1).flatten(1))
    block_out = step("attention.wo", h @ weight("attention.wo").T)
    x = step("h", x + block_out)

    h = step("ffn_norm", rmsnorm(x, weight("ffn_norm")))
    gate = step("feed_forward.w1", h @ weight("feed_forward.w1").T)
    up = step("feed_forward.w3", h @ weight("feed_forward.w3").T)
    gate = step("feed_forward.silu", gate * torch.sigmoid(gate))
    gate = step("feed_forward.gated", gate * up)
    block_out = step("feed_forward.w2", gate @ weight("feed_forward.w2").T)
    x = step("", x + block_out)
prefix = ""
h = step("norm", rmsnorm(x, weight("norm")))
logits = step("output", h @ weight("output").T)

print(f"the largest difference: {worst[0]:.1e}, in {worst[1]}")
sys.exit(failed)
