#!/usr/bin/env python3
"""Compares what replies may be with Python's `jsonschema` and `re`, live.

    grammar_oracle_test.py PROGRAM [COUNT]

PROGRAM is grammar_lines. For the schemas of schema_cases.py and COUNT random ones, every text that is drawn must be an
instance, and every instance that is written as replies are (properties in the schema's order, closed objects) must be in
the language. Random patterns must match what `re` matches. Exit status 1 if anything differs, 77 (skipped) where
jsonschema is missing.
"""

import json
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
try:
    import jsonschema
    import rfc3339_validator  # noqa: F401, what jsonschema checks date-time and time with
except ImportError as missing:
    print(f"skipped: {missing}; pip install jsonschema rfc3339-validator")
    sys.exit(77)
import schema_cases as cases  # noqa: E402

FORMATS = jsonschema.FormatChecker(formats=())
FORMATS.checkers = {name: check for name, check in jsonschema.Draft202012Validator.FORMAT_CHECKER.checkers.items()
                    if name in cases.FORMATS}


def pattern(validator, wanted, value, schema):
    if validator.is_type(value, "string") and not re.search(cases.ecma(wanted), value):
        yield jsonschema.ValidationError(f"{value!r} does not match {wanted!r}")


Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": pattern})

# Grammars in GBNF, and who knows what is in them.
GBNF = [
    ('root ::= "(" root ")" root | ""', "()", lambda text: _balanced(text)),
    ('root ::= ("a" | "bb")* "c"?', "abc", lambda text: re.fullmatch("(a|bb)*c?", text)),
    ("root ::= [a-b]{2,3} x{,2} # twice\nx ::=\n  \"c\" | [^abc]", "abcd", lambda text: re.fullmatch("[ab]{2,3}[^ab]{0,2}", text)),
    ('root ::= "a" root "b" | "c"', "abc", lambda text: text == "a" * (len(text) // 2) + "c" + "b" * (len(text) // 2)),
    ('root ::= .{2} "\\x41\\u00e4"?', "aAä日", lambda text: len(text) == 2 or (len(text) == 4 and text[2:] == "Aä")),
]


def _balanced(text):
    depth = 0
    for c in text:
        depth += 1 if c == "(" else -1
        if depth < 0:
            return False
    return depth == 0


class Oracle:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        self.counts = dict.fromkeys(("schemas", "refused", "drawn", "instances", "patterns", "matches", "wrong"), 0)

    def ask(self, question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def wrong(self, what, *details):
        self.counts["wrong"] += 1
        if self.counts["wrong"] <= 8:
            print(what, *(f"\n  {detail!a}"[:600] for detail in details))

    def schema(self, schema, rng, must=True):
        valid = Validator(schema, format_checker=FORMATS)
        written = Validator(cases.closed_world(schema), format_checker=FORMATS)
        instances = [one for one in (cases.instance(rng, schema, schema) for _ in range(40)) if written.is_valid(one)]
        forms = ({"separators": (",", ":")}, {}, {"indent": 2}, {"indent": "\t"})
        texts = [json.dumps(one, ensure_ascii=False, **forms[i % 4]) for i, one in enumerate(instances)]
        reply = self.ask({"schema": schema, "texts": texts, "draw": 30, "seed": rng.randrange(1 << 30)})
        self.counts["schemas"] += 1
        if "error" in reply:
            self.counts["refused"] += 1
            # What has no instance is refused too.
            if must or ("no text at all" in reply["error"] and instances):
                self.wrong(f"refused: {reply['error']}", schema, texts[:1])
            return
        if must and len(instances) < 5:
            self.wrong("a case that says nothing", schema)
        for text in reply["drawn"]:
            self.counts["drawn"] += 1
            try:
                is_instance = valid.is_valid(json.loads(text))
            except ValueError:
                is_instance = False
            if not is_instance:
                self.wrong("drawn, and no instance:", schema, text)
        for text, is_in in zip(texts, reply["in"], strict=True):
            self.counts["instances"] += 1
            if not is_in:
                self.wrong("an instance, and not in the language:", schema, text)

    def pattern(self, pattern, rng):
        python = re.compile(cases.ecma(pattern))
        texts = [cases.random_text(rng) for _ in range(40)] + [cases.matching(rng, pattern) for _ in range(5)]
        texts = [text for text in texts if len(text) < 12]
        self.counts["patterns"] += 1
        for whole in (True, False):
            reply = self.ask({"pattern": pattern, "whole": whole, "texts": texts, "draw": 5})
            if "error" in reply:
                self.wrong(f"refused: {reply['error']}", pattern)
                continue
            short = [text for text in reply["drawn"] if len(text) < 12]  # `re` may take exponential time
            for text, is_in in [*zip(texts, reply["in"], strict=True), *((text, True) for text in short)]:
                right = (python.fullmatch if whole else python.search)(text) is not None
                self.counts["matches"] += right
                if is_in != right:
                    self.wrong(f"{'whole' if whole else 'anywhere'}: expected {right}", pattern, text)

    def gbnf(self, grammar, letters, knows, rng):
        texts = ["".join(rng.choice(letters) for _ in range(rng.randint(0, 7))) for _ in range(200)]
        reply = self.ask({"gbnf": grammar, "texts": texts, "draw": 30})
        for text, is_in in [*zip(texts, reply["in"], strict=True), *((text, True) for text in reply["drawn"])]:
            if is_in != bool(knows(text)):
                self.wrong(f"expected {not is_in}", grammar, text)


def main():
    oracle = Oracle(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    for schema, rng in zip(cases.SCHEMAS, cases.random_seeds(len(cases.SCHEMAS), 1), strict=True):
        oracle.schema(schema, rng)
    for rng in cases.random_seeds(count, 2):
        oracle.schema(cases.random_schema(rng), rng, must=False)
    for rng in cases.random_seeds(count, 3):
        oracle.pattern(cases.random_pattern(rng), rng)
    for (grammar, letters, knows), rng in zip(GBNF, cases.random_seeds(len(GBNF), 4), strict=True):
        oracle.gbnf(grammar, letters, knows, rng)
    print(f"jsonschema {jsonschema.__version__ if hasattr(jsonschema, '__version__') else ''}: {oracle.counts}")
    few = oracle.counts["refused"] > oracle.counts["schemas"] // 2 or min(oracle.counts[k] for k in (
        "drawn", "instances", "matches")) < 1000
    return 1 if oracle.counts["wrong"] or few else 0


if __name__ == "__main__":
    sys.exit(main())
