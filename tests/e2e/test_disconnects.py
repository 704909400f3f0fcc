"""1,000 requests whose clients leave at random moments: every frame comes back, memory stays flat,
and a client that left frees its sequence at once. Slow readers are bounded."""

import json
import random
import socket
import struct
import sys
import time

from server import JSON, SLOW, Server, check, in_threads

N_REQUEST = 300 if SLOW else 1000
N_AT_ONCE = 20
IDLE_S = 30 if SLOW else 8  # well before the deadline for the rest of a request
RSS_GROWTH_MAX = (100 if SLOW else 24) << 20


def frame(body):
    data = json.dumps(body).encode()
    return (f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: {JSON['Content-Type']}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n").encode() + data


def leave_midway(server, rng):
    """One request, left while sending, waiting, or reading; in order or with a reset."""
    body = {"prompt": "Once upon a time " * rng.randint(1, 40), "max_tokens": rng.randint(1, 200),
            "stream": rng.random() < 0.7, "n": rng.choice((1, 1, 1, 4)), "ignore_eos": True,
            "temperature": 0.9, "seed": rng.randint(0, 1 << 40)}
    data = frame(body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as s:
        how = rng.random()
        if how < 0.1:
            s.sendall(data[: rng.randint(1, len(data) - 1)])
        else:
            s.sendall(data)
            if how < 0.7:
                left = rng.randint(1, 20000)
                while left > 0:
                    part = s.recv(min(left, 4096))
                    if not part or b"[DONE]" in part:
                        break
                    left -= len(part)
                    if not body["stream"]:
                        break
            elif how < 0.85:
                time.sleep(rng.random() * 0.02)
        if rng.random() < 0.5:  # closing with a reset
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def batch(server, seed, n):
    def some(k):
        rng = random.Random(seed * 1000 + k)
        for _ in range(n // N_AT_ONCE):
            leave_midway(server, rng)
    in_threads(some, range(N_AT_ONCE))


def run(name, server, cached):
    """The cache of `cached` servers is small, so that the first requests fill it."""
    n_request = N_REQUEST // 3 if cached else N_REQUEST
    batch(server, 0, n_request // 2)  # warms every pool
    warm = server.check_given_back(name, IDLE_S)
    batch(server, 1, n_request)
    m = server.check_given_back(name, IDLE_S)
    n_cached = m['kvasir_kv_frames{state="cached"}']
    check((n_cached > 0) == cached, f"{name}: {n_cached} frames in the prefix cache")
    grown = m["kvasir_process_resident_memory_bytes"] - warm["kvasir_process_resident_memory_bytes"]
    check(grown < RSS_GROWTH_MAX, f"{name}: resident memory grew by {grown / 2**20:.1f} MiB")
    check(m["kvasir_http_disconnects_total"] > n_request / 10, f"{name}: hardly anyone left early")
    print(f"{name}: {n_request} requests, {m['kvasir_http_disconnects_total']:.0f} left early, every "
          f"frame given back ({n_cached:.0f} cached), resident memory {grown / 2**20:+.1f} MiB")


def cancelled_soon(server):
    """A client that leaves while its answer runs, streamed or not: its sequence ends at once."""
    for stream in (True, False):
        s = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        s.sendall(frame({"prompt": "x", "max_tokens": 4000, "stream": stream, "ignore_eos": True}))
        if stream:
            s.recv(4096)
        until = time.monotonic() + 10
        while server.metrics()["kvasir_num_requests_running"] == 0:
            check(time.monotonic() < until, "the request did not start")
        begin = time.monotonic()
        s.close()
        while server.metrics()["kvasir_num_requests_running"]:
            check(time.monotonic() - begin < 1, f"stream={stream}: still running after 1 s")
        print(f"left a {'stream' if stream else 'reply'}: sequence ended within "
              f"{(time.monotonic() - begin) * 1e3:.0f} ms")


def slow_reader(server):
    """Reads nothing: the sequence pauses on a full ring, and is cancelled after the stall time,
    while others run on."""
    before = server.metrics()
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect(("127.0.0.1", server.port))
    s.sendall(frame({"prompt": "x", "max_tokens": 4000, "stream": True, "ignore_eos": True,
                     "logprobs": 20}))
    while server.metrics()["kvasir_num_requests_running"] == 0:
        time.sleep(0.005)
    until = time.monotonic() + 20
    while server.metrics()["kvasir_num_requests_running"]:
        check(time.monotonic() < until, "a reader that takes nothing was not cut off")
        status, _ = server.post("/v1/completions", {"prompt": "y", "max_tokens": 2})
        check(status == 200, "others are served meanwhile")
        time.sleep(0.05)
    after = server.metrics()
    made = after["kvasir_generation_tokens_total"] - before["kvasir_generation_tokens_total"]
    check(made < 3000, f"{made:.0f} tokens were made for a reader that takes none")
    check(after['kvasir_request_success_total{finished_reason="abort"}'] >= 1, "it was aborted")
    s.close()
    print(f"a reader that takes nothing was cut off after about {made:.0f} tokens of 4000")


CACHE = {False: ("--prefix-cache", "off"), True: ("--kv-ram", "8M")}
for cached, options in CACHE.items():
    fake = Server.fake(*options, ("--fake-row-us", 5))
    run(f"fake, cache {cached}", fake, cached)
    check(fake.stop() == 0, "it ends in order")
paced = Server.fake("--stall-timeout", "2", ("--fake-step-us", 500))
cancelled_soon(paced)
slow_reader(paced)
paced.check_given_back("slow reader")
check(paced.stop() == 0, "it ends in order")
for cached, options in CACHE.items():
    stories = None if SLOW else Server.stories(*options)
    if not stories:
        print("stories260K: not there, not tried")
        break
    run(f"stories260K, cache {cached}", stories, cached)
    check(stories.stop() == 0, "it ends in order")
sys.exit(0)
