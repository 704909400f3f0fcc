#include "small_vocab.h"

#include "base/utf8.h"
#include "engine/gguf_write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Strings are kept one by one, since the lists point at them. */
static struct gguf_str keep(const char *s, size_t n)
{
    char *copy = malloc(n + 1);
    if (!copy) {
        abort();
    }
    memcpy(copy, s, n);
    copy[n] = 0;
    return (struct gguf_str){.s = copy, .n = n};
}

int32_t small_token(struct small *v, const char *s, size_t n, float score, enum vocab_type type)
{
    if (v->n_token == SMALL_TOKENS_MAX) {
        abort();
    }
    v->tokens[v->n_token] = keep(s, n);
    v->scores[v->n_token] = score;
    v->types[v->n_token] = (int32_t)type;
    v->n_score++;
    v->n_type++;
    return (int32_t)v->n_token++;
}

void small_merge(struct small *v, const char *left, const char *right)
{
    char line[512];
    int n = snprintf(line, sizeof line, "%s %s", left, right);
    if (v->n_merge == SMALL_MERGES_MAX || n < 0 || (size_t)n >= sizeof line) {
        abort();
    }
    v->merges[v->n_merge++] = keep(line, (size_t)n);
}

void small_bytes(struct small *v)
{
    uint32_t extra = 256;
    for (uint32_t b = 0; b < 256; b++) {
        bool own = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        char s[4];
        size_t n = utf8_encode(own ? b : extra++, s);
        (void)small_token(v, s, n, 0, VOCAB_NORMAL);
    }
}

void small_spm(struct small *v, bool bytes)
{
    (void)small_token(v, "<unk>", 5, 0, VOCAB_UNKNOWN);
    (void)small_token(v, "<s>", 3, 0, VOCAB_CONTROL);
    (void)small_token(v, "</s>", 4, 0, VOCAB_CONTROL);
    for (unsigned b = 0; bytes && b < 256; b++) {
        char s[8];
        (void)snprintf(s, sizeof s, "<0x%02X>", b);
        (void)small_token(v, s, 6, 0, VOCAB_BYTE);
    }
}

static void put_lists(struct gguf_writer *w, const struct small *v)
{
    if (v->n_token) {
        gguf_put_array(
            w, "tokenizer.ggml.tokens",
            &(struct gguf_array){.type = GGUF_STRING, .n = v->n_token, .strings = v->tokens});
    }
    if (v->n_score) {
        gguf_put_array(w, "tokenizer.ggml.scores",
                       &(struct gguf_array){.type = GGUF_F32, .n = v->n_score, .data = v->scores});
    }
    if (v->n_type) {
        gguf_put_array(w, "tokenizer.ggml.token_type",
                       &(struct gguf_array){.type = GGUF_I32, .n = v->n_type, .data = v->types});
    }
    if (!v->no_merges) {
        gguf_put_array(
            w, "tokenizer.ggml.merges",
            &(struct gguf_array){.type = GGUF_STRING, .n = v->n_merge, .strings = v->merges});
    }
    if (v->n_charsmap) {
        gguf_put_array(
            w, "tokenizer.ggml.precompiled_charsmap",
            &(struct gguf_array){.type = GGUF_U8, .n = v->n_charsmap, .data = v->charsmap});
    }
}

struct buf small_write(const struct small *v)
{
    struct gguf_writer *w;
    struct buf out = {0};
    char key[128];
    if (gguf_writer_create(&w, NULL)) {
        abort();
    }
    gguf_put_str(w, "general.architecture", v->arch ? v->arch : "llama");
    if (v->n_vocab) {
        gguf_put_u32(w, "llama.vocab_size", v->n_vocab);
    }
    if (v->model) {
        gguf_put_str(w, "tokenizer.ggml.model", v->model);
    }
    if (v->pre) {
        gguf_put_str(w, "tokenizer.ggml.pre", v->pre);
    }
    put_lists(w, v);
    for (size_t i = 0; i < sizeof v->ids / sizeof *v->ids && v->ids[i].key; i++) {
        (void)snprintf(key, sizeof key, "tokenizer.ggml.%s", v->ids[i].key);
        gguf_put_u32(w, key, v->ids[i].id);
    }
    for (size_t i = 0; i < sizeof v->flags / sizeof *v->flags && v->flags[i].key; i++) {
        (void)snprintf(key, sizeof key, "tokenizer.ggml.%s", v->flags[i].key);
        gguf_put_bool(w, key, v->flags[i].value);
    }
    if (gguf_writer_header(w, &out, NULL)) {
        abort();
    }
    gguf_writer_destroy(w);
    return out;
}

enum err_code small_load(const struct small *v, struct vocab **ret_v, struct err *e)
{
    struct buf file = small_write(v);
    struct gguf *f = NULL;
    enum err_code rc = gguf_open_memory(file.data, file.len, &f, e);
    rc = rc ? rc : vocab_load(f, ret_v, e);
    gguf_close(f);
    buf_free(&file);
    return rc;
}

void small_free(struct small *v)
{
    for (size_t i = 0; i < v->n_token; i++) {
        free((char *)v->tokens[i].s);
    }
    for (size_t i = 0; i < v->n_merge; i++) {
        free((char *)v->merges[i].s);
    }
    *v = (struct small){0};
}
