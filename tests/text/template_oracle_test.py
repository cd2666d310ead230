#!/usr/bin/env python3
"""Compares chat templates with Python's jinja2, live.

    template_oracle_test.py PROGRAM [TEMPLATE...]

PROGRAM is render_templates. Without TEMPLATEs it renders every case of template_cases.py; with files (chat templates of
models that you have) it renders each over the conversations there. Exit status 1 if anything differs, 77 (skipped)
where jinja2 is missing.
"""

import json
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
try:
    import jinja2
    import jinja_oracle
except ImportError as missing:
    print(f"skipped: {missing}; pip install jinja2")
    sys.exit(77)
import template_cases  # noqa: E402


def file_questions(paths):
    for path in paths:
        source = pathlib.Path(path).read_text(encoding="utf-8")
        for number, messages in enumerate(template_cases.CONVERSATIONS):
            for tools in (None, [template_cases.TOOL, template_cases.TOOL]):
                for variables in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
                    question = {"template": source, "messages": messages, "tools": tools, "variables": variables,
                                "special_tokens": {"bos_token": "<s>", "eos_token": "</s>"},
                                "add_generation_prompt": tools is None or bool(variables)}
                    yield f"{path} {number}", question


def main():
    process = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    questions = file_questions(sys.argv[2:]) if sys.argv[2:] else template_cases.questions()
    count = wrong = 0
    for name, question in questions:
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        ours = json.loads(process.stdout.readline())
        theirs = jinja_oracle.render(question)
        count += 1
        if ours.get("text") != theirs.get("text"):
            wrong += 1
            if wrong <= 5:
                print(f"{name}:\n  expected {theirs!a}\n  got      {ours!a}")
    print(f"jinja2 {jinja2.__version__}: {count} renderings, {wrong} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
