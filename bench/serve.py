#!/usr/bin/env python3
"""A server under the load of the SOAR contest: fixed prompts, fixed lengths of replies, 1, 8 and all requests at a time.

  bench/serve.py MODEL [--scale 0.004] [--requests 12,24,36] [--concurrency 1,8,0] [--baseline FILE] [--out FILE]
                 [--server PROGRAM_AND_FLAGS] [--peer PROGRAM_AND_FLAGS]

Lengths are drawn from the published histogram (seeded), times --scale; the contest's own are --scale 1. Prompts are random
tokens, so no two begin alike, and prefix reuse is off. Prints for each concurrency (0: all at once) the wall clock, tokens a
second, the time to the first token (TTFT) and between tokens (TPOT), and for sala what part of the engine's time was spent
on scheduling. With --baseline, a file of --out, also 100 * (0.4, 0.3, 0.3) times baseline's wall clock over this one's.

--server is how the server is started, with MODEL and PORT in it [default: build/release/sala serve MODEL --port PORT
--no-prefix-cache --parallel 32 --quiet]. --peer names another one of OpenAI's API that gets the same requests, the two in
turn at each concurrency, for instance "llama-server -m MODEL --port PORT -np 32 -c 32768 --threads 2 --no-cache-prompt".
Needs nothing but Python.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import re
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SALA = f"{ROOT}/build/release/sala serve MODEL --port PORT --no-prefix-cache --parallel 32 --quiet"
K = 1024
INPUTS = (0.25, 0, 4 * K), (0.10, 4 * K, 16 * K), (0.15, 16 * K, 32 * K), (0.35, 32 * K, 128 * K), (0.15, 128 * K, 160 * K)
OUTPUTS = (0.35, 0, 512), (0.25, 512, 2 * K), (0.10, 2 * K, 4 * K), (0.15, 4 * K, 16 * K), (0.15, 16 * K, 32 * K)
WEIGHTS = 0.4, 0.3, 0.3


class Server:
    """A server's process, ready to answer; `with` ends it."""

    def __init__(self, line, model, port):
        self.port = port
        self.command = [w.replace("MODEL", str(model)).replace("PORT", str(port)) for w in shlex.split(line)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                if self.get("/health")[0] == 200:
                    break
            except OSError:
                pass
            if self.process.poll() is not None:
                sys.exit(f"{' '.join(self.command)}: ended with {self.process.returncode}")
            time.sleep(0.2)
        self.model = json.loads(self.get("/v1/models")[1])["data"][0]["id"]
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def engine_seconds(self):
        """sala's own account of its time: {what: seconds}; empty for another server."""
        status, text = self.get("/metrics")
        return {w: float(s) for w, s in re.findall(r"(?m)^sala:(step|schedule|sample)_seconds_total{.*} (\S+)", text)} if status == 200 else {}

    def complete(self, prompt, count):
        """Sends one request; returns (seconds to its first token, seconds between tokens, tokens)."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True, "stream": True,
                "stream_options": {"include_usage": True}, "cache_prompt": False}
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            sys.exit(f"{self.command[0]}: {answer.status}: {answer.read()[:500]}")
        first = last = None
        tokens = 0
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("choices"):
                last = time.monotonic()
                first = first or last
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
        connection.close()
        if tokens != count:
            sys.exit(f"{self.command[0]}: {tokens} tokens; {count} were asked for")
        return first - start, (last - first) / max(tokens - 1, 1), tokens


def draw(histogram, chooser, scale):
    share = chooser.random()
    for part, low, high in histogram:
        share -= part
        if share < 0:
            break
    return max(1, round(chooser.uniform(low, high) * scale))


def requests(count, seed, scale, vocab):
    chooser = random.Random(seed)
    return [([chooser.randrange(300, vocab) for _ in range(draw(INPUTS, chooser, scale))], draw(OUTPUTS, chooser, scale))
            for _ in range(count)]


def percentiles(values):
    ordered = sorted(values)
    return {f"p{p}": round(ordered[min(len(ordered) - 1, p * len(ordered) // 100)], 4) for p in (50, 95, 99) if ordered}


def measure(server, asked, concurrency):
    server.complete([300, 301], 1)
    before = server.engine_seconds()
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(concurrency or len(asked)) as pool:
        done = list(pool.map(lambda a: server.complete(*a), asked))
    seconds = time.monotonic() - start
    spent = {w: s - before[w] for w, s in server.engine_seconds().items()}
    read, written = sum(len(p) for p, _ in asked), sum(t for _, _, t in done)
    result = {"concurrency": concurrency, "requests": len(asked), "prompt_tokens": read, "generated_tokens": written,
              "seconds": round(seconds, 3), "tokens_per_second": round((read + written) / seconds, 1),
              "generated_per_second": round(written / seconds, 1),
              "ttft": percentiles([d[0] for d in done]), "tpot": percentiles([d[1] for d in done if d[2] > 1])}
    if spent:
        result["scheduling_share"] = round(spent["schedule"] / sum(spent.values()), 5)
    return result


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(n) for n in text.split(",")]  # noqa: E731
    ap.add_argument("model", type=pathlib.Path)
    ap.add_argument("--scale", type=float, default=0.004)
    ap.add_argument("--requests", type=numbers, default=[12, 24, 36])
    ap.add_argument("--concurrency", type=numbers, default=[1, 8, 0])
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--vocab", type=int, default=40000, help="prompts have tokens below this")
    ap.add_argument("--server", default=SALA)
    ap.add_argument("--peer")
    ap.add_argument("--port", type=int, default=8700, help="and the next one for the peer")
    ap.add_argument("--baseline", type=pathlib.Path)
    ap.add_argument("--out", type=pathlib.Path)
    a = ap.parse_args()
    if len(a.requests) != len(a.concurrency):
        ap.error(f"--requests has {len(a.requests)} numbers and --concurrency {len(a.concurrency)}; expected as many")
    lines = {"server": a.server} | ({"peer": a.peer} if a.peer else {})
    result = {"model": a.model.name, "scale": a.scale, "seed": a.seed, "command": a.server.replace(f"{ROOT}/", ""), "peer_command": a.peer,
              "cpus": len(os.sched_getaffinity(0)), "server": [], "peer": []}
    for count, concurrency in zip(a.requests, a.concurrency):
        asked = requests(count, a.seed, a.scale, a.vocab)
        for i, (who, line) in enumerate(lines.items()):
            with Server(line, a.model, a.port + i) as server:
                result[who].append(measure(server, asked, concurrency))
            print(json.dumps({who: result[who][-1]}), flush=True)
    if a.baseline:
        theirs = json.loads(a.baseline.read_text())
        same = ("scale", "seed", "model")
        if any(theirs[k] != result[k] for k in same) or [(s["requests"], s["concurrency"]) for s in theirs["server"]] != list(
                zip(a.requests, a.concurrency)) or len(a.requests) != len(WEIGHTS):
            sys.exit(f"{a.baseline}: is of another load; expected the same model, --scale, --seed, --requests and --concurrency")
        ratios = [b["seconds"] / s["seconds"] for b, s in zip(theirs["server"], result["server"])]
        result["score"] = round(100 * sum(w * r for w, r in zip(WEIGHTS, ratios)), 2)
        print(json.dumps({"score": result["score"], "ratios": [round(r, 3) for r in ratios]}))
    if a.out:
        a.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
