/* kvasir eval: logits and greedy tokens for given ids, for tests and comparisons. */
#include "base/buf.h"
#include "base/file.h"
#include "server/commands.h"
#include "server/model_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GREEDY_MAX (1u << 24)
#define N_SHOWN    5

struct eval {
    struct run_options run;
    const char *tokens;
    const char *tokens_file;
    const char *positions; /* "last", "all" or a list */
    uint32_t n_greedy;
    struct eng_ids ids;
    bool *wanted; /* [ids.n] positions whose logits are printed */
};

static void print_usage(void)
{
    (void)printf("usage: kvasir eval --model FILE (--tokens IDS | --tokens-file FILE) [OPTIONS]\n\n"
                 "Runs token ids, exactly as given, through the model.\n\n"
                 "  --tokens IDS        1,2,3\n"
                 "  --tokens-file FILE  the same, or a JSON array\n"
                 "  --positions WHICH   last, all, or a list such as 0,12: whose logits to print\n"
                 "                      (default: last)\n"
                 "  --greedy N          then N tokens, always the most likely, through end of "
                 "text\n" RUN_OPTION_HELP);
}

static enum err_code parse_args(int argc, char **argv, struct eval *v, bool *ret_help,
                                struct err *e)
{
    static const struct option table[] = {RUN_OPTION_ROWS,
                                          {"tokens", required_argument, NULL, 'T'},
                                          {"tokens-file", required_argument, NULL, 'F'},
                                          {"positions", required_argument, NULL, 'P'},
                                          {"greedy", required_argument, NULL, 'G'},
                                          {0}};
    int letter;
    while ((letter = getopt_long(argc, argv, "m:h", table, NULL)) != -1) {
        enum err_code code = ERR_OK;
        switch (letter) {
        case 'h': *ret_help = true; return ERR_OK;
        case 'T': v->tokens = optarg; break;
        case 'F': v->tokens_file = optarg; break;
        case 'P': v->positions = optarg; break;
        case 'G': code = run_number("--greedy", optarg, 0, GREEDY_MAX, &v->n_greedy, e); break;
        default: code = run_option(&v->run, letter, optarg, e);
        }
        if (code) {
            return code;
        }
    }
    if (optind < argc) {
        return err_set(e, ERR_INVALID, "\"%s\" is not an option", argv[optind]);
    }
    if (!v->tokens == !v->tokens_file) {
        return err_set(e, ERR_INVALID, "give one of --tokens and --tokens-file");
    }
    return ERR_OK;
}

static enum err_code read_ids(struct eval *v, struct err *e)
{
    if (v->tokens) {
        return run_parse_ids(v->tokens, strlen(v->tokens), &v->ids, e);
    }
    struct buf text = {0};
    enum err_code code = file_read(v->tokens_file, "", RUN_FILE_BYTES_MAX, &text, e);
    if (!code) {
        code = run_parse_ids(buf_str(&text), text.len, &v->ids, e);
    }
    buf_free(&text);
    return code;
}

static enum err_code choose_positions(struct eval *v, struct err *e)
{
    v->wanted = calloc(v->ids.n, sizeof *v->wanted);
    if (!v->wanted) {
        return err_set(e, ERR_NOMEM, "out of memory for %zu positions", v->ids.n);
    }
    const char *which = v->positions ? v->positions : "last";
    if (strcmp(which, "last") == 0) {
        v->wanted[v->ids.n - 1] = true;
        return ERR_OK;
    }
    if (strcmp(which, "all") == 0) {
        memset(v->wanted, true, v->ids.n);
        return ERR_OK;
    }
    struct eng_ids list = {0};
    enum err_code code = run_parse_ids(which, strlen(which), &list, e);
    for (size_t i = 0; i < list.n && !code; i++) {
        if ((size_t)list.ids[i] >= v->ids.n) {
            code = err_set(e, ERR_INVALID, "--positions names %d, there are %zu tokens",
                           (int)list.ids[i], v->ids.n);
        } else {
            v->wanted[list.ids[i]] = true;
        }
    }
    eng_ids_free(&list);
    return code;
}

/* The N_SHOWN most likely ids, best first, lowest id on ties. */
static void print_best(struct buf *line, const float *logits, uint32_t n)
{
    float limit = INFINITY;
    uint32_t last = 0;
    for (uint32_t k = 0; k < N_SHOWN && k < n; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < n; i++) {
            bool left = logits[i] < limit || (logits[i] == limit && i > last);
            if (left && (best == UINT32_MAX || logits[i] > logits[best])) {
                best = i;
            }
        }
        if (best == UINT32_MAX) {
            break;
        }
        buf_printf(line, "  %u %.4f", best, (double)logits[best]);
        limit = logits[best];
        last = best;
    }
}

static void print_logits(const struct eval *v, uint32_t pos, const float *logits, uint32_t n)
{
    struct buf line = {0};
    if (v->run.json) {
        buf_printf(&line, "{\"pos\":%u,\"logits\":[", pos);
        for (uint32_t i = 0; i < n; i++) {
            if (i) {
                buf_putc(&line, ',');
            }
            buf_json_f32(&line, logits[i]);
        }
        buf_puts(&line, "]}");
    } else {
        buf_printf(&line, "position %u:", pos);
        print_best(&line, logits, n);
    }
    (void)puts(buf_str(&line));
    buf_free(&line);
}

/* The prompt, in slices; prints what is wanted. *ret_best: the most likely token after the last. */
static enum err_code run_prompt(struct model_run *r, const struct eval *v,
                                const struct run_seq *seq, int32_t *ret_best, struct err *e)
{
    const struct eng_info *info = &r->g->info;
    uint32_t n_max =
        info->n_step_tok_max < info->n_step_out_max ? info->n_step_tok_max : info->n_step_out_max;
    uint32_t n_tok = (uint32_t)v->ids.n;
    for (uint32_t at = 0; at < n_tok;) {
        struct eng_slice s = {
            .tokens = v->ids.ids + at, .pos = at, .kv = seq->kv, .state = seq->state};
        s.n_tok = n_tok - at < n_max ? n_tok - at : n_max;
        bool last = at + s.n_tok == n_tok;
        while (s.out_from < s.n_tok && !v->wanted[at + s.out_from] &&
               !(last && s.out_from == s.n_tok - 1)) {
            s.out_from++;
        }
        enum err_code code = eng_step(r->g, &s, 1, e);
        if (code) {
            return code;
        }
        for (uint32_t i = s.out_from; i < s.n_tok; i++) {
            const float *logits = s.logits + (size_t)(i - s.out_from) * info->n_vocab;
            if (v->wanted[at + i]) {
                print_logits(v, at + i, logits, info->n_vocab);
            }
            *ret_best = (int32_t)run_argmax(logits, info->n_vocab);
        }
        at += s.n_tok;
    }
    return ERR_OK;
}

static enum err_code run_greedy(struct model_run *r, const struct eval *v,
                                const struct run_seq *seq, int32_t best, struct err *e)
{
    struct buf line = {0};
    buf_puts(&line, v->run.json ? "{\"greedy\":[" : "greedy:");
    enum err_code code = ERR_OK;
    for (uint32_t i = 0; i < v->n_greedy; i++) {
        buf_printf(&line, v->run.json ? "%s%d" : "%s %d", v->run.json && i ? "," : "", (int)best);
        if (i + 1 == v->n_greedy) {
            break;
        }
        struct eng_slice s = {.tokens = &best,
                              .n_tok = 1,
                              .pos = (uint32_t)v->ids.n + i,
                              .kv = seq->kv,
                              .state = seq->state};
        code = eng_step(r->g, &s, 1, e);
        if (code) {
            break;
        }
        best = (int32_t)run_argmax(s.logits, r->g->info.n_vocab);
    }
    if (!code) {
        (void)printf("%s%s\n", buf_str(&line), v->run.json ? "]}" : "");
    }
    buf_free(&line);
    return code;
}

static enum err_code evaluate(struct eval *v, struct err *e)
{
    struct model_run r = {0};
    struct run_seq seq = {0};
    int32_t best = 0;
    uint64_t n_tok = v->ids.n + (v->n_greedy ? v->n_greedy - 1 : 0);
    enum err_code code = run_open(&v->run, 1, (uint32_t)n_tok, &r, e);
    if (code) {
        return code;
    }
    if (n_tok > r.g->info.n_ctx) {
        code = err_set(e, ERR_LIMIT, "%llu tokens are more than the context of %u; see --ctx",
                       (unsigned long long)n_tok, r.g->info.n_ctx);
    }
    code = code ? code : run_seq_open(&r, (uint32_t)n_tok, &seq, e);
    code = code ? code : run_prompt(&r, v, &seq, &best, e);
    if (!code && v->n_greedy) {
        code = run_greedy(&r, v, &seq, best, e);
    }
    run_seq_close(&seq);
    run_close(&r);
    return code;
}

int cmd_eval(int argc, char **argv)
{
    struct eval v = {0};
    struct err e;
    bool help = false;
    enum err_code code = parse_args(argc, argv, &v, &help, &e);
    if (help) {
        print_usage();
        return 0;
    }
    int status = code ? 2 : 1;
    code = code ? code : read_ids(&v, &e);
    code = code ? code : choose_positions(&v, &e);
    code = code ? code : evaluate(&v, &e);
    free(v.wanted);
    eng_ids_free(&v.ids);
    if (code) {
        (void)fprintf(stderr, "kvasir eval: %s\n", e.msg);
        return status;
    }
    return 0;
}
