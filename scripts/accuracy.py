#!/usr/bin/env python3
"""What weights of 8 and 4 bits cost: KL divergence and perplexity beside the same model in f32.

    scripts/accuracy.py models/SmolLM2-135M-Instruct.Q4_1.gguf [--calibrate TEXT] [--types w4] [--groups 64,128] [--compute f32]

Takes a Hugging Face directory, or reads a llama GGUF file of the types F32, Q8_0, Q4_1 and writes its numbers as an f32
directory; quantises that with every type and group, with --calibrate also for a text; reads the texts of bench/peer/prompts teacher-forced; prints a table. KL(f32 || quantised) in nats a token. Needs numpy.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "reference"))
import make_checkpoint  # noqa: E402

NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


class Gguf:
    """The metadata and the tensors of a file, as f32."""

    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 8
        tensors, pairs = self.take("QQ")
        self.fields = {}
        for _ in range(pairs):
            key = self.text()
            self.fields[key] = self.value(self.take("I")[0])
        infos = []
        for _ in range(tensors):
            name, (dims,) = self.text(), self.take("I")
            infos.append((name, self.take("Q" * dims)[::-1], *self.take("IQ")))
        align = self.fields.get("general.alignment", 32)
        start = -(-self.at // align) * align
        self.tensors = {name: self.decode(kind, start + offset, shape) for name, shape, kind, offset in infos}

    def take(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def text(self):
        (length,) = self.take("Q")
        self.at += length
        return self.data[self.at - length:self.at].decode()

    def value(self, kind):
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.take(SCALARS[kind])[0]
        item, count = self.take("IQ")
        return [self.value(item) for _ in range(count)]

    def decode(self, kind, at, shape):
        count = int(np.prod(shape))
        if kind == 0:
            return np.frombuffer(self.data, np.float32, count, at).reshape(shape)
        blocks = count // 32
        if kind == 8:
            x = np.frombuffer(self.data, [("d", "<f2"), ("q", "i1", 32)], blocks, at)
            return (x["d"].astype(np.float32)[:, None] * x["q"]).reshape(shape)
        if kind == 3:
            x = np.frombuffer(self.data, [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)], blocks, at)
            q = np.concatenate([x["q"] & 15, x["q"] >> 4], 1)
            return (x["d"].astype(np.float64)[:, None] * q + x["m"][:, None]).astype(np.float32).reshape(shape)
        sys.exit(f"a tensor of GGUF type {kind}; this script reads F32 (0), Q4_1 (3) and Q8_0 (8)")


def write_tokenizer(gguf, out):
    """tokenizer.json of byte-level BPE, for --calibrate."""
    tokens, kinds = gguf.fields["tokenizer.ggml.tokens"], gguf.fields["tokenizer.ggml.token_type"]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, t in enumerate(tokens) if kinds[i] == 3]
    (out / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": level,
        "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {t: i for i, t in enumerate(tokens)}, "merges": gguf.fields["tokenizer.ggml.merges"]}}))


def matrix_elements(directory):
    """Numbers in the matrices of the layers."""
    with open(directory / "model.safetensors", "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
    return sum(int(np.prod(e["shape"])) for n, e in header.items() if ".layers." in n and len(e["shape"]) == 2)


def write_directory(gguf, out):
    """The model as Hugging Face keeps it, in f32."""
    def field(key, *otherwise):
        return gguf.fields.get("llama." + key, *otherwise)

    heads = field("attention.head_count")
    kv_heads, hidden = field("attention.head_count_kv", heads), field("embedding_length")
    tensors = {}
    for name, x in gguf.tensors.items():
        parts = name.split(".")
        if parts[0] != "blk":
            tensors[TOP[parts[0]] + ".weight"] = x
            continue
        if parts[2] in ("attn_q", "attn_k"):  # from neighbours to halves
            n = heads if parts[2] == "attn_q" else kv_heads
            x = x.reshape(n, -1, 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
        tensors[f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"] = x
    out.mkdir()
    write_tokenizer(gguf, out)
    make_checkpoint.write_safetensors(out / "model.safetensors", tensors, "f32")
    (out / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": hidden,
        "intermediate_size": field("feed_forward_length"), "num_hidden_layers": field("block_count"),
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": field("context_length"),
        "rms_norm_eps": field("attention.layer_norm_rms_epsilon"), "rope_theta": field("rope.freq_base", 10000.0),
        "vocab_size": gguf.tensors["token_embd.weight"].shape[0], "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": "output.weight" not in gguf.tensors}))


def log_softmax(x):
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True, dtype=np.float64)).astype(np.float32)


def divergence(p, q):
    """KL(p || q) of each row of log probabilities, nats."""
    return (np.exp(p) * (p - q)).sum(1, dtype=np.float64)


class Sala:
    def __init__(self, program, scratch):
        self.program, self.scratch = program, scratch

    def __call__(self, *arguments):
        done = subprocess.run([str(a) for a in (self.program, *arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        return done.stdout

    def log_probabilities(self, model, texts, compute):
        for i, ids in enumerate(texts):
            (self.scratch / "ids.json").write_text(json.dumps(ids))
            self("logits", model, "--tokens", self.scratch / "ids.json", "--out", self.scratch / "x.npy", "--compute", compute,
                 "--kv", "f32")
            yield i, log_softmax(np.load(self.scratch / "x.npy")[:-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--sala", type=pathlib.Path, default=ROOT / "build" / "release" / "sala")
    parser.add_argument("--calibrate", type=pathlib.Path, metavar="TEXT")
    parser.add_argument("--types", default="w8,w4")
    parser.add_argument("--groups", default="32,64,128")
    parser.add_argument("--compute", default="f32,int8")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        sala = Sala(options.sala, scratch)
        f32 = options.model if options.model.is_dir() else scratch / "f32"
        if not options.model.is_dir():
            write_directory(Gguf(options.model), f32)
        texts = [json.loads(sala("tokenize", options.model, "--file", p)) for p in sorted((ROOT / "bench/peer/prompts").glob("*.txt"))]
        exact = dict(sala.log_probabilities(f32, texts, "f32"))
        print("| weights | activations | bits of a weight | KL, mean | KL, 99th percentile | same likeliest | perplexity |")
        print("|---|---|---|---|---|---|---|")

        def row(name, model, compute, bits):
            kl, same, loss = [], [], []
            for i, q in sala.log_probabilities(model, texts, compute):
                p = exact[i]
                kl.append(divergence(p, q))
                same.append(p.argmax(1) == q.argmax(1))
                loss.append(-q[np.arange(len(q)), texts[i][1:]])
            kl, same, loss = (np.concatenate(x) for x in (kl, same, loss))
            print(f"| {name} | {compute} | {bits} | {kl.mean():.5f} | {np.quantile(kl, 0.99):.4f} | {same.mean():.1%} | "
                  f"{np.exp(loss.mean()):.3f} |", flush=True)

        row("f32", f32, "f32", 32)
        elements = matrix_elements(f32)
        for kind in options.types.split(","):
            for group in options.groups.split(","):
                for how in ([], ["--calibrate", options.calibrate])[:2 if options.calibrate else 1]:
                    out = scratch / f"{kind}-{group}-{len(how)}"
                    made = json.loads(sala("quantize", f32, out, "--type", kind, "--group", group, *how, "--json"))
                    bits = 8 * sum(b for t, b in made["types"].items() if t.startswith("w")) / elements
                    for compute in options.compute.split(","):
                        row(f"{kind}, group {group}{', calibrated' if how else ''}", out, compute, f"{bits:.2f}")


if __name__ == "__main__":
    main()
