/* Any bytes as a request body, for all APIs: the strict check, cJSON, the parameter table, and a
 * chat's messages through a template. What is accepted must keep the table's promises. */
#include "engine/template/builtin.h"
#include "engine/template/template.h"
#include "fuzz.h"
#include "server/chat_values.h"
#include "server/openai_request.h"

#include <stdlib.h>
#include <string.h>

#define N_VOCAB         320
#define ARENA_BYTES_MAX ((size_t)1 << 20)

static void must(bool condition)
{
    if (!condition) {
        abort();
    }
}

static void render(const struct srv_request *r)
{
    struct tmpl_arena *a = NULL;
    struct tmpl_value *context = NULL;
    struct srv_fail f = {0};
    struct buf out = {0};
    if (tmpl_arena_create(ARENA_BYTES_MAX, &a, NULL) != ERR_OK) {
        return;
    }
    if (srv_chat_context(r, r->stream, a, &context, &f)) {
        struct err e = {0};
        struct tmpl *t = NULL;
        const char *source = tmpl_builtin_source(TMPL_BUILTIN_LLAMA2);
        must(tmpl_compile(source, strlen(source), &t, &e) == ERR_OK);
        (void)tmpl_render(t, context, NULL, 0, &out, &e);
        tmpl_destroy(t);
    } else {
        must(f.status >= 400 && f.message[0]);
    }
    fuzz_use((unsigned)out.len);
    buf_free(&out);
    tmpl_arena_destroy(a);
}

static void look(const struct srv_request *r)
{
    must(r->n >= 1 && r->n <= SRV_N_MAX);
    must(r->temperature >= 0 && r->temperature <= 2 && r->top_p >= 0 && r->top_p <= 1);
    must(r->n_stop <= SCH_STOP_MAX && r->n_top_logprob <= SAMPLE_TOP_MAX);
    must(r->n_bias <= SRV_LOGIT_BIAS_MAX && r->n_stop_id <= SRV_STOP_ID_MAX);
    size_t n_max = r->api == SRV_API_EMBEDDING ? SRV_INPUT_MAX : SRV_CHOICE_MAX;
    must((r->n_prompt ? r->n_prompt : 1) * (size_t)r->n <= n_max);
    for (size_t i = 0; i < r->n_prompt; i++) {
        for (size_t k = 0; k < r->prompts[i].n_id; k++) {
            must(r->prompts[i].ids[k] >= 0 && r->prompts[i].ids[k] < N_VOCAB);
        }
    }
    if (r->api == SRV_API_CHAT) {
        must(r->messages != NULL);
        render(r);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const enum srv_api apis[] = {SRV_API_COMPLETION, SRV_API_CHAT, SRV_API_EMBEDDING};
    const struct srv_request_env env = {N_VOCAB, srv_sampling_openai()};
    char *body = malloc(n + 1);
    if (!body) {
        return 0;
    }
    if (n) {
        memcpy(body, bytes, n);
    }
    body[n] = 0;
    for (size_t i = 0; i < sizeof apis / sizeof *apis; i++) {
        struct srv_request r;
        struct srv_fail f = {0};
        if (srv_request_parse(apis[i], body, n, &env, &r, &f)) {
            look(&r);
            srv_request_finish(&r);
        } else {
            must(f.status >= 400 && f.message[0]);
        }
    }
    free(body);
    return 0;
}
