#!/usr/bin/env python3
"""Writes training steps for demo-trainer: gen.py --vocab FILE --seed N --step N. Every step has its own seed: a run can be continued."""
import argparse
import array
import random
import struct
import sys

import tasks
import tok

STEP_TOKENS = 8192
SMALL = [(tasks.ask_story, 9), (tasks.closed_world, 34), (tasks.chat, 7), (tasks.arithmetic, 24), (tasks.copying, 12), (tasks.make_json, 16),
         (tasks.tool_call, 6)]
# tag of a unit, for the trainer's report
INDUCTION, KV, NEEDLE, TRACE, MIXED = 1, 2, 3, 4, 5


def lengths(step):
    """Length of context and its share, by step."""
    if step < 120:
        return [(256, 1.0)]
    if step < 250:
        return [(256, 0.5), (512, 0.5)]
    if step < 450:
        return [(256, 0.3), (512, 0.3), (1024, 0.4)]
    if step < 620:
        return [(256, 0.25), (512, 0.2), (1024, 0.35), (2048, 0.2)]
    return [(256, 0.25), (512, 0.15), (1024, 0.25), (2048, 0.15), (4096, 0.2)]


def shares(step):
    """Share of each kind of unit."""
    if step < 60:
        return [(INDUCTION, 0.3), (KV, 0.4), (MIXED, 0.3)]
    if step < 250:
        return [(INDUCTION, 0.1), (KV, 0.4), (NEEDLE, 0.05), (TRACE, 0.1), (MIXED, 0.35)]
    if step < 730:
        return [(INDUCTION, 0.05), (KV, 0.28), (NEEDLE, 0.06), (TRACE, 0.09), (MIXED, 0.52)]
    return [(INDUCTION, 0.02), (KV, 0.18), (NEEDLE, 0.05), (TRACE, 0.07), (MIXED, 0.68)]


def pick(rng, table):
    return rng.choices([t[0] for t in table], [t[1] for t in table])[0]


class Writer:
    def __init__(self, tokenizer):
        self.t = tokenizer
        e = tokenizer.encode
        self.head = {r: [tok.IM_START] + e(r + "\n") for r in ("system", "user", "assistant")}
        self.tail = [tok.IM_END] + e("\n")
        self.raw = [i for i, (p, k) in enumerate(tokenizer.vocab) if k == 1]

    def turns(self, turns):
        ids, weights = [], []
        for role, text, w in turns:
            body = self.t.encode(text)
            h = self.head[role]
            ids += h + body + self.tail
            # the end of an answer is learned with it
            weights += [0] * len(h) + [w] * len(body) + [w if role == "assistant" else 0] + [0] * (len(self.tail) - 1)
        return ids, weights

    def induction(self, rng, n):
        period = rng.randint(8, n // 2)
        base = [rng.choice(self.raw) for _ in range(period)]
        ids = (base * (n // period + 1))[:n]
        return ids, [0] * (period + 1) + [4] * (n - period - 1)

    def retrieval(self, rng, kind, n):
        """One context that fills most of a row, then questions until it is full."""
        for scale in (1.0, 0.8, 0.6, 0.4):
            n_ask = int(min(80, rng.uniform(0.2, 0.6) * n * scale / 17))
            left = n * scale - 17 * n_ask
            if kind == KV:
                t = tasks.kv(rng, max(2, int(left / 7.5 * rng.choice([1, 1, 1, 0.5]))), n_ask)
            elif kind == NEEDLE:
                t = tasks.needle(rng, max(2, int(left / 12) - n_ask), min(n_ask, 24))
            else:
                t = tasks.tracing(rng, max(2, int(left / 8)), n_ask)
            ids, weights = self.turns(t)
            if len(ids) <= n:
                return ids, weights
        return [], []

    def row(self, rng, kind, n):
        ids, weights = [], []
        if kind == INDUCTION:
            return self.induction(rng, n)
        if kind != MIXED:
            ids, weights = self.retrieval(rng, kind, n)
        misses = 0
        while len(ids) < n and misses < 8:
            a, b = self.turns(pick(rng, SMALL)(rng))
            if len(ids) + len(a) > n:
                misses += 1
                continue
            ids += a
            weights += b
        pad = n - len(ids)
        return ids + [tok.PAD] * pad, weights + [0] * pad

    def step(self, seed, step):
        rng = random.Random(f"{seed}/{step}")
        units, total = [], 0
        while total < STEP_TOKENS:
            n = pick(rng, lengths(step))
            kind = pick(rng, shares(step))
            if kind == MIXED:
                n = min(n, 512)
            rows = max(1, 2048 // n)
            ids, weights = [], []
            for _ in range(rows):
                a, b = self.row(rng, kind, n)
                ids += a
                weights += b
            tag = kind if kind in (INDUCTION, MIXED) else kind + {256: 0, 512: 0, 1024: 4, 2048: 8, 4096: 12}[n]
            units.append((rows, n, tag, ids, weights))
            total += rows * n
        units.sort(key=lambda u: -u[1])
        out = [struct.pack("<I", len(units))]
        for rows, n, tag, ids, weights in units:
            out += [struct.pack("<III", rows, n, tag), array.array("H", ids).tobytes(), bytes(weights)]
        return b"".join(out)


def corpus(seed, n):
    """Text to train the tokenizer on."""
    rng = random.Random(seed)
    out = ["user\nassistant\nsystem\n" * 5000]
    for _ in range(n):
        for _, text, _ in pick(rng, SMALL)(rng):
            out.append(text)
        if rng.random() < 0.2:
            t = tasks.needle(rng, 5, 1)
            out += [x[1] for x in t] + ["JSON data:", tasks.kv_question("key"), "Variables:", "user assistant system"]
    return "\n".join(out)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--vocab", required=True)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--step", type=int, default=0)
    p.add_argument("--steps", type=int, default=1 << 40)
    p.add_argument("--train-vocab", type=int, metavar="SIZE")
    a = p.parse_args()
    if a.train_vocab:
        import json
        with open(a.vocab, "w") as f:
            json.dump(tok.train(corpus(a.seed, 12000), a.train_vocab), f)
        return
    w = Writer(tok.Tokenizer.load(a.vocab))
    for s in range(a.step, a.step + a.steps):
        try:
            sys.stdout.buffer.write(w.step(a.seed, s))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main()
