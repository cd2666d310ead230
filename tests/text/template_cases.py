"""Templates of our own that cover what chat templates use, each with variables to render it with."""

VARIABLES = {
    "a": 1, "b": 2.5, "s": "hello world", "u": "Grüße ΣΑΣ ﬁ 你好", "l": [1, 2, 3, "x"],
    "d": {"k": "v", "n": {"m": [1, 2]}, "items": "I"}, "e": [], "n": None, "t": True, "big": "a,b,,c d  e\tf\n",
    "msgs": [{"role": "user", "content": "hi"},
             {"role": "assistant", "content": "yo",
              "tool_calls": [{"name": "f", "arguments": {"x": 1, "y": "é<&'\""}}]}],
}

# Lines of expressions and statements; each is a template, and so are its {{ }} alone and all lines together.
LINES = r"""
{{ a + 1 }} {{ a / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ b * 2 }} {{ 1e20 }} {{ 1e-7 }} {{ 123456789.123 }} {{ 0.1+0.2 }} {{ 10 / 5 }} {{ 1.0 }}
{{ s.upper() }} {{ s.title() }} {{ s | title }} {{ s.split() }} {{ s.split('o') }} {{ s.split('o', 1) }} {{ s.rsplit('o',1) }} {{ big.split(',') }} {{ big.split() }} {{ big.strip() }}|
{{ u.upper() }} {{ u.lower() }} {{ u.title() }} {{ u|capitalize }} {{ u[::-1] }} {{ u[1:4] }} {{ u[-2:] }} {{ u|length }} {{ u.swapcase() }}
{{ l }} {{ d }} {{ n }} {{ t }} {{ (1,) }} {{ (1,2) }} {{ () }} {{ [] }} {{ {} }} {{ {'a': 1, 2: 'b'} }} {{ "it's" }} {{ ["it's", 'say "x"', "a\nb\t\\", "\x00\x7f\u200b é"] }}
{{ d | tojson }} {{ d | tojson(indent=2) }} {{ l | tojson(indent=4) }} {{ msgs | tojson }} {{ msgs[1] | tojson(ensure_ascii=True) }} {{ "😀\x7f\x01" | tojson(ensure_ascii=True) }} {{ {'b':1,'a':2}|tojson(sort_keys=true) }} {{ [1,2]|tojson(separators=(',',':')) }} {{ [] | tojson(indent=2) }} {{ [1.5, 1e100, none, true] | tojson }} {{ {1:2, none:3, true:4, 1.5: 5} | tojson }}
{% for m in msgs %}{{ loop.index }}/{{ loop.length }} {{ loop.first }} {{ loop.last }} {{ m.role }} {{ m['content'] }} {{ loop.revindex }} {{ loop.previtem.role if loop.previtem is defined }}{% if not loop.last %}, {% endif %}{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k in d %}{{ k }}{% endfor %} {% for k,v in d|dictsort %}{{k}}{% endfor %} {% for c in "abc" %}[{{ c }}]{% endfor %}
{% set ns = namespace(x=0, found=false) %}{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{% if i == 1 %}{% continue %}{% endif %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }} {{ ns.found }}
{% set x = 0 %}{% for i in [1,2,3] %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}
{% macro f(a, b=2, c=a) %}<{{ a }},{{ b }},{{ c }}>{% endmacro %}{{ f(1) }}{{ f(1, c=5) }}{{ f(a=3, b=4) }}{{ f() }}
{% macro g() %}{{ caller() }}!{% endmacro %}{% call g() %}body {{ a }}{% endcall %} {% macro h(x) %}({{ caller(x, 2) }}){% endmacro %}{% call(p, q) h(7) %}{{ p }}-{{ q }}{% endcall %}
{% set blk %}block {{ a }} text{% endset %}[{{ blk }}] {% set blk2 | upper %}shout{% endset %}{{ blk2 }} {% filter upper %}abc{{ s }}{% endfilter %}
{{ missing }} {{ missing is defined }} {{ missing is undefined }} {{ missing | default('D') }} {{ d.zzz | default('E', true) }} {{ '' | default('F', true) }} {{ d.get('zzz', 'G') }} {{ d.get('k') }}
{{ 'x' in l }} {{ 'k' in d }} {{ 'ell' in s }} {{ 5 not in l }} {{ 1 < 2 < 3 }} {{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ not t }} {{ t and 'yes' or 'no' }} {{ 'A' if a == 2 else 'B' }} {{ 'A' if a == 2 }}
{{ l | join(', ') }} {{ msgs | map(attribute='role') | join('|') }} {{ l | first }} {{ l | last }} {{ [3,1,2] | sort }} {{ [3,1,2] | sort(reverse=true) }} {{ ['b','A','c'] | sort }} {{ [1,2,1,3] | unique | list }} {{ [1,2,3] | sum }} {{ [1,2,3] | max }} {{ [1,2,3]|min }} {{ l|reverse|list }} {{ 'abc'|reverse }}
{{ msgs | selectattr('role', 'equalto', 'user') | list }} {{ msgs | rejectattr('tool_calls', 'defined') | list | length }} {{ [1,2,3,4] | select('odd') | list }} {{ [1,0,2] | select | list }} {{ ['a','b'] | map('upper') | list }} {{ [1,2,3,4,5] | batch(2) | list }} {{ [1,2,3,4,5]|slice(2)|list }}
{{ '42' | int + 1 }} {{ 'x' | int }} {{ '3.7' | int }} {{ '3.5' | float }} {{ 3.7 | int }} {{ 2.5 | round }} {{ 3.14159 | round(2) }} {{ 1 | string + 'a' }} {{ -5 | abs }} {{ 'a b c' | replace(' ', '-') }} {{ '  t ' | trim }}| {{ 'xxaxx' | trim('x') }} {{ 1234.5678|round(-2) }} {{ 2.675|round(2) }} {{ 2.4|round(method='ceil') }} {{ 5|round }}
{{ 'line1\nline2' | indent }} {{ 'l1\n\nl2' | indent(2, true) }} {{ "a" ~ 1 ~ none ~ 2.0 }} {{ "%s and %d %05.1f %x" % ('a', 3, 2.5, 255) }} {{ "%s" | format('q') }} {{ '{} {1} {x}'.format('a','b',x='c') if false }} {{ '{} {}'.format(1, 'b') }} {{ '{0}{k}'.format(1, k=2) }}
{{ 'a' * 3 }} {{ [1] * 2 }} {{ [1] + [2] }} {{ l[1:3] }} {{ l[::-1] }} {{ l[-1] }} {{ l[10] }} {{ s[0] }} {{ s[-1] }} {{ d['n']['m'][0] }} {{ d.n.m[1] }} {{ l.index(3) }} {{ l.count(1) }} {{ s.find('w') }} {{ s.startswith('he') }} {{ s.endswith(('d','x')) }} {{ s.replace('l','L',1) }} {{ s.partition(' ') }} {{ 'a.b'.rpartition('.') }} {{ s.count('o') }} {{ s.removeprefix('hello ') }} {{ '7'.zfill(3) }} {{ 'x'.center(5) }}| {{ ','.join(['a','b']) }} {{ 'a\nb'.splitlines() }} {{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ 'Ab'.islower() }}
{{ a is number }} {{ a is integer }} {{ b is float }} {{ s is string }} {{ l is iterable }} {{ s is iterable }} {{ d is mapping }} {{ l is mapping }} {{ l is sequence }} {{ s is sequence }} {{ n is none }} {{ t is true }} {{ t is boolean }} {{ a is odd }} {{ 4 is divisibleby 2 }} {{ a is eq 1 }} {{ 'k' is in d }} {{ d is not none }} {{ f is callable }} {{ s is sameas s }} {{ a is sameas 1 }} {{ 'X' is upper }}
{%- if a == 1 -%}   trimmed   {%- endif -%}   x
   {% if a %}
   indented
   {% endif %}
   {%+ if a %} kept {% endif +%}
next {# comment #} after
{#- c -#}   z
{% raw %}{{ raw }} {% if %}{% endraw %} end
{% for i in [] %}x{% else %}empty{% endfor %} {% for i in l if i is number %}{{ i }}{% if loop.last %}.{% endif %}{% endfor %} {% for i in [1,[2,[3]]] recursive %}{{ loop(i) if i is iterable else i }}{% endfor %}
{% with x=5, y=6 %}{{ x + y }}{% endwith %}{{ x }} {% generation %}gen {{ a }}{% endgeneration %} {% set a1, b1 = 1, 2 %}{{ a1 }}{{ b1 }} {% set (q, w) = [8,9] %}{{ q }}{{ w }}
{{ loop is defined }} {{ range(3) | list }} {{ range(5, 0, -2) | list }} {{ range(3) }} {{ dict(a=1, b=2) }} {{ d.keys() }} {{ d.values() | list }} {{ d.items() | list }} {{ "\u00e9\x41\101" }} {{ 'a' 'b' }} {{ 0x1F }} {{ 1_000 }} {{ l.0 }} {{ [[1,2],[3,4]] | map(attribute=0) | list }} {{ [1,2]|tojson ~ 'x' }} {{ '<b>' | e }} {{ ('<b>' | safe) + '<i>' }} {{ '<b>'|escape|length }}
{% set j = joiner(', ') %}{{ j() }}a{{ j() }}b {{ [{'a':{'b':2}},{'a':{'b':1}}] | sort(attribute='a.b') }} {{ [{'g':1,'v':2},{'g':1,'v':3},{'g':0,'v':4}] | groupby('g') | list }} {{ {'b':1,'a':2} | items | list }} {{ none | default('x') }} {{ 3 if missing else 4 }} {{ [1, 2, 3][1] }} {{ {'a': {'b': 3}}.a.b }} {{ true | int }} {{ 'True' if true == 1 }} {{ 1 ~ '' == '1' }} {{ (1, 2) == (1, 2) }} {{ [1] == (1,) }} {{ 5 is in [1,5] }} {{ a != 2 and b >= 2.5 }}
{{ loop.cycle if loop is defined }}{% for i in range(4) %}{{ loop.cycle('a','b') }}{{ loop.changed(i // 2) }} {{ loop.depth }}{% endfor %}
{{ 'caf\u00e9'.encode if false }}{{ s|upper|lower|capitalize }} {{ s | wordcount }} {{ 'hello world foo bar'|truncate(11) }} {{ 'hello world foo bar'|truncate(11, true, '..') }} {{ 'a b&c/é'|urlencode }} {{ [1,2,3]|join }} {{ s|list|length }} {{ d|length }} {{ d|list }} {{ d|first }} {{ u|first }} {{ l|count }}
""".strip("\n").split("\n")

# What must be refused, or must not.
EDGES = [
    "{{ missing.x }}",
    "{{ n.x }}",
    "{{ n.x.y }}",
    "{{ missing() }}",
    "{{ l.append(1) }}",
    "{{ d.update({}) }}",
    "{{ d.pop }}",
    "{{ 1 + 'a' }}",
    "{{ 'a' + 1 }}",
    "{{ l | length + s }}",
    "{% if %}",
    "{% for x in n %}{% endfor %}",
    "{{ raise_exception('boo') }}",
    "{{ x | nofilter }}",
    "{{ x is notest }}",
    "{% endif %}",
    "{{ ",
    "{% if a %}",
    "{{ a b }}",
    "{{ 'abc }}",
    "{# x",
    "{% raw %}x",
    "{{ [1,2 }}",
    "{{ (1 }}",
    "{% foo %}",
    "{{ 1/0 }}",
    "{{ ''.__class__ }}",
    "{{ s.nope }}",
    "{{ s.nope() }}",
    "{% set l.x = 1 %}",
    "{% set ns.x = 1 %}",
    "{% break %}",
    "{{ a.b.c }}",
    "{{ l['x'] }}",
    "{{ l['x'].y }}",
    "{{ f(**d) }}",
    "{% macro m(a) %}{% endmacro %}{{ m(1,2) }}",
    "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}",
    "{% for a,b in [[1]] %}{% endfor %}",
    "{{ n | length }}",
    "{{ n | list }}",
    "{{ d|join(',') }}",
    "{{ 1 in 2 }}",
    "{{ 1 < 'a' }}",
    "{{ range(1000000) }}",
    "{{ s|tojson(1,2) }}",
    "{{ missing | tojson }}",
    "{{ missing|upper }}x",
    "{{ missing ~ 'x' }}",
    "{{ missing == missing2 }}",
    "{{ missing|length }}",
    "{{ missing|join }}",
    "{{ missing + 1 }}",
    "{% for x in missing %}{% endfor %}ok",
    "{{ 'a' in missing }}",
    "{{ missing|int }}",
    "{{ n|int }}",
    "{{ n|string }}",
    "{{ l|string }}",
    "{{ {'a':1}|string }}",
    "{{ n|upper }}",
    "{{ [1,[2]]|sum }}",
    "{{ n|trim }}",
    "{{ 'a'|int(default=5) }}",
    "{{ '0x1f'|int(base=16) }}",
    "{{ ' 12 '|int }}",
    "{{ '1_0'|int }}",
    "{{ '1e3'|int }}",
    "{{ 'inf'|float }}",
    "{{ 'nan'|int }}",
]

TOOL = {"type": "function",
        "function": {"name": "get_weather", "description": "Weather of <b>Zürich</b> & \"more\"",
                     "parameters": {"type": "object",
                                    "properties": {"city": {"type": "string", "description": "City"},
                                                   "unit": {"type": "string", "enum": ["c", "f"]},
                                                   "days": {"type": "array", "items": {"type": "integer"}}},
                                    "required": ["city"]}}}
CALL = {"id": "call_1", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Zürich", "n": 1, "f": 1.5, "ok": True, "x": None}}}

USER = {"role": "user", "content": "Hi <there> 你好"}
SYSTEM = {"role": "system", "content": "Be nice."}
ASSISTANT = {"role": "assistant", "content": "Hello!"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes"}
REASONED = {"role": "assistant", "content": "Yes", "reasoning_content": "deep"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}
RESULT = {"role": "tool", "content": "{\"t\": 20}", "name": "get_weather"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}]}

CONVERSATIONS = [[USER], [SYSTEM, USER, ASSISTANT, USER], [USER, THOUGHT, USER], [USER, REASONED],
                 [SYSTEM, USER, CALLING, RESULT, RESULT, ASSISTANT], [PARTS, ASSISTANT], [ASSISTANT], []]

CHATS = {
    "chatml": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
Be brief.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + (message['content'] if message['content'] is string else '') + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
    "headers": """{{- bos_token }}
{%- if not date is defined %}
    {%- set date = "1 Jan 2024" %}
{%- endif %}
{%- if messages and messages[0].role == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|head|>system<|end|>\\n\\nToday: " + date + "\\n" + system }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
    {%- elif message.content is iterable and message.content is not string %}
        {%- for part in message.content if part.type == 'text' %}{{ part['text'] | trim }}{{ ' ' if not loop.last }}{% endfor %}
    {%- else %}
        {{- '<|head|>' ~ message['role'] ~ '<|end|>\\n\\n' ~ message.content | trim ~ eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|head|>assistant<|end|>\\n\\n' }}
{%- endif %}
""",
    "thinking": """{%- macro text_of(content) -%}
    {%- if content is string -%}{{ content }}
    {%- elif content is iterable -%}
        {%- for part in content -%}{{ part.text if part.text is defined else '[' ~ part.type ~ ']' }}{%- endfor -%}
    {%- else -%}{{ '' }}{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last=messages|length - 1, seek=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.seek and message.role == "user" and not(text_of(message.content).startswith('<tool>')) %}
        {%- set ns.seek = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = text_of(message.content) %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<a>\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {%- generation %}{{- '<a>\\n' + content }}{%- endgeneration %}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or not loop.first %}{{ '\\n' }}{% endif %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '<call>{"name": "' ~ call.name ~ '", "arguments": ' }}
            {%- if call.arguments is string %}{{ call.arguments }}{% else %}{{ call.arguments | tojson }}{% endif %}
            {{- '}</call>' }}
            {%- for key, value in call.arguments | items %}<{{ key }}>{{ value if value is string else value | tojson }}{% endfor %}
        {%- endfor %}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<u>' }}{%- endif %}
        {{- '\\n<result>' + content + '</result>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '</u>\\n' }}{%- endif %}
    {%- else %}
        {{- '<' + message.role[0] + '>' + content + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<a>\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    "tools": """{%- macro kind(spec) %}
  {%- if spec.type == "array" %}{{ kind(spec['items']) ~ "[]" }}
  {%- elif spec.enum %}{{ spec.enum | map('tojson') | join(' | ') }}
  {%- else %}{{ spec.type | default('any') }}{% endif %}
{%- endmacro %}
{% set roles = messages | map(attribute='role') | unique | list %}
{{ roles | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{% if tools %}
{% for tool in tools %}
  {% set f = tool.function %}
// {{ f.description | replace('\\n', '\\n// ') }}
type {{ f.name }} = (_: {
  {% for name, spec in f.parameters.properties.items() %}
    {{ name }}{{ '?' if name not in f.parameters.required }}: {{ kind(spec) }},{{ '  // ' ~ spec.description if spec.description }}
  {% endfor %}
}) => any; {# the end #}
{% endfor %}
{% else %}
none
{% endif %}
{% call(x) with_prefix('#') if false %}{% endcall %}
{%- filter upper %}done{% endfilter %}
{% set tail %}{{ messages | length }} of {{ loop_count | default(7) }}{% endset %}{{ tail | trim }}
""".replace("{% call(x) with_prefix('#') if false %}{% endcall %}\n", ""),
}


def questions(parts=True):
    """(name, question) for every case; `parts`: also the single expressions of each line."""
    import re

    special = {"bos_token": "<s>", "eos_token": "</s>"}

    def line(name, template):
        return name, {"template": template, "messages": VARIABLES["msgs"], "variables": VARIABLES,
                      "special_tokens": special, "add_generation_prompt": True}

    for number, text in enumerate(LINES):
        yield line(f"line {number + 1}", text)
        whole = parts and re.search(r"caller|loop|{% (macro|set|for)", text) is None
        for part in re.findall(r"{{.*?}}", text) if whole else []:
            yield line(f"line {number + 1}: {part}", part)
    for end in ("", "\n", "\n\n"):
        yield line("all lines", "\n".join(LINES) + end)
    yield line("all lines, CRLF", "\r\n".join(LINES))
    for text in EDGES:
        yield line(f"edge {text}", text)
    for name, template in CHATS.items():
        for number, messages in enumerate(CONVERSATIONS):
            for tools in (None, [TOOL, TOOL]):
                for variables in ({}, {"enable_thinking": False, "date": "2 Feb 2025"}):
                    yield f"{name} {number}", {"template": template, "messages": messages, "tools": tools,
                                               "variables": variables, "special_tokens": special,
                                               "add_generation_prompt": bool(variables) or tools is None}
