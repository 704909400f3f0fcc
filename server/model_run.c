#include "server/model_run.h"

#include "config/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CTX_MAX     (1u << 27)
#define THREAD_MAX  1024
#define STATE_ALIGN ((size_t)64)

enum err_code run_number(const char *option, const char *text, uint32_t lo, uint32_t hi,
                         uint32_t *ret_v, struct err *e)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno || v < lo || v > hi) {
        return err_set(e, ERR_INVALID, "%s is \"%s\", must be a number from %u to %u", option, text,
                       lo, hi);
    }
    *ret_v = (uint32_t)v;
    return ERR_OK;
}

static enum err_code kv_type_of(const char *text, enum eng_kv_type *ret_t, struct err *e)
{
    static const char *const names[] = {"auto", "f32", "bf16", "int8"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret_t = (enum eng_kv_type)i;
            return ERR_OK;
        }
    }
    return err_set(e, ERR_INVALID, "--kv-type is \"%s\", must be auto, f32, bf16 or int8", text);
}

enum err_code run_option(struct run_options *o, int letter, const char *value, struct err *e)
{
    switch (letter) {
    case 'm': o->model = value; return ERR_OK;
    case 't': return run_number("--threads", value, 1, THREAD_MAX, &o->n_thread, e);
    case 'c': return run_number("--ctx", value, 1, CTX_MAX, &o->n_ctx, e);
    case 'k': return kv_type_of(value, &o->kv_type, e);
    case 'i': o->isa = value; return ERR_OK;
    case 'j': o->json = true; return ERR_OK;
    default: return err_set(e, ERR_NOT_FOUND, "unknown option");
    }
}

enum err_code run_parse_ids(const char *text, size_t n_byte, struct eng_ids *out, struct err *e)
{
    for (size_t i = 0; i < n_byte;) {
        char c = text[i];
        if (isspace((unsigned char)c) || c == ',' || c == '[' || c == ']') {
            i++;
            continue;
        }
        int64_t v = 0;
        size_t from = i;
        while (i < n_byte && isdigit((unsigned char)text[i]) && v <= INT32_MAX) {
            v = v * 10 + (text[i++] - '0');
        }
        if (i == from || v > INT32_MAX) {
            return err_set(e, ERR_INVALID, "token list: \"%.*s\" at byte %zu is not a token id",
                           (int)(n_byte - from < 12 ? n_byte - from : 12), text + from, from);
        }
        enum err_code code = eng_ids_push(out, (int32_t)v, e);
        if (code) {
            return code;
        }
    }
    return out->n ? ERR_OK : err_set(e, ERR_INVALID, "the token list is empty");
}

/* A line that stays in place on a terminal. */
static void show_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    (void)arg;
    (void)fprintf(stderr, "\rloading %3u %%%s",
                  (unsigned)(total_bytes ? 100 * done_bytes / total_bytes : 100),
                  done_bytes >= total_bytes ? "\r              \r" : "");
}

enum err_code run_open(const struct run_options *o, uint32_t n_seq, uint32_t n_seq_tok,
                       struct model_run *ret_r, struct err *e)
{
    if (!o->model) {
        return err_set(e, ERR_INVALID, "no model given: --model FILE.gguf");
    }
    bool terminal = isatty(STDERR_FILENO);
    struct eng_options eo = {.model_path = o->model,
                             .n_ctx = o->n_ctx,
                             .n_thread = o->n_thread,
                             .kv_type = o->kv_type,
                             .isa = o->isa ? o->isa : cfg_process_env(NULL, "KVASIR_ISA"),
                             .progress = terminal ? show_progress : NULL};
    struct eng *g = NULL;
    struct kv_store *kv = NULL;
    enum err_code code = eng_open(&eo, &g, e);
    if (code) {
        return code;
    }
    uint32_t n_tok = n_seq_tok ? n_seq_tok : g->info.n_ctx;
    uint64_t n_chunk = ((uint64_t)n_tok + g->info.chunk_tok - 1) / g->info.chunk_tok;
    struct kv_options ko = {.ram_bytes = n_seq * n_chunk * g->info.chunk_bytes,
                            .chunk_tok = g->info.chunk_tok,
                            .chunk_bytes = g->info.chunk_bytes,
                            .n_seq_tok_max = n_tok};
    code = kv_store_create(&ko, &kv, e);
    if (code) {
        eng_close(g);
        return code;
    }
    *ret_r = (struct model_run){g, kv};
    return ERR_OK;
}

void run_close(struct model_run *r)
{
    kv_store_destroy(r->kv);
    eng_close(r->g);
    *r = (struct model_run){0};
}

enum err_code run_seq_open(struct model_run *r, uint32_t n_tok, struct run_seq *ret_s,
                           struct err *e)
{
    struct run_seq s = {0};
    size_t state_bytes = r->g->info.state_bytes;
    enum err_code code = kv_seq_open(r->kv, &s.q, e);
    if (!code) {
        code = kv_seq_grow(s.q, n_tok, e);
    }
    if (!code && state_bytes) {
        s.state =
            aligned_alloc(STATE_ALIGN, (state_bytes + STATE_ALIGN - 1) / STATE_ALIGN * STATE_ALIGN);
        if (!s.state) {
            code = err_set(e, ERR_NOMEM, "out of memory for %zu bytes of state", state_bytes);
        }
    }
    if (code) {
        run_seq_close(&s);
        return code;
    }
    s.kv = kv_seq_base(s.q);
    *ret_s = s;
    return ERR_OK;
}

void run_seq_close(struct run_seq *s)
{
    kv_seq_close(s->q);
    free(s->state);
    *s = (struct run_seq){0};
}

uint32_t run_argmax(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

double run_logprob(const float *logits, uint32_t n, int32_t id)
{
    double max = logits[run_argmax(logits, n)];
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += exp(logits[i] - max);
    }
    return logits[id] - max - log(sum);
}
