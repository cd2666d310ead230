#!/usr/bin/env python3
"""What the program says: bad input gets one sentence and a status, `--json` prints the documented keys, every flag has an
environment variable, and `logits` and `inspect` need no tokenizer."""
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
import threading
import unittest

import numpy as np

import harness
import make_checkpoint
import tiny_model

USAGE, FAILED = 2, 1


def read_header(path):
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:8 + size]), raw[8 + size:]


def write_header(path, header, data):
    head = (header if isinstance(header, bytes) else json.dumps(header).encode())
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


def edit_tensor(name, **fields):
    """A mutation of model.safetensors: one tensor's entry gets other fields (None removes one)."""
    def mutate(folder):
        path = folder / "model.safetensors"
        header, data = read_header(path)
        header[name] = {k: v for k, v in (header.get(name, {}) | fields).items() if v is not None}
        write_header(path, header, data)
    return mutate


def edit_json(file, *path, **fields):
    """A mutation of a JSON file: the object at `path` gets other fields (None removes one)."""
    def mutate(folder):
        target = folder / file
        root = json.loads(target.read_text())
        at = root
        for key in path:
            at = at[key]
        for key, value in fields.items():
            if value is None:
                at.pop(key, None)
            else:
                at[key] = value
        target.write_text(json.dumps(root))
    return mutate


def edit_bytes(file, change):
    def mutate(folder):
        (folder / file).write_bytes(change((folder / file).read_bytes()))
    return mutate


def rename_tensor(old, new):
    def mutate(folder):
        path = folder / "model.safetensors"
        header, data = read_header(path)
        header[new] = header.pop(old)
        write_header(path, header, data)
    return mutate


def swap_offsets(folder):
    path = folder / "model.safetensors"
    header, data = read_header(path)
    begin, end = header["model.norm.weight"]["data_offsets"]
    header["model.norm.weight"]["data_offsets"] = [end, begin]
    write_header(path, header, data)


def move_tensor(by):
    def mutate(folder):
        path = folder / "model.safetensors"
        header, data = read_header(path)
        at = header["model.norm.weight"]["data_offsets"]
        header["model.norm.weight"]["data_offsets"] = [at[0] + by, at[1] + by]
        write_header(path, header, data)
    return mutate


def header_length(length):
    return edit_bytes("model.safetensors", lambda raw: struct.pack("<Q", length) + raw[8:])


def remove(file):
    return lambda folder: (folder / file).unlink()


WEIGHTS, CONFIG, IDS = "model.safetensors", "config.json", "tokens.json"
NORM, Q = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"
LIGHTNING_Q = "model.layers.1.self_attn.q_norm.weight"

# name: (mutation, what the sentence must contain)
CHECKPOINT = {
    "weights truncated": (edit_bytes(WEIGHTS, lambda raw: raw[:-10]), [WEIGHTS]),
    "weights with a tail": (edit_bytes(WEIGHTS, lambda raw: raw + b"12345678"), [WEIGHTS]),
    "weights empty": (edit_bytes(WEIGHTS, lambda raw: b""), [WEIGHTS]),
    "weights of four bytes": (edit_bytes(WEIGHTS, lambda raw: raw[:4]), [WEIGHTS]),
    "header only": (edit_bytes(WEIGHTS, lambda raw: raw[:8]), [WEIGHTS]),
    "header cut": (edit_bytes(WEIGHTS, lambda raw: raw[:200]), [WEIGHTS]),
    "header length zero": (header_length(0), [WEIGHTS]),
    "header length beyond the file": (header_length(10 ** 7), [WEIGHTS]),
    "header length of 2^63": (header_length(2 ** 63), [WEIGHTS]),
    "header length of 2^64 - 1": (header_length(2 ** 64 - 1), [WEIGHTS]),
    "header no JSON": (edit_bytes(WEIGHTS, lambda raw: raw[:8] + b"x" * 20 + raw[28:]), [WEIGHTS]),
    "header an array": (lambda d: write_header(d / WEIGHTS, b"[1, 2]", b""), [WEIGHTS]),
    "header nested deeply": (lambda d: write_header(d / WEIGHTS, b"[" * 100000, b""), [WEIGHTS]),
    "header not UTF-8": (lambda d: write_header(d / WEIGHTS, b'{"\xff\xfe": {}}', b""), [WEIGHTS]),
    "header with a tensor twice": (lambda d: write_header(d / WEIGHTS, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                                   b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"1234"), [WEIGHTS, "two entries"]),
    "offsets reversed": (swap_offsets, [WEIGHTS, NORM]),
    "tensors overlap": (move_tensor(-4), [WEIGHTS]),
    "tensor out of the file": (move_tensor(10 ** 9), [WEIGHTS, NORM]),
    "offsets of 2^63": (edit_tensor(NORM, data_offsets=[2 ** 63, 2 ** 63 + 128]), [WEIGHTS, NORM]),
    "offsets negative": (edit_tensor(NORM, data_offsets=[-128, 0]), [WEIGHTS, NORM]),
    "offsets are text": (edit_tensor(NORM, data_offsets="here"), [WEIGHTS, NORM]),
    "one offset": (edit_tensor(NORM, data_offsets=[0]), [WEIGHTS, NORM]),
    "no offsets": (edit_tensor(NORM, data_offsets=None), [WEIGHTS, NORM, "data_offsets"]),
    "no dtype": (edit_tensor(NORM, dtype=None), [WEIGHTS, NORM, "dtype"]),
    "unknown dtype": (edit_tensor(NORM, dtype="F13"), [WEIGHTS, NORM, "F13"]),
    "dtype of integers": (edit_tensor(NORM, dtype="I32"), [NORM, "I32"]),
    "dtype does not fit the bytes": (edit_tensor(NORM, dtype="BF16"), [WEIGHTS, NORM]),
    "no shape": (edit_tensor(NORM, shape=None), [WEIGHTS, NORM, "shape"]),
    "shape negative": (edit_tensor(NORM, shape=[-32]), [WEIGHTS, NORM]),
    "shape of fractions": (edit_tensor(NORM, shape=[32.5]), [WEIGHTS, NORM]),
    "shape overflows": (edit_tensor(NORM, shape=[2 ** 40, 2 ** 40]), [WEIGHTS, NORM]),
    "shape wraps to the right size": (edit_tensor(NORM, shape=[2 ** 62, 4, 32]), [WEIGHTS, NORM]),
    "shape of another rank": (edit_tensor(NORM, shape=[4, 8]), [NORM]),
    "matrix transposed": (edit_json(CONFIG, num_attention_heads=2), [Q]),
    "tensor missing": (rename_tensor(Q, "model.layers.0.self_attn.qq_proj.weight"), [Q]),
    "tensor unexpected": (edit_json(CONFIG, qk_norm=False), [LIGHTNING_Q]),
    "more layers in the file": (edit_json(CONFIG, num_hidden_layers=3, mixer_types=["minicpm4", "lightning-attn", "lightning-attn"]),
                                ["model.layers.3."]),
    "fewer layers in the file": (edit_json(CONFIG, num_hidden_layers=5, mixer_types=["minicpm4", "lightning-attn", "lightning-attn",
                                                                                     "minicpm4", "minicpm4"]), ["model.layers.4."]),
    "no weights": (remove(WEIGHTS), [WEIGHTS]),
    "no config": (remove(CONFIG), [CONFIG]),
    "config empty": (edit_bytes(CONFIG, lambda raw: b""), [CONFIG]),
    "config cut": (edit_bytes(CONFIG, lambda raw: raw[:100]), [CONFIG]),
    "config an array": (edit_bytes(CONFIG, lambda raw: b"[]"), [CONFIG]),
    "config not UTF-8": (edit_bytes(CONFIG, lambda raw: raw.replace(b"silu", b"\xc3\x28")), [CONFIG]),
    "config nested deeply": (edit_bytes(CONFIG, lambda raw: b'{"a":' * 100000), [CONFIG]),
    "no model_type": (edit_json(CONFIG, model_type=None), [CONFIG, "model_type"]),
    "unknown model_type": (edit_json(CONFIG, model_type="gpt9"), [CONFIG, "gpt9", "minicpm_sala"]),
    "model_type a number": (edit_json(CONFIG, model_type=3), [CONFIG, "model_type"]),
    "unknown mixer": (edit_json(CONFIG, mixer_types=["minicpm4", "mamba7", "lightning-attn", "minicpm4"]), [CONFIG, "mamba7"]),
    "too few mixers": (edit_json(CONFIG, mixer_types=["minicpm4"]), [CONFIG, "mixer_types"]),
    "mixers no list": (edit_json(CONFIG, mixer_types="minicpm4"), [CONFIG, "mixer_types"]),
    "no mixers": (edit_json(CONFIG, mixer_types=None), [CONFIG, "mixer_types"]),
    "no layers": (edit_json(CONFIG, num_hidden_layers=0, mixer_types=[]), [CONFIG, "num_hidden_layers"]),
    "layers of 2^60": (edit_json(CONFIG, num_hidden_layers=2 ** 60), [CONFIG, "num_hidden_layers"]),
    "no hidden_size": (edit_json(CONFIG, hidden_size=None), [CONFIG, "hidden_size"]),
    "hidden_size zero": (edit_json(CONFIG, hidden_size=0), [CONFIG, "hidden_size"]),
    "hidden_size negative": (edit_json(CONFIG, hidden_size=-32), [CONFIG, "hidden_size"]),
    "hidden_size of 2^62": (edit_json(CONFIG, hidden_size=2 ** 62), [CONFIG, "hidden_size"]),
    "hidden_size of 2^64": (edit_bytes(CONFIG, lambda raw: raw.replace(b'"hidden_size": 32', b'"hidden_size": 18446744073709551616')),
                            [CONFIG, "hidden_size"]),
    "hidden_size text": (edit_json(CONFIG, hidden_size="32"), [CONFIG, "hidden_size"]),
    "hidden_size fraction": (edit_json(CONFIG, hidden_size=32.5), [CONFIG, "hidden_size"]),
    "vocab_size wrong": (edit_json(CONFIG, vocab_size=9), ["model.embed_tokens.weight"]),
    "vocab_size zero": (edit_json(CONFIG, vocab_size=0), [CONFIG, "vocab_size"]),
    "heads not a multiple of kv heads": (edit_json(CONFIG, num_key_value_heads=3), [CONFIG, "num_key_value_heads"]),
    "kv heads zero": (edit_json(CONFIG, num_key_value_heads=0), [CONFIG, "num_key_value_heads"]),
    "lightning heads not a multiple": (edit_json(CONFIG, lightning_nkv=3), [CONFIG, "lightning_nkv"]),
    "head_dim odd": (edit_json(CONFIG, head_dim=7), [CONFIG, "head_dim"]),
    "rms_norm_eps negative": (edit_json(CONFIG, rms_norm_eps=-1.0), [CONFIG, "rms_norm_eps"]),
    "rope_theta text": (edit_json(CONFIG, rope_theta="big"), [CONFIG, "rope_theta"]),
    "rope_scaling": (edit_json(CONFIG, rope_scaling={"type": "yarn", "factor": 4}), [CONFIG, "rope_scaling"]),
    "attention_bias": (edit_json(CONFIG, attention_bias=True), [CONFIG, "attention_bias"]),
    "hidden_act": (edit_json(CONFIG, hidden_act="relu"), [CONFIG, "hidden_act", "relu"]),
    "use_nope": (edit_json(CONFIG, "sparse_config", use_nope=True), [CONFIG, "use_nope"]),
    "tie_word_embeddings a number": (edit_json(CONFIG, tie_word_embeddings=1), [CONFIG, "tie_word_embeddings"]),
    "tied with a head in the file": (edit_json(CONFIG, tie_word_embeddings=True), ["lm_head.weight"]),
    "sparse_config no object": (edit_json(CONFIG, sparse_config=[1]), [CONFIG, "sparse_config"]),
    "block_size zero": (edit_json(CONFIG, "sparse_config", block_size=0), [CONFIG, "block_size"]),
    "block_size negative": (edit_json(CONFIG, "sparse_config", block_size=-64), [CONFIG, "block_size"]),
    "block_size huge": (edit_json(CONFIG, "sparse_config", block_size=2 ** 31), [CONFIG, "block_size"]),
    "block_size no multiple of the stride": (edit_json(CONFIG, "sparse_config", block_size=18), [CONFIG, "block_size", "kernel_stride"]),
    "kernel_stride zero": (edit_json(CONFIG, "sparse_config", kernel_stride=0), [CONFIG, "kernel_stride"]),
    "kernel_size zero": (edit_json(CONFIG, "sparse_config", kernel_size=0), [CONFIG, "kernel_size"]),
    "topk text": (edit_json(CONFIG, "sparse_config", topk="all"), [CONFIG, "topk"]),
    "no block at all": (edit_json(CONFIG, "sparse_config", topk=0, window_size=0), [CONFIG, "topk"]),
    "ids missing": (remove(IDS), [IDS]),
    "ids no JSON": (edit_bytes(IDS, lambda raw: b"1 2 3"), [IDS]),
    "ids no array": (edit_bytes(IDS, lambda raw: b'{"ids": [1]}'), [IDS]),
    "ids empty": (edit_bytes(IDS, lambda raw: b"[]"), [IDS]),
    "id negative": (edit_bytes(IDS, lambda raw: b"[1, -1]"), [IDS, "-1"]),
    "id beyond the vocabulary": (edit_bytes(IDS, lambda raw: b"[1, 263]"), [IDS, "263"]),
    "id of 2^64": (edit_bytes(IDS, lambda raw: b"[18446744073709551616]"), [IDS]),
    "id of 2^32": (edit_bytes(IDS, lambda raw: b"[4294967296]"), [IDS]),
    "id a fraction": (edit_bytes(IDS, lambda raw: b"[1.5]"), [IDS]),
    "id text": (edit_bytes(IDS, lambda raw: b'["1"]'), [IDS]),
}

INDEX = "model.safetensors.index.json"


def edit_index(change):
    def mutate(folder):
        index = json.loads((folder / INDEX).read_text())
        change(index, folder)
        (folder / INDEX).write_text(json.dumps(index))
    return mutate


SHARDED = {
    "shard absent": (remove("model-00002-of-00003.safetensors"), ["model-00002-of-00003.safetensors"]),
    "shard truncated": (edit_bytes("model-00002-of-00003.safetensors", lambda raw: raw[:-4]), ["model-00002-of-00003.safetensors"]),
    "index no JSON": (edit_bytes(INDEX, lambda raw: raw[:50]), [INDEX]),
    "index without weight_map": (edit_index(lambda i, d: i.pop("weight_map")), [INDEX, "weight_map"]),
    "weight_map a list": (edit_index(lambda i, d: i.update(weight_map=[])), [INDEX, "weight_map"]),
    "shard a number": (edit_index(lambda i, d: i["weight_map"].update({NORM: 3})), [INDEX, NORM]),
    "shard in another folder": (edit_index(lambda i, d: i["weight_map"].update({NORM: "../model.safetensors"})), [INDEX, "../model.safetensors"]),
    "shard an absolute path": (edit_index(lambda i, d: i["weight_map"].update({NORM: "/etc/passwd"})), [INDEX, "/etc/passwd"]),
    "tensor in no shard": (edit_index(lambda i, d: i["weight_map"].update({"more.weight": "model-00001-of-00003.safetensors"})), ["more.weight"]),
    "tensor in another shard": (edit_index(lambda i, d: i["weight_map"].update({NORM: "model-00001-of-00003.safetensors"
                                if i["weight_map"][NORM] != "model-00001-of-00003.safetensors" else "model-00002-of-00003.safetensors"})), [NORM]),
    "index does not list a tensor": (edit_index(lambda i, d: i["weight_map"].pop(NORM)), [NORM]),
}

GGUF = {
    "empty": (lambda raw: b"", []),
    "another format": (lambda raw: b"ABCD" + raw[4:], []),
    "version 1": (lambda raw: raw[:4] + struct.pack("<I", 1) + raw[8:], ["version"]),
    "version 9": (lambda raw: raw[:4] + struct.pack("<I", 9) + raw[8:], ["version"]),
    "big-endian": (lambda raw: raw[:4] + struct.pack(">I", 3) + raw[8:], []),
    "2^60 tensors": (lambda raw: raw[:8] + struct.pack("<Q", 2 ** 60) + raw[16:], []),
    "2^60 keys": (lambda raw: raw[:16] + struct.pack("<Q", 2 ** 60) + raw[24:], []),
    "key of 2^63 bytes": (lambda raw: raw[:24] + struct.pack("<Q", 2 ** 63) + raw[32:], []),
    "another architecture": (lambda raw: raw.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwenx", 1), ["qwenx"]),
    "key missing": (lambda raw: raw.replace(b"llama.block_count", b"llama.blockxcount"), ["llama.block_count"]),
    "tensor missing": (lambda raw: raw.replace(b"blk.1.attn_q.weight", b"blk.1.attn_z.weight"), ["q_proj"]),
    "unknown metadata type": (lambda raw: raw.replace(b"llama.block_count\x04", b"llama.block_count\x63"), ["llama.block_count"]),
    "unknown tensor type": (lambda raw: re.sub(rb"(blk\.1\.attn_q\.weight.{20})....", lambda m: m[1] + struct.pack("<I", 77), raw, flags=re.DOTALL), ["blk.1.attn_q.weight"]),
    "tensor of 2^62 columns": (lambda raw: re.sub(rb"(blk\.1\.attn_q\.weight....)........", lambda m: m[1] + struct.pack("<Q", 2 ** 62), raw,
                                                  flags=re.DOTALL), ["blk.1.attn_q.weight"]),
    "tensor out of the file": (lambda raw: re.sub(rb"(blk\.1\.attn_q\.weight.{24})........", lambda m: m[1] + struct.pack("<Q", 2 ** 40), raw,
                                                  flags=re.DOTALL), ["blk.1.attn_q.weight"]),
    "tensor not aligned": (lambda raw: re.sub(rb"(blk\.1\.attn_q\.weight.{24})........", lambda m: m[1] + struct.pack("<Q", 33), raw,
                                              flags=re.DOTALL), ["blk.1.attn_q.weight"]),
    "rank 200": (lambda raw: re.sub(rb"(blk\.1\.attn_q\.weight)....", lambda m: m[1] + struct.pack("<I", 200), raw, flags=re.DOTALL),
                 ["blk.1.attn_q.weight"]),
    "heads zero": (lambda raw: re.sub(rb"(llama\.attention\.head_count\x04\0\0\0)....", lambda m: m[1] + bytes(4), raw, flags=re.DOTALL),
                   ["head_count"]),
}


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.scratch.name)
        cls.good = cls.folder / "good"
        cls.config, _, _ = tiny_model.make(cls.good)

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def refused(self, status, contains, *arguments, **options):
        """The program must end with `status` and one sentence on stderr that contains each of `contains`."""
        done = harness.run(*arguments, timeout=60, **options)
        told = done.stderr.strip()
        self.assertEqual(done.returncode, status, f"exit status {done.returncode}, stderr: {told[:500]}")
        self.assertEqual(done.stdout, "")
        self.assertRegex(told, r"\Asala: [^\n]+\Z", "expected one line")
        self.assertLess(len(told), 1000)
        for text in contains:
            self.assertIn(text, told)
        return told

    def logits_arguments(self, model, ids=None):
        return ["logits", model, "--tokens", ids or model / IDS, "--out", self.folder / "out.npy"]


class BadCheckpoint(Case):
    def bad(self, source, cases):
        for name, (mutate, contains) in cases.items():
            with self.subTest(name):
                model = self.folder / "bad"
                shutil.rmtree(model, ignore_errors=True)
                shutil.copytree(source, model)
                mutate(model)
                out = self.folder / "out.npy"
                out.unlink(missing_ok=True)
                self.refused(FAILED, [str(model) if contains and contains[0] in (CONFIG, WEIGHTS, IDS, INDEX) else "", *contains],
                             *self.logits_arguments(model))
                self.assertFalse(out.exists(), "a file of logits was left behind")

    def test_safetensors_config_and_ids(self):
        self.bad(self.good, CHECKPOINT)

    def test_shards(self):
        sharded = self.folder / "sharded"
        tiny_model.make(sharded, shards=3)
        self.bad(sharded, SHARDED)

    def test_every_cut_of_a_header(self):
        """A file cut anywhere is refused, whatever the cut leaves."""
        model = self.folder / "cut"
        shutil.copytree(self.good, model)
        raw = (model / WEIGHTS).read_bytes()
        for size in np.linspace(0, len(raw) - 1, 40).astype(int):
            (model / WEIGHTS).write_bytes(raw[:size])
            with self.subTest(int(size)):
                self.refused(FAILED, [WEIGHTS], *self.logits_arguments(model))

    def test_generation_config(self):
        model = self.folder / "generation"
        shutil.copytree(self.good, model)
        for text, contains in (("{", ["generation_config.json"]), ('{"temperature": "hot"}', ["temperature"]),
                               ('{"eos_token_id": 99999}', ["eos_token_id"]), ('{"top_p": -1}', ["top_p"])):
            (model / "generation_config.json").write_text(text)
            with self.subTest(text):
                self.refused(FAILED, ["generation_config.json", *contains], "run", model, "-p", "hello", "-n", 1)


class BadGguf(Case):
    def setUp(self):
        self.model = self.folder / "gguf"
        make_checkpoint.make(self.model, "llama", gguf=["q4_1", "q8_0"], tokens=9, hidden_size=64, intermediate_size=96, head_dim=16)
        self.raw = (self.model / "model.gguf").read_bytes()

    def try_bytes(self, raw, contains):
        bad = self.folder / "bad.gguf"
        bad.write_bytes(raw)
        self.refused(FAILED, ["bad.gguf", *contains], *self.logits_arguments(bad, self.model / IDS))

    def test_fields(self):
        for name, (change, contains) in GGUF.items():
            with self.subTest(name):
                changed = change(self.raw)
                self.assertNotEqual(changed, self.raw, "the case changes nothing")
                self.try_bytes(changed, contains)

    def test_cuts(self):
        for size in np.linspace(1, len(self.raw) - 1, 60).astype(int):
            with self.subTest(int(size)):
                self.try_bytes(self.raw[:size], [])


class BadUse(Case):
    def test_usage(self):
        good, ids = self.good, self.good / IDS
        out = ["--tokens", ids, "--out", self.folder / "out.npy"]
        for arguments, contains in (
                ([], []), (["dance"], ["dance"]), (["logits"], []), (["logits", good, "--out", "x.npy"], ["--tokens"]),
                (["logits", good, "--tokens", ids], ["--out"]), (["logits", good, *out, "--speed", 3], ["--speed"]),
                (["logits", good, *out, "--sparse", "never"], ["--sparse", "never", "per-query"]),
                (["logits", good, *out, "--backend", "abacus"], ["--backend", "abacus", "reference"]),
                (["logits", good, *out, "--compute", "f64"], ["--compute", "f64", "int8"]),
                (["logits", good, *out, "--kv", "int2"], ["--kv", "int2", "auto, f32, bf16, int8, int4"]),
                (["inspect", good, "--kv", "int2"], ["--kv", "int2", "auto, f32, bf16, int8, int4"]),
                (["logits", good, *out, "--chunk", 0], ["--chunk"]), (["logits", good, *out, "--chunk", "many"], ["--chunk"]),
                (["logits", good, *out, "--threads", -1], ["--threads"]), (["logits", good, *out, "--last", -3], ["--last"]),
                (["run", good, "-p", "x", "--temp", -1], ["--temp"]), (["run", good, "-p", "x", "--top-p", 2], ["--top-p"]),
                (["run", good, "-p", "x", "-n", -1], ["--predict"]), (["run", good, "-p", "x", "-n", "some"], ["--predict"]),
                (["run", good, "-p", "x", "-n", "1e3"], ["--predict", "\"1e3\"", "whole number"]),
                (["run", good, "-p", "x", "--temp", "abc"], ["--temp", "\"abc\"", "number from 0 to 100"]),
                (["run", good, "-p", "x", "--temp", "nan"], ["--temp", "\"nan\""]),
                (["eval", "niah", good, "--depths", "0,nan"], ["--depths", "\"nan\""]),
                (["tokenize", good, "--ids", ""], ["--ids", "whole number"]),
                (["tokenize", good, "--ids", "1,2", "-p", "x"], ["--ids", "--prompt"]),
                (["run", good, "a", "b", "c"], ["unexpected: a b c", "see sala run --help"]),
                (["session", "lst"], ["\"sala session lst\"", "see sala session --help"]),
                (["eval", "nia", good], ["\"sala eval nia\"", "see sala eval --help"]), (["eval"], ["see sala eval --help"]),
                (["session", "list", "--speed"], ["--speed", "see sala session list --help"]),
                (["inspect", good, "--ctx", "all"], ["--ctx"]), (["eval"], []), (["eval", "ppl", good], [])):
            with self.subTest(" ".join(map(str, arguments))):
                self.refused(USAGE, contains, *arguments)

    def test_files(self):
        good, ids = self.good, self.good / IDS
        nothing = self.folder / "nothing"
        empty = self.folder / "empty"
        empty.mkdir()
        for arguments, contains in (
                (["logits", nothing, "--tokens", ids, "--out", "x.npy"], [str(nothing)]),
                (["logits", empty, "--tokens", ids, "--out", "x.npy"], [str(empty), CONFIG]),
                (["inspect", nothing], [str(nothing)]), (["tokenize", nothing, "-p", "x"], [str(nothing)]),
                (["run", nothing, "-p", "x"], [str(nothing)]),
                (["logits", good, "--tokens", nothing, "--out", "x.npy"], [str(nothing)]),
                (["logits", good, "--tokens", ids, "--out", nothing / "x.npy"], [str(nothing / "x.npy")]),
                (["logits", good, "--tokens", ids, "--out", self.folder / "out.npy", "--blocks", nothing / "b.json"], [str(nothing / "b.json")]),
                (["run", good, "--file", nothing, "-p", "x"], [str(nothing)]),
                (["eval", "ppl", good, nothing], [str(nothing)])):
            with self.subTest(" ".join(map(str, arguments))):
                self.refused(FAILED, contains, *arguments)

    def test_no_tokenizer(self):
        bare = self.folder / "bare"
        make_checkpoint.make(bare, tokens=20)
        self.assertEqual(harness.logits(bare, bare / IDS).shape, (20, 61))
        self.assertEqual(json.loads(harness.sala("inspect", bare, "--json"))["family"], "minicpm_sala")
        for arguments in (["run", bare, "-p", "x"], ["tokenize", bare, "-p", "x"]):
            self.refused(FAILED, [str(bare), "tokenizer"], *arguments)

    def test_bad_tokenizer(self):
        model = self.folder / "tokenizer"
        for name, text in (("no JSON", "{"), ("an array", "[]"), ("no model", '{"version": "1.0"}'),
                           ("unknown model", '{"model": {"type": "Magic", "vocab": {}}}')):
            shutil.rmtree(model, ignore_errors=True)
            shutil.copytree(self.good, model)
            (model / "tokenizer.json").write_text(text)
            with self.subTest(name):
                self.refused(FAILED, ["tokenizer.json"], "tokenize", model, "-p", "x")

    def test_bad_template(self):
        model = self.folder / "template"
        shutil.copytree(self.good, model)
        for template, contains in (("{% for m in %}", []), ("{{ raise_exception('no such role') }}", ["no such role"]),
                                   ("{{ messages[99].content.x.y }}", []), ("{% include '/etc/passwd' %}", [])):
            (model / "chat_template.jinja").write_text(template)
            with self.subTest(template):
                self.refused(FAILED, ["template", *contains], "run", model, "-p", "x", "-n", 1)

    def test_memory(self):
        """A context longer than memory allows is refused with the arithmetic, before anything is computed."""
        told = self.refused(FAILED, [], "run", self.good, "-p", "hello", "-n", 2 ** 30)
        self.assertRegex(told, r"\d+(\.\d+)? ?(GiB|MiB|GB|bytes)")
        (self.folder / "text.txt").write_text("hello " * 40)
        self.refused(FAILED, [], "eval", "ppl", self.good, self.folder / "text.txt", "--ctx", 2 ** 39)

    def test_bytes_that_are_no_text(self):
        """Invalid UTF-8 in a prompt or file is read as U+FFFD, not refused and no crash."""
        path = self.folder / "noise.txt"
        path.write_bytes(bytes(range(256)) * 3)
        harness.sala("run", self.good, "--file", path, "-p", b"\xff\xfe\xc3(".decode("utf-8", "surrogateescape"), "-n", 2, "--raw")
        harness.sala("eval", "ppl", self.good, path, "--ctx", 64)


def flat(value, prefix=""):
    """The keys of nested objects as a.b; of a list of objects as a[].b."""
    if isinstance(value, dict):
        return {k for key, v in value.items() for k in flat(v, f"{prefix}.{key}" if prefix else key)}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {k for v in value for k in flat(v, prefix + "[]")}
    return {prefix}


class Documented(Case):
    """docs/cli.md lists the keys of every --json in a table under a heading that ends with `sala COMMAND --json`."""

    def documented(self, command):
        text = (harness.ROOT / "docs" / "cli.md").read_text()
        part = re.search(rf"^#+ `sala {command} --json`$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
        self.assertIsNotNone(part, f"docs/cli.md has no heading `sala {command} --json`")
        return set(re.findall(r"^\| `([^`]+)` \|", part[1], re.MULTILINE))

    def compare(self, command, *arguments, varying=()):
        """The keys that are printed are those that are documented; `varying` begins keys whose rest is data."""
        out = json.loads(harness.sala(*arguments, "--json"))
        keys = flat(out)
        for name in varying:
            keys = {k if not k.startswith(name + ".") else f"{name}.*" for k in keys}
        self.assertEqual(keys, self.documented(command))
        return out

    def test_run(self):
        out = self.compare("run", "run", self.good, "-p", "hello", "-n", 5, "--temp", 0)
        self.assertEqual(out["generated_tokens"], len(out["tokens"]))

    def test_quantize(self):
        with tempfile.TemporaryDirectory() as folder:
            out = self.compare("quantize IN OUT", "quantize", self.good, f"{folder}/w8", "--type", "w8", "--group", 32,
                               varying=("types", "others"))
            self.assertEqual(out["bytes"], pathlib.Path(folder, "w8", "model.safetensors").stat().st_size)

    def test_bench(self):
        picture = self.folder / "bench.svg"
        lengths = ["--prompt", 40, "--gen", 8, "--depth", "0,160", "--threads", 1]
        out = self.compare("bench", "bench", self.good, *lengths, "--svg", picture)
        rows = [(row["phase"], row["tokens"], row["depth"]) for row in out["rows"]]
        self.assertEqual(rows, [("prompt", 40, 0), ("gen", 8, 0), ("prompt", 40, 160), ("gen", 8, 160)])
        self.assertTrue(all(row["share"] > 0 and row["threads"] == 1 and row["type"] == "f32" for row in out["rows"]))
        self.assertGreater(out["memory"]["peak"], out["memory"]["weights"])
        self.assertEqual(picture.read_text().count("<circle"), 4)
        synthetic = ["bench", "--synthetic", self.good / CONFIG, *lengths, "--json"]
        whole = json.loads(harness.sala(*synthetic, "--type", "f32"))
        self.assertEqual(whole["memory"]["weights"], out["memory"]["weights"])
        cut = json.loads(harness.sala(*synthetic, "--type", "bf16", "--layers", 1))
        self.assertLess(cut["memory"]["weights"], whole["memory"]["weights"] / 2)
        self.assertIn("tokens/s", harness.sala("bench", self.good, *lengths))
        self.assertRegex(harness.on_terminal("bench", self.good, *lengths), r"measuring \[#+\.*\]")

    def test_bench_refusals(self):
        for words, arguments in ((["give a model"], []), (["not both"], [self.good, "--synthetic", self.good / CONFIG]),
                                 (["--type", "bf16"], ["--synthetic", self.good / CONFIG, "--type", "w5"]),
                                 (["--layers is 99"], ["--synthetic", self.good / CONFIG, "--type", "w4", "--layers", 99]),
                                 (["belong to --synthetic"], [self.good, "--layers", 1]),
                                 (["--batch"], [self.good, "--batch", 0]), (["--batch"], [self.good, "--batch", "4,0"]),
                                 (["--depth is 100", "multiples of 16"], [self.good, "--depth", 100]),
                                 (["nothing to measure"], [self.good, "--prompt", 0, "--gen", 0])):
            self.refused(USAGE, words, "bench", *arguments)
        self.refused(FAILED, ["no.json"], "bench", "--synthetic", self.folder / "no.json", "--type", "w4")

    def test_inspect(self):
        out = self.compare("inspect", "inspect", self.good, "--ctx", 1000, varying=("types",))
        shapes = [np.prod(s) for s in make_checkpoint.sala_ref.tensor_shapes(self.config).values()]
        self.assertEqual(out["parameters"], sum(shapes))
        self.assertEqual(out["bytes"], 4 * sum(shapes))
        self.assertEqual(out["memory"]["total"], sum(out["memory"][k] for k in ("kv", "index", "state")))
        self.assertEqual(out["memory"]["total"], sum(layer["memory"]["total"] for layer in out["layers"]))

    def test_kv_types(self):
        """`inspect` prints the closed form of every type, and `logits` is as close to f32 as its bits allow (the
        median row: where another block is chosen, a row differs by more)."""
        c, page, tokens = self.config, 16, 1000
        layers = sum("minicpm4" in kind for kind in c.mixer_types)
        heads, d, pages = c.num_key_value_heads, c.head_dim, -(-tokens // page)
        groups = -(-d // 32)
        exact = harness.logits(self.good, self.good / IDS)
        for kv, a_token, index, bound in (("f32", 4 * d, 4, 1e-9), ("bf16", 2 * d, 2, 0.01), ("int8", d + 2, 2, 0.02),
                                          ("int4", groups * (16 + 4), 2, 0.2)):
            with self.subTest(kv):
                out = json.loads(harness.sala("inspect", self.good, "--ctx", tokens, "--kv", kv, "--json"))
                self.assertEqual(out["kv_type"], kv)
                self.assertEqual(out["memory"]["kv"], layers * heads * pages * page * 2 * a_token)
                self.assertEqual(out["memory"]["index"], layers * heads * pages * (page // 4 + page // 16) * d * index)
                got = harness.logits(self.good, self.good / IDS, "--kv", kv)
                error = np.linalg.norm(got - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
                self.assertLess(np.median(error), bound)
                self.assertEqual(error.max() > 0, kv != "f32")
                answer = json.loads(harness.sala("run", self.good, "-p", "hello", "-n", 5, "--kv", kv, "--json"))
                self.assertGreater(answer["memory"]["kv"], 0)

    def test_tokenize(self):
        out = self.compare("tokenize", "tokenize", self.good, "-p", "hello")
        self.assertEqual(out["pieces"], ["he", "ll", "o"])
        self.assertEqual(out["text"], "hello")
        self.assertEqual(json.loads(harness.sala("tokenize", self.good, "-p", "hello")), out["ids"])
        self.assertEqual(json.loads(harness.sala("tokenize", self.good, stdin="hello")), out["ids"])
        self.assertEqual(harness.sala("tokenize", self.good, "-p", "", stdin="hello"), "[]\n")
        self.assertEqual(harness.sala("tokenize", self.good, "--ids", ",".join(map(str, out["ids"]))), "hello\n")

    def test_session(self):
        text, where = self.folder / "text.txt", ["--sessions-dir", self.folder / "sessions"]
        text.write_text("hello there " * 20)
        harness.sala("session", "ingest", self.good, "book", text, *where)
        self.compare("session inspect", "session", "inspect", "book", *where, varying=("identity", "origins[].numerics"))
        out = json.loads(harness.sala("run", self.good, "--session", "book", "-p", "hello", "-n", 3, "--json", *where))
        keys = self.documented("run") | {"session." + k for k in ("name", "tokens", "read_again", "saved", "inexact")}
        self.assertEqual(flat(out), keys)

    def test_eval_ppl(self):
        (self.folder / "text.txt").write_text("hello there " * 20)
        out = self.compare("eval ppl", "eval", "ppl", self.good, self.folder / "text.txt", "--ctx", "50,20")
        self.assertEqual([row["context"] for row in out["rows"]], [50, 20])
        for row in out["rows"]:
            self.assertAlmostEqual(row["perplexity"], np.exp(row["nats_per_token"]), delta=1e-6 * row["perplexity"])

    def test_eval_recall(self):
        """A row for each policy, task, length and depth, the same scores every time; an SVG with a rectangle a cell."""
        svg = self.folder / "map.svg"
        for command, tasks in (("niah", 6), ("recall", 1)):
            arguments = ["eval", command, self.good, "--lengths", "300,400", "--depths", "0,1", "--samples", 1,
                         "--policies", "always,dense", "--svg", svg]
            out = self.compare("eval niah", *arguments)
            self.assertEqual(len(out["rows"]), 2 * tasks * 2 * 2)
            self.assertEqual(len({tuple(row[k] for k in ("policy", "task", "length", "depth")) for row in out["rows"]}),
                             len(out["rows"]))
            self.assertTrue(all(0 <= row["score"] <= 1 and row["n"] == 1 for row in out["rows"]))
            self.assertEqual(svg.read_text().count("stroke=\"white\""), len(out["rows"]))
            self.assertEqual(out, json.loads(harness.sala(*arguments, "--json")))
        self.refused(USAGE, ["niah_double"], "eval", "niah", self.good, "--tasks", "niah_double")
        self.refused(FAILED, ["--lengths"], "eval", "niah", self.good, "--lengths", 40, "--samples", 1)


class Outputs(Case):
    """Files that options name: whole or not at all, and what is no file stays what it is."""

    def commands(self, name):
        """Commands that write a file, and the option that names it."""
        trace = self.folder / "trace.jsonl"
        if not trace.exists():
            harness.sala("run", self.good, "-p", "hello", "-n", 3, "--temp", 0, "--trace-blocks", trace)
        return [("--out", ["logits", self.good, "--tokens", self.good / IDS, "--out", name]),
                ("--blocks", ["logits", self.good, "--tokens", self.good / IDS, "--out", self.folder / "o.npy", "--blocks", name]),
                ("--svg", ["trace", trace, "--svg", name]),
                ("--trace-blocks", ["run", self.good, "-p", "hello", "-n", 3, "--temp", 0, "--trace-blocks", name])]

    def test_pipes_stay(self):
        plain, pipe = self.folder / "plain", self.folder / "pipe"
        os.mkfifo(pipe)
        for (option, to_file), (_, to_pipe) in zip(self.commands(plain), self.commands(pipe)):
            with self.subTest(option):
                harness.sala(*to_file)
                got = []
                reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
                reader.start()
                harness.sala(*to_pipe)
                self.assertTrue(stat.S_ISFIFO(pipe.stat().st_mode))
                reader.join(60)
                self.assertEqual(got, [plain.read_bytes()])

    def test_links_stay(self):
        (self.folder / "there").mkdir()
        target, link = self.folder / "there" / "target", self.folder / "link"
        link.symlink_to("there/target")
        for option, command in self.commands(link):
            for before in (None, b"old"):
                with self.subTest(f"{option} {before}"):
                    target.unlink(missing_ok=True)
                    if before:
                        target.write_bytes(before)
                    harness.sala(*command)
                    self.assertTrue(link.is_symlink())
                    self.assertGreater(len(target.read_bytes()), 3)
                    self.assertEqual(list(target.parent.iterdir()), [target])

    def test_told_before_the_work(self):
        """Before the model is looked at, which is not there."""
        nothing, round_about = self.folder / "nothing", self.folder / "round"
        round_about.symlink_to("round")
        for name, words in ((self.folder, ["is a directory"]), (nothing / "x", ["No such file"]),
                            (self.good / CONFIG / "x", ["Not a directory"]), (round_about, ["symbolic links"])):
            commands = self.commands(name)
            commands += [("--svg", ["bench", self.good, "--svg", name]), ("--svg", ["eval", "niah", self.good, "--svg", name])]
            for option, command in commands:
                with self.subTest(f"{option} {name}"):
                    command[1 if command[0] != "eval" else 2] = nothing
                    self.refused(FAILED, [option, str(name), *words], *command)


class Inputs(Case):
    """Texts from pipes are what they are from files."""

    def test_pipes(self):
        text, pipe, where = "hello there " * 20, self.folder / "text.pipe", ["--sessions-dir", self.folder / "piped"]
        file = self.folder / "text.txt"
        file.write_text(text)
        os.mkfifo(pipe)
        reply = ["-n", 3, "--temp", 0, "--raw", "--json"]
        harness.sala("session", "ingest", self.good, "file", file, *where)
        for name in ("-", "/dev/stdin", pipe):
            commands = {"run": (["run", self.good, *reply, "--file"], []), "tokenize": (["tokenize", self.good, "--file"], []),
                        "ppl": (["eval", "ppl", self.good], ["--ctx", 50]),
                        "ingest": (["session", "ingest", self.good, f"pipe{len(str(name))}"], where)}
            for command, (before, after) in commands.items():
                with self.subTest(f"{command} {name}"):
                    if name == pipe:
                        threading.Thread(target=pipe.write_text, args=[text], daemon=True).start()
                    got = harness.sala(*before, name, *after, stdin=text)
                    if command == "ingest":
                        got = json.loads(harness.sala("session", "inspect", before[-1], "--json", *where))["tokens"]
                        self.assertEqual(got, json.loads(harness.sala("session", "inspect", "file", "--json", *where))["tokens"])
                    elif command == "run":
                        want = harness.sala(*before, file, *after)
                        self.assertEqual(*(json.loads(out)["tokens"] for out in (got, want)))
                    else:
                        self.assertEqual(got.replace(str(name), str(file)), harness.sala(*before, file, *after))


class Streams(Case):
    """Standard output that is full or closed is told; standard error that is ends nothing."""
    COMMANDS = (["--help"], ["tokenize", "-p", "hello"], ["inspect"], ["run", "-p", "hello", "-n", 3, "--temp", 0],
                ["run", "-p", "hello", "-n", 3, "--temp", 0, "--json"])

    def command(self, words):
        model = [self.good] if words[0] != "--help" else []
        return [str(w) for w in (harness.PROGRAM, words[0], *model, *words[1:])]

    def start(self, words, **streams):
        return subprocess.run(self.command(words), env=harness.ENVIRONMENT, timeout=60, text=True, **streams)

    def test_output_that_is_lost(self):
        for words in self.COMMANDS:
            with self.subTest(" ".join(map(str, words))), open("/dev/full", "w") as full:
                done = self.start(words, stdout=full, stderr=subprocess.PIPE)
                self.assertEqual(done.returncode, FAILED)
                self.assertEqual(done.stderr.splitlines()[-1], "sala: standard output: cannot write: No space left on device")
                closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *self.command(words)], env=harness.ENVIRONMENT,
                                        stderr=subprocess.PIPE, text=True)
                self.assertEqual(closed.returncode, FAILED)
                self.assertIn("sala: standard output: cannot write", closed.stderr)

    def test_nobody_reads_on(self):
        ours, its = os.pipe()
        os.close(ours)
        for restored, status in ((True, -signal.SIGPIPE), (False, FAILED)):
            done = self.start(self.COMMANDS[2], stdout=its, stderr=subprocess.PIPE, restore_signals=restored)
            self.assertEqual((done.returncode, done.stderr), (status, ""))
        os.close(its)

    def test_remarks_that_are_lost(self):
        for words in self.COMMANDS:
            with self.subTest(" ".join(map(str, words))), open("/dev/full", "w") as full:
                done = self.start(words, stdout=subprocess.PIPE, stderr=full)
                self.assertEqual(done.returncode, 0)
                self.assertGreater(len(done.stdout), 3)


class Interrupted(Case):
    def interrupted(self, *flags, shows):
        """A run that Ctrl-C ends once it has begun: (status, stdout, stderr)."""
        command = ["run", self.good, "-p", "hello", "-n", 10 ** 5, "--temp", 0, "--logit-bias", "2=-1000", *flags]
        process = subprocess.Popen([str(harness.PROGRAM), *map(str, command)], env=harness.ENVIRONMENT, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, bufsize=0)
        first = shows(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        return process.returncode, first + out, err.decode()

    def test_what_is_there_is_kept(self):
        where = ["--sessions-dir", self.folder / "kept"]
        status, out, err = self.interrupted("--session", "talk", "--save", *where, shows=lambda p: p.stdout.read(1))
        self.assertEqual(status, 130)
        self.assertTrue(out.endswith(b"\n"))
        self.assertRegex(err, r"\[prompt: \d+ tokens.*\n\[session talk: 0 tokens before, \d+ now\]\n\Z")
        told = json.loads(harness.sala("session", "inspect", "talk", "--json", *where))
        self.assertGreater(told["tokens"], 0)
        self.assertEqual(told["turns"], [0])
        harness.sala("run", self.good, "--session", "talk", "-p", "more", "-n", 3, *where)

    def test_json(self):
        trace = self.folder / "trace.jsonl"

        def wait_for_trace(process):
            while not trace.exists() or trace.stat().st_size < 10000:
                self.assertIsNone(process.poll())
            return b""
        status, out, _ = self.interrupted("--json", "--trace-blocks", trace, shows=wait_for_trace)
        self.assertEqual((status, json.loads(out)["finish_reason"]), (130, "cancelled"))


class Run(Case):
    def test_half_a_character_is_not_shown(self):
        """Where -n cuts a character, the text ends in front of it."""
        byte = len(tiny_model.SPECIAL) + 0xE2
        for count, text in ((1, ""), (2, "\ufffd"), (3, "\ufffd" * 2)):
            out = json.loads(harness.sala("run", self.good, "-p", "x", "-n", count, "--logit-bias", f"{byte}=1000", "--temp", 0, "--json"))
            self.assertEqual((out["text"], out["tokens"]), (text, [byte] * count))

    def test_longer_than_the_model_was_made_for(self):
        model, text = self.folder / "short", self.folder / "long.txt"
        shutil.copytree(self.good, model)
        edit_json(CONFIG, max_position_embeddings=32)(model)
        text.write_text("hello " * 20)
        told = r"\Asala: the text has \d+ tokens, and the model was made for 32"
        # Its attention has no positions.
        self.assertNotRegex(harness.run("run", model, "--file", text, "-n", 2).stderr, told)
        edit_json(CONFIG, attn_use_rope=True)(model)
        self.assertRegex(harness.run("run", model, "--file", text, "-n", 2).stderr, told)
        self.assertNotRegex(harness.run("run", model, "--raw", "-p", "hello", "-n", 2).stderr, told)
        self.assertRegex(harness.run("session", "ingest", model, "long", text, "--sessions-dir", self.folder / "long").stderr, told)

    def test_short_options(self):
        long = json.loads(harness.sala("run", self.good, "-p", "hello", "-n", 3, "--temp", 0, "--threads", 1, "--json"))
        short = json.loads(harness.sala("run", "-m", self.good, "-p", "hello", "-n", 3, "--temp", 0, "-t", 1, "-ngl", 99, "--json"))
        self.assertEqual(*((out["tokens"], out["threads"]) for out in (long, short)))

    def test_raw_ids(self):
        """BOS, then encode(file), then encode(prompt), encoded separately."""
        path = self.folder / "h.txt"
        path.write_text("h")
        out = json.loads(harness.sala("run", self.good, "--raw", "--file", path, "-p", "ello", "-n", 3, "--temp", 0, "--json"))
        letters = {c: i + len(tiny_model.SPECIAL) for i, c in enumerate(tiny_model.byte_letters())}
        ids = [1, letters["h"], letters["e"], len(tiny_model.SPECIAL) + 257, letters["o"]]
        self.assertEqual(out["prompt_tokens"], len(ids))
        logits = harness.logits(self.good, harness.write_ids(self.folder / "raw.json", ids), "--compute", "auto", "--kv", "auto")
        stop = {2}
        best = int(logits[-1].argmax())
        self.assertEqual(out["tokens"][:1], [] if best in stop else [best])

    def test_a_reply_is_what_an_option_says(self):
        schema, grammar = self.folder / "schema.json", self.folder / "colours.gbnf"
        schema.write_text('{"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}')
        grammar.write_text('root ::= colour (" and " colour){2}\ncolour ::= "red" | "green"\n')
        for seed in range(4):
            def reply(*flags):
                return harness.sala("run", self.good, "-p", "hello", "--temp", 1.5, "--seed", seed, *flags).removesuffix("\n")
            self.assertIn(json.loads(reply("--json-schema-file", schema)), ({"n": 1}, {"n": 2}))
            self.assertIn(reply("-j", '{"enum": ["a", "b"]}'), ('"a"', '"b"'))
            self.assertRegex(reply("--grammar-file", grammar, "--raw"), r"\A(red|green)( and (red|green)){2}\Z")
            # Drafts change nothing of it.
            self.assertEqual(*(reply("--grammar-file", grammar, "--draft-max", most) for most in (0, 15)))
        self.refused(FAILED, ["--json-schema", "multipleOf"], "run", self.good, "-p", "x", "-j", '{"multipleOf": 3}')
        self.refused(FAILED, ["--json-schema", "not valid JSON"], "run", self.good, "-p", "x", "-j", "{")
        grammar.write_text("root ::= x")
        self.refused(FAILED, ["colours.gbnf", 'no rule "x"'], "run", self.good, "-p", "x", "--grammar-file", grammar)
        self.refused(2, ["excludes"], "run", self.good, "-p", "x", "--grammar-file", grammar, "-j", "{}")

    def test_seed(self):
        def reply(seed):
            return harness.sala("run", self.good, "-p", "hello", "-n", 20, "--temp", 1.5, "--seed", seed)
        self.assertEqual(reply(7), reply(7))
        self.assertGreater(len({reply(seed) for seed in range(5)}), 1)

    def test_backends_write_the_same(self):
        def tokens(backend, *flags):
            return json.loads(harness.sala("run", self.good, "-p", "hello", "-n", 9, "--compute", "f32", "--kv", "f32",
                                           "--logit-bias", "2=-1000", "--backend", backend, "--json", *flags))["tokens"]
        for flags in (["--temp", 0], ["--temp", 1, "--seed", 3]):
            self.assertEqual(tokens("reference", *flags), tokens("cpu", *flags))

    def test_streamed_text_is_the_text(self):
        for flags in (["--temp", 0], ["--temp", 1, "--seed", 3]):
            streamed = harness.run("run", self.good, "-p", "hello", "-n", 30, *flags).stdout
            whole = json.loads(harness.sala("run", self.good, "-p", "hello", "-n", 30, *flags, "--json"))["text"]
            self.assertEqual(streamed, whole + "\n")

    def test_silent_without_a_terminal(self):
        done = harness.run("logits", self.good, "--tokens", self.good / IDS, "--out", self.folder / "out.npy")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_environment(self):
        out = self.folder / "env.npy"
        variables = {"SALA_TOKENS": str(self.good / IDS), "SALA_OUT": str(out), "SALA_LAST": "4", "SALA_SPARSE": "dense",
                     "SALA_BLOCKS": str(self.folder / "b.json"), "SALA_CHUNK": "3", "SALA_THREADS": "1", "SALA_BACKEND": "reference",
                     "SALA_COMPUTE": "f32", "SALA_KV": "bf16"}
        harness.sala("logits", self.good, env=variables)
        self.assertEqual(np.load(out).shape, (4, self.config.vocab_size))
        self.assertEqual(json.loads((self.folder / "b.json").read_text())["policy"], "dense")
        self.refused(USAGE, ["never"], *self.logits_arguments(self.good), env={"SALA_SPARSE": "never"})
        harness.sala("logits", self.good, "--sparse", "hf", env=variables)  # a flag is stronger
        self.assertEqual(json.loads((self.folder / "b.json").read_text())["policy"], "hf")
        told = json.loads(harness.sala("run", self.good, env={"SALA_P": "hello", "SALA_N": "3", "SALA_TEMP": "0", "SALA_JSON": "1",
                                                             "SALA_RAW": "1", "SALA_SEED": "1", "SALA_TOP_P": "0.5"}))
        self.assertLessEqual(told["generated_tokens"], 3)
        self.assertEqual(json.loads(harness.sala("inspect", self.good, "--json", env={"SALA_CTX": "77"}))["context"], 77)

    def test_environment_is_the_command_s(self):
        """What other commands would refuse is nothing to this one, and help is asked for on the command line."""
        others = {"SALA_PROMPT": "hello", "SALA_GEN": "some", "SALA_PORT": "x", "SALA_AT": "x", "SALA_H": "1", "SALA_HELP": "1"}
        self.assertEqual(harness.sala("tokenize", self.good, "-p", "hello", env=others | {"SALA_THREADS": "x"}),
                         harness.sala("tokenize", self.good, "-p", "hello"))
        harness.sala("run", self.good, "-p", "hello", "-n", 1, env=others)
        self.refused(USAGE, ["--gen"], "bench", self.good, env={"SALA_GEN": "some"})
        self.refused(USAGE, ["--at"], "session", "fork", "a", "b", env={"SALA_AT": "x"})

    def test_help_and_version(self):
        for arguments in (["--help"], ["run", "--help"], ["logits", "--help"], ["inspect", "--help"], ["tokenize", "--help"],
                          ["eval", "ppl", "--help"], ["eval", "niah", "--help"], ["eval", "recall", "--help"],
                          ["session", "--help"], ["session", "ingest", "--help"]):
            self.assertIn("--", harness.sala(*arguments))
        self.assertRegex(harness.sala("--version"), r"\d+\.\d+")


if __name__ == "__main__":
    harness.main()
