"""Tokenizers of PyPI's `tokenizers` made from vocabularies that come without a tokenizer.json: that of a GGUF file, and the
MiniCPM family's base vocabulary as plain text. They are written as tokenizer.json, for comparisons and benchmarks."""

import base64
import json
import pathlib
import struct

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
CONTROL, USER_DEFINED, BYTE = 3, 4, 6

QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def gguf_metadata(path):
    """The metadata of a GGUF file of version 2 or 3 as a dictionary."""
    with open(path, "rb") as file:
        def scalar(code):
            return struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))[0]

        def value(kind):
            if kind == STRING:
                return file.read(scalar("Q")).decode()
            if kind == ARRAY:
                of, count = scalar("I"), scalar("Q")
                return [value(of) for _ in range(count)]
            return scalar(SCALARS[kind])

        file.read(8)
        scalar("Q")
        return {value(STRING): value(scalar("I")) for _ in range(scalar("Q"))}


def write_gguf(path, folder):
    """folder/tokenizer.json as `tokenizers` would have it, folder/vocab.json with the keys of GgufVocab."""
    data = {k.removeprefix("tokenizer.ggml."): v for k, v in gguf_metadata(path).items() if k.startswith("tokenizer.ggml.")}
    if data["model"] != "gpt2":
        raise ValueError(f"{path}: a vocabulary of the kind {data['model']} is not known here")
    tokens, types = data["tokens"], data["token_type"]
    merges = [tuple(line.split(" ")) for line in data["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    level = pre_tokenizers.ByteLevel
    if data["pre"] == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), level(add_prefix_space=False)])
    elif data["pre"] == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                                                           level(add_prefix_space=False, use_regex=False)])
    else:
        raise ValueError(f"{path}: the pre-split {data['pre']} is not known here")
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == USER_DEFINED])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(data))


def merges_of(scores):
    """A merge for every division of a piece into two pieces, those of better pieces first, as converters of SentencePiece
    models make them. `scores`: piece -> (score, id)."""
    merges = []
    for piece, (score, token) in scores.items():
        for at in range(1, len(piece)):
            left, right = scores.get(piece[:at]), scores.get(piece[at:])
            if left and right:
                merges.append((-score, token, left[1], right[1], piece[:at], piece[at:]))
    return [merge[4:] for merge in sorted(merges)]


def write_minicpm(path, folder):
    """folder/tokenizer.json of the Llama type from lines "base64(piece) score type" (the first four lines are counts), in
    which a piece "▁" is written as a space."""
    names = {}
    scores = {}
    for token, line in enumerate(pathlib.Path(path).read_text().splitlines()[4:]):
        encoded, score, kind = line.split()
        piece = base64.b64decode(encoded).decode().replace(" ", "▁")
        while piece in names:                           # the literal space, which is written as "▁" is
            piece += "\ue000"
        names[piece] = token
        if int(kind) not in (CONTROL, BYTE, 2):
            scores[piece] = (float(score), token)
    tokenizer = Tokenizer(models.BPE(vocab=names, merges=merges_of(scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>", "<|im_end|>", "<|im_start|>", "<|tool_call|>", "<|execute_start|>", "<|execute_end|>",
               "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    tokenizer.save(str(folder / "tokenizer.json"))


def write(path, folder):
    """Writes what `path` holds into `folder`; returns what the engine should read of it."""
    if path.suffix == ".gguf":
        write_gguf(path, folder)
        return folder / "vocab.json"
    write_minicpm(path, folder)
    return folder
