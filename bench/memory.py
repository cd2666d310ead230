#!/usr/bin/env python3
"""What a very long text costs: a small hybrid with the released model's sparse numbers reads TOKENS tokens into a session.

  bench/memory.py [--tokens 1000000] [--folder DIR] [--out bench/results/memory.json]

Measures, and prints as JSON: memory of reading it against the closed form of `sala inspect`; what ten branches cost; a
first token from a new process, with nothing of the session in the page cache; an answer with a tenth of the keys and
values in memory against the same answer with all of them; tokens read again in twenty turns over 100,000 tokens. Needs
numpy and build/release with -DSALA_BENCH=ON. The weights are random: what is measured does not depend on them, except for
which blocks are read. DIR keeps model and session, so that a second run goes on from there.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "reference")]
import tiny_model  # noqa: E402

SALA, BRANCHES = ROOT / "build/release/sala", ROOT / "build/release/bench/branches"
WORDS = [w for w in (ROOT / "docs/sessions.md").read_text().split() if w.isalpha()]


def make_model(folder):
    """About 7 million parameters: 2 sparse and 6 Lightning layers of width 256."""
    light = "lightning-attn"
    tiny_model.make(folder, hidden_size=256, intermediate_size=768, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
                    lightning_nh=4, lightning_nkv=4, lightning_head_dim=64, kernel_size=32, kernel_stride=16, block_size=64,
                    init_blocks=1, window_size=2048, topk=64, dense_len=8192, dtype="bf16",
                    mixer_types=["minicpm4", light, light, light, light, light, light, "minicpm4"])


def write_text(path, seed, size):
    chooser = random.Random(seed)
    with open(path, "w") as file:
        written = 0
        while written < size:
            written += file.write(chooser.choice(WORDS) + " ")


def run(*arguments):
    """Runs a program; returns (standard output, standard error, seconds, its peak memory in bytes)."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen([str(a) for a in arguments], stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        out.seek(0), err.seek(0)
        output, errors = out.read().decode(), err.read().decode()
    if status != 0:
        sys.exit(f"{arguments[0]} {arguments[1]} failed: {errors}")
    return output, errors, seconds, usage.ru_maxrss * 1024


def forget(folder):
    """Drops the files' pages from the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def folder_bytes(folder):
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def answer(model, sessions, name, count, *flags):
    out, _, seconds, peak = run(SALA, "run", model, "--session", name, "--sessions-dir", sessions, "-p", "What was it?",
                                "--temp", 0, "-n", count, "--json", *flags)
    return json.loads(out) | {"seconds": seconds, "peak_bytes": peak}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--tokens", type=int, default=1_000_000)
    ap.add_argument("--folder", type=pathlib.Path)
    ap.add_argument("--out", type=pathlib.Path)
    a = ap.parse_args()
    scratch = None if a.folder else tempfile.TemporaryDirectory()
    folder = a.folder or pathlib.Path(scratch.name)
    folder.mkdir(parents=True, exist_ok=True)
    model, sessions, book = folder / "model", folder / "sessions", folder / "book.txt"
    if not (model / "config.json").exists():
        make_model(model)
    if not book.exists():
        write_text(book, 1, a.tokens * 1.04)  # some of these words are tokens of two letters
    result = {}

    def tell(name, value):
        result[name] = value
        print(json.dumps({name: value}), flush=True)

    # 1. Reading it.
    _, said, seconds, peak = run(SALA, "session", "ingest", model, "book", book, "--sessions-dir", sessions)
    tokens = json.loads(run(SALA, "session", "inspect", "book", "--json", "--sessions-dir", sessions)[0])["tokens"]
    closed = json.loads(run(SALA, "inspect", model, "--ctx", tokens, "--json")[0])["memory"]
    closed_bytes = sum(closed[k] for k in ("kv", "index", "state"))
    if "has these" not in said:
        tell("ingest", {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds, "peak_bytes": peak,
                        "closed_form_bytes": closed_bytes, "beyond_closed_form_bytes": peak - closed_bytes})

    # 2. Ten branches in one process.
    tell("branches", json.loads(run(BRANCHES, model, sessions / "book", 10, 100)[0]))

    # 3. A new process, with a cold and with a warm page cache.
    session_bytes = folder_bytes(sessions / "book")
    for name in ("first_token_cold", "first_token_warm"):
        if name.endswith("cold"):
            forget(folder)
        one = answer(model, sessions, "book", 1)
        tell(name, {"seconds": one["seconds"], "peak_bytes": one["peak_bytes"], "session_bytes": session_bytes,
                    "share": one["peak_bytes"] / session_bytes, "read_again": one["session"]["read_again"]})

    # 4. A tenth of the keys and values in memory.
    whole, start = answer(model, sessions, "book", 257), answer(model, sessions, "book", 1)
    tenth = ("--kv-memory", closed["kv"] // 10)
    forget(folder)
    spilled, spilled_start = answer(model, sessions, "book", 257, *tenth), answer(model, sessions, "book", 1, *tenth)
    per_step = lambda end, begin, key: (end["kv_traffic"][key] - begin["kv_traffic"][key]) / 256  # noqa: E731
    tell("a_tenth_in_memory", {
        "equal": spilled["tokens"] == whole["tokens"], "kv_memory_bytes": closed["kv"] // 10,
        "tokens_per_second": spilled["generated_tokens_per_second"],
        "tokens_per_second_all_in_memory": whole["generated_tokens_per_second"],
        "blocks_used_per_step": per_step(spilled, spilled_start, "blocks_used"),
        "bytes_read_per_step": per_step(spilled, spilled_start, "bytes_read"),
        "bytes_read_per_step_all_in_memory": per_step(whole, start, "bytes_read")})

    # 5. Twenty turns over 100,000 tokens.
    paper = folder / "paper.txt"
    write_text(paper, 2, 100_000)
    run(SALA, "session", "ingest", model, "paper", paper, "--sessions-dir", sessions)
    again, new = [], []
    for _ in range(20):
        turn = answer(model, sessions, "paper", 32, "--save")
        again.append(turn["session"]["read_again"])
        new.append(turn["prompt_tokens"])
    tell("twenty_turns", {"tokens_at_the_end": turn["session"]["tokens"], "new_tokens_each": new, "read_again_each": again})
    run(SALA, "session", "delete", "paper", "--sessions-dir", sessions)

    result["machine"] = next(l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name"))
    if a.out:
        a.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
