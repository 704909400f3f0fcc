"""The prefix cache as clients and operators see it: the same bytes from no cache, from memory, from
disk, after a restart and after a kill, by either I/O backend; nobody's KV for another key."""

import json
import os
import shutil
import tempfile
import threading
import time

from server import JSON, Server, check, text_of

COMPLETION = "/v1/completions"
WORK = tempfile.mkdtemp(prefix="kvasir-e2e-")
LONG = "The keeper of the lighthouse wrote down every ship that passed, and the weather. " * 8
N_STREAM = 6


def ask(server, prompt, **more):
    """(choices as text, usage)"""
    body = {"prompt": prompt, "max_tokens": 30, "temperature": 0, "logprobs": 5, **more}
    headers = more.pop("headers", None)
    body.pop("headers", None)
    status, reply = server.post(COMPLETION, body, headers=headers)
    check(status == 200, f"{status}: {reply}")
    return json.dumps(reply["choices"]), reply["usage"]


def cached(usage):
    tiers = usage["kvasir"]["cached_tokens"]
    check(sum(tiers.values()) == usage["prompt_tokens_details"]["cached_tokens"], f"tiers: {usage}")
    return tiers["ram"], tiers["disk"]


def wait_written(server):
    until = time.monotonic() + 30
    while server.metrics()["kvasir_kv_disk_queue"]:
        check(time.monotonic() < until, "chunks are not written to disk")
        time.sleep(0.02)


def same_bytes(start, backend):
    """Every way to the same answer."""
    kv_dir = os.path.join(WORK, "same-" + backend)
    disk = ("--kv-dir", kv_dir, "--kv-disk", "64M", "--kv-io", backend)
    s = start("--prefix-cache", "off")
    if s is None:
        return
    want, usage = ask(s, LONG)
    check(cached(usage) == (0, 0) and usage["prompt_tokens_details"]["cache_write_tokens"] == 0,
          f"off: {usage}")
    sampled, _ = ask(s, LONG, temperature=0.9, seed=5, n=8)
    s.stop()

    s = start(*disk)
    n_prompt = usage["prompt_tokens"]
    for n_cached in (0, n_prompt - 1):
        got, usage = ask(s, LONG)
        check(got == want, f"{backend}: from memory: {got} is not {want}")
        check(cached(usage) == (n_cached, 0), f"{backend}: memory: {usage}")
        check(usage["prompt_tokens_details"]["cache_write_tokens"] == n_prompt - n_cached,
              f"written: {usage}")
    check(ask(s, LONG, temperature=0.9, seed=5, n=8)[0] == sampled, "n = 8 from memory")
    wait_written(s)
    s.kill()
    for how in ("killed", "stopped"):
        s = start(*disk)
        check(ask(s, LONG + "!")[1]["kvasir"]["cached_tokens"]["disk"] > n_prompt // 2, "tail")
        got, usage = ask(s, LONG)
        check(got == want, f"{backend}: {how}: {got} is not {want}")
        check(usage["prompt_tokens_details"]["cached_tokens"] > n_prompt // 2, f"{how}: {usage}")
        check(ask(s, LONG, temperature=0.9, seed=5, n=8)[0] == sampled, f"n = 8 after {how}")
        check(s.stop() == 0, "it ends in order")
    print(f"{backend}: {n_prompt} tokens, the same bytes five ways")


def killed_midway():
    """Streams that share a beginning, a kill in their midst, and the same streams again."""
    disk = ("--kv-dir", os.path.join(WORK, "midway"), "--kv-disk", "64M")
    bodies = [{"prompt": LONG * 2 + f"Number {i}.", "max_tokens": 200, "temperature": 0.8,
               "seed": i, "ignore_eos": True} for i in range(N_STREAM)]

    def run(server, n_min):
        texts = [""] * N_STREAM
        gone = []

        def one(i):
            try:
                texts[i] = text_of(server.stream(COMPLETION, bodies[i]))
            except Exception as e:  # the kill
                gone.append(e)

        threads = [threading.Thread(target=one, args=(i,)) for i in range(N_STREAM)]
        for t in threads:
            t.start()
        if n_min:
            while server.metrics()["kvasir_generation_tokens_total"] < n_min:
                time.sleep(0.005)
            server.kill()
        for t in threads:
            t.join()
        return texts, gone

    fake = (("--fake-step-us", 2000), ("--fake-row-us", 20))
    want, gone = run(Server.fake(*fake, "--prefix-cache", "off"), 0)
    check(not gone, f"without cache: {gone}")
    for kill in (10, 300, 700):
        run(Server.fake(*fake, *disk), kill)
    s = Server.fake(*fake, *disk)
    got, gone = run(s, 0)
    check(not gone and got == want, "streams after three kills")
    m = s.metrics()
    disk_hits = m['kvasir_prefix_cache_hits_by_tier_total{tier="disk"}']
    ram_hits = m['kvasir_prefix_cache_hits_by_tier_total{tier="ram"}']
    asked = m["kvasir_prefix_cache_queries_total"]
    check(disk_hits > 0 and disk_hits + ram_hits > 0.8 * asked, f"{disk_hits} {ram_hits} {asked}")
    check(m["kvasir_kv_disk_corrupt_total"] == 0, "corrupt chunks")
    check(s.stop() == 0, "it ends in order")
    print(f"after three kills: of {asked:.0f} prompt tokens {disk_hits:.0f} from disk, "
          f"{ram_hits:.0f} from memory")


def tenants():
    """A key finds its own KV alone; a salt divides it; the admin's key alone sees the whole."""
    keys = os.path.join(WORK, "keys")
    with open(keys, "w", encoding="utf-8") as f:
        f.write("a:key-of-a\nb:key-of-b\na:second-key-of-a\nadmin:key-of-admin\n")
    os.chmod(keys, 0o600)
    s = Server.fake("--api-key-file", keys)

    def by(key, **more):
        usage = ask(s, LONG, headers={**JSON, "Authorization": "Bearer " + key}, **more)[1]
        return usage["prompt_tokens_details"]["cached_tokens"]

    n = len(LONG.encode()) + 1 - 1  # bytes are tokens, and BOS; the last is computed
    check(by("key-of-a") == 0, "a's first")
    check(by("key-of-b") == 0, "b must not find a's")
    check(by("key-of-a") == n, "a finds its own")
    check(by("second-key-of-a") == n, "so does a's other key")
    check(by("key-of-a", cache_salt="x") == 0, "not with a salt")
    check(by("key-of-a", cache_salt="x") == n, "but with the same salt")
    check(by("key-of-b", prompt_cache_key="k") == n, "prompt_cache_key is no namespace")
    by("key-of-b", cache_salt="y", prompt_cache_options={"mode": "explicit"})
    check(by("key-of-b", cache_salt="y") == 0, "explicit leaves nothing")

    def kv(key):
        status, _, content = s.request("GET", "/v1/kv", headers={"Authorization": "Bearer " + key})
        return status, json.loads(content)

    check(kv("nobody")[0] == 401, "no key")
    status, reply = kv("key-of-a")
    check(status == 403 and reply["error"]["code"] == "admin_key_required", f"not a's: {reply}")
    status, reply = kv("key-of-admin")
    check(status == 200 and reply["tokens"]["cached"] == 4 * n and reply["disk"] is None,
          f"the admin's: {reply}")
    frames = reply["frames"]
    total = frames.pop("total")
    check(total == sum(v for k, v in frames.items() if k != "pinned"), f"frames: {reply}")
    check(s.stop() == 0, "it ends in order")


def choices():
    """n choices compute their prompt once."""
    s = Server.fake("--fake-never-eog")
    status, reply = s.post(COMPLETION, {"prompt": LONG, "n": 8, "max_tokens": 5, "seed": 1})
    usage = reply["usage"]
    check(status == 200 and usage["completion_tokens"] == 40, f"n = 8: {reply}")
    check(usage["prompt_tokens_details"]["cached_tokens"] == 0, f"n = 8: {usage}")
    m = s.metrics()
    n = usage["prompt_tokens"]
    check(m["kvasir_prefix_cache_hits_total"] == 7 * (n - 1), f"n = 8: {n} {m}")
    check(s.stop() == 0, "it ends in order")


try:
    for backend_name in ("io_uring", "pread"):
        same_bytes(Server.fake, backend_name)
        same_bytes(Server.stories, backend_name)
    killed_midway()
    tenants()
    choices()
finally:
    shutil.rmtree(WORK)
