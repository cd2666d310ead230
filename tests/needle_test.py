#!/usr/bin/env python3
"""The model that we ship (models/sala-5m): it is a hybrid, small, and finds again what stands in a text, beyond the length of
512 that its teacher learned on, in chosen blocks as in all of them."""
import json
import unittest

import harness

MODEL = harness.ROOT / "models" / "sala-5m"


class Shipped(unittest.TestCase):
    def test_is_a_hybrid(self):
        told = json.loads(harness.sala("inspect", MODEL, "--json"))
        self.assertEqual([layer["mixer"] for layer in told["layers"]].count("attention"), 1)
        self.assertEqual(len(told["layers"]), 4)
        self.assertIsNotNone(told["attention"]["sparse"])
        self.assertLess(sum(file.stat().st_size for file in MODEL.iterdir()), 16 << 20)

    def test_finds_again(self):
        for policy in ("always", "dense"):
            rows = json.loads(harness.sala("eval", "niah", MODEL, "--tasks", "niah_single_2", "--lengths", "512,4096", "--depths", "0.1,0.5,0.9",
                                           "--samples", 4, "--sparse", policy, "--json"))["rows"]
            for length in (512, 4096):
                scores = [row["score"] for row in rows if row["length"] == length]
                self.assertGreaterEqual(sum(scores) / len(scores), 0.9, (policy, length))


if __name__ == "__main__":
    harness.main()
