/* kvasir bench: prefill and decode speed of a model, on made-up tokens. */
#include "base/clock.h"
#include "base/host.h"
#include "base/rng.h"
#include "base/units.h"
#include "server/bench_limit.h"
#include "server/commands.h"
#include "server/model_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX  32
#define RUN_MAX   100
#define TOK_MAX   (1u << 20)
#define BATCH_MAX 4096

struct list {
    uint32_t v[LIST_MAX];
    uint32_t n;
};

struct bench {
    struct run_options run;
    struct list prompts; /* prefill lengths */
    struct list batches; /* sequences that decode together */
    uint32_t n_gen;      /* tokens each of them decodes */
    uint32_t n_depth;    /* tokens each of them holds before */
    uint32_t n_run;
    struct bench_limit *limit;
};

static void print_usage(void)
{
    (void)printf(
        "usage: kvasir bench --model FILE [OPTIONS]\n\n"
        "Medians of several runs; a decode figure is the sum over its batch. Beside each, what\n"
        "reading the weights once a step and multiplying at the peak would allow at most,\n"
        "measured on this machine right after it.\n\n"
        "  -p LIST             prompt lengths to prefill (default: 512; 0: none)\n"
        "  -n N                tokens to decode per sequence (default: 64; 0: none)\n"
        "  -b LIST             sequences decoding together (default: 1)\n"
        "  -d N                tokens each sequence holds before decoding (default: 0)\n"
        "  -r, --runs N        runs per figure (default: 3)\n" RUN_OPTION_HELP);
}

static enum err_code parse_list(const char *option, const char *text, uint32_t hi, struct list *l,
                                struct err *e)
{
    struct eng_ids ids = {0};
    enum err_code code = run_parse_ids(text, strlen(text), &ids, e);
    l->n = 0;
    for (size_t i = 0; i < ids.n && !code; i++) {
        if (i == LIST_MAX || (uint32_t)ids.ids[i] > hi) {
            code = err_set(e, ERR_INVALID, "%s is \"%s\", must be at most %d numbers up to %u",
                           option, text, LIST_MAX, hi);
        } else if (ids.ids[i] > 0) {
            l->v[l->n++] = (uint32_t)ids.ids[i];
        }
    }
    eng_ids_free(&ids);
    return code;
}

static enum err_code parse_args(int argc, char **argv, struct bench *b, bool *ret_help,
                                struct err *e)
{
    static const struct option table[] = {
        RUN_OPTION_ROWS, {"runs", required_argument, NULL, 'r'}, {0}};
    int letter;
    while ((letter = getopt_long(argc, argv, "m:t:p:n:b:d:r:h", table, NULL)) != -1) {
        enum err_code code;
        switch (letter) {
        case 'h': *ret_help = true; return ERR_OK;
        case 'p': code = parse_list("-p", optarg, TOK_MAX, &b->prompts, e); break;
        case 'b': code = parse_list("-b", optarg, BATCH_MAX, &b->batches, e); break;
        case 'n': code = run_number("-n", optarg, 0, TOK_MAX, &b->n_gen, e); break;
        case 'd': code = run_number("-d", optarg, 0, TOK_MAX, &b->n_depth, e); break;
        case 'r': code = run_number("--runs", optarg, 1, RUN_MAX, &b->n_run, e); break;
        default: code = run_option(&b->run, letter, optarg, e);
        }
        if (code) {
            return code;
        }
    }
    return optind < argc ? err_set(e, ERR_INVALID, "\"%s\" is not an option", argv[optind])
                         : ERR_OK;
}

static uint32_t max_of(const struct list *l)
{
    uint32_t max = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        max = l->v[i] > max ? l->v[i] : max;
    }
    return max;
}

/* The same tokens in every run of every build. */
static int32_t made_up_token(const struct eng *g, uint32_t seq, uint32_t pos)
{
    return (int32_t)(rng_mix(seq, pos) % g->info.n_vocab);
}

/* Writes [0, n_tok) of a sequence, in the largest steps there are; logits of the last row alone. */
static enum err_code prefill(struct eng *g, const struct run_seq *mem, uint32_t seq, uint32_t n_tok,
                             int32_t *tokens, struct err *e)
{
    for (uint32_t at = 0; at < n_tok;) {
        uint32_t n = n_tok - at < g->info.n_step_tok_max ? n_tok - at : g->info.n_step_tok_max;
        for (uint32_t i = 0; i < n; i++) {
            tokens[i] = made_up_token(g, seq, at + i);
        }
        struct eng_slice s = {
            .tokens = tokens, .n_tok = n, .pos = at, .kv = mem->kv, .state = mem->state};
        s.out_from = at + n == n_tok ? n - 1 : n;
        enum err_code code = eng_step(g, &s, 1, e);
        if (code) {
            return code;
        }
        at += n;
    }
    return ERR_OK;
}

/* n_gen steps of all sequences, one token each. */
static enum err_code decode(struct eng *g, const struct run_seq *seqs, uint32_t n_seq,
                            uint32_t n_depth, uint32_t n_gen, struct eng_slice *slices,
                            int32_t *tokens, struct err *e)
{
    for (uint32_t t = 0; t < n_gen; t++) {
        for (uint32_t i = 0; i < n_seq; i++) {
            tokens[i] = made_up_token(g, i, n_depth + t);
            slices[i] = (struct eng_slice){.tokens = &tokens[i],
                                           .n_tok = 1,
                                           .pos = n_depth + t,
                                           .kv = seqs[i].kv,
                                           .state = seqs[i].state};
        }
        enum err_code code = eng_step(g, slices, n_seq, e);
        if (code) {
            return code;
        }
    }
    return ERR_OK;
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, uint32_t n)
{
    qsort(v, n, sizeof *v, compare_double);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void print_figure(const struct bench *b, const char *test, const char *unit, uint32_t n,
                         double tok_s, double limit_tok_s, const struct bench_roof *roof)
{
    if (b->run.json) {
        (void)printf("{\"test\":\"%s\",\"%s\":%u,\"tok_s\":%.3f", test, unit, n, tok_s);
        if (limit_tok_s > 0) {
            (void)printf(",\"limit_tok_s\":%.3f,\"limit_frac\":%.4f", limit_tok_s,
                         tok_s / limit_tok_s);
        }
        (void)printf(",\"read_gb_s\":%.2f,\"peak_tflop_s\":%.3f", roof->read_bytes_per_s * 1e-9,
                     roof->flop_per_s * 1e-12);
        (void)printf("}\n");
    } else {
        (void)printf("%-8s %-6s %5u  %10.2f tokens/s", test, unit, n, tok_s);
        if (limit_tok_s > 0) {
            (void)printf("  %3.0f %% of %.0f", 100 * tok_s / limit_tok_s, limit_tok_s);
        }
        (void)printf("\n");
    }
    (void)fflush(stdout);
}

/* The machine's limits, measured while it is in the mood of the figure just taken. */
static struct bench_roof measure_roof(const struct bench *b)
{
    struct bench_roof r = bench_limit_measure(b->limit);
    if (!b->run.json) {
        (void)printf("limits: %.1f GB/s read, %.2f Tflop/s\n", r.read_bytes_per_s * 1e-9,
                     r.flop_per_s * 1e-12);
    }
    return r;
}

/* What loading took, and what it left resident beside the weights. */
static void print_load(const struct bench *b, const struct eng_info *info, uint64_t load_ns)
{
    const double s = (double)load_ns * 1e-9, weights = (double)info->weights_bytes;
    const uint64_t rss_bytes = host_rss_bytes();
    if (b->run.json) {
        (void)printf("{\"test\":\"load\",\"s\":%.3f,\"gb_s\":%.3f,\"rss_bytes\":%llu,"
                     "\"rss_frac\":%.4f}\n",
                     s, weights * 1e-9 / s, (unsigned long long)rss_bytes,
                     (double)rss_bytes / weights);
        return;
    }
    char bytes[32];
    (void)printf("%s, %s, %s of weights, %s, %u threads\n", info->name, info->format,
                 units_format_bytes(info->weights_bytes, bytes, sizeof bytes), info->isa,
                 info->n_thread);
    (void)printf("loaded in %.2f s, %.2f GB/s; resident %s, %.3f of the weights\n", s,
                 weights * 1e-9 / s, units_format_bytes(rss_bytes, bytes, sizeof bytes),
                 (double)rss_bytes / weights);
}

static enum err_code bench_prefill(const struct bench *b, struct model_run *r, uint32_t n_tok,
                                   int32_t *tokens, struct err *e)
{
    double tok_s[RUN_MAX];
    struct run_seq seq = {0};
    enum err_code code = run_seq_open(r, n_tok, &seq, e);
    for (uint32_t i = 0; i <= b->n_run && !code; i++) {
        uint64_t from = clock_mono_ns();
        code = prefill(r->g, &seq, 0, n_tok, tokens, e);
        if (i > 0) { /* the first warms up */
            tok_s[i - 1] = n_tok * 1e9 / (double)(clock_mono_ns() - from);
        }
    }
    run_seq_close(&seq);
    if (!code) {
        const struct bench_roof roof = measure_roof(b);
        print_figure(b, "prefill", "tokens", n_tok, median(tok_s, b->n_run),
                     bench_limit_prefill(&r->g->info, &roof, n_tok), &roof);
    }
    return code;
}

static enum err_code bench_decode(const struct bench *b, struct model_run *r, uint32_t n_seq,
                                  int32_t *tokens, struct err *e)
{
    double tok_s[RUN_MAX];
    struct run_seq *seqs = calloc(n_seq, sizeof *seqs);
    struct eng_slice *slices = calloc(n_seq, sizeof *slices);
    enum err_code code =
        seqs && slices ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for %u sequences", n_seq);
    for (uint32_t i = 0; i < n_seq && !code; i++) {
        code = run_seq_open(r, b->n_depth + b->n_gen, &seqs[i], e);
        code = code ? code : prefill(r->g, &seqs[i], i, b->n_depth, tokens, e);
    }
    for (uint32_t i = 0; i <= b->n_run && !code; i++) {
        uint32_t n_gen = i ? b->n_gen : 1; /* the first warms up */
        uint64_t from = clock_mono_ns();
        code = decode(r->g, seqs, n_seq, b->n_depth, n_gen, slices, tokens, e);
        if (i > 0) {
            tok_s[i - 1] = (double)n_seq * n_gen * 1e9 / (double)(clock_mono_ns() - from);
        }
    }
    for (uint32_t i = 0; seqs && i < n_seq; i++) {
        run_seq_close(&seqs[i]);
    }
    free(seqs);
    free(slices);
    if (!code) {
        const struct bench_roof roof = measure_roof(b);
        const uint32_t n_held = b->n_depth + b->n_gen / 2;
        print_figure(b, "decode", "batch", n_seq, median(tok_s, b->n_run),
                     bench_limit_decode(&r->g->info, &roof, n_seq, n_held), &roof);
    }
    return code;
}

static enum err_code run_all(struct bench *b, struct err *e)
{
    uint32_t n_prompt = max_of(&b->prompts);
    uint32_t n_seq_tok = b->n_depth + b->n_gen > n_prompt ? b->n_depth + b->n_gen : n_prompt;
    uint32_t n_seq = b->n_gen ? max_of(&b->batches) : 1;
    struct model_run r = {0};
    if (n_seq_tok == 0) {
        return err_set(e, ERR_INVALID, "nothing to do: -p and -n are both 0");
    }
    if (!b->run.n_ctx) {
        b->run.n_ctx = n_seq_tok;
    }
    const uint64_t from = clock_mono_ns();
    enum err_code code = run_open(&b->run, n_seq ? n_seq : 1, n_seq_tok, &r, e);
    if (code) {
        return code;
    }
    const struct eng_info *info = &r.g->info;
    print_load(b, info, clock_mono_ns() - from);
    uint32_t n_token = info->n_step_tok_max > n_seq ? info->n_step_tok_max : n_seq;
    int32_t *tokens = malloc(n_token * sizeof *tokens);
    code = bench_limit_create(info, &b->limit, e);
    if (!code && !tokens) {
        code = err_set(e, ERR_NOMEM, "out of memory for %u tokens", n_token);
    }
    for (uint32_t i = 0; i < b->prompts.n && !code; i++) {
        code = bench_prefill(b, &r, b->prompts.v[i], tokens, e);
    }
    for (uint32_t i = 0; b->n_gen && i < b->batches.n && !code; i++) {
        code = bench_decode(b, &r, b->batches.v[i], tokens, e);
    }
    free(tokens);
    bench_limit_destroy(b->limit);
    run_close(&r);
    return code;
}

int cmd_bench(int argc, char **argv)
{
    struct bench b = {.prompts = {{512}, 1}, .batches = {{1}, 1}, .n_gen = 64, .n_run = 3};
    struct err e;
    bool help = false;
    enum err_code code = parse_args(argc, argv, &b, &help, &e);
    if (help) {
        print_usage();
        return 0;
    }
    int status = code ? 2 : 1;
    code = code ? code : run_all(&b, &e);
    if (code) {
        (void)fprintf(stderr, "kvasir bench: %s\n", e.msg);
        return status;
    }
    return 0;
}
