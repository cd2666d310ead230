#!/usr/bin/env python3
"""Checkpoints that others quantised (GPTQ, AWQ, compressed-tensors) beside twins in f32 made by their published formulas."""
import json
import pathlib
import shutil
import struct
import tempfile
import unittest

import numpy as np

import harness
import make_checkpoint

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word is row AWQ_ORDER[i] of eight
TYPES = {"f4": "F32", "f2": "F16", "i4": "I32", "i8": "I64", "i1": "I8", "u2": "BF16"}


def read_safetensors(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    tensors = {}
    for name, entry in json.loads(raw[8:8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(raw[8 + length + begin:8 + length + end], np.float32).reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    """Arrays by their own types; uint16 holds the bits of bf16."""
    header, blobs, offset = {}, [], 0
    for name, x in tensors.items():
        raw = np.ascontiguousarray(x).tobytes()
        header[name] = {"dtype": TYPES[x.dtype.str[1:]], "shape": list(x.shape), "data_offsets": [offset, offset + len(raw)]}
        blobs.append(raw)
        offset += len(raw)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(blobs))


def pack(x, bits, axis, order=None):
    """Integers below 2^bits to words of 32 bits, the first in the lowest bits."""
    x = np.moveaxis(np.asarray(x, np.uint32), axis, -1)
    lanes = 32 // bits
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % lanes)])
    x = x.reshape(*x.shape[:-1], -1, lanes)
    if order is not None:
        x = x[..., order]
    words = np.zeros(x.shape[:-1], np.uint32)
    for lane in range(lanes):
        words |= x[..., lane] << np.uint32(bits * lane)
    return np.moveaxis(words, -1, axis).view(np.int32)


class Quantised:
    """A matrix in codes: value = scale[:, group] * (code - zero[:, group])."""

    def __init__(self, x, bits, size, symmetric, seed, order=False):
        rng = np.random.default_rng(seed)
        rows, cols = x.shape
        size = cols if size < 0 else size
        count = cols // size
        self.groups = np.arange(cols) // size
        if order:  # desc_act: the columns by their importance, a group each `size` of them
            self.groups = self.groups[np.argsort(rng.permutation(cols))]
        low = np.stack([x[:, self.groups == g].min(1) for g in range(count)], 1)
        high = np.stack([x[:, self.groups == g].max(1) for g in range(count)], 1)
        if symmetric:
            self.scale = (np.maximum(-low, high) * 2 / (2**bits - 1)).astype(np.float16)
            self.zero = np.full((rows, count), 2**(bits - 1))
        else:
            self.scale = ((np.maximum(high, 0) - np.minimum(low, 0)) / (2**bits - 1)).astype(np.float16)
            self.zero = np.clip(np.rint(-np.minimum(low, 0) / self.scale), 1, 2**bits - 1).astype(int)
        codes = np.rint(x / self.scale.astype(np.float32)[:, self.groups]) + self.zero[:, self.groups]
        self.codes = np.clip(codes, 0, 2**bits - 1).astype(int)

    def values(self):
        """By the formula; in f32 they are exact."""
        return self.scale.astype(np.float32)[:, self.groups] * (self.codes - self.zero[:, self.groups]).astype(np.float32)

    def held(self):
        """The same with the product of scale and zero rounded to f16, as one fused multiply-add."""
        scale = self.scale.astype(np.float64)
        low = (-scale * self.zero).astype(np.float16).astype(np.float64)
        return (scale[:, self.groups] * self.codes + low[:, self.groups]).astype(np.float32)


def gptq(name, q, bits, version=1):
    return {f"{name}.qweight": pack(q.codes.T, bits, 0), f"{name}.scales": q.scale.T,
            f"{name}.qzeros": pack((q.zero.T - (version == 1)) % 2**bits, bits, 1),
            f"{name}.g_idx": q.groups.astype(np.int32)}


def awq(name, q, bits):
    return {f"{name}.qweight": pack(q.codes.T, 4, 1, AWQ_ORDER), f"{name}.qzeros": pack(q.zero.T, 4, 1, AWQ_ORDER),
            f"{name}.scales": q.scale.T}


def packed(name, q, bits, symmetric):
    tensors = {f"{name}.weight_packed": pack(q.codes, bits, 1), f"{name}.weight_scale": q.scale,
               f"{name}.weight_shape": np.array(q.codes.shape, np.int64)}
    if not symmetric:
        tensors[f"{name}.weight_zero_point"] = pack(q.zero, bits, 0)
    return tensors


def signed(name, q, symmetric):
    tensors = {f"{name}.weight": (q.codes - 128).astype(np.int8), f"{name}.weight_scale": q.scale}
    if not symmetric:
        tensors[f"{name}.weight_zero_point"] = (q.zero - 128).astype(np.int8)
    return tensors


def scheme(bits, size, symmetric, layout):
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "channel" if size < 0 else "group",
               "group_size": None if size < 0 else size, "dynamic": False}
    return {"quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}}


class Prequantised(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.scratch.name)
        make_checkpoint.make(cls.folder / "plain", "sala", tokens=50, hidden_size=128, intermediate_size=256, head_dim=32,
                             lightning_head_dim=32)
        cls.plain = read_safetensors(cls.folder / "plain" / "model.safetensors")
        cls.ids = cls.folder / "plain" / "tokens.json"

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def directory(self, tensors, quantisation=None):
        out = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        config = json.loads((self.folder / "plain" / "config.json").read_text())
        if quantisation is not None:
            config["quantization_config"] = quantisation
        (out / "config.json").write_text(json.dumps(config))
        write_safetensors(out / "model.safetensors", tensors)
        return out

    def checkpoint(self, write, quantisation, bits, size, symmetric, order=False):
        """(directory of the quantised checkpoint, its matrices)."""
        tensors, matrices = {}, {}
        for seed, (name, x) in enumerate(self.plain.items()):
            if name.endswith("_proj.weight") or name.endswith("_gate.weight"):
                matrices[name] = Quantised(x, bits, size, symmetric, seed // 8 if order else seed, order)
                tensors |= write(name.removesuffix(".weight"), matrices[name])
            else:
                tensors[name] = x
        self.assertGreater(len(matrices), 7)
        return self.directory(tensors, quantisation), matrices

    def twin(self, matrices, values):
        return self.directory({n: values(matrices[n]) if n in matrices else x for n, x in self.plain.items()})

    def logits(self, directory):
        return harness.logits(directory, self.ids, "--compute", "f32", "--kv", "f32")

    def check(self, write, quantisation, bits, size, symmetric, order=False, values=None):
        directory, matrices = self.checkpoint(write, quantisation, bits, size, symmetric, order)
        got, exact = self.logits(directory), self.logits(self.twin(matrices, Quantised.values))
        held = values or (Quantised.values if symmetric else Quantised.held)
        np.testing.assert_array_equal(got, self.logits(self.twin(matrices, held)))
        plain = self.logits(self.folder / "plain")
        small = 0.02 if bits == 4 else 0.25  # of what quantising itself has changed
        self.assertLess(np.linalg.norm(got - exact), small * np.linalg.norm(plain - exact))
        return directory

    def types(self, directory):
        return json.loads(harness.sala("inspect", directory, "--json"))["types"]

    def test_gptq(self):
        for bits, size, symmetric, version in [(4, 32, True, 1), (4, 64, True, 2), (4, 128, True, 1), (4, -1, True, 1),
                                               (4, 32, False, 1), (4, 128, False, 2), (8, 64, True, 1), (8, -1, False, 1)]:
            with self.subTest(bits=bits, size=size, symmetric=symmetric, version=version):
                says = {"quant_method": "gptq", "bits": bits, "group_size": size, "sym": symmetric, "desc_act": False,
                        "checkpoint_format": "gptq" if version == 1 else "gptq_v2"}
                directory = self.check(lambda n, q: gptq(n, q, bits, version), says, bits, size, symmetric)
                self.assertIn(f"INT{bits}", self.types(directory))

    def test_gptq_whose_groups_are_scattered(self):
        says = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": True}
        half = lambda q: q.values().astype(np.float16).astype(np.float32)
        directory = self.check(lambda n, q: gptq(n, q, 4), says, 4, 32, True, order=True, values=half)
        done = harness.run("logits", directory, "--tokens", self.ids, "--out", directory / "x.npy")
        self.assertRegex(done.stderr, r"groups of \d+ matrices are not .* held in f16")

    def test_gptq_as_older_programs_write_it(self):
        """A file of its own says how, and every matrix has a bias."""
        def write(name, q):
            return gptq(name, q, 4) | {f"{name}.bias": np.zeros(len(q.codes), np.float16)}
        directory, matrices = self.checkpoint(write, None, 4, 64, True)
        (directory / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 64, "desc_act": False}))
        np.testing.assert_array_equal(self.logits(directory), self.logits(self.twin(matrices, Quantised.values)))

    def test_groups_in_another_order_need_no_more_memory(self):
        """A permutation of whole groups."""
        says = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": True}
        def write(name, q):
            q.groups = q.groups.max() - q.groups
            q.scale, q.zero = q.scale[:, ::-1], q.zero[:, ::-1]
            return gptq(name, q, 4)
        directory = self.check(write, says, 4, 32, True)
        done = harness.run("logits", directory, "--tokens", self.ids, "--out", directory / "x.npy")
        self.assertNotIn("f16", done.stderr)

    def test_awq(self):
        for size in (32, 64, 128, -1):
            with self.subTest(size=size):
                says = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm", "zero_point": True}
                self.check(lambda n, q: awq(n, q, 4), says, 4, size, False)

    def test_compressed_tensors(self):
        for bits, size, symmetric, layout in [(4, 32, True, "pack-quantized"), (4, 128, False, "pack-quantized"),
                                              (4, -1, True, "pack-quantized"), (8, 64, True, "pack-quantized"),
                                              (8, -1, True, "int-quantized"), (8, 32, False, "int-quantized")]:
            with self.subTest(bits=bits, size=size, symmetric=symmetric, layout=layout):
                write = ((lambda n, q: packed(n, q, bits, symmetric)) if layout == "pack-quantized" else
                         (lambda n, q: signed(n, q, symmetric)))
                self.check(write, scheme(bits, size, symmetric, layout), bits, size, symmetric)

    def test_scales_of_other_types(self):
        says = scheme(4, 32, True, "pack-quantized")
        for form in ("bf16", "f32"):
            with self.subTest(form):
                def write(name, q):
                    bits = q.scale.astype(np.float32).view(np.uint32) & 0xFFFF0000
                    q.scale = bits.view(np.float32)
                    scale = (bits >> 16).astype(np.uint16) if form == "bf16" else q.scale
                    return packed(name, q, 4, True) | {f"{name}.weight_scale": scale}
                self.check(write, says, 4, 32, True)

    def test_quantize_keeps_the_codes(self):
        says = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False}
        directory, _ = self.checkpoint(lambda n, q: gptq(n, q, 4), says, 4, 64, True)
        out = directory / "out"
        harness.sala("quantize", directory, out, "--type", "w4", "--group", 64, "--keep", "lm_head=f32")
        np.testing.assert_array_equal(self.logits(out), self.logits(directory))

    def refused(self, tensors, quantisation):
        directory = self.directory(tensors, quantisation)
        done = harness.run("logits", directory, "--tokens", self.ids, "--out", directory / "x.npy")
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr

    def test_bad_tensors_are_named(self):
        name = "model.layers.1.mlp.down_proj"
        cases = {
            "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 32}, lambda n, q: gptq(n, q, 4), [
                ("qzeros", lambda x: None, "is missing"), ("scales", lambda x: None, "is missing"),
                ("scales", lambda x: x[:-1], "has shape"), ("scales", lambda x: x.astype(np.int32), "is of type I32"),
                ("scales", lambda x: np.where(np.arange(x.shape[1]) == 3, np.float16("inf"), x), "of row 3"),
                ("scales", lambda x: np.where(np.arange(x.shape[1]) == 5, np.float16("nan"), x), "of row 5"),
                ("qzeros", lambda x: x[:, :-1], "has shape"), ("qweight", lambda x: x[:-4], "has shape"),
                ("qweight", lambda x: x.view(np.float32), "is of type F32"), ("qweight", lambda x: x[:0], "has shape [0, "),
                ("g_idx", lambda x: x + 1, "names group"), ("g_idx", lambda x: x - 1, "names group -1"),
                ("g_idx", lambda x: x[:-1], "has shape")]),
            "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, lambda n, q: awq(n, q, 4), [
                ("qzeros", lambda x: x[:-1], "has shape"), ("scales", lambda x: None, "is missing"),
                ("qweight", lambda x: x.T, "has shape")]),
            "packed": (scheme(4, 32, True, "pack-quantized"), lambda n, q: packed(n, q, 4, True), [
                ("weight_shape", lambda x: None, "is missing"), ("weight_shape", lambda x: x + 8, "does not hold"),
                ("weight_shape", lambda x: -x, "does not hold"), ("weight_scale", lambda x: None, "is missing"),
                ("weight_packed", lambda x: x[:, :-1], "does not hold"), ("weight_scale", lambda x: x[:, :-1], "scheme"),
                ("weight_scale", lambda x: x[:-1], "has shape")]),
            "signed": (scheme(8, -1, True, "int-quantized"), lambda n, q: signed(n, q, True), [
                ("weight_scale", lambda x: x[:-1], "has shape"), ("weight", lambda x: x[:, :-1], "has shape")]),
        }
        for kind, (says, write, changes) in cases.items():
            bits = 8 if kind == "signed" else 4
            directory, matrices = self.checkpoint(write, says, bits, -1 if kind == "signed" else 32, kind != "awq")
            good = {n: x for n, x in self.plain.items() if n not in matrices}
            for n, q in matrices.items():
                good |= write(n.removesuffix(".weight"), q)
            shutil.rmtree(directory)
            for part, change, message in changes:
                with self.subTest(kind=kind, part=part, message=message):
                    changed = change(good[f"{name}.{part}"])
                    bad = {n: x for n, x in good.items() if n != f"{name}.{part}"}
                    if changed is not None:
                        bad[f"{name}.{part}"] = changed
                    error = self.refused(bad, says)
                    self.assertIn(f"'{name}.", error)
                    self.assertIn(message, error)

    def test_bad_configurations_are_named(self):
        good = {"quant_method": "gptq", "bits": 4, "group_size": 32}
        ours = scheme(4, 32, True, "pack-quantized")
        weights = ours["config_groups"]["group_0"]["weights"]
        grouped = lambda **fields: ours | {"config_groups": {"a": {"weights": weights | fields}}}
        for says, message in [([], "expected a JSON object"), ({}, '"quant_method"'), (good | {"quant_method": "fp8"}, '"fp8"'),
                              (good | {"bits": 3}, '"bits" is 3'), (good | {"bits": None}, '"bits" is missing'),
                              (good | {"group_size": 0}, '"group_size" is 0'), (good | {"group_size": "x"}, '"group_size"'),
                              (good | {"checkpoint_format": "marlin"}, '"marlin"'),
                              (good | {"quant_method": "awq", "version": "gemv"}, '"gemv"'),
                              (good | {"quant_method": "awq", "bits": 8}, '"bits" is 8'),
                              (ours | {"format": "float-quantized"}, '"float-quantized"'),
                              (ours | {"config_groups": {}}, '"config_groups"'), (grouped(num_bits=3), '"num_bits" is 3'),
                              (grouped(type="float"), '"type" is "float"'), (grouped(strategy="block"), '"block"')]:
            with self.subTest(message):
                error = self.refused(self.plain, says)
                self.assertIn("quantization_config", error)
                self.assertIn(message, error)

    def test_a_bias_that_is_not_zero(self):
        says = {"quant_method": "gptq", "bits": 4, "group_size": 32}
        directory, _ = self.checkpoint(
            lambda n, q: gptq(n, q, 4) | {f"{n}.bias": np.ones(len(q.codes), np.float16)}, says, 4, 32, True)
        done = harness.run("inspect", directory)
        self.assertEqual(done.returncode, 1)
        self.assertIn("is a bias that is not zero", done.stderr)


if __name__ == "__main__":
    harness.main()
