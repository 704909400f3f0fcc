#include "scheduler/sequence.h"

#include "scheduler/cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static enum err_code check_request(const struct sch_limits *limits, const struct sch_request *r,
                                   struct err *e)
{
    uint32_t n_vocab = limits->eng->info.n_vocab;
    if (!r->n_tok || !r->tokens) {
        return err_set(e, ERR_INVALID, "the prompt has no tokens");
    }
    for (uint32_t i = 0; i < r->n_tok; i++) {
        if (r->tokens[i] < 0 || (uint32_t)r->tokens[i] >= n_vocab) {
            return err_set(e, ERR_INVALID, "prompt token %u is %d: ids are in [0, %u)", i,
                           (int)r->tokens[i], n_vocab);
        }
    }
    if (r->adapter > limits->eng->info.n_adapter) {
        return err_set(e, ERR_INVALID, "adapter %u of %u", r->adapter, limits->eng->info.n_adapter);
    }
    if (limits->eng->info.encoder && !r->embed) {
        return err_set(e, ERR_UNSUPPORTED,
                       "this model is an encoder: it makes embeddings, not text");
    }
    if (r->embed && (!limits->eng->info.n_embd || r->n_gen_max)) {
        return err_set(e, ERR_UNSUPPORTED, "this model makes no embeddings");
    }
    uint32_t n_more = r->n_gen_max ? 1 : 0;
    if (r->n_tok > limits->n_tok_max || limits->n_tok_max - r->n_tok < n_more) {
        bool by_ctx = limits->n_tok_max == limits->eng->info.n_ctx;
        return err_set(e, ERR_LIMIT, "a prompt of %u tokens%s does not fit the %s of %u tokens",
                       r->n_tok, n_more ? " and one token more" : "",
                       by_ctx ? "context" : "KV memory", limits->n_tok_max);
    }
    if (r->n_stop > SCH_STOP_MAX || (r->n_stop && !r->stop) || (r->n_stop_id && !r->stop_ids) ||
        (r->sample.n_bias && !r->sample.bias)) {
        return err_set(e, ERR_INVALID, "%u stop strings: at most %d", r->n_stop, SCH_STOP_MAX);
    }
    return ERR_OK;
}

static void *copy_of(const void *bytes, size_t n)
{
    void *p = malloc(n ? n : 1);
    if (p && n) {
        memcpy(p, bytes, n);
    }
    return p;
}

static bool copy_lists(struct sch_seq *q, const struct sch_limits *limits,
                       const struct sch_request *r)
{
    q->bias = copy_of(r->sample.bias, r->sample.n_bias * sizeof *q->bias);
    q->stop_id = copy_of(r->stop_ids, r->n_stop_id * sizeof *q->stop_id);
    q->n_stop_id = r->n_stop_id;
    q->tenant = strdup(r->tenant ? r->tenant : "");
    uint32_t n_forbid = r->n_stop_id + (r->ignore_eos ? 0 : limits->n_eog);
    q->forbid = malloc((n_forbid + 1) * sizeof *q->forbid);
    if (!q->bias || !q->stop_id || !q->tenant || !q->forbid) {
        return false;
    }
    memcpy(q->forbid, q->stop_id, q->n_stop_id * sizeof *q->forbid);
    if (!r->ignore_eos && limits->n_eog) {
        memcpy(q->forbid + q->n_stop_id, limits->eog, limits->n_eog * sizeof *q->forbid);
    }
    q->n_forbid = n_forbid;
    q->sample.bias = q->bias;
    q->sample.forbid = q->forbid;
    q->sample.n_forbid = 0;
    return true;
}

static bool make_pool(struct sch_seq *q, const struct eng *eng, const struct sch_request *r)
{
    uint32_t n_embd = eng->info.n_embd;
    q->pooling = r->pooling;
    q->pool = r->embed ? calloc(n_embd, sizeof *q->pool) : NULL;
    q->embedding = r->embed ? calloc(n_embd, sizeof *q->embedding) : NULL;
    return !r->embed || (q->pool && q->embedding);
}

static bool copy_tokens(struct sch_seq *q, const struct eng *eng, const struct sch_request *r)
{
    q->tokens = malloc(((size_t)r->n_tok + q->n_gen_max) * sizeof *q->tokens);
    if (!q->tokens) {
        return false;
    }
    memcpy(q->tokens, r->tokens, r->n_tok * sizeof *q->tokens);
    for (uint32_t i = 0; i < r->n_tok; i++) {
        sample_state_accept(q->counts, r->tokens[i], false);
    }
    /* The answer continues the prompt's text, so its first token is not the text's first. */
    for (uint32_t i = 0; i < r->n_tok && !q->detok.started; i++) {
        eng_detokenize(eng, &q->detok, r->tokens[i], r->show_special, &q->text.raw);
        buf_clear(&q->text.raw);
    }
    return sch_text_ok(&q->text);
}

enum err_code sch_seq_create(const struct sch_limits *limits, const struct sch_request *r,
                             struct sch_stream *st, struct sch_seq **ret_q, struct err *e)
{
    enum err_code code = check_request(limits, r, e);
    if (code) {
        return code;
    }
    struct sch_seq *q = calloc(1, sizeof *q);
    if (!q) {
        return err_set(e, ERR_NOMEM, "out of memory for a request");
    }
    uint32_t n_gen_room = limits->n_tok_max - r->n_tok;
    sch_list_init(&q->link);
    sch_list_init(&q->ticket.link);
    q->st = st;
    q->n_prompt = r->n_tok;
    q->n_scored = 1;
    q->n_gen_max = r->n_gen_max < n_gen_room ? r->n_gen_max : n_gen_room;
    q->n_gen_min = r->n_gen_min < q->n_gen_max ? r->n_gen_min : q->n_gen_max;
    q->sample = r->sample;
    q->ignore_eos = r->ignore_eos;
    q->show_special = r->show_special;
    q->adapter = r->adapter;
    q->n_show_id = r->n_show_id < SCH_SHOW_MAX ? r->n_show_id : SCH_SHOW_MAX;
    memcpy(q->show_ids, r->show_ids, sizeof q->show_ids);
    q->prompt_logprobs = r->prompt_logprobs;
    q->keep_stop = r->keep_stop;
    q->deadline_us = r->deadline_us;
    /* A mean needs every row: none of them may be taken over. */
    q->retention = r->retention;
    q->shares = limits->shares && (!r->embed || r->pooling == ENG_POOLING_LAST);
    if (q->shares) {
        code = sch_cache_identity(&limits->eng->info, r->adapter, r->tenant, r->cache_salt,
                                  &q->identity, e);
    }
    if (!code) {
        code = sch_text_init(&q->text, r->stop, r->n_stop, r->keep_stop, e);
    }
    if (!code && sample_needs_state(&r->sample)) {
        code =
            sample_state_create(limits->eng->info.n_vocab, r->n_tok + q->n_gen_max, &q->counts, e);
    }
    if (!code && (!copy_lists(q, limits, r) || !copy_tokens(q, limits->eng, r) ||
                  !make_pool(q, limits->eng, r))) {
        code = err_set(e, ERR_NOMEM, "out of memory for a request of %u tokens", r->n_tok);
    }
    if (code) {
        sch_seq_destroy(q);
        return code;
    }
    *ret_q = q;
    return ERR_OK;
}

void sch_seq_destroy(struct sch_seq *q)
{
    if (q) {
        free(q->tokens);
        free(q->bias);
        free(q->forbid);
        free(q->stop_id);
        free(q->tenant);
        free(q->state);
        free(q->pool);
        free(q->embedding);
        sample_state_destroy(q->counts);
        sch_text_finish(&q->text);
        free(q);
    }
}

uint32_t sch_seq_out_from(const struct sch_seq *q, uint32_t n_tok)
{
    if (q->pool) {
        bool last = q->n_computed + n_tok == q->n_prompt;
        return q->pooling != ENG_POOLING_LAST ? 0 : last ? n_tok - 1 : n_tok;
    }
    uint32_t end = q->n_computed + n_tok;
    uint32_t from = end == sch_seq_n_tok(q) && q->n_gen_max ? end - 1 : end;
    /* Row i scores token i + 1. */
    if (q->prompt_logprobs && q->n_scored < q->n_prompt && q->n_scored - 1 < from) {
        uint32_t first = q->n_scored - 1;
        from = first > q->n_computed ? first : q->n_computed;
    }
    return (from < end ? from : end) - q->n_computed;
}

static bool ends_by_id(const struct sch_seq *q, const struct eng *eng, int32_t id)
{
    if (!q->ignore_eos && eng_is_eog(eng, id)) {
        return true;
    }
    for (uint32_t i = 0; i < q->n_stop_id; i++) {
        if (q->stop_id[i] == id) {
            return true;
        }
    }
    return false;
}

static bool shows(const struct sch_seq *q, int32_t id)
{
    bool show = q->show_special;
    for (uint32_t i = 0; i < q->n_show_id; i++) {
        show = show || q->show_ids[i] == id;
    }
    return show;
}

static enum sch_finish take_generated(struct sch_seq *q, const struct eng *eng,
                                      const struct sample_result *r, struct err *e)
{
    bool look = q->n_gen >= q->n_gen_min; /* as many as n_gen_min may not end it */
    q->tokens[sch_seq_n_tok(q)] = r->id;
    q->n_gen++;
    sample_state_accept(q->counts, r->id, true);
    bool by_id = look && ends_by_id(q, eng, r->id);
    if (!by_id || q->keep_stop) {
        eng_detokenize(eng, &q->detok, r->id, shows(q, r->id), &q->text.raw);
    }
    bool by_string = sch_text_feed(&q->text, look);
    enum sch_finish finish = SCH_FINISH_NONE;
    if (by_id || by_string) {
        finish = SCH_FINISH_STOP;
    } else if (q->n_gen == q->n_gen_max) {
        finish = SCH_FINISH_LENGTH;
    }
    if (finish) {
        sch_text_flush(&q->text);
    }
    const char *text = buf_str(&q->text.text);
    bool scored = q->sample.want_logprob || q->sample.n_top_logprob;
    if (!sch_text_ok(&q->text) ||
        !sch_stream_push(q->st, r->id, false, text, q->text.n_ready, scored ? r : NULL)) {
        (void)err_set(e, ERR_NOMEM, "out of memory for the answer's text");
        return SCH_FINISH_ERROR;
    }
    sch_text_taken(&q->text);
    return finish;
}

bool sch_seq_pick(const struct sch_seq *q, struct sample_scratch *scratch, float *logits,
                  uint32_t row, struct sample_result *ret_r)
{
    struct sample_params p = q->sample;
    if (row + 1 < q->n_prompt) {
        if (!q->prompt_logprobs || row + 1 < q->n_scored) {
            return false;
        }
        p.want_logprob = true;
        sample_score(&p, scratch, logits, q->tokens[row + 1], ret_r);
        return true;
    }
    if (row + 1 != sch_seq_n_tok(q) || !q->n_gen_max) {
        return false;
    }
    p.n_forbid = q->n_gen < q->n_gen_min ? q->n_forbid : 0;
    sample_pick(&p, q->counts, scratch, logits, row + 1, ret_r);
    return true;
}

void sch_seq_pool(struct sch_seq *q, const struct eng *eng, const float *hidden, uint32_t pos,
                  uint32_t n_row)
{
    uint32_t n_embd = eng->info.n_embd;
    if (pos == 0) { /* also when it starts again, after its memory was taken */
        memset(q->pool, 0, n_embd * sizeof *q->pool);
    }
    eng_pool_add(q->pooling, hidden, pos, n_row, q->n_prompt, n_embd, q->pool);
    if (pos + n_row == q->n_prompt) {
        eng_pool_end(q->pooling, q->pool, q->n_prompt, n_embd, true, q->embedding);
    }
}

enum sch_finish sch_seq_take(struct sch_seq *q, const struct eng *eng, uint32_t row,
                             const struct sample_result *r, struct err *e)
{
    if (row + 1 >= q->n_prompt) {
        return take_generated(q, eng, r, e);
    }
    assert(row + 1 == q->n_scored);
    q->n_scored++;
    if (!sch_stream_push(q->st, r->id, true, "", 0, r)) {
        (void)err_set(e, ERR_NOMEM, "out of memory for a prompt's log-probabilities");
        return SCH_FINISH_ERROR;
    }
    return SCH_FINISH_NONE;
}

struct sch_event sch_seq_end_event(const struct sch_seq *q, enum sch_finish finish,
                                   const struct err *error)
{
    bool matched = finish == SCH_FINISH_STOP && q->text.matched >= 0;
    bool keeps = q->shares && !q->retention.leaves_nothing;
    uint32_t n_known = q->n_charged < q->n_prompt ? q->n_charged : q->n_prompt;
    return (struct sch_event){
        .kind = SCH_EVENT_END,
        .finish = finish,
        .error = finish == SCH_FINISH_ERROR ? error : NULL,
        .stop_matched = matched ? q->text.stop.strings[q->text.matched].text : NULL,
        .embedding = finish == SCH_FINISH_LENGTH ? q->embedding : NULL,
        .n_prompt_tok = q->n_prompt,
        .n_cached_tok = q->n_cached,
        .n_cached_disk_tok = q->n_cached_disk,
        .n_cache_write_tok = keeps ? n_known - q->n_cached : 0,
        .n_gen_tok = q->n_gen,
    };
}
