#include "tests/golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_CTX 256

bool golden_path(const char *rel, char *out, size_t cap)
{
    const char *shared = getenv("KVASIR_SHARED");
    if (!shared) {
        return false;
    }
    snprintf(out, cap, "%s/data", shared);
    if (access(out, R_OK) != 0) {
        return false;
    }
    snprintf(out, cap, "%s/data/%s", shared, rel);
    return true;
}

cJSON *golden_json(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "cannot open %s\n", path);
        return NULL;
    }
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *text = malloc((size_t)n + 1);
    size_t got = fread(text, 1, (size_t)n, f);
    fclose(f);
    text[got] = 0;
    cJSON *json = cJSON_Parse(text);
    free(text);
    if (!json) {
        fprintf(stderr, "cannot parse %s\n", path);
    }
    return json;
}

struct eng *golden_open(const char *model_path, const char *isa, uint32_t n_thread)
{
    struct eng_options o = {.model_path = model_path,
                            .n_ctx = N_CTX,
                            .n_thread = n_thread,
                            .kv_type = ENG_KV_F32,
                            .isa = isa};
    struct eng *g = NULL;
    struct err e;
    if (eng_open(&o, &g, &e)) {
        fprintf(stderr, "%s: %s\n", model_path, e.msg);
        return NULL;
    }
    return g;
}

int golden_isas(const char *ret_names[KERN_ISA_END])
{
    int n = 0;
    for (int i = 0; i < KERN_ISA_END; i++) {
        enum kern_isa isa;
        const char *name = kern_isa_name((enum kern_isa)i);
        if (kern_isa_by_name(name, &isa, NULL) == ERR_OK) {
            ret_names[n++] = name;
        }
    }
    return n;
}

size_t golden_kv_bytes(const struct eng *g)
{
    size_t n_chunk = (g->info.n_ctx + g->info.chunk_tok - 1) / g->info.chunk_tok;
    return n_chunk * g->info.chunk_bytes + (g->info.state_bytes + 4095) / 4096 * 4096;
}

void *golden_kv(const struct eng *g)
{
    size_t n_byte = golden_kv_bytes(g);
    void *kv = aligned_alloc(4096, n_byte);
    memset(kv, 0xff, n_byte);
    return kv;
}

void *golden_state(const struct eng *g, void *kv)
{
    size_t n_chunk = (g->info.n_ctx + g->info.chunk_tok - 1) / g->info.chunk_tok;
    return g->info.state_bytes ? (char *)kv + n_chunk * g->info.chunk_bytes : NULL;
}

bool golden_logits(struct eng *g, void *kv, const int32_t *tokens, uint32_t n_tok, uint32_t pos,
                   uint32_t n_step, float *out)
{
    uint32_t n_max = g->info.n_step_out_max < n_step ? g->info.n_step_out_max : n_step;
    for (uint32_t at = 0; at < n_tok;) {
        uint32_t n = n_tok - at < n_max ? n_tok - at : n_max;
        struct eng_slice s = {.tokens = tokens + at,
                              .n_tok = n,
                              .pos = pos + at,
                              .kv = kv,
                              .state = golden_state(g, kv)};
        struct err e;
        if (eng_step(g, &s, 1, &e)) {
            fprintf(stderr, "step: %s\n", e.msg);
            return false;
        }
        memcpy(out + (size_t)at * g->info.n_vocab, s.logits,
               (size_t)n * g->info.n_vocab * sizeof *out);
        at += n;
    }
    return true;
}

bool golden_greedy(struct eng *g, void *kv, const int32_t *tokens, uint32_t n_tok, int32_t *ids,
                   uint32_t n)
{
    struct err e;
    struct eng_slice s = {.tokens = tokens,
                          .n_tok = n_tok,
                          .pos = 0,
                          .kv = kv,
                          .state = golden_state(g, kv),
                          .out_from = n_tok - 1};
    for (uint32_t i = 0; i < n; i++) {
        if (eng_step(g, &s, 1, &e)) {
            fprintf(stderr, "step: %s\n", e.msg);
            return false;
        }
        ids[i] = (int32_t)golden_argmax(s.logits, g->info.n_vocab);
        s = (struct eng_slice){.tokens = &ids[i],
                               .n_tok = 1,
                               .pos = n_tok + i,
                               .kv = kv,
                               .state = golden_state(g, kv)};
    }
    return true;
}

int32_t *golden_ids(const cJSON *array, uint32_t *ret_n)
{
    uint32_t n = 0;
    int32_t *ids = malloc(((size_t)cJSON_GetArraySize(array) + 1) * sizeof *ids);
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        ids[n++] = (int32_t)item->valuedouble;
    }
    *ret_n = n;
    return ids;
}

double golden_max_diff(const cJSON *array, const float *got, uint32_t n)
{
    double max = 0;
    uint32_t i = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        double d = i < n ? fabs((float)item->valuedouble - (double)got[i]) : INFINITY;
        max = d > max || isnan(d) ? d : max;
        i++;
    }
    return i == n ? max : INFINITY;
}

uint32_t golden_argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        best = x[i] > x[best] ? i : best;
    }
    return best;
}

double golden_logprob(const float *logits, uint32_t n, int32_t id)
{
    double max = logits[golden_argmax(logits, n)];
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += exp(logits[i] - max);
    }
    return logits[id] - max - log(sum);
}
