/* Every architecture the engine has, against the reference's logits and greedy tokens; and each of
 * them alone, in slices, beside another sequence and on more threads: the same bits. Architectures
 * it does not have must say so. With an argument: that model alone. */
#include "engine/arch/arch.h"
#include "engine/kernels/cpu.h"
#include "tests/golden/golden.h"
#include "tests/golden/same.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE      1e-3
#define QUANT_DIFF_MAX 1.0 /* logits of quantised experts on machines that round activations */

struct golden {
    const char *name;
    cJSON *json;
    const cJSON *logits; /* of the variant to compare with */
    const cJSON *top5;   /* of its greedy steps, or NULL */
    int32_t *prompt;
    uint32_t n_prompt;
    int32_t *greedy;
    uint32_t n_greedy;
    bool quantised; /* has tensors that some machines do not multiply in f32 */
};

static bool read_golden(const char *dir, const char *name, struct golden *g)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/expected.json", dir, name);
    *g = (struct golden){.name = name, .json = golden_json(path)};
    if (!g->json) {
        return false;
    }
    const cJSON *exact = cJSON_GetObjectItem(g->json, "exact_gelu");
    const cJSON *experts = cJSON_GetObjectItem(g->json, "f32_experts");
    const cJSON *variant = exact ? exact : experts ? experts : g->json;
    g->quantised = experts != NULL;
    g->logits = cJSON_GetObjectItem(variant, "logits");
    g->top5 = cJSON_GetObjectItem(variant, "greedy_top5");
    g->prompt = golden_ids(cJSON_GetObjectItem(g->json, "prompt_tokens"), &g->n_prompt);
    const cJSON *greedy = cJSON_GetObjectItem(g->json, "greedy");
    g->greedy = golden_ids(cJSON_GetObjectItem(greedy, "tokens"), &g->n_greedy);
    return true;
}

static void free_golden(struct golden *g)
{
    free(g->prompt);
    free(g->greedy);
    cJSON_Delete(g->json);
}

/* Largest difference from the reference's logits at the positions it holds. */
static double prompt_diff(const struct golden *g, const float *logits, uint32_t n_vocab)
{
    double max = 0;
    const cJSON *positions = cJSON_GetObjectItem(g->json, "logit_positions");
    for (int i = 0; i < cJSON_GetArraySize(positions); i++) {
        int pos = cJSON_GetArrayItem(positions, i)->valueint;
        double d = golden_max_diff(cJSON_GetArrayItem(g->logits, i), logits + (size_t)pos * n_vocab,
                                   n_vocab);
        max = d > max || isnan(d) ? d : max;
    }
    return max;
}

/* Greedy ids as the reference has them, and the logits of its five best at each step. */
static bool greedy_matches(struct eng *e, const struct golden *g, double *ret_diff)
{
    int32_t *ids = malloc(g->n_greedy * sizeof *ids);
    void *kv = golden_kv(e);
    bool ok = golden_greedy(e, kv, g->prompt, g->n_prompt, ids, g->n_greedy);
    for (uint32_t i = 0; ok && i < g->n_greedy; i++) {
        if (ids[i] != g->greedy[i]) {
            fprintf(stderr, "%s: greedy token %u is %d, expected %d\n", g->name, i, ids[i],
                    g->greedy[i]);
            ok = false;
        }
    }
    *ret_diff = 0;
    for (uint32_t i = 0; ok && g->top5 && i < g->n_greedy; i++) {
        struct err err;
        int32_t *before = i ? &g->greedy[i - 1] : &g->prompt[g->n_prompt - 1];
        struct eng_slice s = {.tokens = before,
                              .n_tok = 1,
                              .pos = g->n_prompt + i - 1,
                              .kv = kv,
                              .state = golden_state(e, kv)};
        ok = !eng_step(e, &s, 1, &err);
        const cJSON *pair;
        cJSON_ArrayForEach(pair, cJSON_GetArrayItem(g->top5, (int)i))
        {
            int id = cJSON_GetArrayItem(pair, 0)->valueint;
            double d = fabs(cJSON_GetArrayItem(pair, 1)->valuedouble - (double)s.logits[id]);
            *ret_diff = d > *ret_diff ? d : *ret_diff;
        }
    }
    free(kv);
    free(ids);
    return ok;
}

static bool check(const char *model, const char *isa, const struct golden *g)
{
    struct eng *e = golden_open(model, isa, 1);
    struct same_prompt p = {g->name, g->prompt, g->n_prompt};
    float *logits = e ? same_prompt_logits(e, &p) : NULL;
    bool ok = logits != NULL;
    double diff = 0;
    double greedy_diff = 0;
    if (ok) {
        bool exact = !g->quantised || strcmp(e->info.isa, "scalar") == 0;
        diff = prompt_diff(g, logits, e->info.n_vocab);
        ok = diff <= (exact ? TOLERANCE : QUANT_DIFF_MAX);
        ok = (!exact || greedy_matches(e, g, &greedy_diff)) && ok;
        ok = (!exact || greedy_diff <= TOLERANCE) && ok;
        ok = same_in_slices(e, &p, logits) && ok;
        ok = same_in_batch(e, &p, logits) && ok;
        ok = same_from_copy(e, &p, logits) && ok;
        ok = same_on_two_threads(model, isa, &p, logits) && ok;
        printf("%-4s %-20s %-7s logits %.2g, greedy %.2g\n", ok ? "ok" : "FAIL", g->name,
               e->info.isa, diff, greedy_diff);
    }
    free(logits);
    eng_close(e);
    return ok;
}

/* One model of the index. */
static bool run_model(const char *dir, const char *name, const char *arch)
{
    char model[512];
    snprintf(model, sizeof model, "%s/%s/model.gguf", dir, name);
    if (!arch_find(arch, strlen(arch))) {
        struct eng_options o = {.model_path = model, .n_ctx = 256};
        struct eng *e = NULL;
        struct err err = {0};
        enum err_code code = eng_open(&o, &e, &err);
        eng_close(e);
        printf("%-4s %-20s %s\n", code == ERR_UNSUPPORTED ? "-" : "FAIL", name, err.msg);
        return code == ERR_UNSUPPORTED && strstr(err.msg, arch);
    }
    struct golden g;
    bool ok = read_golden(dir, name, &g);
    if (ok) {
        const char *isas[KERN_ISA_END];
        int n_isa = golden_isas(isas);
        for (int i = 0; i < n_isa; i++) {
            ok = check(model, isas[i], &g) && ok;
        }
        free_golden(&g);
    }
    return ok;
}

int main(int argc, char **argv)
{
    char dir[400];
    char path[512];
    if (!golden_path("golden/arch", dir, sizeof dir)) {
        printf("skipped: KVASIR_SHARED does not lead to the golden data\n");
        return GOLDEN_SKIP;
    }
    snprintf(path, sizeof path, "%s/index.json", dir);
    cJSON *index = golden_json(path);
    const cJSON *models = cJSON_IsArray(index) ? index : cJSON_GetObjectItem(index, "models");
    int n_fail = 0;
    int n_run = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, models)
    {
        const char *name = cJSON_GetObjectItem(item, "name")->valuestring;
        bool causal = strcmp(cJSON_GetObjectItem(item, "kind")->valuestring, "causal") == 0;
        if (argc < 2 ? causal : strcmp(argv[1], name) == 0) {
            n_run++;
            n_fail += !run_model(dir, name, cJSON_GetObjectItem(item, "architecture")->valuestring);
        }
    }
    cJSON_Delete(index);
    printf("%d models, %d failed\n", n_run, n_fail);
    return n_fail || !n_run;
}
