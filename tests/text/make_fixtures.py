#!/usr/bin/env python3
"""Makes tests/text/fixtures: small tokenizers of every configuration that is supported, and what the reference
implementations make of some strings and templates.

    pip install tokenizers==0.23.3 sentencepiece==0.2.3 jinja2==3.1.6
    tests/text/make_fixtures.py

Each folder holds a tokenizer.json or tokenizer.model and cases.json: [[text or hex, special, ids, decoded]...].
templates.json holds [[name, question, text or null]...].
"""

import json
import pathlib
import random
import tempfile

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import jinja_oracle
import strings
from template_cases import questions

HERE = pathlib.Path(__file__).parent
OUT = HERE / "fixtures"

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(pre, size=450, normalizer=None, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer, trainer


def plain(decoder, size=700, normalizer=None, pre=None, fallback=True, unk="<unk>", **model):
    tokenizer = Tokenizer(models.BPE(byte_fallback=fallback, unk_token=unk, **model))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    if decoder is not None:
        tokenizer.decoder = decoder
    special = ["<unk>", "<s>", "</s>"] + (["<0x%02X>" % byte for byte in range(256)] if fallback else [])
    suffix = {"end_of_word_suffix": model["end_of_word_suffix"]} if "end_of_word_suffix" in model else {}
    if "continuing_subword_prefix" in model:
        suffix["continuing_subword_prefix"] = model["continuing_subword_prefix"]
    return tokenizer, trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False,
                                          limit_alphabet=200, max_token_length=12, **suffix)


def configurations():
    level = pre_tokenizers.ByteLevel
    bytes_only = level(add_prefix_space=False, use_regex=False)
    yield "gpt2", *byte_level(level(add_prefix_space=False))
    yield "gpt2_prefix", *byte_level(level(add_prefix_space=True))
    yield "smollm", *byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), level(add_prefix_space=False)]))
    yield "llama3", *byte_level(pre_tokenizers.Sequence([split(LLAMA3), bytes_only]), ignore_merges=True)
    yield "qwen2", *byte_level(pre_tokenizers.Sequence([split(QWEN2), bytes_only]), normalizer=normalizers.NFC())
    yield "gpt4o", *byte_level(pre_tokenizers.Sequence([split(GPT4O), bytes_only]))
    yield "deepseek", *byte_level(pre_tokenizers.Sequence([split(each) for each in DEEPSEEK] + [bytes_only]))
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    llama = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    yield "llama", *plain(decoders.Sequence(llama), normalizer=normalizers.Sequence(spaces), fuse_unk=True)
    yield "gemma", *plain(decoders.Sequence(llama[:3]), normalizer=normalizers.Replace(" ", "▁"),
                          pre=pre_tokenizers.Split(" ", "merged_with_previous"), fuse_unk=True)
    for scheme in ("first", "always", "never"):
        pre = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme == "always")
        yield "metaspace_" + scheme, *plain(decoders.Metaspace(prepend_scheme=scheme), pre=pre,
                                            fallback=scheme == "never", fuse_unk=scheme == "first")
    words = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])
    yield "words", *plain(decoders.BPEDecoder("</w>"), normalizer=words, pre=pre_tokenizers.Whitespace(),
                          fallback=False, end_of_word_suffix="</w>")
    accents = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Nmt()])
    yield "pieces", *plain(decoders.WordPiece("##"), normalizer=accents, pre=pre_tokenizers.BertPreTokenizer(),
                           fallback=False, continuing_subword_prefix="##")
    mixed = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_next"),
                                     pre_tokenizers.Digits(False), split("[aeiou]", "contiguous"),
                                     split("[q]", "merged_with_previous")])
    yield "mixed", *plain(None, pre=mixed, normalizer=normalizers.BertNormalizer(), fallback=False, unk=None)


def add_tokens(tokenizer):
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", normalized=False), AddedToken("<|im_end|>", normalized=False),
                                  AddedToken("<strip>", lstrip=True, rstrip=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("[MARK]", normalized=True), AddedToken("word", single_word=True, normalized=False),
                          AddedToken("ÀÉ", normalized=True), AddedToken("  \n", normalized=False)])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "$A $B", [("<s>", bos)])


def shrink(folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False, separators=(",", ":")))


def save_cases(folder, cases):
    lines = ",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases)
    (folder / "cases.json").write_text("[" + lines + "]\n")


def make_hugging_face():
    for name, tokenizer, trainer in configurations():
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.train_from_iterator(strings.TEXTS * 3, trainer)
        add_tokens(tokenizer)
        tokenizer.save(str(folder / "tokenizer.json"))
        shrink(folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        rnd = random.Random(name)
        cases = []
        for text in strings.TEXTS + [strings.random_text(rnd) for _ in range(40)]:
            special = rnd.random() < 0.5
            tokenizer.encode_special_tokens = not special
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            cases.append([text, special, ids, tokenizer.decode(ids, skip_special_tokens=False)])
        save_cases(folder, cases)


def make_sentencepiece():
    base = dict(model_type="bpe", vocab_size=600, minloglevel=2, hard_vocab_limit=False, character_coverage=0.98)
    variants = {
        "sp_nmt": {},
        "sp_bytes": dict(byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False),
        "sp_defined": dict(byte_fallback=True, user_defined_symbols=["<SEP>", "\n", "hello", "   ", "ab"],
                           control_symbols=["<|im_start|>"], normalization_rule_name="identity",
                           remove_extra_whitespaces=False),
        "sp_trimmed": dict(add_dummy_prefix=False, normalization_rule_name="identity"),
        "sp_suffix": dict(treat_whitespace_as_suffix=True, normalization_rule_name="identity"),
    }
    for name, options in variants.items():
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            prefix = scratch + "/m"
            lines = [line for text in strings.TEXTS for line in text.split("\n") if line]
            sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines * 3), model_prefix=prefix,
                                                     **{**base, **options})
            (folder / "tokenizer.model").write_bytes(pathlib.Path(prefix + ".model").read_bytes())
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        rnd = random.Random(name)
        cases = []
        for raw in [text.encode() for text in strings.TEXTS] + [strings.random_bytes(rnd) for _ in range(40)]:
            ids = model.encode(raw)
            cases.append([raw.hex(), False, ids, model.decode(ids)])
        save_cases(folder, cases)


def make_templates():
    cases = [[name, question, jinja_oracle.render(question).get("text")] for name, question in questions(parts=False)]
    lines = ",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases)
    (OUT / "templates.json").write_text("[" + lines + "]\n")


if __name__ == "__main__":
    make_hugging_face()
    make_sentencepiece()
    make_templates()
