/* kvasir perplexity: how well a model predicts a text, and how far its predictions are from those
 * of another (the full-precision model, as a rule). */
#include "base/buf.h"
#include "base/file.h"
#include "server/commands.h"
#include "server/model_run.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct perplexity {
    struct run_options run;
    const char *file;
    const char *tokens_file;
    const char *reference;
    const char *save;
    uint32_t n_limit; /* ids of the text to use; 0: all */
    bool second_half;
    struct eng_ids ids; /* the text, without BOS */
};

/* Sums over all scored positions. */
struct score {
    double nll;      /* nats */
    uint64_t n;      /* predictions scored */
    uint64_t n_row;  /* positions compared with the reference */
    uint64_t n_same; /* whose most likely token is the same */
    double *kl;      /* [n_row] nats */
    size_t cap;
};

static void print_usage(void)
{
    (void)printf(
        "usage: kvasir perplexity --model FILE (--file TEXT | --tokens-file FILE) [OPTIONS]\n\n"
        "The text is cut into windows of --ctx tokens (BOS and the rest), each read from an empty\n"
        "context, and every token of it is scored.\n\n"
        "  --file TEXT         a text, tokenised as one piece\n"
        "  --tokens-file FILE  token ids without BOS instead: 1,2,3 or a JSON array\n"
        "  --limit N           only the first N tokens of it\n"
        "  --second-half       windows overwrite their first token with BOS and score the\n"
        "                      second half alone, as llama-perplexity does\n"
        "  --save FILE         write the logits of all positions: f32, [positions, vocabulary]\n"
        "  --reference FILE    compare with such logits: KL divergence, agreement on the best\n"
        "                      token\n" RUN_OPTION_HELP);
}

static enum err_code parse_args(int argc, char **argv, struct perplexity *p, bool *ret_help,
                                struct err *e)
{
    static const struct option table[] = {RUN_OPTION_ROWS,
                                          {"file", required_argument, NULL, 'f'},
                                          {"tokens-file", required_argument, NULL, 'F'},
                                          {"limit", required_argument, NULL, 'L'},
                                          {"second-half", no_argument, NULL, 'H'},
                                          {"save", required_argument, NULL, 'S'},
                                          {"reference", required_argument, NULL, 'R'},
                                          {0}};
    int letter;
    while ((letter = getopt_long(argc, argv, "m:f:h", table, NULL)) != -1) {
        enum err_code code = ERR_OK;
        switch (letter) {
        case 'h': *ret_help = true; return ERR_OK;
        case 'f': p->file = optarg; break;
        case 'F': p->tokens_file = optarg; break;
        case 'L': code = run_number("--limit", optarg, 1, UINT32_MAX, &p->n_limit, e); break;
        case 'H': p->second_half = true; break;
        case 'S': p->save = optarg; break;
        case 'R': p->reference = optarg; break;
        default: code = run_option(&p->run, letter, optarg, e);
        }
        if (code) {
            return code;
        }
    }
    if (optind < argc) {
        return err_set(e, ERR_INVALID, "\"%s\" is not an option", argv[optind]);
    }
    if (!p->file == !p->tokens_file) {
        return err_set(e, ERR_INVALID, "give one of --file and --tokens-file");
    }
    return ERR_OK;
}

static enum err_code read_ids(struct perplexity *p, const struct eng *g, struct err *e)
{
    struct buf text = {0};
    enum err_code code =
        file_read(p->file ? p->file : p->tokens_file, "", RUN_FILE_BYTES_MAX, &text, e);
    if (!code && p->file) {
        code = eng_tokenize(g, buf_str(&text), text.len, 0, &p->ids, e);
    } else if (!code) {
        code = run_parse_ids(buf_str(&text), text.len, &p->ids, e);
    }
    buf_free(&text);
    if (!code && p->n_limit && p->n_limit < p->ids.n) {
        p->ids.n = p->n_limit;
    }
    if (!code && p->ids.n == 0) {
        code = err_set(e, ERR_INVALID, "the text is empty");
    }
    return code;
}

/* ---- one window -------------------------------------------------------------------------------
 */

struct window {
    int32_t *tokens; /* [n_tok] */
    uint32_t n_tok;
    uint32_t score_from; /* predictions of tokens[score_from + 1 …] count */
};

static enum err_code push_kl(struct score *s, double kl, struct err *e)
{
    if (s->n_row == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 1024;
        double *v = realloc(s->kl, cap * sizeof *v);
        if (!v) {
            return err_set(e, ERR_NOMEM, "out of memory for %zu positions", cap);
        }
        s->kl = v;
        s->cap = cap;
    }
    s->kl[s->n_row++] = kl;
    return ERR_OK;
}

static double log_sum_exp(const float *x, uint32_t n)
{
    double max = x[run_argmax(x, n)];
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += exp(x[i] - max);
    }
    return max + log(sum);
}

/* KL(P_reference || P) in nats. */
static double divergence(const float *reference, const float *logits, uint32_t n)
{
    double norm_r = log_sum_exp(reference, n);
    double norm_l = log_sum_exp(logits, n);
    double kl = 0;
    for (uint32_t i = 0; i < n; i++) {
        double log_p = reference[i] - norm_r;
        kl += exp(log_p) * (log_p - (logits[i] - norm_l));
    }
    return kl;
}

struct files {
    FILE *reference;
    FILE *save;
    float *row; /* [n_vocab] of the reference */
};

/* One position's logits: against the reference, and into the file. */
static enum err_code compare_row(struct score *s, const struct files *fs, const float *logits,
                                 uint32_t n_vocab, struct err *e)
{
    if (fs->save && fwrite(logits, sizeof *logits, n_vocab, fs->save) != n_vocab) {
        return err_errno(e, ERR_IO, errno, "cannot write logits");
    }
    if (!fs->reference) {
        return ERR_OK;
    }
    if (fread(fs->row, sizeof *fs->row, n_vocab, fs->reference) != n_vocab) {
        return err_set(e, ERR_CORRUPT, "the reference ends after %llu rows of %u logits",
                       (unsigned long long)s->n_row, n_vocab);
    }
    s->n_same += run_argmax(fs->row, n_vocab) == run_argmax(logits, n_vocab);
    return push_kl(s, divergence(fs->row, logits, n_vocab), e);
}

static enum err_code score_window(struct eng *g, const struct run_seq *seq, const struct window *w,
                                  const struct files *fs, struct score *s, struct err *e)
{
    uint32_t n_vocab = g->info.n_vocab;
    uint32_t n_max = g->info.n_step_out_max;
    for (uint32_t at = 0; at < w->n_tok;) {
        uint32_t n = w->n_tok - at < n_max ? w->n_tok - at : n_max;
        struct eng_slice slice = {
            .tokens = w->tokens + at, .n_tok = n, .pos = at, .kv = seq->kv, .state = seq->state};
        enum err_code code = eng_step(g, &slice, 1, e);
        for (uint32_t i = 0; i < n && !code; i++) {
            const float *logits = slice.logits + (size_t)i * n_vocab;
            uint32_t pos = at + i;
            code = compare_row(s, fs, logits, n_vocab, e);
            if (pos >= w->score_from && pos + 1 < w->n_tok) {
                s->nll -= run_logprob(logits, n_vocab, w->tokens[pos + 1]);
                s->n++;
            }
        }
        if (code) {
            return code;
        }
        at += n;
    }
    return ERR_OK;
}

/* ---- the text ---------------------------------------------------------------------------------
 */

/* Fills the next window from id number *at on; false when the text is used up. */
static bool next_window(const struct perplexity *p, const struct eng_info *info, size_t *at,
                        struct window *w)
{
    bool has_bos = info->bos_id != ENG_TOKEN_NONE;
    uint32_t n_ctx = info->n_ctx;
    w->n_tok = 0;
    w->score_from = p->second_half ? n_ctx / 2 : 0;
    if (p->second_half) { /* the text with BOS before it, cut into whole windows */
        size_t n_text = p->ids.n + has_bos;
        if (n_text - *at < n_ctx) {
            return false;
        }
        for (uint32_t i = 0; i < n_ctx; i++) {
            size_t id = *at + i;
            w->tokens[w->n_tok++] = has_bos && i == 0 ? info->bos_id : p->ids.ids[id - has_bos];
        }
        *at += n_ctx;
        return true;
    }
    if (*at >= p->ids.n) {
        return false;
    }
    if (has_bos) {
        w->tokens[w->n_tok++] = info->bos_id;
    }
    while (w->n_tok < n_ctx && *at < p->ids.n) {
        w->tokens[w->n_tok++] = p->ids.ids[(*at)++];
    }
    return true;
}

static enum err_code score_text(const struct perplexity *p, struct model_run *r,
                                const struct files *fs, struct score *s, struct err *e)
{
    const struct eng_info *info = &r->g->info;
    struct window w = {.tokens = malloc(((size_t)info->n_ctx + 1) * sizeof *w.tokens)};
    struct run_seq seq = {0};
    enum err_code code = w.tokens ? run_seq_open(r, info->n_ctx, &seq, e)
                                  : err_set(e, ERR_NOMEM, "out of memory for a window");
    size_t at = 0;
    uint32_t n_window = 0;
    bool terminal = isatty(STDERR_FILENO);
    while (!code && next_window(p, info, &at, &w)) {
        code = score_window(r->g, &seq, &w, fs, s, e);
        n_window++;
        if (terminal && s->n) {
            (void)fprintf(stderr, "\r%u windows, perplexity %.4f ", n_window,
                          exp(s->nll / (double)s->n));
        }
    }
    if (terminal) {
        (void)fprintf(stderr, "\r%60s\r", "");
    }
    if (!code && s->n == 0) {
        code = err_set(e, ERR_INVALID, "the text of %zu tokens is too short for a context of %u",
                       p->ids.n, info->n_ctx);
    }
    run_seq_close(&seq);
    free(w.tokens);
    return code;
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of sorted values, between neighbours in proportion. */
static double quantile(const double *v, uint64_t n, double q)
{
    double at = q * (double)(n - 1);
    uint64_t i = (uint64_t)at;
    return i + 1 < n ? v[i] + (v[i + 1] - v[i]) * (at - (double)i) : v[i];
}

static void print_score(const struct perplexity *p, struct score *s)
{
    double ppl = exp(s->nll / (double)s->n);
    bool json = p->run.json;
    (void)printf(json ? "{\"perplexity\":%.8f,\"mean_nll\":%.8f,\"tokens\":%llu"
                      : "perplexity %.6f (%.6f nats a token) over %llu tokens\n",
                 ppl, s->nll / (double)s->n, (unsigned long long)s->n);
    if (s->n_row) {
        double sum = 0;
        for (uint64_t i = 0; i < s->n_row; i++) {
            sum += s->kl[i];
        }
        qsort(s->kl, s->n_row, sizeof *s->kl, compare_double);
        double median = quantile(s->kl, s->n_row, 0.5);
        double p99 = quantile(s->kl, s->n_row, 0.99);
        (void)printf(json ? ",\"kl_mean\":%.8g,\"kl_median\":%.8g,\"kl_p99\":%.8g,"
                            "\"kl_max\":%.8g,\"top1_agreement\":%.6f"
                          : "KL divergence from the reference: mean %.6g, median %.6g, p99 %.6g, "
                            "max %.6g nats\nsame most likely token: %.4f\n",
                     sum / (double)s->n_row, median, p99, s->kl[s->n_row - 1],
                     (double)s->n_same / (double)s->n_row);
    }
    (void)printf(json ? "}\n" : "");
}

static enum err_code open_files(const struct perplexity *p, uint32_t n_vocab, struct files *fs,
                                struct err *e)
{
    fs->row = malloc(n_vocab * sizeof *fs->row);
    if (!fs->row) {
        return err_set(e, ERR_NOMEM, "out of memory for a row of logits");
    }
    if (p->reference && !(fs->reference = fopen(p->reference, "rb"))) {
        return err_errno(e, ERR_IO, errno, "cannot open %s", p->reference);
    }
    if (p->save && !(fs->save = fopen(p->save, "wb"))) {
        return err_errno(e, ERR_IO, errno, "cannot create %s", p->save);
    }
    return ERR_OK;
}

static enum err_code close_files(struct files *fs, struct err *e)
{
    enum err_code code = ERR_OK;
    if (fs->reference) {
        (void)fclose(fs->reference);
    }
    if (fs->save && fclose(fs->save) != 0) {
        code = err_errno(e, ERR_IO, errno, "cannot write logits");
    }
    free(fs->row);
    return code;
}

static enum err_code measure(struct perplexity *p, struct err *e)
{
    struct model_run r = {0};
    struct files fs = {0};
    struct score s = {0};
    enum err_code code = run_open(&p->run, 1, 0, &r, e);
    if (code) {
        return code;
    }
    code = read_ids(p, r.g, e);
    code = code ? code : open_files(p, r.g->info.n_vocab, &fs, e);
    code = code ? code : score_text(p, &r, &fs, &s, e);
    enum err_code closed = close_files(&fs, code ? NULL : e);
    code = code ? code : closed;
    if (!code) {
        print_score(p, &s);
    }
    free(s.kl);
    run_close(&r);
    return code;
}

int cmd_perplexity(int argc, char **argv)
{
    struct perplexity p = {.run = {.n_ctx = 512}};
    struct err e;
    bool help = false;
    enum err_code code = parse_args(argc, argv, &p, &help, &e);
    if (help) {
        print_usage();
        return 0;
    }
    int status = code ? 2 : 1;
    code = code ? code : measure(&p, &e);
    eng_ids_free(&p.ids);
    if (code) {
        (void)fprintf(stderr, "kvasir perplexity: %s\n", e.msg);
        return status;
    }
    return 0;
}
