#!/usr/bin/env python3
"""What keys and values of fewer bits cost a sparse model: its distribution, the blocks that it reads, needles.

    scripts/kv_accuracy.py models/sala-5m TEXT [--tokens 16384] [--kv bf16,int8,int4] [--lengths 4096,16384] [--samples 4]

Reads the first --tokens of TEXT with keys and values in f32 and in each type of --kv, weights and activations in f32, and prints
for each: KL(f32 || it) in nats a token; the share of positions whose likeliest token stays; of the blocks that f32 reads, in the
second half of the text, the share that it reads too; and the share of needles found (`sala eval niah`, the same documents for all).
Needs numpy.
"""
import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from accuracy import ROOT, Sala, divergence, log_softmax  # noqa: E402

TASKS = "niah_single_1", "niah_single_2"


def read(sala, model, kv):
    """Log probabilities [T - 1, vocab], and {(layer, group, position): blocks} of the second half."""
    x, blocks = sala.scratch / "x.npy", sala.scratch / "blocks.json"
    sala("logits", model, "--tokens", sala.scratch / "ids.json", "--out", x, "--blocks", blocks, "--compute", "f32", "--kv", kv)
    chosen = {}
    for layer, groups in enumerate(json.loads(blocks.read_text())["blocks"]):
        for group, positions in enumerate(groups):
            for t in range(len(positions) // 2, len(positions)):
                chosen[layer, group, t] = set(positions[t])
    return log_softmax(np.load(x)[:-1]), chosen


def needles(sala, model, kv, options):
    told = json.loads(sala("eval", "niah", model, "--kv", kv, "--compute", "f32", "--lengths", options.lengths, "--depths", "0.1,0.5,0.9",
                           "--samples", options.samples, "--tasks", ",".join(TASKS), "--json"))
    return [np.mean([r["score"] for r in told["rows"] if r["task"] == task]) for task in TASKS]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--sala", type=pathlib.Path, default=ROOT / "build" / "release" / "sala")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--kv", default="bf16,int8,int4")
    parser.add_argument("--lengths", default="4096,16384")
    parser.add_argument("--samples", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sala = Sala(options.sala, pathlib.Path(folder))
        ids = json.loads(sala("tokenize", options.model, "--file", options.text))[:options.tokens]
        (sala.scratch / "ids.json").write_text(json.dumps(ids))
        p, want = read(sala, options.model, "f32")
        print(f"| keys and values | KL, mean | 99th percentile | same likeliest | same blocks | {' | '.join(TASKS)} |")
        print("|---|---|---|---|---|---|---|")
        for kv in ["f32", *options.kv.split(",")]:
            q, got = (p, want) if kv == "f32" else read(sala, options.model, kv)
            kl = divergence(p, q)
            same = sum(len(want[at] & got[at]) for at in want) / sum(map(len, want.values()))
            found = " | ".join(f"{share:.2f}" for share in needles(sala, options.model, kv, options))
            print(f"| {kv} | {kl.mean():.5f} | {np.quantile(kl, 0.99):.4f} | {(p.argmax(1) == q.argmax(1)).mean():.1%} | {same:.2%} | "
                  f"{found} |", flush=True)


if __name__ == "__main__":
    main()
