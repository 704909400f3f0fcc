/* Tokens and log-probabilities to the bit, whatever of a prompt's KV came from where: with the
 * cache off, from memory, beside twins, from disk after a restart by either I/O backend, and after
 * memory was given back. Every architecture of tests/golden/tiny, through the real engine,
 * scheduler and store. Models whose sequences share nothing must say so and answer the same.
 *
 *   test_cache [NAME…]
 */
#include "base/clock.h"
#include "base/rng.h"
#include "scheduler/scheduler.h"
#include "tests/golden/golden.h"
#include "tests/golden/recipe.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_REQUEST  5
#define N_GEN      24
#define N_TOK_MAX  200
#define N_FRAME    64
#define N_FEW      5 /* frames in which not all find room */
#define DISK_BYTES (8 << 20)
#define WAIT_US    60000000

struct answer {
    uint32_t n;
    uint32_t n_cached;
    uint32_t n_cached_disk;
    struct sample_result results[N_GEN];
};

struct way {
    const char *name;
    bool cached;
    bool at_once;
    uint32_t n_frame;
    const char *dir;
    enum kv_backend backend;
};

struct trial {
    struct eng *g;
    int32_t tokens[N_REQUEST][N_TOK_MAX];
    uint32_t n_tok[N_REQUEST];
    struct answer answers[N_REQUEST];
    struct sch_stats stats;
};

static bool complain(const struct trial *t, const char *way, const char *what)
{
    fprintf(stderr, "%s, %s: %s\n", t->g->info.arch, way, what);
    return false;
}

/* A prompt; the same; one that leaves it inside a chunk; a longer one; and one of its own. */
static void make_prompts(struct trial *t)
{
    static const uint32_t lens[N_REQUEST] = {120, 120, 115, 180, 60};
    static const uint32_t shared[N_REQUEST] = {120, 120, 90, 120, 0};
    for (uint32_t i = 0; i < N_REQUEST; i++) {
        t->n_tok[i] = lens[i];
        for (uint32_t k = 0; k < lens[i]; k++) {
            uint64_t seed = k < shared[i] ? 1 : 2 + i;
            t->tokens[i][k] = (int32_t)(3 + rng_mix(seed, k) % (t->g->info.n_vocab - 3));
        }
    }
}

static bool submit(struct trial *t, struct sch *s, uint32_t i, struct sch_stream **ret_st)
{
    struct err e;
    const struct sch_request r = {.tokens = t->tokens[i],
                                  .n_tok = t->n_tok[i],
                                  .n_gen_max = N_GEN,
                                  .ignore_eos = true,
                                  .sample = {.temperature = i % 2 ? 0.8F : 0,
                                             .seed = i / 2,
                                             .top_p = 1,
                                             .repetition_penalty = 1,
                                             .want_logprob = true,
                                             .n_top_logprob = SAMPLE_TOP_MAX}};
    return !sch_submit(s, &r, ret_st, &e) || complain(t, "submit", e.msg);
}

/* Steps until answers [from, to) have their end. */
static bool run_to_end(struct trial *t, const char *way, struct sch *s, uint32_t from, uint32_t to)
{
    struct sch_stream *st[N_REQUEST] = {NULL};
    uint32_t n_open = to - from;
    uint64_t until_us = clock_mono_us() + WAIT_US;
    bool ok = true;
    for (uint32_t i = from; ok && i < to; i++) {
        t->answers[i] = (struct answer){0};
        ok = submit(t, s, i, &st[i]);
    }
    while (ok && n_open && clock_mono_us() < until_us) {
        bool worked = sch_step(s);
        for (uint32_t i = from; i < to; i++) {
            struct sch_event ev;
            struct answer *a = &t->answers[i];
            while (sch_stream_next(st[i], &ev)) {
                if (ev.kind == SCH_EVENT_TOKEN && a->n < N_GEN) {
                    a->results[a->n++] = *ev.logprobs;
                    continue;
                }
                n_open--;
                a->n_cached = ev.n_cached_tok;
                a->n_cached_disk = ev.n_cached_disk_tok;
                ok = ok && (ev.finish == SCH_FINISH_LENGTH ||
                            complain(t, way, ev.error ? ev.error->msg : "cut off"));
            }
        }
        if (!worked) {
            clock_sleep_us(50); /* the disk */
        }
    }
    for (uint32_t i = from; i < to; i++) {
        sch_stream_release(st[i]);
    }
    return ok && (!n_open || complain(t, way, "no end"));
}

static bool run_way(struct trial *t, const struct way *w)
{
    struct err e;
    struct kv_store *kv = NULL;
    struct sch *s = NULL;
    const struct eng_info *info = &t->g->info;
    struct kv_options ko = {.ram_bytes = w->n_frame * (uint64_t)info->chunk_bytes,
                            .chunk_tok = info->chunk_tok,
                            .chunk_bytes = info->chunk_bytes,
                            .n_seq_tok_max = info->n_ctx,
                            .disk = {.dir = w->dir,
                                     .cap_bytes = DISK_BYTES + 40 * (uint64_t)info->chunk_bytes,
                                     .backend = w->backend}};
    bool ok = !sch_kv_fingerprint(t->g, ko.disk.fingerprint, &e) && !kv_store_create(&ko, &kv, &e);
    const struct sch_options so = {.eng = t->g,
                                   .kv = kv,
                                   .n_queued_max = N_REQUEST,
                                   .n_running_max = N_REQUEST,
                                   .n_event_max = N_GEN,
                                   .itl_target_us = 1000,
                                   .prefix_cache = w->cached,
                                   .kv_flush_us = 10000000,
                                   .check_kv = true};
    ok = ok && !sch_create(&so, &s, &e);
    if (!ok) {
        kv_store_destroy(kv);
        return complain(t, w->name, e.msg);
    }
    for (uint32_t i = 0; ok && i < N_REQUEST; i += w->at_once ? N_REQUEST : 1) {
        ok = run_to_end(t, w->name, s, i, w->at_once ? N_REQUEST : i + 1);
    }
    sch_stop(s, 0);
    sch_get_stats(s, &t->stats);
    sch_destroy(s);
    kv_store_destroy(kv);
    return ok;
}

static bool same_result(const struct sample_result *a, const struct sample_result *b)
{
    return a->id == b->id && a->n_top == b->n_top &&
           memcmp(&a->logprob, &b->logprob, sizeof a->logprob) == 0 &&
           memcmp(a->top, b->top, a->n_top * sizeof a->top[0]) == 0;
}

static bool same_answers(const struct trial *t, const char *way, const struct answer *want)
{
    for (uint32_t i = 0; i < N_REQUEST; i++) {
        if (t->answers[i].n != N_GEN) {
            return complain(t, way, "an answer is too short");
        }
        for (uint32_t k = 0; k < N_GEN; k++) {
            if (!same_result(&t->answers[i].results[k], &want[i].results[k])) {
                fprintf(stderr, "request %u, token %u: %d %.9g, want %d %.9g\n", i, k,
                        (int)t->answers[i].results[k].id, t->answers[i].results[k].logprob,
                        (int)want[i].results[k].id, want[i].results[k].logprob);
                return complain(t, way, "other bits");
            }
        }
    }
    return true;
}

static uint64_t n_disk_hit(const struct trial *t)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < N_REQUEST; i++) {
        n += t->answers[i].n_cached_disk;
    }
    return n;
}

/* What each way must have found, so that it tests what its name says. */
static bool found_what_it_should(const struct trial *t, const struct way *w, bool restarted)
{
    const struct answer *a = t->answers;
    if (!w->cached || !sch_can_share(t->g)) {
        return !t->stats.n_cached_tok || complain(t, w->name, "shares what it must not");
    }
    if (restarted) {
        return n_disk_hit(t) > 0 || complain(t, w->name, "nothing from disk");
    }
    if (w->n_frame == N_FEW) {
        return t->stats.n_preempted > 0 || complain(t, w->name, "nobody gave memory back");
    }
    /* By chance a token more. At once only full chunks of others' prompts are waited for. */
    uint32_t n_part = w->at_once ? 64 : 90;
    uint32_t n_whole = w->at_once ? 64 : 120;
    bool ok = a[1].n_cached == 119 && a[2].n_cached >= n_part && a[3].n_cached >= n_whole &&
              a[4].n_cached < 10;
    return ok || complain(t, w->name, "other tokens cached than should be");
}

static bool check_engine(struct eng *g, const char *dir)
{
    static struct trial t;
    static struct answer want[N_REQUEST];
    const struct way ways[] = {
        {"cache off", .n_frame = N_FRAME},
        {"one after the other", .cached = true, .n_frame = N_FRAME},
        {"at once", .cached = true, .at_once = true, .n_frame = N_FRAME},
        {"in little memory", .cached = true, .at_once = true, .n_frame = N_FEW},
        {"to disk", .cached = true, .n_frame = N_FRAME, .dir = dir, .backend = KV_BACKEND_AUTO},
        {"from disk", .cached = true, .n_frame = N_FRAME, .dir = dir, .backend = KV_BACKEND_AUTO},
        {"from disk by pread", .cached = true, .n_frame = N_FRAME, .dir = dir,
         .backend = KV_BACKEND_PREAD},
        {"from disk in little memory", .cached = true, .at_once = true, .n_frame = N_FEW,
         .dir = dir},
    };
    bool ok = true;
    t.g = g;
    make_prompts(&t);
    for (size_t i = 0; ok && i < sizeof ways / sizeof *ways; i++) {
        ok = run_way(&t, &ways[i]);
        if (i == 0) {
            memcpy(want, t.answers, sizeof want);
        }
        bool restarted = i > 0 && ways[i].dir && ways[i - 1].dir;
        ok = ok && same_answers(&t, ways[i].name, want) &&
             found_what_it_should(&t, &ways[i], restarted);
    }
    return ok;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static bool check_model(const char *name, const char *model, enum eng_kv_type kv_type)
{
    static const char *const types[] = {"auto", "f32", "bf16", "int8"};
    char dir[] = "/tmp/kvasir-cache-XXXXXX";
    struct eng_options o = {.model_path = model, .n_ctx = 256, .n_thread = 1, .kv_type = kv_type};
    struct eng *g = NULL;
    struct err e;
    if (eng_open(&o, &g, &e) || !mkdtemp(dir)) {
        fprintf(stderr, "%s: %s\n", name, g ? "no temporary directory" : e.msg);
        eng_close(g);
        return false;
    }
    bool ok = g->info.encoder || check_engine(g, dir);
    printf("%-4s %-22s %-5s %s\n", ok ? "ok" : "FAIL", name, types[kv_type],
           g->info.encoder     ? "is an encoder"
           : !sch_can_share(g) ? "shares nothing"
                               : "");
    eng_close(g);
    (void)nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    return ok;
}

static bool check_recipe(const char *dir, const char *name, const char *model)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s.txt", dir, name);
    struct recipe r;
    bool ok = recipe_read(path, &r);
    ok = ok && recipe_build(&r, r.any_type ? GGUF_TYPE_Q4_K : GGUF_TYPE_F32, 0, model) &&
         check_model(name, model, ENG_KV_AUTO) &&
         (!r.any_type ||
          (check_model(name, model, ENG_KV_F32) && check_model(name, model, ENG_KV_INT8)));
    recipe_free(&r);
    return ok;
}

static bool is_asked_for(int argc, char **argv, const char *name)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], name) == 0) {
            return true;
        }
    }
    return argc < 2;
}

int main(int argc, char **argv)
{
    char dir[512];
    char stories[1024];
    char model[] = "/tmp/kvasir-tiny-XXXXXX";
    int fd = mkstemp(model);
    int n_run = 0;
    int n_fail = 0;
    snprintf(dir, sizeof dir, "%s/tests/golden/tiny",
             getenv("KVASIR_SOURCE") ? getenv("KVASIR_SOURCE") : ".");
    DIR *d = opendir(dir);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        char *end = strstr(entry->d_name, ".txt");
        if (!end || entry->d_name[0] == '.') {
            continue;
        }
        *end = 0;
        if (is_asked_for(argc, argv, entry->d_name)) {
            n_run++;
            n_fail += !check_recipe(dir, entry->d_name, model);
        }
    }
    if (d) {
        closedir(d);
    }
    if (is_asked_for(argc, argv, "stories260K") &&
        golden_path("models/stories260K.gguf", stories, sizeof stories)) {
        n_run++;
        n_fail += !check_model("stories260K", stories, ENG_KV_AUTO);
    }
    if (fd >= 0) {
        close(fd);
        (void)unlink(model);
    }
    printf("%d models, %d failed\n", n_run, n_fail);
    return !n_run || n_fail;
}
