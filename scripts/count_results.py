#!/usr/bin/env python3
"""Adds up a folder of results: ctest's JUnit files and steps.tsv. The last line is the sum; exit status 1 on a failure.
Before it come what the tests measured, and what was skipped and why."""
import pathlib
import re
import sys
import xml.etree.ElementTree as xml

# Lines in which a test says what it measured.
MEASURED = re.compile(r"^\.*(\w+: \d+ checkpoints .*|\d+ modes x .*|.*log probabilities differ by .*)$", re.MULTILINE)


def main():
    folder = pathlib.Path(sys.argv[1])
    counts, failed = {"passed": 0, "failed": 0, "skipped": 0}, []
    for line in (folder / "steps.tsv").read_text().splitlines():
        name, outcome = line.split("\t")
        counts[outcome] += 1
        if outcome == "failed":
            failed.append(name)
    for file in sorted(folder.glob("*.xml")):
        for case in xml.parse(file).getroot().iter("testcase"):
            outcome = {"run": "passed", "fail": "failed"}.get(case.get("status"), "skipped")
            counts[outcome] += 1
            name = f"{file.stem}: {case.get('name')}"
            if file.stem == "release":
                for line in MEASURED.findall(case.findtext("system-out") or ""):
                    print(line)
            if outcome == "failed":
                failed.append(name)
            elif outcome == "skipped":
                reason = (case.findtext("system-out") or "").strip().splitlines()
                print(f"skipped {name}" + (f": {reason[-1][:200]}" if reason else ""))
    for name in failed:
        print(f"FAILED {name}")
    if not counts["passed"]:
        counts["failed"] += 1
        print("FAILED: nothing ran")
    print(", ".join(f"{n} {what}" for what, n in counts.items()), flush=True)
    sys.exit(1 if counts["failed"] else 0)


if __name__ == "__main__":
    main()
