#!/usr/bin/env python3
"""sala beside llama.cpp on the same GGUF file: how far apart their logits are, where greedy texts part, how fast both are.

  scripts/compare_llama_cpp.py --source LLAMA_CPP_SOURCE --build ITS_BUILD_FOLDER [--model GGUF] [--threads 2]
                               [--parts logits,greedy,speed] [--rounds 5] [--out bench/results/llama_cpp.json]

LLAMA_CPP_SOURCE is a llama.cpp checkout or the vendor/llama.cpp folder of the source distribution of PyPI's
llama-cpp-python, built as a shared library into ITS_BUILD_FOLDER (cmake -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON,
target llama). Nothing is downloaded. Needs numpy and g++.

logits: teacher-forced on the ten texts of bench/peer/prompts; KL(llama.cpp || sala) in nats for each position.
greedy: 128 tokens after each text; where the texts part, the gap between llama.cpp's two best tokens must be below the
  largest difference between the two programs' logits there.
speed: a prompt of about 512 tokens and 128 generated ones, the programs in turn, medians.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPTS = sorted((ROOT / "bench" / "peer" / "prompts").glob("*.txt"))
GENERATE = 128
MODES = {"f32, f32 KV": ("f32", "f32"), "auto, f32 KV": ("auto", "f32"), "auto, auto KV": ("auto", "auto")}


class Programs:
    """Both programs, run on one model with the same number of threads."""

    def __init__(self, options, scratch):
        self.model, self.threads, self.scratch = options.model, str(options.threads), scratch
        self.sala = options.sala
        self.peer = self.build_peer(options.source, options.build)

    def build_peer(self, source, build):
        libraries = sorted(build.rglob("libllama.so"))
        if not libraries:
            sys.exit(f"{build}: has no libllama.so; build llama.cpp there first (see --help)")
        program = self.scratch / "llama_peer"
        folder = libraries[0].parent
        subprocess.run(["g++", "-std=c++20", "-O2", ROOT / "bench" / "peer" / "llama_peer.cc", "-o", program, f"-I{source}/include",
                        f"-I{source}/ggml/include", f"-L{folder}", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{folder}"], check=True)
        return program

    def run(self, *command):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
        return done.stdout

    def run_peer(self, command, ids, *arguments):
        (self.scratch / "ids.json").write_text(json.dumps(ids))
        out = self.scratch / "peer.out"
        self.run(self.peer, command, self.model, self.scratch / "ids.json", out, self.threads, *arguments)
        return out

    def tokenize(self, text):
        (self.scratch / "text.txt").write_text(text)
        return json.loads(self.run(self.sala, "tokenize", self.model, "--file", self.scratch / "text.txt"))

    def peer_tokenize(self, text):
        (self.scratch / "text.txt").write_text(text)
        self.run(self.peer, "tokenize", self.model, self.scratch / "text.txt", self.scratch / "peer.out")
        return [int(i) for i in json.loads((self.scratch / "peer.out").read_text())["ids"]]

    def sala_logits(self, ids, compute, kv):
        (self.scratch / "ids.json").write_text(json.dumps(ids))
        self.run(self.sala, "logits", self.model, "--tokens", self.scratch / "ids.json", "--out", self.scratch / "sala.npy",
                 "--compute", compute, "--kv", kv, "--threads", self.threads)
        return np.load(self.scratch / "sala.npy")

    def peer_logits(self, ids, kv):
        return np.fromfile(self.run_peer("logits", ids, kv), np.float32).reshape(len(ids), -1)

    def sala_generate(self, text):
        (self.scratch / "text.txt").write_text(text)
        return json.loads(self.run(self.sala, "run", self.model, "--raw", "--file", self.scratch / "text.txt", "-n", GENERATE,
                                   "--temp", 0, "--threads", self.threads, "--json"))

    def peer_generate(self, ids, command="greedy"):
        return json.loads(self.run_peer(command, ids, GENERATE).read_text())


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return x


def kl(p, q):
    """KL(p || q) of each row, from log probabilities."""
    return (np.exp(p) * (p - q)).sum(axis=-1)


def compare_logits(programs, report):
    pairs = {f"sala {mode} | llama.cpp {kv} KV": [] for kv in ("f32", "f16") for mode in MODES}
    pairs["llama.cpp f16 KV | llama.cpp f32 KV"] = []
    agree = {name: [] for name in pairs}
    for prompt in PROMPTS:
        text = prompt.read_text()
        ids = programs.tokenize(text)
        if ids != programs.peer_tokenize(text):
            sys.exit(f"{prompt.name}: the programs' token ids differ")
        peer = {kv: programs.peer_logits(ids, kv) for kv in ("f32", "f16")}
        best = {kv: x.argmax(axis=-1) for kv, x in peer.items()}
        peer = {kv: log_softmax(x) for kv, x in peer.items()}

        def add(name, values, kv):
            pairs[name].append(kl(peer[kv], values))
            agree[name].append(values.argmax(axis=-1) == best[kv])
        for mode, (compute, kv) in MODES.items():
            values = log_softmax(programs.sala_logits(ids, compute, kv))
            for peer_kv in ("f32", "f16"):
                add(f"sala {mode} | llama.cpp {peer_kv} KV", values, peer_kv)
        add("llama.cpp f16 KV | llama.cpp f32 KV", peer["f16"], "f32")
    print(f"KL(llama.cpp || other), nats, {sum(map(len, pairs['llama.cpp f16 KV | llama.cpp f32 KV']))} positions of {len(PROMPTS)} texts")
    print(f"{'pair':<42} {'mean':>10} {'p99':>10} {'max':>10} {'same best':>10}")
    report["logits"] = {}
    for name, values in pairs.items():
        v, same = np.concatenate(values), np.concatenate(agree[name])
        row = {"mean": float(v.mean()), "p99": float(np.quantile(v, 0.99)), "max": float(v.max()), "same_best": float(same.mean())}
        report["logits"][name] = row
        print(f"{name:<42} {row['mean']:>10.2e} {row['p99']:>10.2e} {row['max']:>10.2e} {row['same_best']:>10.4f}", flush=True)


def compare_greedy(programs, report):
    report["greedy"] = []
    print(f"{'greedy text':<18} {'same tokens':>12} {'gap':>10} {'difference':>11}")
    for prompt in PROMPTS:
        text = prompt.read_text()
        ids = programs.tokenize(text)
        reply, peer = programs.sala_generate(text), programs.peer_generate(ids)
        ours, theirs = reply["tokens"], [int(i) for i in peer["ids"]]
        if reply["prompt_tokens"] != len(ids):
            sys.exit(f"{prompt.name}: sala run --raw fed {reply['prompt_tokens']} tokens, llama.cpp {len(ids)}")
        same = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        row = {"text": prompt.stem, "same_tokens": same, "generated": len(ours), "ended": reply["finish_reason"]}
        if same < len(ours):
            prefix = ids + ours[:same]
            a = programs.sala_logits(prefix, "auto", "auto")[-1]
            b = programs.peer_logits(prefix, "f16")[-1]
            top = np.sort(b)[-2:]
            row |= {"gap": float(top[1] - top[0]), "difference": float(np.abs(a - b).max())}
            row["explained"] = row["gap"] < row["difference"]
            print(f"{row['text']:<18} {same:>12} {row['gap']:>10.4f} {row['difference']:>11.4f} "
                  f"{'' if row['explained'] else 'NOT EXPLAINED'}", flush=True)
        else:
            print(f"{row['text']:<18} {same:>12} {'equal':>10}", flush=True)
        report["greedy"].append(row)


def compare_speed(programs, report, rounds):
    first = programs.tokenize("".join(p.read_text() for p in PROMPTS))[:512]
    text = json.loads(programs.run(programs.sala, "tokenize", programs.model, "--ids", ",".join(map(str, first)), "--json"))["text"]
    ids = programs.tokenize(text)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"other programs are running (load {load:.1f}): threads that spin suffer more, so measure again on an idle machine")
    rows = {"sala": {"prompt": [], "generation": []}, "llama.cpp": {"prompt": [], "generation": []}}
    for _ in range(rounds):
        reply = programs.sala_generate(text)
        rows["sala"]["prompt"].append(reply["prompt_tokens_per_second"])
        rows["sala"]["generation"].append(reply["generated_tokens_per_second"])
        peer = programs.peer_generate(ids, "speed")
        rows["llama.cpp"]["prompt"].append(len(ids) / peer["prompt_seconds"])
        rows["llama.cpp"]["generation"].append((GENERATE - 1) / peer["generation_seconds"])
    median = {p: {k: statistics.median(v) for k, v in r.items()} for p, r in rows.items()}
    ratio = {k: median["sala"][k] / median["llama.cpp"][k] for k in ("prompt", "generation")}
    report["speed"] = {"prompt_tokens": len(ids), "generated_tokens": reply["generated_tokens"], "rounds": rounds, "load": load, "median": median,
                       "ratio": ratio, "all": rows}
    print(f"tokens/s, {programs.threads} threads, prompt of {len(ids)}, {reply['generated_tokens']} generated, medians of {rounds}")
    for what in ("prompt", "generation"):
        print(f"{what:<12} sala {median['sala'][what]:>9.1f}   llama.cpp {median['llama.cpp'][what]:>9.1f}   ratio {ratio[what]:.2f}")


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--source", type=pathlib.Path, required=True)
    ap.add_argument("--build", type=pathlib.Path, required=True)
    ap.add_argument("--model", type=pathlib.Path, default=ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    ap.add_argument("--sala", type=pathlib.Path, default=ROOT / "build" / "release" / "sala")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--parts", default="logits,greedy,speed")
    ap.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "llama_cpp.json")
    options = ap.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        programs = Programs(options, pathlib.Path(scratch))
        report = {"model": options.model.name, "processor": processor(), "threads": options.threads}
        parts = options.parts.split(",")
        if "logits" in parts:
            compare_logits(programs, report)
        if "greedy" in parts:
            compare_greedy(programs, report)
        if "speed" in parts:
            compare_speed(programs, report, options.rounds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
