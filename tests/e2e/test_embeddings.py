"""/v1/embeddings: vectors against the reference, forms of input and output, long lists through a
small queue beside answers, who is refused what, and clients that leave."""

import base64
import json
import math
import os
import struct
import threading
import time

from server import JSON, KVASIR, SHARED, Server, check

PATH = "/v1/embeddings"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def vectors(server, body):
    status, reply = server.post(PATH, body)
    check(status == 200, f"{str(body)[:80]}: {status} {str(reply)[:300]}")
    check(reply["object"] == "list", "object")
    check([d["index"] for d in reply["data"]] == list(range(len(reply["data"]))), "indices")
    out = [d["embedding"] for d in reply["data"]]
    if body.get("encoding_format") == "base64":
        out = [base64.b64decode(v, validate=True) for v in out]
        out = [list(struct.unpack(f"<{len(v) // 4}f", v)) for v in out]
    else:  # as f32, which the decimals stand for
        out = [list(struct.unpack(f"<{len(v)}f", struct.pack(f"<{len(v)}f", *v))) for v in out]
    for v in out:
        check(abs(math.fsum(x * x for x in v) - 1) < 1e-5, "length 1")
    return out, reply["usage"]


def refused(server, path, body, param, code):
    status, reply = server.post(path, body)
    error = reply.get("error", {})
    check((status, error.get("param"), error.get("code")) == (400, param, code),
          f"{path} {str(body)[:60]}: {status} {error}")


def against_reference(name):
    """The texts of the golden data, tokenized and pooled, give its vectors."""
    folder = os.path.join(SHARED, "data", "golden", "arch", name)
    if not os.path.exists(folder):
        print(f"{name}: not there, not tried")
        return
    with open(os.path.join(folder, "expected.json"), encoding="utf-8") as f:
        cases = json.load(f)["cases"]
    s = Server([KVASIR, "serve", "--model", os.path.join(folder, "model.gguf")])
    got, usage = vectors(s, {"input": [c["text"] for c in cases]})
    check(usage["prompt_tokens"] == sum(len(c["tokens"]) for c in cases), f"{name}: usage")
    worst = max(abs(a - b) for c, v in zip(cases, got)
                for a, b in zip(c["pooled_l2_normalized"], v))
    check(worst < 1e-3, f"{name}: {worst}")
    ids = [c["tokens"] for c in cases]
    check(vectors(s, {"input": ids, "encoding_format": "base64"})[0] == got, f"{name}: ids")
    check(vectors(s, {"input": ids[0]})[0] == got[:1], f"{name}: alone")
    refused(s, CHAT, {"messages": HELLO}, "model", "unsupported_model")
    refused(s, "/v1/completions", {"prompt": "x"}, "model", "unsupported_model")
    status, models = s.request("GET", "/v1/models")[::2]
    check(status == 200 and len(json.loads(models)["data"]) == 1, "/v1/models")
    check(s.stop() == 0, f"{name}: it ends in order")
    print(f"{name}: passed, {worst:.1e} from the reference")


def forms(s):
    (whole,), usage = vectors(s, {"input": "Hello", "user": "u", "model": "fake"})
    check(len(whole) == 32 and usage["prompt_tokens"] == usage["total_tokens"], "one vector")
    (cut,), _ = vectors(s, {"input": "Hello", "dimensions": 8})
    length = math.sqrt(math.fsum(x * x for x in whole[:8]))
    check(all(abs(a - b / length) < 1e-6 for a, b in zip(cut, whole)), "dimensions")
    check(vectors(s, {"input": "Hello", "encoding_format": "base64"})[0] == [whole], "base64")
    for body, param, code in (
            ({}, "input", "missing_required_parameter"),
            ({"input": []}, "input", "invalid_value"),
            ({"input": 1}, "input", "invalid_type"),
            ({"input": ["a", 1]}, "input[1]", "invalid_type"),
            ({"input": [1, "a"]}, "input", "invalid_type"),
            ({"input": [[1], []]}, "input", "invalid_value"),
            ({"input": [1e9]}, "input", "invalid_token_id"),
            ({"input": ["x"] * 2049}, "input", "invalid_value"),
            ({"input": "x" * 5000}, "input", "context_length_exceeded"),
            ({"input": "x", "dimensions": 0}, "dimensions", "invalid_value"),
            ({"input": "x", "dimensions": 33}, "dimensions", "invalid_value"),
            ({"input": "x", "encoding_format": "hex"}, "encoding_format", "invalid_value")):
        refused(s, PATH, body, param, code)


def together():
    """More inputs than the queue holds, beside each other and an answer: each as alone."""
    s = Server.fake("--queue", "80", "--running", "4", ("--fake-embd", 32), ("--fake-row-us", 5))
    forms(s)
    texts = [f"text {i} " * (1 + i % 7) for i in range(300)]
    want = [vectors(s, {"input": t})[0][0] for t in texts[:20]]
    got = {}
    threads = [threading.Thread(target=lambda: got.update(all=vectors(s, {"input": texts})[0])),
               threading.Thread(target=lambda: got.update(
                   chat=s.post(CHAT, {"messages": HELLO, "max_tokens": 50})))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(got["all"][:20] == want and len(got["all"]) == 300, "together as alone")
    check(got["chat"][0] == 200, "an answer beside")
    c = s.connect()  # a client that leaves
    c.request("POST", PATH, json.dumps({"input": texts}), JSON)
    time.sleep(0.02)
    c.close()
    s.check_given_back("embeddings")
    check(s.stop() == 0, "it ends in order")


def refusals():
    for s in (Server.fake(), Server.fake("--pooling", "off", ("--fake-embd", 32))):
        refused(s, PATH, {"input": "x"}, "model", "unsupported_model")
        check(s.post(CHAT, {"messages": HELLO, "max_tokens": 2})[0] == 200, "answers all the same")
        check(s.stop() == 0, "it ends in order")


for model in ("bert", "nomic-bert", "gemma-embedding"):
    against_reference(model)
together()
refusals()
print("passed")
