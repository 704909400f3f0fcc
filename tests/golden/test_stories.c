/* stories260K, a real model: logits, greedy text of ten prompts, perplexity. */
#include "tests/golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOGIT_TOLERANCE 1e-3
#define PPL_TOLERANCE   1e-4
#define WINDOW          256
#define N_WINDOW        4 /* of the 16; each one's sum is in the reference */
#define N_NLL_TOKEN     (N_WINDOW * (WINDOW - 1))

static bool check_logits(struct eng *e, const cJSON *json)
{
    uint32_t n_prompt;
    const cJSON *want = cJSON_GetObjectItem(json, "logits");
    int32_t *prompt = golden_ids(cJSON_GetObjectItem(want, "prompt_tokens"), &n_prompt);
    float *logits = malloc((size_t)n_prompt * e->info.n_vocab * sizeof *logits);
    void *kv = golden_kv(e);
    bool ok = golden_logits(e, kv, prompt, n_prompt, 0, n_prompt, logits);
    double max = 0;
    const cJSON *positions = cJSON_GetObjectItem(want, "logit_positions");
    for (int i = 0; ok && i < cJSON_GetArraySize(positions); i++) {
        size_t at = (size_t)cJSON_GetArrayItem(positions, i)->valueint * e->info.n_vocab;
        double d = golden_max_diff(cJSON_GetArrayItem(cJSON_GetObjectItem(want, "logits"), i),
                                   logits + at, e->info.n_vocab);
        max = d > max || isnan(d) ? d : max;
    }
    ok = ok && max <= LOGIT_TOLERANCE;
    printf("%-4s logits differ by %.2g\n", ok ? "ok" : "FAIL", max);
    free(kv);
    free(logits);
    free(prompt);
    return ok;
}

/* Whether the detokenised ids are the text the reference gives. */
static bool same_text(const struct eng *e, const int32_t *ids, uint32_t n, const char *want)
{
    struct buf text = {0};
    struct eng_detok state = {.started = true};
    for (uint32_t i = 0; i < n; i++) {
        eng_detokenize(e, &state, ids[i], false, &text);
    }
    const char *got = buf_str(&text);
    got += *got == ' ' && *want != ' '; /* the reference trims what begins a text */
    bool same = strcmp(got, want) == 0;
    if (!same) {
        fprintf(stderr, "text is \"%s\", expected \"%s\"\n", got, want);
    }
    buf_free(&text);
    return same;
}

static bool check_greedy(struct eng *e, const cJSON *one)
{
    uint32_t n_prompt;
    uint32_t n_want;
    int32_t *prompt = golden_ids(cJSON_GetObjectItem(one, "prompt_ids"), &n_prompt);
    int32_t *want = golden_ids(cJSON_GetObjectItem(one, "ids"), &n_want);
    int32_t *got = malloc(n_want * sizeof *got);
    void *kv = golden_kv(e);
    struct eng_ids ids = {0};
    struct err err;
    const char *text = cJSON_GetObjectItem(one, "prompt")->valuestring;
    bool ok = !eng_tokenize(e, text, strlen(text), ENG_TOKENIZE_ADD_SPECIAL, &ids, &err) &&
              ids.n == n_prompt && memcmp(ids.ids, prompt, n_prompt * sizeof *prompt) == 0;
    ok = golden_greedy(e, kv, prompt, n_prompt, got, n_want) && ok;
    ok = memcmp(got, want, n_want * sizeof *got) == 0 && ok;
    ok = same_text(e, got, n_want, cJSON_GetObjectItem(one, "text")->valuestring) && ok;
    printf("%-4s %u greedy tokens after \"%s\"\n", ok ? "ok" : "FAIL", n_want, text);
    eng_ids_free(&ids);
    free(kv);
    free(got);
    free(want);
    free(prompt);
    return ok;
}

static bool check_perplexity(struct eng *e, const cJSON *json, const char *corpus)
{
    const cJSON *want = cJSON_GetObjectItem(cJSON_GetObjectItem(json, "perplexity"), "window_nll");
    FILE *f = fopen(corpus, "rb");
    char *text = malloc(1 << 16);
    size_t n = f ? fread(text, 1, 1 << 16, f) : 0;
    if (f) {
        fclose(f);
    }
    struct eng_ids ids = {0};
    struct err err;
    bool ok = n && !eng_tokenize(e, text, n, 0, &ids, &err) && ids.n >= N_NLL_TOKEN;
    float *logits = malloc((size_t)WINDOW * e->info.n_vocab * sizeof *logits);
    double worst = 0;
    for (int w = 0; ok && w < N_WINDOW; w++) {
        int32_t tokens[WINDOW] = {e->info.bos_id};
        memcpy(tokens + 1, ids.ids + w * (WINDOW - 1), (WINDOW - 1) * sizeof *tokens);
        void *kv = golden_kv(e);
        ok = golden_logits(e, kv, tokens, WINDOW, 0, WINDOW, logits);
        double nll = 0;
        for (uint32_t i = 0; i + 1 < WINDOW; i++) {
            nll -= golden_logprob(logits + (size_t)i * e->info.n_vocab, e->info.n_vocab,
                                  tokens[i + 1]);
        }
        double d = fabs(nll - cJSON_GetArrayItem(want, w)->valuedouble) / (WINDOW - 1);
        worst = d > worst || isnan(d) ? d : worst;
        free(kv);
    }
    ok = ok && worst <= PPL_TOLERANCE;
    printf("%-4s mean log-likelihood of %d windows differs by %.2g nats at most\n",
           ok ? "ok" : "FAIL", N_WINDOW, worst);
    free(logits);
    free(text);
    eng_ids_free(&ids);
    return ok;
}

int main(void)
{
    char path[512];
    char corpus[512];
    if (!golden_path("golden/stories260K/expected.json", path, sizeof path)) {
        printf("skipped: KVASIR_SHARED does not lead to the golden data\n");
        return GOLDEN_SKIP;
    }
    cJSON *json = golden_json(path);
    golden_path("models/stories260K.gguf", path, sizeof path);
    golden_path("corpora/TinyStories-valid-30K.txt", corpus, sizeof corpus);
    bool ok = json != NULL;
    const char *isas[KERN_ISA_END];
    int n_isa = golden_isas(isas);
    for (int i = 0; i < n_isa; i++) {
        struct eng *e = golden_open(path, isas[i], 1);
        if (!e) {
            return 1;
        }
        printf("%s\n", e->info.isa);
        ok = check_logits(e, json) && ok;
        const cJSON *one;
        cJSON_ArrayForEach(one, cJSON_GetObjectItem(json, "greedy"))
        {
            ok = check_greedy(e, one) && ok;
        }
        ok = check_perplexity(e, json, corpus) && ok;
        eng_close(e);
    }
    cJSON_Delete(json);
    return !ok;
}
