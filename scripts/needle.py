#!/usr/bin/env python3
"""scripts/needle.py [--million] [--tokens N] [--seed N]: hides a sentence in a text of 100,000 tokens (a million), lets the
model of models/ read it and asks for what the sentence said. Says how long that took and how little memory, and draws what
the answer has read.

The text is made of addresses on the State of the Union and of Shakespeare's works (scripts/texts.py); this model's tokens are bytes.
"""
import argparse
import os
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "sala-5m"
TEXTS, OUT = ROOT / "build" / "text", ROOT / "build" / "needle"
SALA = ROOT / "build" / "release" / "sala"


def hidden(tokens, chooser):
    """(text with one sentence hidden in it, its place from 0 to 1, question, answer)"""
    key = "".join(chooser.choice("bdfghklmnprstvz") + chooser.choice("aeiou") for _ in range(3))
    answer = str(chooser.randrange(10_000, 100_000))
    question = f"\nQuestion: What is the code of {key}?\nAnswer: The code of {key} is"
    sentence = f"The code of {key} is {answer}. ".encode()
    size = tokens - 1 - len(question) - len(sentence)  # a text begins with a token of its own
    files = sorted(TEXTS.iterdir())
    chooser.shuffle(files)
    text = b""
    for file in files:
        if len(text) >= size:
            break
        text += file.read_bytes()
    place = chooser.uniform(0.1, 0.9)
    at = text.rfind(b" ", 0, int(place * size)) + 1
    return text[:at] + sentence + text[at:size], place, question, answer


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--million", action="store_true", help="a million tokens")
    ap.add_argument("--tokens", type=int, default=100_000)
    ap.add_argument("--seed", type=int, help="of the text, the place and the sentence; default: others each time")
    a = ap.parse_args()
    tokens = 1_000_000 if a.million else a.tokens
    seed = random.randrange(1_000_000) if a.seed is None else a.seed
    text, place, question, answer = hidden(tokens, random.Random(seed))
    OUT.mkdir(parents=True, exist_ok=True)
    document, trace, picture = OUT / "document.txt", OUT / "trace.jsonl", OUT / "trace.svg"
    document.write_bytes(text)
    print(f"{document.relative_to(ROOT)}: {tokens:,} tokens; a sentence is hidden at {100 * place:.0f} % of it (seed {seed}).\n"
          f"{question.strip()} …", file=sys.stderr)
    start = time.monotonic()
    process = subprocess.Popen([SALA, "run", MODEL, "--raw", "--file", document, "-p", question, "--temp", "0", "-n", "8", "--stop", ".",
                                "--trace-blocks", trace], stdout=subprocess.PIPE)
    reply = process.stdout.read().decode(errors="replace").strip()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status != 0:
        sys.exit(1)
    print(reply, flush=True)
    verdict = "Right" if reply == answer else f"Wrong: it is {answer}; models/sala-5m/README.md says how often it finds it"
    print(f"{verdict}. {seconds:.0f} s in all, {usage.ru_maxrss / 1024:,.0f} MiB of memory at the most.", file=sys.stderr)
    subprocess.run([SALA, "trace", trace, "--svg", picture], check=True, stdout=subprocess.DEVNULL)
    print(f"What the answer read of the text: {picture.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
