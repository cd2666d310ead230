"""Programs of others against `sala serve`, unmodified, each skipped where it is not installed (docs/serving.md says how to):
schemathesis, which sends whatever the OpenAPI document allows; lm-eval; locust; haproxy in front of two replicas."""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

import harness
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


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.scratch.name)
        cls.model = cls.folder / "tiny"
        tiny_model.make(cls.model)

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def tool(self, name, install):
        found = program(name)
        if not found:
            self.skipTest(install)
        return found

    def serve(self, name, *flags):
        return Server(self.model, "--ctx-size", 8192, "--sessions-dir", self.folder / name, *flags)

    def must(self, *command, **options):
        done = subprocess.run([str(c) for c in command], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              encoding="utf-8", errors="replace", timeout=600, **options)
        self.assertEqual(done.returncode, 0, done.stdout[-6000:])
        return done.stdout

    def test_schemathesis(self):
        tool = self.tool("schemathesis", "pip install schemathesis")
        checks = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"
        with self.serve("fuzzed") as server:
            said = self.must(tool, "run", f"http://127.0.0.1:{server.port}/openapi.json", "--checks", checks, "--seed", 1, "--phases",
                             "coverage,fuzzing", "--max-examples", 200 if harness.FULL else 10, "--suppress-health-check", "all")
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


if __name__ == "__main__":
    harness.main()
