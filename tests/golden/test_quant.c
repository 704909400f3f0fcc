/* One small model in seven quantised formats. The scalar path multiplies exact dequantised weights
 * in f32 and must agree with the reference's run of that kind; the best path may round activations,
 * and must not lose more against the unquantised model than the reference's own kernels do. */
#include "tests/golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE   1e-3
#define WINDOW      256
#define N_WINDOW    2
#define KL_MARGIN   1.10   /* of the reference's mean */
#define KL_SLACK    0.0005 /* nats */
#define TOP1_MARGIN 0.02

static const char *const types[] = {"Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS", "Q2_K"};

static double divergence(const float *p, const float *q, uint32_t n)
{
    double kl = 0;
    double p0 = golden_logprob(p, n, 0) - (double)p[0];
    double q0 = golden_logprob(q, n, 0) - (double)q[0];
    for (uint32_t i = 0; i < n; i++) {
        double log_p = p[i] + p0;
        kl += exp(log_p) * (log_p - (q[i] + q0));
    }
    return kl;
}

/* Mean divergence from the unquantised model's logits, and how often the best token is the same. */
static bool measure(struct eng *e, const cJSON *kl, const float *reference, double *ret_kl,
                    double *ret_same)
{
    uint32_t n_vocab = e->info.n_vocab;
    float *logits = malloc((size_t)WINDOW * n_vocab * sizeof *logits);
    bool ok = true;
    double sum = 0;
    double n_same = 0;
    for (int w = 0; ok && w < N_WINDOW; w++) {
        uint32_t n;
        int32_t *tokens = golden_ids(cJSON_GetArrayItem(cJSON_GetObjectItem(kl, "windows"), w), &n);
        void *kv = golden_kv(e);
        ok = n == WINDOW && golden_logits(e, kv, tokens, WINDOW, 0, WINDOW, logits);
        for (uint32_t i = 0; ok && i < WINDOW; i++) {
            const float *r = reference + ((size_t)w * WINDOW + i) * n_vocab;
            const float *q = logits + (size_t)i * n_vocab;
            sum += divergence(r, q, n_vocab);
            n_same += golden_argmax(r, n_vocab) == golden_argmax(q, n_vocab);
        }
        free(kv);
        free(tokens);
    }
    free(logits);
    *ret_kl = sum / (N_WINDOW * WINDOW);
    *ret_same = n_same / (N_WINDOW * WINDOW);
    return ok;
}

/* Largest difference from the logits of the reference's run with f32 activations. */
static double exact_diff(struct eng *e, const cJSON *expected)
{
    uint32_t n_prompt;
    int32_t *prompt = golden_ids(cJSON_GetObjectItem(expected, "prompt_tokens"), &n_prompt);
    float *logits = malloc((size_t)n_prompt * e->info.n_vocab * sizeof *logits);
    void *kv = golden_kv(e);
    const cJSON *positions = cJSON_GetObjectItem(expected, "logit_positions");
    const cJSON *want =
        cJSON_GetObjectItem(cJSON_GetObjectItem(expected, "f32_activations"), "logits");
    double max = golden_logits(e, kv, prompt, n_prompt, 0, n_prompt, logits) ? 0 : INFINITY;
    for (int i = 0; max < INFINITY && i < cJSON_GetArraySize(positions); i++) {
        size_t at = (size_t)cJSON_GetArrayItem(positions, i)->valueint * e->info.n_vocab;
        double d = golden_max_diff(cJSON_GetArrayItem(want, i), logits + at, e->info.n_vocab);
        max = d > max || isnan(d) ? d : max;
    }
    free(kv);
    free(logits);
    free(prompt);
    return max;
}

static bool check(const char *type, const char *isa, const cJSON *kl, const float *reference)
{
    char rel[128];
    char path[512];
    snprintf(rel, sizeof rel, "golden/quant-model/%s.gguf", type);
    golden_path(rel, path, sizeof path);
    struct eng *e = golden_open(path, isa, 1);
    snprintf(rel, sizeof rel, "golden/quant-model/%s.expected.json", type);
    golden_path(rel, path, sizeof path);
    cJSON *expected = golden_json(path);
    const cJSON *want = cJSON_GetObjectItem(
        cJSON_GetObjectItem(cJSON_GetObjectItem(kl, "results"), type), "llama_cpp");
    double max_kl = KL_MARGIN * cJSON_GetObjectItem(want, "mean")->valuedouble + KL_SLACK;
    double min_same = cJSON_GetObjectItem(want, "top1_agreement")->valuedouble - TOP1_MARGIN;
    double got = 0;
    double same = 0;
    bool ok = e && expected && measure(e, kl, reference, &got, &same);
    double diff = ok ? exact_diff(e, expected) : INFINITY;
    ok = ok && got <= max_kl && same >= min_same;
    ok = ok && (strcmp(e->info.isa, "scalar") != 0 || diff <= TOLERANCE);
    printf("%-4s %-7s %-7s KL %.6f (at most %.6f), same best token %.3f, logits %.2g\n",
           ok ? "ok" : "FAIL", type, e ? e->info.isa : "", got, max_kl, same, diff);
    cJSON_Delete(expected);
    eng_close(e);
    return ok;
}

int main(void)
{
    char path[512];
    if (!golden_path("golden/quant-model/f32.logits.bin", path, sizeof path)) {
        printf("skipped: KVASIR_SHARED does not lead to the golden data\n");
        return GOLDEN_SKIP;
    }
    size_t n = (size_t)N_WINDOW * WINDOW * 512;
    float *reference = malloc(n * sizeof *reference);
    FILE *f = fopen(path, "rb");
    bool ok = f && fread(reference, sizeof *reference, n, f) == n;
    if (f) {
        fclose(f);
    }
    golden_path("golden/quant-model/kl.json", path, sizeof path);
    cJSON *kl = golden_json(path);
    const char *isas[KERN_ISA_END];
    int n_isa = golden_isas(isas);
    bool all = true;
    for (size_t i = 0; ok && kl && i < sizeof types / sizeof types[0]; i++) {
        for (int k = 0; k < n_isa; k++) {
            all = check(types[i], isas[k], kl, reference) && all;
        }
    }
    cJSON_Delete(kl);
    free(reference);
    return !ok || !kl || !all;
}
