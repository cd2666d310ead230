#!/usr/bin/env python3
"""Sessions through the program: a text that was ingested, killed, resumed, forked, rolled back and gone on with in new
processes gives what one process without a session gives; what is damaged, different or in use is refused by name."""
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import numpy as np

import harness
import tiny_model

KILLS = 220 if harness.FULL else 20
WORDS = ["the", "hello", "window", "ran", "over", "all", "tell", "she", "bright", "cold", "Anna", "sea"]
GREEDY = ["--temp", "0", "--json"]


def text_of(seed, words):
    chooser = random.Random(seed)
    return " ".join(chooser.choice(WORDS) for _ in range(words))


class Sessions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name)
        cls.model = cls.root / "model"
        tiny_model.make(cls.model)
        cls.book = cls.root / "book.txt"
        cls.book.write_text(text_of(1, 300))
        cls.more = cls.root / "more.txt"
        cls.more.write_text(text_of(2, 50))
        cls.long = cls.root / "long.txt"
        cls.long.write_text(text_of(3, 6000))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def setUp(self):
        self.sessions = self.root / "sessions"
        shutil.rmtree(self.sessions, ignore_errors=True)

    def where(self, arguments):
        return [*arguments, "--sessions-dir", self.sessions]

    def run_program(self, *arguments):
        return harness.run(*self.where(arguments))

    def sala(self, *arguments):
        return harness.sala(*self.where(arguments))

    def refuse(self, parts, *arguments, status=1):
        done = self.run_program(*arguments)
        self.assertEqual(done.returncode, status, done.stderr)
        for part in parts:
            self.assertIn(part, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)

    def ingest(self, name, *files, flags=()):
        return self.run_program("session", "ingest", self.model, name, *files, *flags)

    def answer(self, *arguments, count=12, flags=()):
        return json.loads(self.sala("run", self.model, "-n", count, *GREEDY, *arguments, *flags))

    def inspect(self, name):
        return json.loads(self.sala("session", "inspect", name, "--json"))

    def ids(self, text, special=False):
        flags = ["--special"] if special else []
        return json.loads(harness.sala("tokenize", self.model, "-p", text, "--json", *flags))["ids"]

    def greedy(self, ids, count, flags=()):
        """What follows ids when every next token is the most likely one, each from a whole run of its own."""
        reply = []
        for _ in range(count):
            path = harness.write_ids(self.root / "ids.json", [*ids, *reply])
            last = harness.logits(self.model, path, "--last", "1", "--compute", "auto", "--kv", "auto", *flags)
            reply.append(int(np.argmax(last[0])))
        return reply

    def test_answers_equal_those_without_a_session(self):
        for flags in ([], ["--compute", "f32", "--kv", "f32"], ["--compute", "int8"], ["--sparse", "dense"],
                      ["--sparse", "per-query"], ["--chunk", "33"]):
            name = "s" + "".join(flags)
            done = self.ingest(name, self.book, self.more, flags=flags)
            self.assertEqual(done.returncode, 0, done.stderr)
            plain = self.answer("--raw", "--file", self.both(), "-p", "hello", flags=flags)
            kept = self.answer("--session", name, "--raw", "-p", "hello", flags=flags)
            self.assertEqual(kept["tokens"], plain["tokens"], flags)
            self.assertFalse(kept["session"]["saved"])
            self.assertLess(kept["session"]["read_again"], 32)
            self.assertEqual(self.inspect(name)["tokens"], kept["session"]["tokens"])

    def both(self):
        """The two texts in one file; every word is a token of its own, so that the ids are the same."""
        path = self.root / "both.txt"
        path.write_text(self.book.read_text() + self.more.read_text())
        ids = self.ids(self.book.read_text()) + self.ids(self.more.read_text())
        self.assertEqual(self.ids(path.read_text()), ids)
        return path

    def test_holds_bos_and_the_files_and_nothing_else(self):
        self.ingest("book", self.book, self.more)
        ids = np.fromfile(self.sessions / "book" / "tokens-0", dtype="<i4").tolist()
        self.assertEqual(ids, [1, *self.ids(self.book.read_text()), *self.ids(self.more.read_text())])

    def test_messages(self):
        """The user's turn without its BOS; the next one ends the answer before it."""
        self.ingest("book", self.book)
        text = [1, *self.ids(self.book.read_text())]
        first = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
        text += self.ids(first, special=True)
        reply = self.greedy(text, 3)
        out = self.answer("--session", "book", "-p", "Who?", "--save", count=3)
        self.assertEqual(out["tokens"], reply)
        self.assertTrue(out["session"]["saved"])
        text += reply
        self.assertEqual(self.inspect("book")["tokens"], len(text))
        text += self.ids("<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n", special=True)
        out = self.answer("--session", "book", "-p", "Why?", count=3)
        self.assertEqual(out["tokens"], self.greedy(text, 3))
        self.assertEqual(len(self.inspect("book")["turns"]), 1)
        self.refuse(["a system message comes before the first message"], "run", self.model, "--session", "book", "-p", "Why?",
                    "--system", "Be kind.")

    def test_goes_on_writing_without_a_prompt(self):
        for words in range(300, 308):  # some end at a multiple of the cell
            self.book.write_text(text_of(1, words))
            self.ingest(f"book{words}", self.book)
            plain = self.answer("--raw", "--file", self.book)
            kept = self.answer("--session", f"book{words}", "--raw")
            self.assertEqual(kept["tokens"], plain["tokens"])
            self.assertGreater(kept["session"]["read_again"], 0)

    def test_save_makes_a_session_and_run_alone_does_not(self):
        self.refuse(["there is no session new", "sala session list"], "run", self.model, "--session", "new", "-p", "x")
        out = self.answer("--session", "new", "--raw", "-p", "hello", "--save")
        plain = self.answer("--raw", "-p", "hello")
        self.assertEqual(out["tokens"], plain["tokens"])
        self.assertEqual(out["session"]["tokens"], 0)
        more = self.answer("--session", "new", "--raw", "-p", " sea")
        ids = [1, *self.ids("hello"), *out["tokens"], *self.ids(" sea")]
        self.assertEqual(more["tokens"], self.greedy(ids, 12))

    def test_fork_and_roll_back(self):
        self.ingest("book", self.book)
        tokens = self.inspect("book")["tokens"]
        ids = [1, *self.ids(self.book.read_text())]
        chooser = random.Random(7)
        for i, at in enumerate([tokens, tokens - 1, 1, *(chooser.randrange(1, tokens) for _ in range(5))]):
            self.sala("session", "fork", "book", f"f{i}", "--at", at)
            self.assertEqual(self.inspect(f"f{i}")["tokens"], at)
            out = self.answer("--session", f"f{i}", "--raw", "-p", "sea", "--save", count=2)
            self.assertEqual(out["tokens"], self.greedy([*ids[:at], *self.ids("sea")], 2), at)
            self.sala("session", "rollback", f"f{i}", at // 2)
            out = self.answer("--session", f"f{i}", "--raw", "-p", "sea", count=2)
            self.assertEqual(out["tokens"], self.greedy([*(ids[:at // 2] or [1]), *self.ids("sea")], 2), at)
        self.sala("session", "delete", "book", "f0")
        left = [s["name"] for s in json.loads(self.sala("session", "list", "--json"))]
        self.assertEqual(left, [f"f{i}" for i in range(1, 8)])
        self.sala("session", "verify", *left)
        self.refuse(["session f1 has", "fewer than 99999"], "session", "rollback", "f1", 99999)
        self.refuse(["session f1 has", "fewer than 99999"], "session", "fork", "f1", "g", "--at", 99999)
        self.refuse(["there is a session of this name"], "session", "fork", "f1", "f2")

    def test_append(self):
        self.ingest("book", self.book)
        done = self.run_program("session", "append", self.model, "book", self.more)
        self.assertEqual(done.returncode, 0, done.stderr)
        plain = self.answer("--raw", "--file", self.both(), "-p", "hello")
        self.assertEqual(self.answer("--session", "book", "--raw", "-p", "hello")["tokens"], plain["tokens"])
        self.refuse(["there is no session none"], "session", "append", self.model, "none", self.more)

    def test_ingest_again(self):
        self.ingest("book", self.book)
        again = self.ingest("book", self.book)
        self.assertEqual(again.returncode, 0)
        self.assertIn("has these", again.stderr)
        # Files may follow: the session goes on where it was.
        self.assertIn("goes on from token", self.ingest("book", self.book, self.more).stderr)
        self.refuse(["session book has another text than these files from token 1 on"], "session", "ingest", self.model,
                    "book", self.more)
        self.refuse(["from token", "sala session append"], "session", "ingest", self.model, "book", self.book)
        self.refuse(["none.txt: cannot open"], "session", "ingest", self.model, "book", self.root / "none.txt")

    def test_interrupt(self):
        self.stop_ingest(signal.SIGINT, "talk")
        done = self.ingest("talk", self.long)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.expect_whole("talk")

    def commits(self, name):
        try:
            return json.loads((self.sessions / name / "manifest.json").read_text())["tokens"]["count"]
        except FileNotFoundError:
            return 0

    def stop_ingest(self, how, name, chooser=random.Random(1)):
        """Starts an ingest and stops it some time after its next commits; true if it was done before."""
        process = subprocess.Popen([str(harness.PROGRAM), *map(str, self.where(
            ["session", "ingest", self.model, name, self.long, "--threads", "1"]))],
            env=harness.ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        seen = self.commits(name)
        for _ in range(chooser.randrange(3)):
            while process.poll() is None and self.commits(name) == seen:
                time.sleep(0.001)
            seen = self.commits(name)
        time.sleep(chooser.random() * 0.1)
        process.send_signal(how)
        _, errors = process.communicate()
        if how == signal.SIGINT and process.returncode != 0:
            if process.returncode > 0:  # else it had not begun to listen
                self.assertIn("interrupted; ", errors.decode())
        return process.returncode == 0

    def expect_whole(self, name):
        self.sala("session", "verify", name)
        if not hasattr(Sessions, "whole"):
            Sessions.whole = self.answer("--raw", "--file", self.long, "-p", "hello")["tokens"]
        self.assertEqual(self.answer("--session", name, "--raw", "-p", "hello")["tokens"], self.whole)

    def test_killed_at_any_time(self):
        chooser = random.Random(os.environ.get("SALA_TEST_SEED", "5"))
        expected = [1, *self.ids(self.long.read_text())]
        finished, committed = 0, 0
        for kill in range(KILLS):
            name = f"k{finished}"
            before = self.commits(name)
            done = self.stop_ingest(signal.SIGKILL, name, chooser)
            after = self.commits(name)
            self.assertGreaterEqual(after, before, kill)
            if after == 0:
                continue  # killed before its first commit: there is no session
            committed += after > before
            self.sala("session", "verify", name)
            self.assertEqual(self.inspect(name)["tokens"], after)
            if not done and kill % 5 == 0:
                prompt = [*expected[:after], *self.ids("hello")]
                out = self.answer("--session", name, "--raw", "-p", "hello", count=1)
                self.assertEqual(out["tokens"], self.greedy(prompt, 1), kill)
            if done or after == len(expected):
                self.expect_whole(name)
                finished += 1
        self.assertGreater(committed, 3)
        done = self.ingest(f"k{finished}", self.long)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.expect_whole(f"k{finished}")

    def test_a_first_ingest_that_fails_leaves_nothing(self):
        def small_disk():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        done = subprocess.run([str(harness.PROGRAM), *map(str, self.where(["session", "ingest", self.model, "big", self.long]))],
                              env=harness.ENVIRONMENT, capture_output=True, preexec_fn=small_disk)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertFalse((self.sessions / "big").exists())
        # What a killed one leaves is no session, and can be deleted.
        (self.sessions / "dead").mkdir()
        for name in ("lock", "kv-0", "tokens-0"):
            (self.sessions / "dead" / name).write_text("x")
        self.refuse(["its writer died before it had committed anything"], "session", "inspect", "dead")
        self.sala("session", "delete", "dead")
        self.assertFalse((self.sessions / "dead").exists())

    def test_two_writers(self):
        self.ingest("book", self.book)
        writer = subprocess.Popen([str(harness.PROGRAM), *map(str, self.where(["chat", self.model, "--session", "book"]))],
                                  env=harness.ENVIRONMENT, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        try:
            while b"answers are saved" not in writer.stderr.readline():
                self.assertIsNone(writer.poll())
            for command in (["run", self.model, "--session", "book", "-p", "x", "--save"], ["session", "delete", "book"],
                            ["session", "rollback", "book", 3], ["session", "ingest", self.model, "book", self.book]):
                self.refuse(["/book: another process is writing this session"], *command)
            self.answer("--session", "book", "--raw", "-p", "hello")  # to read is no matter
            self.sala("session", "fork", "book", "other")
        finally:
            writer.communicate()

    def test_chat(self):
        self.ingest("book", self.book)
        tokens = self.inspect("book")["tokens"]

        def chat(*lines):
            done = harness.run(*self.where(["chat", self.model, "--session", "book", "-n", "3", "--temp", "0"]),
                               stdin="".join(line + "\n" for line in lines))
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stderr

        chat("Who?", "Why?")
        first = self.inspect("book")
        self.assertEqual(first["turns"][0], tokens)
        self.assertEqual(len(first["turns"]), 2)
        chat("/undo", "Why?")
        self.assertEqual(self.inspect("book")["tokens"], first["tokens"])
        ids = np.fromfile(self.sessions / "book" / "tokens-0", dtype="<i4")
        self.assertEqual(len(ids), first["tokens"] + first["tokens"] - first["turns"][1])  # nothing was overwritten
        self.assertIn("removed all messages", chat("/clear"))
        self.assertEqual(self.inspect("book")["tokens"], tokens)
        self.assertIn("there is no message to remove", chat("/undo"))
        self.assertIn("/load would replace", chat("/load x.json"))

    def test_refuses_other_models_and_options(self):
        self.ingest("book", self.book)
        run = ["run", self.model, "--session", "book", "--raw", "-p", "hello"]
        self.refuse(["session book: kv is bf16 in the session and f32 here"], *run, "--kv", "f32")
        self.refuse(["session book: sparse is always (", "and dense ("], *run, "--sparse", "dense")
        self.refuse(["--sparse hf has no sessions"], *run, "--sparse", "hf")
        self.refuse(["session book: kv is bf16"], *run, "--kv", "f32", "--inexact")
        self.refuse(["compute: auto in the session, f32 here", "--inexact"], *run, "--compute", "f32")
        out = self.answer("--session", "book", "--raw", "-p", "hello", "--inexact", "--save", flags=["--compute", "f32"])
        self.assertEqual(out["session"]["inexact"], ["compute: auto in the session, f32 here"])
        self.assertFalse(self.inspect("book")["exact"])
        self.refuse(["from token"], *run)
        other = self.root / "other"
        tiny_model.make(other, scale_emb=3.0)
        self.ingest("second", self.book)
        self.refuse(["session second: config is"], "run", other, "--session", "second", "-p", "x")
        tiny_model.make(other, seed=9)
        self.refuse(["session second was computed otherwise", "weights: "], "run", other, "--session", "second", "-p", "x")

    def test_damage_is_told_by_page_and_nothing_is_changed(self):
        self.ingest("book", self.book)
        kv = self.sessions / "book" / "kv-0"
        good = kv.read_bytes()
        for at in (0, len(good) // 2, len(good) - 1):
            bad = bytearray(good)
            bad[at] ^= 1
            kv.write_bytes(bad)
            page = at // (len(good) // -(-self.inspect("book")["tokens"] // 16))
            done = self.run_program("session", "verify", "book")
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"kv-0: keys and values of page {page}, layer", done.stderr)
            done = self.run_program("run", self.model, "--session", "book", "--raw", "-p", "hello", *GREEDY)
            if done.returncode != 0:
                self.assertIn(f"kv-0: keys and values of page {page}, layer", done.stderr)
            self.assertEqual(kv.read_bytes(), bytes(bad))
        kv.write_bytes(good)
        for name in ("manifest.json", "tokens-0", "index-0"):
            path = self.sessions / "book" / name
            good = path.read_bytes()
            path.write_bytes(good[:-1])
            self.refuse(["sessions/book"], "run", self.model, "--session", "book", "-p", "x")
            path.write_bytes(good)
        self.sala("session", "verify", "book")

    def test_names(self):
        for name in ("..", "a/b", "", "x" * 65, "a b"):
            self.refuse(["a session's name is 1 to 64"], "session", "inspect", name)
        self.assertEqual(self.sala("session", "list"), "")
        self.assertEqual(json.loads(self.sala("session", "list", "--json")), [])
        self.refuse(["--save needs --session"], "run", self.model, "-p", "x", "--save", status=2)


if __name__ == "__main__":
    harness.main()
