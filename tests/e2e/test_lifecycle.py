"""Loading, readiness, keys, draining, ending: the server's life as an operator sees it."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from server import FAKE, JSON, KVASIR, STORIES, Server, check, text_of

COMPLETION = "/v1/completions"


def status_of(server, path, headers=None):
    status, _, content = server.request("GET", path, headers=headers)
    return status, json.loads(content) if content[:1] == b"{" else content


# While the model loads the port answers, and says so.
s = Server.fake(("--fake-load-ms", 1500), wait=False)
check(status_of(s, "/health") == (503, {"status": "loading"}), "health while loading")
check(status_of(s, "/ready")[0] == 503, "ready while loading")
status, headers, content = s.request("POST", COMPLETION, {"prompt": "x"})
check(status == 503 and json.loads(content)["error"]["code"] == "model_loading", "503 while loading")
check(int(headers["Retry-After"]) >= 1, "Retry-After while loading")
check(status_of(s, "/v1/models")[0] == 503, "models while loading")
check(b"kvasir_up{" in s.request("GET", "/metrics")[2], "metrics while loading")
s.wait_log("ready: http")
check(status_of(s, "/health") == (200, {"status": "ok"}), "health when loaded")
check(status_of(s, "/ready")[0] == 200, "ready when loaded")
check(s.stop() == 0, "it ends in order")

# Drain: what runs goes on to its end, new work is refused, health tells.
s = Server.fake(("--fake-step-us", 10000), ("--fake-never-eog",))
answer = {}


def long_stream():
    answer["chunks"] = s.stream(COMPLETION, {"prompt": "x", "max_tokens": 200, "temperature": 0})


reader = threading.Thread(target=long_stream)
reader.start()
while s.metrics()["kvasir_num_requests_running"] == 0:
    time.sleep(0.01)
s.process.send_signal(signal.SIGTERM)
s.wait_log("draining")
check(status_of(s, "/ready") == (503, {"status": "draining"}), "not ready while draining")
check(status_of(s, "/health") == (200, {"status": "draining"}), "alive while draining")
status, headers, content = s.request("POST", COMPLETION, {"prompt": "x"})
check(status == 503 and headers["Retry-After"], f"new work while draining: {status}")
check(json.loads(content)["error"]["code"] == "shutting_down", "the reason while draining")
reader.join(30)
check(len(text_of(answer["chunks"])) > 100, "the running stream ended whole")
check(answer["chunks"][-1]["choices"][0]["finish_reason"] == "length", "and with its finish reason")
check(s.wait() == 0, "it ends in order after draining")

# The drain has an end: what runs longer is told so inside its stream.
s = Server.fake("--drain-timeout", "1", ("--fake-step-us", 20000), ("--fake-never-eog",))
c = s.connect()
c.request("POST", COMPLETION, json.dumps({"prompt": "x", "max_tokens": 4000, "stream": True}), JSON)
reply = c.getresponse()
reply.read(300)
begin = time.monotonic()
s.process.send_signal(signal.SIGTERM)
rest = reply.read().decode()
check('"code":"shutting_down"' in rest and rest.endswith("data: [DONE]\n\n"),
      f"the end of a cut stream: {rest[-300:]!r}")
check(s.wait() == 0 and time.monotonic() - begin < 10, "it ends after the drain time")

# A second signal ends at once.
s = Server.fake(("--fake-step-us", 20000), ("--fake-never-eog",))
c = s.connect()
c.request("POST", COMPLETION, json.dumps({"prompt": "x", "max_tokens": 4000}), JSON)
while s.metrics()["kvasir_num_requests_running"] == 0:
    time.sleep(0.01)
s.process.send_signal(signal.SIGTERM)
s.wait_log("draining")
begin = time.monotonic()
s.process.send_signal(signal.SIGTERM)
s.wait(5)
check(time.monotonic() - begin < 2, "a second SIGTERM ends at once")

# Keys: every route but /health and /ready needs one; SIGHUP reads the file again.
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "keys")
    with open(path, "w", encoding="utf-8") as f:
        f.write("alice:sk-alice\n")
    os.chmod(path, 0o600)
    s = Server.fake("--api-key-file", path)
    key = {"Authorization": "Bearer sk-alice"}
    for route in ("/metrics", "/version", "/v1/models", "/v1/models/fake", "/nothing", "/"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sk-alice"}):
            status, got, content = s.request("GET", route, headers=headers)
            check(status == 401 and got["WWW-Authenticate"], f"{route} with {headers}: {status}")
            error = json.loads(content)["error"]
            check(error["code"] == "invalid_api_key", f"{route}: {error}")
    for route in (COMPLETION, "/v1/chat/completions", "/tokenize", "/detokenize"):
        status, _, _ = s.request("POST", route, {"prompt": "x"})
        check(status == 401, f"{route} without a key: {status}")
    check(status_of(s, "/health")[0] == 200 and status_of(s, "/ready")[0] == 200, "open routes")
    check(status_of(s, "/version", key)[0] == 200, "version with a key")
    check(status_of(s, "/version", {"X-Api-Key": "sk-alice"})[0] == 200, "X-Api-Key")
    status, _ = s.post(COMPLETION, {"prompt": "x", "max_tokens": 1}, headers={**JSON, **key})
    check(status == 200, "a completion with a key")
    with open(path, "w", encoding="utf-8") as f:
        f.write("bob:sk-bob\n")
    s.process.send_signal(signal.SIGHUP)
    s.wait_log("keys read again")
    check(status_of(s, "/version", key)[0] == 401, "the old key after SIGHUP")
    check(status_of(s, "/version", {"Authorization": "Bearer sk-bob"})[0] == 200, "the new key")
    check(not any("sk-" in line for line in s.log), "no key in the log")
    check(s.stop() == 0, "it ends in order")

# A full queue is 429 with Retry-After, and what was accepted is answered.
s = Server.fake("--queue", "2", "--running", "1", ("--fake-step-us", 2000), ("--fake-never-eog",))
statuses = []


def one(_):
    status, headers, _ = s.request("POST", COMPLETION, {"prompt": "x", "max_tokens": 100})
    statuses.append((status, headers["Retry-After"]))


threads = [threading.Thread(target=one, args=(i,)) for i in range(12)]
for t in threads:
    t.start()
for t in threads:
    t.join()
full = [x for x in statuses if x[0] == 429]
check(full and all(x[1] for x in full), f"a full queue: {statuses}")
check(sum(x[0] == 200 for x in statuses) >= 2 and len(full) + sum(
    x[0] == 200 for x in statuses) == 12, f"only 200 and 429: {statuses}")
check(s.stop() == 0, "it ends in order")

# A request has its time: beyond it a reply is 504, a stream ends with the error.
s = Server.fake("--request-timeout", "1", ("--fake-step-us", 5000), ("--fake-never-eog",))
begin = time.monotonic()
status, answer = s.post(COMPLETION, {"prompt": "x", "max_tokens": 4000})
check(status == 504 and answer["error"]["code"] == "timeout", f"a late reply: {status} {answer}")
check(time.monotonic() - begin < 3, "and in time")
chunks = s.stream(COMPLETION, {"prompt": "x", "max_tokens": 4000})
check(chunks[-1].get("error", {}).get("code") == "timeout" and len(chunks) > 10,
      f"a late stream: {chunks[-1]}")
check(s.stop() == 0, "it ends in order")

# A model that fails: an error, not an answer, and the next request is served.
s = Server.fake(("--fake-fail-permille", 1000))
status, answer = s.post(COMPLETION, {"prompt": "x"})
check(status == 500 and answer["error"]["type"] == "server_error", f"a failing model: {status}")
check(s.alive() and status_of(s, "/health")[0] == 200, "it lives on")
check(s.stop() == 0, "it ends in order")

# A model that hangs: /health and /ready say so, and say it again when it goes on.
s = Server.fake("--stuck-timeout", "1", ("--fake-step-us", 4000000))
c = s.connect()
c.request("POST", COMPLETION, json.dumps({"prompt": "x", "max_tokens": 1}), JSON)
until = time.monotonic() + 3.5
while status_of(s, "/health") != (503, {"status": "stuck"}):
    check(time.monotonic() < until, "health of a model that hangs")
    time.sleep(0.05)
check(status_of(s, "/ready")[0] == 503, "ready while it hangs")
check(c.getresponse().status == 200, "the step ended after all")
time.sleep(0.6)
check(status_of(s, "/health") == (200, {"status": "ok"}), "health when it goes on")
check(s.stop() == 0, "it ends in order")

# CORS when asked for.
s = Server.fake("--cors-origin", "https://app.example")
status, headers, _ = s.request("OPTIONS", COMPLETION, headers={"Origin": "https://app.example"})
check(status == 204 and headers["Access-Control-Allow-Origin"] == "https://app.example", "preflight")
check("authorization" in headers["Access-Control-Allow-Headers"], "preflight headers")
_, headers, _ = s.request("GET", "/health")
check(headers["Access-Control-Allow-Origin"] == "https://app.example", "CORS on replies")
check(s.stop() == 0, "it ends in order")

# Wrong usage: one line, what to do, status 2 or 1, and no server. A program that lies alone finds
# no default model beside it.
alone = tempfile.TemporaryDirectory()
shutil.copy(KVASIR, alone.name)
for command, says, want in (
        ([FAKE, "--port", "99999"], "--port: '99999' is not a number from 0 to 65535", 2),
        ([FAKE, "--host", "0.0.0.0"], "--insecure-no-auth", 2),
        ([FAKE, "--config", "/nonexistent.yaml"], "/nonexistent.yaml", 2),
        ([FAKE, "--api-key-file", "/nonexistent"], "/nonexistent", 1),
        ([FAKE, "--host", "203.0.113.1", "--insecure-no-auth"], "203.0.113.1", 1),
        ([os.path.join(alone.name, "kvasir"), "serve"], "--model", 2),
        ([KVASIR, "serve", "--model", "/nonexistent.gguf"], "/nonexistent.gguf", 1)):
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    lines = done.stderr.strip().splitlines()
    check(done.returncode == want and says in lines[-1] and len(lines) == 1,
          f"{command[1:]}: status {done.returncode}: {done.stderr}")

# A file that is no model: told, status 1.
with tempfile.NamedTemporaryFile(suffix=".gguf") as f:
    f.write(b"not a model at all" * 100)
    f.flush()
    done = subprocess.run([KVASIR, "serve", "--port", "0", "--model", f.name], capture_output=True,
                          text=True, timeout=60, check=False)
    check(done.returncode == 1 and f.name in done.stderr, f"no model: {done.stderr}")

# A template that does not parse: told with its place, or a built-in one in its stead where allowed.
with tempfile.NamedTemporaryFile("w", suffix=".jinja") as f:
    f.write("{{ messages }}\n {% if x %}{{ 1 + }}")
    f.flush()
    if os.path.exists(STORIES):
        done = subprocess.run([KVASIR, "serve", "--port", "0", "--model", STORIES,
                               "--chat-template", f.name], capture_output=True, text=True,
                              timeout=60, check=False)
        check(done.returncode == 1 and f"{f.name}: template line 2, column " in done.stderr,
              f"bad template: {done.returncode} {done.stderr}")
        s = Server.stories("--chat-template", f.name, "--chat-template-fallback")
        s.wait_log('line 2, column .*; the built-in format "plain" takes its place')
        status, reply = s.post("/v1/chat/completions", {
            "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}],
            "tools": [{"type": "function", "function": {"name": "f"}}]})
        check(status == 200, f"the built-in template: {status} {reply}")
        check(s.stop() == 0, "it ends in order")
print("passed")
