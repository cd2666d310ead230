#!/usr/bin/env python3
"""`sala chat` through a pseudo-terminal: input on one line and on several, line editing, Ctrl-C in an answer and at the
prompt, the commands; through a pipe; and through tmux where there is one. And what the sampling flags do in `sala run`."""
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import termios
import time
import unittest

import harness
import tiny_model

EOS = 2  # the only token that ends an answer of the tiny model
ENDLESS = ["--logit-bias", f"{EOS}=-1000"]
CTRL_C, CTRL_D, UP, BACKSPACE = "\x03", "\x04", "\x1b[A", "\x7f"
ANSWERED = r"\[read (\d+) tokens, [\d.]+ tokens/s; wrote (\d+) tokens, [\d.]+ tokens/s\]"
FAINT = "\x1b[2m"


def letter(character):
    """The id of an ASCII letter's token."""
    return len(tiny_model.SPECIAL) + tiny_model.byte_letters().index(character)


def always(character, count):
    """Flags that make every answer `count` times one letter."""
    return ["--logit-bias", f"{letter(character)}=1000", "-n", count]


class Terminal:
    """A program on a pseudo-terminal of its own."""

    def __init__(self, *command):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(str(command[0]), [str(c) for c in command], harness.ENVIRONMENT | {"TERM": "xterm", "LC_ALL": "C.UTF-8"})
        self.text = ""  # what it printed and nobody has waited for yet
        self.status = None

    def read(self, seconds):
        """Takes what is printed within `seconds`; False at the end of the program."""
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return False
            self.text += data.decode("utf-8", "replace")
            return bool(data)
        return True

    def expect(self, pattern, timeout=60):
        """Waits for text that matches, and takes all up to its end."""
        end = time.monotonic() + timeout
        while not (found := re.search(pattern, self.text)):
            if time.monotonic() > end or not self.read(0.1):
                raise AssertionError(f"{pattern!r} did not come; there is {self.text[-2000:]!r}")
        before, self.text = self.text[:found.end()], self.text[found.end():]
        return found, before

    def send(self, text):
        os.write(self.fd, text.encode())

    def prompt(self):
        """Waits for the prompt, and for libedit to take the terminal over, which it does a moment later."""
        self.expect("> ")
        end = time.monotonic() + 60
        while termios.tcgetattr(self.fd)[3] & termios.ICANON:
            if time.monotonic() > end:
                raise AssertionError("the program prompts and does not listen")
            time.sleep(0.001)

    def say(self, text, answer):
        """Types a line at the prompt and waits for what it brings."""
        self.prompt()
        self.send(text + "\r")
        return self.expect(answer)

    def wait(self, timeout=60):
        """The exit status; negative for a signal."""
        end = time.monotonic() + timeout
        while self.status is None and time.monotonic() < end:
            self.read(0.05)
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.status = os.waitstatus_to_exitcode(status)
        if self.status is None:
            raise AssertionError(f"the program does not end; there is {self.text[-2000:]!r}")
        return self.status

    def leave(self):
        """Presses Ctrl-D until the program ends. libedit prints its prompt a moment before it takes the terminal over, and
        a Ctrl-D in that moment is an end of file that nobody reads."""
        for _ in range(100):
            self.send(CTRL_D)
            try:
                return self.wait(0.5)
            except AssertionError:
                pass
        return self.wait()

    def close(self):
        if self.status is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
        os.close(self.fd)


class WithModel(tiny_model.WithModel):
    def chat(self, *flags, model=None):
        terminal = Terminal(harness.PROGRAM, "chat", model or self.model, "--threads", "1", *flags)
        self.addCleanup(terminal.close)
        return terminal

    def saved(self, terminal):
        """The messages, as /save writes them."""
        path = self.folder / "saved.json"
        path.unlink(missing_ok=True)
        terminal.say(f"/save {path}", r"\[\d+ messages in [^\n]*\]")
        return json.loads(path.read_text())

    def contents(self, terminal):
        return [m["content"] for m in self.saved(terminal)]


class Chat(WithModel):
    def test_conversation(self):
        t = self.chat(*always("a", 5), "--system", "Be brief.")
        t.expect("/help lists the commands")
        t.say("hello", ANSWERED)
        t.say("and you?", ANSWERED)
        self.assertEqual(self.saved(t), [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "aaaaa"}, {"role": "user", "content": "and you?"},
            {"role": "assistant", "content": "aaaaa"}])
        t.say("/exit", "")
        self.assertEqual(t.wait(), 0)

    def test_answer_is_streamed_and_counted(self):
        t = self.chat(*always("a", 5))
        found, before = t.say("hello", ANSWERED)
        self.assertIn("aaaaa", before)
        self.assertEqual(found[2], "5")

    def test_several_lines(self):
        t = self.chat(*always("a", 3))
        t.say("one \\", r"\. ")
        t.send("two\\\r")
        t.expect(r"\. ")
        t.send("three\r")
        t.expect(ANSWERED)
        t.say('"""', r"\. ")
        t.send("/save is no command here\r")
        t.expect(r"\. ")
        t.send("  indented \\\r")
        t.expect(r"\. ")
        t.send('"""\r')
        t.expect(ANSWERED)
        t.say('"""on one line"""', ANSWERED)
        t.say("", "")  # an empty line is no message
        self.assertEqual(self.contents(t)[::2],
                         ["one \ntwo\nthree", "/save is no command here\n  indented \\", "on one line"])

    def test_line_editing_and_history(self):
        t = self.chat(*always("a", 2))
        t.say("caféX" + BACKSPACE + "!", ANSWERED)
        t.say("second", ANSWERED)
        t.say(UP + UP + "?", ANSWERED)
        self.assertEqual(self.contents(t)[::2], ["café!", "second", "café!?"])

    def test_interrupt_stops_the_answer_and_keeps_the_chat(self):
        t = self.chat(*ENDLESS, "--ctx", "100000", "--logit-bias", f"{letter('b')}=1000")
        t.say("talk", "b{20}")
        t.send(CTRL_C)
        found, _ = t.expect(ANSWERED + r" \[stopped\]")
        first = int(found[2])
        self.assertGreaterEqual(first, 20)
        t.say("go on", "b{20}")
        t.send(CTRL_C)
        second, _ = t.expect(ANSWERED + r" \[stopped\]")
        messages = self.saved(t)
        self.assertEqual([m["role"] for m in messages], ["user", "assistant"] * 2)
        self.assertEqual(messages[1]["content"], "b" * first)
        self.assertLess(int(second[1]), first + 20, "the first answer was read again")
        t.expect("> ")
        t.send(CTRL_C)  # at the prompt it leaves
        self.assertEqual(t.wait(), 0)

    def test_interrupt_while_reading(self):
        document = self.folder / "long.txt"
        document.write_text("word " * 20000)
        t = self.chat(*always("a", 2), "--ctx", "200000", "--chunk", "16")
        t.say(f"/file {document}", "100000 characters of")
        t.expect("> ")
        t.send("what is it about?\r")
        t.expect("\n")
        time.sleep(0.3)
        t.send(CTRL_C)
        t.expect("stopped before the answer began")
        self.assertEqual(self.contents(t), [])
        t.say("hello", ANSWERED)

    def test_only_what_is_new_is_read(self):
        t = self.chat(*always("a", 5))
        first, _ = t.say("hi", ANSWERED)
        second, _ = t.say("hi", ANSWERED)
        # No BOS again, but the end of the answer: its last token, which nobody has read yet, <|im_end|> and a newline.
        self.assertEqual(int(second[1]), int(first[1]) - 1 + 3)
        t.say("/undo", "removed the last exchange; 2 messages are left")
        third, _ = t.say("hi", ANSWERED)  # the same prompt once more: its last token gives the logits
        self.assertEqual(int(third[1]), 1)

    def test_undo_load_clear_system_file(self):
        t = self.chat(*always("a", 2))
        t.say("/undo", "no message to remove")
        t.say("one", ANSWERED)
        t.say("two", ANSWERED)
        t.say("/undo", "2 messages are left")
        self.assertEqual(self.contents(t), ["one", "aa"])
        kept = self.folder / "kept.json"
        t.say(f"/save {kept}", "2 messages in")
        t.say("/clear", "removed all")
        t.say("/system Speak French.", "system message is set")
        self.assertEqual(self.contents(t), ["Speak French."])
        t.say(f"/load {kept}", "2 messages from")
        document = self.folder / "document.txt"
        document.write_text("Some text.")
        t.say(f"/file {document}", "10 characters of")
        t.say("what is it about?", ANSWERED)
        self.assertEqual(self.contents(t), ["one", "aa", "Some text.\n\nwhat is it about?", "aa"])

    def test_set(self):
        t = self.chat("-n", "4")
        _, before = t.say("/set", r"seed \d+")
        for key in ("temp", "top-p", "min-p", "repeat-penalty", "presence-penalty", "frequency-penalty", "top-k"):
            self.assertIn(f"{key} ", before)
        t.expect("> ")
        t.send("/set temp 0\r")
        t.say("/set", r"temp 0\b")
        first = self.answer(t)
        t.say("/undo", "0 messages")
        self.assertEqual(self.answer(t), first, "greedy is always the same")
        t.say("/set temp hot", 'temp is "hot"; expected a number from 0')
        t.say("/set colour 1", 'there is no "colour"')
        t.say("/set temp", "/set needs a value")

    def answer(self, terminal):
        terminal.say("hello", ANSWERED)
        return self.contents(terminal)[-1]

    def test_bad_commands_get_one_sentence(self):
        t = self.chat(*always("a", 2))
        for line, sentence in {"/hlep": r"\[there is no command /hlep; /help lists them\]", "/save": r"/save needs a path",
                               "/load /nowhere/at/all": r"\[/nowhere/at/all: ", "/file": "/file needs a path",
                               f"/save {self.folder}": "cannot be written",
                               f"/load {self.folder}": rf"\[{re.escape(str(self.folder))}: "}.items():
            t.say(line, sentence)
        for text, sentence in {"{": "not valid JSON", "{}": "expected an array", '[{"role": "user"}]': 'no text "content"',
                               '[{"role": "king", "content": ""}]': 'role "king"'}.items():
            bad = self.folder / "bad.json"
            bad.write_text(text)
            t.say(f"/load {bad}", sentence)
        t.say("hello", ANSWERED)
        t.say("/help", "/undo")
        t.expect("> ")
        self.assertEqual(t.leave(), 0)

    def test_end_of_file_before_editing(self):
        """What the terminal makes of a Ctrl-D that comes before libedit listens must not take the next one in."""
        t = self.chat()
        t.prompt()
        t.send("\0" + CTRL_D)  # NUL is what an end of file becomes that was typed before
        self.assertEqual(t.wait(), 0)

    def test_full_context(self):
        t = self.chat(*ENDLESS, "--ctx", "64")
        t.say("hello", r"the context of 64 tokens is full: /undo")
        t.say("x" * 100, r"the context has room for 64: /undo or /clear make room, or /save it and start again with --ctx")
        self.assertEqual(len(self.saved(t)), 2)
        t.say("/clear", "removed all")
        t.say("hello", r"tokens is full")

    def test_thinking_is_faint(self):
        model = self.folder / "thinker"
        shutil.copytree(self.model, model)
        config = json.loads((model / "tokenizer_config.json").read_text())
        config["chat_template"] = config["chat_template"].replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
        self.assertIn("<think>", config["chat_template"])
        (model / "tokenizer_config.json").write_text(json.dumps(config))
        _, before = self.chat(*always("a", 3), model=model).say("hello", ANSWERED)
        self.assertIn(FAINT + "a", before)
        _, before = self.chat(*always("a", 3)).say("hello", ANSWERED)
        self.assertNotIn(FAINT + "a", before)

    def test_control_characters_do_not_reach_the_terminal(self):
        escape = tiny_model.byte_letters()[0x1B]
        _, before = self.chat(*always(escape, 3)).say("hello", ANSWERED)
        self.assertIn("\ufffd" * 3, before.replace("\r", ""))

    def test_pipe(self):
        saved = self.folder / "piped.json"
        text = f'hello\n/nonsense\nfirst\\\nsecond\n/save {saved}\n"""\nno end'
        done = harness.run("chat", self.model, *always("a", 4), stdin=text)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, "aaaa\naaaa\naaaa\n")
        self.assertIn("no command /nonsense", done.stderr)
        self.assertNotIn("\x1b", done.stdout + done.stderr)
        self.assertEqual([m["content"] for m in json.loads(saved.read_text())], ["hello", "aaaa", "first\nsecond", "aaaa"])

    def test_without_template(self):
        model = self.folder / "bare"
        shutil.copytree(self.model, model)
        config = json.loads((model / "tokenizer_config.json").read_text())
        del config["chat_template"]
        (model / "tokenizer_config.json").write_text(json.dumps(config))
        done = harness.run("chat", model, stdin="hello\n")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no chat template", done.stderr)


@unittest.skipUnless(shutil.which("tmux"), "there is no tmux")
class Tmux(WithModel):
    def tmux(self, *arguments):
        return subprocess.run(["tmux", "-L", self.server, "-f", "/dev/null", *map(str, arguments)], check=True,
                              env=harness.ENVIRONMENT | {"LC_ALL": "C.UTF-8"}, capture_output=True, encoding="utf-8").stdout

    def expect(self, pattern, timeout=60):
        end = time.monotonic() + timeout
        while not re.search(pattern, screen := self.tmux("capture-pane", "-p", "-S", "-")):
            if time.monotonic() > end:
                self.fail(f"{pattern!r} is not on the screen:\n{screen}")
            time.sleep(0.05)

    def test_session(self):
        self.server = f"sala-test-{os.getpid()}"
        saved, status = self.folder / "tmux.json", self.folder / "status"
        command = [harness.PROGRAM, "chat", self.model, "--ctx", "100000", *ENDLESS, "--logit-bias", f"{letter('c')}=1000"]
        shell = " ".join(f"'{c}'" for c in command) + f"; echo $? > '{status}'; sleep 600"
        self.tmux("new-session", "-d", "-x", "100", "-y", "40", shell)
        self.addCleanup(self.tmux, "kill-server")
        for message in ("hello", "once more"):
            self.expect(r"(?m)^>\s*\Z")
            self.tmux("send-keys", "-l", message)
            self.tmux("send-keys", "Enter")
            self.expect(rf"> {message}\s+c{{60}}[\s\S]*\Z")
            self.tmux("send-keys", "C-c")
            self.expect(r"\[stopped\]\s+>\s*\Z")
            self.tmux("clear-history")
        self.tmux("send-keys", "/undo", "Enter")
        self.expect("2 messages are left")
        self.tmux("send-keys", f"/save {saved}", "Enter")
        self.expect("2 messages in")
        self.tmux("send-keys", "/exit", "Enter")
        end = time.monotonic() + 60
        while not status.exists() and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(status.read_text().strip(), "0")
        messages = json.loads(saved.read_text())
        self.assertEqual([m["role"] for m in messages], ["user", "assistant"])
        self.assertEqual(messages[0]["content"], "hello")


class Run(WithModel):
    """The sampling flags of `sala run`."""

    def reply(self, *flags, prompt="hello"):
        return json.loads(harness.sala("run", self.model, "-p", prompt, "--json", *flags))

    def test_seed(self):
        self.assertEqual(self.reply("-n", 20, "--seed", 3)["tokens"], self.reply("-n", 20, "--seed", 3)["tokens"])
        self.assertNotEqual(self.reply("-n", 20, "--seed", 3, "--temp", 2)["tokens"],
                            self.reply("-n", 20, "--seed", 4, "--temp", 2)["tokens"])

    def test_bias_and_stop_strings(self):
        a, b = letter("a"), letter("b")
        both = ["--logit-bias", f"{a}=1000", "--logit-bias", f"{b}=1000", "-n", 200, "--temp", 1]
        text = self.reply(*both)["text"]
        self.assertEqual(set(text), {"a", "b"})
        stopped = self.reply(*both, "--stop", "abba", "--stop", "nothing")
        self.assertEqual(stopped["text"], text[:text.index("abba")])
        self.assertEqual(stopped["finish_reason"], "stop")
        self.assertEqual(len(stopped["tokens"]), text.index("abba") + 4)

    def test_penalty(self):
        flags = ["--logit-bias", f"{letter('a')}=500", "--logit-bias", f"{letter('b')}=450", "-n", 6, "--temp", 0]
        self.assertEqual(self.reply(*flags)["text"], "aaaaaa")
        self.assertEqual(self.reply(*flags, "--presence-penalty", 100)["text"], "abaaaa")
        self.assertEqual(self.reply(*flags, "--frequency-penalty", 100)["text"], "ababab")
        # The prompt counts for this one alone.
        self.assertEqual(self.reply(*flags, "--raw", "--repeat-penalty", 2)["text"], "abaaaa")
        self.assertEqual(self.reply(*flags, "--raw", "--repeat-penalty", 2, prompt="a")["text"], "baaaaa")

    def test_cuts(self):
        greedy = self.reply("--temp", 0, "-n", 10)["tokens"]
        for cut in (["--top-k", 1], ["--top-p", 0], ["--min-p", 1]):
            self.assertEqual(self.reply("--temp", 2, "-n", 10, *cut)["tokens"], greedy, cut)

    def test_logprobs(self):
        reply = self.reply("--temp", 0, "-n", 5, "--logprobs", 3)
        self.assertEqual([place["id"] for place in reply["logprobs"]], reply["tokens"])
        for place in reply["logprobs"]:
            self.assertEqual(len(place["top"]), 3)
            self.assertEqual(place["top"][0]["id"], place["id"])
            self.assertEqual(place["top"][0]["logprob"], place["logprob"])
            self.assertLess(place["logprob"], 0)
            self.assertEqual(place["top"], sorted(place["top"], key=lambda t: -t["logprob"]))
        self.assertNotIn("logprobs", self.reply("-n", 1))
        # All of them together are a distribution.
        place = self.reply("-n", 1, "--logprobs", 100000)["logprobs"][0]
        self.assertAlmostEqual(sum(2.718281828459045 ** t["logprob"] for t in place["top"]), 1, places=9)

    def test_bad_flags(self):
        for flags, status, sentence in [(["--logprobs", 2], 2, "--json"), (["--logit-bias", "x"], 2, "ID=VALUE"),
                                        (["--logit-bias", "1=x"], 2, "ID=VALUE"), (["--logit-bias", "100000=1"], 1, "token 100000"),
                                        (["--stop", ""], 2, "empty"), (["--min-p", 2], 2, "--min-p"),
                                        (["--repeat-penalty", 0], 2, "--repeat-penalty"), (["--top-k", -1], 2, "--top-k")]:
            done = harness.run("run", self.model, "-p", "x", "-n", 1, *flags)
            self.assertEqual(done.returncode, status, (flags, done.stderr))
            self.assertIn(sentence, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)


if __name__ == "__main__":
    harness.main()
