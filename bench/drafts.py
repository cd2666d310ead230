#!/usr/bin/env python3
"""Tokens per second of replies with and without drafts (sala run --draft-max), in turn, the best of three each: what repeats its
text much, what does a little, and what hardly does.

  bench/drafts.py MODEL [--json OUT.json]

The texts are this repository's README and a source file of it. Replies must be the same; a different one ends with status 1.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = "\n".join((ROOT / "README.md").read_text().splitlines()[:60])
CODE = (ROOT / "src" / "engine" / "stop.cc").read_text()
CASES = (("repeats a text", README, "Repeat the text above.", 0.0),
         ("changes code", CODE, "Rewrite this C++ file with better names.", 0.0),
         ("sums a text up", README, "Summarize the text above in bullets.", 0.7),
         ("answers a question on a text", README, "What is a hybrid model?", 0.7),
         ("tells a story", "", "Write a long story about a fox.", 0.8))


def reply(model, text, prompt, temperature, most):
    file = ROOT / "build" / "draft.txt"
    file.write_text(text)
    command = [ROOT / "build/release/sala", "run", model, "-p", prompt, "-n", "400", "--temp", str(temperature), "--seed", "3",
               "--json", "--draft-max", str(most)]
    if text:
        command += ["--file", file]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("--json", type=pathlib.Path)
    a = ap.parse_args()
    rows = []
    print("| a reply that | tokens | without drafts, tokens/s | with drafts | times | drafted | accepted |\n|---|---|---|---|---|---|---|")
    for name, text, prompt, temperature in CASES:
        runs = {most: [] for most in (0, 15)}
        for _ in range(3):
            for most, list_of in runs.items():
                list_of.append(reply(a.model, text, prompt, temperature, most))
        if len({tuple(run["tokens"]) for list_of in runs.values() for run in list_of}) > 1:
            sys.exit(f"{name}: replies differ")
        plain, drafts = (max(run["generated_tokens_per_second"] for run in list_of) for list_of in runs.values())
        last = runs[15][-1]
        rows.append({"name": name, "tokens": len(last["tokens"]), "plain_tok_s": plain, "draft_tok_s": drafts,
                     "drafted": last["drafted_tokens"], "accepted": last["accepted_tokens"]})
        print(f"| {name} | {len(last['tokens'])} | {plain:.1f} | {drafts:.1f} | {drafts / plain:.2f} | {last['drafted_tokens']} | "
              f"{last['accepted_tokens']} |", flush=True)
    if a.json:
        a.json.write_text(json.dumps({"model": pathlib.Path(a.model).name, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
