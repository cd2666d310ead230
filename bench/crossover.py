#!/usr/bin/env python3
"""From which length on a hybrid reads a prompt sooner than a transformer: time to the first token at every length.

  bench/crossover.py [--type w4g128] [--layers 4] [--depths 0,4096,...,262144] [--threads N] [--out FILE]
  bench/crossover.py --check 32768 [--type w4g128] [--layers 4]

Measures one 512-token step at each depth (`sala bench`, keys and states in front are random) of three models of random weights:
the first layers of MiniCPM-SALA, of Lightning and sparse attention; the same with `--sparse dense`; and as many of Qwen3-8B, all
dense. The time to the first token of a prompt is the integral of a step's time over the depths, by trapezoids. Configurations
are in bench/configs. --check reads one whole prompt of that length with the first and says how far the integral is off.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEP = 512
MODELS = {"MiniCPM-SALA": ("minicpm_sala_9b.json", "always"), "the same, dense": ("minicpm_sala_9b.json", "dense"),
          "Qwen3-8B": ("qwen3_8b.json", "always")}


def bench(name, options, *more):
    config, sparse = MODELS[name]
    command = [ROOT / "build/release/sala", "bench", "--synthetic", ROOT / "bench/configs" / config, "--type", options.type, "--layers",
               options.layers, "--gen", 0, "--sparse", sparse, "--json", *more]
    if options.threads:
        command += ["--threads", options.threads]
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def seconds_to_first_token(length, steps):
    """The integral of {depth: seconds of a step} from 0 to length, which the depths reach."""
    total, depths = 0.0, sorted(steps)
    for a, b in zip(depths, depths[1:]):
        end = min(b, length)
        if end > a:
            at_end = steps[a] + (steps[b] - steps[a]) * (end - a) / (b - a)
            total += (steps[a] + at_end) / 2 * (end - a) / STEP
    return total


def crossing(a, b):
    """The shortest length, in steps of 1,024, from which on a is sooner than b; None if it never is."""
    lengths = range(1024, min(max(a), max(b)) + 1, 1024)
    later = [n for n in lengths if seconds_to_first_token(n, a) >= seconds_to_first_token(n, b)]
    start = later[-1] + 1024 if later else lengths[0]
    return start if start in lengths else None


def check(options):
    ours = next(iter(MODELS))
    depths = [d for d in options.depths if d <= options.check]
    rows = bench(ours, options, "--prompt", STEP, "--depth", ",".join(map(str, depths)))["rows"]
    want = seconds_to_first_token(options.check, {r["depth"]: STEP / r["tok_s"] for r in rows})
    got = options.check / bench(ours, options, "--prompt", options.check)["rows"][0]["tok_s"]
    print(json.dumps({"model": ours, "tokens": options.check, "integral_seconds": round(want, 2), "seconds": round(got, 2),
                      "off": round(want / got - 1, 4)}))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(n) for n in text.split(",")]  # noqa: E731
    ap.add_argument("--type", default="w4g128")
    ap.add_argument("--layers", type=int, default=4)
    ap.add_argument("--depths", type=numbers, default=[0, 4096, 8192, 16384, 32768, 65536, 131072, 262144])
    ap.add_argument("--threads", type=int)
    ap.add_argument("--check", type=int)
    ap.add_argument("--out", type=pathlib.Path)
    a = ap.parse_args()
    if a.check:
        return check(a)
    steps, result = {}, {"type": a.type, "layers": a.layers, "step": STEP, "models": {}}
    for name in MODELS:
        told = bench(name, a, "--prompt", STEP, "--depth", ",".join(map(str, a.depths)))
        steps[name] = {r["depth"]: STEP / r["tok_s"] for r in told["rows"]}
        result["models"][name] = {"machine": told["machine"], "step_seconds": steps[name],
                                  "first_token_seconds": {d: round(seconds_to_first_token(d, steps[name]), 2) for d in a.depths if d}}
        print(json.dumps({name: result["models"][name]["first_token_seconds"]}), flush=True)
    ours, *others = MODELS
    for other in others:
        result["models"][other]["slower_by"] = {
            d: round(seconds_to_first_token(d, steps[other]) / seconds_to_first_token(d, steps[ours]), 2) for d in a.depths if d}
        result["models"][other]["crossing"] = crossing(steps[ours], steps[other])
        print(json.dumps({other: result["models"][other]["slower_by"], "crossing": result["models"][other]["crossing"]}))
    if a.out:
        a.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
