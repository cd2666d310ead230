#!/usr/bin/env python3
"""A GGUF file is a whole model: Qwen3 with its tokenizer and chat template beside the same model as a directory."""
import json
import pathlib
import tempfile
import unittest

import harness
import make_checkpoint

FIXTURE = harness.ROOT / "tests" / "text" / "fixtures" / "qwen2"
TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
            "<think>\n\n</think>\n\n{% endif %}{% endif %}")
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def metadata(tokenizer):
    """A tokenizer.json as a converter writes it to GGUF."""
    model = tokenizer["model"]
    tokens = dict(model["vocab"])
    types = {}
    for added in tokenizer["added_tokens"]:
        tokens[added["content"]] = added["id"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    ordered = sorted(tokens, key=tokens.get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return {"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__pre": "qwen2", "tokenizer__ggml__tokens": ordered,
            "tokenizer__ggml__token_type": [types.get(i, NORMAL) for i in range(len(ordered))],
            "tokenizer__ggml__merges": merges, "tokenizer__ggml__bos_token_id": tokens["<s>"],
            "tokenizer__ggml__eos_token_id": tokens["<|im_end|>"], "tokenizer__ggml__add_bos_token": False,
            "tokenizer__chat_template": TEMPLATE}


class Qwen3(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.scratch.name)
        cls.tokenizer = json.loads((FIXTURE / "tokenizer.json").read_text())
        cls.metadata = metadata(cls.tokenizer)
        fields = dict(vocab_size=len(cls.metadata["tokenizer__ggml__tokens"]), hidden_size=64, intermediate_size=96, head_dim=32)
        cls.directory, cls.gguf = folder / "directory", folder / "gguf" / "model.gguf"
        make_checkpoint.make(cls.gguf.parent, "qwen3", gguf=["f32"], metadata=cls.metadata, **fields)
        make_checkpoint.make(cls.directory, "qwen3", **fields)
        (cls.directory / "tokenizer.json").write_text(json.dumps(cls.tokenizer))
        (cls.directory / "tokenizer_config.json").write_text(json.dumps(
            {"bos_token": "<s>", "eos_token": "<|im_end|>", "add_bos_token": False, "chat_template": TEMPLATE}))

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def test_ids(self):
        added = [token["content"] for token in self.tokenizer["added_tokens"]]
        tried = 0
        for text, _, ids, _ in json.loads((FIXTURE / "cases.json").read_text()):
            if "\0" in text or any(token in text for token in added):  # GGUF does not say how these strip or stand alone
                continue
            with self.subTest(text):
                self.assertEqual(json.loads(harness.sala("tokenize", self.gguf, stdin=text)), ids)
            tried += 1
        self.assertGreater(tried, 20)

    def test_the_same_reply(self):
        def reply(model):
            out = json.loads(harness.sala("run", model, "-p", "Grüße 123", "-n", 12, "--temp", 0, "--compute", "f32", "--json"))
            return out["prompt_tokens"], out["tokens"], out["text"]
        self.assertEqual(reply(self.gguf), reply(self.directory))

    def test_inspect(self):
        told = {k: json.loads(harness.sala("inspect", model, "--ctx", 100, "--json")) for k, model in (("gguf", self.gguf), ("dir", self.directory))}
        self.assertEqual(told["gguf"]["family"], "qwen3")
        for key in ("parameters", "vocab", "attention", "layers", "tied"):
            self.assertEqual(told["gguf"][key], told["dir"][key])

    def test_refusals(self):
        raw = self.gguf.read_bytes()
        bad = self.gguf.parent / "bad.gguf"
        for old, new, words in ((b"\x05\0\0\0\0\0\0\0qwen3", b"\x05\0\0\0\0\0\0\0qwen2", ["'qwen2'", "'llama', 'qwen3'"]),
                                (b"qwen3.attention.value_length\x04\0\0\0\x20", b"qwen3.attention.value_length\x04\0\0\0\x10", ["value_length"])):
            self.assertIn(old, raw)
            bad.write_bytes(raw.replace(old, new, 1))
            done = harness.run("inspect", bad)
            self.assertEqual(done.returncode, 1)
            for word in words:
                self.assertIn(word, done.stderr)

    def test_rope_scaling_that_is_not_supported(self):
        for scaling, words in (({"qwen3__rope__scaling__type": "yarn"}, ["rope.scaling.type", "yarn", "linear"]),
                               ({"qwen3__rope__scaling__type": "linear"}, ["rope.scaling.factor", "missing"]),
                               ({"qwen3__expert_count": 8}, ["expert_count", "mixture"])):
            folder = self.gguf.parent / "scaled"
            make_checkpoint.make(folder, "qwen3", gguf=["f32"], metadata=scaling, hidden_size=64, head_dim=32, intermediate_size=96)
            done = harness.run("inspect", folder / "model.gguf")
            self.assertEqual(done.returncode, 1)
            for word in words:
                self.assertIn(word, done.stderr)


if __name__ == "__main__":
    harness.main()
