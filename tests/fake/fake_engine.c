#include "tests/fake/fake_engine.h"

#include "base/clock.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "engine/threads.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES 4096

/* Likeliest id over the rest; noise is in [-4, 4). */
#define CHOSEN_GAIN   14.0F
#define BYTE_LOSS     8.0F
#define SPECIAL_LOSS  12.0F
#define HISTORY_PRIME 0x9fb21c651e98df25U

struct piece {
    const char *text;
    uint8_t next; /* index of the first piece that may follow a half character; 0: any start */
    uint8_t n_next;
    bool is_start; /* may stand anywhere */
};

/* A piece that ends inside a character names those that complete it. */
static const struct piece pieces[] = {
    {" the", 0, 0, true},
    {" of", 0, 0, true},
    {" and", 0, 0, true},
    {" a", 0, 0, true},
    {"Hello", 0, 0, true},
    {" world", 0, 0, true},
    {".", 0, 0, true},
    {",", 0, 0, true},
    {"\n", 0, 0, true},
    {" \"", 0, 0, true},
    {"\\", 0, 0, true},
    {"STOP", 0, 0, true},
    {"ST", 0, 0, true},
    {"OP", 0, 0, true},
    {"\t{", 0, 0, true},
    {" na\xc3", 16, 2, true},                 /* 15: naï… or naé… */
    {"\xafve", 0, 0, false},                  /* 16 */
    {"\xa9", 0, 0, false},                    /* 17 */
    {"\xe6", 19, 1, true},                    /* 18: 日 */
    {"\x97\xa5", 0, 0, false},                /* 19 */
    {"\xe6\x9c", 21, 1, true},                /* 20: 本 */
    {"\xac", 0, 0, false},                    /* 21 */
    {"\xf0\x9f", 23, 2, true},                /* 22: 😀 or 💡 */
    {"\x98\x80", 0, 0, false},                /* 23 */
    {"\x92\xa1", 0, 0, false},                /* 24 */
    {"\xf0\x9f\x91\xa9\xe2", 26, 1, true},    /* 25: 👩‍💻, a joined emoji cut twice */
    {"\x80\x8d\xf0\x9f", 27, 1, false},       /* 26 */
    {"\x92\xbb", 0, 0, false},                /* 27 */
    {"\xc3\xa9t\xc3\xa9", 0, 0, true},        /* 28: été */
    {"\xf0", 30, 1, true},                    /* 29: 🎉 byte after byte */
    {"\x9f", 31, 1, false},                   /* 30 */
    {"\x8e", 32, 1, false},                   /* 31 */
    {"\x89", 0, 0, false},                    /* 32 */
    {"", 0, 0, true},                         /* 33: a token without bytes */
    {" \xd0\xbc\xd0\xb8\xd1\x80", 0, 0, true} /* 34: мир */
};
#define N_PIECE ((uint32_t)(sizeof pieces / sizeof *pieces))
_Static_assert(FAKE_PIECE_FIRST + sizeof pieces / sizeof *pieces <= FAKE_VOCAB_MIN,
               "the least vocabulary holds every piece");

static const char *const specials[] = {"<s>", "</s>", "<|im_start|>", "<|im_end|>"};
#define N_SPECIAL ((int32_t)(sizeof specials / sizeof *specials))

/* What one token leaves in KV memory, at the start of its kv_bytes_per_tok. */
struct record {
    int32_t id;
    uint32_t pos;
    uint32_t adapter;
    uint32_t unused;
};

struct fake {
    struct eng eng; /* first: a struct eng * is a struct fake * */
    struct eng_impl impl;
    struct fake_options o;
    struct fake_counts counts;
    float *logits;         /* [n_step_out_max, n_vocab] f32; pages come with use */
    float *hidden;         /* [n_step_tok_max, n_embd] f32 */
    struct eng_pool *pool; /* NULL without workers */
    struct eng_adapter adapters[FAKE_ADAPTER_MAX];
    uint32_t n_fail_next;
    atomic_flag in_step;
};

static struct fake *fake_of(struct eng *g)
{
    return (struct fake *)g;
}

static const struct fake *fake_of_const(const struct eng *g)
{
    return (const struct fake *)g;
}

static bool is_eog(const struct eng *g, int32_t id)
{
    (void)g;
    return id == FAKE_EOS || id == FAKE_IM_END;
}

static uint64_t history_start(const struct fake *f)
{
    return rng_mix(f->o.seed, 0x6b76);
}

static uint64_t history_add(uint64_t h, int32_t id)
{
    h = (h ^ (uint64_t)(uint32_t)id) * HISTORY_PRIME;
    return h ^ h >> 29;
}

static int32_t choose(const struct fake *f, uint64_t h, int32_t last)
{
    uint64_t r = rng_mix(h, 1);
    if (last >= FAKE_PIECE_FIRST && last < FAKE_PIECE_FIRST + (int32_t)N_PIECE) {
        const struct piece *p = &pieces[last - FAKE_PIECE_FIRST];
        if (p->n_next) {
            return FAKE_PIECE_FIRST + p->next + (int32_t)(r % p->n_next);
        }
    }
    if (!f->o.never_eog && r % 1000 < f->o.eog_permille) {
        return r >> 32 & 1 ? FAKE_EOS : FAKE_IM_END;
    }
    r = rng_mix(h, 2);
    uint32_t n_word = f->eng.info.n_vocab - FAKE_PIECE_FIRST;
    /* Half of the answer is pieces, however large the vocabulary. */
    uint32_t i = (uint32_t)(r % (r >> 63 ? N_PIECE : n_word));
    while (i < N_PIECE && !pieces[i].is_start) {
        i++;
    }
    return FAKE_PIECE_FIRST + (int32_t)i;
}

static void fill_logits(const struct fake *f, uint64_t h, int32_t last, float *logits)
{
    uint32_t n_vocab = f->eng.info.n_vocab;
    uint32_t key = (uint32_t)rng_mix(h, 3);
    for (uint32_t i = 0; i < n_vocab; i++) {
        uint32_t x = key + i * 0x9e3779b9U;
        x = (x ^ x >> 16) * 0x85ebca6bU;
        x = (x ^ x >> 13) * 0xc2b2ae35U;
        logits[i] = (float)(int32_t)(x >> 8) * 0x1.0p-21F - 4.0F;
    }
    for (int32_t i = 0; i < FAKE_PIECE_FIRST; i++) {
        logits[i] -= i < N_SPECIAL ? SPECIAL_LOSS : BYTE_LOSS;
    }
    int32_t id = choose(f, h, last);
    logits[id] = CHOSEN_GAIN;
}

void fake_logits(const struct eng *g, const int32_t *tokens, size_t n, float *ret_logits)
{
    const struct fake *f = fake_of_const(g);
    uint64_t h = history_start(f);
    for (size_t i = 0; i < n; i++) {
        h = history_add(h, tokens[i]);
    }
    fill_logits(f, h, tokens[n - 1], ret_logits);
}

static void fill_hidden(const struct fake *f, uint64_t h, float *hidden)
{
    for (uint32_t i = 0; i < f->eng.info.n_embd; i++) {
        hidden[i] = (float)(int32_t)(rng_mix(h, i + 7) >> 32) * 0x1.0p-31F;
    }
}

void fake_hidden(const struct eng *g, const int32_t *tokens, size_t n, float *ret_hidden)
{
    const struct fake *f = fake_of_const(g);
    uint64_t h = history_start(f);
    for (size_t i = 0; i < n; i++) {
        h = history_add(h, tokens[i]);
    }
    fill_hidden(f, h, ret_hidden);
}

int32_t fake_next(const struct eng *g, const int32_t *tokens, size_t n)
{
    const struct fake *f = fake_of_const(g);
    uint64_t h = history_start(f);
    for (size_t i = 0; i < n; i++) {
        h = history_add(h, tokens[i]);
    }
    return choose(f, h, tokens[n - 1]);
}

static struct record *record_at(const struct fake *f, void *kv, uint32_t t)
{
    const struct eng_info *info = &f->eng.info;
    return (struct record *)((char *)kv + (size_t)(t / info->chunk_tok) * info->chunk_bytes +
                             (size_t)(t % info->chunk_tok) * info->kv_bytes_per_tok);
}

static enum err_code check_slices(const struct fake *f, const struct eng_slice *slices,
                                  uint32_t n_slice, struct err *e)
{
    const struct eng_info *info = &f->eng.info;
    uint64_t n_row = 0;
    uint64_t n_out = 0;
    for (uint32_t i = 0; i < n_slice; i++) {
        const struct eng_slice *s = &slices[i];
        if (!s->tokens || !s->n_tok || !s->kv || s->out_from > s->n_tok) {
            return err_set(e, ERR_INVALID, "slice %u: empty, without KV, or out_from past its end",
                           i);
        }
        if (s->n_tok > info->n_ctx || s->pos > info->n_ctx - s->n_tok) {
            return err_set(e, ERR_LIMIT, "slice %u: position %u + %u tokens exceeds context %u", i,
                           s->pos, s->n_tok, info->n_ctx);
        }
        for (uint32_t k = 0; k < s->n_tok; k++) {
            if (s->tokens[k] < 0 || (uint32_t)s->tokens[k] >= info->n_vocab) {
                return err_set(e, ERR_INVALID, "slice %u: token id %d is not in [0, %u)", i,
                               (int)s->tokens[k], info->n_vocab);
            }
        }
        for (uint32_t k = 0; k < i; k++) {
            if (slices[k].kv == s->kv) {
                return err_set(e, ERR_INVALID, "slices %u and %u share one KV range", k, i);
            }
        }
        if (s->adapter > info->n_adapter) {
            return err_set(e, ERR_INVALID, "slice %u: adapter %u of %u", i, s->adapter,
                           info->n_adapter);
        }
        if (info->encoder && (s->pos || !s->want_hidden)) {
            return err_set(e, ERR_INVALID, "slice %u: an encoder takes whole texts", i);
        }
        n_row += s->n_tok;
        n_out += s->want_hidden ? 0 : s->n_tok - s->out_from;
    }
    if (!n_slice || n_row > info->n_step_tok_max || n_out > info->n_step_out_max) {
        return err_set(e, ERR_LIMIT, "%llu rows, %llu with logits: at most %u and %u",
                       (unsigned long long)n_row, (unsigned long long)n_out, info->n_step_tok_max,
                       info->n_step_out_max);
    }
    return ERR_OK;
}

/* Writes the slice's records, then reads the whole sequence back, so the answer rests on memory. */
static void run_slice(struct fake *f, const struct eng_slice *s)
{
    for (uint32_t k = 0; k < s->n_tok; k++) {
        uint32_t pos = s->pos + k;
        struct record *r = record_at(f, s->kv, pos);
        r->id = s->tokens[k];
        r->pos = pos;
        r->adapter = s->adapter;
    }
    static const char head[] = "assistant\n";
    float *logits = s->logits;
    float *hidden = s->hidden;
    uint32_t turn = 0; /* where the last <|im_start|> stands */
    uint64_t h = history_start(f) + s->adapter;
    for (uint32_t pos = 0; pos < s->pos + s->n_tok; pos++) {
        const struct record *r = record_at(f, s->kv, pos);
        if (r->pos != pos || r->adapter != s->adapter) {
            f->counts.n_bad_read++;
        }
        h = history_add(h, r->id);
        turn = r->id == FAKE_IM_START ? pos : turn;
        if (pos >= s->pos + s->out_from && s->want_hidden) {
            fill_hidden(f, h, hidden);
            hidden += f->eng.info.n_embd;
        } else if (pos >= s->pos + s->out_from) {
            fill_logits(f, h, r->id, logits);
            if (f->o.say && pos >= turn + strlen(head)) {
                const char *next = f->o.say + (pos - turn - strlen(head));
                logits[*next ? FAKE_BYTE_FIRST + (unsigned char)*next : FAKE_EOS] = 2 * CHOSEN_GAIN;
            }
            logits += f->eng.info.n_vocab;
        }
    }
}

static enum err_code step(struct eng *g, struct eng_slice *slices, uint32_t n_slice, struct err *e)
{
    struct fake *f = fake_of(g);
    bool was_inside = atomic_flag_test_and_set(&f->in_step);
    assert(!was_inside); /* engine.h: eng_step is for one thread */
    if (f->o.on_step) {
        f->o.on_step(f->o.on_step_arg, slices, n_slice);
    }
    uint64_t n_step = f->counts.n_step++;
    enum err_code code = check_slices(f, slices, n_slice, e);
    if (code) {
        goto out;
    }
    bool fails = f->n_fail_next || rng_mix(f->o.seed, n_step) % 1000 < f->o.fail_permille;
    if (fails) {
        f->n_fail_next -= f->n_fail_next ? 1 : 0;
        code = err_set(e, ERR_INTERNAL, "the fake engine was told to fail step %llu",
                       (unsigned long long)n_step);
        goto out;
    }
    uint32_t n_row = 0;
    uint32_t n_out = 0;
    for (uint32_t i = 0; i < n_slice; i++) {
        bool hidden = slices[i].want_hidden;
        slices[i].logits = hidden ? NULL : f->logits + (size_t)n_out * f->eng.info.n_vocab;
        slices[i].hidden = hidden ? f->hidden + (size_t)n_row * f->eng.info.n_embd : NULL;
        run_slice(f, &slices[i]);
        n_row += slices[i].n_tok;
        n_out += hidden ? 0 : slices[i].n_tok - slices[i].out_from;
    }
    f->counts.n_row += n_row;
    f->counts.n_row_max = n_row > f->counts.n_row_max ? n_row : f->counts.n_row_max;
    f->counts.n_slice_max = n_slice > f->counts.n_slice_max ? n_slice : f->counts.n_slice_max;
    uint64_t cost_us = f->o.step_us + (uint64_t)n_row * f->o.row_us;
    if (cost_us) {
        clock_sleep_us(cost_us);
    }
out:
    f->counts.n_failed += code ? 1 : 0;
    atomic_flag_clear(&f->in_step);
    return code;
}

static int32_t special_at(const char *text, size_t n)
{
    for (int32_t i = 0; i < N_SPECIAL; i++) {
        size_t len = strlen(specials[i]);
        if (len <= n && !memcmp(text, specials[i], len)) {
            return i;
        }
    }
    return ENG_TOKEN_NONE;
}

static enum err_code push_bytes(struct eng_ids *out, const char *bytes, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        enum err_code code = eng_ids_push(out, FAKE_BYTE_FIRST + (unsigned char)bytes[i], e);
        if (code) {
            return code;
        }
    }
    return ERR_OK;
}

static enum err_code tokenize(const struct eng *g, const char *text, size_t n_byte, unsigned flags,
                              struct eng_ids *out, struct err *e)
{
    (void)g;
    enum err_code code = ERR_OK;
    if (flags & ENG_TOKENIZE_ADD_SPECIAL) {
        code = eng_ids_push(out, FAKE_BOS, e);
    }
    for (size_t i = 0; !code && i < n_byte;) {
        int32_t special = ENG_TOKEN_NONE;
        if (flags & ENG_TOKENIZE_PARSE_SPECIAL) {
            special = special_at(text + i, n_byte - i);
        }
        size_t len = utf8_char_len(text + i, n_byte - i);
        if (special != ENG_TOKEN_NONE) {
            code = eng_ids_push(out, special, e);
            i += strlen(specials[special]);
        } else if (len) {
            code = push_bytes(out, text + i, len, e);
            i += len;
        } else {
            code = push_bytes(out, "\xef\xbf\xbd", 3, e);
            i++;
        }
    }
    return code;
}

static void detokenize(const struct eng *g, struct eng_detok *state, int32_t id, bool show_special,
                       struct buf *out)
{
    state->started = true;
    if (id < 0 || (uint32_t)id >= g->info.n_vocab) {
        return;
    }
    if (id < N_SPECIAL) {
        buf_puts(out, show_special ? specials[id] : "");
    } else if (id < FAKE_PIECE_FIRST) {
        buf_putc(out, (char)(unsigned char)(id - FAKE_BYTE_FIRST));
    } else if (id < FAKE_PIECE_FIRST + (int32_t)N_PIECE) {
        buf_puts(out, pieces[id - FAKE_PIECE_FIRST].text);
    } else {
        buf_printf(out, " w%d", (int)id);
    }
}

static enum err_code render_chat(const struct eng *g, const struct tmpl_value *context,
                                 struct buf *out, struct err *e)
{
    const struct fake *f = fake_of_const(g);
    if (!f->o.render_chat) {
        return err_set(e, ERR_UNSUPPORTED, "this fake engine has no chat template");
    }
    return f->o.render_chat(g, context, out, e);
}

static void parallel(struct eng *g, uint32_t n_item,
                     void (*fn)(void *arg, uint32_t item, uint32_t worker), void *arg)
{
    eng_pool_run(fake_of(g)->pool, n_item, fn, arg);
}

static void destroy(struct eng *g)
{
    struct fake *f = fake_of(g);
    eng_pool_destroy(f->pool);
    free(f->logits);
    free(f->hidden);
    free(f);
}

static enum err_code set_info(struct fake *f, struct err *e)
{
    struct fake_options *o = &f->o;
    struct eng_info *info = &f->eng.info;
    *info = (struct eng_info){
        .name = "fake",
        .arch = "fake",
        .isa = "scalar",
        .format = "F32",
        .n_vocab = o->n_vocab ? o->n_vocab : FAKE_VOCAB_MIN,
        .n_layer = 1,
        .n_ctx = o->n_ctx ? o->n_ctx : FAKE_CTX_DEFAULT,
        .n_thread = o->n_thread ? o->n_thread : 1,
        .bos_id = FAKE_BOS,
        .eos_id = FAKE_EOS,
        .n_param = 1,
        .weights_bytes = 4,
        .kv_type = ENG_KV_F32,
        .sampling = {NAN, NAN, NAN, NAN, NAN},
        .n_embd = o->n_embd,
        .adapters = f->adapters,
        .n_adapter = o->n_adapter,
        .chat_template = o->render_chat ? "tools <tool_call>" : NULL,
        .pooling = o->encoder ? ENG_POOLING_MEAN : ENG_POOLING_NONE,
        .encoder = o->encoder != 0,
        .chunk_tok = o->chunk_tok ? o->chunk_tok : 64,
        .n_step_tok_max = o->n_step_tok_max ? o->n_step_tok_max : 4096,
    };
    memcpy(info->weights_digest, &o->seed, sizeof o->seed);
    for (uint32_t i = 0; i < FAKE_ADAPTER_MAX; i++) {
        f->adapters[i] = (struct eng_adapter){.name = "fake", .digest = {(uint8_t)i}};
    }
    uint32_t per_tok = PAGE_BYTES / info->chunk_tok;
    info->n_ctx_train = info->n_ctx;
    info->n_step_out_max = o->n_step_out_max ? o->n_step_out_max : info->n_step_tok_max;
    info->kv_bytes_per_tok =
        o->kv_bytes_per_tok ? o->kv_bytes_per_tok : (per_tok > 64 ? per_tok : 64);
    info->chunk_bytes = info->chunk_tok * info->kv_bytes_per_tok;
    o->eog_permille = o->eog_permille ? o->eog_permille : FAKE_EOG_PERMILLE;
    if (info->n_vocab < FAKE_VOCAB_MIN || info->n_vocab > INT32_MAX ||
        (info->chunk_tok & (info->chunk_tok - 1)) || info->chunk_bytes % PAGE_BYTES ||
        info->kv_bytes_per_tok % sizeof(struct record)) {
        return err_set(e, ERR_INVALID, "fake engine: vocabulary %u, chunk of %u tokens, %zu bytes",
                       info->n_vocab, info->chunk_tok, info->chunk_bytes);
    }
    return ERR_OK;
}

enum err_code fake_engine_create(const struct fake_options *options, struct eng **ret_g,
                                 struct err *e)
{
    struct fake *f = calloc(1, sizeof *f);
    if (!f) {
        return err_set(e, ERR_NOMEM, "out of memory for a fake engine");
    }
    f->o = *options;
    f->impl = (struct eng_impl){.destroy = destroy,
                                .step = step,
                                .tokenize = tokenize,
                                .detokenize = detokenize,
                                .is_eog = is_eog,
                                .render_chat = render_chat,
                                .parallel = options->n_thread ? parallel : NULL};
    f->eng.impl = &f->impl;
    atomic_flag_clear(&f->in_step);
    enum err_code code = set_info(f, e);
    if (code) {
        goto fail;
    }
    f->logits = calloc((size_t)f->eng.info.n_step_out_max * f->eng.info.n_vocab, sizeof *f->logits);
    f->hidden = calloc((size_t)f->eng.info.n_step_tok_max * f->eng.info.n_embd + 1, sizeof(float));
    if (!f->logits || !f->hidden) {
        code = err_set(e, ERR_NOMEM, "out of memory for %u rows of %u logits",
                       f->eng.info.n_step_out_max, f->eng.info.n_vocab);
        goto fail;
    }
    if (options->n_thread) {
        code = eng_pool_create(options->n_thread, &f->pool, e);
        if (code) {
            goto fail;
        }
    }
    *ret_g = &f->eng;
    return ERR_OK;
fail:
    destroy(&f->eng);
    return code;
}

void fake_engine_fail_next(struct eng *g, uint32_t n_step)
{
    fake_of(g)->n_fail_next = n_step;
}

struct fake_counts fake_engine_counts(const struct eng *g)
{
    return fake_of_const(g)->counts;
}
