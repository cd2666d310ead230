#!/usr/bin/env python3
"""scripts/verify_checkpoint.py without GPU or transformers: the float64 reference stands in for the authors' code."""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import numpy as np

import harness
import make_checkpoint

SCRIPT = harness.ROOT / "scripts" / "verify_checkpoint.py"
sys.path.insert(0, str(SCRIPT.parent))
import verify_checkpoint  # noqa: E402


class Compare(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.scratch.name)
        cls.model, cls.good, cls.dump = folder / "model", folder / "good", folder / "dump"
        cls.config, model, ids = make_checkpoint.make(cls.model, tokens=230)
        cls.logits, blocks = make_checkpoint.reference(cls.config, model, ids, "hf")
        cls.good.mkdir()
        np.save(cls.good / "logits.npy", cls.logits.astype(np.float32))
        harness.write_ids(cls.good / "ids.json", ids)
        (cls.good / "blocks.json").write_text(json.dumps(blocks))

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def setUp(self):
        shutil.rmtree(self.dump, ignore_errors=True)
        shutil.copytree(self.good, self.dump)

    def compare(self, *flags):
        done = subprocess.run([sys.executable, SCRIPT, "compare", self.dump, self.model, "--program", harness.PROGRAM, *flags],
                              env=harness.ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    def test_equal_models(self):
        status, told = self.compare("--kl", "1e-6", "--agreement", "1")
        self.assertEqual(status, 0, told)
        self.assertIn("the same at 100.00%", told)
        for layer in (0, 3):
            self.assertRegex(told, rf"layer +{layer}: 100.00% of 460 choices equal")

    def test_last_positions_and_flags(self):
        np.save(self.dump / "logits.npy", self.logits[-50:].astype(np.float32))
        # Random weights leave many tokens nearly as likely as the likeliest.
        status, told = self.compare("--agreement", "0.9", "--", "--compute", "bf16", "--kv", "bf16")
        self.assertEqual(status, 0, told)
        self.assertIn("50 positions", told)

    def test_another_model_fails(self):
        broken = self.logits.astype(np.float32)
        broken[100:] += np.random.default_rng(0).normal(0, 3, broken[100:].shape).astype(np.float32)
        np.save(self.dump / "logits.npy", broken)
        status, told = self.compare()
        self.assertEqual(status, 1, told)
        self.assertIn("FAILED", told)

    def test_other_choices_are_told(self):
        blocks = json.loads((self.dump / "blocks.json").read_text())
        blocks["blocks"][1][0][200] = [0]
        (self.dump / "blocks.json").write_text(json.dumps(blocks))
        self.assertRegex(self.compare()[1], r"layer +3: 99.78% of 460 choices equal")

    def test_noise_of_the_reference_widens_the_bounds(self):
        shifted = self.logits + np.random.default_rng(1).normal(0, 0.3, self.logits.shape)
        np.save(self.dump / "logits.npy", shifted.astype(np.float32))
        self.assertEqual(self.compare("--kl", "1e-6", "--agreement", "0")[0], 1)
        again = self.logits + np.random.default_rng(2).normal(0, 0.3, self.logits.shape)
        np.save(self.dump / "again.npy", again.astype(np.float32))
        self.assertEqual(self.compare("--kl", "1e-6", "--agreement", "0")[0], 0)

    def test_damaged_dumps(self):
        for change, word in ((lambda x: np.where(x == x.max(), np.nan, x), "finite"), (lambda x: x[:, :-1], "not the same model"),
                             (lambda x: np.concatenate([x, x]), "positions")):
            np.save(self.dump / "logits.npy", change(self.logits).astype(np.float32))
            status, told = self.compare()
            self.assertEqual((status, word in told), (1, True), told)


class Numbers(unittest.TestCase):
    def test_differences(self):
        want, got = np.log([[0.5, 0.25, 0.25]]), np.log([[0.25, 0.5, 0.25]])
        kl, same, error = verify_checkpoint.differences(want, got + 7.0)
        self.assertAlmostEqual(kl[0], 0.5 * np.log(2) - 0.25 * np.log(2))
        self.assertFalse(same[0])
        self.assertAlmostEqual(verify_checkpoint.differences(want, want * 1.5)[2][0], 0.5)

    def test_rope_tables(self):
        angles = np.outer(np.arange(8), 10000.0 ** (-np.arange(4) / 4))
        verify_checkpoint.check_rope(np.cos(angles), np.sin(angles))
        zero, one = np.zeros_like(angles), np.ones_like(angles)
        for cos, sin in ((zero, zero), (one, zero)):  # no tables; tables of frequencies that are zero
            with self.assertRaises(SystemExit):
                verify_checkpoint.check_rope(cos, sin)

    def test_block_lists(self):
        chosen = [[[0, -1, -1], [1, 0, -1], [0, 2, 1]]]
        self.assertEqual(verify_checkpoint.block_lists(chosen, 1), [[[0], [0, 1], [0, 1, 2]]])
        self.assertEqual(verify_checkpoint.block_lists([[[0, 1, -1]]], 64), [[[0]]])


if __name__ == "__main__":
    harness.main()
