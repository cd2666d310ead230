#!/usr/bin/env python3
"""Compares a tokenizer with PyPI's `tokenizers` and `sentencepiece`, live, on random strings.

    oracle_test.py PROGRAM [FOLDER...] [--strings N] [--seed S]

PROGRAM is tokenize_lines. FOLDERs hold a tokenizer.json or tokenizer.model; by default those of tests/text/fixtures, and
the default model's GGUF file where it has been fetched. A .gguf file, or the MiniCPM family's vocabulary as a .txt, is
compared with a tokenizer that `tokenizers` makes of the same vocabulary (vocabularies.py).
N strings in all (20,000) go through encode (special tokens recognised or not), decode (of the ids and of random ids)
and the streaming decoder. Exit status 1 if anything differs, 77 (skipped) where the packages are missing.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import strings  # noqa: E402

try:
    import sentencepiece
    import tokenizers
except ImportError as missing:
    print(f"skipped: {missing}; pip install tokenizers sentencepiece")
    sys.exit(77)
import vocabularies  # noqa: E402

MODELS = HERE.parent.parent / "models"


class Ours:
    def __init__(self, program, folder):
        self.process = subprocess.Popen([program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        encoding="utf-8")

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class HuggingFace:
    # The steps made for BERT know punctuation and accents of an old Unicode only; newer ones differ there.
    OLD = {"pieces", "mixed"}

    def __init__(self, folder):
        self.old = folder.name in self.OLD
        self.model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.size = self.model.get_vocab_size()

    def text(self, rnd):
        text = strings.random_text(rnd)
        if self.old:
            text = "".join(c for c in text if unicodedata.ucd_3_2_0.category(c) != "Cn")
        return text.encode()

    def encode(self, raw, special):
        self.model.encode_special_tokens = not special
        return self.model.encode(raw.decode(), add_special_tokens=False).ids

    def decode(self, ids, skip):
        return self.model.decode(ids, skip_special_tokens=skip)


class SentencePiece:
    def __init__(self, folder):
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.size = self.model.vocab_size()

    def text(self, rnd):
        return strings.random_bytes(rnd)

    def encode(self, raw, special):
        return self.model.encode(raw)

    def decode(self, ids, skip):
        return self.model.decode(ids)


def compare_file(program, path, count, seed):
    with tempfile.TemporaryDirectory(suffix=path.name) as scratch:
        folder = pathlib.Path(scratch)
        return compare(program, folder, count, seed, ours=vocabularies.write(path, folder), name=path.name)


def compare(program, folder, count, seed, ours=None, name=None):
    name = name or folder.name
    theirs = HuggingFace(folder) if (folder / "tokenizer.json").exists() else SentencePiece(folder)
    hugging_face = isinstance(theirs, HuggingFace)
    ours = Ours(program, ours or folder)
    rnd = random.Random(f"{seed} {name}")
    wrong = 0

    def check(what, shown, expected, got):
        nonlocal wrong
        if expected == got:
            return
        wrong += 1
        if wrong <= 3:
            print(f"{name}: {what} of {shown!a}:\n  expected {expected!a}\n  got      {got!a}")

    for _ in range(count):
        raw = theirs.text(rnd)
        special = hugging_face and rnd.random() < 0.5
        ids = theirs.encode(raw, special)
        check("encode", (raw, special), ids, ours.ask(hex=raw.hex(), special=special))
        if rnd.random() < 0.5:
            ids = [rnd.randrange(theirs.size) for _ in range(rnd.randint(0, 8))]
        skip = rnd.random() < 0.5 if hugging_face else True
        text = theirs.decode(ids, skip)
        check("decode", (ids, skip), text, ours.ask(decode=ids, skip=skip))
        pieces = ours.ask(stream=ids, skip=skip)
        # A run of byte tokens that is invalid as a whole is given up as a whole by `tokenizers`, which a stream cannot know.
        if not hugging_face or "\ufffd" not in text:
            check("stream", (ids, skip), text, "".join(pieces))
    print(f"{name}: {count} strings, {wrong} differences")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folders", nargs="*", type=pathlib.Path)
    parser.add_argument("--strings", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folders = arguments.folders or [*sorted(path for path in (HERE / "fixtures").iterdir() if path.is_dir()),
                                    *MODELS.glob("*.gguf")]
    print(f"tokenizers {tokenizers.__version__}, sentencepiece {sentencepiece.__version__}")
    each = -(-arguments.strings // len(folders))
    return 1 if sum((compare if path.is_dir() else compare_file)(arguments.program, path, each, arguments.seed)
                    for path in folders) else 0


if __name__ == "__main__":
    sys.exit(main())
