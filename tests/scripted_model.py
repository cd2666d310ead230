"""A tiny SALA checkpoint that says what it is told to: its layers add nothing, so that a token's successor depends on that token
alone, and its vocabulary has the pieces of its replies as tokens of their own. What a server makes of a reply can so be tested
from the port on, with no chance in it."""
import json

import numpy as np

import make_checkpoint
import tiny_model

# As Qwen's, with calls in the Hermes format. Behind a tool's result the prompt ends otherwise, so that another reply follows.
TEMPLATE = """{{ bos_token }}
{%- if tools %}<|im_start|>system
# Tools
{%- for tool in tools %}

{{ tool | tojson }}
{%- endfor %}
Write calls as <tool_call>
{"name": <name>, "arguments": <arguments>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{%- if message.reasoning_content %}

<think>{{ message.reasoning_content }}</think>{{ '\\n' }}
{%- endif %}

{{ message.content }}
{%- for call in message.tool_calls %}

<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant{{ ':' if messages[-1].role == 'tool' else '\\n' }}{% endif %}"""


def make(folder, replies, special=()):
    """Writes the checkpoint. `replies`: for the last character of a prompt the pieces of the reply to it, no piece twice; the
    pieces in `special` are special tokens."""
    size = tiny_model.write_tokenizer(folder)
    pieces = [piece for reply in replies.values() for piece in reply]
    assert len(set(pieces)) == len(pieces)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    id_of = dict(tokenizer["model"]["vocab"])
    for piece in pieces:
        id_of[piece] = size + pieces.index(piece)
        tokenizer["added_tokens"].append({"id": id_of[piece], "content": piece, "single_word": False, "lstrip": False, "rstrip": False,
                                          "normalized": False, "special": piece in special})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    _, model, _ = make_checkpoint.make(folder, vocab_size=size + len(pieces))
    weights = model.w
    for name in weights:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = np.zeros_like(weights[name])
    weights["model.norm.weight"] = np.ones_like(weights["model.norm.weight"])
    head = weights["lm_head.weight"]
    head[:] = 0
    letters = tiny_model.byte_letters()
    for last, reply in replies.items():
        chain = [id_of[letters[ord(last)]], *(id_of[piece] for piece in reply), id_of["</s>"]]
        for one, next_one in zip(chain, chain[1:]):
            head[next_one] += 100 * weights["model.embed_tokens.weight"][one]
    make_checkpoint.write_safetensors(folder / "model.safetensors", weights, "f32")
