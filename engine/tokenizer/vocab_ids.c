/* Special ids and flags of the metadata, and which tokens end a generation. */
#include "engine/tokenizer/vocab_impl.h"

#include "base/log.h"

#include <stdio.h>
#include <string.h>

#define ID_NONE_IN_FILE UINT32_MAX

#define KEY_PREFIX "tokenizer.ggml."

static const struct id_key {
    const char *key;
    size_t at; /* in struct vocab_facts */
} id_keys[] = {
    /* A later key counts where an earlier one is absent. */
    {"bos_token_id", offsetof(struct vocab_facts, bos)},
    {"cls_token_id", offsetof(struct vocab_facts, bos)},
    {"eos_token_id", offsetof(struct vocab_facts, eos)},
    {"eot_token_id", offsetof(struct vocab_facts, eot)},
    {"eom_token_id", offsetof(struct vocab_facts, eom)},
    {"unknown_token_id", offsetof(struct vocab_facts, unk)},
    {"seperator_token_id", offsetof(struct vocab_facts, sep)}, /* spelt so by the format */
    {"padding_token_id", offsetof(struct vocab_facts, pad)},
    {"mask_token_id", offsetof(struct vocab_facts, mask)},
    {"fim_pre_token_id", offsetof(struct vocab_facts, fim_pre)},
    {"prefix_token_id", offsetof(struct vocab_facts, fim_pre)},
    {"fim_suf_token_id", offsetof(struct vocab_facts, fim_suf)},
    {"suffix_token_id", offsetof(struct vocab_facts, fim_suf)},
    {"fim_mid_token_id", offsetof(struct vocab_facts, fim_mid)},
    {"middle_token_id", offsetof(struct vocab_facts, fim_mid)},
    {"fim_pad_token_id", offsetof(struct vocab_facts, fim_pad)},
    {"fim_rep_token_id", offsetof(struct vocab_facts, fim_rep)},
    {"fim_sep_token_id", offsetof(struct vocab_facts, fim_sep)},
};

#define N_ID_KEY (sizeof id_keys / sizeof *id_keys)

/* What an absent key means, by kind: the token of that spelling, else that id. */
static const struct id_default {
    enum vocab_kind kind;
    size_t at;
    const char *text;
    int32_t id;
} id_defaults[] = {
    {VOCAB_SPM, offsetof(struct vocab_facts, unk), "<unk>", 0},
    {VOCAB_SPM, offsetof(struct vocab_facts, bos), "<s>", 1},
    {VOCAB_SPM, offsetof(struct vocab_facts, eos), "</s>", 2},
    {VOCAB_WPM, offsetof(struct vocab_facts, pad), "[PAD]", 0},
    {VOCAB_WPM, offsetof(struct vocab_facts, unk), "[UNK]", 100},
    {VOCAB_WPM, offsetof(struct vocab_facts, bos), "[CLS]", 101},
    {VOCAB_WPM, offsetof(struct vocab_facts, sep), "[SEP]", 102},
    {VOCAB_WPM, offsetof(struct vocab_facts, mask), "[MASK]", 103},
    {VOCAB_UGM, offsetof(struct vocab_facts, pad), "<pad>", 0},
    {VOCAB_UGM, offsetof(struct vocab_facts, eos), "</s>", 1},
    {VOCAB_UGM, offsetof(struct vocab_facts, unk), "<unk>", 2},
};

/* Spellings that stand for a role where the metadata does not name one. */
static const struct id_text {
    size_t at;
    const char *texts[10];
} id_texts[] = {
    {offsetof(struct vocab_facts, eot),
     {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|endoftext|>",
      "<|end_of_text|>", "<EOT>", "[EOT]"}},
    {offsetof(struct vocab_facts, eom), {"<|eom_id|>"}},
    {offsetof(struct vocab_facts, fim_pre),
     {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>",
      "<\xef\xbd\x9c"
      "fim\xe2\x96\x81"
      "begin\xef\xbd\x9c>",
      "<PRE>", "\xe2\x96\x81<PRE>", "<|code_prefix|>", "<|prefix|>"}},
    {offsetof(struct vocab_facts, fim_suf),
     {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>",
      "<\xef\xbd\x9c"
      "fim\xe2\x96\x81hole\xef\xbd\x9c>",
      "<SUF>", "\xe2\x96\x81<SUF>", "<|code_suffix|>", "<|suffix|>"}},
    {offsetof(struct vocab_facts, fim_mid),
     {"<|fim_middle|>", "<fim-middle>", "<fim_middle>",
      "<\xef\xbd\x9c"
      "fim\xe2\x96\x81"
      "end\xef\xbd\x9c>",
      "<MID>", "\xe2\x96\x81<MID>", "<|code_middle|>", "<|middle|>"}},
    {offsetof(struct vocab_facts, fim_pad), {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>"}},
    {offsetof(struct vocab_facts, fim_rep),
     {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
    {offsetof(struct vocab_facts, fim_sep), {"<|file_sep|>"}},
};

/* Ends of a turn, a message or a text, by spelling. `loose` ones are so common in other uses that
 * they count only where the file marks them as added tokens. */
static const struct eog_text {
    const char *text;
    bool loose;
} eog_texts[] = {
    {"<|eot_id|>", false},
    {"<|im_end|>", false},
    {"<|end|>", false},
    {"<|return|>", false},
    {"<|call|>", false},
    {"<|calls|>", false},
    {"<|flush|>", false},
    {"<|endoftext|>", false},
    {"<|end_of_text|>", false},
    {"<|eom_id|>", false},
    {"<end_of_turn>", false},
    {"<turn|>", false},
    {"<|tool_response>", false},
    {"<end_of_utterance>", false},
    {"<\xef\xbd\x9c"
     "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
     false},
    {"</s>", true},
    {"<eos>", true},
    {"<EOT>", true},
    {"_<EOT>", true},
    {"[EOT]", true},
    {"[EOS]", true},
    {"[e~[", true},
};

static int32_t *field(struct vocab_facts *facts, size_t at)
{
    return (int32_t *)((char *)facts + at);
}

static int32_t find(const struct vocab *v, const char *text)
{
    return vocab_find(v, text, strlen(text));
}

static bool is_added(const struct vocab *v, int32_t id)
{
    return v->type[id] == VOCAB_CONTROL || v->type[id] == VOCAB_USER_DEFINED ||
           v->type[id] == VOCAB_UNKNOWN;
}

/* Reads one id; false where the file has none, or one that means none. */
static bool read_id(const struct vocab *v, const struct gguf *f, const char *key, int32_t *ret_id)
{
    char full[64];
    int64_t id = 0;
    (void)snprintf(full, sizeof full, KEY_PREFIX "%s", key);
    if (!gguf_get_i64(f, full, &id)) {
        return false;
    }
    *ret_id = ENG_TOKEN_NONE;
    if (id >= 0 && id < v->facts.n_token) {
        *ret_id = (int32_t)id;
    } else if (id != -1 && id != ID_NONE_IN_FILE) {
        log_warn("%s is %lld, but there are %u tokens: taken as none", full, (long long)id,
                 v->facts.n_token);
    }
    return true;
}

static void load_defaults(struct vocab *v, const bool *given)
{
    for (size_t i = 0; i < sizeof id_defaults / sizeof *id_defaults; i++) {
        const struct id_default *d = &id_defaults[i];
        if (d->kind != v->facts.kind || given[d->at / sizeof(int32_t)]) {
            continue;
        }
        int32_t id = find(v, d->text);
        if (id == ENG_TOKEN_NONE && (uint32_t)d->id < v->facts.n_token) {
            id = d->id;
        }
        *field(&v->facts, d->at) = id;
    }
}

static enum err_code load_flag(const struct gguf *f, const char *key, bool absent, int32_t id,
                               const char *id_key, bool *ret_flag, struct err *e)
{
    bool given = false;
    if (!gguf_get_bool(f, key, &given)) {
        *ret_flag = absent && id != ENG_TOKEN_NONE;
        return ERR_OK;
    }
    if (given && id == ENG_TOKEN_NONE) {
        return err_set(e, ERR_CORRUPT, "%s is true, but %s names no token", key, id_key);
    }
    *ret_flag = given;
    return ERR_OK;
}

static enum err_code load_flags(struct vocab *v, const struct gguf *f, struct err *e)
{
    struct vocab_facts *x = &v->facts;
    bool wpm = x->kind == VOCAB_WPM;
    bool bos = wpm || x->kind == VOCAB_SPM || v->traits.add_bos;
    enum err_code rc = load_flag(f, KEY_PREFIX "add_bos_token", bos, x->bos,
                                 KEY_PREFIX "bos_token_id", &x->add_bos, e);
    rc = rc ? rc
            : load_flag(f, KEY_PREFIX "add_eos_token", x->kind == VOCAB_UGM, x->eos,
                        KEY_PREFIX "eos_token_id", &x->add_eos, e);
    rc = rc ? rc
            : load_flag(f, KEY_PREFIX "add_sep_token", wpm, x->sep, KEY_PREFIX "seperator_token_id",
                        &x->add_sep, e);
    x->add_space_prefix = x->kind == VOCAB_SPM || x->kind == VOCAB_UGM;
    if (x->add_space_prefix) {
        (void)gguf_get_bool(f, KEY_PREFIX "add_space_prefix", &x->add_space_prefix);
    }
    return rc;
}

enum err_code vocab_load_ids(struct vocab *v, const struct gguf *f, struct err *e)
{
    bool given[sizeof(struct vocab_facts) / sizeof(int32_t)] = {false};
    for (size_t i = 0; i < N_ID_KEY; i++) {
        *field(&v->facts, id_keys[i].at) = ENG_TOKEN_NONE;
    }
    for (size_t i = 0; i < N_ID_KEY; i++) {
        bool *have = &given[id_keys[i].at / sizeof(int32_t)];
        *have = *have || read_id(v, f, id_keys[i].key, field(&v->facts, id_keys[i].at));
    }
    if (v->facts.kind == VOCAB_NONE) {
        return ERR_OK;
    }
    load_defaults(v, given);
    for (size_t i = 0; i < sizeof id_texts / sizeof *id_texts; i++) {
        int32_t *id = field(&v->facts, id_texts[i].at);
        for (size_t k = 0; id_texts[i].texts[k] && *id == ENG_TOKEN_NONE; k++) {
            *id = find(v, id_texts[i].texts[k]);
            *id = *id != ENG_TOKEN_NONE && is_added(v, *id) ? *id : ENG_TOKEN_NONE;
        }
    }
    return load_flags(v, f, e);
}

static void mark(struct vocab *v, int32_t id)
{
    if (id != ENG_TOKEN_NONE) {
        v->mark[id] |= MARK_EOG;
    }
}

static void unmark(struct vocab *v, const char *text)
{
    int32_t id = find(v, text);
    if (id != ENG_TOKEN_NONE) {
        v->mark[id] &= (uint8_t)~MARK_EOG;
    }
}

void vocab_mark_eog(struct vocab *v)
{
    for (size_t i = 0; i < sizeof eog_texts / sizeof *eog_texts; i++) {
        int32_t id = find(v, eog_texts[i].text);
        if (id == ENG_TOKEN_NONE || (eog_texts[i].loose && !is_added(v, id))) {
            continue;
        }
        mark(v, id);
        if (!eog_texts[i].loose) {
            v->type[id] = VOCAB_CONTROL; /* whatever the file says: text must not end a turn */
        }
    }
    /* Where an analysis channel ends with <|end|>, the answer is still to come. */
    bool harmony = find(v, "<|return|>") != ENG_TOKEN_NONE && find(v, "<|call|>") != ENG_TOKEN_NONE;
    bool flush = find(v, "<|calls|>") != ENG_TOKEN_NONE && find(v, "<|flush|>") != ENG_TOKEN_NONE;
    if (harmony || flush) {
        unmark(v, "<|end|>");
    }
    if (find(v, "<|tool_response>") != ENG_TOKEN_NONE) {
        unmark(v, "</s>"); /* an HTML tag to the models that have this one */
    }
    mark(v, v->facts.eos);
    mark(v,
         v->facts.eot == find(v, "<|end|>") && (harmony || flush) ? ENG_TOKEN_NONE : v->facts.eot);
    mark(v, v->facts.eom);
    mark(v, v->facts.fim_pad);
    mark(v, v->facts.fim_rep);
    mark(v, v->facts.fim_sep);
}

/* Added tokens that take the white space beside them. The GGUF metadata cannot say so; these are
 * the models known to (their tokenizer.json: lstrip, rstrip). */
void vocab_mark_strip(struct vocab *v, const struct gguf *f)
{
    struct gguf_str arch = {.s = ""};
    (void)gguf_get_str(f, "general.architecture", &arch);
    bool phi3 = arch.n == 4 && memcmp(arch.s, "phi3", 4) == 0;
    for (uint32_t i = 0; phi3 && v->facts.kind == VOCAB_SPM && i < v->facts.n_token; i++) {
        v->mark[i] |= is_added(v, (int32_t)i) ? MARK_STRIP_RIGHT : 0;
    }
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++) {
        int32_t id = find(v, keep[i]);
        if (id != ENG_TOKEN_NONE) {
            v->mark[id] &= (uint8_t)~MARK_STRIP_RIGHT;
        }
    }
    bool mask = strncmp(v->pre_name, "jina-v2-", 8) == 0 ||
                (arch.n == 14 && memcmp(arch.s, "nomic-bert-moe", 14) == 0) ||
                (arch.n == 12 && memcmp(arch.s, "jina-bert-v3", 12) == 0);
    bool modern = strcmp(v->pre_name, "modern-bert") == 0;
    int32_t id = mask ? find(v, "<mask>") : modern ? find(v, "[MASK]") : ENG_TOKEN_NONE;
    if (id != ENG_TOKEN_NONE) {
        v->mark[id] |= MARK_STRIP_LEFT;
    }
}
