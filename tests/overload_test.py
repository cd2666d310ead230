#!/usr/bin/env python3
"""`sala serve` with far more clients than it has room for, some of which vanish, stall, send garbage or far too much.

  tests/overload_test.py [--seconds 6] [--clients 40] [--slots 4] [--queue 4] [--model MODEL] [--pin] [--obey]
                         [--out FILE]

Checks that every request gets an answer or a refusal that says when to come back, that nothing stays behind when the crowd
has left, that memory is flat after a warm-up of a third of the time, and that the server ends well; a sanitizer's finding
would change its exit status. Prints what it saw as JSON. Latencies are told and not judged: those of the clients, and the
server's own account of them (queue, prompt and reply), which leaves out how long a client waits for its own processor. --pin
gives the server the first core for itself; --obey has polite clients come back about when they were told to. Without --model a
tiny random one, which ctest uses.
"""
import argparse
import collections
import http.client
import json
import os
import pathlib
import random
import re
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time

import harness
import tiny_model
from server_test import Server

FLAT = 0.02, 4 << 20  # what resident memory may grow by: a share, or bytes where that is less than an allocator's noise


def rss(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def sanitized(pid):
    """Whether a sanitizer's shadow is mapped: then freed memory stays resident by design."""
    return int(re.search(r"VmSize:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) > 1 << 30  # KiB


def body(chooser, **fields):
    words = " ".join(chooser.choice(("window", "sea", "hello", "all")) for _ in range(chooser.randrange(2, 60)))
    return json.dumps({"messages": [{"role": "user", "content": words}], "max_tokens": 24, "ignore_eos": True,
                       "stream": chooser.random() < 0.5} | fields)


class Crowd:
    """Clients of all kinds, each a thread, until `end`; what they saw that is wrong is in `wrong`."""

    def __init__(self, port, end, obeys=False, seed=1):
        self.port, self.end, self.obeys, self.seed = port, end, obeys, seed
        self.lock = threading.Lock()
        self.seen, self.seconds, self.served, self.wrong = collections.Counter(), [], [], []

    def note(self, what, seconds=None, served=None):
        with self.lock:
            self.seen[what] += 1
            if seconds is not None:
                self.seconds.append(seconds)
            if served is not None:
                self.served.append(served)

    def run(self, clients):
        kinds = [self.polite] * clients + [self.vanishing] * 4 + [self.stalling] * 4 + [self.babbling] * 2 + [self.giant]
        threads = [threading.Thread(target=self.repeat, args=(kind, random.Random(self.seed + i))) for i, kind in enumerate(kinds)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    def repeat(self, kind, chooser):
        while time.monotonic() < self.end:
            try:
                kind(chooser)
            except Exception as e:  # a client that dies must not hide what it found
                with self.lock:
                    self.wrong.append(f"{kind.__name__}: {type(e).__name__}: {e}")
                return

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def say(self, client, text):
        client.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())

    def polite(self, chooser):
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("POST", "/v1/chat/completions", body(chooser))
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        if answer.status == 200:
            served = None
            if answer.headers["Content-Type"] == "application/json":
                reply = json.loads(text)
                assert reply["usage"]["completion_tokens"] == 24, text
                served = sum(reply["timings"][part] for part in ("queue_ms", "prompt_ms", "predicted_ms")) / 1000
            else:
                assert text.endswith("data: [DONE]\n\n") and '"finish_reason":"length"' in text.replace(": ", ":"), text
            self.note("answered", time.monotonic() - start, served)
        else:
            told = int(answer.headers["Retry-After"] or 0)
            assert answer.status in (429, 503) and told > 0, f"{answer.status}: {text}"
            self.note("refused")
            time.sleep((told if self.obeys else 0.1) * (0.5 + chooser.random()))

    def vanishing(self, chooser):
        with self.connect() as client:
            text = body(chooser, max_tokens=400)
            if chooser.random() < 0.3:
                text = text[:len(text) // 2] + " " * 10  # and the rest never comes
                client.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{text}".encode())
            else:
                self.say(client, text)
            time.sleep(0.1 * chooser.random())
            if chooser.random() < 0.5:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a farewell
        self.note("vanished")

    def stalling(self, chooser):
        with self.connect() as client:
            if chooser.random() < 0.5:
                client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Le")
            else:
                self.say(client, body(chooser, stream=True))  # and nobody reads
            time.sleep(min(5, max(0.0, self.end - time.monotonic())) * chooser.random())
        self.note("stalled")

    def babbling(self, chooser):
        with self.connect() as client:
            kind = chooser.randrange(4)
            if kind == 0:
                client.sendall(chooser.randbytes(300) + b"\r\n\r\n")
            else:
                self.say(client, ("{" * 50, "[" * 5000, json.dumps({"messages": 7, "n": -1}))[kind - 1])
            status = client.recv(4096).split(b" ")
            assert len(status) > 1 and status[1] in (b"400", b"431"), status
        self.note("garbage")
        time.sleep(0.02)

    def giant(self, chooser):
        chunk, left, heard = b" " * (1 << 20), 100, b""
        with self.connect() as client:
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (left << 20))
            try:
                while left > 0:
                    client.sendall(chunk)
                    left -= 1
                heard = client.recv(4096)
            except (BrokenPipeError, ConnectionResetError):  # it had said so before
                pass
            assert heard == b"" or b" 413 " in heard, heard
        self.note("giant")
        time.sleep(0.3)


def pin(server):
    """The first core for the server, the others for us."""
    first, *others = sorted(os.sched_getaffinity(0))
    for thread in pathlib.Path(f"/proc/{server}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {first})
    os.sched_setaffinity(0, others)


def measure(model, a):
    with Server(model, "--ctx-size", 4096, "--parallel", a.slots, "--queue", a.queue, "--quiet") as server:
        pid, ask = server.process.pid, {"seed": 3, "temperature": 1.0}
        if a.pin:
            pin(pid)
        want = server.chat(**ask)["choices"]
        alone = Crowd(server.port, 0)
        for i in range(20):
            alone.polite(random.Random(i))

        crowd = Crowd(server.port, time.monotonic() + a.seconds, a.obey)
        running = threading.Thread(target=crowd.run, args=(a.clients,))
        memory = []
        running.start()
        while running.is_alive():
            time.sleep(0.1)
            memory.append(rss(pid))
        if crowd.wrong:
            raise AssertionError("\n".join(crowd.wrong[:10]))

        # Nothing of the crowd stays behind, and it has changed nobody's tokens.
        end = time.monotonic() + 60
        while re.findall(r"(?m)^sala:requests_(?:running|waiting){.*} (\d+)", server.ask("GET", "/metrics")[1]) != ["0", "0"]:
            if time.monotonic() > end:
                raise AssertionError("requests run that nobody waits for")
            time.sleep(0.05)
        if (got := server.chat(**ask)["choices"]) != want:
            raise AssertionError(f"after the crowd {got}, before it {want}")
        third = len(memory) // 3
        warm, last = statistics.median(memory[third:2 * third]), statistics.median(memory[2 * third:])
        flat = last - warm <= max(FLAT[0] * warm, FLAT[1])
        if not sanitized(pid) and not flat:
            raise AssertionError(f"resident memory grew from {warm} to {last} bytes")
        for what in ("answered", "refused", "vanished", "stalled", "garbage", "giant"):
            if crowd.seen[what] == 0:
                raise AssertionError(f"nobody {what}: this was no overload: {crowd.seen}")
        at = lambda values, share: round(sorted(values)[int(share * (len(values) - 1))], 4)  # noqa: E731
        return {"seconds": a.seconds, "clients": a.clients, "slots": a.slots, "queue": a.queue, "seen": dict(crowd.seen),
                "resident_bytes": {"warm": int(warm), "end": int(last), "growth": round(last / warm - 1, 4), "peak": max(memory)},
                "latency_seconds": {"alone_p50": at(alone.seconds, 0.5), "admitted_p50": at(crowd.seconds, 0.5),
                                    "admitted_p95": at(crowd.seconds, 0.95)},
                "served_seconds": {"alone_p50": at(alone.served, 0.5), "admitted_p50": at(crowd.served, 0.5),
                                   "admitted_p95": at(crowd.served, 0.95)}}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seconds", type=float, default=6)
    ap.add_argument("--clients", type=int, default=40)
    ap.add_argument("--slots", type=int, default=4, help="sequences at a time")
    ap.add_argument("--queue", type=int, default=4, help="how many may wait")
    ap.add_argument("--model", type=pathlib.Path)
    ap.add_argument("--pin", action="store_true")
    ap.add_argument("--obey", action="store_true")
    ap.add_argument("--out", type=pathlib.Path)
    a = ap.parse_args()
    if not harness.PROGRAM.exists():
        sys.exit(f"there is no {harness.PROGRAM}: build first (./test.sh)")
    with tempfile.TemporaryDirectory() as scratch:
        model = a.model
        if model is None:
            model = pathlib.Path(scratch) / "tiny"
            tiny_model.make(model)
        result = {"model": model.name} | measure(model, a)
    print(json.dumps(result, indent=1))
    if a.out:
        a.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
