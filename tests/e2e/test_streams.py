"""64 streams of different lengths at once say what each says alone; meanwhile the control routes
answer within 50 ms at the 99th percentile. On the fake engine, and on stories260K where it is."""

import sys
import threading
import time

from server import SLOW, Server, check, in_threads, text_of, wrk

N_STREAM = 24 if SLOW else 64
P99_MS = 500 if SLOW else 50


def body_of(i):
    words = ("Once upon a time", "The dog", "Lily and Tom", "One day, a big red ball", "É ", "🌲")
    body = {
        "max_tokens": 4 + 5 * i,
        "temperature": 0 if i % 3 == 0 else 0.8,
        "seed": i,
        "stop": ["\n\n\n"] if i % 5 == 0 else None,
        "stream_options": {"include_usage": True},
        "ignore_eos": i % 2 == 0,
    }
    if i % 4 == 3:
        return "/v1/chat/completions", {**body, "messages": [
            {"role": "user", "content": words[i % 6] * (1 + i % 7)}]}
    return "/v1/completions", {**body, "prompt": words[i % 6] * (1 + i % 11)}


def answer(server, i):
    chunks = server.stream(*body_of(i))
    usage = chunks[-1]["usage"]
    check(all(c["usage"] is None for c in chunks[:-1]), "usage is null in all but the last chunk")
    finish = [c["choices"][0]["finish_reason"] for c in chunks[:-1]]
    check(finish[-1] in ("stop", "length") and not any(finish[:-1]), f"finish reasons {finish}")
    # Not the cache's part of the usage: it tells of the requests before.
    return text_of(chunks), usage["prompt_tokens"], usage["completion_tokens"], finish[-1]


def run(name, server):
    alone = [answer(server, i) for i in range(N_STREAM)]
    begin = time.monotonic()
    together = in_threads(lambda i: answer(server, i), range(N_STREAM))
    took = time.monotonic() - begin
    for i in range(N_STREAM):
        check(alone[i] == together[i], f"{name}: stream {i} differs:\n{alone[i]}\n{together[i]}")

    # The control routes, while streams run without end.
    stop = threading.Event()

    def keep_busy(i):
        while not stop.is_set():
            answer(server, i)

    busy = [threading.Thread(target=keep_busy, args=(i,), daemon=True) for i in range(N_STREAM)]
    for t in busy:
        t.start()
    figures = []
    for path in ("/health", "/v1/models"):
        got = wrk("-t1", "-c8", f"http://127.0.0.1:{server.port}{path}", seconds=3)
        check(got["non_2xx"] == 0 and got["socket_errors"] == 0, f"{name}: {path}: {got}")
        check(got["p99_ms"] < P99_MS, f"{name}: {path}: p99 {got['p99_ms']:.1f} ms")
        figures.append(f"{path} p99 {got['p99_ms']:.1f} ms at {got['per_s']:.0f}/s")
    stop.set()
    for t in busy:
        t.join(60)
    server.check_given_back(name)
    check(server.stop() == 0, f"{name}: it ends in order")
    print(f"{name}: {N_STREAM} streams equal alone and together ({took:.2f} s); " +
          "; ".join(figures))


run("fake", Server.fake(("--fake-row-us", 20)))
stories = Server.stories()
if stories:
    run("stories260K", stories)
else:
    print("stories260K: not there, not tried")
sys.exit(0)
