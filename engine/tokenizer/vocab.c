#include "engine/tokenizer/vocab_impl.h"

#include "base/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS_MAX (1u << 26)

size_t spm_unescape(const char *text, size_t n, char *out)
{
    size_t len = 0;
    for (size_t i = 0; i < n; len++) {
        if (n - i >= LOWER_BLOCK_N && memcmp(text + i, LOWER_BLOCK, LOWER_BLOCK_N) == 0) {
            out[len] = ' ';
            i += LOWER_BLOCK_N;
        } else {
            out[len] = text[i++];
        }
    }
    return len;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    int low = c | 0x20;
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

int spm_byte(const char *text, size_t n)
{
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') {
        return -1;
    }
    int hi = hex_digit(text[3]);
    int lo = hex_digit(text[4]);
    return hi < 0 || lo < 0 ? -1 : hi << 4 | lo;
}

static char *copy_str(struct gguf_str s)
{
    char *c = malloc(s.n + 1);
    if (c) {
        memcpy(c, s.s, s.n);
        c[s.n] = 0;
    }
    return c;
}

static enum err_code load_names(struct vocab *v, const struct gguf *f, struct err *e)
{
    static const struct {
        const char *model;
        enum vocab_kind kind;
    } kinds[] = {{"llama", VOCAB_SPM}, {"gpt2", VOCAB_BPE}, {"gemma4", VOCAB_BPE},
                 {"bert", VOCAB_WPM},  {"t5", VOCAB_UGM},   {"no_vocab", VOCAB_NONE},
                 {"none", VOCAB_NONE}};
    struct gguf_str model;
    struct gguf_str pre = {.s = ""};
    if (!gguf_get_str(f, "tokenizer.ggml.model", &model)) {
        return err_set(e, ERR_CORRUPT, "tokenizer.ggml.model is missing");
    }
    (void)gguf_get_str(f, "tokenizer.ggml.pre", &pre);
    v->model_name = copy_str(model);
    v->pre_name = copy_str(pre);
    if (!v->model_name || !v->pre_name) {
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    }
    v->facts.model = v->model_name;
    v->facts.pre = v->pre_name;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].model, v->model_name) == 0) {
            v->facts.kind = kinds[i].kind;
            return ERR_OK;
        }
    }
    return err_set(e, ERR_UNSUPPORTED, "tokenizer.ggml.model: unknown tokenizer '%s'",
                   v->model_name);
}

/* The lists that run beside tokenizer.ggml.tokens. */
struct lists {
    struct gguf_array tokens;
    struct gguf_array types;
    struct gguf_array scores;
    bool has_types;
    bool has_scores;
};

static enum err_code check_list(const struct gguf_array *a, const char *key, uint64_t n_token,
                                struct err *e)
{
    if (a->type == GGUF_STRING || a->type == GGUF_BOOL) {
        return err_set(e, ERR_CORRUPT, "%s is no list of numbers", key);
    }
    if (a->n < n_token) {
        return err_set(e, ERR_CORRUPT, "%s has %llu entries for %llu tokens", key,
                       (unsigned long long)a->n, (unsigned long long)n_token);
    }
    return ERR_OK;
}

static enum err_code find_lists(const struct vocab *v, const struct gguf *f, struct lists *l,
                                struct err *e)
{
    *l = (struct lists){0};
    if (!gguf_get_array(f, "tokenizer.ggml.tokens", &l->tokens) || l->tokens.type != GGUF_STRING) {
        return err_set(e, ERR_CORRUPT, "tokenizer.ggml.tokens is missing or no list of strings");
    }
    if (l->tokens.n == 0 || l->tokens.n > TOKENS_MAX) {
        return err_set(e, ERR_CORRUPT, "tokenizer.ggml.tokens has %llu entries",
                       (unsigned long long)l->tokens.n);
    }
    enum err_code rc = ERR_OK;
    l->has_types = gguf_get_array(f, "tokenizer.ggml.token_type", &l->types);
    if (l->has_types) {
        rc = check_list(&l->types, "tokenizer.ggml.token_type", l->tokens.n, e);
    }
    bool scored = v->facts.kind == VOCAB_SPM || v->facts.kind == VOCAB_UGM;
    l->has_scores = scored && gguf_get_array(f, "tokenizer.ggml.scores", &l->scores);
    if (!rc && l->has_scores) {
        rc = check_list(&l->scores, "tokenizer.ggml.scores", l->tokens.n, e);
    } else if (!rc && scored) {
        rc = err_set(e, ERR_CORRUPT, "tokenizer.ggml.scores is missing");
    }
    return rc;
}

/* The bytes token i stands for, written to out (room for its text); sets MARK_APART. */
static size_t make_piece(struct vocab *v, uint32_t i, char *out)
{
    const struct span *t = &v->text[i];
    bool plain = v->type[i] == VOCAB_CONTROL || v->type[i] == VOCAB_UNKNOWN;
    bool spaces = v->facts.kind != VOCAB_BPE || v->traits.spaces;
    size_t n = SIZE_MAX;
    if (v->type[i] == VOCAB_BYTE && spaces) {
        int b = spm_byte(t->s, t->n);
        if (b >= 0) {
            out[0] = (char)b;
            return 1;
        }
    }
    if (!plain && spaces) {
        v->mark[i] |= memchr(t->s, ' ', t->n) ? MARK_APART : 0;
        return spm_unescape(t->s, t->n, out);
    }
    if (!plain && v->type[i] != VOCAB_USER_DEFINED) {
        n = bpe_decode(t->s, t->n, out);
        v->mark[i] |= n == SIZE_MAX ? MARK_APART : 0;
    }
    if (n == SIZE_MAX) {
        memcpy(out, t->s, t->n);
        n = t->n;
    }
    return n;
}

static enum err_code load_type_and_score(struct vocab *v, const struct lists *l, uint32_t i,
                                         struct err *e)
{
    int64_t type = l->has_types ? gguf_array_i64(&l->types, i) : VOCAB_NORMAL;
    if (!l->has_types && v->facts.kind == VOCAB_SPM && spm_byte(v->text[i].s, v->text[i].n) >= 0) {
        type = VOCAB_BYTE;
    }
    v->type[i] = type >= 0 && type <= VOCAB_BYTE ? (uint8_t)type : VOCAB_UNDEFINED;
    if (l->has_scores) {
        v->score[i] = (float)gguf_array_f64(&l->scores, i);
        if (isnan(v->score[i])) {
            return err_set(e, ERR_CORRUPT, "tokenizer.ggml.scores: entry %u is no number", i);
        }
    }
    return ERR_OK;
}

static enum err_code load_tokens(struct vocab *v, const struct lists *l, struct err *e)
{
    uint32_t n = (uint32_t)l->tokens.n;
    uint64_t n_byte = 0;
    for (uint32_t i = 0; i < n; i++) {
        n_byte += l->tokens.strings[i].n;
    }
    if (n_byte >= UINT32_MAX / 2) {
        return err_set(e, ERR_LIMIT, "tokenizer.ggml.tokens holds %llu bytes",
                       (unsigned long long)n_byte);
    }
    v->facts.n_token = n;
    v->bytes = malloc((size_t)n_byte * 2 + 1);
    v->text = malloc(n * sizeof *v->text);
    v->piece = malloc(n * sizeof *v->piece);
    v->type = calloc(n, 1);
    v->mark = calloc(n, 1);
    v->score = l->has_scores ? malloc(n * sizeof *v->score) : NULL;
    if (!v->bytes || !v->text || !v->piece || !v->type || !v->mark ||
        (l->has_scores && !v->score)) {
        return err_set(e, ERR_NOMEM, "out of memory for %u tokens", n);
    }
    char *at = v->bytes;
    enum err_code rc = ERR_OK;
    for (uint32_t i = 0; i < n && !rc; i++) {
        const struct gguf_str *s = &l->tokens.strings[i];
        memcpy(at, s->s, s->n);
        v->text[i] = (struct span){.s = at, .n = (uint32_t)s->n};
        at += s->n;
        rc = load_type_and_score(v, l, i, e);
    }
    rc = rc ? rc : strtab_init(&v->by_text, n, v->text, e);
    for (uint32_t i = 0; i < n && !rc; i++) {
        rc = v->text[i].n ? strtab_put(&v->by_text, i, NULL, e) : ERR_OK;
    }
    return rc;
}

static void make_pieces(struct vocab *v)
{
    uint32_t n = v->facts.n_token;
    char *at = n ? (char *)v->text[n - 1].s + v->text[n - 1].n : v->bytes;
    for (uint32_t i = 0; i < n; i++) {
        v->piece[i] = (struct span){.s = at, .n = (uint32_t)make_piece(v, i, at)};
        at += v->piece[i].n;
    }
}

static enum err_code load_pre(struct vocab *v, const struct gguf *f, struct err *e)
{
    const char *name = v->pre_name;
    struct gguf_str pre;
    if (strcmp(v->model_name, "gemma4") == 0) {
        name = "gemma4";
    } else if (!gguf_get_str(f, "tokenizer.ggml.pre", &pre)) {
        log_warn("tokenizer.ggml.pre is missing: text is split by the rule of files older than "
                 "that key, which may not be this model's");
    } else if (!*name) {
        name = "(empty)";
    }
    return pretok_create(name, &v->pretok, &v->traits, e);
}

static enum err_code load_special(struct vocab *v, struct err *e)
{
    uint32_t n = v->facts.n_token;
    int32_t *ids = malloc(n * sizeof *ids);
    if (!ids) {
        return err_set(e, ERR_NOMEM, "out of memory for the added tokens");
    }
    enum err_code rc = ERR_OK;
    for (int control = 0; control < 2 && !rc; control++) {
        size_t k = 0;
        for (uint32_t i = 0; i < n; i++) {
            bool is_control = v->type[i] == VOCAB_CONTROL || v->type[i] == VOCAB_UNKNOWN;
            if (v->type[i] == VOCAB_USER_DEFINED || (control && is_control)) {
                ids[k++] = (int32_t)i;
            }
        }
        rc = special_init(control ? &v->all : &v->plain, v->text, ids, k, e);
    }
    free(ids);
    return rc;
}

static enum err_code load_none(struct vocab *v, const struct gguf *f, struct err *e)
{
    struct gguf_str arch = {.s = ""};
    char key[128];
    uint64_t n = 0;
    (void)gguf_get_str(f, "general.architecture", &arch);
    (void)snprintf(key, sizeof key, "%.*s.vocab_size", (int)(arch.n < 100 ? arch.n : 100), arch.s);
    if (gguf_get_u64(f, key, &n) && n > TOKENS_MAX) {
        return err_set(e, ERR_CORRUPT, "%s is %llu", key, (unsigned long long)n);
    }
    v->facts.n_token = (uint32_t)n;
    return ERR_OK;
}

static enum err_code load_kind(struct vocab *v, const struct gguf *f, struct err *e)
{
    switch (v->facts.kind) {
    case VOCAB_SPM: return vocab_load_spm(v, e);
    case VOCAB_BPE: return vocab_load_merges(v, f, e);
    case VOCAB_WPM: return wpm_create(v, f, &v->wpm, e);
    case VOCAB_UGM: return ugm_create(v, f, &v->ugm, e);
    case VOCAB_NONE: break;
    }
    return ERR_OK;
}

enum err_code vocab_load(const struct gguf *f, struct vocab **ret_v, struct err *e)
{
    struct vocab *v = calloc(1, sizeof *v);
    if (!v) {
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    }
    struct lists lists;
    enum err_code rc = load_names(v, f, e);
    if (rc || v->facts.kind == VOCAB_NONE) {
        rc = rc ? rc : load_none(v, f, e);
        rc = rc ? rc : vocab_load_ids(v, f, e);
        goto out;
    }
    rc = find_lists(v, f, &lists, e);
    rc = rc || v->facts.kind != VOCAB_BPE ? rc : load_pre(v, f, e);
    rc = rc ? rc : load_tokens(v, &lists, e);
    rc = rc ? rc : vocab_load_ids(v, f, e);
    if (!rc) {
        vocab_mark_eog(v);
        vocab_mark_strip(v, f);
        make_pieces(v);
    }
    rc = rc ? rc : load_special(v, e);
    rc = rc ? rc : load_kind(v, f, e);
out:
    if (rc) {
        vocab_destroy(v);
        return rc;
    }
    *ret_v = v;
    return ERR_OK;
}

void vocab_destroy(struct vocab *v)
{
    if (!v) {
        return;
    }
    merge_finish(&v->merges);
    pretok_destroy(v->pretok);
    wpm_destroy(v->wpm);
    ugm_destroy(v->ugm);
    special_finish(&v->plain);
    special_finish(&v->all);
    strtab_finish(&v->by_text);
    free(v->model_name);
    free(v->pre_name);
    free(v->bytes);
    free(v->text);
    free(v->piece);
    free(v->type);
    free(v->mark);
    free(v->score);
    free(v);
}

const struct vocab_facts *vocab_facts(const struct vocab *v)
{
    return &v->facts;
}

uint32_t vocab_n(const struct vocab *v)
{
    return v->facts.n_token;
}

/* Whether id has entries in the lists. */
static bool listed(const struct vocab *v, int32_t id)
{
    return v->text && id >= 0 && (uint32_t)id < v->facts.n_token;
}

bool vocab_is_eog(const struct vocab *v, int32_t id)
{
    return listed(v, id) ? (v->mark[id] & MARK_EOG) != 0
                         : id != ENG_TOKEN_NONE && id == v->facts.eos;
}

enum vocab_type vocab_type(const struct vocab *v, int32_t id)
{
    return listed(v, id) ? (enum vocab_type)v->type[id] : VOCAB_UNDEFINED;
}

static struct gguf_str as_str(const struct span *s)
{
    return (struct gguf_str){.s = s->s, .n = s->n};
}

struct gguf_str vocab_text(const struct vocab *v, int32_t id)
{
    return listed(v, id) ? as_str(&v->text[id]) : (struct gguf_str){.s = ""};
}

struct gguf_str vocab_piece(const struct vocab *v, int32_t id)
{
    return listed(v, id) ? as_str(&v->piece[id]) : (struct gguf_str){.s = ""};
}

int32_t vocab_find(const struct vocab *v, const char *text, size_t n)
{
    uint32_t id = v->text && n ? strtab_get(&v->by_text, text, n) : STRTAB_NONE;
    return id == STRTAB_NONE ? ENG_TOKEN_NONE : (int32_t)id;
}
