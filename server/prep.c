#include "server/prep.h"

#include "server/model.h"

#include "base/mpsc.h"
#include "server/answer.h"
#include "server/chat_values.h"
#include "server/embeddings.h"
#include "server/openai_fields.h"
#include "server/srv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SUFFIX_BYTES_MAX   ((size_t)4096) /* what a template puts behind the last message at most */
#define WAIT_US            1000000
#define TEMPLATE_BYTES_MAX ((size_t)64 << 20) /* values of one chat request */

struct srv_prep {
    struct mpsc *queue;
    size_t n_thread;
    pthread_t threads[];
};

/* ---- prompts */

static bool fits(struct srv *s, size_t n_tok, bool generates, const char *param, struct srv_fail *f)
{
    uint32_t n_ctx = s->eng->info.n_ctx;
    if (n_tok == 0) {
        return srv_fail(f, 400, "invalid_value", param, "%s has no tokens", param);
    }
    if (n_tok + generates > n_ctx) {
        return srv_fail(f, 400, "context_length_exceeded", param,
                        "this model's context is %u tokens, but the prompt has %zu%s", n_ctx, n_tok,
                        generates ? " and the answer needs at least one" : "");
    }
    return true;
}

static bool tokenize(struct srv *s, const char *text, size_t n_byte, unsigned flags,
                     struct eng_ids *out, const char *param, struct srv_fail *f)
{
    struct err e = {0};
    if (eng_tokenize(s->eng, text, n_byte, flags, out, &e) != ERR_OK) {
        return srv_fail_of(f, &e, param);
    }
    return true;
}

static bool completion_prompt(struct srv *s, const struct srv_request *r,
                              const struct srv_prompt *in, struct srv_prompt_tokens *out,
                              struct srv_fail *f)
{
    unsigned flags = ENG_TOKENIZE_PARSE_SPECIAL;
    const char *name = r->api == SRV_API_EMBEDDING ? "input" : "prompt";
    flags |= r->add_special != 0 ? ENG_TOKENIZE_ADD_SPECIAL : 0;
    if (in->text) {
        if (!tokenize(s, in->text, in->n_byte, flags, &out->ids, name, f)) {
            return false;
        }
        if (r->echo) {
            buf_append(&out->echo, in->text, in->n_byte);
        }
        return fits(s, out->ids.n, r->n_gen_max != 0, name, f);
    }
    struct eng_detok detok = {0};
    for (size_t i = 0; i < in->n_id; i++) {
        struct err e = {0};
        if (eng_ids_push(&out->ids, in->ids[i], &e) != ERR_OK) {
            return srv_fail_of(f, &e, name);
        }
        if (r->echo) {
            eng_detokenize(s->eng, &detok, in->ids[i], !r->skip_special, &out->echo);
        }
    }
    return fits(s, out->ids.n, r->n_gen_max != 0, name, f);
}

/* The text of the token that begins a sequence; empty when the model has none. */
static void bos_text(const struct srv *s, struct buf *out)
{
    struct eng_detok detok = {0};
    if (s->eng->info.bos_id != ENG_TOKEN_NONE) {
        eng_detokenize(s->eng, &detok, s->eng->info.bos_id, true, out);
    }
}

/* To go on from the last message, what the template put behind its text is cut off. */
static bool cut_to_final_text(const struct tmpl_value *context, struct buf *rendered,
                              struct srv_fail *f)
{
    static const char space[] = " \t\r\n";
    size_t n = 0;
    const char *text = srv_chat_final_text(context, &n);
    while (n && strchr(space, text[n - 1])) { /* templates trim: look for the trimmed text */
        n--;
    }
    size_t lead = 0;
    while (lead < n && strchr(space, text[lead])) {
        lead++;
    }
    text += lead;
    n -= lead;
    for (size_t end = rendered->len; n && end >= n && rendered->len - end <= SUFFIX_BYTES_MAX;
         end--) {
        if (memcmp(rendered->data + end - n, text, n) == 0) {
            rendered->len = end;
            rendered->data[end] = 0;
            return true;
        }
    }
    return srv_fail(f, 400, "invalid_value", "continue_final_message",
                    n ? "the chat template does not show the final message's text"
                      : "the final message has no text to go on from");
}

static bool render_chat(struct srv *s, const struct srv_request *r, struct tmpl_arena *arena,
                        struct buf *out, struct srv_fail *f)
{
    struct tmpl_value *context = NULL;
    struct err e = {0};
    if (!srv_chat_context(r, s->tools.text_arguments, arena, &context, f)) {
        return false;
    }
    if (eng_render_chat(s->eng, context, out, &e) != ERR_OK) {
        return srv_fail_of(f, &e, "messages");
    }
    if (!buf_ok(out)) {
        return srv_fail(f, 503, "out_of_memory", NULL, "out of memory for the prompt");
    }
    return !r->continue_final_message || cut_to_final_text(context, out, f);
}

static bool chat_prompt(struct srv *s, const struct srv_request *r, struct srv_prompt_tokens *out,
                        struct srv_fail *f)
{
    struct tmpl_arena *arena = NULL;
    struct buf text = {0};
    struct buf bos = {0};
    struct err e = {0};
    if (tmpl_arena_create(TEMPLATE_BYTES_MAX, &arena, &e) != ERR_OK) {
        return srv_fail_of(f, &e, NULL);
    }
    bool good = render_chat(s, r, arena, &text, f);
    if (good) {
        unsigned flags = ENG_TOKENIZE_PARSE_SPECIAL;
        bos_text(s, &bos);
        bool has_bos = bos.len && text.len >= bos.len && memcmp(text.data, bos.data, bos.len) == 0;
        bool wanted = r->add_special < 0 ? !has_bos : r->add_special;
        flags |= wanted ? ENG_TOKENIZE_ADD_SPECIAL : 0;
        good = tokenize(s, buf_str(&text), text.len, flags, &out->ids, "messages", f) &&
               fits(s, out->ids.n, true, "messages", f);
    }
    if (good && r->echo && r->continue_final_message) {
        const cJSON *last = r->messages->child->prev; /* cJSON keeps the last item there */
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(last, "content");
        buf_puts(&out->echo, cJSON_IsString(content) ? content->valuestring : "");
    }
    tmpl_arena_destroy(arena);
    buf_free(&text);
    buf_free(&bos);
    return good;
}

static bool make_prompts(struct srv *s, const struct srv_request *r,
                         struct srv_prompt_tokens *prompts, size_t n_prompt, struct srv_fail *f)
{
    if (r->api == SRV_API_CHAT) {
        return chat_prompt(s, r, &prompts[0], f);
    }
    for (size_t i = 0; i < n_prompt; i++) {
        if (!completion_prompt(s, r, &r->prompts[i], &prompts[i], f)) {
            return false;
        }
    }
    return true;
}

/* ---- the routes with a body */

static bool model_is_served(const struct srv *s, const char *name, uint32_t *ret_adapter,
                            struct srv_fail *f)
{
    if (name && !srv_model_find(s, name, strlen(name), ret_adapter)) {
        return srv_fail(f, 404, "model_not_found", "model",
                        "the model '%.100s' does not exist; this server has '%.100s'", name,
                        s->model_name);
    }
    return true;
}

/* The adapter, by the model's name or by the field of its own. */
static bool find_adapter(const struct srv *s, struct srv_request *r, struct srv_fail *f)
{
    uint32_t by_name = 0;
    if (!model_is_served(s, r->model, &by_name, f)) {
        return false;
    }
    r->adapter = r->lora ? srv_model_adapter(s, r->lora, strlen(r->lora)) : by_name;
    if (r->lora && !r->adapter) {
        return srv_fail(f, 404, "model_not_found", "lora",
                        "the adapter '%.100s' does not exist; this server has %u", r->lora,
                        s->eng->info.n_adapter);
    }
    return !by_name || by_name == r->adapter ||
           srv_fail(f, 400, "invalid_value", "lora",
                    "lora '%.60s' is not the adapter that model '%.100s' names", r->lora, r->model);
}

/* Encoders make embeddings alone, and not every model makes them. */
static bool model_can(const struct srv *s, enum srv_api api, struct srv_fail *f)
{
    if (api == SRV_API_EMBEDDING && !s->embeds) {
        return srv_fail(f, 400, "unsupported_model", "model",
                        "the model '%.100s' makes no embeddings here%s", s->model_name,
                        s->eng->info.n_embd ? ": pooling is off" : "");
    }
    if (api != SRV_API_EMBEDDING && s->eng->info.encoder) {
        return srv_fail(f, 400, "unsupported_model", "model",
                        "the model '%.100s' is an encoder: it makes embeddings (POST "
                        "/v1/embeddings), not text",
                        s->model_name);
    }
    return true;
}

static bool generate(struct srv_job *j, struct srv_request *r, struct srv_fail *f)
{
    struct srv *s = j->srv;
    size_t n_prompt = r->api == SRV_API_CHAT ? 1 : r->n_prompt;
    struct srv_answer *a = NULL;
    struct err e = {0};
    if (!find_adapter(s, r, f) || !model_can(s, r->api, f)) {
        return false;
    }
    if (r->tools && !s->tools.shown) {
        return srv_fail(f, 400, "unsupported_parameter", "tools",
                        "the chat template of '%.100s' has no place for tools", s->model_name);
    }
    r->tool_format = s->tools.format;
    struct srv_prompt_tokens *prompts = calloc(n_prompt, sizeof *prompts);
    if (!prompts) {
        return srv_fail(f, 503, "out_of_memory", NULL, "out of memory for the request");
    }
    if (!make_prompts(s, r, prompts, n_prompt, f) ||
        (r->api == SRV_API_EMBEDDING &&
         !srv_embeddings_check(r, n_prompt, s->eng->info.n_embd, f))) {
        srv_prompt_tokens_free(prompts, n_prompt);
        return false;
    }
    if (srv_answer_create(r, prompts, n_prompt, &a, &e) != ERR_OK) {
        srv_prompt_tokens_free(prompts, n_prompt);
        return srv_fail_of(f, &e, NULL);
    }
    if (a->request.api != SRV_API_EMBEDDING) {
        srv_size_hist_add(&s->metrics.n_choice, (uint64_t)a->request.n);
    }
    return srv_answer_submit(j, a, f);
}

static bool run_generate(struct srv_job *j, enum srv_api api, struct srv_fail *f)
{
    struct srv_request r;
    const struct srv_request_env env = {j->srv->eng->info.n_vocab, j->srv->sampling};
    if (!srv_request_parse(api, buf_str(&j->body), j->body.len, &env, &r, f)) {
        return false;
    }
    bool good = generate(j, &r, f);
    srv_request_finish(&r); /* empty when the answer took it over */
    return good;
}

static bool read_switch(const cJSON *root, const char *name, bool *ret_v, struct srv_fail *f)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(root, name);
    if (v && !cJSON_IsNull(v)) {
        if (!cJSON_IsBool(v)) {
            return srv_fail(f, 400, "invalid_type", name, "%s must be a boolean, not %s", name,
                            srv_json_kind(v));
        }
        *ret_v = cJSON_IsTrue(v);
    }
    return true;
}

static void put_ids_reply(const struct srv *s, const struct eng_ids *ids, struct buf *out)
{
    buf_puts(out, "{\"tokens\":[");
    for (size_t i = 0; i < ids->n; i++) {
        buf_printf(out, i ? ",%d" : "%d", (int)ids->ids[i]);
    }
    buf_printf(out, "],\"count\":%zu,\"max_model_len\":%u}", ids->n, s->eng->info.n_ctx);
}

static bool tokenize_object(struct srv_job *j, const cJSON *root, struct srv_fail *f)
{
    static const char *const names[] = {"content", "prompt", "text"};
    const cJSON *text = NULL;
    bool add_special = false;
    bool parse_special = true;
    for (size_t i = 0; i < sizeof names / sizeof *names && !text; i++) {
        text = cJSON_GetObjectItemCaseSensitive(root, names[i]);
    }
    if (!cJSON_IsString(text)) {
        return srv_fail(f, 400, text ? "invalid_type" : "missing_required_parameter", "content",
                        "content must be a string");
    }
    if (!read_switch(root, "add_special", &add_special, f) ||
        !read_switch(root, "add_special_tokens", &add_special, f) ||
        !read_switch(root, "parse_special", &parse_special, f)) {
        return false;
    }
    struct eng_ids ids = {0};
    struct buf out = {0};
    unsigned flags = (add_special ? ENG_TOKENIZE_ADD_SPECIAL : 0u) |
                     (parse_special ? ENG_TOKENIZE_PARSE_SPECIAL : 0u);
    bool good =
        tokenize(j->srv, text->valuestring, strlen(text->valuestring), flags, &ids, "content", f);
    if (good) {
        put_ids_reply(j->srv, &ids, &out);
        srv_job_reply(j, 200, SRV_CONTENT_JSON, &out);
    }
    eng_ids_free(&ids);
    return good;
}

static bool detokenize_object(struct srv_job *j, const cJSON *root, struct srv_fail *f)
{
    const struct eng *g = j->srv->eng;
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(root, "tokens");
    int32_t *ids = NULL;
    size_t n = 0;
    if (!cJSON_IsArray(array)) {
        return srv_fail(f, 400, array ? "invalid_type" : "missing_required_parameter", "tokens",
                        "tokens must be an array of token ids");
    }
    if (!srv_read_ids(array, g->info.n_vocab, "tokens", &ids, &n, f)) {
        return false;
    }
    struct buf text = {0};
    struct buf out = {0};
    struct eng_detok detok = {0};
    for (size_t i = 0; i < n; i++) {
        eng_detokenize(g, &detok, ids[i], true, &text);
    }
    free(ids);
    buf_puts(&out, "{\"content\":");
    buf_json_string(&out, buf_str(&text), text.len);
    buf_putc(&out, '}');
    buf_free(&text);
    srv_job_reply(j, 200, SRV_CONTENT_JSON, &out);
    return true;
}

static bool run_with_object(struct srv_job *j,
                            bool (*run)(struct srv_job *j, const cJSON *root, struct srv_fail *f),
                            struct srv_fail *f)
{
    cJSON *root = NULL;
    if (!srv_body_object(buf_str(&j->body), j->body.len, &root, f)) {
        return false;
    }
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(root, "model");
    uint32_t adapter = 0; /* all have the same tokens */
    bool good =
        model_is_served(j->srv, cJSON_IsString(model) ? model->valuestring : NULL, &adapter, f) &&
        run(j, root, f);
    cJSON_Delete(root);
    return good;
}

static bool run_job(struct srv_job *j, struct srv_fail *f)
{
    enum srv_phase phase = srv_phase_of(j->srv);
    if (phase == SRV_LOADING) {
        return srv_fail(f, 503, "model_loading", NULL, "the model is still loading");
    }
    if (phase != SRV_READY) {
        return srv_fail(f, 503, "shutting_down", NULL, "the server is shutting down");
    }
    switch (j->route->action) {
    case SRV_ACTION_COMPLETION: return run_generate(j, SRV_API_COMPLETION, f);
    case SRV_ACTION_CHAT: return run_generate(j, SRV_API_CHAT, f);
    case SRV_ACTION_EMBEDDING: return run_generate(j, SRV_API_EMBEDDING, f);
    case SRV_ACTION_TOKENIZE: return run_with_object(j, tokenize_object, f);
    case SRV_ACTION_DETOKENIZE: return run_with_object(j, detokenize_object, f);
    default: return srv_fail(f, 500, NULL, NULL, "a route without its work");
    }
}

static void *work(void *arg)
{
    struct srv_prep *p = arg;
    for (;;) {
        struct srv_job *j = mpsc_pop(p->queue, WAIT_US);
        if (j == (void *)p) { /* the queue's own address: the end */
            return NULL;
        }
        if (!j) {
            continue;
        }
        struct srv_fail f = {0};
        if (!srv_job_is_gone(j) && !run_job(j, &f)) {
            srv_job_fail(j, &f);
        }
        /* The text is no longer needed: what is kept of it was copied. */
        srv_job_drop_body(j);
        srv_job_unref(j);
    }
}

bool srv_prep_push(struct srv_prep *p, struct srv_job *j)
{
    srv_job_ref(j);
    if (mpsc_push(p->queue, j)) {
        return true;
    }
    srv_job_unref(j);
    return false;
}

enum err_code srv_prep_start(size_t n_thread, size_t n_item_max, struct srv_prep **ret_p,
                             struct err *e)
{
    struct srv_prep *p = calloc(1, sizeof *p + n_thread * sizeof(pthread_t));
    if (!p) {
        return err_set(e, ERR_NOMEM, "out of memory for the prep pool");
    }
    enum err_code code = mpsc_create(n_item_max + n_thread, &p->queue, e);
    if (code != ERR_OK) {
        free(p);
        return code;
    }
    while (p->n_thread < n_thread) {
        int failed = pthread_create(&p->threads[p->n_thread], NULL, work, p);
        if (failed) {
            srv_prep_stop(p);
            return err_errno(e, ERR_IO, failed, "prep pool");
        }
        p->n_thread++;
    }
    *ret_p = p;
    return ERR_OK;
}

void srv_prep_stop(struct srv_prep *p)
{
    if (!p) {
        return;
    }
    for (size_t i = 0; i < p->n_thread; i++) {
        (void)mpsc_push(p->queue, p); /* one end for each thread, behind all work */
    }
    for (size_t i = 0; i < p->n_thread; i++) {
        (void)pthread_join(p->threads[i], NULL);
    }
    mpsc_destroy(p->queue);
    free(p);
}
