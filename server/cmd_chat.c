/* kvasir chat: a conversation in a terminal, the model in this process. */
#include "base/utf8.h"
#include "config/default_model.h"
#include "engine/sample.h"
#include "engine/template/value.h"
#include "server/commands.h"
#include "server/model_run.h"
#include "server/sampling.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CONTEXT_BYTES_MAX ((size_t)16 << 20)
#define ANSWER_TOK_MAX    (1u << 20)
#define CHAT_CTX_TOK      32768u /* unless --ctx says more: KV memory is taken for all of it */

struct chat_args {
    struct run_options run;
    const char *system;
    const char *sampling;
    uint32_t n_answer_tok;
    uint32_t seed;
};

struct message {
    const char *role; /* static */
    char *text;
};

struct chat_run {
    struct chat_args args;
    struct model_run model;
    struct run_seq seq;
    uint32_t n_tok_max;
    struct sample_scratch *scratch;
    struct sample_params params;
    struct message *messages;
    size_t n_message;
    struct eng_ids in_kv; /* what the sequence's KV holds */
    bool terminal;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

static void print_usage(void)
{
    (void)printf("usage: kvasir chat [OPTIONS]\n\n"
                 "A conversation on the terminal: a line is a message, an answer is printed as it "
                 "comes.\nCtrl-C ends an answer, /new forgets the conversation, /quit or Ctrl-D "
                 "leaves.\nWithout --model the model that comes with Kvasir answers.\n\n"
                 "  --system TEXT       what the model is told first\n"
                 "  --sampling SPEC     model, openai, or values such as temperature=0.7,top_k=20\n"
                 "                      (default: model)\n"
                 "  --max-tokens N      longest answer (default: what the context has room for)\n"
                 "  --seed N            of the draws (default: by the clock)\n" RUN_OPTION_HELP);
}

static enum err_code parse_args(int argc, char **argv, struct chat_args *a, bool *ret_help,
                                struct err *e)
{
    static const struct option table[] = {RUN_OPTION_ROWS,
                                          {"system", required_argument, NULL, 'S'},
                                          {"sampling", required_argument, NULL, 'P'},
                                          {"max-tokens", required_argument, NULL, 'M'},
                                          {"seed", required_argument, NULL, 'D'},
                                          {0}};
    int letter;
    while ((letter = getopt_long(argc, argv, "m:h", table, NULL)) != -1) {
        enum err_code code = ERR_OK;
        switch (letter) {
        case 'h': *ret_help = true; return ERR_OK;
        case 'S': a->system = optarg; break;
        case 'P': a->sampling = optarg; break;
        case 'M':
            code = run_number("--max-tokens", optarg, 1, ANSWER_TOK_MAX, &a->n_answer_tok, e);
            break;
        case 'D': code = run_number("--seed", optarg, 0, UINT32_MAX, &a->seed, e); break;
        default: code = run_option(&a->run, letter, optarg, e);
        }
        if (code) {
            return code;
        }
    }
    if (optind < argc) {
        return err_set(e, ERR_INVALID, "\"%s\" is not an option", argv[optind]);
    }
    return ERR_OK;
}

/* ---- the conversation */

static enum err_code add_message(struct chat_run *c, const char *role, const char *text, size_t n,
                                 struct err *e)
{
    char *copy = strndup(text, n);
    struct message *grown = realloc(c->messages, (c->n_message + 1) * sizeof *grown);
    if (grown) {
        c->messages = grown;
    }
    if (!copy || !grown) {
        free(copy);
        return err_set(e, ERR_NOMEM, "out of memory for a message");
    }
    c->messages[c->n_message++] = (struct message){role, copy};
    return ERR_OK;
}

static void drop_messages(struct chat_run *c, size_t keep)
{
    while (c->n_message > keep) {
        free(c->messages[--c->n_message].text);
    }
}

static enum err_code start_over(struct chat_run *c, struct err *e)
{
    drop_messages(c, 0);
    const char *system = c->args.system;
    return system ? add_message(c, "system", system, strlen(system), e) : ERR_OK;
}

static bool fill_context(const struct chat_run *c, struct tmpl_arena *a, struct tmpl_value *context)
{
    struct tmpl_value *list = tmpl_list(a);
    for (size_t i = 0; i < c->n_message; i++) {
        const struct message *m = &c->messages[i];
        struct tmpl_value *map = tmpl_map(a);
        if (!map || !tmpl_map_set(a, map, "role", 4, tmpl_string(a, m->role, strlen(m->role))) ||
            !tmpl_map_set(a, map, "content", 7, tmpl_string(a, m->text, strlen(m->text))) ||
            !tmpl_list_add(a, list, map)) {
            return false;
        }
    }
    return list && tmpl_map_set(a, context, "messages", 8, list) &&
           tmpl_map_set(a, context, "add_generation_prompt", 21, tmpl_bool(a, true));
}

/* The prompt of the conversation so far, as ids. */
static enum err_code make_prompt(const struct chat_run *c, struct eng_ids *out, struct err *e)
{
    struct eng *g = c->model.g;
    struct tmpl_arena *arena = NULL;
    struct buf text = {0};
    enum err_code code = tmpl_arena_create(CONTEXT_BYTES_MAX, &arena, e);
    if (code) {
        return code;
    }
    struct tmpl_value *context = tmpl_map(arena);
    if (!context || !fill_context(c, arena, context)) {
        code = err_set(e, ERR_LIMIT, "the conversation is too long");
    }
    if (!code) {
        code = eng_render_chat(g, context, &text, e);
    }
    if (!code) {
        code = eng_tokenize(g, buf_str(&text), text.len,
                            ENG_TOKENIZE_ADD_SPECIAL | ENG_TOKENIZE_PARSE_SPECIAL, out, e);
    }
    buf_free(&text);
    tmpl_arena_destroy(arena);
    return code;
}

/* ---- the model */

/* Brings the KV to hold `ids`; what it holds of them already is kept, but for models with a state.
 * *ret_logits: of the last one. */
static enum err_code advance(struct chat_run *c, const struct eng_ids *ids, float **ret_logits,
                             struct err *e)
{
    struct eng *g = c->model.g;
    size_t at = 0;
    while (!g->info.state_bytes && at + 1 < ids->n && at < c->in_kv.n &&
           c->in_kv.ids[at] == ids->ids[at]) {
        at++;
    }
    c->in_kv.n = at;
    while (at < ids->n) {
        size_t left = ids->n - at;
        uint32_t n = left < g->info.n_step_tok_max ? (uint32_t)left : g->info.n_step_tok_max;
        struct eng_slice s = {.tokens = ids->ids + at,
                              .n_tok = n,
                              .pos = (uint32_t)at,
                              .kv = c->seq.kv,
                              .state = c->seq.state,
                              .out_from = n == left ? n - 1 : n};
        enum err_code code = eng_step(g, &s, 1, e);
        for (uint32_t i = 0; i < n && !code; i++) {
            code = eng_ids_push(&c->in_kv, ids->ids[at + i], e);
        }
        if (code) {
            return code;
        }
        *ret_logits = s.logits;
        at += n;
    }
    return ERR_OK;
}

static enum err_code step_one(struct chat_run *c, int32_t id, float **ret_logits, struct err *e)
{
    struct eng_slice s = {.tokens = &id,
                          .n_tok = 1,
                          .pos = (uint32_t)c->in_kv.n,
                          .kv = c->seq.kv,
                          .state = c->seq.state};
    enum err_code code = eng_step(c->model.g, &s, 1, e);
    *ret_logits = s.logits;
    return code ? code : eng_ids_push(&c->in_kv, id, e);
}

/* Prints what of the answer is whole characters by now; returns how far that is. */
static size_t print_answer(const struct buf *answer, size_t from, bool last)
{
    size_t n = answer->len - from;
    size_t held = last ? 0 : utf8_incomplete_tail(buf_str(answer) + from, n);
    (void)fwrite(buf_str(answer) + from, 1, n - held, stdout);
    (void)fflush(stdout);
    return answer->len - held;
}

/* Draws tokens until the model, the user or the room ends it. */
static enum err_code draw_answer(struct chat_run *c, const struct eng_ids *prompt, float *logits,
                                 struct sample_state *seen, struct buf *answer, struct err *e)
{
    struct eng *g = c->model.g;
    struct eng_detok detok = {0};
    size_t shown = 0;
    uint32_t room = c->n_tok_max - (uint32_t)prompt->n;
    uint32_t most =
        c->args.n_answer_tok && c->args.n_answer_tok < room ? c->args.n_answer_tok : room;
    enum err_code code = ERR_OK;
    for (uint32_t i = 0; i < most && !interrupted; i++) {
        struct sample_result r;
        sample_pick(&c->params, seen, c->scratch, logits, (uint32_t)c->in_kv.n, &r);
        if (eng_is_eog(g, r.id)) {
            break;
        }
        sample_state_accept(seen, r.id, true);
        eng_detokenize(g, &detok, r.id, false, answer);
        shown = print_answer(answer, shown, false);
        if (i + 1 < most) {
            code = step_one(c, r.id, &logits, e);
        }
        if (code) {
            break;
        }
    }
    (void)print_answer(answer, shown, true);
    (void)puts("");
    return code;
}

static enum err_code answer_turn(struct chat_run *c, struct err *e)
{
    struct eng_ids prompt = {0};
    struct buf answer = {0};
    struct sample_state *seen = NULL;
    float *logits = NULL;
    interrupted = 0;
    enum err_code code = make_prompt(c, &prompt, e);
    if (!code && prompt.n >= c->n_tok_max) {
        code = err_set(e, ERR_LIMIT, "the conversation has %zu tokens, there is room for %u: /new",
                       prompt.n, c->n_tok_max);
    }
    if (!code && sample_needs_state(&c->params)) {
        code = sample_state_create(c->model.g->info.n_vocab, c->n_tok_max, &seen, e);
    }
    for (size_t i = 0; i < prompt.n && !code; i++) {
        sample_state_accept(seen, prompt.ids[i], false);
    }
    if (!code) {
        code = advance(c, &prompt, &logits, e);
    }
    if (!code) {
        code = draw_answer(c, &prompt, logits, seen, &answer, e);
    }
    if (!code) {
        code = add_message(c, "assistant", buf_str(&answer), answer.len, e);
    }
    sample_state_destroy(seen);
    buf_free(&answer);
    eng_ids_free(&prompt);
    return code;
}

/* ---- the terminal */

/* False at the end of input. Ctrl-C at the prompt leaves too. */
static bool read_line(const struct chat_run *c, char **line, size_t *cap, ssize_t *ret_n)
{
    if (c->terminal) {
        (void)fputs("> ", stdout);
        (void)fflush(stdout);
    }
    errno = 0;
    ssize_t n = getline(line, cap, stdin);
    while (n > 0 && ((*line)[n - 1] == '\n' || (*line)[n - 1] == '\r')) {
        (*line)[--n] = '\0';
    }
    *ret_n = n;
    return n >= 0;
}

static enum err_code converse(struct chat_run *c, struct err *e)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    enum err_code code = start_over(c, e);
    while (!code && read_line(c, &line, &cap, &n)) {
        if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) {
            break;
        }
        if (strcmp(line, "/new") == 0) {
            code = start_over(c, e);
            continue;
        }
        if (n == 0) {
            continue;
        }
        size_t before = c->n_message;
        code = add_message(c, "user", line, (size_t)n, e);
        if (!code) {
            code = answer_turn(c, e);
        }
        if (code == ERR_LIMIT || code == ERR_INVALID) { /* of this message alone */
            (void)fprintf(stderr, "kvasir chat: %s\n", e->msg);
            drop_messages(c, before);
            code = ERR_OK;
        }
    }
    free(line);
    return code;
}

static void use_sampling(struct chat_run *c, const struct srv_sampling *s)
{
    c->params = (struct sample_params){
        .temperature = (float)s->temperature,
        .top_k = s->top_k > 0 ? (uint32_t)s->top_k : 0,
        .top_p = (float)s->top_p,
        .min_p = (float)s->min_p,
        .repetition_penalty = (float)s->repetition_penalty,
        .seed = c->args.seed ? c->args.seed : (uint64_t)time(NULL),
    };
}

static enum err_code open_all(struct chat_run *c, struct err *e)
{
    struct srv_sampling sampling;
    uint32_t n_ctx = c->args.run.n_ctx ? c->args.run.n_ctx : CHAT_CTX_TOK;
    enum err_code code = run_open(&c->args.run, 1, n_ctx, &c->model, e);
    if (code) {
        return code;
    }
    const struct eng_info *info = &c->model.g->info;
    if (info->encoder) {
        return err_set(e, ERR_INVALID, "%s makes vectors of texts; it does not answer", info->name);
    }
    c->n_tok_max = n_ctx < info->n_ctx ? n_ctx : info->n_ctx;
    code = srv_sampling_make(c->args.sampling ? c->args.sampling : "model", &info->sampling,
                             &sampling, e);
    if (!code) {
        use_sampling(c, &sampling);
        code = run_seq_open(&c->model, c->n_tok_max, &c->seq, e);
    }
    return code ? code : sample_scratch_create(info->n_vocab, &c->scratch, e);
}

int cmd_chat(int argc, char **argv)
{
    struct chat_run c = {.terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
    struct err e = {0};
    struct buf path = {0};
    bool help = false;
    enum err_code code = parse_args(argc, argv, &c.args, &help, &e);
    if (help) {
        print_usage();
        return 0;
    }
    if (!code && !c.args.run.model) {
        code = cfg_default_model(NULL, &path, &e);
        c.args.run.model = path.data;
    }
    int status = code ? 2 : 0;
    if (!code) {
        code = open_all(&c, &e);
    }
    if (!code) {
        struct sigaction act = {.sa_handler = on_interrupt, .sa_flags = 0};
        (void)sigemptyset(&act.sa_mask);
        (void)sigaction(SIGINT, &act, NULL);
        if (c.terminal) {
            (void)printf("%s. Ctrl-C ends an answer, /new a conversation, Ctrl-D the chat.\n",
                         c.model.g->info.name);
        }
        code = converse(&c, &e);
    }
    if (code) {
        (void)fprintf(stderr, "kvasir chat: %s\n", e.msg);
        status = status ? status : 1;
    }
    drop_messages(&c, 0);
    free(c.messages);
    eng_ids_free(&c.in_kv);
    sample_scratch_destroy(c.scratch);
    run_seq_close(&c.seq);
    run_close(&c.model);
    buf_free(&path);
    return status;
}
