"""Writes GGUF files of the types `llama` and `qwen3`, and says which numbers their block types hold.

The layout is that of the GGUF specification (version 3): magic, version, counts, metadata, tensor infos, then the data,
each tensor at a multiple of 32 bytes. Blocks are 32 columns: Q8_0 is f16 scale + 32 int8, Q4_0 f16 scale + 16 bytes
(value (n - 8) * scale), Q4_1 f16 scale + f16 minimum + 16 bytes (value n * scale + minimum); byte i of a 4-bit block
holds columns i (low half) and i + 16 (high half). k_quants.py has the types with blocks of 256 columns.
"""
import struct

import numpy as np

import k_quants
import sala_ref

TYPE_IDS = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 8, "bf16": 30,
            "q2_k": 10, "q3_k": 11, "q4_k": 12, "q5_k": 13, "q6_k": 14, "iq4_xs": 23}
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
ALIGNMENT = 32


def bf16_bits(x):
    """float array -> uint16 bit patterns of bfloat16, rounding to nearest even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def nibbles(n):
    """[blocks, 32] values 0..15 -> [blocks, 16] bytes."""
    n = n.astype(np.uint8)
    return n[:, :16] | (n[:, 16:] << 4)


def encode(x, kind):
    """The bytes of a tensor [.., columns] in type `kind`, and the float64 numbers that they stand for."""
    x = np.ascontiguousarray(x, dtype=np.float64)
    if kind == "f32":
        y = x.astype(np.float32)
        return y.tobytes(), y.astype(np.float64)
    if kind == "f16":
        y = x.astype(np.float16)
        return y.tobytes(), y.astype(np.float64)
    if kind == "bf16":
        bits = bf16_bits(x)
        return bits.tobytes(), (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if kind in k_quants.KINDS:
        return k_quants.encode(x, kind)
    blocks = x.reshape(-1, 32)
    if kind == "q8_0":
        d = (np.abs(blocks).max(axis=1) / 127).astype(np.float16)
        scale = np.where(d == 0, 1, d.astype(np.float64))
        n = np.clip(np.rint(blocks / scale[:, None]), -127, 127).astype(np.int8)
        raw = np.concatenate([d[:, None].view(np.uint8), n.view(np.uint8)], axis=1)
        return raw.tobytes(), (n * d.astype(np.float64)[:, None]).reshape(x.shape)
    if kind == "q4_0":
        peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)[:, 0]
        d = (peak / -8).astype(np.float16)
        scale = np.where(d == 0, 1, d.astype(np.float64))
        n = np.clip(np.rint(blocks / scale[:, None]) + 8, 0, 15)
        raw = np.concatenate([d[:, None].view(np.uint8), nibbles(n)], axis=1)
        return raw.tobytes(), ((n - 8) * d.astype(np.float64)[:, None]).reshape(x.shape)
    if kind == "q4_1":
        low = blocks.min(axis=1).astype(np.float16)
        d = ((blocks.max(axis=1) - low) / 15).astype(np.float16)
        scale = np.where(d == 0, 1, d.astype(np.float64))
        n = np.clip(np.rint((blocks - low.astype(np.float64)[:, None]) / scale[:, None]), 0, 15)
        raw = np.concatenate([d[:, None].view(np.uint8), low[:, None].view(np.uint8), nibbles(n)], axis=1)
        return raw.tobytes(), (n * d.astype(np.float64)[:, None] + low.astype(np.float64)[:, None]).reshape(x.shape)
    raise ValueError(f"unknown GGUF type {kind}")


def interleave(w, heads):
    """Rows of q or k from rotate-half order (Hugging Face) to the interleaved order of GGUF's `llama` files."""
    d = w.shape[0] // heads
    return w.reshape(heads, 2, d // 2, -1).swapaxes(1, 2).reshape(w.shape)


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(v):
    """A metadata value: its type and bytes. Lists are arrays of strings or of signed integers."""
    if isinstance(v, list):
        strings = isinstance(v[0], str)
        elements = [text(x) if strings else struct.pack("<i", x) for x in v]
        return struct.pack("<IIQ", ARRAY, STRING if strings else INT32, len(v)) + b"".join(elements)
    if isinstance(v, str):
        return struct.pack("<I", STRING) + text(v)
    if isinstance(v, bool):
        return struct.pack("<I?", BOOL, v)
    if isinstance(v, float):
        return struct.pack("<If", FLOAT32, v)
    return struct.pack("<II", UINT32, v)


def rope_factors(c):
    """What llama.cpp's converter writes as rope_freqs.weight for `rope_type` llama3: by how much each frequency is divided."""
    plain, _ = sala_ref.rope_frequencies(c.head_dim, c.rope_theta, None, 0)
    scaled, _ = sala_ref.rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling, 0)
    return plain.astype(np.float64) / scaled.astype(np.float64)


NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
         "self_attn.k_norm": "attn_k_norm"}


def gguf_name(name):
    """The GGUF name of a Hugging Face tensor."""
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{NAMES[part.removesuffix('.weight')]}.weight"


def write(path, family, c, tensors, kinds, **more):
    """Writes Config `c` with `tensors` (Hugging Face names, [out, in]) as GGUF of architecture `family`; the matrices take
    the types of `kinds` in turn, the norms are f32. `more` is further metadata, "__" standing for ".". Returns the tensors as
    they can be read back, in float64."""
    stored, infos, blobs, offset, turn = {}, b"", [], 0, 0

    def add(name, x, kind):
        nonlocal infos, offset
        raw, _ = encode(x, kind)
        infos += text(name) + struct.pack("<I", x.ndim) + struct.pack(f"<{x.ndim}Q", *reversed(x.shape))
        infos += struct.pack("<IQ", TYPE_IDS[kind], offset)
        raw += b"\0" * (-len(raw) % ALIGNMENT)
        offset += len(raw)
        blobs.append(raw)

    for name, x in tensors.items():
        kind = "f32"
        if x.ndim == 2:
            kind = kinds[turn % len(kinds)]
            turn += 1
        heads = {"self_attn.q_proj": c.num_attention_heads, "self_attn.k_proj": c.num_key_value_heads}.get(
            name.removesuffix(".weight").split(".", 3)[-1]) if family == "llama" else None
        add(gguf_name(name), interleave(x, heads) if heads else x, kind)
        _, stored[name] = encode(x, kind)               # rows are quantised one by one, so their order does not matter
    metadata = {"general.architecture": family, "general.name": "reference", "general.alignment": ALIGNMENT}
    keys = {"vocab_size": c.vocab_size, "context_length": 4096, "embedding_length": c.hidden_size,
            "block_count": c.num_hidden_layers, "feed_forward_length": c.intermediate_size,
            "attention.head_count": c.num_attention_heads, "attention.head_count_kv": c.num_key_value_heads,
            "attention.layer_norm_rms_epsilon": float(c.rms_norm_eps), "rope.freq_base": float(c.rope_theta)}
    if family == "llama":
        keys["rope.dimension_count"] = c.head_dim
    if family == "qwen3" or c.head_dim * c.num_attention_heads != c.hidden_size:
        keys |= {"attention.key_length": c.head_dim, "attention.value_length": c.head_dim}
    if c.rope_scaling and c.rope_scaling["rope_type"] == "llama3":
        add("rope_freqs.weight", rope_factors(c), "f32")
    elif c.rope_scaling:
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(c.rope_scaling["factor"])}
    metadata |= {f"{family}.{k}": v for k, v in keys.items()} | {k.replace("__", "."): v for k, v in more.items()}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(blobs), len(metadata))
    head += b"".join(text(k) + value(v) for k, v in metadata.items()) + infos
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % ALIGNMENT))
        f.writelines(blobs)
    return stored
