#!/usr/bin/env python3
"""Writes a checkpoint of demo-trainer as GGUF: gguf.py CHECKPOINT VOCAB OUT.gguf (matrices as f16, else f32)."""
import array
import json
import struct
import sys

import tok

# as in model.h
DIM, HEAD, N_HEAD, N_KV, FFN, N_LAYER, VOCAB, CONTEXT, ROPE_BASE = 256, 64, 4, 2, 640, 6, 3072, 4096, 1e6
TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}"
    "{{- 'You may call these functions:' }}"
    "{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}"
    "{{- '\\nAnswer a call with <tool_call>{\"name\": NAME, \"arguments\": {}}</tool_call>.<|im_end|>\\n' }}"
    "{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}"
    "{%- elif message.role == 'tool' %}{{- '<|im_start|>user\\n<tool_response>' + message.content + '</tool_response><|im_end|>\\n' }}"
    "{%- elif message.tool_calls %}{{- '<|im_start|>assistant\\n' }}"
    "{%- for call in message.tool_calls %}"
    "{{- '<tool_call>{\"name\": \"' + call.function.name + '\", \"arguments\": ' }}"
    "{%- if call.function.arguments is string %}{{- call.function.arguments }}{%- else %}{{- call.function.arguments | tojson }}{%- endif %}"
    "{{- '}</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")
U32, F32, BOOL, STR, ARR, I32 = 4, 6, 7, 8, 9, 5
ALIGN = 32


def read_checkpoint(path):
    with open(path, "rb") as f:
        if f.read(8) != b"KVDEMO1\0":
            sys.exit(f"gguf.py: {path} is not a checkpoint")
        step, n = struct.unpack("<QQ", f.read(16))
        w = array.array("f")
        w.fromfile(f, n)
    return step, w


def string(s):
    b = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if kind == STR:
        return string(v)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<?", I32: "<i"}[kind], v)


def pair(key, kind, v):
    return string(key) + struct.pack("<I", kind) + value(kind, v)


def array_of(key, kind, vs):
    return string(key) + struct.pack("<IIQ", ARR, kind, len(vs)) + b"".join(value(kind, v) for v in vs)


def tensors(w):
    """(name, rows, cols or None, values) in the order of the checkpoint, qkv and gate_up taken apart."""
    at = 0

    def take(rows, cols=None):
        nonlocal at
        n = rows * (cols or 1)
        at += n
        return rows, cols, w[at - n:at]

    out = [("token_embd.weight", *take(VOCAB, DIM))]
    for i in range(N_LAYER):
        b = f"blk.{i}."
        out += [(b + "attn_norm.weight", *take(DIM)), (b + "attn_q.weight", *take(N_HEAD * HEAD, DIM)),
                (b + "attn_k.weight", *take(N_KV * HEAD, DIM)), (b + "attn_v.weight", *take(N_KV * HEAD, DIM)),
                (b + "attn_output.weight", *take(DIM, N_HEAD * HEAD)), (b + "ffn_norm.weight", *take(DIM)),
                (b + "ffn_gate.weight", *take(FFN, DIM)), (b + "ffn_up.weight", *take(FFN, DIM)),
                (b + "ffn_down.weight", *take(DIM, FFN))]
    out.append(("output_norm.weight", *take(DIM)))
    assert at == len(w)
    return out


def metadata(t):
    shape = [("block_count", N_LAYER), ("context_length", CONTEXT), ("embedding_length", DIM), ("feed_forward_length", FFN),
             ("attention.head_count", N_HEAD), ("attention.head_count_kv", N_KV), ("attention.key_length", HEAD),
             ("attention.value_length", HEAD), ("rope.dimension_count", HEAD), ("vocab_size", VOCAB)]
    kv = [pair("general.architecture", STR, "llama"), pair("general.name", STR, "Kvasir demo"), pair("general.license", STR, "apache-2.0")]
    # a model this small does best near its likeliest word
    kv += [pair("general.sampling.temp", F32, 0.3), pair("general.sampling.top_p", F32, 0.9)]
    kv += [pair("llama." + k, U32, v) for k, v in shape]
    kv += [pair("llama.rope.freq_base", F32, ROPE_BASE), pair("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)]
    kv += [pair("tokenizer.ggml.model", STR, "llama"), array_of("tokenizer.ggml.tokens", STR, [p for p, _ in t.vocab]),
           array_of("tokenizer.ggml.scores", F32, [t.score(i) for i in range(VOCAB)]),
           array_of("tokenizer.ggml.token_type", I32, [k for _, k in t.vocab])]
    kv += [pair("tokenizer.ggml." + k, U32, v) for k, v in (("unknown_token_id", 0), ("bos_token_id", 1), ("eos_token_id", tok.IM_END),
                                                          ("padding_token_id", tok.PAD))]
    kv += [pair("tokenizer.ggml." + k, BOOL, False) for k in ("add_bos_token", "add_eos_token", "add_space_prefix")]
    kv.append(pair("tokenizer.chat_template", STR, TEMPLATE))
    return kv


def main():
    step, w = read_checkpoint(sys.argv[1])
    with open(sys.argv[2]) as f:
        kv = metadata(tok.Tokenizer(json.load(f)))
    head, data = b"", b""
    ts = tensors(w)
    for name, rows, cols, v in ts:
        raw = struct.pack(f"<{len(v)}e", *v) if cols else v.tobytes()
        dims = struct.pack("<QQ", cols, rows) if cols else struct.pack("<Q", rows)
        head += string(name) + struct.pack("<I", 2 if cols else 1) + dims + struct.pack("<IQ", 1 if cols else 0, len(data))
        data += raw + b"\0" * (-len(raw) % ALIGN)
    out = b"GGUF" + struct.pack("<IQQ", 3, len(ts), len(kv)) + b"".join(kv) + head
    with open(sys.argv[3], "wb") as f:
        f.write(out + b"\0" * (-len(out) % ALIGN) + data)
    print(f"{sys.argv[3]}: step {step}, {len(w)} weights")


if __name__ == "__main__":
    main()
