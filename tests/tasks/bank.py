"""Tasks with answers that can be checked, for a running server: what a model can still do with a KV option, a quantised file or a
cache path. Built on the generators of the default model (scripts/demo), with keys, codes and phrasings kept from its training.

A task is (messages, most tokens of an answer, check): check(answer) says whether it is right.
"""

import concurrent.futures
import http.client
import json
import os
import random
import re
import sys
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "demo"))
import tasks as gen  # noqa: E402

SEED = 977  # training seeds are strings "SEED/STEP"
N_HELD_NAMES = 200


class Client:
    def __init__(self, url, key=None):
        at = urllib.parse.urlsplit(url)
        self.host, self.port = at.hostname, at.port or 80
        self.headers = {"Content-Type": "application/json"}
        if key:
            self.headers["Authorization"] = "Bearer " + key

    def post(self, path, body):
        c = http.client.HTTPConnection(self.host, self.port, timeout=300)
        try:
            c.request("POST", path, json.dumps(body), self.headers)
            reply = c.getresponse()
            content = reply.read()
            if reply.status != 200:
                raise RuntimeError(f"{path}: status {reply.status}: {content[:200]!r}")
            return json.loads(content)
        finally:
            c.close()

    def ask(self, messages, max_tokens, temperature=0, seed=1):
        """(answer, tokens of the prompt, why it ended)"""
        r = self.post("/v1/chat/completions", {"messages": messages, "max_tokens": max_tokens, "temperature": temperature, "seed": seed})
        choice = r["choices"][0]
        return choice["message"]["content"] or "", r["usage"]["prompt_tokens"], choice["finish_reason"]

    def count(self, text):
        return len(self.post("/tokenize", {"content": text})["tokens"])


def user(text):
    return [{"role": "user", "content": text}]


def exactly(right):
    return lambda answer: answer.strip() == str(right)


def fitted(client, make, n_tok):
    """make(size) gives a prompt that grows with size: the largest size whose prompt stays below n_tok tokens."""
    low, high = 1, 2
    while client.count(make(high)) < n_tok:
        low, high = high, high * 2
    while high - low > 1:
        mid = (low + high) // 2
        low, high = (mid, high) if client.count(make(mid)) < n_tok else (low, mid)
    return low


def key_value(client, n, n_tok, style="l"):
    """A JSON object of random keys and 4-digit values; one key is asked for, at every depth alike."""
    seed = f"{SEED}/kv/{n_tok}"

    def prompt(i, size, ask):
        rng = random.Random(f"{seed}/{i}")
        pairs = gen.kv_pairs(rng, size, True, style)
        name = list(pairs)[min(size - 1, int(ask * size))]
        return gen.kv_prompt(pairs, name), pairs[name]

    size = fitted(client, lambda k: prompt(0, k, 0)[0], n_tok - 24)
    out = []
    for i in range(n):
        text, right = prompt(i, size - 2, (i + 0.5) / n)
        out.append((user(text), 8, exactly(right)))
    return out


def needle(client, n, n_tok):
    def turns(i, size):
        return gen.needle(random.Random(f"{SEED}/needle/{n_tok}/{i}"), size, 1, True)

    size = fitted(client, lambda k: turns(0, k)[0][1], n_tok - 24)
    return [(user(t[0][1]), 8, exactly(t[1][1])) for t in (turns(i, max(1, size * 9 // 10)) for i in range(n))]


def tracing(client, n, n_tok):
    def turns(i, size):
        return gen.tracing(random.Random(f"{SEED}/trace/{n_tok}/{i}"), size, 1, True)

    size = fitted(client, lambda k: turns(0, k)[0][1], n_tok - 24)
    return [(user(t[0][1]), 8, exactly(t[1][1])) for t in (turns(i, max(1, size - 2)) for i in range(n))]


def closed_world(n):
    """Facts in a phrasing that training never saw; the answer must hold the fact as a word."""
    rng = random.Random(f"{SEED}/world")
    out = []
    for _ in range(n):
        ask, short, _ = gen.question(rng, True)
        out.append((user(ask), 40, lambda a, s=short: re.search(rf"\b{re.escape(s)}\b", a, re.I) is not None))
    return out


def arithmetic(n):
    rng = random.Random(f"{SEED}/sums")
    out = []
    while len(out) < n:
        turns = gen.arithmetic(rng)
        out.append((user(turns[0][1]), 8, exactly(turns[1][1])))
    return out


def is_json(answer):
    try:
        json.loads(answer)
        return True
    except ValueError:
        return False


def json_valid(n):
    rng = random.Random(f"{SEED}/json")
    return [(user(gen.make_json(rng)[0][1]), 160, is_json) for _ in range(n)]


def json_exact(n):
    """The asked fields, nothing else."""
    rng = random.Random(f"{SEED}/json")
    out = []
    while len(out) < n:
        turns = gen.make_json(rng)
        if not turns[0][1].startswith(("Make up", "Give me a JSON object with the keys")):
            out.append((user(turns[0][1]), 160, lambda a, r=turns[1][1]: is_json(a) and json.loads(a) == json.loads(r)))
    return out


def copying(n):
    rng = random.Random(f"{SEED}/copy")
    out = []
    for _ in range(n):
        text = " ".join(gen.key(rng, True, "l") for _ in range(rng.randint(3, 16)))
        out.append((user("Repeat:\n" + text), 120, exactly(text)))
    return out


def known_words():
    rng = random.Random(f"{SEED}/words")
    return {w for _ in range(4000) for w in re.findall(r"[A-Za-z]+", gen.story(rng)[0])}


def story_holds(hero, words):
    """Told to an end, about the right hero from first to last, in words that exist."""
    def check(answer):
        seen = re.findall(r"[A-Za-z]+", answer)
        return len(seen) > 40 and seen.count(hero) >= 3 and all(w in words for w in seen) and answer.rstrip()[-1] in '.!"'
    return check


def stories(n):
    rng = random.Random(f"{SEED}/stories")
    words = known_words()
    return [(user(f"Tell me a story about {h}."), 300, story_holds(h, words)) for h in (rng.choice(gen.NAMES) for _ in range(n))]


def table(client, n, lengths):
    """(name, context, tasks) of every row."""
    rows = [("closed world", 0, closed_world(n)), ("arithmetic within 100", 0, arithmetic(n)), ("valid JSON", 0, json_valid(n)),
            ("JSON with the asked fields", 0, json_exact(n)), ("copying random words", 0, copying(n)), ("story about a name", 0, stories(max(1, n // 4)))]
    for length in lengths:
        rows += [("key-value retrieval", length, key_value(client, n, length)), ("needle in text", length, needle(client, n, length)),
                 ("variable tracing", length, tracing(client, n, length))]
    return rows


def run(client, rows, n_thread=8):
    """Yields (name, context, right, asked, mean prompt tokens, a wrong answer or None)."""
    with concurrent.futures.ThreadPoolExecutor(n_thread) as pool:
        for name, length, row in rows:
            replies = list(pool.map(lambda t: client.ask(t[0], t[1]), row))
            good = [t[2](r[0]) for t, r in zip(row, replies)]
            wrong = next(((t[0][-1]["content"][-80:], r[0]) for t, r, g in zip(row, replies, good) if not g), None)
            yield name, length, sum(good), len(row), sum(r[1] for r in replies) / len(row), wrong
