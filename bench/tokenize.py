#!/usr/bin/env python3
"""How fast the tokenizers are: 100 MB of text in one call, and lines of 1, 2 and 4 MB without spaces.

    bench/tokenize.py PROGRAM MODEL... [--megabytes 100] [--text FILE]

PROGRAM is build/release/tests/tokenize_lines. MODELs are directories with tokenizer files, .gguf files, or the MiniCPM
family's vocabulary as a .txt (the last two need PyPI's `tokenizers`). The text is made of what Debian has installed: a third
documentation (manual pages in all languages, /usr/share/doc), a third source code, a third messages of programs in every
language that they are translated into, mixed in pieces of 64 KB. Times are of one thread; memory is what the process grew by
during the call.
"""
import argparse
import gettext
import gzip
import json
import pathlib
import random
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "text"))
PIECE = 1 << 16
SOURCE = {".py", ".pm", ".pl", ".h", ".hpp", ".c", ".cc", ".js", ".sh"}


def documentation():
    for root in ("/usr/share/man", "/usr/share/doc", "/usr/share/info"):
        for path in sorted(pathlib.Path(root).rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def source_code():
    for root in ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/perl", "/usr/include", "/usr/lib/gcc"):
        for path in sorted(pathlib.Path(root).rglob("*")):
            if path.is_file() and path.suffix in SOURCE:
                yield path.read_bytes()


def messages():
    paths = sorted(pathlib.Path("/usr/share/locale").rglob("*.mo"))
    random.Random(3).shuffle(paths)                     # of all languages, not of the first by name
    for path in paths:
        try:
            with open(path, "rb") as file:
                texts = gettext.GNUTranslations(file)._catalog.values()
        except UnicodeDecodeError:
            continue
        yield "\n".join(text for text in texts if isinstance(text, str)).encode()


def collect(parts, size):
    """Whole characters of `size` bytes of these texts, again from the start where there are too few."""
    out = bytearray()
    texts = []
    for raw in parts:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            continue
        texts.append(text)
        out += text.encode() + b"\n"
        if len(out) >= size:
            break
    while texts and len(out) < size:
        out += out[:size - len(out)]
    return bytes(out[:size])


def corpus(size):
    kinds = [collect(part(), size // 3) for part in (documentation, source_code, messages)]
    pieces = [kind[at:at + PIECE] for kind in kinds for at in range(0, len(kind), PIECE)]
    random.Random(1).shuffle(pieces)
    return b"".join(piece.decode(errors="ignore").encode() for piece in pieces)


def measure(program, model, text):
    """One process for each text, so that nothing is remembered."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(text)
        file.flush()
        asked = json.dumps({"time": file.name}) + "\n"
        done = subprocess.run([program, model], input=asked, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def report(name, told):
    print(f"  {name:26} {told['bytes'] / 1e6:8.1f} MB {told['bytes'] / told['seconds'] / 1e6:8.1f} MB/s {told['bytes'] / told['ids']:6.2f} "
          f"bytes/token {told['memory'] / told['bytes']:6.2f} bytes of memory a byte", flush=True)


def lines(size):
    rnd = random.Random(2)
    yield "one letter", b"a" * size
    yield "random letters", bytes(rnd.choices(b"abcdefghijklmnopqrstuvwxyz", k=size))
    yield "random digits", bytes(rnd.choices(b"0123456789", k=size))
    yield "Chinese", "".join(chr(rnd.randint(0x4E00, 0x9FA5)) for _ in range(size // 3)).encode()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--text", type=pathlib.Path, help="a text of your own instead")
    a = parser.parse_args()
    text = a.text.read_bytes() if a.text else corpus(a.megabytes * 1_000_000)
    for path in a.models:
        with tempfile.TemporaryDirectory() as scratch:
            model = path
            if not path.is_dir():
                import vocabularies
                model = vocabularies.write(path, pathlib.Path(scratch))
            print(path.name)
            for share in (4, 2, 1):
                report(f"text, {'all' if share == 1 else f'1/{share}'}", measure(a.program, model, text[:len(text) // share]))
            for size in (1, 2, 4):
                for name, line in lines(size * 1_000_000):
                    report(f"{size} MB of {name}", measure(a.program, model, line))


if __name__ == "__main__":
    main()
