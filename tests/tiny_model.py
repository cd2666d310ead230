"""A tiny SALA checkpoint with a tokenizer and a chat template, for tests of what the program says rather than computes."""
import json
import pathlib
import tempfile
import unittest

import make_checkpoint

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = ("{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def byte_letters():
    """The letters that byte-level BPE writes for the bytes 0 to 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]


def write_tokenizer(folder):
    """Byte-level BPE with two merges; returns its size."""
    letters = byte_letters()
    vocab = {piece: i for i, piece in enumerate(SPECIAL + letters + ["he", "ll"])}
    added = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, s in enumerate(SPECIAL)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
             "merges": ["h e", "l l"]}
    (folder / "tokenizer.json").write_text(json.dumps(
        {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
         "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
         "add_bos_token": True, "chat_template": TEMPLATE}))
    return len(vocab)


def make(folder, **fields):
    """Writes the checkpoint; returns (Config, reference Model, ids)."""
    folder.mkdir(parents=True, exist_ok=True)
    return make_checkpoint.make(folder, **{"tokens": 60, "vocab_size": write_tokenizer(folder)} | fields)


class WithModel(unittest.TestCase):
    """Tests that share one such checkpoint, `model`, in a folder that goes with them."""
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = pathlib.Path(scratch.name)
        cls.model = cls.folder / "tiny"
        make(cls.model)
