#define PCRE2_CODE_UNIT_WIDTH 8

#include "engine/tokenizer/pretok.h"

#include "engine/tokenizer/pretok_names.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

struct stage {
    struct split_rule rule;
    pcre2_code *code; /* NULL: rule */
};

struct pretok {
    struct stage stages[PRETOK_STAGES_MAX + 1];
    size_t n_stage;
};

/* One pass over a text. */
struct pass {
    const struct pretok *p;
    pcre2_match_data *match[PRETOK_STAGES_MAX + 1];
    pretok_emit *emit;
    void *arg;
    struct err *e;
};

static bool has_name(const char *names, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = names; *at;) {
        const char *end = strchr(at, ' ');
        if ((size_t)(end - at) == n && memcmp(at, name, n) == 0) {
            return true;
        }
        at = end + 1;
    }
    return false;
}

static enum err_code compile(struct stage *s, const char *regex, struct err *e)
{
    int code = 0;
    PCRE2_SIZE at = 0;
    s->code = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code,
                            &at, NULL);
    if (!s->code) {
        char text[120] = "";
        (void)pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        return err_set(e, ERR_INTERNAL, "pre-tokenizer expression, offset %zu: %s", (size_t)at,
                       text);
    }
    /* Without JIT (forbidden by some systems) the interpreter gives the same matches. */
    (void)pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE);
    return ERR_OK;
}

static enum err_code create(struct pretok **ret_p, struct err *e)
{
    struct pretok *p = calloc(1, sizeof *p);
    if (!p) {
        return err_set(e, ERR_NOMEM, "out of memory for a pre-tokenizer");
    }
    *ret_p = p;
    return ERR_OK;
}

enum err_code pretok_create(const char *name, struct pretok **ret_p, struct pretok_traits *ret_t,
                            struct err *e)
{
    const struct pretok_spec *spec = NULL;
    for (size_t i = 0; i < pretok_n_spec && !spec; i++) {
        spec = has_name(pretok_specs[i].names, name) ? &pretok_specs[i] : NULL;
    }
    if (!spec) {
        return err_set(e, ERR_UNSUPPORTED, "tokenizer.ggml.pre: unknown pre-tokenizer '%s'", name);
    }
    struct pretok *p = NULL;
    enum err_code rc = create(&p, e);
    for (size_t i = 0; !rc && i < PRETOK_STAGES_MAX; i++) {
        if (spec->stages[i].rule) {
            p->stages[p->n_stage++].rule = *spec->stages[i].rule;
        } else if (spec->stages[i].regex) {
            rc = compile(&p->stages[p->n_stage++], spec->stages[i].regex, e);
        }
    }
    if (rc) {
        pretok_destroy(p);
        return rc;
    }
    *ret_p = p;
    *ret_t = spec->traits;
    return ERR_OK;
}

enum err_code pretok_create_rule(const struct split_rule *rule, struct pretok **ret_p,
                                 struct err *e)
{
    enum err_code rc = create(ret_p, e);
    return !rc && rule ? pretok_add_rule(*ret_p, rule, e) : rc;
}

enum err_code pretok_add_rule(struct pretok *p, const struct split_rule *rule, struct err *e)
{
    if (p->n_stage > PRETOK_STAGES_MAX) {
        return err_set(e, ERR_INTERNAL, "too many pre-tokenizer stages");
    }
    p->stages[p->n_stage++].rule = *rule;
    return ERR_OK;
}

void pretok_destroy(struct pretok *p)
{
    if (!p) {
        return;
    }
    for (size_t i = 0; i < p->n_stage; i++) {
        pcre2_code_free(p->stages[i].code);
    }
    free(p);
}

static enum err_code run_stage(struct pass *pass, size_t k, const char *s, size_t n);

static enum err_code run_rule(struct pass *pass, size_t k, const char *s, size_t n)
{
    const struct split_rule *rule = &pass->p->stages[k].rule;
    bool last = k + 1 == pass->p->n_stage;
    struct split_memo memo = {0};
    enum err_code rc = ERR_OK;
    while (n && !rc) {
        size_t len = split_next(rule, &memo, s, n);
        rc = last ? pass->emit(pass->arg, s, len, pass->e) : run_stage(pass, k + 1, s, len);
        s += len;
        n -= len;
    }
    return rc;
}

static enum err_code run_regex(struct pass *pass, size_t k, const char *s, size_t n)
{
    const pcre2_code *code = pass->p->stages[k].code;
    if (!pass->match[k]) {
        pass->match[k] = pcre2_match_data_create(1, NULL);
        if (!pass->match[k]) {
            return err_set(pass->e, ERR_NOMEM, "out of memory for a pre-tokenizer");
        }
    }
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(pass->match[k]);
    size_t done = 0;
    enum err_code rc = ERR_OK;
    while (done < n && !rc) {
        int m = pcre2_match(code, (PCRE2_SPTR)s, n, done, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
                            pass->match[k], NULL);
        if (m < 0 && m != PCRE2_ERROR_NOMATCH) {
            return err_set(pass->e, ERR_LIMIT, "the text is too hard to split: PCRE2 error %d", m);
        }
        size_t from = m < 0 ? n : at[0];
        size_t to = m < 0 ? n : at[1];
        if (from > done) {
            rc = run_stage(pass, k + 1, s + done, from - done);
        }
        if (to > from && !rc) {
            rc = run_stage(pass, k + 1, s + from, to - from);
        }
        done = to;
    }
    return rc;
}

static enum err_code run_stage(struct pass *pass, size_t k, const char *s, size_t n)
{
    if (k == pass->p->n_stage) {
        return pass->emit(pass->arg, s, n, pass->e);
    }
    return pass->p->stages[k].code ? run_regex(pass, k, s, n) : run_rule(pass, k, s, n);
}

enum err_code pretok_run(const struct pretok *p, const char *text, size_t n, pretok_emit *emit,
                         void *arg, struct err *e)
{
    struct pass pass = {.p = p, .emit = emit, .arg = arg, .e = e};
    enum err_code rc = n ? run_stage(&pass, 0, text, n) : ERR_OK;
    for (size_t i = 0; i < p->n_stage; i++) {
        pcre2_match_data_free(pass.match[i]);
    }
    return rc;
}
