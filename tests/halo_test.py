#!/usr/bin/env python3
"""The whole pipeline of sala-halo at toy size: every stage's loss falls, what must not change does not, a stopped stage goes
on to the same end, and the hybrid runs in the engine. Needs a build with -DSALA_HALO=ON; skipped without.

The program is $SALA_HALO_PROGRAM (ctest sets it), else build/release/sala-halo."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np

import harness

HALO = pathlib.Path(os.environ.get("SALA_HALO_PROGRAM", harness.ROOT / "build" / "release" / "sala-halo"))
WHY = f"there is no {HALO}: scripts/packages.sh halo, then build with -DSALA_HALO=ON"

TEXT = "".join(f"Chapter {i}. The miller went to the town and sold {i % 7} sacks of flour to the baker. He came home late.\n"
               for i in range(400))
SPARSE = "kernel=8,stride=4,block=16,init=1,window=32,topk=3,dense_len=0"


def halo(*arguments):
    """Runs sala-halo, which must succeed; returns its output."""
    done = subprocess.run([str(HALO), *map(str, arguments)], env=harness.ENVIRONMENT, timeout=600, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"sala-halo {' '.join(map(str, arguments))}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout + done.stderr


def refused(status, *arguments):
    done = subprocess.run([str(HALO), *map(str, arguments)], env=harness.ENVIRONMENT, timeout=60, capture_output=True, text=True)
    assert done.returncode == status, (done.returncode, done.stderr)
    return done.stderr


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def tensors(folder):
    """{name: bytes} of model.safetensors."""
    raw = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__", None)
    return {name: raw[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]] for name, t in header.items()}


@unittest.skipUnless(HALO.exists(), WHY)
class Pipeline(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.scratch.cleanup)
        f = cls.folder = pathlib.Path(cls.scratch.name)
        (f / "text.txt").write_text(TEXT)
        halo("pack", f / "text.txt", "--out", f / "text.safetensors")
        train = ["--data", f / "text.safetensors", "--threads", 1]
        short = train + ["--ctx", 64, "--batch", 8, "--warmup", 5]
        halo("pretrain", "--out", f / "teacher", *short, "--steps", 60, "--lr", 5e-3, "--layers", 4, "--hidden", 64, "--heads", 4,
             "--kv-heads", 2, "--head-dim", 16, "--ffn", 128)
        halo("init", "--teacher", f / "teacher", "--out", f / "s0")
        models = ["--teacher", f / "teacher", "--student", f / "s1"]
        halo("align", "--teacher", f / "teacher", "--student", f / "s0", "--out", f / "s1", *short, "--steps", 40)
        halo("select", *models, "--data", f / "text.safetensors", "--out", f / "layers.json", "--documents", 6, "--ctx", 64,
             "--threads", 1)
        cls.distill = ["distill", *models, "--layers", f / "layers.json", "--sparse", SPARSE, *short]
        halo(*cls.distill, "--out", f / "s2", "--steps", 40)
        halo("extend", "--student", f / "s2", "--out", f / "s3", *train, "--ctx", 256, "--batch", 2, "--steps", 8, "--lr", 1e-3)
        halo("export", "--student", f / "s3", "--out", f / "model", "--sparse", SPARSE.replace("topk=3", "topk=4"))

    def test_losses_fall(self):
        for stage, share in (("teacher", 0.8), ("s1", 0.8), ("s2", 0.9)):
            lines = log(self.folder / stage)
            self.assertLess(lines[-1]["loss"], share * lines[0]["loss"], stage)
            self.assertIn("<polyline", (self.folder / stage / "loss.svg").read_text())
        lines = log(self.folder / "s1")  # every layer improves on its start
        for layer in range(4):
            self.assertLess(lines[-1][f"layer_{layer}"], lines[0][f"layer_{layer}"])
        self.assertLess(log(self.folder / "s3")[-1]["loss"], 5.55)  # better than chance

    def test_the_index_learns_what_attention_reads(self):
        f, last = self.folder, {}
        for weight in (1e-9, 3):
            halo("extend", "--student", f / "s2", "--out", f / "index", "--data", f / "text.safetensors", "--threads", 1, "--ctx", 256,
                 "--batch", 2, "--steps", 12, "--warmup", 2, "--lr", 3e-3, "--dense", "--index-loss", weight)
            last[weight] = log(f / "index")[-1]["index"]
        self.assertLess(last[3], 0.97 * last[1e-9])

    def test_selection(self):
        report = json.loads((self.folder / "layers.json").read_text())
        self.assertEqual(len(report["layers"]), 1)
        self.assertEqual(sorted(report["ranking"]), list(range(4)))
        self.assertEqual(sorted(report["ranking_paper"]), list(range(4)))
        self.assertGreater(report["epsilon"], 0)
        f = self.folder
        halo("select", "--teacher", f / "teacher", "--student", f / "s1", "--data", f / "text.safetensors", "--out",
             f / "kept.json", "--documents", 2, "--ctx", 64, "--ratio", 0.5, "--keep", "0,last", "--eps", 0.01)
        kept = json.loads((f / "kept.json").read_text())
        self.assertEqual((kept["layers"], kept["epsilon"]), ([0, 3], 0.01))

    def test_frozen_weights_stay(self):
        halo(*self.distill, "--out", self.folder / "linear", "--steps", 3, "--train", "linear")
        start, end = tensors(self.folder / "s1"), tensors(self.folder / "linear")
        kept = json.loads((self.folder / "layers.json").read_text())["layers"]
        linear = tuple(f"model.layers.{i}.self_attn." for i in range(4) if i not in kept)
        for name in set(start) & set(end):
            if name.startswith(tuple(f"model.layers.{i}.self_attn." for i in kept)):
                continue  # the teacher's, not the student's
            self.assertEqual(start[name] != end[name], name.startswith(linear), name)

    def test_a_stopped_stage_goes_on(self):
        out = self.folder / "again"
        told = halo(*self.distill, "--out", out, "--steps", 40, "--time-limit", 0.001, "--resume")
        self.assertIn("--resume goes on", told)
        self.assertTrue((out / "training.safetensors").exists())
        self.assertIn("goes on from step 1", halo(*self.distill, "--out", out, "--steps", 40, "--resume"))
        self.assertEqual(tensors(out), tensors(self.folder / "s2"))
        self.assertFalse((out / "training.safetensors").exists())
        self.assertIn("is finished", halo(*self.distill, "--out", out, "--steps", 40, "--resume"))

    def test_the_engine_runs_it(self):
        model = self.folder / "model"
        told = json.loads(harness.sala("inspect", model, "--json"))
        self.assertEqual(sorted(layer["mixer"] for layer in told["layers"]), ["attention"] + ["lightning"] * 3)
        self.assertEqual(told["attention"]["sparse"]["block_size"], 16)
        self.assertEqual((told["attention"]["rope"], told["lightning"]["rope"]), (False, True))
        self.assertEqual(set(told["types"]), {"BF16"})
        reply = json.loads(harness.sala("run", model, "--raw", "-p", "The miller went to", "-n", 8, "--temp", 0, "--json"))
        self.assertEqual(reply["prompt_tokens"], 1 + len("The miller went to"))
        (self.folder / "part.txt").write_text(TEXT[:600])
        rows = json.loads(harness.sala("eval", "ppl", model, self.folder / "part.txt", "--ctx", "64,300", "--json"))["rows"]
        self.assertTrue(all(row["bits_per_byte"] < 8 for row in rows))
        harness.sala("eval", "recall", model, "--lengths", 200, "--depths", 0.5, "--samples", 1)

    def test_bad_input_is_told(self):
        f = self.folder
        self.assertIn("--layers", refused(2, *self.distill[:5], "--layers", "3,nine", "--out", f / "x"))
        self.assertIn("layer 9", refused(1, *self.distill[:5], "--layers", "9", "--out", f / "x"))
        self.assertIn("pure transformer", refused(1, "init", "--teacher", f / "model", "--out", f / "x"))
        self.assertIn("--sparse", refused(2, *self.distill[:5], "--layers", "1", "--sparse", "rows=3", "--out", f / "x"))
        self.assertIn("--tasks", refused(2, "pretrain", "--out", f / "x", "--tasks", "juggling=1"))
        self.assertIn("text.txt", refused(1, "pretrain", "--out", f / "x", "--data", f / "text.txt"))


if __name__ == "__main__":
    if not HALO.exists():
        print(f"skipped: {WHY}")
        sys.exit(harness.SKIPPED)
    harness.main()
