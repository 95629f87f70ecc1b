"""Measurements of chapters 07 to 09: grouped queries, windows, sinks and the rest."""

from functools import partial

import torch
from tqdm import tqdm

from kernels.attention_rows import Shape, attention_rows
from kernels.causal_attention import causal_attention
from kernels.model_attention import model_attention
from kernels.peers import flex, library_peers
from kernels.sweep import COLUMNS, TOKENS

MODEL = {"heads": 32, "kv_heads": 8, "head_dim": 128}


def ours(q, k, v, **options) -> torch.Tensor:
    """The kernel that these chapters explain, by whatever the public call launches."""
    return model_attention(q, k, v, **options)[0]


def expanded(q, k, v):
    """Our kernel on K and V that are copied out to all query heads first."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    return ours(q, k, v)


def grouped() -> dict:
    """32, 8 and 1 K/V heads: many queries, and one query against many keys."""
    kernels = {"ours": ours, "ours, expanded": expanded}
    rows = []
    for length in tqdm([1024, 2048, 4096, 8192, 16384], desc="grouped"):
        for kv_heads in (32, 8, 1):
            shape = Shape(TOKENS // length, 32, length, 128, kv_heads=kv_heads)
            rows += attention_rows(kernels | library_peers(is_causal=True), shape)
    for kv_heads in (32, 8, 1):
        shape = Shape(16, 32, TOKENS, 128, kv_heads=kv_heads, queries=1)
        # The last query sees all keys; theirs would be aligned at the start.
        rows += attention_rows(kernels | library_peers(is_causal=False), shape)
    return {"rows": rows}


def banded(window_size, sink_size=None):
    """Does query i see key j? As FlexAttention asks it."""

    def sees(i, j):
        near = j <= i if window_size is None else (j <= i) & (j > i - window_size)
        return near if sink_size is None else near | ((j < sink_size) & (j <= i))

    return sees


def window() -> dict:
    """Windows and sinks: over the window, over the length, over the sinks."""
    rows = []
    sizes = [(w, None) for w in (128, 256, 512, 1024, 2048, 4096, None)]
    sizes += [(1024, s) for s in (4, 64, 256, 1024)]
    for window_size, sink_size in tqdm(sizes, desc="window"):
        mask = {"window_size": window_size, "sink_size": sink_size}
        functions = {"ours": partial(ours, **mask)}
        if sink_size in (None, 64):
            functions["FlexAttention"] = flex(banded(**mask))
        rows += attention_rows(functions, Shape(2, length=8192, **MODEL, **mask))
    for length in tqdm([2**e for e in range(10, 17)], desc="window, over the length"):
        for window_size in (1024, None):
            mask = {"window_size": window_size}
            functions = {"ours": partial(ours, **mask)}
            rows += attention_rows(functions, Shape(1, length=length, **MODEL, **mask))
    return {"rows": rows}


def options() -> dict:
    """What each option costs; and what they cost when all are off."""
    softcap, slopes = 50.0, 2.0 ** -torch.arange(0.25, 8.25, 0.25, device="cuda")
    sinks = torch.randn(32, device="cuda")
    causal = banded(None)

    def capped(score, b, h, i, j):
        return softcap * torch.tanh(score / softcap)

    def biased(score, b, h, i, j):
        return score - slopes[h] * (i - j)

    cases = {
        "none": ({}, lambda: flex(causal)),
        "learned sink": ({"sinks": sinks}, None),
        "softcap": ({"softcap": softcap}, lambda: flex(causal, capped)),
        "ALiBi": ({"alibi_slopes": slopes}, lambda: flex(causal, biased)),
    }
    rows = []
    for option, (arguments, peer) in tqdm(cases.items(), desc="options"):
        functions = {"ours": partial(ours, **arguments)}
        if peer is not None:
            functions["FlexAttention"] = peer()
        shape = Shape(2, length=8192, **MODEL)
        for row in attention_rows(functions, shape, **arguments):
            rows.append({"option": option, **row})
    both = {
        "ours": ours,
        "chapter 06": lambda q, k, v: causal_attention(q, k, v)[0],
    }
    for head_dim in (64, 128):
        for length in (4096, 16384):
            shape = Shape(TOKENS // length, COLUMNS // head_dim, length, head_dim)
            for row in attention_rows(both, shape):
                rows.append({"option": "none", **row})
    return {"rows": rows}


_MODULES = ["step", "tiles", "model_attention", "reference"]
MODEL_EXPERIMENTS = {
    "grouped": (_MODULES, grouped),
    "window": (_MODULES, window),
    "options": ([*_MODULES, "causal_attention"], options),
}
