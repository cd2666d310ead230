#!/usr/bin/env python3
"""`sala logits` against the float64 reference: logits and block choices, both backends, every policy, f32/f32.

A row of logits passes when |got - reference| <= 1e-4 |reference| (2-norms). Block choices must be identical, or the
reference must prove the difference to be a tie within f32 rounding (sala_ref.Follow states the bound); the logits are
then compared with the reference following the same choice.
"""
import concurrent.futures
import os
import pathlib
import tempfile
import unittest

import numpy as np

import harness
import k_quants
import make_checkpoint
import sala_ref

L, M = "lightning-attn", "minicpm4"
BOUND = 1e-4
BACKENDS = ("reference", "cpu")

# name -> (make_checkpoint.make's own arguments, fields of the configuration)
SALA = {
    "default": ({}, {}),
    "default_bf16": ({"dtype": "bf16"}, {}),
    "default_f16": ({"dtype": "f16"}, {}),
    "sharded_f32": ({"shards": 3}, {}),
    "sharded_bf16": ({"shards": 2, "dtype": "bf16"}, {"mixer_types": [L, M, L]}),
    "six_heads": ({}, dict(num_attention_heads=6, num_key_value_heads=3, lightning_nh=6, lightning_nkv=6)),
    "seven_and_five_heads": ({}, dict(num_attention_heads=7, num_key_value_heads=1, lightning_nh=5, lightning_nkv=5)),
    "twelve_lightning_heads": ({}, dict(lightning_nh=12, lightning_nkv=12, num_attention_heads=3, num_key_value_heads=3)),
    "lightning_kv_fewer": ({}, dict(lightning_nh=6, lightning_nkv=2)),
    "lightning_kv_one_bf16": ({"dtype": "bf16"}, dict(lightning_nh=9, lightning_nkv=3, num_attention_heads=10, num_key_value_heads=2)),
    "both_kv_one": ({}, dict(num_attention_heads=5, num_key_value_heads=1, lightning_nh=4, lightning_nkv=1)),
    "sixteen_per_group": ({}, dict(num_attention_heads=32, num_key_value_heads=2, head_dim=4)),
    "one_head": ({}, dict(num_attention_heads=1, num_key_value_heads=1, lightning_nh=1, lightning_nkv=1)),
    "head_sizes_differ": ({}, dict(head_dim=16, lightning_head_dim=12, hidden_size=40)),
    "head_size_64": ({"tokens": 300}, dict(head_dim=64, num_attention_heads=2, num_key_value_heads=1, lightning_head_dim=32)),
    "head_size_128": ({"tokens": 260}, dict(head_dim=128, num_attention_heads=2, num_key_value_heads=1, lightning_nh=2, lightning_nkv=2, lightning_head_dim=128)),
    "odd_hidden": ({}, dict(hidden_size=37, intermediate_size=53, vocab_size=67, dim_model_base=11)),
    "odd_hidden_bf16": ({"dtype": "bf16"}, dict(hidden_size=50, intermediate_size=70, vocab_size=101)),
    "wide": ({"tokens": 250}, dict(hidden_size=192, intermediate_size=320, vocab_size=500, num_attention_heads=6, num_key_value_heads=2, head_dim=32, lightning_nh=6, lightning_nkv=6, lightning_head_dim=32)),
    "tied": ({}, dict(tie_word_embeddings=True)),
    "tied_f16": ({"dtype": "f16"}, dict(tie_word_embeddings=True, vocab_size=90)),
    "no_gates": ({}, dict(use_output_gate=False, attn_use_output_gate=False)),
    "no_lightning_gate": ({}, dict(use_output_gate=False)),
    "no_attention_gate": ({}, dict(attn_use_output_gate=False)),
    "no_norms": ({}, dict(use_output_norm=False, qk_norm=False)),
    "no_qk_norm_bf16": ({"dtype": "bf16"}, dict(qk_norm=False)),
    "no_o_norm_scale_1_over_d": ({}, dict(use_output_norm=False, lightning_scale="1/d")),
    "no_o_norm_scale_none": ({}, dict(use_output_norm=False, lightning_scale="none")),
    "bare": ({}, dict(use_output_norm=False, qk_norm=False, use_output_gate=False, attn_use_output_gate=False, lightning_use_rope=False)),
    "lightning_without_rope": ({}, dict(lightning_use_rope=False)),
    "attention_with_rope": ({}, dict(attn_use_rope=True)),
    "rope_swapped_theta": ({}, dict(attn_use_rope=True, lightning_use_rope=False, rope_theta=500.0)),
    "block_20": ({"tokens": 330}, dict(block_size=20, window_size=40, topk=4)),
    "block_24_stride_8": ({"tokens": 400}, dict(block_size=24, kernel_size=16, kernel_stride=8, window_size=50, topk=3)),
    "block_12_stride_4": ({}, dict(block_size=12, window_size=30, topk=5, dense_len=97)),
    "block_15_stride_5": ({"tokens": 300}, dict(block_size=15, kernel_size=10, kernel_stride=5, window_size=21, topk=4)),
    "kernel_equals_stride": ({}, dict(kernel_size=4, window_size=16)),
    "block_64": ({"tokens": 700}, dict(block_size=64, kernel_size=32, kernel_stride=16, window_size=128, topk=2, dense_len=500)),
    "block_8_equal_kernel": ({}, dict(block_size=8, kernel_size=8, kernel_stride=4, window_size=16, topk=6)),
    "kernel_12_stride_4": ({}, dict(kernel_size=12)),
    "kernel_2_stride_1": ({"tokens": 150}, dict(block_size=4, kernel_size=2, kernel_stride=1, window_size=9, topk=5, dense_len=60)),
    "no_init_blocks": ({}, dict(init_blocks=0)),
    "two_init_blocks": ({}, dict(init_blocks=2, topk=4)),
    "window_smaller_than_block": ({}, dict(window_size=10)),
    "window_zero_top_1": ({}, dict(window_size=0, topk=1, init_blocks=0)),
    "more_forced_than_top": ({}, dict(window_size=32, topk=1, init_blocks=2)),
    "top_7": ({"tokens": 500}, dict(topk=7, window_size=48, init_blocks=1, dense_len=333)),
    "top_covers_all": ({}, dict(topk=40)),
    "dense_len_zero": ({}, dict(dense_len=0)),
    "only_sparse": ({}, dict(mixer_types=[M, M, M], attn_use_rope=True, attn_use_output_gate=False)),
    "only_lightning": ({}, dict(mixer_types=[L, L])),
    "lightning_first_and_names": ({}, dict(mixer_types=["lightning", "lightning_attn", M, L, M])),
    "deep": ({}, dict(mixer_types=[M, L, L, L, M, L, M, M])),
    "no_sparse_config": ({}, dict(sparse=False)),
    "mup_and_eps": ({}, dict(scale_emb=12.0, scale_depth=1.4, dim_model_base=16, rms_norm_eps=1e-5)),
    "short": ({"tokens": 5}, {}),
    "one_token": ({"tokens": 1}, {}),
    "at_cell_edge": ({"tokens": 128}, {}),
}

LLAMA = {
    "default": ({}, {}),
    "bf16_sharded": ({"dtype": "bf16", "shards": 4}, {}),
    "f16_tied": ({"dtype": "f16"}, dict(tie_word_embeddings=True)),
    "nine_heads_three_kv": ({}, dict(num_attention_heads=9, num_key_value_heads=3, hidden_size=72, rope_theta=100000.0)),
    "head_dim_given": ({}, dict(head_dim=12, hidden_size=40)),
    "one_kv": ({}, dict(num_attention_heads=5, num_key_value_heads=1, hidden_size=40, rms_norm_eps=1e-6)),
    "every_head_its_kv": ({"tokens": 333}, dict(num_key_value_heads=4, vocab_size=77, intermediate_size=45)),
    "head_size_64": ({"tokens": 300}, dict(head_dim=64, hidden_size=192, num_attention_heads=3, num_key_value_heads=1)),
}

LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=100)
LLAMA["llama3_rope"] = ({"tokens": 300}, dict(rope_scaling=LLAMA3, rope_theta=500.0, head_dim=32, hidden_size=64))

QWEN3 = {
    "default": ({}, {}),
    "bf16_tied": ({"dtype": "bf16"}, dict(tie_word_embeddings=True)),
    "heads_wider_than_hidden": ({"tokens": 300}, dict(head_dim=32, num_attention_heads=6, num_key_value_heads=2, hidden_size=48)),
}


def longrope(original, seed=4):
    factors = [round(float(x), 3) for x in np.random.default_rng(seed).uniform(1, 3, 4)]
    return dict(rope_type="longrope", long_factor=factors, short_factor=[1.0] * 4, original_max_position_embeddings=original)


MINICPM = {
    "default": ({}, {}),
    "dense_bf16": ({"dtype": "bf16"}, dict(sparse=False)),
    "longrope_stretched": ({}, dict(rope_scaling=longrope(32768), max_position_embeddings=131072)),
    "longrope_unstretched": ({}, dict(rope_scaling=longrope(32768), max_position_embeddings=32768)),
    "always_sparse": ({}, dict(dense_len=-1, num_attention_heads=6, num_key_value_heads=3, head_dim=12)),
}

HYPENET = {
    "default": ({}, {}),
    "hype_500_tied": ({}, dict(attn_logits_scaling="hype 500", tie_word_embeddings=True)),
    "hype_without_number": ({"dtype": "bf16"}, dict(attn_logits_scaling="hype")),
    "factor": ({}, dict(attn_logits_scaling=1.3)),
    "bare_lightning": ({}, dict(qk_norm=False, use_output_norm=False, use_output_gate=False, attn_use_output_gate=False)),
    "rope_in_attention": ({}, dict(attn_use_rope=True, attn_logits_scaling="hype 50", lightning_nkv=2)),
}

BLOCKS = dict(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
GGUF = {kind: ({"gguf": [kind]}, BLOCKS) for kind in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")} | {
    "mixed": ({"gguf": ["q8_0", "q4_1", "q4_1", "q8_0", "f16", "q4_0", "f32"]}, BLOCKS),
    "mixed_tied": ({"gguf": ["q8_0", "q4_1", "q4_0"]}, BLOCKS | dict(tie_word_embeddings=True)),
    "head_dim_given": ({"gguf": ["q8_0"]}, BLOCKS | dict(head_dim=32)),
    "llama3_rope": ({"gguf": ["f32"], "tokens": 300}, BLOCKS | dict(rope_scaling=LLAMA3, rope_theta=500.0, head_dim=32)),
    "linear_rope": ({"gguf": ["f16"]}, BLOCKS | dict(rope_scaling=dict(rope_type="linear", factor=4.0))),
}
# Blocks of 256 columns; mixtures such as converters make: of q, k and v one with more bits, a head of six.
SUPERBLOCKS = dict(hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2, head_dim=64)
GGUF |= {kind: ({"gguf": [kind], "tokens": 100}, SUPERBLOCKS) for kind in k_quants.KINDS} | {
    "mixed_k": ({"gguf": ["q6_k", "q4_k", "q4_k", "q6_k", "q5_k", "q3_k", "q2_k", "q8_0", "iq4_xs"], "tokens": 100}, SUPERBLOCKS),
}
QWEN3_GGUF = {
    "mixed": ({"gguf": ["q8_0", "q4_1", "f16"]}, BLOCKS),
    "tied": ({"gguf": ["f32"]}, BLOCKS | dict(tie_word_embeddings=True)),
    "heads_wider_than_hidden": ({"gguf": ["bf16", "q4_0"]}, BLOCKS | dict(head_dim=32, num_attention_heads=6)),
}

def distance(got, want):
    """The largest relative error of a position."""
    return float((np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)).max())


def check(folder, family, name, policies, seed):
    """Runs one configuration; returns (worst relative error, differing choices, list of complaints)."""
    configurations = {"sala": SALA, "llama": LLAMA, "qwen3": QWEN3, "minicpm": MINICPM, "hypenet": HYPENET,
                      "llama.gguf": GGUF, "qwen3.gguf": QWEN3_GGUF}[family]
    arguments, fields = configurations[name]
    seed = 1000 * seed + list(configurations).index(name)
    out = pathlib.Path(folder) / f"{family}_{name}_{seed}"
    arguments = {"tokens": 240, "seed": seed} | arguments
    c, model, ids = make_checkpoint.make(out, family.removesuffix(".gguf"), **arguments, **fields)
    path = out / "model.gguf" if family.endswith(".gguf") else out
    worst, ties, complaints = 0.0, 0, []
    for policy in policies:
        want, want_blocks = make_checkpoint.reference(c, model, ids, policy)
        for backend in BACKENDS:
            where = f"{family} {name} (seed {seed}) {policy} on {backend}"
            try:
                got, blocks = harness.logits(path, out / "tokens.json", "--sparse", policy, "--backend", backend,
                                             "--threads", 1, blocks=True)
            except AssertionError as error:
                complaints.append(f"{where}: {error}")
                continue
            expected = want
            if got.shape != want.shape or got.dtype != np.float32:
                complaints.append(f"{where}: logits are {got.dtype} {got.shape}, expected float32 {want.shape}")
                continue
            if not want_blocks["layers"]:  # the page of a model without blocks is nobody's business
                want_blocks["block_size"] = blocks.get("block_size")
            if blocks != want_blocks:
                if {k: blocks.get(k) for k in ("policy", "block_size", "layers")} != \
                   {k: want_blocks[k] for k in ("policy", "block_size", "layers")} or policy == "dense":
                    complaints.append(f"{where}: blocks.json differs in more than choices: {str(blocks)[:200]}")
                    continue
                follow = sala_ref.Follow(blocks["blocks"])
                expected, followed = make_checkpoint.reference(c, model, ids, policy, follow)
                ties += follow.differing
                complaints += [f"{where}: {text}" for text in follow.wrong[:3]]
                if followed != blocks:
                    complaints.append(f"{where}: blocks.json is not what a dense position or an order of indices allows")
            error = distance(got, expected)
            worst = max(worst, error)
            if not error <= BOUND:
                at = int(np.argmax(np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)))
                complaints.append(f"{where}: relative error {error:.1e} at position {at} of {len(ids)}")
    return worst, ties, complaints


class Parity(unittest.TestCase):
    def compare(self, family, names, policies, seeds=(0,)):
        jobs = [(name, seed) for name in names for seed in seeds]
        worst, ties, complaints = 0.0, 0, []
        with tempfile.TemporaryDirectory() as folder, concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
            work = {pool.submit(check, folder, family, name, policies, seed): name for name, seed in jobs}
            for done in concurrent.futures.as_completed(work):
                error, differing, found = done.result()
                worst, ties = max(worst, error), ties + differing
                complaints += found
        print(f"{family}: {len(jobs)} checkpoints x {len(policies)} policies x {len(BACKENDS)} backends, worst relative error "
              f"{worst:.1e} (bound {BOUND:.0e}), {ties} choices differ and are proven ties", flush=True)
        self.assertFalse(complaints, "\n" + "\n".join(complaints))

    def test_sala(self):
        names = list(SALA)
        self.compare("sala", names, list(make_checkpoint.POLICIES))

    @unittest.skipUnless(harness.FULL, "the long form only: SALA_TEST_FULL=1")
    def test_sala_more_seeds(self):
        self.compare("sala", list(SALA), list(make_checkpoint.POLICIES), seeds=(1, 2, 3))

    def test_llama(self):
        self.compare("llama", list(LLAMA), ["always"])

    def test_relatives(self):
        self.compare("qwen3", list(QWEN3), ["always"])
        self.compare("minicpm", list(MINICPM), list(make_checkpoint.POLICIES))
        self.compare("hypenet", list(HYPENET), ["always"])

    def test_gguf(self):
        self.compare("llama.gguf", list(GGUF), ["always"])
        self.compare("qwen3.gguf", list(QWEN3_GGUF), ["always"])


if __name__ == "__main__":
    harness.main()
