#!/usr/bin/env python3
"""Write a MiniCPM-SALA checkpoint of the released shape per layer with random bf16 weights, for runs at true size.

  scripts/make_synthetic.py OUT_DIR [--mixers mLLL] [--vocab 4096] [--seed 0]

--mixers: one letter a layer, m for sparse attention and L for Lightning; the released model is
mLLLLLLLLmLLLLLLmmLLLLmLLLLLLmmm. Hidden size 4096, MLP 16384, 32 heads of 128, 2 key-value heads. Needs numpy; memory for
one tensor.
"""
import argparse
import json
import math
import pathlib
import struct

import numpy as np

CONFIG = pathlib.Path(__file__).resolve().parent.parent / "bench" / "configs" / "minicpm_sala_9b.json"
HIDDEN, MLP, HEADS, KV_HEADS, HEAD = 4096, 16384, 32, 2, 128


def shapes(mixers, vocab):
    tensors = {"model.embed_tokens.weight": (vocab, HIDDEN), "model.norm.weight": (HIDDEN,), "lm_head.weight": (vocab, HIDDEN)}
    for i, mixer in enumerate(mixers):
        p, a = f"model.layers.{i}.", f"model.layers.{i}.self_attn."
        tensors |= {p + "input_layernorm.weight": (HIDDEN,), p + "post_attention_layernorm.weight": (HIDDEN,),
                    p + "mlp.gate_proj.weight": (MLP, HIDDEN), p + "mlp.up_proj.weight": (MLP, HIDDEN),
                    p + "mlp.down_proj.weight": (HIDDEN, MLP)}
        kv = (HEADS if mixer == "L" else KV_HEADS) * HEAD
        tensors |= {a + "q_proj.weight": (HEADS * HEAD, HIDDEN), a + "k_proj.weight": (kv, HIDDEN),
                    a + "v_proj.weight": (kv, HIDDEN), a + "o_proj.weight": (HIDDEN, HEADS * HEAD)}
        if mixer == "L":
            tensors |= {a + "q_norm.weight": (HEAD,), a + "k_norm.weight": (HEAD,), a + "o_norm.weight": (HEADS * HEAD,),
                        a + "z_proj.weight": (HEADS * HEAD, HIDDEN)}
        else:
            tensors[a + "o_gate.weight"] = (HEADS * HEAD, HIDDEN)
    return tensors


def bf16(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def config(mixers, vocab):
    """The released model's configuration, cut to these layers and this vocabulary."""
    return json.loads(CONFIG.read_text()) | dict(num_hidden_layers=len(mixers), vocab_size=vocab,
                                                 mixer_types=["lightning-attn" if m == "L" else "minicpm4" for m in mixers])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--mixers", default="mLLL")
    ap.add_argument("--vocab", type=int, default=4096)
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    if not a.mixers or set(a.mixers) - set("mL"):
        ap.error(f"--mixers is {a.mixers!r}; expected letters m and L")
    tensors = shapes(a.mixers, a.vocab)
    header, offset = {}, 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(a.seed)
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "config.json").write_text(json.dumps(config(a.mixers, a.vocab), indent=2))
    with open(a.out / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors.items():
            if len(shape) == 1:
                file.write(bf16(1 + 0.1 * rng.standard_normal(shape, np.float32)).tobytes())
                continue
            # Uniform numbers of the variance that keeps a layer's output as large as its input.
            bound = np.float32(math.sqrt(3 / shape[1]))
            for first in range(0, shape[0], 1024):
                rows = min(1024, shape[0] - first)
                file.write(bf16((2 * rng.random((rows, shape[1]), np.float32) - 1) * bound).tobytes())


if __name__ == "__main__":
    main()
