"""Starts servers for the e2e tests and talks to them; standard library alone.

A test is a program: exit 0 passed, 1 failed, 77 skipped. KVASIR_BUILD and KVASIR_SHARED come from
meson.
"""

import atexit
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time

BUILD = os.environ.get("KVASIR_BUILD", "build")
SHARED = os.environ.get("KVASIR_SHARED", "")
KVASIR = os.path.join(BUILD, "kvasir")
FAKE = os.path.join(BUILD, "tests", "fake", "kvasir-fake")
STORIES = os.path.join(SHARED, "data", "models", "stories260K.gguf")
JSON = {"Content-Type": "application/json"}
SLOW = bool(os.environ.get("KVASIR_SLOW"))  # a sanitizer's build: less of everything
START_S = 60


def skip(why):
    print("skipped: " + why)
    sys.exit(77)


def check(condition, what):
    if not condition:
        print("FAILED: " + what)
        sys.exit(1)


class Server:
    """One server process on a free port. Its log goes to .log, line by line."""

    def __init__(self, command, *, wait=True, env=None):
        environ = {k: v for k, v in os.environ.items() if not k.startswith("KVASIR_")}
        environ.update(env or {})
        self.log = []
        self.process = subprocess.Popen(
            [*command, "--port", "0"], stderr=subprocess.PIPE, env=environ, text=True,
            errors="replace"
        )
        atexit.register(self.kill)
        self.seen = threading.Condition()
        self.reader = threading.Thread(target=self._read_log, daemon=True)
        self.reader.start()
        line = self.wait_log(r"listening on (\S+) port (\d+)")
        self.port = int(line.group(2))
        if wait:
            self.wait_log(r"ready: http")

    @staticmethod
    def fake(*options, **more):
        fakes = [o for o in options if isinstance(o, tuple)]
        rest = [o for o in options if not isinstance(o, tuple)]
        flat = [str(word) for pair in fakes for word in pair]
        return Server([FAKE, *flat, *rest], **more)

    @staticmethod
    def stories(*options, **more):
        """stories260K on the real engine; None where it is not there."""
        if not os.path.exists(STORIES) or not os.path.exists(KVASIR):
            return None
        return Server([KVASIR, "serve", "--model", STORIES, *options], **more)

    def _read_log(self):
        for line in self.process.stderr:
            with self.seen:
                self.log.append(line.rstrip())
                self.seen.notify_all()
        with self.seen:
            self.seen.notify_all()

    def wait_log(self, pattern, seconds=START_S):
        until = time.monotonic() + seconds
        with self.seen:
            done = 0
            while True:
                for line in self.log[done:]:
                    found = re.search(pattern, line)
                    if found:
                        return found
                done = len(self.log)
                left = until - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self.reader.is_alive()):
                    print("\n".join(self.log[-20:]))
                    check(False, f"the server did not log {pattern!r}")
                self.seen.wait(min(left, 0.5))

    # ---- requests

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, connection=None):
        """(status, headers, bytes)"""
        c = connection or self.connect()
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        c.request(method, path, data, headers if headers is not None else (JSON if data else {}))
        reply = c.getresponse()
        content = reply.read()
        if connection is None:
            c.close()
        return reply.status, reply.headers, content

    def post(self, path, body, **more):
        """(status, parsed JSON)"""
        status, _, content = self.request("POST", path, body, **more)
        return status, json.loads(content)

    def stream(self, path, body, connection=None):
        """The parsed chunks of a stream, which must end with [DONE]."""
        c = connection or self.connect()
        c.request("POST", path, json.dumps({**body, "stream": True}), JSON)
        reply = c.getresponse()
        raw = reply.read()
        check(reply.status == 200, f"stream: {reply.status} {raw[:300]!r}")
        check(reply.getheader("Content-Type").startswith("text/event-stream"), "content type")
        if connection is None:
            c.close()
        return parse_stream(raw)

    def raw(self, data, timeout=10):
        """What comes back for these bytes, to the end of the connection or the timeout."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as s:
            s.sendall(data)
            out = b""
            try:
                while True:
                    part = s.recv(65536)
                    if not part:
                        break
                    out += part
            except (TimeoutError, ConnectionResetError):
                pass
            return out

    def metrics(self):
        """{'name{labels without the model}': value}"""
        _, _, content = self.request("GET", "/metrics")
        out = {}
        for line in content.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = re.sub(r'model_name="(?:[^"\\]|\\.)*",?', "", name).replace("{}", "")
                out[name] = float(value)
        return out

    def wait_idle(self, seconds=30):
        """Until nothing runs or waits; the metrics of then."""
        until = time.monotonic() + seconds
        while True:
            m = self.metrics()
            busy = m["kvasir_num_requests_running"] + m["kvasir_num_requests_waiting"]
            # One request in flight: the one that asks.
            if busy == 0 and m["kvasir_http_requests_in_flight"] <= 1:
                return m
            check(time.monotonic() < until, f"still busy after {seconds} s: {busy} sequences, "
                  f"{m['kvasir_http_requests_in_flight']} requests")
            time.sleep(0.05)

    def check_given_back(self, what, seconds=30):
        """Waits until it is idle, not longer than `seconds`: then no sequence holds a frame, and each that is not free is the
        prefix cache's. The metrics of then."""
        m = self.wait_idle(seconds)
        frames = {state: m['kvasir_kv_frames{state="%s"}' % state] for state in
                  ("free", "cached", "active", "loading", "writing")}
        check(frames["active"] == frames["loading"] == 0 and
              frames["free"] + frames["cached"] + frames["writing"] == m["kvasir_kv_frames_total"],
              f"{what}: frames are not given back: {frames} of {m['kvasir_kv_frames_total']}")
        check(m["kvasir_kv_sequences"] == 0, f"{what}: sequences are left")
        return m

    # ---- end

    def alive(self):
        return self.process.poll() is None

    def stop(self, seconds=60):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds=60):
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            check(False, f"the server did not end in {seconds} s")
        self.reader.join(5)
        reports = [l for l in self.log if "Sanitizer" in l or "runtime error" in l]
        check(not reports, f"sanitizer reports: {reports}")
        return status

    def kill(self):
        if self.alive():
            self.process.kill()
            self.process.wait()


def parse_stream(raw):
    text = raw.decode("utf-8")  # strict: no chunk may split a character
    frames = text.split("\n\n")
    check(frames[-1] == "", f"the stream ends in mid-frame: {text[-100:]!r}")
    check(frames[-2] == "data: [DONE]", f"the stream ends with {frames[-2]!r}")
    chunks = []
    for frame in frames[:-2]:
        check(frame.startswith("data: "), f"frame {frame!r}")
        chunks.append(json.loads(frame[6:]))
    return chunks


def text_of(chunks, index=0):
    """The answer of a stream of completions or chat."""
    out = ""
    for chunk in chunks:
        check("error" not in chunk, f"error in the stream: {chunk}")
        for choice in chunk["choices"]:
            if choice["index"] == index:
                out += choice["delta"].get("content", "") if "delta" in choice else choice["text"]
    return out


def wrk(*args, seconds):
    """Runs wrk; {'p99_ms':…, 'requests':…, 'non_2xx':…, 'socket_errors':…, 'per_s':…}"""
    try:
        done = subprocess.run(["wrk", "--latency", f"-d{seconds}s", *args], capture_output=True,
                              text=True, timeout=seconds + 60, check=False)
    except FileNotFoundError:
        skip("wrk is not installed")
    out = done.stdout
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", out)
    check(p99, f"wrk said: {out} {done.stderr}")
    scale = {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[p99.group(2)]
    non_2xx = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    return {
        "p99_ms": float(p99.group(1)) * scale,
        "requests": int(re.search(r"(\d+) requests in", out).group(1)),
        "per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)),
        "non_2xx": int(non_2xx.group(1)) if non_2xx else 0,
        "socket_errors": sum(map(int, errors.groups())) if errors else 0,
    }


def in_threads(work, items):
    """[work(item)] with all items at once; the first failure ends the program."""
    results = [None] * len(items)
    failures = []

    def run(i, item):
        try:
            results[i] = work(item)
        except SystemExit:
            failures.append("see above")
        except Exception as e:  # noqa: BLE001 - reported below, whatever it is
            failures.append(repr(e))

    threads = [threading.Thread(target=run, args=(i, item)) for i, item in enumerate(items)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(not failures, f"{len(failures)} of {len(items)} failed: {failures[:3]}")
    return results


def readable(sock, seconds):
    return bool(select.select([sock], [], [], seconds)[0])
