"""What the tests of the program share: where it is, how to run it, and a main that ctest understands.

The program is $SALA_PROGRAM (ctest sets it), else build/release/sala. Needs numpy only.
"""
import json
import os
import pathlib
import pty
import subprocess
import sys
import tempfile
import unittest

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "reference"))

PROGRAM = pathlib.Path(os.environ.get("SALA_PROGRAM", ROOT / "build" / "release" / "sala"))
SKIPPED = 77  # ctest's SKIP_RETURN_CODE
FULL = os.environ.get("SALA_TEST_FULL") == "1"  # the long form of a test: every configuration with several seeds

# Nothing of the caller's shell may change what the program does.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("SALA_")}


def run(*arguments, env=None, stdin=None, timeout=300):
    """Runs the program; returns the finished process with text (undecodable bytes kept) in stdout and stderr."""
    return subprocess.run([str(PROGRAM), *map(str, arguments)], env=ENVIRONMENT | (env or {}), input=stdin, timeout=timeout,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="surrogateescape")


def sala(*arguments, **options):
    """Runs the program, which must succeed; returns its stdout."""
    done = run(*arguments, **options)
    if done.returncode != 0:
        raise AssertionError(f"sala {' '.join(map(str, arguments))}: exit status {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def on_terminal(*arguments):
    """Runs the program, which must succeed, with a terminal for its stderr; returns what that showed."""
    ours, its = pty.openpty()
    shown = b""
    with subprocess.Popen([str(PROGRAM), *map(str, arguments)], env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=its) as process:
        os.close(its)
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:  # how a terminal says that nobody is there any more
            pass
    os.close(ours)
    if process.returncode != 0:
        raise AssertionError(f"sala {' '.join(map(str, arguments))}: exit status {process.returncode}\n{shown.decode()}")
    return shown.decode()


def logits(model, tokens, *flags, blocks=False, **options):
    """`sala logits` of the ids file `tokens`: [T, vocab] float32, and with `blocks` what it wrote about its choices."""
    with tempfile.TemporaryDirectory() as scratch:
        out, chosen = pathlib.Path(scratch) / "logits.npy", pathlib.Path(scratch) / "blocks.json"
        sala("logits", model, "--tokens", tokens, "--out", out, *flags, *(["--blocks", chosen] if blocks else []), **options)
        values = np.load(out)
        return (values, json.loads(chosen.read_text())) if blocks else values


def write_ids(path, ids):
    path.write_text(json.dumps([int(i) for i in ids]))
    return path


def main():
    """unittest's main with exit status 77 when every test was skipped, so that ctest shows a skip."""
    if not PROGRAM.exists():
        print(f"there is no {PROGRAM}: build first (./test.sh)", file=sys.stderr)
        sys.exit(1)
    result = unittest.main(module="__main__", exit=False, verbosity=1).result
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(SKIPPED if result.testsRun and len(result.skipped) == result.testsRun else 0)
