/* Every architecture and tensor type, without data from outside: models built from the recipes of
 * tests/golden/tiny against the numbers kept there, on the scalar path and the best; each of them
 * alone, in slices, beside another sequence, over copied KV and on two threads: the same bits.
 *
 *   test_tiny                          checks all
 *   test_tiny NAME                     checks one
 *   test_tiny --write DIR GOLDEN_DIR   makes the recipes of the reference models under GOLDEN_DIR,
 *                                      for an engine that passes tests/golden/test_arch.c
 *   test_tiny --build NAME FILE        only makes that model
 *   test_tiny --write DIR              renews the numbers alone
 */
#include "base/rng.h"
#include "engine/quant/formats.h"
#include "tests/golden/golden.h"
#include "tests/golden/recipe.h"
#include "tests/golden/same.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_PROMPT  24
#define TOLERANCE 2e-3
/* Quantised weights where activations are rounded: of the row's largest value. */
#define QUANT_SHARE 0.03
/* Rounding alone must not decide what the model does: an expert that just made it, say. */
#define SHAKE      3e-5
#define SHAKE_DIFF 5e-3
#define SEEDS_MAX  100

static const uint32_t positions[] = {0, 11, N_PROMPT - 1};
#define N_POSITION (sizeof positions / sizeof positions[0])

static void make_prompt(uint64_t seed, uint32_t n_vocab, int32_t ids[N_PROMPT])
{
    ids[0] = 1;
    for (uint32_t i = 1; i < N_PROMPT; i++) {
        ids[i] = (int32_t)(3 + rng_mix(~seed, i) % (n_vocab - 3));
    }
}

/* [N_PROMPT, width]: logits, or an encoder's hidden states. Malloc'd; NULL on failure. */
static float *rows_of(struct eng *e, const struct same_prompt *p)
{
    if (!e->info.encoder) {
        return same_prompt_logits(e, p);
    }
    void *kv = golden_kv(e);
    struct eng_slice s = {.tokens = p->ids, .n_tok = p->n, .kv = kv, .want_hidden = true};
    struct err err;
    size_t n = (size_t)p->n * e->info.n_embd;
    float *rows = eng_step(e, &s, 1, &err) ? NULL : malloc(n * sizeof *rows);
    if (rows) {
        memcpy(rows, s.hidden, n * sizeof *rows);
    }
    free(kv);
    return rows;
}

static uint32_t width_of(const struct eng *e)
{
    return e->info.encoder ? e->info.n_embd : e->info.n_vocab;
}

/* An encoder's text beside another, and on two threads. */
static bool same_hidden(const char *model, const char *isa, struct eng *e,
                        const struct same_prompt *p, const float *want)
{
    static const int32_t other[] = {1, 30, 7, 9, 11};
    size_t n_byte = (size_t)p->n * e->info.n_embd * sizeof *want;
    void *kv = golden_kv(e);
    void *kv_other = golden_kv(e);
    struct eng_slice s[2] = {
        {.tokens = other, .n_tok = 5, .kv = kv_other, .want_hidden = true, .out_from = 3},
        {.tokens = p->ids, .n_tok = p->n, .kv = kv, .want_hidden = true}};
    struct err err;
    bool ok = !eng_step(e, s, 2, &err) && memcmp(s[1].hidden, want, n_byte) == 0;
    free(kv);
    free(kv_other);
    struct eng *two = golden_open(model, isa, 2);
    float *rows = two ? rows_of(two, p) : NULL;
    ok = ok && rows && memcmp(rows, want, n_byte) == 0;
    free(rows);
    eng_close(two);
    return ok;
}

static bool same_all_ways(const char *model, const char *isa, struct eng *e,
                          const struct same_prompt *p, const float *want)
{
    if (e->info.encoder) {
        return same_hidden(model, isa, e, p, want);
    }
    bool ok = same_in_slices(e, p, want);
    ok = same_in_batch(e, p, want) && ok;
    ok = same_from_copy(e, p, want) && ok;
    return same_on_two_threads(model, isa, p, want) && ok;
}

/* Largest difference from what the recipe wants; INFINITY when it wants nothing of this type. */
static double diff_of(const struct recipe *r, enum gguf_type type, const float *rows,
                      uint32_t width)
{
    double max = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->n_want; i++) {
        const struct recipe_want *w = &r->want[i];
        if (w->type != type || w->pos >= N_PROMPT) {
            continue;
        }
        const float *row = rows + (size_t)w->pos * width;
        double d = fabs(recipe_check(row, width) - w->check);
        for (uint32_t k = 0; k < RECIPE_N_BEST; k++) {
            double v = w->ids[k] < width ? (double)row[w->ids[k]] : NAN;
            d = !(fabs(v - w->values[k]) <= d) ? fabs(v - w->values[k]) : d;
        }
        max = !(d <= max) ? d : max;
        n++;
    }
    return n == N_POSITION ? max : INFINITY;
}

/* What rounding of activations may do: models wider than these are not this sensitive. */
static double tolerance_of(const struct eng *e, const struct recipe *r, enum gguf_type type)
{
    double largest = 0;
    bool in_f32 = type == GGUF_TYPE_F32 || type == GGUF_TYPE_F16;
    bool rounds = !in_f32 || strstr(buf_str(&r->text), " MXFP4 ");
    for (uint32_t i = 0; i < r->n_want; i++) {
        largest = fmax(largest, fabs(r->want[i].values[0]));
    }
    return rounds && strcmp(e->info.isa, "scalar") != 0 ? QUANT_SHARE * largest : TOLERANCE;
}

static bool check(const char *name, const struct recipe *r, enum gguf_type type, const char *model,
                  const char *isa)
{
    struct eng *e = golden_open(model, isa, 1);
    int32_t ids[N_PROMPT];
    struct same_prompt p = {name, ids, N_PROMPT};
    bool ok = e != NULL;
    if (ok) {
        make_prompt(r->seed, e->info.n_vocab, ids);
        float *rows = rows_of(e, &p);
        double d = rows ? diff_of(r, type, rows, width_of(e)) : INFINITY;
        ok = d <= tolerance_of(e, r, type);
        ok = rows && same_all_ways(model, isa, e, &p, rows) && ok;
        printf("%-4s %-20s %-7s %-7s %.2g\n", ok ? "ok" : "FAIL", name, quant_format_of(type)->name,
               e->info.isa, d);
        free(rows);
    }
    eng_close(e);
    return ok;
}

/* Tensor types that a model may have its matrices in. */
static bool is_weight(uint32_t type)
{
    const struct quant_format *f = quant_format_of(type);
    return f && f->dequant && type != GGUF_TYPE_F64 && type != GGUF_TYPE_Q8_1 &&
           type != GGUF_TYPE_Q8_K;
}

static bool run(const char *name, const struct recipe *r, const char *model)
{
    bool ok = true;
    for (uint32_t type = 0; type < GGUF_TYPE_END; type++) {
        if (r->any_type ? is_weight(type) : type == GGUF_TYPE_F32) {
            bool built = recipe_build(r, type, 0, model);
            ok = built && check(name, r, type, model, "scalar") && ok;
            ok = built && check(name, r, type, model, NULL) && ok;
        }
    }
    return ok;
}

/* ---- writing ---- */

static float *rows_built(const struct recipe *r, enum gguf_type type, double shake,
                         const char *model, uint32_t *ret_width)
{
    struct eng *e = recipe_build(r, type, shake, model) ? golden_open(model, "scalar", 1) : NULL;
    float *rows = NULL;
    if (e) {
        int32_t ids[N_PROMPT];
        struct same_prompt p = {"", ids, N_PROMPT};
        make_prompt(r->seed, e->info.n_vocab, ids);
        rows = rows_of(e, &p);
        *ret_width = width_of(e);
    }
    eng_close(e);
    return rows;
}

/* Whether weights a little different give a result a little different. */
static bool is_steady(const struct recipe *r, enum gguf_type type, const char *model,
                      const float *rows, uint32_t width)
{
    float *shaken = rows_built(r, type, SHAKE, model, &width);
    double max = 0;
    for (size_t i = 0; shaken && i < (size_t)N_PROMPT * width; i++) {
        max = fmax(max, fabs((double)rows[i] - (double)shaken[i]));
    }
    bool ok = shaken && max < SHAKE_DIFF;
    free(shaken);
    return ok;
}

static void put_want(struct buf *out, enum gguf_type type, const float *rows, uint32_t width)
{
    for (size_t i = 0; i < N_POSITION; i++) {
        struct recipe_want w;
        recipe_sum_up(rows + (size_t)positions[i] * width, width, &w);
        buf_printf(out, "want %s %u %.5g", quant_format_of(type)->name, positions[i], w.check);
        for (int k = 0; k < RECIPE_N_BEST; k++) {
            buf_printf(out, " %u %.6g", w.ids[k], w.values[k]);
        }
        buf_putc(out, '\n');
    }
}

/* A seed that is steady and the numbers it gives, into the recipe's file. */
static bool renew(const char *path, struct recipe *r, const char *model)
{
    for (r->seed = 1; r->seed <= SEEDS_MAX; r->seed++) {
        struct buf out = {0};
        buf_printf(&out, "seed %llu\n%s", (unsigned long long)r->seed, buf_str(&r->text));
        bool ok = true;
        for (uint32_t type = 0; ok && type < GGUF_TYPE_END; type++) {
            if (r->any_type ? !is_weight(type) : type != GGUF_TYPE_F32) {
                continue;
            }
            uint32_t width = 0;
            float *rows = rows_built(r, type, 0, model, &width);
            ok = rows && (type != GGUF_TYPE_F32 || is_steady(r, type, model, rows, width));
            if (ok) {
                put_want(&out, type, rows, width);
            }
            free(rows);
        }
        FILE *f = ok ? fopen(path, "w") : NULL;
        if (f) {
            fwrite(out.data, 1, out.len, f);
            fclose(f);
            printf("%s: seed %llu, %zu bytes\n", path, (unsigned long long)r->seed, out.len);
        }
        buf_free(&out);
        if (f) {
            return true;
        }
    }
    printf("%s: no seed of %d will do\n", path, SEEDS_MAX);
    return false;
}

static bool write_recipes(const char *dir, const char *golden)
{
    DIR *d = opendir(golden);
    bool ok = d != NULL;
    for (struct dirent *entry; d && (entry = readdir(d));) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s/model.gguf", golden, entry->d_name);
        struct buf text = {0};
        if (entry->d_name[0] == '.' || access(path, R_OK) != 0) {
            continue;
        }
        ok = recipe_of_model(path, &text) && ok;
        snprintf(path, sizeof path, "%s/%s.txt", dir, entry->d_name);
        FILE *f = fopen(path, "w");
        ok = f && fwrite(text.data, 1, text.len, f) == text.len && ok;
        if (f) {
            fclose(f);
        }
        buf_free(&text);
    }
    if (d) {
        closedir(d);
    }
    return ok;
}

/* ---- all of them ---- */

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static bool one_file(const char *dir, const char *name, bool write, const char *model)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s.txt", dir, name);
    struct recipe r;
    bool ok = recipe_read(path, &r) && (write ? renew(path, &r, model) : run(name, &r, model));
    recipe_free(&r);
    return ok;
}

static void recipes_dir(char *out, size_t cap)
{
    const char *source = getenv("KVASIR_SOURCE");
    snprintf(out, cap, "%s/tests/golden/tiny", source ? source : ".");
}

static bool build_one(const char *name, const char *out_path)
{
    char dir[512];
    char path[1024];
    struct recipe r;
    recipes_dir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/%s.txt", dir, name);
    bool ok = recipe_read(path, &r) && recipe_build(&r, GGUF_TYPE_F32, 0, out_path);
    recipe_free(&r);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--build") == 0) {
        return !build_one(argv[2], argv[3]);
    }
    bool write = argc >= 3 && strcmp(argv[1], "--write") == 0;
    char dir[512];
    recipes_dir(dir, sizeof dir);
    if (write) {
        snprintf(dir, sizeof dir, "%s", argv[2]);
    }
    if (write && argc > 3 && !write_recipes(dir, argv[3])) {
        return 1;
    }
    char model[] = "/tmp/kvasir-tiny-XXXXXX";
    int fd = mkstemp(model);
    if (fd >= 0) {
        close(fd);
    }
    struct dirent **list = NULL;
    int n = scandir(dir, &list, NULL, by_name);
    int n_run = 0;
    int n_fail = 0;
    for (int i = 0; i < n; i++) {
        char *name = list[i]->d_name;
        char *end = strstr(name, ".txt");
        if (end && name[0] != '.') {
            *end = 0;
            if (write || argc < 2 || strcmp(argv[1], name) == 0) {
                n_run++;
                n_fail += !one_file(dir, name, write, model);
            }
        }
        free(list[i]);
    }
    free(list);
    unlink(model);
    printf("%d models, %d failed\n", n_run, n_fail);
    return n_fail || !n_run;
}
