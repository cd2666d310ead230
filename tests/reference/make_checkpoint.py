#!/usr/bin/env python3
"""Write a small random checkpoint with the logits that the reference gives for it.

  python3 make_checkpoint.py OUT_DIR [--family sala|llama] [--seed 0] [--tokens 200] [--dtype f32|bf16|f16] [--shards 1]
                             [--gguf KIND[,KIND...]] [--set key=value ...]

OUT_DIR gets config.json, model.safetensors (with --shards N: N shards and their index), generation_config.json,
tokens.json (an array of ids), and for each sparse policy (always, per-query, hf, dense) logits_<policy>.npy ([T, vocab],
float64) and blocks_<policy>.json ({"policy", "block_size", "layers": [i, ...], "blocks":
[layer][kv_head][position][ascending block indices]}; where a policy is dense, all blocks up to the query's own). "hf" is
one call over the whole prompt. The weights are rounded to the file's type first, so the logits belong to exactly the
numbers in the file. --gguf (llama and qwen3) writes model.gguf instead, its matrices in the types f32, f16, bf16, q8_0, q4_0,
q4_1, q2_k to q6_k or iq4_xs, in turn where several are given. --set overrides a field of the tiny configuration (sala_ref.tiny_config,
llama_config), e.g. --set num_attention_heads=6 --set lightning_nkv=2.
Needs numpy only.
"""
import argparse
import ast
import json
import pathlib
import struct

import numpy as np

import gguf_writer
import sala_ref

POLICIES = {"always": "sparse", "per-query": "per_query", "hf": "per_call", "dense": "dense"}


def write_safetensors(path, tensors, dtype):
    """Writes one file; returns the bytes of its tensors."""
    header, offset, blobs = {"__metadata__": {"format": "pt"}}, 0, []
    for name, x in tensors.items():
        raw, _ = gguf_writer.encode(x, dtype)
        header[name] = {"dtype": dtype.upper(), "shape": list(x.shape), "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
        blobs.append(raw)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)))
        f.write(head)
        f.writelines(blobs)
    return offset


def write_shards(out, tensors, dtype, shards):
    """Writes model.safetensors, or `shards` files and their index."""
    if shards == 1:
        write_safetensors(out / "model.safetensors", tensors, dtype)
        return
    names, weight_map, total = list(tensors), {}, 0
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i::shards]
        total += write_safetensors(out / file, {n: tensors[n] for n in part}, dtype)
        weight_map |= {n: file for n in part}
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1))


def sala_config(c):
    """The keys and names of the released config.json."""
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
            "lightning_nh", "lightning_nkv", "lightning_head_dim", "lightning_scale", "lightning_use_rope",
            "attn_use_rope", "qk_norm", "use_output_gate", "use_output_norm", "attn_use_output_gate", "rms_norm_eps",
            "rope_theta", "scale_emb", "scale_depth", "dim_model_base", "tie_word_embeddings", "mixer_types"]
    out = {k: getattr(c, k) for k in keys}
    out.update(architectures=["MiniCPMSALAForCausalLM"], model_type="minicpm_sala", hidden_act="silu",
               num_hidden_layers=c.num_hidden_layers, rope_scaling=None, attention_bias=False,
               max_position_embeddings=524288, bos_token_id=1, eos_token_id=[2], pad_token_id=2)
    if c.sparse:
        out["sparse_config"] = {"kernel_size": c.kernel_size, "kernel_stride": c.kernel_stride,
                                "init_blocks": c.init_blocks, "block_size": c.block_size, "window_size": c.window_size,
                                "topk": c.topk, "use_nope": False, "dense_len": c.dense_len}
    return out


def llama_config(c):
    """What LlamaForCausalLM writes; head_dim only where it is not hidden_size / heads, as older files do."""
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"]
    out = {k: getattr(c, k) for k in keys}
    if c.head_dim * c.num_attention_heads != c.hidden_size:
        out["head_dim"] = c.head_dim
    out.update(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", attention_bias=False,
               attention_dropout=0.0, mlp_bias=False, rope_scaling=c.rope_scaling, max_position_embeddings=8192,
               initializer_range=0.02, pretraining_tp=1, use_cache=True, bos_token_id=1, eos_token_id=2)
    return out


def qwen3_config(c):
    """What Qwen3ForCausalLM writes."""
    out = llama_config(c)
    out.pop("mlp_bias"), out.pop("pretraining_tp")
    out.update(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=c.head_dim, use_sliding_window=False,
               sliding_window=None, max_window_layers=c.num_hidden_layers)
    return out


def minicpm_config(c):
    """What openbmb's MiniCPM4 repositories hold."""
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "rms_norm_eps", "scale_emb", "scale_depth", "dim_model_base", "tie_word_embeddings",
            "rope_scaling", "max_position_embeddings"]
    out = {k: getattr(c, k) for k in keys}
    if c.rope_theta != 10000.0:                              # the released files have no such key
        out["rope_theta"] = c.rope_theta
    if c.head_dim * c.num_attention_heads != c.hidden_size:
        out["head_dim"] = c.head_dim
    out.update(architectures=["MiniCPMForCausalLM"], model_type="minicpm", hidden_act="silu", attention_bias=False,
               attention_dropout=0.0, mup_denominator=32, bos_token_id=1, eos_token_id=[2], pad_token_id=2)
    if c.sparse:
        out["sparse_config"] = sala_config(c)["sparse_config"]
    return out


def hypenet_config(c):
    """What HALO's HypeNet configurations hold."""
    out = llama_config(c)
    out.pop("mlp_bias"), out.pop("pretraining_tp")
    out.update({k: getattr(c, k) for k in ["head_dim", "lightning_nh", "lightning_nkv", "lightning_head_dim",
                                           "lightning_scale", "lightning_use_rope", "attn_use_rope",
                                           "attn_use_output_gate", "attn_logits_scaling"]},
               architectures=["HypeNetForCausalLM"], model_type="hypenet", expand_kv_proj=True, lightning_rope_scaling=None,
               lightning_use_qk_norm=c.qk_norm, lightning_use_output_norm=c.use_output_norm,
               lightning_use_output_gate=c.use_output_gate,
               mixer_types=["attn" if m == sala_ref.SPARSE else m for m in c.mixer_types])
    return out


FAMILIES = {"sala": (sala_ref.tiny_config, sala_config), "llama": (sala_ref.llama_config, llama_config),
            "qwen3": (sala_ref.qwen3_config, qwen3_config), "minicpm": (sala_ref.minicpm_config, minicpm_config),
            "hypenet": (sala_ref.hypenet_config, hypenet_config)}


def chosen(c, policy, length, selected):
    """[kv_head][position] -> ascending block indices of one layer; `selected` is the trace, None when all dense."""
    out = []
    for g in range(c.num_key_value_heads):
        rows = []
        for t in range(length):
            if selected is None or (policy == "per_query" and t + 1 < c.dense_len):
                rows.append(list(range(t // c.block_size + 1)))
            else:
                rows.append([int(b) for b in np.flatnonzero(selected[g, t])])
        out.append(rows)
    return out


def sparse_layers(c):
    return [i for i, m in enumerate(c.mixer_types) if m == sala_ref.SPARSE] if c.sparse else []


def make(out, family="sala", seed=0, tokens=200, dtype="f32", shards=1, gguf=(), metadata={}, **fields):
    """Writes the checkpoint (config, weights, tokens.json) into the folder `out`; returns (Config, reference Model, ids).
    `metadata`: further metadata of a GGUF file."""
    configure, write_config = FAMILIES[family]
    c = configure(**fields)
    w = sala_ref.random_weights(c, seed)
    out.mkdir(parents=True, exist_ok=True)
    if gguf:
        if family not in ("llama", "qwen3"):
            raise ValueError("GGUF files are of the families llama and qwen3")
        w = gguf_writer.write(out / "model.gguf", family, c, w, gguf, **metadata)
    else:
        w = {k: gguf_writer.encode(x, dtype)[1] for k, x in w.items()}
        write_shards(out, w, dtype, shards)
        config = write_config(c)
        config["torch_dtype"] = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[dtype]
        (out / "config.json").write_text(json.dumps(config, indent=2))
        (out / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": [2]}))
    ids = np.random.default_rng(seed + 1).integers(0, c.vocab_size, tokens)
    (out / "tokens.json").write_text(json.dumps([int(i) for i in ids]))
    return c, sala_ref.Model(c, w), ids


def reference(c, model, ids, name, follow=None):
    """Logits [T, vocab] of the policy `name`, and what its blocks_<name>.json says."""
    trace = []
    logits = model.run(ids, policy=POLICIES[name], trace=trace, follow=follow)
    layers = sparse_layers(c)
    blocks = [chosen(c, POLICIES[name], len(ids), trace[i] if trace else None) for i in range(len(layers))]
    return logits, {"policy": name, "block_size": c.block_size, "layers": layers, "blocks": blocks}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--family", choices=FAMILIES, default="sala")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--tokens", type=int, default=200)
    ap.add_argument("--dtype", choices=["f32", "bf16", "f16"], default="f32")
    ap.add_argument("--shards", type=int, default=1)
    ap.add_argument("--gguf", default="", metavar="KIND[,KIND...]")
    ap.add_argument("--set", action="append", default=[], metavar="key=value")
    a = ap.parse_args()
    fields = {}
    for item in a.set:
        key, value = item.split("=", 1)
        fields[key] = ast.literal_eval(value)
    c, model, ids = make(a.out, a.family, a.seed, a.tokens, a.dtype, a.shards, [k for k in a.gguf.split(",") if k], **fields)
    for name in POLICIES:
        logits, blocks = reference(c, model, ids, name)
        np.save(a.out / f"logits_{name}.npy", logits)
        (a.out / f"blocks_{name}.json").write_text(json.dumps(blocks, separators=(",", ":")))


if __name__ == "__main__":
    main()
