#include "tests/unit/engine/tiny.h"

#include "base/rng.h"
#include "engine/gguf_write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_EMBD  32
#define N_HEAD  4
#define N_KV    2
#define D_HEAD  8
#define N_FF    48
#define N_LAYER 2

struct key {
    const char *name;
    bool is_real;
    int64_t number;
    double real;
};

static const struct key keys[] = {
    {"llama.block_count", false, N_LAYER, 0},
    {"llama.context_length", false, TINY_N_CTX, 0},
    {"llama.embedding_length", false, N_EMBD, 0},
    {"llama.feed_forward_length", false, N_FF, 0},
    {"llama.attention.head_count", false, N_HEAD, 0},
    {"llama.attention.head_count_kv", false, N_KV, 0},
    {"llama.attention.layer_norm_rms_epsilon", true, 0, 1e-5},
    {"llama.rope.dimension_count", false, D_HEAD, 0},
    {"llama.rope.freq_base", true, 0, 10000},
};

struct tensor {
    const char *name; /* "%d": one per layer */
    uint64_t ne0;
    uint64_t ne1;
};

static const struct tensor tensors[] = {
    {"token_embd.weight", N_EMBD, TINY_N_VOCAB},
    {"output_norm.weight", N_EMBD, 1},
    {"blk.%d.attn_norm.weight", N_EMBD, 1},
    {"blk.%d.attn_q.weight", N_EMBD, (uint64_t)N_HEAD *D_HEAD},
    {"blk.%d.attn_k.weight", N_EMBD, (uint64_t)N_KV *D_HEAD},
    {"blk.%d.attn_v.weight", N_EMBD, (uint64_t)N_KV *D_HEAD},
    {"blk.%d.attn_output.weight", (uint64_t)N_HEAD *D_HEAD, N_EMBD},
    {"blk.%d.ffn_norm.weight", N_EMBD, 1},
    {"blk.%d.ffn_gate.weight", N_EMBD, N_FF},
    {"blk.%d.ffn_up.weight", N_EMBD, N_FF},
    {"blk.%d.ffn_down.weight", N_FF, N_EMBD},
};

static void put_number(struct gguf_writer *w, const char *key, int64_t v)
{
    if (v < 0) {
        gguf_put_number(w, key, GGUF_I64, &v);
    } else {
        uint64_t u = (uint64_t)v;
        gguf_put_number(w, key, GGUF_U64, &u);
    }
}

static void put_keys(struct gguf_writer *w, const struct tiny_change *c)
{
    bool arch = c->kind == TINY_TEXT && strcmp(c->name, "general.architecture") == 0;
    gguf_put_str(w, "general.architecture", arch ? c->text : "llama");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const struct key *k = &keys[i];
        if (c->kind != TINY_NONE && c->kind != TINY_TENSOR && strcmp(c->name, k->name) == 0) {
            continue;
        }
        if (k->is_real) {
            gguf_put_f32(w, k->name, (float)k->real);
        } else {
            put_number(w, k->name, k->number);
        }
    }
    if (c->kind == TINY_NUMBER) {
        put_number(w, c->name, c->number);
    } else if (c->kind == TINY_REAL) {
        gguf_put_f32(w, c->name, (float)c->real);
    } else if (c->kind == TINY_TEXT && !arch) {
        gguf_put_str(w, c->name, c->text);
    }
}

static void put_vocab(struct gguf_writer *w)
{
    struct gguf_str tokens[TINY_N_VOCAB];
    float scores[TINY_N_VOCAB] = {0};
    int32_t types[TINY_N_VOCAB];
    static const char text[] = "<unk><s></s>abcdefghijklmnopqrstuvwxyz";
    tokens[0] = (struct gguf_str){text, 5};
    tokens[1] = (struct gguf_str){text + 5, 3};
    tokens[2] = (struct gguf_str){text + 8, 4};
    for (int i = 0; i < TINY_N_VOCAB; i++) {
        types[i] = i == 0 ? 2 : i < 3 ? 3 : 1;
        if (i >= 3) {
            tokens[i] = (struct gguf_str){text + 12 + i - 3, 1};
        }
    }
    gguf_put_str(w, "tokenizer.ggml.model", "llama");
    gguf_put_array(w, "tokenizer.ggml.tokens",
                   &(struct gguf_array){GGUF_STRING, TINY_N_VOCAB, NULL, tokens});
    gguf_put_array(w, "tokenizer.ggml.scores",
                   &(struct gguf_array){GGUF_F32, TINY_N_VOCAB, scores, NULL});
    gguf_put_array(w, "tokenizer.ggml.token_type",
                   &(struct gguf_array){GGUF_I32, TINY_N_VOCAB, types, NULL});
    gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2);
}

static void declare(struct gguf_writer *w, const char *name, uint64_t ne0, uint64_t ne1)
{
    uint64_t ne[2] = {ne0, ne1};
    gguf_put_tensor(w, (struct gguf_str){name, strlen(name)}, GGUF_TYPE_F32, ne1 > 1 ? 2 : 1, ne);
}

/* Declares all tensors; returns how many. */
static uint32_t put_tensors(struct gguf_writer *w, const struct tiny_change *c)
{
    uint32_t n = 0;
    bool added = c->kind != TINY_TENSOR;
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        const struct tensor *t = &tensors[i];
        bool each = strstr(t->name, "%d") != NULL;
        for (int il = 0; il < (each ? N_LAYER : 1); il++) {
            char name[64];
            const char *rest = each ? strstr(t->name, "%d") + 2 : "";
            if (each) {
                snprintf(name, sizeof name, "blk.%d%s", il, rest);
            } else {
                snprintf(name, sizeof name, "%s", t->name);
            }
            bool changed = c->kind == TINY_TENSOR && strcmp(c->name, name) == 0;
            added |= changed;
            if (changed && c->ne0 == 0) {
                continue;
            }
            declare(w, name, changed ? c->ne0 : t->ne0, changed ? c->ne1 : t->ne1);
            n++;
        }
    }
    if (!added && c->ne0) {
        declare(w, c->name, c->ne0, c->ne1);
        n++;
    }
    return n;
}

static enum err_code put_weights(struct gguf_writer *w, uint32_t n_tensor, struct err *e)
{
    uint64_t seed = 7;
    for (uint32_t t = 0; t < n_tensor; t++) {
        uint64_t n = gguf_writer_tensor_bytes(w, t) / sizeof(float);
        float *v = malloc(n * sizeof *v);
        for (uint64_t i = 0; i < n; i++) {
            v[i] = (float)((double)(rng_next(&seed) >> 40) / (1 << 24) - 0.5);
        }
        enum err_code code = gguf_writer_data(w, t, 0, v, n * sizeof *v, e);
        free(v);
        if (code) {
            return code;
        }
    }
    return ERR_OK;
}

bool tiny_write(const char *path, const struct tiny_change *change)
{
    static const struct tiny_change none = {.kind = TINY_NONE};
    const struct tiny_change *c = change ? change : &none;
    struct gguf_writer *w = NULL;
    struct err e;
    enum err_code code = gguf_writer_create(&w, &e);
    if (!code) {
        put_keys(w, c);
        put_vocab(w);
        uint32_t n = put_tensors(w, c);
        code = gguf_writer_open(w, path, &e);
        code = code ? code : put_weights(w, n, &e);
        code = code ? code : gguf_writer_finish(w, &e);
    }
    gguf_writer_destroy(w);
    if (code) {
        fprintf(stderr, "%s: %s\n", path, e.msg);
    }
    return !code;
}
