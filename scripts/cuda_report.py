#!/usr/bin/env python3
"""What ptxas said of each kernel: scripts/cuda_report.py BUILD_LOG prints a table of registers, shared memory and local memory for
each architecture, largest first, and exits with 1 where a kernel spills registers or has arrays that are in none. (Only rope_entry
may: the toolkit's sincos of a double has one, for arguments that are never reached.)

BUILD_LOG is the output of `scripts/build.sh cuda sala_cuda` (nvcc -Xptxas=-v)."""
import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
LOCAL = re.compile(r"(\d+) bytes stack frame")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def short(name):
    """sala::cuda::(anonymous namespace)::f<...>(...) as f<...>."""
    name = re.sub(r"\(anonymous namespace\)::|<unnamed>::|sala::cuda::|sala::|void ", "", name)
    depth, end = 0, len(name)
    for i, c in enumerate(name):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            end = i
            break
    return re.sub(r"\((\w+)\)", r"\1 ", name[:end])


def main():
    kernels, current = {}, None
    for line in open(sys.argv[1], errors="replace"):
        if found := ENTRY.search(line):
            current = kernels.setdefault(found.groups(), {"registers": 0, "shared": 0, "local": 0})
        elif current is not None and (found := LOCAL.search(line)):
            current["local"] = max(current["local"], int(found[1]))  # a function of its own comes behind it
        elif current is not None and (found := USED.search(line)):
            current |= {"registers": int(found[1]), "shared": int(found[2] or 0)}
    if not kernels:
        sys.exit(f"{sys.argv[1]} holds no report of ptxas; a build that had nothing to compile says nothing")
    names = subprocess.run(["c++filt"], input="\n".join(name for name, _ in kernels), stdout=subprocess.PIPE, text=True,
                           check=True).stdout.splitlines()
    rows = sorted(((value["registers"], short(name), arch, value) for name, ((_, arch), value) in zip(names, kernels.items())),
                  key=lambda row: (-row[0], row[1], row[2]))
    print(f"{'kernel':70} {'sm':>5} {'registers':>9} {'shared':>7} {'local':>6}")
    for registers, name, arch, value in rows:
        print(f"{name[:70]:70} {arch:>5} {registers:9} {value['shared']:7} {value['local']:6}")
    local = sum(value["local"] > 0 and name != "rope_entry" for _, name, _, value in rows)
    print(f"{len(rows)} kernels, {local} of them with local memory")
    return 1 if local else 0


if __name__ == "__main__":
    sys.exit(main())
