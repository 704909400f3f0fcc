"""LoRA adapters from outside: listed, chosen by model name or field, together in one batch as each
alone, never another's cached KV, and files or names that are wrong."""

import json
import os
import random
import struct
import subprocess
import tempfile
import threading

from server import JSON, KVASIR, STORIES, Server, check, skip

COMPLETION = "/v1/completions"
PROMPT = "Once upon a time, there was a little girl named Lily. She loved to play"


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def write_adapter(path, seed, layers=5, width=64, arch="llama"):
    """Q and V of stories260K, rank 2, as a GGUF file of version 3."""
    rng = random.Random(seed)
    tensors = []
    for i in range(layers):
        for name, n_out in ((f"blk.{i}.attn_q.weight", 64), (f"blk.{i}.attn_v.weight", 32)):
            for half, ne in ((".lora_a", (width, 2)), (".lora_b", (2, n_out))):
                values = [rng.uniform(-1, 1) for _ in range(ne[0] * ne[1])]
                tensors.append((name + half, ne, struct.pack(f"<{len(values)}f", *values)))
    keys = [text("general.architecture") + struct.pack("<I", 8) + text(arch),
            text("general.type") + struct.pack("<I", 8) + text("adapter"),
            text("adapter.type") + struct.pack("<I", 8) + text("lora"),
            text("adapter.lora.alpha") + struct.pack("<If", 6, 2.0)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys)
    data = b""
    for name, ne, raw in tensors:
        head += text(name) + struct.pack("<IQQIQ", 2, *ne, 0, len(data))
        data += raw + bytes(-len(raw) % 32)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32) + data)


def start_fails(*options):
    done = subprocess.run([KVASIR, "serve", "--port", "0", "--model", STORIES, *options],
                          capture_output=True, text=True, timeout=60, check=False)
    check(done.returncode == 1, f"{options}: status {done.returncode}")
    return done.stderr


if not os.path.exists(STORIES) or not os.path.exists(KVASIR):
    skip("stories260K is not there")

with tempfile.TemporaryDirectory() as folder:
    one, two, bad = (os.path.join(folder, n) for n in ("one.gguf", "t:wo.gguf", "bad.gguf"))
    write_adapter(one, 1)
    write_adapter(two, 2)
    s = Server.stories("--alias", "m", "--lora", f"one={one}", "--lora", f"two={two}:0.5")

    def ask(**more):
        status, reply = s.post(COMPLETION, {"prompt": PROMPT, "max_tokens": 24, "temperature": 0,
                                            **more})
        check(status == 200, f"{more}: {status} {reply}")
        return reply["choices"][0]["text"], reply["model"], reply["usage"]

    ids = [m["id"] for m in json.loads(s.request("GET", "/v1/models")[2])["data"]]
    check(ids == ["m", "m:one", "m:two"], f"listed: {ids}")
    status, _, raw = s.request("GET", "/v1/models/m:two")
    check(status == 200 and json.loads(raw)["parent"] == "m", "one by its name")

    base = ask()
    by_name = ask(model="m:one")
    other = ask(model="m", lora="two")
    check([base[1], by_name[1], other[1]] == ["m", "m:one", "m:two"], "the model of the reply")
    check(len({base[0], by_name[0], other[0]}) == 3, f"each its own: {base[0]!r} {by_name[0]!r}")
    for first, again in ((base, ask()), (by_name, ask(lora="one")), (other, ask(model="m:two"))):
        check(first[0] == again[0], f"the same again: {first[0]!r} {again[0]!r}")
        cached = [u["prompt_tokens_details"]["cached_tokens"] for u in (first[2], again[2])]
        check(cached[0] == 0 and cached[1] > 0, f"KV of each is its own: {cached}")

    got = {}
    wanted = [(i, name) for i in range(8) for name in ("m", "m:one", "m:two")]
    threads = [threading.Thread(target=lambda i=i, n=n: got.update({(i, n): ask(model=n)[0]}))
               for i, n in wanted]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    want = {"m": base[0], "m:one": by_name[0], "m:two": other[0]}
    check(all(got.get((i, n)) == want[n] for i, n in wanted), "together as alone")

    vectors = [s.post("/v1/embeddings", {"input": PROMPT, "model": n})[1]["data"][0]["embedding"]
               for n in want]
    check(vectors[0] != vectors[1] != vectors[2], "embeddings too")

    for body, want_status, param in (({"model": "m:three"}, 404, "model"),
                                     ({"lora": "three"}, 404, "lora"),
                                     ({"lora": ""}, 404, "lora"),
                                     ({"lora": [{"id": 0}]}, 400, "lora"),
                                     ({"model": "m:one", "lora": "two"}, 400, "lora")):
        status, _, raw = s.request("POST", COMPLETION, {"prompt": "x", **body}, JSON)
        error = json.loads(raw)["error"]
        check((status, error["param"]) == (want_status, param), f"{body}: {status} {error}")
    check(s.stop() == 0, "it ends in order")

    write_adapter(bad, 1, width=63)
    check("lora_a is [63, 2]" in start_fails("--lora", f"x={bad}"), "a wrong shape is told")
    write_adapter(bad, 1, layers=6)
    check("blk.5.attn_q.weight.lora_a" in start_fails("--lora", f"x={bad}"), "no such layer")
    write_adapter(bad, 1, arch="qwen2")
    check("adapter for qwen2" in start_fails("--lora", f"x={bad}"), "another architecture")
    with open(one, "rb") as f:
        whole = f.read()
    with open(bad, "wb") as f:
        f.write(whole[:-100])
    said = start_fails("--lora", f"x={bad}")
    check("bad.gguf" in said, f"a cut file: {said}")
    for option in ("x", "=f", "a:b=f", f"x={one},x={two}", f"x={one}:inf"):
        check("lora: " in start_fails("--lora", option), option)
print("passed")
