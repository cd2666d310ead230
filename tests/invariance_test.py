#!/usr/bin/env python3
"""Bit for bit through the program: a row of logits does not depend on how the prompt is cut or on the number of threads.

For each checkpoint, policy, compute and KV type the logits of one call must equal, as bytes, those of prompts fed in chunks
of 1, 7, 64 and 100 tokens and of 1, 2 and 3 threads. `hf` decides by the length of the prompt, which is the same in all.
"""
import concurrent.futures
import itertools
import json
import os
import pathlib
import tempfile
import unittest

import harness
import make_checkpoint

L, M = "lightning-attn", "minicpm4"
CHECKPOINTS = {
    "sala": dict(tokens=230),
    "sala_bf16": dict(tokens=230, dtype="bf16", num_attention_heads=6, num_key_value_heads=2, lightning_nh=6,
                      lightning_nkv=3, hidden_size=72, intermediate_size=104),
    "sala_block_64": dict(tokens=420, dtype="bf16", block_size=64, kernel_size=32, kernel_stride=16, window_size=64, topk=2,
                          dense_len=300, head_dim=64, lightning_head_dim=32, hidden_size=64, mixer_types=[M, L, M]),
    "sala_block_20": dict(tokens=260, block_size=20, window_size=20, topk=3, mixer_types=[L, M]),
    "llama_f16": dict(family="llama", dtype="f16", tokens=230, num_attention_heads=9, num_key_value_heads=3, hidden_size=72),
    "llama_gguf": dict(family="llama", gguf=["q4_1", "q8_0", "q4_0"], tokens=230, hidden_size=96, intermediate_size=160,
                       head_dim=24),
}
# Types of compute and of keys and values; those of fewer bits differ in the attention alone.
MODES = [*itertools.product(("f32", "bf16", "int8"), ("f32", "bf16")), ("bf16", "int8"), ("f32", "int4")]
VARIANTS = [("--chunk", chunk, "--threads", threads) for chunk, threads in
            ((1, 2), (7, 1), (64, 3), (100, 2), (1000, 3))]


def check(folder, name, policy, compute, kv):
    """Complaints about one checkpoint in one mode."""
    ids = folder / name / "tokens.json"
    model = folder / name / "model.gguf" if (folder / name / "model.gguf").exists() else folder / name
    mode = ("--sparse", policy, "--compute", compute, "--kv", kv, "--backend", "cpu")
    try:
        whole = harness.logits(model, ids, *mode, "--chunk", 1000, "--threads", 1)
        complaints = []
        for flags in VARIANTS:
            rows = (harness.logits(model, ids, *mode, *flags) != whole).any(axis=-1)
            if rows.any():
                complaints.append(f"{name} {' '.join(mode)} {' '.join(map(str, flags))}: {int(rows.sum())} of {len(rows)} rows "
                                  f"differ, first at position {int(rows.argmax())}")
        return complaints
    except AssertionError as error:
        return [f"{name} {' '.join(mode)}: {error}"]


class Invariance(unittest.TestCase):
    def test_chunks_and_threads(self):
        with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            folder = pathlib.Path(scratch)
            for name, fields in CHECKPOINTS.items():
                make_checkpoint.make(folder / name, **fields)
            jobs = []
            for name, (compute, kv) in itertools.product(CHECKPOINTS, MODES):
                policies = ("always", "dense") if kv.startswith("int") else ("always", "per-query", "dense", "hf")
                for policy in policies if name.startswith("sala") else ("always",):
                    jobs.append(pool.submit(check, folder, name, policy, compute, kv))
            complaints = [text for job in jobs for text in job.result()]
        print(f"{len(jobs)} modes x {len(VARIANTS)} ways to feed a prompt", flush=True)
        self.assertFalse(complaints, "\n" + "\n".join(complaints))

    def test_keys_and_values_beyond_memory(self):
        """A third of the keys and values in memory, the rest in a file: the same bytes; too little of either is refused."""
        with tempfile.TemporaryDirectory() as scratch:
            model = pathlib.Path(scratch)
            make_checkpoint.make(model, tokens=1000)
            ids = model / "tokens.json"
            kv = json.loads(harness.sala("inspect", model, "--ctx", 1000, "--kv", "f32", "--json"))["memory"]["kv"]
            whole = harness.logits(model, ids, "--chunk", 64)
            for memory in (kv // 3, kv // 2):
                self.assertTrue((harness.logits(model, ids, "--chunk", 64, "--kv-memory", memory, "--cache-disk", "1M",
                                                "--cache-dir", scratch) == whole).all())
            for flags, told in ((["--kv-memory", 1, "--cache-disk", "1M"], "--kv-memory"),
                                (["--kv-memory", kv // 3, "--cache-disk", "1k"], "--cache-disk"),
                                (["--kv-memory", kv // 3, "--cache-disk", "1M", "--sparse", "dense"], "every token"),
                                (["--kv-memory", kv // 3, "--cache-disk", "1M", "--cache-dir", "/nowhere"], "/nowhere")):
                with self.assertRaisesRegex(AssertionError, told):
                    harness.logits(model, ids, "--chunk", 64, *flags)

    def test_last_rows_are_those_of_all(self):
        with tempfile.TemporaryDirectory() as scratch:
            model = pathlib.Path(scratch)
            make_checkpoint.make(model, tokens=150)
            whole = harness.logits(model, model / "tokens.json")
            for last in (1, 10, 150):
                self.assertTrue((harness.logits(model, model / "tokens.json", "--last", last, "--chunk", 64) == whole[-last:]).all())


if __name__ == "__main__":
    harness.main()
