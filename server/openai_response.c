#include "server/openai_response.h"

#include "base/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define LOGPROB_FLOOR (-9999.0F) /* what OpenAI writes for a probability of nothing */

static const char *finish_word(const struct srv_choice *c)
{
    return c->finish == SCH_FINISH_LENGTH ? "length" : c->tools.n_call ? "tool_calls" : "stop";
}

static bool is_chat(const struct srv_answer *a)
{
    return a->request.api == SRV_API_CHAT;
}

static void put_head(struct srv_answer *a, const struct srv_model_view *m, const char *object,
                     struct buf *out)
{
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", a->id,
               object, a->created_s);
    buf_json_string(out, m->name, strlen(m->name));
    buf_printf(out, ",\"system_fingerprint\":\"%s\"", m->fingerprint);
}

void srv_response_begin(struct srv_answer *a, const struct srv_model_view *m)
{
    bool chunks = is_chat(a) && a->request.stream;
    a->n_embd = m->eng->info.n_embd;
    put_head(a, m,
             chunks       ? "chat.completion.chunk"
             : is_chat(a) ? "chat.completion"
                          : "text_completion",
             &a->prefix);
}

/* ---- logprobs */

static float floored(float logprob)
{
    return logprob > LOGPROB_FLOOR ? logprob : LOGPROB_FLOOR;
}

static void comma(struct buf *b)
{
    if (b->len) {
        buf_putc(b, ',');
    }
}

/* The bytes of one token by itself, as it would stand inside a text. */
static void token_bytes(const struct srv_model_view *m, int32_t id, struct buf *out)
{
    struct eng_detok inside = {.started = true};
    eng_detokenize(m->eng, &inside, id, true, out);
}

/* "token":…,"logprob":…,"bytes":[…] */
static void put_chat_token(const struct srv_model_view *m, int32_t id, float logprob,
                           struct buf *out)
{
    struct buf bytes = {0};
    token_bytes(m, id, &bytes);
    buf_puts(out, "\"token\":");
    buf_json_string(out, buf_str(&bytes), bytes.len);
    buf_puts(out, ",\"logprob\":");
    buf_json_f32(out, floored(logprob));
    buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < bytes.len; i++) {
        buf_printf(out, i ? ",%u" : "%u", (unsigned char)bytes.data[i]);
    }
    buf_putc(out, ']');
    buf_free(&bytes);
}

static void take_chat_logprobs(struct srv_choice *c, const struct sample_result *r,
                               const struct srv_model_view *m)
{
    struct buf *out = &c->logprobs.items;
    comma(out);
    buf_putc(out, '{');
    put_chat_token(m, r->id, r->logprob, out);
    buf_puts(out, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < r->n_top; i++) {
        buf_puts(out, i ? ",{" : "{");
        put_chat_token(m, r->top[i].id, r->top[i].logprob, out);
        buf_putc(out, '}');
    }
    buf_puts(out, "]}");
}

static void put_token_string(const struct srv_model_view *m, int32_t id, struct buf *out)
{
    struct buf bytes = {0};
    token_bytes(m, id, &bytes);
    buf_json_string(out, buf_str(&bytes), bytes.len);
    buf_free(&bytes);
}

/* {"token":logprob,…}; two ids with the same text are one key, the likelier first. */
static void put_top_map(const struct srv_model_view *m, const struct sample_result *r,
                        struct buf *out)
{
    struct buf keys[SAMPLE_TOP_MAX + 1] = {{0}};
    size_t n = 0;
    buf_putc(out, '{');
    for (uint32_t i = 0; i <= r->n_top; i++) {
        int32_t id = i < r->n_top ? r->top[i].id : r->id;
        float logprob = i < r->n_top ? r->top[i].logprob : r->logprob;
        bool seen = false;
        put_token_string(m, id, &keys[n]);
        for (size_t k = 0; k < n; k++) {
            seen = seen || strcmp(buf_str(&keys[k]), buf_str(&keys[n])) == 0;
        }
        if (seen) {
            buf_clear(&keys[n]);
            continue;
        }
        buf_puts(out, n ? "," : "");
        buf_puts(out, buf_str(&keys[n]));
        buf_putc(out, ':');
        buf_json_f32(out, floored(logprob));
        n++;
    }
    buf_putc(out, '}');
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        buf_free(&keys[k]);
    }
}

/* r NULL: the first token of a prompt, which nothing predicts. */
static void take_completion_logprobs(struct srv_choice *c, int32_t id,
                                     const struct sample_result *r, const struct srv_model_view *m)
{
    struct srv_logprob_bufs *l = &c->logprobs;
    comma(&l->items);
    comma(&l->values);
    comma(&l->tops);
    comma(&l->offsets);
    put_token_string(m, id, &l->items);
    buf_printf(&l->offsets, "%" PRIu64, c->n_text_char);
    if (r) {
        buf_json_f32(&l->values, floored(r->logprob));
        put_top_map(m, r, &l->tops);
    } else {
        buf_puts(&l->values, "null");
        buf_puts(&l->tops, "null");
    }
}

/* Characters are counted by their first bytes, whole or not. */
static void count_chars(struct srv_choice *c, int32_t id, bool show_special,
                        const struct srv_model_view *m)
{
    struct buf bytes = {0};
    eng_detokenize(m->eng, &c->detok, id, show_special, &bytes);
    for (size_t i = 0; i < bytes.len; i++) {
        c->n_text_char += ((unsigned char)bytes.data[i] & 0xC0) != 0x80;
    }
    buf_free(&bytes);
}

static void take_logprobs(struct srv_answer *a, struct srv_choice *c, int32_t id,
                          const struct sample_result *r, const struct srv_model_view *m)
{
    if (is_chat(a)) {
        if (r) {
            take_chat_logprobs(c, r, m);
        }
        return;
    }
    take_completion_logprobs(c, id, r, m);
    count_chars(c, id, !a->request.skip_special, m);
}

/* ---- taking events */

/* What stands before the model's first token: the echoed prompt, and its first token's null. */
static void take_echo(struct srv_answer *a, struct srv_choice *c, const struct srv_model_view *m)
{
    const struct srv_prompt_tokens *p = &a->prompts[c->i_prompt];
    if (!a->request.echo) {
        return;
    }
    buf_append(&c->text, buf_str(&p->echo), p->echo.len);
    if (a->request.want_logprobs && !is_chat(a) && p->ids.n) {
        take_logprobs(a, c, p->ids.ids[0], NULL, m);
    }
}

void srv_response_take(struct srv_answer *a, struct srv_choice *c, const struct sch_event *ev,
                       const struct srv_model_view *m)
{
    if (!c->begun) {
        c->begun = true;
        take_echo(a, c, m);
    }
    if (ev->kind != SCH_EVENT_TOKEN) {
        srv_tool_reader_end(&c->tools, &c->text);
        return;
    }
    if (a->request.want_logprobs && ev->logprobs) {
        take_logprobs(a, c, ev->id, ev->logprobs, m);
    }
    if (ev->of_prompt) {
        return;
    }
    c->n_gen_tok++;
    srv_tool_reader_feed(&c->tools, ev->text, ev->n_byte, &c->text);
    if (a->request.return_token_ids) {
        comma(&c->ids);
        buf_printf(&c->ids, "%" PRId32, ev->id);
    }
}

size_t srv_response_bytes(const struct srv_choice *c)
{
    return c->text.len + c->ids.len + c->logprobs.items.len + c->logprobs.values.len +
           c->logprobs.tops.len + c->logprobs.offsets.len + c->tools.held.len +
           c->tools.n_call_byte + c->tools.thought.len;
}

/* ---- writing */

static void put_logprobs(struct srv_answer *a, struct srv_choice *c, struct buf *out)
{
    struct srv_logprob_bufs *l = &c->logprobs;
    if (!a->request.want_logprobs) {
        buf_puts(out, ",\"logprobs\":null");
        return;
    }
    if (is_chat(a)) {
        buf_puts(out, ",\"logprobs\":{\"content\":[");
        buf_append(out, buf_str(&l->items), l->items.len);
        buf_puts(out, "],\"refusal\":null}");
    } else {
        const struct {
            const char *open;
            struct buf *part;
        } parts[] = {{",\"logprobs\":{\"tokens\":[", &l->items},
                     {"],\"token_logprobs\":[", &l->values},
                     {"],\"top_logprobs\":[", &l->tops},
                     {"],\"text_offset\":[", &l->offsets}};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            buf_puts(out, parts[i].open);
            buf_append(out, buf_str(parts[i].part), parts[i].part->len);
        }
        buf_puts(out, "]}");
    }
    buf_clear(&l->items);
    buf_clear(&l->values);
    buf_clear(&l->tops);
    buf_clear(&l->offsets);
}

static void put_ids(struct srv_answer *a, struct srv_choice *c, struct buf *out)
{
    if (a->request.return_token_ids) {
        buf_puts(out, ",\"token_ids\":[");
        buf_append(out, buf_str(&c->ids), c->ids.len);
        buf_putc(out, ']');
        buf_clear(&c->ids);
    }
}

static void put_prompt_ids(const struct srv_prompt_tokens *p, struct buf *out)
{
    buf_puts(out, ",\"prompt_token_ids\":[");
    for (size_t i = 0; i < p->ids.n; i++) {
        buf_printf(out, i ? ",%" PRId32 : "%" PRId32, p->ids.ids[i]);
    }
    buf_putc(out, ']');
}

/* What came from the cache is known once all choices have ended. */
static void put_usage(const struct srv_answer *a, struct buf *out)
{
    uint64_t n_prompt = 0;
    uint64_t n_cached = 0;
    uint64_t n_disk = 0;
    uint64_t n_write = 0;
    uint64_t n_gen = 0;
    for (size_t i = 0; i < a->n_prompt; i++) {
        n_prompt += a->prompts[i].ids.n;
    }
    for (size_t i = 0; i < a->n_choice; i++) {
        n_gen += a->choices[i].n_gen_tok;
        if (i % (size_t)a->request.n == 0) { /* once, however many choices go on from a prompt */
            n_cached += a->choices[i].n_cached_tok;
            n_disk += a->choices[i].n_cached_disk_tok;
            n_write += a->choices[i].n_cache_write_tok;
        }
    }
    buf_printf(out,
               "\"usage\":{\"prompt_tokens\":%" PRIu64 ",\"completion_tokens\":%" PRIu64
               ",\"total_tokens\":%" PRIu64,
               n_prompt, n_gen, n_prompt + n_gen);
    if (!a->n_open) {
        buf_printf(out,
                   ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRIu64
                   ",\"cache_write_tokens\":%" PRIu64
                   "},\"kvasir\":{\"cached_tokens\":{\"ram\":%" PRIu64 ",\"disk\":%" PRIu64 "}}",
                   n_cached, n_write, n_cached - n_disk, n_disk);
    }
    buf_putc(out, '}');
}

static void chunk_open(struct srv_answer *a, struct srv_choice *c, struct buf *out)
{
    buf_puts(out, "data: ");
    buf_append(out, buf_str(&a->prefix), a->prefix.len);
    buf_printf(out, ",\"choices\":[{\"index\":%" PRIu32, c->index);
}

static void chunk_close(const struct srv_answer *a, struct buf *out)
{
    if (a->request.include_usage && a->request.continuous_usage) {
        buf_putc(out, ',');
        put_usage(a, out);
    } else if (a->request.include_usage) {
        buf_puts(out, ",\"usage\":null");
    }
    buf_puts(out, "}\n\n");
}

static void put_call(const struct srv_tool_call *call, struct buf *out)
{
    buf_printf(out, "\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", call->id);
    buf_json_string(out, call->name, strlen(call->name));
    buf_puts(out, ",\"arguments\":");
    buf_json_string(out, call->arguments, strlen(call->arguments));
    buf_puts(out, "}}");
}

/* Each call not yet sent, whole, as a chunk. */
static void put_call_chunks(struct srv_answer *a, struct srv_choice *c, struct buf *out)
{
    for (; c->n_call_sent < c->tools.n_call; c->n_call_sent++) {
        chunk_open(a, c, out);
        buf_printf(out, ",\"delta\":{\"tool_calls\":[{\"index\":%zu,", c->n_call_sent);
        put_call(&c->tools.calls[c->n_call_sent], out);
        buf_puts(out, "]},\"logprobs\":null,\"finish_reason\":null}]");
        chunk_close(a, out);
    }
}

static void put_role_chunk(struct srv_answer *a, struct srv_choice *c, struct buf *out)
{
    chunk_open(a, c, out);
    buf_puts(out, ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                  "\"finish_reason\":null}]");
    if (a->request.return_token_ids) {
        put_prompt_ids(&a->prompts[c->i_prompt], out);
    }
    chunk_close(a, out);
}

/* Ids or log-probabilities that wait for a chunk. */
static bool has_more(const struct srv_choice *c)
{
    return c->ids.len || c->logprobs.items.len;
}

static void put_thought_chunk(struct srv_answer *a, struct srv_choice *c, struct buf *out)
{
    struct buf *thought = &c->tools.thought;
    if (thought->len) {
        chunk_open(a, c, out);
        buf_puts(out, ",\"delta\":{\"reasoning_content\":");
        buf_json_string(out, buf_str(thought), thought->len);
        buf_puts(out, "},\"logprobs\":null,\"finish_reason\":null}]");
        chunk_close(a, out);
        buf_clear(thought);
    }
}

void srv_response_chunk(struct srv_answer *a, struct srv_choice *c, bool flush, struct buf *out)
{
    bool first = !c->head_sent;
    if (first) {
        c->head_sent = true;
        if (is_chat(a)) {
            put_role_chunk(a, c, out);
        }
    }
    put_thought_chunk(a, c, out);
    if (!c->text.len && !(flush && has_more(c))) {
        put_call_chunks(a, c, out);
        return;
    }
    chunk_open(a, c, out);
    buf_puts(out, is_chat(a) ? ",\"delta\":{\"content\":" : ",\"text\":");
    buf_json_string(out, buf_str(&c->text), c->text.len);
    buf_puts(out, is_chat(a) ? "}" : "");
    buf_clear(&c->text);
    put_logprobs(a, c, out);
    buf_puts(out, ",\"finish_reason\":null");
    put_ids(a, c, out);
    if (first && !is_chat(a) && a->request.return_token_ids) {
        put_prompt_ids(&a->prompts[c->i_prompt], out);
    }
    buf_puts(out, "}]");
    chunk_close(a, out);
    put_call_chunks(a, c, out);
}

static void put_finish(const struct srv_choice *c, struct buf *out)
{
    buf_printf(out, ",\"finish_reason\":\"%s\"", finish_word(c));
    if (c->stop_matched) {
        buf_puts(out, ",\"stop_reason\":");
        buf_json_string(out, c->stop_matched, strlen(c->stop_matched));
    }
}

void srv_response_finish_chunk(struct srv_answer *a, struct srv_choice *c, struct buf *out)
{
    srv_response_chunk(a, c, true, out);
    chunk_open(a, c, out);
    buf_puts(out, is_chat(a) ? ",\"delta\":{}" : ",\"text\":\"\"");
    buf_puts(out, ",\"logprobs\":null");
    put_finish(c, out);
    buf_puts(out, "}]");
    chunk_close(a, out);
}

void srv_response_stream_end(struct srv_answer *a, struct buf *out)
{
    if (a->request.include_usage) {
        buf_puts(out, "data: ");
        buf_append(out, buf_str(&a->prefix), a->prefix.len);
        buf_puts(out, ",\"choices\":[],");
        put_usage(a, out);
        buf_puts(out, "}\n\n");
    }
    buf_puts(out, "data: [DONE]\n\n");
}

void srv_response_stream_error(const struct srv_fail *f, struct buf *out)
{
    buf_puts(out, "data: ");
    srv_fail_json(f, out);
    buf_puts(out, "\n\ndata: [DONE]\n\n");
}

static void put_whole_choice(struct srv_answer *a, struct srv_choice *c, struct buf *out)
{
    buf_printf(out, "{\"index\":%" PRIu32, c->index);
    if (is_chat(a)) {
        buf_puts(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
    } else {
        buf_puts(out, ",\"text\":");
    }
    if (c->tools.n_call && !c->text.len) {
        buf_puts(out, "null");
    } else {
        buf_json_string(out, buf_str(&c->text), c->text.len);
    }
    if (c->tools.thought.len) {
        buf_puts(out, ",\"reasoning_content\":");
        buf_json_string(out, buf_str(&c->tools.thought), c->tools.thought.len);
    }
    for (size_t i = 0; i < c->tools.n_call; i++) {
        buf_puts(out, i ? ",{" : ",\"tool_calls\":[{");
        put_call(&c->tools.calls[i], out);
    }
    buf_puts(out, c->tools.n_call ? "]" : "");
    buf_puts(out, is_chat(a) ? ",\"refusal\":null}" : "");
    put_logprobs(a, c, out);
    put_finish(c, out);
    put_ids(a, c, out);
    if (a->request.return_token_ids && !is_chat(a)) {
        put_prompt_ids(&a->prompts[c->i_prompt], out);
    }
    buf_putc(out, '}');
}

void srv_response_whole(struct srv_answer *a, struct buf *out)
{
    buf_append(out, buf_str(&a->prefix), a->prefix.len);
    buf_puts(out, ",\"choices\":[");
    for (size_t i = 0; i < a->n_choice; i++) {
        buf_puts(out, i ? "," : "");
        put_whole_choice(a, &a->choices[i], out);
    }
    buf_puts(out, "],");
    put_usage(a, out);
    if (a->request.return_token_ids && is_chat(a)) {
        put_prompt_ids(&a->prompts[0], out);
    }
    buf_putc(out, '}');
}
