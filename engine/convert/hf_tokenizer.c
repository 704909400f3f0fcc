/* tokenizer.json to tokenizer.* keys: BPE on bytes (GPT-2's way, with its pre-tokenizer told by its
 * expression) and SentencePiece's BPE with byte fallback. */
#include "base/file.h"
#include "engine/convert/hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEMPLATE_BYTES_MAX ((size_t)1 << 20)

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

struct vocab {
    struct gguf_str *tokens; /* [n], in the JSON or in names */
    float *scores;
    int32_t *types; /* 0: not there yet */
    char (*names)[24];
    uint64_t n;
};

/* ---- tokens ---- */

static enum err_code alloc_vocab(struct vocab *v, uint64_t n, struct err *e)
{
    v->n = n;
    v->tokens = calloc(n, sizeof *v->tokens);
    v->scores = calloc(n, sizeof *v->scores);
    v->types = calloc(n, sizeof *v->types);
    v->names = calloc(n, sizeof *v->names);
    return v->tokens && v->scores && v->types && v->names
               ? ERR_OK
               : err_set(e, ERR_NOMEM, "out of memory for a vocabulary");
}

static void free_vocab(struct vocab *v)
{
    free(v->tokens);
    free(v->scores);
    free(v->types);
    free(v->names);
}

static enum err_code put_token(struct vocab *v, double id, const char *text, int32_t type,
                               struct err *e)
{
    if (!text || !(id >= 0) || id >= (double)v->n || id != (double)(uint64_t)id) {
        return err_set(e, ERR_CORRUPT,
                       "tokenizer.json: token \"%.60s\" has the id %g, the embedding %llu rows",
                       text ? text : "", id, (unsigned long long)v->n);
    }
    uint64_t i = (uint64_t)id;
    v->tokens[i] = (struct gguf_str){text, strlen(text)};
    v->types[i] = type;
    return ERR_OK;
}

static bool is_byte_name(const char *s)
{
    return strlen(s) == 6 && strncmp(s, "<0x", 3) == 0 && s[5] == '>';
}

static enum err_code read_vocab(const struct hf *h, struct vocab *v, bool bytes, struct err *e)
{
    const cJSON *model = json_get(h->tokenizer, "model");
    const char *unk = json_str(model, "unk_token", NULL);
    const cJSON *item;
    enum err_code rc = ERR_OK;
    cJSON_ArrayForEach(item, json_get(model, "vocab"))
    {
        if (!rc && (!cJSON_IsNumber(item) || !item->string)) {
            rc = err_set(e, ERR_CORRUPT, "tokenizer.json: model.vocab must map tokens to numbers");
        }
        int32_t type = unk && !rc && strcmp(item->string, unk) == 0 ? UNKNOWN
                       : bytes && !rc && is_byte_name(item->string) ? BYTE
                                                                    : NORMAL;
        rc = rc ? rc : put_token(v, item->valuedouble, item->string, type, e);
    }
    cJSON_ArrayForEach(item, json_get(h->tokenizer, "added_tokens"))
    {
        const char *text = json_str(item, "content", NULL);
        double id = json_num(item, "id", -1);
        bool known = id >= 0 && id < (double)v->n && v->types[(uint64_t)id] == UNKNOWN;
        rc = rc ? rc
                : put_token(v, id, text,
                            known                               ? UNKNOWN
                            : json_flag(item, "special", false) ? CONTROL
                                                                : USER_DEFINED,
                            e);
    }
    for (uint64_t i = 0; i < v->n; i++) { /* rows that the embedding has more */
        if (!v->types[i]) {
            int n = snprintf(v->names[i], sizeof v->names[i], "[PAD%llu]", (unsigned long long)i);
            v->tokens[i] = (struct gguf_str){v->names[i], (size_t)n};
            v->types[i] = UNUSED;
        }
    }
    return rc;
}

/* ---- merges ---- */

/* "a b", from either of the two forms; out is cleared first. */
static bool merge_text(const cJSON *item, struct buf *out, const char **ret_space)
{
    buf_clear(out);
    if (cJSON_IsString(item)) {
        buf_puts(out, item->valuestring);
    } else {
        const char *a = cJSON_GetStringValue(cJSON_GetArrayItem(item, 0));
        const char *b = cJSON_GetStringValue(cJSON_GetArrayItem(item, 1));
        if (cJSON_GetArraySize(item) != 2 || !a || !b) {
            return false;
        }
        buf_printf(out, "%s %s", a, b);
    }
    *ret_space = buf_ok(out) && out->len ? strchr(buf_str(out), ' ') : NULL;
    return *ret_space && (*ret_space)[1] && !strchr(*ret_space + 1, ' ');
}

static enum err_code put_merges(struct hf *h, struct err *e)
{
    const cJSON *list = json_get(json_get(h->tokenizer, "model"), "merges");
    size_t n = (size_t)cJSON_GetArraySize(list);
    struct gguf_str *merges = calloc(n + 1, sizeof *merges);
    struct buf all = {0};
    struct buf one = {0};
    size_t *at = calloc(n + 1, sizeof *at);
    enum err_code rc =
        merges && at ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for %zu merges", n);
    size_t i = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        const char *space;
        if (!rc && !merge_text(item, &one, &space)) {
            rc = err_set(e, ERR_CORRUPT, "tokenizer.json: merge %zu is no pair of tokens", i);
        }
        if (!rc) {
            at[i] = all.len;
            merges[i++].n = one.len;
            buf_append(&all, one.data, one.len);
        }
    }
    if (!rc && !buf_ok(&all)) {
        rc = err_set(e, ERR_NOMEM, "out of memory for %zu merges", n);
    }
    for (size_t k = 0; !rc && k < i; k++) {
        merges[k].s = all.data + at[k];
    }
    if (!rc) {
        gguf_put_array(h->w, "tokenizer.ggml.merges",
                       &(struct gguf_array){GGUF_STRING, i, NULL, merges});
    }
    free(merges);
    free(at);
    buf_free(&all);
    buf_free(&one);
    return rc;
}

struct by_text {
    const struct vocab *v;
    uint32_t *ids; /* sorted by text */
};

static int compare(const void *a, const void *b, void *arg)
{
    const struct vocab *v = arg;
    const struct gguf_str *x = &v->tokens[*(const uint32_t *)a];
    const struct gguf_str *y = &v->tokens[*(const uint32_t *)b];
    size_t n = x->n < y->n ? x->n : y->n;
    int order = n ? memcmp(x->s, y->s, n) : 0;
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static uint32_t find(const struct by_text *t, const char *s, size_t n)
{
    size_t lo = 0;
    size_t hi = t->v->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const struct gguf_str *x = &t->v->tokens[t->ids[mid]];
        size_t least = x->n < n ? x->n : n;
        int order = least ? memcmp(x->s, s, least) : 0;
        order = order ? order : (x->n > n) - (x->n < n);
        if (order == 0) {
            return t->ids[mid];
        }
        lo = order < 0 ? mid + 1 : lo;
        hi = order < 0 ? hi : mid;
    }
    return UINT32_MAX;
}

/* SentencePiece merges the pair whose result has the best score: the earlier in the list of merges,
 * the better. */
static enum err_code score_merges(const struct hf *h, struct vocab *v, struct err *e)
{
    const cJSON *list = json_get(json_get(h->tokenizer, "model"), "merges");
    struct by_text t = {v, calloc(v->n, sizeof *t.ids)};
    bool *scored = calloc(v->n, sizeof *scored);
    struct buf one = {0};
    enum err_code rc =
        t.ids && scored ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a vocabulary");
    for (uint64_t i = 0; !rc && i < v->n; i++) {
        t.ids[i] = (uint32_t)i;
        v->scores[i] = v->types[i] == NORMAL ? -1e6F : 0; /* none gives it */
    }
    if (!rc) {
        qsort_r(t.ids, v->n, sizeof *t.ids, compare, v);
    }
    uint32_t rank = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        const char *space = NULL;
        if (!rc && !merge_text(item, &one, &space)) {
            rc = err_set(e, ERR_CORRUPT, "tokenizer.json: merge %u is no pair of tokens", rank);
        }
        if (!rc) {
            size_t n_a = (size_t)(space - one.data);
            memmove(one.data + n_a, one.data + n_a + 1, one.len - n_a);
            uint32_t id = find(&t, one.data, one.len - 1);
            if (id != UINT32_MAX && !scored[id]) {
                v->scores[id] = -(float)rank;
                scored[id] = true;
            }
            rank++;
        }
    }
    free(t.ids);
    free(scored);
    buf_free(&one);
    return rc;
}

/* ---- how text is cut ---- */

/* The expressions of the pre-tokenizers that have a name in GGUF. */
static const char *const regexes[][2] = {
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     "llama-bpe"},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     "qwen2"},
    {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
     "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
     "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     "tekken"},
    {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
     "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     "gpt-4o"},
};

/* What the parts of a pre-tokenizer or normalizer say. */
struct cutting {
    const char *regex;
    bool byte_level;
    bool own_regex; /* ByteLevel's */
    bool digits;
    bool metaspace;
    bool prepends; /* a space before the text */
    const char *unknown;
};

static void look_at(const cJSON *part, struct cutting *c, int depth)
{
    const char *type = json_str(part, "type", "");
    const cJSON *item;
    if (!cJSON_IsObject(part)) {
        return;
    }
    if (strcmp(type, "Sequence") == 0 && depth < 8) {
        const cJSON *list = json_get(part, "pretokenizers");
        list = list ? list : json_get(part, "normalizers");
        cJSON_ArrayForEach(item, list)
        {
            look_at(item, c, depth + 1);
        }
    } else if (strcmp(type, "ByteLevel") == 0) {
        c->byte_level = true;
        c->own_regex |= json_flag(part, "use_regex", true);
        c->prepends |= json_flag(part, "add_prefix_space", false);
    } else if (strcmp(type, "Split") == 0) {
        const char *regex = json_str(json_get(part, "pattern"), "Regex", NULL);
        if (regex) {
            c->unknown = c->regex ? regex : c->unknown;
            c->regex = regex;
        } /* else a string: the space that SentencePiece has replaced already */
    } else if (strcmp(type, "Digits") == 0) {
        c->digits = json_flag(part, "individual_digits", false);
    } else if (strcmp(type, "Metaspace") == 0) {
        c->metaspace = true;
        c->prepends |=
            strcmp(json_str(part, "prepend_scheme",
                            json_flag(part, "add_prefix_space", true) ? "always" : "never"),
                   "never") != 0;
    } else if (strcmp(type, "Prepend") == 0) {
        c->prepends = true;
    } else if (strcmp(type, "Replace") == 0) {
        c->metaspace |= strcmp(json_str(part, "content", ""), "\xe2\x96\x81") == 0;
    } else if (strcmp(type, "NFC") != 0) {
        c->unknown = type;
    }
}

static const char *pre_name(const struct hf *h, const struct cutting *c)
{
    bool ignores = json_flag(json_get(h->tokenizer, "model"), "ignore_merges", false);
    if (c->unknown) {
        return NULL;
    }
    if (!c->regex) {
        return c->digits ? "smollm" : c->own_regex ? "gpt-2" : NULL;
    }
    for (size_t i = 0; !c->digits && i < sizeof regexes / sizeof *regexes; i++) {
        if (strcmp(regexes[i][0], c->regex) == 0) {
            return i == 0 && !ignores ? "dbrx" : regexes[i][1];
        }
    }
    return NULL;
}

/* ---- special tokens ---- */

/* A token of tokenizer_config.json: a string, or an object with content. */
static const char *named_token(const struct hf *h, const char *key)
{
    const cJSON *v = json_get(h->tokenizer_config, key);
    return cJSON_IsObject(v) ? json_str(v, "content", NULL) : cJSON_GetStringValue(v);
}

static bool id_of(const struct vocab *v, const char *text, uint32_t *ret)
{
    for (uint64_t i = 0; text && i < v->n; i++) {
        if (v->tokens[i].n == strlen(text) && memcmp(v->tokens[i].s, text, v->tokens[i].n) == 0) {
            *ret = (uint32_t)i;
            return true;
        }
    }
    return false;
}

/* Item i of a number or a list of numbers. */
static bool id_in(const cJSON *v, int i, uint64_t n, uint32_t *ret)
{
    const cJSON *item = cJSON_IsArray(v) ? cJSON_GetArrayItem(v, i) : i == 0 ? v : NULL;
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble >= (double)n) {
        return false;
    }
    *ret = (uint32_t)item->valuedouble;
    return true;
}

static void put_special(struct hf *h, const struct vocab *v)
{
    uint32_t bos = 0;
    uint32_t eos = 0;
    uint32_t other = 0;
    uint32_t id = 0;
    const cJSON *ends = json_get(h->generation, "eos_token_id");
    ends = ends ? ends : json_get(h->config, "eos_token_id");
    if (id_of(v, named_token(h, "bos_token"), &bos) ||
        id_in(json_get(h->text, "bos_token_id"), 0, v->n, &bos)) {
        gguf_put_u32(h->w, "tokenizer.ggml.bos_token_id", bos);
    }
    bool ended = id_of(v, named_token(h, "eos_token"), &eos) || id_in(ends, 0, v->n, &eos) ||
                 id_in(json_get(h->text, "eos_token_id"), 0, v->n, &eos);
    if (ended) {
        gguf_put_u32(h->w, "tokenizer.ggml.eos_token_id", eos);
    }
    for (int i = 0; ended && i < 2; i++) { /* the first other end is the turn's */
        if (id_in(ends, i, v->n, &other) && other != eos) {
            gguf_put_u32(h->w, "tokenizer.ggml.eot_token_id", other);
            break;
        }
    }
    if (id_of(v, named_token(h, "pad_token"), &id)) {
        gguf_put_u32(h->w, "tokenizer.ggml.padding_token_id", id);
    }
    if (id_of(v, json_str(json_get(h->tokenizer, "model"), "unk_token", NULL), &id)) {
        gguf_put_u32(h->w, "tokenizer.ggml.unknown_token_id", id);
    }
}

/* Whether the post-processor puts a special token before (i 0) or after (last) the text. */
static bool adds(const cJSON *post, bool before, int depth)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, json_get(post, "processors"))
    {
        if (depth < 8 && adds(item, before, depth + 1)) {
            return true;
        }
    }
    const cJSON *single = json_get(post, "single");
    int n = cJSON_GetArraySize(single);
    return n > 1 && json_has(cJSON_GetArrayItem(single, before ? 0 : n - 1), "SpecialToken");
}

static enum err_code put_template(struct hf *h, struct err *e)
{
    char path[4096];
    struct buf text = {0};
    const cJSON *t = json_get(h->tokenizer_config, "chat_template");
    const cJSON *item;
    const char *found = cJSON_GetStringValue(t);
    enum err_code rc = ERR_OK;
    cJSON_ArrayForEach(item, t)
    {
        if (cJSON_IsObject(item) && strcmp(json_str(item, "name", ""), "default") == 0) {
            found = json_str(item, "template", NULL);
        }
    }
    if (snprintf(path, sizeof path, "%s/chat_template.jinja", h->dir) < (int)sizeof path &&
        access(path, R_OK) == 0) {
        rc = file_read(path, "", TEMPLATE_BYTES_MAX, &text, e);
        found = buf_str(&text);
    }
    if (!rc && found) {
        gguf_put_str(h->w, "tokenizer.chat_template", found);
    }
    buf_free(&text);
    return rc;
}

/* ---- all ---- */

enum err_code hf_put_tokenizer(struct hf *h, struct err *e)
{
    const cJSON *model = json_get(h->tokenizer, "model");
    const char *type = json_str(model, "type", json_has(model, "merges") ? "BPE" : "(none)");
    struct cutting c = {0};
    struct vocab v = {0};
    if (strcmp(type, "BPE") != 0) {
        return err_set(e, ERR_UNSUPPORTED,
                       "tokenizer.json: model \"%.40s\" is not supported; BPE is", type);
    }
    look_at(json_get(h->tokenizer, "normalizer"), &c, 0);
    look_at(json_get(h->tokenizer, "pre_tokenizer"), &c, 0);
    bool pieces = json_flag(model, "byte_fallback", false) && c.metaspace && !c.byte_level;
    const char *pre = pieces ? NULL : pre_name(h, &c);
    if (!pieces && (!c.byte_level || !pre)) {
        const char *what = c.unknown ? c.unknown : c.regex ? c.regex : "no ByteLevel";
        return err_set(e, ERR_UNSUPPORTED, "tokenizer.json: its pre-tokenizer is not known: %.200s",
                       what);
    }
    enum err_code rc = alloc_vocab(&v, h->n_vocab, e);
    rc = rc ? rc : read_vocab(h, &v, pieces, e);
    rc = rc ? rc : pieces ? score_merges(h, &v, e) : put_merges(h, e);
    if (!rc) {
        const cJSON *post = json_get(h->tokenizer, "post_processor");
        gguf_put_str(h->w, "tokenizer.ggml.model", pieces ? "llama" : "gpt2");
        if (pre) {
            gguf_put_str(h->w, "tokenizer.ggml.pre", pre);
        }
        gguf_put_array(h->w, "tokenizer.ggml.tokens",
                       &(struct gguf_array){GGUF_STRING, v.n, NULL, v.tokens});
        if (pieces) {
            gguf_put_array(h->w, "tokenizer.ggml.scores",
                           &(struct gguf_array){GGUF_F32, v.n, v.scores, NULL});
        }
        gguf_put_array(h->w, "tokenizer.ggml.token_type",
                       &(struct gguf_array){GGUF_I32, v.n, v.types, NULL});
        gguf_put_bool(h->w, "tokenizer.ggml.add_bos_token", adds(post, true, 0));
        gguf_put_bool(h->w, "tokenizer.ggml.add_eos_token", adds(post, false, 0));
        gguf_put_bool(h->w, "tokenizer.ggml.add_space_prefix", c.prepends);
        put_special(h, &v);
        rc = put_template(h, e);
    }
    free_vocab(&v);
    return rc;
}
