/* DeepSeek files from before attn_kv_b was split in two: the golden model, put back together, must
 * give what the split one gives. */
#include "engine/gguf_write.h"
#include "tests/golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOLERANCE 1e-4

enum { N_HEAD = 2, D_NOPE = 32, D_ROT = 16, D_V = 32, RANK = 64, D_BOTH = D_NOPE + D_V };

static bool ends_with(struct gguf_str s, const char *end)
{
    size_t n = strlen(end);
    return s.n >= n && memcmp(s.s + s.n - n, end, n) == 0;
}

static bool is(struct gguf_str s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.s, text, s.n) == 0;
}

static void copy_keys(struct gguf_writer *w, const struct gguf *f)
{
    for (uint64_t i = 0; i < gguf_n_kv(f); i++) {
        const struct gguf_kv *kv = gguf_kv_at(f, i);
        if (!ends_with(kv->key, "_length_mla") && !is(kv->key, "deepseek2.attention.key_length") &&
            !is(kv->key, "deepseek2.attention.value_length") &&
            !is(kv->key, "deepseek2.attention.head_count_kv")) {
            gguf_put_kv(w, kv);
        }
    }
    gguf_put_u32(w, "deepseek2.attention.head_count_kv", N_HEAD);
    gguf_put_u32(w, "deepseek2.attention.key_length", D_NOPE + D_ROT);
    gguf_put_u32(w, "deepseek2.attention.value_length", D_V);
}

/* [N_HEAD, D_NOPE + D_V, RANK] of k_b [N_HEAD, RANK, D_NOPE] and v_b [N_HEAD, D_V, RANK]. */
static void join(const float *k_b, const float *v_b, float *out)
{
    for (int h = 0; h < N_HEAD; h++) {
        for (int r = 0; r < RANK; r++) {
            for (int d = 0; d < D_NOPE; d++) {
                out[(h * D_BOTH + d) * RANK + r] = k_b[(h * RANK + r) * D_NOPE + d];
            }
            for (int d = 0; d < D_V; d++) {
                out[(h * D_BOTH + D_NOPE + d) * RANK + r] = v_b[(h * D_V + d) * RANK + r];
            }
        }
    }
}

static enum err_code write_tensors(struct gguf_writer *w, const struct gguf *f, const char *path,
                                   struct err *e)
{
    static char names[4][64]; /* of the joined tensors; the model has two layers */
    uint64_t ne[2] = {RANK, (uint64_t)N_HEAD * D_BOTH};
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f, i);
        if (ends_with(t->name, "attn_v_b.weight")) {
            continue;
        }
        if (ends_with(t->name, "attn_k_b.weight")) {
            char *name = names[t->name.s[4] & 3];
            snprintf(name, sizeof names[0], "blk.%c.attn_kv_b.weight", t->name.s[4]);
            gguf_put_tensor(w, (struct gguf_str){name, strlen(name)}, t->type, 2, ne);
        } else {
            gguf_put_tensor(w, t->name, t->type, t->n_dim, t->ne);
        }
    }
    enum err_code code = gguf_writer_open(w, path, e);
    uint32_t idx = 0;
    for (uint64_t i = 0; i < gguf_n_tensor(f) && !code; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f, i);
        if (ends_with(t->name, "attn_v_b.weight")) {
            continue;
        }
        if (ends_with(t->name, "attn_k_b.weight")) {
            char name[64];
            float both[N_HEAD * D_BOTH * RANK];
            snprintf(name, sizeof name, "blk.%c.attn_v_b.weight", t->name.s[4]);
            join(t->data, gguf_find_tensor(f, name)->data, both);
            code = gguf_writer_data(w, idx, 0, both, sizeof both, e);
        } else {
            code = gguf_writer_data(w, idx, 0, t->data, t->n_byte, e);
        }
        idx++;
    }
    return code ? code : gguf_writer_finish(w, e);
}

static bool write_joined(const char *from, const char *to)
{
    struct gguf *f = NULL;
    struct gguf_writer *w = NULL;
    struct err e;
    enum err_code code = gguf_open(from, &f, &e);
    code = code ? code : gguf_writer_create(&w, &e);
    if (!code) {
        copy_keys(w, f);
        code = write_tensors(w, f, to, &e);
    }
    gguf_writer_destroy(w);
    gguf_close(f);
    if (code) {
        fprintf(stderr, "%s: %s\n", to, e.msg);
    }
    return !code;
}

static float *logits_of(const char *model, const int32_t *prompt, uint32_t n)
{
    struct eng *g = golden_open(model, NULL, 1);
    float *logits = g ? malloc((size_t)n * g->info.n_vocab * sizeof *logits) : NULL;
    void *kv = g ? golden_kv(g) : NULL;
    if (g && !golden_logits(g, kv, prompt, n, 0, n, logits)) {
        free(logits);
        logits = NULL;
    }
    free(kv);
    eng_close(g);
    return logits;
}

int main(void)
{
    char path[512];
    char joined[512];
    if (!golden_path("golden/arch/deepseek2-v2/model.gguf", path, sizeof path)) {
        printf("skipped: KVASIR_SHARED does not lead to the golden data\n");
        return GOLDEN_SKIP;
    }
    const char *dir = getenv("KVASIR_BUILD");
    snprintf(joined, sizeof joined, "%s/test_old_mla.%d.gguf", dir ? dir : "/tmp", (int)getpid());
    if (!write_joined(path, joined)) {
        return 1;
    }
    int32_t prompt[] = {1, 403, 407, 261, 378, 383, 286, 261, 376, 298};
    uint32_t n = sizeof prompt / sizeof prompt[0];
    float *want = logits_of(path, prompt, n);
    float *got = logits_of(joined, prompt, n);
    (void)unlink(joined);
    double max = want && got ? 0 : INFINITY;
    for (size_t i = 0; max < INFINITY && i < (size_t)n * 512; i++) {
        double d = fabs((double)want[i] - (double)got[i]);
        max = d > max || isnan(d) ? d : max;
    }
    bool ok = max <= TOLERANCE;
    printf("%-4s logits differ by %.2g\n", ok ? "ok" : "FAIL", max);
    free(want);
    free(got);
    return !ok;
}
