#!/usr/bin/env python3
"""What agents ask of `sala serve`: tools called and answered by chat completions, OpenAI's responses and Anthropic's messages, with
a model that says what it is told to. The clients that people use (PyPI's openai and anthropic) where they are installed."""
import json
import pathlib
import tempfile
import unittest

import harness
import scripted_model
from server_test import Server

ARGUMENTS = '{"place": "the sea"}'
REPLIES = {"\n": ["<think>", "I should", " look.", "</think>\n\n", "Let me ", "look.\n", "<tool_call>", "\n{\"name\": \"look\", \"argu",
                  "ments\": " + ARGUMENTS + "}\n", "</tool_call>"],
           ":": ["It is ", "blue."]}
SPECIAL = ("<tool_call>", "</tool_call>")  # pieces that are special tokens, as some models have them
QUESTION = "What is there?"
SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
FUNCTION = {"name": "look", "description": "Looks at a place.", "parameters": SCHEMA}
CHAT_TOOL = {"type": "function", "function": FUNCTION}
RESPONSES_TOOL = {"type": "function"} | FUNCTION
MESSAGES_TOOL = {"name": "look", "description": "Looks at a place.", "input_schema": SCHEMA}


class Agents(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.model = pathlib.Path(scratch.name) / "told"
        cls.model.mkdir()
        scripted_model.make(cls.model, REPLIES, special=SPECIAL)
        cls.server = Server(cls.model, "--ctx-size", 8192)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def ask(self, path, body, headers=None):
        status, answer = self.server.ask("POST", path, body, headers)
        self.assertEqual(status, 200, answer)
        return answer

    def stream(self, path, body):
        """The JSON of every event; each has a line with its type."""
        events = []
        for event in self.ask(path, body | {"stream": True}).split("\n\n"):
            lines = [line for line in event.split("\n") if line and not line.startswith(":")]
            if lines:
                kind, data = lines
                events.append(json.loads(data.removeprefix("data: ")))
                self.assertEqual(kind, "event: " + events[-1]["type"])
        return events

    def anthropic(self):
        try:
            import anthropic
        except ImportError:
            self.skipTest("pip install anthropic")
        return anthropic.Anthropic(base_url=f"http://127.0.0.1:{self.server.port}", api_key="none", max_retries=0)

    def openai(self):
        try:
            import openai
        except ImportError:
            self.skipTest("pip install openai")
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.server.port}/v1", api_key="none", max_retries=0)

    # One turn of each API, and the same turn again with what it gave, as agents send it.

    def chat_turn(self):
        fields = {"messages": [{"role": "user", "content": QUESTION}], "tools": [CHAT_TOOL]}
        first = self.ask("/v1/chat/completions", fields)
        message = first["choices"][0]["message"]
        call = message["tool_calls"][0]
        told = {"role": "tool", "tool_call_id": call["id"], "content": "blue"}
        return first, fields | {"messages": [*fields["messages"], message, told]}

    def messages_turn(self):
        fields = {"max_tokens": 99, "messages": [{"role": "user", "content": QUESTION}], "tools": [MESSAGES_TOOL]}
        first = self.ask("/v1/messages", fields)
        told = {"type": "tool_result", "tool_use_id": first["content"][-1]["id"], "content": "blue"}
        return first, fields | {"messages": [*fields["messages"], {"role": "assistant", "content": first["content"]},
                                             {"role": "user", "content": [told]}]}

    def responses_turn(self, **more):
        fields = {"input": [{"role": "user", "content": QUESTION}], "tools": [RESPONSES_TOOL]} | more
        first = self.ask("/v1/responses", fields)
        told = {"type": "function_call_output", "call_id": first["output"][-1]["call_id"], "output": "blue"}
        return first, fields | {"input": [*fields["input"], *first["output"], told]}

    def test_chat_completions(self):
        first, then = self.chat_turn()
        self.assertEqual(first["choices"][0]["finish_reason"], "tool_calls")
        message = first["choices"][0]["message"]
        self.assertEqual((message["content"], message["reasoning_content"]), ("Let me look.", "I should look."))
        self.assertEqual([call["function"] for call in message["tool_calls"]], [{"name": "look", "arguments": ARGUMENTS}])
        second = self.ask("/v1/chat/completions", then)["choices"][0]
        self.assertEqual((second["message"]["content"], second["finish_reason"]), ("It is blue.", "stop"))
        # A model that is not shown tools calls none.
        plain = self.ask("/v1/chat/completions", then | {"messages": then["messages"][:1], "tool_choice": "none"})["choices"][0]
        self.assertNotIn("tool_calls", plain["message"])
        self.assertIn('"name": "look"', plain["message"]["content"])

    def test_messages(self):
        first, then = self.messages_turn()
        self.assertEqual(first["stop_reason"], "tool_use")
        self.assertEqual([block["type"] for block in first["content"]], ["thinking", "text", "tool_use"])
        self.assertEqual(first["content"][2]["input"], json.loads(ARGUMENTS))
        second = self.ask("/v1/messages", then)
        self.assertEqual((second["content"], second["stop_reason"]), ([{"type": "text", "text": "It is blue."}], "end_turn"))
        self.assertGreater(second["usage"]["cache_read_input_tokens"], 0)
        counted = self.ask("/v1/messages/count_tokens", then)["input_tokens"]
        self.assertEqual(counted, second["usage"]["input_tokens"] + second["usage"]["cache_read_input_tokens"])
        stopped = self.ask("/v1/messages", then | {"stop_sequences": ["is b"]})
        self.assertEqual((stopped["content"][0]["text"], stopped["stop_reason"], stopped["stop_sequence"]), ("It ", "stop_sequence", "is b"))
        self.assertEqual(self.ask("/v1/messages", then | {"max_tokens": 1})["stop_reason"], "max_tokens")

    def test_responses(self):
        first, then = self.responses_turn()
        self.assertEqual(first["status"], "completed")
        self.assertEqual([item["type"] for item in first["output"]], ["reasoning", "message", "function_call"])
        self.assertEqual(first["output"][2]["arguments"], ARGUMENTS)
        second = self.ask("/v1/responses", then)
        self.assertEqual(second["output"][0]["content"][0]["text"], "It is blue.")
        self.assertEqual(self.ask("/v1/responses/input_tokens", then),
                         {"object": "response.input_tokens", "input_tokens": second["usage"]["input_tokens"]})
        cut = self.ask("/v1/responses", then | {"max_output_tokens": 1})
        self.assertEqual((cut["status"], cut["incomplete_details"]), ("incomplete", {"reason": "max_output_tokens"}))

    def test_a_conversation_is_the_same_prompt_in_every_api(self):
        def prompt_of(path, body):
            return self.ask(path, body)["input_tokens"]
        _, chat = self.chat_turn()
        _, messages = self.messages_turn()
        _, responses = self.responses_turn()
        # Codex sends back what it may keep of a thought, and not its text.
        _, kept = self.responses_turn(include=["reasoning.encrypted_content"])
        del kept["input"][1]["content"]
        lengths = [self.ask("/tokenize", chat)["count"], prompt_of("/v1/messages/count_tokens", messages),
                   prompt_of("/v1/responses/input_tokens", responses), prompt_of("/v1/responses/input_tokens", kept)]
        self.assertEqual(lengths, lengths[:1] * 4)

    def test_what_was_written_is_known_when_it_comes_back(self):
        # All of the first turn, reply included, is the beginning of the second one's prompt.
        first, then = self.chat_turn()
        known = [self.ask("/v1/chat/completions", then)["usage"]["prompt_tokens_details"]["cached_tokens"],
                 self.ask("/v1/messages", self.messages_turn()[1])["usage"]["cache_read_input_tokens"],
                 self.ask("/v1/responses", self.responses_turn()[1])["usage"]["input_tokens_details"]["cached_tokens"]]
        self.assertTrue(all(tokens >= first["usage"]["total_tokens"] - 1 for tokens in known), known)

    def test_streams_are_what_clients_read(self):
        events = self.stream("/v1/messages", {"max_tokens": 99, "messages": [{"role": "user", "content": QUESTION}], "tools": [MESSAGES_TOOL]})
        self.assertEqual([e["content_block"]["type"] for e in events if e["type"] == "content_block_start"], ["thinking", "text", "tool_use"])
        self.assertEqual("".join(e["delta"].get("partial_json", "") for e in events if e["type"] == "content_block_delta"), ARGUMENTS)
        events = self.stream("/v1/responses", {"input": QUESTION, "tools": [RESPONSES_TOOL]})
        self.assertEqual([e["sequence_number"] for e in events], list(range(len(events))))
        self.assertEqual((events[0]["type"], events[-1]["type"]), ("response.created", "response.completed"))
        self.assertEqual([e["item"]["type"] for e in events if e["type"] == "response.output_item.done"], ["reasoning", "message", "function_call"])

    def test_sessions(self):
        self.ask("/v1/sessions", {"id": "book"})
        documents = self.ask("/v1/sessions/book/ingest", {"text": "The sea is blue. " * 20})["tokens"]
        for path, body in (("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": QUESTION}]}),
                           ("/v1/responses", {"input": QUESTION})):
            usage = self.ask(path, body, {"x-session-id": "book"})["usage"]
            known = usage["cache_read_input_tokens"] if "messages" in path else usage["input_tokens_details"]["cached_tokens"]
            self.assertGreaterEqual(known, documents, path)

    def test_refuses_by_name(self):
        hello = {"messages": [{"role": "user", "content": "hello"}]}
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            for body, status, kind, words in (("{", 400, "invalid_request_error", "line 1"), (hello | {"model": "gpt"}, 404, "not_found_error", '"told"'),
                                              (hello | {"max_tokens": 9, "tool_choice": {"type": "any"}}, 400, "invalid_request_error", "tool_choice"),
                                              ({"max_tokens": 9, "messages": [{"role": "user", "content": "a" * 9000}]}, 400, "invalid_request_error",
                                               "prompt is too long: ")):
                if "count" in path and "too long" in words:
                    continue
                got, answer = self.server.ask("POST", path, body)
                self.assertEqual((got, answer["type"], answer["error"]["type"]), (status, "error", kind), answer)
                self.assertIn(words, answer["error"]["message"])
        status, answer = self.server.ask("POST", "/v1/messages", hello)
        self.assertEqual((status, answer["error"]["message"]), (400, "max_tokens is missing; expected a number"))
        self.assertEqual(self.server.ask("GET", "/v1/messages")[1]["type"], "error")
        self.assertEqual(self.ask("/v1/messages", hello | {"max_tokens": 1, "model": "claude-sonnet-5"})["model"], "told")
        for body, status, param in (({"input": "a", "previous_response_id": "resp_1"}, 400, "previous_response_id"), ({"input": "a", "model": "gpt"}, 404, "model"),
                                    ({}, 400, "input")):
            got, answer = self.server.ask("POST", "/v1/responses", body)
            self.assertEqual((got, answer["error"]["param"]), (status, param))

    def test_tokenize_reads_a_chat(self):
        hello = {"messages": [{"role": "user", "content": "hello"}]}
        prompt = self.ask("/apply-template", hello)["prompt"]
        tokens = self.ask("/tokenize", hello)["tokens"]
        self.assertEqual(self.ask("/detokenize", {"tokens": tokens})["prompt"], prompt)
        short = self.ask("/tokenize", hello | {"add_generation_prompt": False})["tokens"]
        self.assertEqual(tokens[:len(short)], short)
        self.assertTrue(prompt.endswith(self.ask("/detokenize", {"tokens": tokens[len(short):]})["prompt"]))
        self.assertLess(len(short), len(tokens))

    def test_calls_that_are_forced(self):
        # Left to itself the model says this much before it calls; to a tool's result it answers without a call.
        colours = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
        paint = {"name": "paint", "parameters": colours}
        after = [{"role": "user", "content": QUESTION}, {"role": "tool", "tool_call_id": "c", "content": "blue"}]
        for choice in ("required", {"type": "function", "function": {"name": "paint"}}):
            fields = {"messages": after, "tools": [{"type": "function", "function": paint}], "tool_choice": choice,
                      "parallel_tool_calls": False}
            answer = self.ask("/v1/chat/completions", fields)["choices"][0]
            self.assertEqual((answer["finish_reason"], answer["message"]["content"]), ("tool_calls", None))
            call = answer["message"]["tool_calls"][0]["function"]
            self.assertEqual(call["name"], "paint")
            self.assertIn(json.loads(call["arguments"]), ({"colour": "red"}, {"colour": "blue"}))
        answer = self.ask("/v1/responses", {"input": QUESTION, "tools": [{"type": "function"} | paint], "parallel_tool_calls": False,
                                            "tool_choice": {"type": "function", "name": "paint"}})
        self.assertEqual(answer["output"][-1]["name"], "paint")
        tools = [{"name": "paint", "input_schema": colours}]
        answer = self.ask("/v1/messages", {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 99, "tools": tools,
                                           "tool_choice": {"type": "any", "disable_parallel_tool_use": True}})
        self.assertEqual((answer["stop_reason"], answer["content"][-1]["type"]), ("tool_use", "tool_use"))
        self.assertIn(answer["content"][-1]["input"]["colour"], ("red", "blue"))
        status, answer = self.server.ask("POST", "/v1/chat/completions", {"messages": after, "tools": [CHAT_TOOL],
                                                                          "tool_choice": {"type": "function", "function": {"name": "no"}}})
        self.assertEqual(status, 400)
        self.assertIn('no tool "no"', answer["error"]["message"])

    def test_thoughts_have_a_limit(self):
        hello = {"messages": [{"role": "user", "content": QUESTION}]}
        whole = self.ask("/v1/chat/completions", hello)["choices"][0]["message"]
        self.assertEqual(whole["reasoning_content"], "I should look.")
        for name in ("thinking_token_budget", "thinking_budget_tokens"):
            cut = self.ask("/v1/chat/completions", hello | {name: 2, "max_tokens": 40})["choices"][0]["message"]
            self.assertEqual(cut["reasoning_content"].strip(), "I should")
            self.assertEqual(self.ask("/v1/chat/completions", hello | {name: 99})["choices"][0]["message"], whole)
        message = self.ask("/v1/messages", hello | {"max_tokens": 40, "thinking": {"type": "enabled", "budget_tokens": 2}})
        self.assertEqual((message["content"][0]["type"], message["content"][0]["thinking"].strip()), ("thinking", "I should"))

    def test_replies_that_are_json(self):
        schema = {"type": "object", "properties": {"sea": {"enum": ["calm", "rough"]}}, "required": ["sea"]}
        chat = self.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": QUESTION}],
                                                 "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}})
        texts = [chat["choices"][0]["message"]["content"]]
        response = self.ask("/v1/responses", {"input": QUESTION, "text": {"format": {"type": "json_schema", "schema": schema}}})
        texts.append(response["output"][-1]["content"][0]["text"])
        message = self.ask("/v1/messages", {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 99,
                                            "output_config": {"format": {"type": "json_schema", "schema": schema}}})
        texts.append(message["content"][-1]["text"])
        for text in texts:
            self.assertIn(json.loads(text), ({"sea": "calm"}, {"sea": "rough"}))
        # What the model thinks in front of it is its own.
        self.assertIn("I should look.", chat["choices"][0]["message"].get("reasoning_content", ""))

    def test_a_reply_that_has_a_form_may_still_be_calls(self):
        # The letters of a call's beginning are what this model likes best.
        liked = {self.ask("/tokenize", {"content": letter})["tokens"][0]: 100 for letter in "<to"}
        tool = {"name": "paint", "parameters": {"type": "object", "properties": {"colour": {"enum": ["red"]}}, "required": ["colour"]}}
        fields = {"messages": [{"role": "user", "content": QUESTION}, {"role": "tool", "tool_call_id": "c", "content": "blue"}],
                  "response_format": {"type": "json_schema", "json_schema": {"schema": {"const": 1}}}, "logit_bias": liked,
                  "max_tokens": 200}
        choice = self.ask("/v1/chat/completions", fields | {"tools": [{"type": "function", "function": tool}], "parallel_tool_calls": False})
        self.assertEqual(choice["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "paint")
        self.assertEqual(self.ask("/v1/chat/completions", fields | {"logit_bias": None})["choices"][0]["message"]["content"].strip(), "1")

    def test_tokens_that_end_a_reply_that_is_constrained(self):
        # One that the model does not have ends nothing; a reply that must be empty needs none.
        fields = {"prompt": "a", "ignore_eos": True, "max_tokens": 5}
        answer = self.ask("/v1/completions", fields | {"guided_regex": "a+", "stop_token_ids": [2**31 - 1]})["choices"][0]
        self.assertEqual((set(answer["text"]), answer["finish_reason"]), ({"a"}, "length"))
        answer = self.ask("/v1/completions", fields | {"guided_choice": [""]})["choices"][0]
        self.assertEqual((answer["text"], answer["finish_reason"]), ("", "stop"))

    def test_answers_are_what_clients_declare(self):
        # Their packages take any answer for one of theirs; these are looked at field by field.
        self.anthropic(), self.openai()  # or skips
        import anthropic.types
        import openai.types.chat
        import openai.types.responses
        import pydantic

        def check(kind, *answers):
            for answer in answers:
                pydantic.TypeAdapter(kind).validate_python(answer)
        for limit in (99, 3, 0):  # whole, cut in a thought, empty
            chat = {"messages": [{"role": "user", "content": QUESTION}], "tools": [CHAT_TOOL], "max_tokens": limit, "logprobs": True}
            check(openai.types.chat.ChatCompletion, self.ask("/v1/chat/completions", chat))
            responses = {"input": QUESTION, "tools": [RESPONSES_TOOL], "max_output_tokens": limit}
            check(openai.types.responses.Response, self.ask("/v1/responses", responses))
            check(openai.types.responses.ResponseStreamEvent, *self.stream("/v1/responses", responses))
            messages = {"messages": chat["messages"], "tools": [MESSAGES_TOOL], "max_tokens": limit}
            check(anthropic.types.Message, self.ask("/v1/messages", messages))
            check(anthropic.types.RawMessageStreamEvent, *self.stream("/v1/messages", messages))

    def test_anthropic(self):
        client = self.anthropic()
        fields = dict(model="told", max_tokens=99, messages=[{"role": "user", "content": QUESTION}], tools=[MESSAGES_TOOL])
        first = client.messages.create(**fields)
        with client.messages.stream(**fields) as stream:
            streamed = stream.get_final_message()
        without_ids = lambda message: [block.model_dump(exclude={"id"}) for block in message.content]  # noqa: E731
        self.assertEqual(without_ids(streamed), without_ids(first))
        self.assertEqual((first.stop_reason, streamed.stop_reason), ("tool_use", "tool_use"))
        self.assertEqual(streamed.usage.output_tokens, first.usage.output_tokens)
        told = [*fields["messages"], {"role": "assistant", "content": streamed.content},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": streamed.content[-1].id, "content": "blue"}]}]
        self.assertEqual(client.messages.create(**fields | {"messages": told}).content[0].text, "It is blue.")
        counted = client.messages.count_tokens(model="told", messages=told, tools=[MESSAGES_TOOL])
        self.assertGreater(counted.input_tokens, first.usage.input_tokens)
        import anthropic
        with self.assertRaises(anthropic.NotFoundError):
            client.messages.create(**fields | {"model": "other"})

    def test_openai(self):
        client = self.openai()
        fields = dict(model="told", input=QUESTION, tools=[RESPONSES_TOOL])
        first = client.responses.create(**fields)
        self.assertEqual(first.output_text, "Let me look.")
        with client.responses.stream(**fields) as stream:
            streamed = stream.get_final_response()
        self.assertEqual(streamed.output[-1].arguments, ARGUMENTS)
        self.assertEqual(streamed.output_text, first.output_text)
        self.assertEqual(streamed.usage.output_tokens, first.usage.output_tokens)
        told = [{"role": "user", "content": QUESTION}, *streamed.output,
                {"type": "function_call_output", "call_id": streamed.output[-1].call_id, "output": "blue"}]
        self.assertEqual(client.responses.create(**fields | {"input": told}).output_text, "It is blue.")
        # The same by chat completions, streamed.
        fields = dict(model="told", messages=[{"role": "user", "content": QUESTION}], tools=[CHAT_TOOL])
        with client.chat.completions.stream(**fields) as stream:
            choice = stream.get_final_completion().choices[0]
        self.assertEqual((choice.finish_reason, choice.message.content), ("tool_calls", "Let me look."))
        self.assertEqual(choice.message.tool_calls[0].function.arguments, ARGUMENTS)
        told = [*fields["messages"], choice.message, {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "blue"}]
        self.assertEqual(client.chat.completions.create(**fields | {"messages": told}).choices[0].message.content, "It is blue.")


if __name__ == "__main__":
    harness.main()
