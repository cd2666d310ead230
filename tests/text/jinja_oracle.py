"""Python's jinja2, configured as Hugging Face's transformers configures it for chat templates."""

import datetime
import json

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """{% generation %}: marks what an assistant wrote; prints its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _body(self, context, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(format):
    return datetime.datetime.now().strftime(format)


ENVIRONMENT = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
ENVIRONMENT.filters["tojson"] = tojson
ENVIRONMENT.globals["raise_exception"] = raise_exception
ENVIRONMENT.globals["strftime_now"] = strftime_now


def render(question):
    """{"text": ...} or {"error": ...} for a question as render_templates takes it."""
    variables = {**question.get("special_tokens", {}), "messages": question.get("messages", []),
                 "tools": question.get("tools"), "documents": None,
                 "add_generation_prompt": question.get("add_generation_prompt", False),
                 **question.get("variables", {})}
    try:
        return {"text": ENVIRONMENT.from_string(question["template"]).render(**variables)}
    except Exception as error:  # whatever Python throws, the template is refused
        return {"error": f"{type(error).__name__}: {error}"}
