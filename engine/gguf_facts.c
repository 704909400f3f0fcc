#include "engine/gguf_facts.h"

#include "base/units.h"
#include "engine/quant/mix.h"

#include <stdio.h>
#include <string.h>

/* Numbers above this are taken as not said: they would only overflow what is computed of them. */
#define NUMBER_MAX (1u << 30)

static const char *arch_key(const struct gguf_facts *a, const char *suffix, char out[160])
{
    (void)snprintf(out, 160, "%.*s.%s", (int)(a->arch.n < 64 ? a->arch.n : 64), a->arch.s, suffix);
    return out;
}

/* The number for layer i: one for all, or an array's element; 0 when there is none. */
static uint64_t layer_number(const struct gguf *f, const struct gguf_facts *a, const char *suffix,
                             uint64_t i)
{
    char key[160];
    uint64_t v = 0;
    struct gguf_array array;
    if (!a->arch.n) {
        return 0;
    }
    if (!gguf_get_u64(f, arch_key(a, suffix, key), &v) && gguf_get_array(f, key, &array) &&
        i < array.n) {
        int64_t at = gguf_array_i64(&array, i);
        v = at > 0 ? (uint64_t)at : 0;
    }
    return v <= NUMBER_MAX ? v : 0;
}

static uint64_t number(const struct gguf *f, const struct gguf_facts *a, const char *suffix)
{
    return layer_number(f, a, suffix, 0);
}

static bool is_said(const struct gguf *f, const struct gguf_facts *a, const char *suffix)
{
    char key[160];
    uint64_t v;
    struct gguf_array array;
    return gguf_get_u64(f, arch_key(a, suffix, key), &v) || gguf_get_array(f, key, &array);
}

static void read_kv_bytes(const struct gguf *f, struct gguf_facts *a)
{
    uint64_t n_elem = 0;
    uint64_t n_head_kv = 0;
    bool own_kv_heads = is_said(f, a, "attention.head_count_kv");
    for (uint64_t i = 0; i < a->n_layer && i < 65536; i++) {
        uint64_t heads = layer_number(f, a, "attention.head_count", i);
        uint64_t kv_heads = own_kv_heads ? layer_number(f, a, "attention.head_count_kv", i) : heads;
        uint64_t d = heads ? a->n_embd / heads : 0;
        uint64_t d_k = number(f, a, "attention.key_length");
        uint64_t d_v = number(f, a, "attention.value_length");
        d_k = d_k ? d_k : d;
        d_v = d_v ? d_v : d;
        if (!kv_heads || !d_k || kv_heads > 65536 || d_k > 65536 || d_v > 65536) {
            continue;
        }
        if (!a->n_head) {
            a->n_head = heads;
            a->n_head_kv = kv_heads;
            a->head_dim = d_k;
        }
        n_elem += kv_heads * (d_k + d_v);
        n_head_kv += kv_heads;
    }
    a->kv_f32_bytes = 4 * n_elem;
    a->kv_bf16_bytes = 2 * n_elem;
    a->kv_int8_bytes = n_elem + 2 * 2 * n_head_kv;
}

void gguf_facts_read(const struct gguf *f, struct gguf_facts *ret_facts)
{
    struct gguf_facts a = {0};
    struct gguf_array tokens;
    struct gguf_str chat_template;
    uint64_t file_type;
    (void)gguf_get_str(f, "general.architecture", &a.arch);
    (void)gguf_get_str(f, "general.name", &a.name);
    (void)gguf_get_str(f, "tokenizer.ggml.model", &a.tokenizer);
    if (gguf_get_u64(f, "general.file_type", &file_type)) {
        a.file_type = quant_file_type_name(file_type);
    }
    if (gguf_get_array(f, "tokenizer.ggml.tokens", &tokens)) {
        a.n_vocab = tokens.n;
    }
    if (gguf_get_str(f, "tokenizer.chat_template", &chat_template)) {
        a.chat_template_bytes = chat_template.n;
    }
    a.n_layer = number(f, &a, "block_count");
    a.n_ctx_train = number(f, &a, "context_length");
    a.n_embd = number(f, &a, "embedding_length");
    a.n_ff = number(f, &a, "feed_forward_length");
    a.n_expert = number(f, &a, "expert_count");
    a.n_expert_used = number(f, &a, "expert_used_count");
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f, i);
        /* Tensors may overlap in a hostile file: the sums are kept from wrapping, no more. */
        (void)units_add(a.n_param, t->n_elem, &a.n_param);
        (void)units_add(a.tensor_bytes, t->n_byte, &a.tensor_bytes);
    }
    if (a.arch.n) {
        read_kv_bytes(f, &a);
    }
    *ret_facts = a;
}
