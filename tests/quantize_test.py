#!/usr/bin/env python3
"""`sala quantize`: its directories hold the numbers that rounding to nearest gives, refuse what does not fit, appear whole."""
import json
import os
import pathlib
import signal
import struct
import subprocess
import tempfile
import unittest

import numpy as np

import harness
import make_checkpoint
import tiny_model

FAMILIES = {"sala": dict(hidden_size=128, intermediate_size=256), "llama": dict(hidden_size=128, intermediate_size=192)}


def read_safetensors(path):
    """(header, data) of a file."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8:8 + length]), bytearray(raw[8 + length:])


def write_safetensors(path, header, data):
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-(len(head) + 8) % 64)
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(data))


def rounded(x, bits, group):
    """Rounded to nearest in the widest group that divides the columns, at most `group`."""
    group = next((g for g in (128, 64, 32) if g <= group and x.shape[1] % g == 0), None)
    if group is None:
        return x
    largest = np.float32(2**bits - 1)
    x = x.astype(np.float32).reshape(x.shape[0], -1, group)
    low = x.min(2, keepdims=True).astype(np.float16).astype(np.float32)
    scale = ((x.max(2, keepdims=True) - low) / largest).astype(np.float16).astype(np.float32)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    codes = np.clip(np.rint((x - low) * inverse), 0, largest)
    return (scale.astype(np.float64) * codes + low).astype(np.float32).reshape(x.shape[0], -1)


class Quantize(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.scratch.name)
        cls.models = {}
        for family, fields in FAMILIES.items():
            make_checkpoint.make(cls.folder / family, family, tokens=60, **fields)
        cls.good = cls.folder / "good"
        harness.sala("quantize", cls.folder / "sala", cls.good, "--type", "w4")

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def twin(self, family, name, bits, group, kept=("embed_tokens",)):
        """The checkpoint with rounded numbers, in f32."""
        source, twin = self.folder / family, self.folder / name
        twin.mkdir()
        for file in ("config.json", "generation_config.json"):
            (twin / file).write_bytes((source / file).read_bytes())
        header, data = read_safetensors(source / "model.safetensors")
        tensors = {}
        for tensor, entry in header.items():
            if tensor == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            x = np.frombuffer(bytes(data[begin:end]), np.float32).reshape(entry["shape"])
            plain = x.ndim != 2 or any(k in tensor for k in kept)
            tensors[tensor] = x if plain else rounded(x, bits, group)
        make_checkpoint.write_safetensors(twin / "model.safetensors", tensors, "f32")
        return twin

    def test_logits_are_those_of_the_rounded_numbers(self):
        for family in FAMILIES:
            ids = self.folder / family / "tokens.json"
            for bits in (8, 4):
                for group in (32, 64, 128):
                    with self.subTest(family=family, bits=bits, group=group):
                        name = f"{family}-{bits}-{group}"
                        out = self.folder / name
                        harness.sala("quantize", self.folder / family, out, "--type", f"w{bits}", "--group", group)
                        twin = self.twin(family, name + "-twin", bits, group)
                        got, want = (harness.logits(d, ids, "--compute", "f32", "--kv", "f32") for d in (out, twin))
                        np.testing.assert_array_equal(got, want)
                        plain = harness.logits(self.folder / family, ids, "--compute", "f32", "--kv", "f32")
                        self.assertTrue(np.any(plain != want), "rounding changed nothing: the test shows nothing")

    def test_int8_products_are_those_of_the_reference(self):
        ids, out = self.folder / "llama" / "tokens.json", self.folder / "int8"
        harness.sala("quantize", self.folder / "llama", out, "--type", "w4")
        exact = harness.logits(out, ids, "--compute", "f32", "--kv", "f32")
        int8 = harness.logits(out, ids, "--compute", "int8", "--kv", "f32")
        slow = harness.logits(out, ids, "--compute", "int8", "--kv", "f32", "--backend", "reference")
        self.assertLess(np.linalg.norm(int8 - slow), 0.01 * np.linalg.norm(exact))
        self.assertGreater(np.linalg.norm(int8 - exact), 0.02 * np.linalg.norm(exact))

    def test_keep(self):
        ids = self.folder / "sala" / "tokens.json"
        out = self.folder / "keep"
        harness.sala("quantize", self.folder / "sala", out, "--type", "w4", "--keep", "lm_head=f32,down_proj=w8")
        header, _ = read_safetensors(out / "model.safetensors")
        types = {name.split("@")[0]: name.split("@")[1].split(":")[0] for name in header if "@" in name}
        self.assertEqual(types["lm_head.weight"], "f32")
        self.assertEqual(types["model.layers.0.mlp.down_proj.weight"], "w8g128")
        self.assertEqual(types["model.layers.0.mlp.gate_proj.weight|model.layers.0.mlp.up_proj.weight"], "w4g128")
        self.assertEqual(harness.logits(out, ids).shape, harness.logits(self.good, ids).shape)
        done = harness.run("quantize", self.folder / "sala", self.folder / "never", "--type", "w4", "--keep", "head=f32")
        self.assertEqual(done.returncode, 1)
        self.assertIn("--keep head=f32: the model has no matrix head", done.stderr)
        self.assertEqual(harness.run("quantize", "a", "b", "--type", "w4", "--keep", "lm_head=w3").returncode, 2)

    def test_threads_do_not_matter(self):
        out = self.folder / "one"
        harness.sala("quantize", self.folder / "sala", out, "--type", "w4", "--threads", 1)
        self.assertEqual((out / "model.safetensors").read_bytes(), (self.good / "model.safetensors").read_bytes())

    def test_inspect_counts_the_same_parameters(self):
        plain, packed = (json.loads(harness.sala("inspect", d, "--json")) for d in (self.folder / "sala", self.good))
        self.assertEqual(packed["parameters"], plain["parameters"])
        self.assertIn("w4g128", packed["types"])

    def damaged(self, change):
        """What loading says of the good directory after change(header, data)."""
        bad = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        for file in ("config.json", "generation_config.json"):
            (bad / file).write_bytes((self.good / file).read_bytes())
        header, data = read_safetensors(self.good / "model.safetensors")
        change(header, data)
        write_safetensors(bad / "model.safetensors", header, data)
        done = harness.run("logits", bad, "--tokens", self.folder / "sala" / "tokens.json", "--out", bad / "x.npy")
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr

    def test_what_does_not_fit_is_named(self):
        name = next(n for n in read_safetensors(self.good / "model.safetensors")[0] if "layers.1.mlp.down" in n)
        parts, form = name.split("@")

        def renamed(to):
            return lambda header, data: header.update({f"{parts}@{to}": header.pop(name)})

        def scale(header, data):
            begin = header[name]["data_offsets"][0]
            data[begin + 2:begin + 4] = struct.pack("<e", float("inf"))

        def shape(header, data):
            header[name]["shape"] = header[name]["shape"][::-1]

        _, size = form.split(":")
        rows, cols = size.split("x")
        for change, message in [(renamed(f"w4g64:{size}"), "has shape"), (renamed(f"w8g128:{size}"), "has shape"),
                                (renamed(f"w4g128:{rows}x{int(cols) * 2}"), f"expected {rows} x {cols}"),
                                (renamed(f"w5:{size}"), "is missing"), (shape, "has shape"),
                                (scale, "scale or minimum in panel 0")]:
            with self.subTest(message):
                error = self.damaged(change)
                self.assertIn(parts, error)
                self.assertIn(message, error)

    def test_calibration_keeps_what_the_shipped_model_says(self):
        source, read, other = harness.ROOT / "models" / "sala-5m", self.folder / "read.txt", self.folder / "other.txt"
        read.write_text((harness.ROOT / "ARCHITECTURE.md").read_text()[:3000])
        other.write_text((harness.ROOT / "CONTRIBUTING.md").read_text()[:1000])
        ids = harness.write_ids(self.folder / "other.json", json.loads(harness.sala("tokenize", source, "--file", other)))
        out = {name: self.folder / f"shipped-{name}" for name in ("nearest", "text", "one")}
        for name, directory in out.items():
            how = [] if name == "nearest" else ["--calibrate", read]
            harness.sala("quantize", source, directory, "--type", "w4", *how, *(["--threads", 1] if name == "one" else []))
        shown = harness.on_terminal("quantize", source, self.folder / "shown", "--type", "w4", "--calibrate", read)
        self.assertRegex(shown, r"calibrating \[#*\.*\] +\d+%.*calibrating")
        self.assertRegex(harness.sala("quantize", source, self.folder / "told", "--type", "w8"), r": \d\.\d\d MB in .*, w8g128 \d\.\d\d MB")
        self.assertEqual(*((out[name] / "model.safetensors").read_bytes() for name in ("text", "one")))

        def log_probabilities(model):
            x = harness.logits(model, ids, "--compute", "f32", "--kv", "f32").astype(np.float64)
            return x - np.log(np.exp(x).sum(1, keepdims=True))

        plain, nearest, calibrated = (log_probabilities(d) for d in (source, out["nearest"], out["text"]))
        lost = [(np.exp(plain) * (plain - q)).sum(1).mean() for q in (calibrated, nearest)]
        self.assertLess(lost[0], 0.5 * lost[1])

    def test_calibration_refuses(self):
        source, empty = self.folder / "speaks", self.folder / "empty.txt"
        tiny_model.make(source, hidden_size=128)
        empty.write_text("")
        for model, text, message in [(source, self.folder / "absent.txt", "absent.txt"), (source, empty, "has no tokens"),
                                     (self.folder / "sala", self.folder / "sala" / "config.json", "has no tokenizer")]:
            done = harness.run("quantize", model, self.folder / "never", "--type", "w4", "--calibrate", text)
            self.assertEqual(done.returncode, 1)
            self.assertIn(message, done.stderr)
            self.assertFalse((self.folder / "never.partial").exists())

    def test_refusals(self):
        source = self.folder / "sala"
        for arguments, message in [((source, self.good, "--type", "w4"), "exists"),
                                   ((self.good, self.folder / "twice", "--type", "w4"), "quantised already"),
                                   ((source, self.folder / "no" / "where", "--type", "w4"), "create the directory"),
                                   ((self.folder / "absent", self.folder / "x", "--type", "w4"), "not a Hugging Face")]:
            done = harness.run("quantize", *arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn(message, done.stderr)

    def test_numbers_that_are_not_finite(self):
        source = self.folder / "nan"
        source.mkdir()
        (source / "config.json").write_bytes((self.folder / "sala" / "config.json").read_bytes())
        header, data = read_safetensors(self.folder / "sala" / "model.safetensors")
        begin = header["model.layers.0.mlp.up_proj.weight"]["data_offsets"][0]
        data[begin + 4 * 128:begin + 4 * 129] = struct.pack("<f", float("nan"))
        write_safetensors(source / "model.safetensors", header, data)
        done = harness.run("quantize", source, self.folder / "nan4", "--type", "w4")
        self.assertEqual(done.returncode, 1)
        self.assertIn("tensor 'model.layers.0.mlp.up_proj.weight': a number of row 1 is not finite", done.stderr)
        self.assertFalse((self.folder / "nan4").exists() or (self.folder / "nan4.partial").exists())

    def test_a_write_that_fails_leaves_nothing_and_says_what_is_needed(self):
        out = self.folder / "limited"
        done = subprocess.run(["bash", "-c", 'ulimit -f 64; trap "" XFSZ; exec "$@"', "-", str(harness.PROGRAM), "quantize",
                               str(self.folder / "sala"), str(out), "--type", "w8"],
                              env=harness.ENVIRONMENT, capture_output=True, encoding="utf-8")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("the result takes", done.stderr)
        self.assertFalse(out.exists() or pathlib.Path(f"{out}.partial").exists())

    def test_killed_it_leaves_nothing_that_loads(self):
        big = self.folder / "big"
        make_checkpoint.make(big, "llama", tokens=4, hidden_size=512, intermediate_size=4096)
        out = self.folder / "killed"
        partial = pathlib.Path(f"{out}.partial")
        process = subprocess.Popen([str(harness.PROGRAM), "quantize", str(big), str(out), "--type", "w4", "--threads", "1"],
                                   env=harness.ENVIRONMENT)
        while process.poll() is None and not (partial / "model.safetensors").exists():
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not out.exists():  # else it was faster
            done = harness.run("inspect", partial)
            self.assertEqual(done.returncode, 1)
            self.assertIn("config.json", done.stderr)
            harness.sala("quantize", big, out, "--type", "w4")
        self.assertFalse(partial.exists())
        harness.sala("inspect", out)


if __name__ == "__main__":
    harness.main()
