#include "tests/fake/fake_oracle.h"

#include "base/utf8.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Valid characters as they are; else one U+FFFD for each maximal part of a character, found by
 * trying which completion would make it whole. */
static void decode(const struct buf *raw, bool is_end, struct buf *out)
{
    buf_clear(out);
    size_t n = raw->len;
    for (size_t i = 0; i < n;) {
        size_t len = utf8_char_len(raw->data + i, n - i);
        if (len) {
            buf_append(out, raw->data + i, len);
            i += len;
            continue;
        }
        size_t part = 1; /* longest start of some character */
        for (size_t want = 2; want <= 3 && i + want <= n; want++) {
            static const char fill[] = "\x80\x90\xa0\xbf\x8f\x9f";
            char c[4];
            memcpy(c, raw->data + i, want);
            for (size_t f = 0; f < 6; f++) {
                for (size_t g = 0; g < 6; g++) {
                    c[want] = fill[f];
                    c[3] = want < 3 ? fill[g] : fill[f];
                    part = utf8_char_len(c, 4) > want ? want : part;
                }
            }
        }
        bool completable = false;
        if (i + part == n && part < 4) {
            static const char fill[] = "\x80\x90\xa0\xbf\x8f\x9f";
            for (size_t f = 0; f < 216; f++) {
                char c[4];
                memcpy(c, raw->data + i, part);
                size_t k = f;
                for (size_t j = part; j < 4; j++, k /= 6) {
                    c[j] = fill[k % 6];
                }
                completable |= utf8_char_len(c, 4) > part;
            }
        }
        if (completable && !is_end) {
            return;
        }
        buf_puts(out, "\xef\xbf\xbd");
        i += part;
    }
}

/* The stop string whose last byte comes first in text[from, len), the longest of those. */
static const char *find_stop(const struct sch_request *r, const struct buf *text, size_t from,
                             size_t *ret_end)
{
    for (size_t end = from + 1; end <= text->len; end++) {
        const char *best = NULL;
        for (uint32_t k = 0; k < r->n_stop; k++) {
            size_t len = strlen(r->stop[k]);
            if (len <= end - from && !memcmp(text->data + end - len, r->stop[k], len) &&
                (!best || len > strlen(best))) {
                best = r->stop[k];
            }
        }
        if (best) {
            *ret_end = end;
            return best;
        }
    }
    return NULL;
}

static bool ends(const struct eng *g, const struct sch_request *r, int32_t id)
{
    bool is_end = !r->ignore_eos && eng_is_eog(g, id);
    for (uint32_t k = 0; k < r->n_stop_id; k++) {
        is_end |= r->stop_ids[k] == id;
    }
    return is_end;
}

static int32_t next_id(const struct eng *g, const struct sch_request *r, const int32_t *tokens,
                       uint32_t n, struct sample_scratch *c, float *logits)
{
    struct sample_params p = r->sample;
    struct sample_state *s = NULL;
    struct err e;
    int32_t forbid[64];
    p.forbid = forbid;
    p.n_forbid = 0;
    if (n - r->n_tok < r->n_gen_min) {
        for (int32_t id = 0; id < (int32_t)g->info.n_vocab && p.n_forbid < 64; id++) {
            if (ends(g, r, id)) {
                forbid[p.n_forbid++] = id;
            }
        }
    }
    if (sample_needs_state(&p)) {
        enum err_code code = sample_state_create(g->info.n_vocab, n, &s, &e);
        assert(!code);
        for (uint32_t i = 0; i < n; i++) {
            sample_state_accept(s, tokens[i], i >= r->n_tok);
        }
    }
    struct sample_result got;
    fake_logits(g, tokens, n, logits);
    sample_pick(&p, s, c, logits, n, &got);
    sample_state_destroy(s);
    return got.id;
}

void fake_expect(const struct eng *g, const struct sch_request *r, uint32_t n_tok_max,
                 struct fake_answer *ret_a)
{
    uint32_t n_gen_max = r->n_gen_max < n_tok_max - r->n_tok ? r->n_gen_max : n_tok_max - r->n_tok;
    int32_t *tokens = malloc((r->n_tok + (size_t)n_gen_max + 1) * sizeof *tokens);
    float *logits = malloc(g->info.n_vocab * sizeof *logits);
    struct sample_scratch *c = NULL;
    struct err e;
    enum err_code code = sample_scratch_create(g->info.n_vocab, &c, &e);
    assert(tokens && logits && !code);
    memcpy(tokens, r->tokens, r->n_tok * sizeof *tokens);
    *ret_a = (struct fake_answer){.finish = SCH_FINISH_LENGTH};
    struct eng_detok detok = {.started = true};
    struct buf raw = {0};
    size_t from = 0;
    for (uint32_t i = 0; i < n_gen_max && ret_a->finish == SCH_FINISH_LENGTH; i++) {
        int32_t id = next_id(g, r, tokens, r->n_tok + i, c, logits);
        tokens[r->n_tok + i] = id;
        ret_a->n++;
        bool by_id = i >= r->n_gen_min && ends(g, r, id);
        if (!by_id || r->keep_stop) {
            eng_detokenize(g, &detok, id, r->show_special, &raw);
        }
        decode(&raw, false, &ret_a->text);
        size_t end = 0;
        if (i < r->n_gen_min) {
            from = ret_a->text.len;
        } else if ((ret_a->stop_matched = find_stop(r, &ret_a->text, from, &end))) {
            ret_a->text.len = end - (r->keep_stop ? 0 : strlen(ret_a->stop_matched));
        }
        if (by_id || ret_a->stop_matched) {
            ret_a->finish = SCH_FINISH_STOP;
        }
    }
    if (!ret_a->stop_matched) {
        decode(&raw, true, &ret_a->text);
    }
    ret_a->ids = malloc((ret_a->n + 1) * sizeof *ret_a->ids);
    assert(ret_a->ids);
    memcpy(ret_a->ids, tokens + r->n_tok, ret_a->n * sizeof *ret_a->ids);
    free(tokens);
    free(logits);
    buf_free(&raw);
    sample_scratch_destroy(c);
}

void fake_answer_finish(struct fake_answer *a)
{
    free(a->ids);
    buf_free(&a->text);
}
