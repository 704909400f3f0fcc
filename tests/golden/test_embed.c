/* Embedding models, and embeddings of causal ones: hidden states of tokens and pooled vectors
 * against the reference; alone and beside another text, on the scalar path and the best. */
#include "engine/arch/arch.h"
#include "tests/golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE 1e-3

/* Hidden states of all tokens, [n_tok, n_embd], the engine's. beside: another text in front. */
static const float *hidden_of(struct eng *e, void *kv, const int32_t *tokens, uint32_t n_tok,
                              bool beside, void *kv_beside)
{
    static const int32_t other[] = {1, 300, 7, 9, 11};
    struct eng_slice s[2] = {{.tokens = other,
                              .n_tok = 5,
                              .kv = kv_beside,
                              .state = golden_state(e, kv_beside),
                              .want_hidden = true,
                              .out_from = 3},
                             {.tokens = tokens,
                              .n_tok = n_tok,
                              .kv = kv,
                              .state = golden_state(e, kv),
                              .want_hidden = true}};
    struct err err;
    if (eng_step(e, beside ? s : s + 1, beside ? 2 : 1, &err)) {
        fprintf(stderr, "step: %s\n", err.msg);
        return NULL;
    }
    return s[1].hidden;
}

static enum eng_pooling pooling_of(const char *name)
{
    return strcmp(name, "cls") == 0    ? ENG_POOLING_CLS
           : strcmp(name, "last") == 0 ? ENG_POOLING_LAST
                                       : ENG_POOLING_MEAN;
}

static double pooled_diff(const cJSON *want, const char *pooling, const float *hidden,
                          uint32_t n_tok, uint32_t n_embd, bool normalize)
{
    float *v = malloc(n_embd * sizeof *v);
    double *sum = calloc(n_embd, sizeof *sum);
    uint32_t half = n_tok / 2;
    enum eng_pooling p = pooling_of(pooling);
    eng_pool_add(p, hidden, 0, half, n_tok, n_embd, sum);
    eng_pool_add(p, hidden + (size_t)half * n_embd, half, n_tok - half, n_tok, n_embd, sum);
    eng_pool_end(p, sum, n_tok, n_embd, normalize, v);
    double d = golden_max_diff(want, v, n_embd);
    free(sum);
    free(v);
    return d;
}

static double worse(double a, double b)
{
    return b > a || isnan(b) ? b : a;
}

/* One text of an embedding model. */
static double case_diff(struct eng *e, const cJSON *c, bool beside)
{
    uint32_t n_tok;
    uint32_t n_embd = e->info.n_embd;
    int32_t *tokens = golden_ids(cJSON_GetObjectItem(c, "tokens"), &n_tok);
    void *kv = golden_kv(e);
    void *kv_beside = golden_kv(e);
    const float *hidden = hidden_of(e, kv, tokens, n_tok, beside, kv_beside);
    const cJSON *exact = cJSON_GetObjectItem(c, "exact_gelu");
    const cJSON *from = exact ? exact : c;
    const char *pooling = cJSON_GetObjectItem(c, "pooling")->valuestring;
    double max = hidden && pooling_of(pooling) == e->info.pooling ? 0 : INFINITY;
    if (max < INFINITY) {
        max =
            pooled_diff(cJSON_GetObjectItem(from, "pooled"), pooling, hidden, n_tok, n_embd, false);
        const cJSON *positions = cJSON_GetObjectItem(c, "token_positions");
        for (int i = 0; i < cJSON_GetArraySize(positions); i++) {
            size_t at = (size_t)cJSON_GetArrayItem(positions, i)->valueint * n_embd;
            const cJSON *want =
                cJSON_GetArrayItem(cJSON_GetObjectItem(from, "token_embeddings"), i);
            max = worse(max, golden_max_diff(want, hidden + at, n_embd));
        }
    }
    if (max < INFINITY && !exact) {
        max = worse(max, pooled_diff(cJSON_GetObjectItem(c, "pooled_l2_normalized"), pooling,
                                     hidden, n_tok, n_embd, true));
        const cJSON *other;
        cJSON_ArrayForEach(other, cJSON_GetObjectItem(c, "other_pooling"))
        {
            max = worse(max, pooled_diff(other, other->string, hidden, n_tok, n_embd, false));
        }
    }
    free(kv);
    free(kv_beside);
    free(tokens);
    return max;
}

/* The embeddings that a causal model's golden file has. */
static double causal_diff(struct eng *e, const cJSON *json, bool beside)
{
    uint32_t n_tok;
    int32_t *tokens = golden_ids(cJSON_GetObjectItem(json, "prompt_tokens"), &n_tok);
    void *kv = golden_kv(e);
    void *kv_beside = golden_kv(e);
    const float *hidden = hidden_of(e, kv, tokens, n_tok, beside, kv_beside);
    double max = hidden ? 0 : INFINITY;
    const cJSON *want;
    cJSON_ArrayForEach(want, cJSON_GetObjectItem(json, "embeddings"))
    {
        if (hidden) {
            max = worse(max, pooled_diff(want, want->string, hidden, n_tok, e->info.n_embd, false));
        }
    }
    free(kv);
    free(kv_beside);
    free(tokens);
    return max;
}

/* An encoder has no logits, and reads a text in one piece. */
static bool refuses(struct eng *e)
{
    int32_t tokens[] = {1, 2};
    void *kv = golden_kv(e);
    struct eng_slice logits = {
        .tokens = tokens, .n_tok = 2, .kv = kv, .state = golden_state(e, kv)};
    struct eng_slice later = {.tokens = tokens,
                              .n_tok = 2,
                              .pos = 2,
                              .kv = kv,
                              .state = golden_state(e, kv),
                              .want_hidden = true};
    struct err err;
    bool ok = !e->info.encoder || (eng_step(e, &logits, 1, &err) == ERR_INVALID &&
                                   eng_step(e, &later, 1, &err) == ERR_INVALID);
    free(kv);
    return ok;
}

static bool check(const char *dir, const char *name, const char *isa)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/expected.json", dir, name);
    cJSON *json = golden_json(path);
    snprintf(path, sizeof path, "%s/%s/model.gguf", dir, name);
    struct eng *e = golden_open(path, isa, 1);
    const cJSON *cases = cJSON_GetObjectItem(json, "cases");
    double max = e ? 0 : INFINITY;
    for (int beside = 0; e && beside < 2; beside++) {
        const cJSON *c;
        cJSON_ArrayForEach(c, cases)
        {
            max = worse(max, case_diff(e, c, beside));
        }
        if (!cases) {
            max = worse(max, causal_diff(e, json, beside));
        }
    }
    bool ok = max <= TOLERANCE && refuses(e);
    printf("%-4s %-16s %-7s %.2g\n", ok ? "ok" : "FAIL", name, e ? e->info.isa : "", max);
    eng_close(e);
    cJSON_Delete(json);
    return ok;
}

int main(void)
{
    static const char *const names[] = {"bert",  "nomic-bert", "modern-bert", "gemma-embedding",
                                        "llama", "qwen3"};
    char dir[400];
    if (!golden_path("golden/arch", dir, sizeof dir)) {
        printf("skipped: KVASIR_SHARED does not lead to the golden data\n");
        return GOLDEN_SKIP;
    }
    const char *isas[KERN_ISA_END];
    int n_isa = golden_isas(isas);
    bool ok = true;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        for (int k = 0; k < n_isa; k++) {
            ok = check(dir, names[i], isas[k]) && ok;
        }
    }
    return !ok;
}
