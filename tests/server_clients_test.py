"""Programs of others against `sala serve`, unmodified, each skipped where it is not installed (docs/serving.md says how to):
schemathesis, which sends whatever the OpenAPI document allows; lm-eval; locust; haproxy in front of two replicas; Claude Code and
Codex, which talk to a model that says what it is told to."""
import concurrent.futures
import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import harness
import scripted_model
import server_agents_test
import tiny_model
from server_test import Server


def program(name):
    """Where a program is: beside this Python, or on PATH."""
    beside = pathlib.Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class WithModel(tiny_model.WithModel):
    def serve(self, name, *flags, context=8192):
        return Server(self.model, "--ctx-size", context, "--sessions-dir", self.folder / name, *flags)


class Clients(WithModel):
    def tool(self, name, install):
        found = program(name)
        if not found:
            self.skipTest(install)
        return found

    def must(self, *command, **options):
        done = subprocess.run([str(c) for c in command], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              encoding="utf-8", errors="replace", timeout=600, **options)
        self.assertEqual(done.returncode, 0, done.stdout[-6000:])
        return done.stdout

    def test_schemathesis(self):
        tool = self.tool("schemathesis", "pip install schemathesis")
        checks = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"
        # It asks for as many tokens as there may be and waits a bounded time: few fit, and sanitizers get time for those.
        with self.serve("fuzzed", context=512) as server:
            said = self.must(tool, "run", f"http://127.0.0.1:{server.port}/openapi.json", "--checks", checks, "--seed", 1,
                             "--request-timeout", 60, "--phases", "coverage,fuzzing",
                             "--max-examples", 200 if harness.FULL else 5, "--suppress-health-check", "all")
            self.assertRegex(said, r"Tested: *2\d")

    def test_lm_eval(self):
        tool = self.tool("lm_eval", "pip install 'lm-eval[api]' transformers")
        tasks = self.folder / "tasks"
        tasks.mkdir()
        questions = [{"question": f"hello {i} all?", "choices": ["the sea", "the window"], "answer": i % 2} for i in range(6)]
        (tasks / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
        data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tasks / 'q.jsonl'}}}}}\ntest_split: test\ndoc_to_text: '{{{{question}}}}'\n"
        (tasks / "choose.yaml").write_text("task: choose\n" + data + "output_type: multiple_choice\ndoc_to_choice: '{{choices}}'\n"
                                           "doc_to_target: answer\nmetric_list: [{metric: acc}]\n")
        (tasks / "write.yaml").write_text("task: write\n" + data + "output_type: generate_until\ndoc_to_target: '{{choices[answer]}}'\n"
                                          "generation_kwargs: {until: ['\\n'], max_gen_toks: 8}\nmetric_list: [{metric: exact_match}]\n")
        environment = os.environ | {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder / "hf")}
        with self.serve("evaluated") as server:
            self.must(tool, "--model", "local-completions", "--tasks", "choose,write", "--include_path", tasks, "--output_path",
                      self.folder / "out", "--model_args",
                      f"model=tiny,base_url=http://127.0.0.1:{server.port}/v1/completions,tokenizer={self.model},num_concurrent=4,max_length=2048",
                      env=environment)
            results = json.loads(next((self.folder / "out").rglob("results_*.json")).read_text())["results"]
            self.assertIn("acc,none", results["choose"])
            self.assertIn("exact_match,none", results["write"])

    def test_locust(self):
        tool = self.tool("locust", "pip install locust")
        users = self.folder / "users.py"
        users.write_text("""
from locust import HttpUser, constant, task

class Caller(HttpUser):
    wait_time = constant(0)

    @task
    def chat(self):
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 16, "stream": True}
        with self.client.post("/v1/chat/completions", json=body, stream=True, catch_response=True) as answer:
            events = [line for line in answer.iter_lines() if line.startswith(b"data: ")]
            if events[-1:] != [b"data: [DONE]"]:
                answer.failure("the stream has no end")
""")
        with self.serve("loaded") as server:
            said = self.must(tool, "-f", users, "--headless", "-u", 16, "-r", 16, "-t", "3s", "--stop-timeout", 20, "--json",
                             "--host", f"http://127.0.0.1:{server.port}")
            stats = json.loads(said[said.index("[\n"):said.rindex("]") + 1])
            self.assertGreater(stats[0]["num_requests"], 0)
            self.assertEqual(stats[0]["num_failures"], 0)


class Agents(unittest.TestCase):
    """Agents that ask, call a tool that they do not have, hear so, and tell the answer."""

    def program(self, name, package, module, file):
        spec = importlib.util.find_spec(module)
        bundled = spec and pathlib.Path(spec.origin).parent / file
        found = str(bundled) if bundled and bundled.exists() else shutil.which(name)
        return found or self.skipTest(f"pip install {package}")

    def talk(self, command):
        """What an agent says; `command` gives what to run and its environment, for the server's port."""
        with tempfile.TemporaryDirectory() as scratch:
            home, model = pathlib.Path(scratch) / "home", pathlib.Path(scratch) / "told"
            home.mkdir()
            model.mkdir()
            scripted_model.make(model, server_agents_test.REPLIES, special=server_agents_test.SPECIAL)
            with Server(model, "--ctx-size", 400000) as server:  # its vocabulary has hardly more than letters
                words, variables = command(server.port)
                done = subprocess.run([*words, server_agents_test.QUESTION], cwd=home, env=harness.ENVIRONMENT | {"HOME": str(home)} | variables,
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", timeout=600)
                self.assertEqual(done.returncode, 0, (done.stdout + done.stderr)[-6000:])
        # All of the first turn is known in the second one.
        numbers = [[int(re.search(rf" {name}=(\d+)", line)[1]) for name in ("prompt", "generated", "cached")]
                   for line in server.said if line.startswith("request ")]
        self.assertEqual(len(numbers), 2, server.said)
        self.assertGreaterEqual(numbers[1][2], numbers[0][0] + numbers[0][1] - 1)
        return done.stdout.strip()

    def test_claude_code(self):
        claude = self.program("claude", "claude-agent-sdk", "claude_agent_sdk", "_bundled/claude")
        said = self.talk(lambda port: ([claude, "-p"], {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}", "ANTHROPIC_API_KEY": "none",
                                                        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}))
        self.assertEqual(said, "It is blue.")

    def test_codex(self):
        codex = self.program("codex", "openai-codex-cli-bin", "codex_cli_bin", "bin/codex")
        guide = (harness.ROOT / "docs" / "serving.md").read_text()
        options = shlex.split(re.search(r"(?m)^codex (-c .*)$", guide)[1])
        said = self.talk(lambda port: ([codex, "exec", "--skip-git-repo-check",
                                        *(word.replace("NAME", "told").replace(":8000", f":{port}") for word in options)], {}))
        self.assertEqual(said, "It is blue.")


def haproxy_configuration(port, one, two):
    """The one in docs/serving.md, with these ports."""
    guide = (harness.ROOT / "docs" / "serving.md").read_text()
    text = next(part for part in guide.split("```\n") if part.startswith("defaults\n"))
    for written, ours in (("127.0.0.1:8080", port), ("127.0.0.1:8000", one), ("127.0.0.1:8001", two)):
        assert written in text, written
        text = text.replace(written, f"127.0.0.1:{ours}")
    return text


class Replicas(WithModel):
    """Two replicas that share their sessions' directory behind haproxy, as docs/serving.md shows it."""

    def ask(self, path, body=None, session=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body and json.dumps(body).encode(),
                                         {"x-session-id": session} if session else {})
        for attempt in range(3):  # as OpenAI's clients do
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as refused:
                if refused.code != 503 or attempt == 2:
                    raise
                time.sleep(float(refused.headers["Retry-After"]))

    def talk(self, session):
        answer = self.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "what is it?"}], "temperature": 0,
                                                   "max_tokens": 8, "model": "tiny"}, session)
        return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    def wait_for(self, what):
        end = time.monotonic() + 20
        while not what():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)

    def answered(self, server):
        return sum(int(line.split()[-1]) for line in server.ask("GET", "/metrics")[1].splitlines()
                   if line.startswith("sala:replies_total"))

    def test_replicas(self):
        haproxy = program("haproxy") or shutil.which("haproxy", path="/usr/sbin")
        if not haproxy:
            self.skipTest("apt-get install haproxy")
        self.port = free_port()
        with self.serve("shared") as one, self.serve("shared") as two:
            (self.folder / "haproxy.cfg").write_text(haproxy_configuration(self.port, one.port, two.port))
            router = subprocess.Popen([haproxy, "-db", "-f", str(self.folder / "haproxy.cfg")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            try:
                self.wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", self.port)) == 0)
                self.route(one, two)
            finally:
                router.kill()
                router.communicate()

    def route(self, one, two):
        # Affinity: each session stays with one replica, and both have some.
        for i in range(8):
            for _ in range(3):
                self.talk(f"caller-{i}")
        counts = self.answered(one), self.answered(two)
        self.assertEqual(sum(counts), 24)
        self.assertTrue(all(n > 0 and n % 3 == 0 for n in counts), counts)
        # A session that was saved.
        self.ask("/v1/sessions", {"id": "book"}, "book")
        documents = self.ask("/v1/sessions/book/ingest", {"text": "hello, the sea and the window. " * 50}, "book")["tokens"]
        first, cached = self.talk("book")
        self.assertGreaterEqual(cached, documents)
        self.assertTrue(self.ask("/v1/sessions/book/save", {}, "book")["saved"])
        home = one if any(s["in_memory"] for s in one.ask("GET", "/v1/sessions")[1]["data"]) else two
        other = two if home is one else one
        # Its replica drains: what runs there ends well, and the session goes on at once in the other one, from the disk.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            long = pool.submit(self.ask, "/v1/chat/completions", {"messages": [{"role": "user", "content": "all"}], "max_tokens": 5000,
                                                                  "ignore_eos": True}, "book")
            self.wait_for(lambda: "sala:requests_running{model_name=\"tiny\"} 1" in home.ask("GET", "/metrics")[1])
            before = self.answered(other)
            home.process.terminate()
            self.wait_for(lambda: home.ask("GET", "/ready")[0] == 503)
            answer, cached = self.talk("book")
            self.assertEqual(long.result()["usage"]["completion_tokens"], 5000)
        self.assertEqual(answer, first)
        self.assertGreaterEqual(cached, documents)
        self.assertEqual(home.process.wait(60), 0)
        for i in range(8):
            self.talk(f"caller-{i}")
        self.assertEqual(self.answered(other), before + 9)


if __name__ == "__main__":
    harness.main()
