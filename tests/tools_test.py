#!/usr/bin/env python3
"""`sala run --trace-blocks` and `sala trace`: what is recorded is what `sala logits --blocks` says; damaged traces are refused.
`sala doctor`: its numbers obey their closed forms."""
import json
import pathlib
import tempfile
import unittest
import xml.etree.ElementTree as xml

import cli_test
import harness
import make_checkpoint
import tiny_model

SVG = "{http://www.w3.org/2000/svg}"


def expanded(runs):
    return [b for first, length in zip(runs[::2], runs[1::2]) for b in range(first, first + length)]


class Case(cli_test.Case):
    documented = cli_test.Documented.documented
    compare = cli_test.Documented.compare


class Trace(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trace = cls.folder / "trace.jsonl"
        cls.arguments = ["run", cls.good, "--raw", "-p", "hello world " * 20, "-n", 12, "--temp", 0, "--logit-bias", "2=-1000",
                         "--compute", "f32", "--kv", "f32"]
        cls.reply = json.loads(harness.sala(*cls.arguments, "--trace-blocks", cls.trace, "--json"))
        cls.lines = [json.loads(line) for line in cls.trace.read_text().splitlines()]

    def test_it_changes_nothing(self):
        self.assertEqual(json.loads(harness.sala(*self.arguments, "--json"))["tokens"], self.reply["tokens"])

    def test_blocks_are_those_of_the_forward(self):
        prompt = [1, *json.loads(harness.sala("tokenize", self.good, "-p", "hello world " * 20))]
        ids = harness.write_ids(self.folder / "all.json", prompt + self.reply["tokens"])
        _, blocks = harness.logits(self.good, ids, blocks=True)
        head, looks, tail = self.lines[0], self.lines[1:-1], self.lines[-1]
        self.assertEqual((head["prompt_tokens"], head["layers"]), (len(prompt), blocks["layers"]))
        self.assertEqual(tail["tokens"], self.reply["tokens"])
        self.assertEqual(len(tail["pieces"]), len(tail["tokens"]))
        self.assertEqual([look["position"] for look in looks], list(range(len(prompt) - 1, len(prompt) + len(tail["tokens"]) - 1)))
        some = False
        for look in looks:
            want = [layer[g][look["position"]] for layer in blocks["blocks"] for g in range(head["kv_heads"])]
            self.assertEqual([expanded(runs) for runs in look["blocks"]], want)
            some |= any(len(w) < look["position"] // head["block_size"] + 1 for w in want)
        self.assertTrue(some, "no look left a block out: the test shows nothing")

    def test_chunks_do_not_matter(self):
        other = self.folder / "chunked.jsonl"
        harness.sala(*self.arguments, "--trace-blocks", other, "--chunk", 7)
        self.assertEqual(other.read_text(), self.trace.read_text())

    def test_table(self):
        out = self.compare("trace", "trace", self.trace, "--rows", 5)
        self.assertEqual(len(out["spans"]), 5)
        self.assertEqual(out["looks"], len(self.lines) - 2)
        self.assertEqual(out["spans"][0]["begin"], 0)
        # By hand: how often the first block was read (it always is, as an initial block).
        lists = [expanded(runs) for look in self.lines[1:-1] for runs in look["blocks"]]
        shares = [sum(b in found for found in lists) / len(lists) for b in range(out["spans"][0]["end"] // out["block_size"])]
        self.assertAlmostEqual(out["spans"][0]["read"], sum(shares) / len(shares))
        self.assertEqual(out["spans"][0]["hottest_read"], 1.0)
        text = harness.sala("trace", self.trace)
        self.assertIn("begins with", text)

    def test_picture(self):
        svg = self.folder / "trace.svg"
        harness.sala("trace", self.trace, "--svg", svg)
        rows = xml.parse(svg).getroot().findall(f"{SVG}g")
        self.assertEqual(len(rows), len(self.lines) - 2)
        self.assertTrue(all(row.findall(f"{SVG}rect") for row in rows))

    def test_an_interrupted_run(self):
        cut = self.folder / "cut.jsonl"
        cut.write_text("\n".join(json.dumps(line) for line in self.lines[:5]) + "\n")
        self.assertEqual(json.loads(harness.sala("trace", cut, "--json"))["looks"], 4)

    def test_damage(self):
        bad = self.folder / "bad.jsonl"

        def changed(number, **fields):
            lines = [dict(line) for line in self.lines]
            lines[number] |= fields
            return "\n".join(json.dumps(line) for line in lines)

        many = [[0, 1]] * len(self.lines[1]["blocks"])
        for text, words in (("", ["no answer"]), ("{", ["bad.jsonl:1"]), ("[]", ["bad.jsonl:1", "object"]), ("{}", ["bad.jsonl:1", "trace"]),
                            (changed(0, version=2), [":1", "version"]), (changed(0, block_size=0), [":1", "block_size"]),
                            (changed(0, layers=[]), [":1", "layers"]), (changed(0, layers=["x"]), [":1", "layers"]),
                            (changed(0, excerpts=[1]), [":1", "excerpts"]), (changed(1, position=-1), [":2", "position"]),
                            (changed(1, position=2 ** 63), [":2", "position"]), (changed(2, position=0, blocks=many), [":3", "follows"]),
                            (changed(1, blocks=[[0]]), [":2", "pairs"]), (changed(1, blocks=[[0, 10 ** 9]]), [":2", "blocks"]),
                            (changed(1, blocks=[[3, 1, 0, 1]]), [":2", "blocks"]), (changed(1, blocks=[]), [":2", "lists"])):
            bad.write_text(text)
            with self.subTest(text[:60]):
                self.refused(cli_test.FAILED, ["bad.jsonl", *words], "trace", bad)
        self.refused(cli_test.FAILED, ["nothing.jsonl"], "trace", self.folder / "nothing.jsonl")

    def test_refusals(self):
        dense = self.folder / "dense"
        tiny_model.make(dense, sparse=False)
        self.refused(cli_test.FAILED, ["--trace-blocks", "choose blocks"], "run", dense, "-p", "x", "--trace-blocks", self.folder / "t")
        self.refused(cli_test.FAILED, [str(self.folder / "no")], "run", self.good, "-p", "x", "--trace-blocks", self.folder / "no" / "t")


class Doctor(Case):
    def test_machine(self):
        out = json.loads(harness.sala("doctor", "--json"))
        self.assertNotIn("model", out)
        machine = out["machine"]
        self.assertGreater(machine["read_bytes_per_second"], 1e7)
        for rate in machine["operations_per_second"]["peak"].values():
            self.assertGreater(rate, 1e7)
        self.assertLessEqual(machine["available"], machine["memory"])
        self.assertEqual(json.loads(harness.sala("doctor", "--threads", 1, "--json"))["machine"]["threads"], 1)
        self.assertIn("GB/s", harness.sala("doctor"))

    def test_model(self):
        out = self.compare("doctor", "doctor", self.good, varying=())
        model, machine = out["model"], out["machine"]
        fits = {(fit["kv"], fit["sequences"]): fit["context"] for fit in model["fits"]}
        left = machine["available"] - model["weights"] - model["workspace"]
        page = self.config.block_size
        for (kv, sequences), context in fits.items():  # the closed form that `inspect` prints, from both sides
            def total(tokens):
                return json.loads(harness.sala("inspect", self.good, "--ctx", tokens, "--kv", kv, "--json"))["memory"]["total"]
            self.assertLessEqual(sequences * total(context), left)
            if context < 2 ** 24:
                self.assertGreater(sequences * total(context + page), left - sequences)
        self.assertGreaterEqual(fits["bf16", 16], fits["f32", 16])
        seconds = [prompt["seconds"] for prompt in model["prompts"]]
        self.assertEqual(seconds, sorted(seconds))
        rates = [token["tokens_per_second"] for token in model["tokens"]]
        self.assertEqual(rates, sorted(rates, reverse=True))
        self.assertRegex(model["flags"], r"^--ctx \d+ --kv \w+ --threads \d+$")
        self.assertIn("sala chat", harness.sala("doctor", self.good))
        mute = self.folder / "mute"
        tiny_model.make(mute)
        cli_test.edit_json("tokenizer_config.json", chat_template=None)(mute)
        self.assertRegex(harness.sala("doctor", mute), rf"\nsala run {mute} --raw --kv \w+ --threads \d+ -p TEXT\n")

    def test_weights_are_what_loading_takes(self):
        for family, fields in (("sala", {}), ("llama", dict(gguf=["q4_1", "q8_0"], hidden_size=64, intermediate_size=96, head_dim=16))):
            folder = self.folder / family
            make_checkpoint.make(folder, family, **{"tokens": 4} | fields)
            path = folder / "model.gguf" if "gguf" in fields else folder
            weights = json.loads(harness.sala("doctor", path, "--json"))["model"]["weights"]
            stored = json.loads(harness.sala("inspect", path, "--json"))["bytes"]
            self.assertLess(stored * 0.8, weights)
            self.assertLess(weights, stored * 2)  # panels of 32 rows are filled up, which small matrices feel

    def test_refusals(self):
        self.refused(cli_test.FAILED, ["nothing"], "doctor", self.folder / "nothing")
        self.refused(cli_test.USAGE, ["--threads"], "doctor", "--threads", -1)


if __name__ == "__main__":
    harness.main()
