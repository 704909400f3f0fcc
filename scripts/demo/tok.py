"""The default model's tokenizer: SentencePiece-style BPE with byte fallback, trained on the generators' own text.

No token crosses from letters to digits or signs, so text splits into segments that are encoded apart and remembered.
Digits go in pairs from the left; every pair of small letters is a token, so that a random key costs few of them.
"""
import collections
import json
import re

SPACE = "\u2581"
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
IM_START, IM_END, PAD = 3, 4, 5
SEGMENT = re.compile(r" ?[A-Za-z]+|[0-9]+|(?: (?![A-Za-z])|[^A-Za-z0-9 ])+")
SIGNS = [' "', '":', ',"', ', "', '"?', '".', '",', '",\n', '{"', '"}', '\n\n', '.\n', ',\n', ' =', ' +', ' -', '?\n', ':\n', '}\n',
         '":"', '{\n', ' {', ' {"', '"\n', '</', '!\n', ' (', '["', '"]']
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def train(text, size):
    """The list of (piece, kind) by falling priority; kind as in GGUF: 1 normal, 2 unknown, 3 control, 6 byte."""
    words = collections.Counter(SEGMENT.findall(text))
    pieces = [chr(c) for c in range(33, 127)] + [SPACE, "\n"]
    pairs = [a + b for a in "0123456789" for b in "0123456789"]
    bigrams = [a + b for a in LETTERS for b in LETTERS]
    have = set(pieces)
    signs = []
    for s in sorted(SIGNS, key=len):
        s = s.replace(" ", SPACE)
        if s not in have:
            signs.append(s)
            have.add(s)
    splits = {w: tuple(w.replace(" ", SPACE)) for w in words if re.fullmatch(r" ?[A-Za-z]+", w)}
    room = size - len(SPECIAL) - 256 - len(pieces) - len(pairs) - len(signs)
    merges = []
    counts = collections.Counter()
    where = collections.defaultdict(set)
    for w, s in splits.items():
        for pair in zip(s, s[1:]):
            counts[pair] += words[w]
            where[pair].add(w)
    # so many learned pieces that the pairs of letters they lack still fit
    while True:
        lacking = sum(1 for b in bigrams if b not in have)
        if len(merges) + lacking >= room or not counts:
            break
        pair, n = max(counts.items(), key=lambda kv: (kv[1], kv[0]))
        if n < 2:
            break
        merged = pair[0] + pair[1]
        if merged not in have:
            merges.append(merged)
            have.add(merged)
        for w in list(where[pair]):
            s, n = splits[w], words[w]
            for p in zip(s, s[1:]):
                counts[p] -= n
                if counts[p] <= 0:
                    del counts[p]
            out, i = [], 0
            while i < len(s):
                if i + 1 < len(s) and (s[i], s[i + 1]) == pair:
                    out.append(merged)
                    i += 2
                else:
                    out.append(s[i])
                    i += 1
            splits[w] = tuple(out)
            for p in zip(out, out[1:]):
                counts[p] += n
                where[p].add(w)
        counts.pop(pair, None)
    rest = [b for b in bigrams if b not in have]
    vocab = [(s, 2 if i == 0 else 3) for i, s in enumerate(SPECIAL)]
    vocab += [("<0x%02X>" % b, 6) for b in range(256)]
    vocab += [(p, 1) for p in pairs + signs + merges + rest + pieces]
    while len(vocab) < size:
        vocab.append(("<|spare_%d|>" % len(vocab), 3))
    return vocab


class Tokenizer:
    def __init__(self, vocab):
        self.vocab = [tuple(v) for v in vocab]
        self.id = {}
        for i, (p, kind) in enumerate(self.vocab):
            self.id[p] = i
        self.pairs = self.id["00"]
        self.cache = {}

    @staticmethod
    def load(path):
        with open(path) as f:
            return Tokenizer(json.load(f))

    def score(self, i):
        """All pairs of digits are worth the same: the leftmost goes first."""
        if i < self.pairs:
            return 0.0
        return -1.0 if i < self.pairs + 100 else -float(i - self.pairs - 98)

    def _segment(self, seg):
        s = list(seg.replace(" ", SPACE))
        while True:
            best, at = None, -1
            for i in range(len(s) - 1):
                t = self.id.get(s[i] + s[i + 1])
                if t is not None and (best is None or self.score(t) > best):
                    best, at = self.score(t), i
            if at < 0:
                break
            s[at:at + 2] = [s[at] + s[at + 1]]
        out = []
        for p in s:
            t = self.id.get(p)
            if t is None:
                out += [self.id["<0x%02X>" % b] for b in p.encode()]
            else:
                out.append(t)
        return out

    def encode(self, text):
        out = []
        for seg in SEGMENT.findall(text):
            t = self.cache.get(seg)
            if t is None:
                t = self._segment(seg)
                if len(self.cache) < 400000:
                    self.cache[seg] = t
            out += t
        return out

    def decode(self, ids):
        raw = b""
        for i in ids:
            p, kind = self.vocab[i]
            raw += bytes([int(p[3:5], 16)]) if kind == 6 else p.replace(SPACE, " ").encode()
        return raw.decode(errors="replace")
