"""kvasir convert: tiny models written as Hugging Face folders come back with the same tensors,
tokens and logits; folders with faults are refused in one line."""

import json
import math
import os
import re
import struct
import subprocess
import sys
import tempfile

from server import BUILD, KVASIR, SHARED, Server, check

TINY = os.path.join(BUILD, "tests", "golden", "test_tiny")
F32, F16, BF16 = 0, 1, 30
DTYPES = {F32: "F32", F16: "F16", BF16: "BF16"}


# ---- GGUF, as far as these files use it


class Gguf:
    FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
               12: "d"}

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        self.at = 4
        check(self.data[:4] == b"GGUF" and self.number("I") == 3, f"{path} is no GGUF file")
        n_tensor, n_kv = self.number("Q"), self.number("Q")
        self.kv = {}
        for _ in range(n_kv):
            key = self.text()
            self.kv[key] = self.value(self.number("I"))
        self.tensors = {}
        for _ in range(n_tensor):
            name = self.text()
            ne = [self.number("Q") for _ in range(self.number("I"))]
            kind, offset = self.number("I"), self.number("Q")
            self.tensors[name] = (kind, ne, offset)
        start = (self.at + 31) // 32 * 32
        for name, (kind, ne, offset) in self.tensors.items():
            n = math.prod(ne) * (4 if kind == F32 else 2)
            self.tensors[name] = (kind, ne, self.data[start + offset:start + offset + n])

    def number(self, fmt):
        (v,) = struct.unpack_from("<" + fmt, self.data, self.at)
        self.at += struct.calcsize(fmt)
        return v

    def text(self):
        n = self.number("Q")
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            of, n = self.number("I"), self.number("Q")
            return [self.value(of) for _ in range(n)]
        return self.number(self.FORMATS[kind])


# ---- folders

CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
           "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "gemma": "GemmaForCausalLM",
           "gemma2": "Gemma2ForCausalLM", "gemma3": "Gemma3ForCausalLM", "phi3": "Phi3ForCausalLM"}
INNER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_qkv": "self_attn.qkv_proj",
         "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
         "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}
OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
         "output.weight": "lm_head.weight"}


def hf_name(arch, name):
    if name in OUTER:
        return OUTER[name]
    layer, part, kind = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(\w+)", name).groups()
    post = arch in ("gemma2", "gemma3")
    inner = {**INNER, "ffn_norm": "pre_feedforward_layernorm" if post else
             "post_attention_layernorm", "post_attention_norm": "post_attention_layernorm",
             "post_ffw_norm": "post_feedforward_layernorm"}
    if arch == "phi3":
        inner["ffn_up"] = "mlp.gate_up_proj"
    return f"model.layers.{layer}.{inner[part]}.{kind}"


def unpermute(data, n_head):
    """Neighbours become halves."""
    n_row = n_head
    head = len(data) // n_row
    d = unpermute.d_head
    row = head // d
    out = b""
    for h in range(n_head):
        rows = [data[h * head + i * row:h * head + (i + 1) * row] for i in range(d)]
        out += b"".join(rows[0::2] + rows[1::2])
    return out


def hf_tensors(g, arch):
    a = g.kv["general.architecture"]
    n_head, n_kv = g.kv[f"{a}.attention.head_count"], g.kv[f"{a}.attention.head_count_kv"]
    unpermute.d_head = g.kv.get(f"{a}.attention.key_length", g.kv[f"{a}.embedding_length"] // n_head)
    out = {}
    for name, (kind, ne, data) in g.tensors.items():
        if name.startswith("rope_"):
            continue
        if arch in ("llama", "mistral") and re.search(r"attn_[qk]\.", name):
            data = unpermute(data, n_head if "attn_q." in name else n_kv)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            n = len(data) // 4
            data = struct.pack(f"<{n}f", *(x - 1 for x in struct.unpack(f"<{n}f", data)))
        out[hf_name(arch, name)] = (DTYPES[kind], ne[::-1], data)
    return out


def config_of(g, arch):
    a = g.kv["general.architecture"]
    get = lambda key, absent=None: g.kv.get(f"{a}.{key}", absent)
    d = get("attention.key_length", get("embedding_length") // get("attention.head_count"))
    c = {"architectures": [CLASSES[arch]], "hidden_size": get("embedding_length"),
         "num_hidden_layers": get("block_count"), "intermediate_size": get("feed_forward_length"),
         "num_attention_heads": get("attention.head_count"),
         "num_key_value_heads": get("attention.head_count_kv"), "head_dim": d,
         "max_position_embeddings": get("context_length"),
         "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
         "rope_theta": get("rope.freq_base", 10000.0),
         "tie_word_embeddings": "output.weight" not in g.tensors, "hidden_act": "silu",
         "bos_token_id": 1, "eos_token_id": [2, 3]}
    if arch.startswith("gemma"):
        c["hidden_act"] = c["hidden_activation"] = "gelu_pytorch_tanh"
    if arch in ("gemma2", "gemma3"):
        c.update(query_pre_attn_scalar=d, sliding_window=get("attention.sliding_window"),
                 final_logit_softcapping=get("final_logit_softcapping"))
    if arch == "gemma2":
        c["attn_logit_softcapping"] = get("attn_logit_softcapping")
    if arch == "gemma3":
        c["rope_local_base_freq"] = 10000
        c["sliding_window_pattern"] = 6
    if get("rope.dimension_count", d) != d:
        c["partial_rotary_factor"] = get("rope.dimension_count") / d
    if get("rope.scaling.type") == "linear" or get("rope.scaling.factor"):
        c["rope_scaling"] = {"rope_type": "linear", "factor": get("rope.scaling.factor")}
    if "rope_factors_long.weight" in g.tensors:
        floats = lambda n: list(struct.unpack(f"<{len(g.tensors[n][2]) // 4}f", g.tensors[n][2]))
        c["original_max_position_embeddings"] = get("rope.scaling.original_context_length")
        c["rope_scaling"] = {"type": "longrope", "long_factor": floats("rope_factors_long.weight"),
                             "short_factor": floats("rope_factors_short.weight"),
                             "attention_factor": get("rope.scaling.attn_factor")}
    return c


def tokenizer_of(g):
    """SentencePiece's BPE as transformers writes it: every split of a piece is a merge."""
    tokens = g.kv["tokenizer.ggml.tokens"]
    scores, types = g.kv["tokenizer.ggml.scores"], g.kv["tokenizer.ggml.token_type"]
    ids = {t: i for i, t in enumerate(tokens)}
    merges = []
    for i in sorted(range(len(tokens)), key=lambda i: -scores[i]):
        if types[i] == 1:
            splits = [(tokens[i][:k], tokens[i][k:]) for k in range(1, len(tokens[i]))]
            merges += [[x, y] for x, y in splits if x in ids and y in ids]
    return {"model": {"type": "BPE", "vocab": ids, "merges": merges, "byte_fallback": True,
                      "unk_token": "<unk>"},
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "pre_tokenizer": None,
            "added_tokens": [{"id": i, "content": tokens[i], "special": True} for i in (1, 2)],
            "post_processor": {"type": "TemplateProcessing", "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}}]}}


def write_safetensors(path, tensors):
    head, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, raw) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data),
                                                                       len(data) + len(raw)]}
        data += raw
    text = json.dumps(head).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f)


def write_folder(folder, config, tensors, tokenizer, shards=1):
    os.makedirs(folder)
    write_json(folder, "config.json", config)
    write_json(folder, "tokenizer.json", tokenizer)
    if shards == 1:
        write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
        return
    names = sorted(tensors)
    index = {}
    for s in range(shards):
        file = f"model-{s + 1:05}-of-{shards:05}.safetensors"
        part = {n: tensors[n] for n in names[s::shards]}
        write_safetensors(os.path.join(folder, file), part)
        index.update({n: file for n in part})
    write_json(folder, "model.safetensors.index.json", {"weight_map": index})


# ---- runs


def run(*words, stdin=""):
    done = subprocess.run([KVASIR, *words], capture_output=True, text=True, timeout=120,
                          check=False, input=stdin)
    check("Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr)
    return done


def convert(folder, out, *more):
    done = run("convert", folder, out, *more)
    check(done.returncode == 0, f"{folder}: {done.stderr}")
    check(os.listdir(os.path.dirname(out)).count(os.path.basename(out) + ".whole") == 0, "rests")
    return Gguf(out) if not more else None


def logits(model):
    done = run("eval", "--model", model, "--ctx", "256", "--tokens", "1,40,300,7,99,260,411,5,6,7,8",
               "--positions", "0,5,10", "--json", "--kv-type", "f32")
    check(done.returncode == 0, f"{model}: {done.stderr}")
    return [float(x) for x in re.findall(r"-?\d+\.?\d*(?:e[-+]?\d+)?", done.stdout)]


def token_ids(model, text):
    done = run("tokenize", "--model", model, stdin=text)
    check(done.returncode == 0, f"{model}: {done.stderr}")
    return done.stdout


def round_trip(top, name, arch, original, shards):
    g = Gguf(original)
    folder, out = os.path.join(top, name), os.path.join(top, name + ".gguf")
    tensors = hf_tensors(g, arch)
    write_folder(folder, config_of(g, arch), tensors, tokenizer_of(g), shards)
    got = convert(folder, out)
    check(set(got.tensors) == set(g.tensors), f"{name}: {set(got.tensors) ^ set(g.tensors)}")
    for tensor, (kind, ne, data) in g.tensors.items():
        check(got.tensors[tensor] == (kind, ne, data), f"{name}: {tensor} differs")
    a, b = logits(original), logits(out)
    worst = max(abs(x - y) for x, y in zip(a, b))
    check(len(a) == len(b) and worst < 1e-4, f"{name}: logits differ by {worst}")
    for text in ("Once upon a time, there was a little girl.", " é\n日本 w300", ""):
        check(token_ids(original, text) == token_ids(out, text), f"{name}: tokens of {text!r}")
    check(got.kv["tokenizer.ggml.eot_token_id"] == 3, f"{name}: a second end")
    print("ok", name)


def to_half(data, dtype):
    values = struct.unpack(f"<{len(data) // 4}f", data)
    if dtype == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    return b"".join(struct.pack("<f", v)[2:] for v in values)


def test_types(top, original):
    """F16 and BF16 matrices keep their type, vectors turn F32; then quantised, then served."""
    g = Gguf(original)
    for dtype, kind in (("F16", F16), ("BF16", BF16)):
        tensors = {n: (dtype, s, to_half(d, dtype)) for n, (_, s, d) in
                   hf_tensors(g, "llama").items()}
        folder, out = os.path.join(top, dtype), os.path.join(top, dtype + ".gguf")
        write_folder(folder, config_of(g, "llama"), tensors, tokenizer_of(g))
        got = convert(folder, out)
        for name, (of, ne, _) in got.tensors.items():
            check(of == (F32 if len(ne) == 1 else kind), f"{name} has type {of}")
    convert(os.path.join(top, "BF16"), os.path.join(top, "q8.gguf"), "Q8_0")
    a, b = logits(os.path.join(top, "BF16.gguf")), logits(os.path.join(top, "q8.gguf"))
    check(max(abs(x - y) for x, y in zip(a, b)) < 1, "Q8_0 is far off")
    cache = os.path.join(top, "cache")
    for more in ([], ["--quantize", "Q8_0"]):
        s = Server([KVASIR, "serve", "--model", os.path.join(top, "BF16"), "--ctx", "64", *more],
                   env={"KVASIR_CACHE": cache})
        status, reply = s.post("/v1/completions", {"prompt": "Once", "max_tokens": 4})
        check(status == 200 and reply["model"] == "BF16", f"serving a folder: {status} {reply}")
        check(s.stop() == 0 and os.listdir(cache) == [], f"left: {os.listdir(cache)}")
    print("ok types")


def test_llama3_rope(top, original):
    g = Gguf(original)
    c = config_of(g, "llama")
    c["rope_theta"] = 500000
    c["rope_scaling"] = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                         "high_freq_factor": 4, "original_max_position_embeddings": 64}
    folder, out = os.path.join(top, "llama3"), os.path.join(top, "llama3.gguf")
    write_folder(folder, c, hf_tensors(g, "llama"), tokenizer_of(g))
    got = convert(folder, out).tensors["rope_freqs.weight"][2]
    for i, factor in enumerate(struct.unpack(f"<{len(got) // 4}f", got)):
        wavelength = 2 * math.pi * 500000 ** (2 * i / c["head_dim"])
        if wavelength < 64 / 4:
            want = 1
        elif wavelength > 64:
            want = 8
        else:
            smooth = (64 / wavelength - 1) / 3
            want = 1 / ((1 - smooth) / 8 + smooth)
        check(abs(factor - want) < 1e-5 * want, f"rope factor {i}: {factor}, not {want}")
    print("ok llama3 rope")


def byte_symbols():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def test_byte_level(top, original):
    g = Gguf(original)
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2"]
    tokens = [byte_symbols()[b] for b in range(256)] + [m.replace(" ", "") for m in merges]
    ids = {t: i for i, t in enumerate(tokens)}
    qwen = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
            "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
    tokenizer = {"model": {"type": "BPE", "vocab": ids, "merges": merges},
                 "normalizer": {"type": "NFC"},
                 "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                     {"type": "Split", "pattern": {"Regex": qwen}, "behavior": "Isolated"},
                     {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]},
                 "added_tokens": [{"id": 300, "content": "<|end|>", "special": True}],
                 "post_processor": {"type": "ByteLevel"}}
    folder, out = os.path.join(top, "bytes"), os.path.join(top, "bytes.gguf")
    write_folder(folder, config_of(g, "qwen2"), hf_tensors(g, "qwen2"), tokenizer)
    write_json(folder, "tokenizer_config.json",
               {"eos_token": {"content": "<|end|>"}, "chat_template": "{{ messages[0].content }}"})
    got = convert(folder, out).kv
    check(got["tokenizer.ggml.pre"] == "qwen2" and got["tokenizer.ggml.eos_token_id"] == 300 and
          not got["tokenizer.ggml.add_bos_token"], "keys of a byte-level tokenizer")
    check(got["tokenizer.chat_template"] == "{{ messages[0].content }}", "chat template")
    want = [ids["hello"], ids["Ġw"], ids["1"], ids["2"]]
    numbers = [int(x) for x in re.findall(r"\d+", token_ids(out, "hello w12"))]
    check(numbers[-4:] == want or numbers[:4] == want, f"{numbers}, not {want}")
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "odd.*"
    write_json(folder, "tokenizer.json", tokenizer)
    refuses(top, folder, "odd.*")
    print("ok byte-level tokenizer")


# ---- faults


def refuses(top, folder, *words):
    out = os.path.join(top, "refused.gguf")
    done = run("convert", folder, out)
    lines = done.stderr.strip().splitlines()
    check(done.returncode == 1 and len(lines) == 1, f"{words}: {done.returncode} {done.stderr!r}")
    for word in words:
        check(word in lines[0], f"{lines[0]!r} lacks {word!r}")
    check(not os.path.exists(out) and not os.path.exists(out + ".partial"), "a file was left")


def test_faults(top, original):
    g = Gguf(original)
    tensors, config, tokenizer = hf_tensors(g, "llama"), config_of(g, "llama"), tokenizer_of(g)
    folder = os.path.join(top, "bad")
    write_folder(folder, config, tensors, tokenizer)
    file = os.path.join(folder, "model.safetensors")
    with open(file, "rb") as f:
        good = f.read()
    n = struct.unpack("<Q", good[:8])[0]
    head, data = json.loads(good[8:8 + n]), good[8 + n:]

    def with_head(change, *words):
        h = json.loads(json.dumps(head))
        text = change(h)
        text = (text if isinstance(text, str) else json.dumps(h)).encode()
        with open(file, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + data)
        refuses(top, folder, *words)

    norm, embed = "model.norm.weight", "model.embed_tokens.weight"
    with_head(lambda h: h[norm].update(dtype="I8"), norm, "I8")
    with_head(lambda h: h[norm].update(data_offsets=[0, 10 ** 15]), norm)
    with_head(lambda h: h[norm].update(data_offsets=[8, 4]), norm)
    with_head(lambda h: h[norm].update(data_offsets=[-4, 4]), norm)
    with_head(lambda h: h[norm].update(data_offsets="x"), norm)
    with_head(lambda h: h[norm].update(shape=[2 ** 40, 2 ** 40]), norm)
    with_head(lambda h: h[norm].update(shape=[1, 2, 3, 4, 5]), norm)
    with_head(lambda h: h.update({norm: 5}), norm)
    size = len(tensors[norm][2])
    with_head(lambda h: h[norm].update(data_offsets=[4, 4 + size]), "overlap")
    with_head(lambda h: h.pop(embed), "embed_tokens")
    with_head(lambda h: h.update({"model.layers.0.odd.weight": h.pop(norm)}), "odd.weight")
    with_head(lambda h: "[1, 2]", "JSON")
    with_head(lambda h: "{" * 2000, "JSON")
    for raw in (b"", b"1234567", struct.pack("<Q", 2 ** 63) + b"{}", struct.pack("<Q", 9) + b"{}"):
        with open(file, "wb") as f:
            f.write(raw)
        refuses(top, folder, "model.safetensors")
    with open(file, "wb") as f:
        f.write(good)

    def with_config(*words, **change):
        write_json(folder, "config.json", {**config, **change})
        refuses(top, folder, *words)

    with_config("Odd", architectures=["OddForCausalLM"])
    with_config("architecture", architectures=5)
    with_config("num_hidden_layers", num_hidden_layers=-1)
    with_config("num_attention_heads", num_attention_heads=1.5)
    with_config("heads", num_attention_heads=3)
    with_config("dynamic", rope_scaling={"type": "dynamic", "factor": 2})
    with_config("llama3", rope_scaling={"rope_type": "llama3"})
    with_config("rope_theta", rope_theta=0)
    with_config("activation", hidden_act="relu")
    with_config("quantised", quantization_config={"bits": 4})
    with_config("has no place", num_hidden_layers=1)
    write_json(folder, "config.json", config)

    def with_tokenizer(*words, **change):
        t = json.loads(json.dumps(tokenizer))
        t["model"].update(change)
        write_json(folder, "tokenizer.json", t)
        refuses(top, folder, *words)

    with_tokenizer("Unigram", type="Unigram")
    with_tokenizer("id", vocab={**tokenizer["model"]["vocab"], "far": 10 ** 9})
    with_tokenizer("numbers", vocab={"a": "b"})
    with_tokenizer("merge 0", merges=["abc"])
    with_tokenizer("merge 0", merges=[["a"]])
    os.remove(os.path.join(folder, "tokenizer.json"))
    refuses(top, folder, "tokenizer.json")
    write_json(folder, "tokenizer.json", tokenizer)
    for index in ({"weight_map": {"a": "../x"}}, {"weight_map": {}}, {"weight_map": {"a": "b"}},
                  {"weight_map": {"a": "model.safetensors"}}):
        write_json(folder, "model.safetensors.index.json", index)
        refuses(top, folder)
    done = run("convert", top, os.path.join(top, "x.gguf"))
    check(done.returncode == 1 and "config.json" in done.stderr, done.stderr)
    print("ok faults")


def main():
    with tempfile.TemporaryDirectory() as top:
        models = {}
        for name in ("llama", "llama-tied", "llama-linear-rope", "qwen2", "qwen3", "gemma",
                     "gemma2", "gemma3", "phi3", "phi3-longrope-short"):
            models[name] = os.path.join(top, "tiny-" + name + ".gguf")
            done = subprocess.run([TINY, "--build", name, models[name]], check=False)
            check(done.returncode == 0, f"{TINY} --build {name}")
        for i, (name, path) in enumerate(models.items()):
            round_trip(top, name, name.split("-")[0], path, 1 + i % 3)
            golden = os.path.join(SHARED, "data", "golden", "arch", name, "model.gguf")
            if os.path.exists(golden):
                round_trip(top, "golden-" + name, name.split("-")[0], golden, 1)
        round_trip(top, "mistral", "mistral", models["llama"], 1)
        test_types(top, models["llama"])
        test_llama3_rope(top, models["llama"])
        test_byte_level(top, models["qwen2"])
        test_faults(top, models["llama"])


if __name__ == "__main__":
    sys.exit(main())
