#!/usr/bin/env python3
"""Write a GGUF of Qwen3-8B's shape cut to some layers, random weights in Q4_0, for llama.cpp's own benchmark.

  bench/peer/random_qwen3.py OUT.gguf [--layers 4] [--vocab 4096]

Needs numpy and PyPI's gguf (scripts/venv.sh gguf). The vocabulary has no texts: llama-bench feeds numbers.
"""
import argparse
import json
import pathlib

import gguf
import numpy as np

CONFIG = json.loads((pathlib.Path(__file__).resolve().parent.parent / "configs" / "qwen3_8b.json").read_text())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--layers", type=int, default=4)
    ap.add_argument("--vocab", type=int, default=4096)
    a = ap.parse_args()
    hidden, mlp, head = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["head_dim"]
    heads, kv_heads = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(a.out, "qwen3")
    writer.add_block_count(a.layers)
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_freq_base(CONFIG["rope_theta"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_vocab_size(a.vocab)
    writer.add_tokenizer_model("none")

    def matrix(name, rows, columns):
        x = random.standard_normal((rows, columns), dtype=np.float32) * columns**-0.5
        codes = gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q4_0)
        writer.add_tensor(name + ".weight", codes, raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def norm(name, size):
        writer.add_tensor(name + ".weight", np.ones(size, np.float32))

    matrix("token_embd", a.vocab, hidden)
    matrix("output", a.vocab, hidden)
    norm("output_norm", hidden)
    for i in range(a.layers):
        for name, rows, columns in (("attn_q", heads * head, hidden), ("attn_k", kv_heads * head, hidden),
                                    ("attn_v", kv_heads * head, hidden), ("attn_output", hidden, heads * head),
                                    ("ffn_gate", mlp, hidden), ("ffn_up", mlp, hidden), ("ffn_down", hidden, mlp)):
            matrix(f"blk.{i}.{name}", rows, columns)
        for name, size in (("attn_norm", hidden), ("ffn_norm", hidden), ("attn_q_norm", head), ("attn_k_norm", head)):
            norm(f"blk.{i}.{name}", size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
