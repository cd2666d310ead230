"""Schemas as programs write them, and random ones; instances of them, made without a look at how replies are written."""

import random
import re

try:
    from re import _parser as sre
except ImportError:  # before Python 3.11
    import sre_parse as sre

NULL = {"type": "null"}
TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
PLACE = {"type": "object", "properties": {"lat": {"type": "number", "minimum": -90, "maximum": 90},
                                          "lon": {"type": "number", "minimum": -180, "maximum": 180}},
         "required": ["lat", "lon"], "additionalProperties": False}


def closed(required=None, **properties):
    """An object as zod and OpenAI's strict mode write it: closed, and all of it required."""
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required,
            "additionalProperties": False}


def titled(title, **keywords):
    """As pydantic writes them."""
    return {**keywords, "title": title}


SCHEMAS = [
    # pydantic
    {"$defs": {"Address": {"properties": {"street": titled("Street", type="string"), "zip": titled("Zip", type="string",
                           pattern=r"^\d{5}(-\d{4})?$")}, "required": ["street", "zip"], "title": "Address", "type": "object"}},
     "properties": {"name": titled("Name", type="string", minLength=1, maxLength=40),
                    "age": titled("Age", anyOf=[{"type": "integer", "minimum": 0, "maximum": 150}, NULL], default=None),
                    "address": {"$ref": "#/$defs/Address"}, "others": titled("Others", items={"$ref": "#/$defs/Address"},
                                                                             type="array", maxItems=3)},
     "required": ["name", "address"], "title": "Person", "type": "object"},
    {"$defs": {"Colour": {"enum": ["red", "green", "blue"], "title": "Colour", "type": "string"}},
     "properties": {"colour": {"allOf": [{"$ref": "#/$defs/Colour"}], "default": "red", "description": "Which."}},
     "title": "Paint", "type": "object"},
    {"$defs": {"Node": {"properties": {"value": WHOLE, "children": {"items": {"$ref": "#/$defs/Node"}, "type": "array"}},
                        "required": ["value"], "type": "object"}}, "$ref": "#/$defs/Node"},
    {"$defs": {"Cat": closed(kind={"const": "cat"}, lives=WHOLE), "Dog": closed(kind={"const": "dog"}, tricks={
        "items": TEXT, "type": "array"})},
     "properties": {"pet": {"discriminator": {"propertyName": "kind"}, "oneOf": [{"$ref": "#/$defs/Cat"},
                                                                                 {"$ref": "#/$defs/Dog"}]}},
     "required": ["pet"], "type": "object"},
    {"properties": {"point": {"maxItems": 2, "minItems": 2, "prefixItems": [{"type": "number"}, {"type": "number"}],
                              "type": "array"}}, "required": ["point"], "type": "object"},
    {"additionalProperties": {"type": "integer"}, "title": "Counts", "type": "object"},
    {"properties": {"when": {"format": "date-time", "type": "string"}, "day": {"format": "date", "type": "string"},
                    "id": {"format": "uuid", "type": "string"}, "at": {"format": "time", "type": "string"},
                    "host": {"format": "ipv4", "type": "string"}, "mail": {"format": "email", "type": "string"}},
     "required": ["when"], "type": "object"},
    {"properties": {"ratio": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "n": {"type": "integer", "minimum": 1}},
     "type": "object"},
    {"properties": {"x": {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, NULL]}}, "type": "object"},
    {"properties": {"metadata": {"type": "object"}, "extra": {"additionalProperties": True, "type": "object"}}, "type": "object"},
    {"$defs": {"A": {"properties": {"b": {"anyOf": [{"$ref": "#/$defs/B"}, NULL]}}, "type": "object"},
               "B": {"properties": {"a": {"anyOf": [{"$ref": "#/$defs/A"}, NULL]}}, "type": "object"}}, "$ref": "#/$defs/A"},
    {"properties": {"steps": {"items": closed(thought=TEXT, action=TEXT), "minItems": 1, "maxItems": 12, "type": "array"},
                    "answer": TEXT}, "required": ["steps", "answer"], "type": "object"},
    # zod, OpenAI's strict mode
    closed(name=TEXT, date=TEXT, participants={"type": "array", "items": TEXT}),
    closed(steps={"type": "array", "items": closed(explanation=TEXT, output=TEXT)}, final_answer=TEXT),
    closed(type={"type": "string", "enum": ["div", "button", "header"]}, label=TEXT,
           attributes={"type": "array", "items": closed(name=TEXT, value=TEXT)}),
    {"$schema": "http://json-schema.org/draft-07/schema#", **closed(required=["n"], n={
        "type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991}, s={"type": ["string", "null"]})},
    {"allOf": [{"type": "object", "properties": {"a": WHOLE}, "required": ["a"]},
               {"type": "object", "properties": {"b": TEXT}, "required": ["b"]}], "unevaluatedProperties": False},
    {"anyOf": [closed(ok={"const": True}, value=WHOLE), closed(ok={"const": False}, error=TEXT)]},
    {"type": "array", "prefixItems": [TEXT, WHOLE], "items": {"type": "boolean"}},
    {"type": "array", "prefixItems": [TEXT, {"enum": [1, 2]}], "items": False, "minItems": 2},
    {"type": "object", "propertyNames": {"type": "string", "pattern": "^[a-z_]{1,12}$"}, "additionalProperties": TEXT},
    {"type": "object", "propertyNames": {"enum": ["en", "de", "fr"]}, "additionalProperties": TEXT},
    {"type": "string", "enum": ["low", "medium", "high"]},
    {"enum": [None, 0, "", False, [], {}, [1, "a"], {"k": None}]},
    {"type": "number"}, {"type": "integer"}, {"type": "boolean"}, NULL, TEXT, {}, True,
    # tools of agents
    closed(required=["path"], path=TEXT, offset={"type": "integer", "minimum": 0}, limit={"type": "integer", "minimum": 1,
                                                                                         "maximum": 2000}),
    closed(required=["command"], command=TEXT, timeout={"type": "number", "maximum": 600000}, description=TEXT,
           run_in_background={"type": "boolean"}),
    closed(required=["path", "edits"], path=TEXT, edits={"type": "array", "minItems": 1, "items": closed(
        required=["old", "new"], old=TEXT, new=TEXT, all={"type": "boolean", "default": False})}),
    closed(required=["pattern"], pattern=TEXT, glob=TEXT, mode={"enum": ["content", "files", "count"], "type": "string"},
           head={"type": "integer"}),
    closed(todos={"type": "array", "items": closed(content={"type": "string", "minLength": 1},
                                                   status={"enum": ["pending", "in_progress", "completed"]})}),
    {"type": "object", "properties": {"location": {"type": "string", "description": "City, e.g. Berlin"},
                                      "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}}, "required": ["location"]},
    {"type": "object", "properties": {}}, {"type": "object"}, {"type": "object", "additionalProperties": False},
    {"type": "object", "properties": {"q": TEXT, "place": PLACE, "radius": {"type": "number", "exclusiveMinimum": 0.5}},
     "required": ["q"]},
    {"type": "object", "properties": {"url": {"type": "string", "format": "uri"}, "headers": {
        "type": "object", "additionalProperties": TEXT}, "method": {"enum": ["GET", "POST"]}}, "required": ["url"]},
    {"type": "object", "properties": {"sql": {"type": "string", "maxLength": 300}, "params": {"type": "array", "items": {
        "type": ["string", "number", "boolean", "null"]}}}, "required": ["sql"]},
    {"type": "object", "properties": {"filter": {"$ref": "#/definitions/filter"}}, "definitions": {"filter": {"anyOf": [
        closed(op={"enum": ["and", "or"]}, of={"type": "array", "items": {"$ref": "#/definitions/filter"}}),
        closed(field=TEXT, equals={"type": ["string", "number"]})]}}},
    {"type": "object", "properties": {"cc": {"type": "array", "items": {"type": "string", "format": "email"}, "maxItems": 2}}},
    {"type": "object", "properties": {"next": {"$ref": "#", "description": "the rest"}, "v": WHOLE}},
    # texts and numbers
    {"type": "string", "pattern": r"^[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,4}$"},
    {"type": "string", "pattern": r"^#([0-9a-f]{3}|[0-9a-f]{6})$"},
    {"type": "string", "pattern": r"^v?\d+\.\d+\.\d+(-[\w.]+)?$"},
    {"type": "string", "pattern": "^[^\"\\\\/]*$", "maxLength": 10}, {"type": "string", "pattern": r"\.(jpe?g|png)$"},
    {"type": "string", "pattern": "^(?:a|b)+$", "minLength": 3, "maxLength": 6},
    {"type": "string", "minLength": 2, "maxLength": 4}, {"type": "string", "minLength": 3},
    {"type": "integer", "minimum": -17, "exclusiveMaximum": 1234}, {"type": "number", "minimum": 0.25, "maximum": 0.75},
    {"type": "number", "exclusiveMaximum": -3}, {"type": "integer", "minimum": 99, "maximum": 100},
    {"type": "integer", "minimum": 3, "exclusiveMinimum": 5, "maximum": 9, "exclusiveMaximum": 9},
    # several at once
    {"enum": ["a", "bb", "ccc", 1, 20], "minLength": 2, "minimum": 5}, {"const": "x", "enum": ["x", "y"]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"minimum": 1, "maximum": 10}]},
    {"type": "object", "properties": {"a": WHOLE, "b": WHOLE}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"allOf": [{"properties": {"a": WHOLE, "b": TEXT}, "additionalProperties": False}, {"properties": {"b": {"minLength": 1}},
                                                                                       "required": ["b"]}], "type": "object"},
    {"type": "array", "items": {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}, "maxItems": 4},
    {"type": "array", "minItems": 9, "maxItems": 11, "items": {"enum": [0, 1]}},
    {"$defs": {"P": {"type": "object", "properties": {"x": WHOLE, "p": {"$ref": "#/$defs/P", "properties": {"x": {"minimum": 5}}}}}},
     "$ref": "#/$defs/P"},
    {"$defs": {"a/b": {"type": "integer"}, "c~d": {"type": "boolean"}}, "type": "object",
     "properties": {"x": {"$ref": "#/$defs/a~1b"}, "y\"ü\\": {"$ref": "#/$defs/c~0d"}, "": NULL}},
]


def random_schema(rng, depth=3):
    """A schema of all that there is, mostly with instances."""
    kind = rng.choice(["object", "array", "string", "number", "integer", "enum", "anyOf", "allOf", "const", "types"]
                      if depth else ["string", "number", "integer", "enum", "boolean", "null"])
    inner = lambda: random_schema(rng, depth - 1)  # noqa: E731
    maybe = lambda **keywords: {k: v for k, v in keywords.items() if rng.random() < 0.5}  # noqa: E731
    if kind == "object":
        names = rng.sample(["a", "b", "ab", "ä\n", "\"", "name", ""], rng.randint(0, 4))
        schema = {"type": "object", **maybe(properties={name: inner() for name in names}),
                  **maybe(required=[name for name in names + ["z"] if rng.random() < 0.4])}
        if rng.random() < 0.4:
            schema["additionalProperties"] = rng.choice([True, False, inner()])
        if rng.random() < 0.15:
            schema["propertyNames"] = rng.choice([{"maxLength": 1}, {"pattern": "^[a-z]*$"}, {"enum": ["a", "z", "q"]}])
        return schema
    if kind == "array":
        least = rng.randint(0, 3)
        return {"type": "array", **maybe(items=rng.choice([inner(), inner(), False, True]), minItems=least,
                                         maxItems=least + rng.randint(0, 9)), **(
            {"prefixItems": [inner() for _ in range(rng.randint(1, 3))]} if rng.random() < 0.3 else {})}
    if kind == "string":
        least = rng.randint(0, 3)
        pattern = rng.choice(["^a*b?$", "[0-9]", "^(ab|c)+$", "^.{2}", "x$", "^[^a]$", "^\\w+@\\w$"])
        return {"type": "string", **maybe(minLength=least, maxLength=least + rng.randint(0, 9)),
                **({"pattern": pattern} if rng.random() < 0.3 else {})}
    if kind in ("number", "integer"):
        low = rng.choice([0, 1, -1, 7, 10, -250, 99]) + (rng.choice([0, 0.5, 0.25]) if kind == "number" else 0)
        return {"type": kind, **maybe(**{rng.choice(["minimum", "exclusiveMinimum"]): low,
                                         rng.choice(["maximum", "exclusiveMaximum"]): low + rng.choice([0, 1, 2, 30, 1000])})}
    if kind == "enum":
        return {"enum": rng.sample(["a", "", "b\"c", 1, 2.5, -3, None, True, "日本"], rng.randint(1, 4)),
                **maybe(maxLength=2, minimum=0)}
    if kind == "const":
        return {"const": rng.choice(["a", 0, None, [1], {"a": 1}])}
    if kind == "anyOf":
        return {"anyOf": [inner() for _ in range(rng.randint(1, 3))], **maybe(minimum=1, minLength=1)}
    if kind == "allOf":
        return {"allOf": [inner(), rng.choice([inner(), {"minimum": 2}, {"minLength": 1}, {"required": ["a"]}, {"maxItems": 2}])]}
    if kind == "types":
        return {"type": rng.sample(["object", "array", "string", "number", "integer", "boolean", "null"], 2)}
    return {"type": kind}


def matching(rng, pattern):
    """A text that a pattern matches, out of Python's reading of it."""
    def pick(ops):
        return "".join(one(op, value) for op, value in ops)

    def members(items):
        out = []
        for op, value in items:
            if op is sre.LITERAL:
                out.append(chr(value))
            elif op is sre.RANGE:
                out += [chr(c) for c in range(value[0], value[1] + 1)]
            elif op is sre.CATEGORY:
                out += {"CATEGORY_DIGIT": list("059"), "CATEGORY_WORD": list("aZ_7"), "CATEGORY_SPACE": list(" \t"),
                        "CATEGORY_NOT_SPACE": list("a-ü")}[str(value)]
        return out

    def one(op, value):
        if op is sre.LITERAL:
            return chr(value)
        if op is sre.NOT_LITERAL:
            return next(c for c in iter(lambda: rng.choice("abcXYZ 09ü/"), None) if ord(c) != value)
        if op is sre.ANY:
            return rng.choice("ab \"\\ü日")
        if op is sre.IN:
            if value[0][0] is sre.NEGATE:
                left = members(value[1:])
                return next(c for c in iter(lambda: rng.choice("abcXYZ 09ü?"), None) if c not in left)
            return rng.choice(members(value))
        if op is sre.BRANCH:
            return pick(rng.choice(value[1]))
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            least, most, item = value
            return "".join(pick(item) for _ in range(rng.randint(least, min(int(most), least + 3))))
        if op is sre.SUBPATTERN:
            return pick(value[-1])
        return ""  # ^ and $

    before = "" if pattern.startswith("^") else rng.choice(["", "q"])
    return before + pick(sre.parse(pattern)) + ("" if pattern.endswith("$") else rng.choice(["", "q"]))


def closed_world(schema, within=False):
    """The same schema where objects with properties have no others, unless it asks for them: how replies are written."""
    if not isinstance(schema, dict):
        return schema
    out = dict(schema)
    for key in ("items", "additionalProperties"):
        if key in out:
            out[key] = closed_world(out[key])
    if "prefixItems" in out:
        out["prefixItems"] = [closed_world(one) for one in out["prefixItems"]]
    if "properties" in out:
        out["properties"] = {name: closed_world(one) for name, one in out["properties"].items()}
    together = [out, *(one for one in out.get("allOf", []) if isinstance(one, dict))]
    has = any("properties" in one for one in together)
    for key in ("allOf", "anyOf", "oneOf"):
        if key in out:
            out[key] = [closed_world(one, within or has or key == "allOf") for one in out[key]]
    if has and not within and not any("additionalProperties" in one for one in together):
        out["unevaluatedProperties"] = False
    return out


LETTERS = ["a", "b", "z", "Z", " ", "0", "\"", "\\", "/", "\n", "\x01", "\x7f", "ä", "日", "😀"]
FORMATS = {"date": ["2024-02-29", "1999-12-31"], "time": ["10:00:00Z", "23:59:59.25+01:30"],
           "date-time": ["2026-11-28T10:00:00Z", "2000-01-31T00:00:00.123-08:00"],
           "uuid": ["123e4567-e89b-12d3-a456-426614174000"], "ipv4": ["0.0.0.0", "192.168.255.1"],
           "email": ["a@b.cd", "first.last+tag@mail.example.org"]}


def instance(rng, schema, root, depth=0):
    """A value that is mostly an instance of the schema, with properties in the schema's order and closed where it has some."""
    if schema is True or schema == {}:
        return rng.choice([None, True, 0, -1.5, "x\"y", [], [1, [2]], {}, {"k": {"l": "ü"}}])
    if schema is False:
        return None
    if "$ref" in schema:
        target = root
        for step in schema["$ref"].split("/")[1:]:
            target = target[step.replace("~1", "/").replace("~0", "~")]
        return instance(rng, target, root, depth + 1)
    if "allOf" in schema:
        parts = [instance(rng, {**{k: v for k, v in schema.items() if k not in ("allOf", "unevaluatedProperties")}, **part}
                          if part not in (True, False) else part, root, depth) for part in schema["allOf"]]
        if all(isinstance(part, dict) for part in parts):
            everywhere = [schema, *(part for part in schema["allOf"] if isinstance(part, dict))]
            first = [name for one in everywhere for name in one.get("properties", {})]
            first += sorted(name for one in everywhere for name in one.get("required", []))
            out = {name: value for part in parts for name, value in part.items()}
            is_closed = (any("properties" in one for one in everywhere)
                         and not any(one.get("additionalProperties") for one in everywhere))
            return {name: out[name] for name in (first if is_closed else [*first, *out]) if name in out}
        return rng.choice(parts)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            branch = rng.choice(schema[key] if depth < 8 else schema[key][-1:])
            rest = {k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}
            return instance(rng, {**rest, **branch} if isinstance(branch, dict) else branch, root, depth + 1)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = rng.choice(kind)
    if kind is None:
        kind = ("object" if schema.keys() & {"properties", "required", "additionalProperties", "propertyNames"} else
                "array" if schema.keys() & {"items", "prefixItems", "minItems", "maxItems"} else
                "string" if schema.keys() & {"pattern", "minLength", "maxLength", "format"} else "number")
    if kind == "object":
        required = set(schema.get("required", []))
        out = {name: instance(rng, one, root, depth + 1) for name, one in schema.get("properties", {}).items()
               if name in required or (depth < 6 and rng.random() < 0.6)}
        others = schema.get("additionalProperties", "properties" not in schema)
        for name in sorted(required - schema.get("properties", {}).keys()):
            out[name] = instance(rng, others or True, root, depth + 1)
        if others is not False and depth < 6:
            names = schema.get("propertyNames", {}).get("enum", ["q", "r_s", "Ü"])
            for name in rng.sample(names, rng.randint(0, 2)):
                if name not in schema.get("properties", {}) and name not in out:
                    out[name] = instance(rng, others, root, depth + 1)
        return out
    if kind == "array":
        prefix, least = schema.get("prefixItems", []), schema.get("minItems", 0)
        most = min(schema.get("maxItems", least + 3), least + 3 if schema.get("items", True) else len(prefix))
        n = rng.randint(least, max(least, most)) if depth < 6 else least
        return [instance(rng, prefix[i] if i < len(prefix) else schema.get("items", True), root, depth + 1) for i in range(n)]
    if kind == "string":
        if "pattern" in schema:
            return matching(rng, schema["pattern"])
        if schema.get("format") in FORMATS:
            return rng.choice(FORMATS[schema["format"]])
        least = schema.get("minLength", 0)
        most = max(least, min(schema.get("maxLength", least + 9), least + 9))
        return "".join(rng.choice(LETTERS) for _ in range(rng.randint(least, most)))
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", schema.get("maximum", schema.get("exclusiveMaximum", 20)) - 40))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 60))
        if kind == "integer":
            return rng.randint(round(low), max(round(low), round(high)))
        return rng.choice([low, high, round(rng.uniform(low, high), 3)])
    return rng.choice([True, False]) if kind == "boolean" else None


def ecma(pattern):
    """The same pattern for Python's `re`: there \\d, \\w, \\s and . are other sets of characters."""
    spaces = r"\t-\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
    sets = {"d": "0-9", "w": "0-9A-Za-z_", "s": spaces}
    out, inside, i = "", False, 0
    while i < len(pattern):
        c = pattern[i]
        i += 1
        if c == "\\":
            name = pattern[i]
            i += 1
            if name.lower() in sets:
                one = sets[name.lower()]
                assert not (inside and name.isupper())
                out += one if inside else f"[{'^' if name.isupper() else ''}{one}]"
            else:
                out += re.escape(name) if not name.isalnum() else c + name
            continue
        if c in "[]":
            inside = c == "["
        out += r"[^\n\r\u2028\u2029]" if c == "." and not inside else r"\Z" if c == "$" and not inside else c
    return out.replace("(?<", "(?P<")


def random_pattern(rng, depth=3):
    """A pattern of what there is, over few letters."""
    if not depth:
        return rng.choice(["a", "b", "c", ".", "[ab]", "[^a]", "[b-c]", r"\d", r"\w", r"\.", r"[\d-]", "ä", "[^ä]", r"\n", r"\S"])
    inner = lambda: random_pattern(rng, depth - 1)  # noqa: E731
    kind = rng.randrange(5)
    if kind == 0:
        return inner() + inner()
    if kind == 1:
        return f"({rng.choice(['', '?:'])}{inner()}|{inner()})"
    if kind == 2:
        return f"(?:{inner()}){rng.choice(['*', '+', '?', '{2}', '{1,}', '{0,2}', '*?', '{1,3}?'])}"
    return inner()


def random_text(rng):
    return "".join(rng.choice("aabbcc.1-ä\n_日 ") for _ in range(rng.randint(0, 6)))


def random_seeds(count, seed=0):
    return [random.Random(seed * 1_000_003 + i) for i in range(count)]
