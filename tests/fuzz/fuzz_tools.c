/* Any bytes as a model's answer, in every form of tool calls. The first byte is the form, the
 * second the size of the pieces it comes in. Pieces change nothing, no text is lost unless a call
 * was found, and what is found is a call. */
#include "fuzz.h"
#include "server/json_check.h"
#include "server/tool_calls.h"

#include <stdlib.h>
#include <string.h>

static const char tools_json[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"s\":{\"type\":\"string\"},\"i\":{\"type\":\"integer\"}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]";

static void must(bool condition)
{
    if (!condition) {
        abort();
    }
}

static void read_answer(enum srv_tool_format format, const cJSON *tools, const char *text, size_t n,
                        size_t n_piece, struct srv_tool_reader *r, struct buf *out)
{
    srv_tool_reader_init(r, format, tools, false);
    for (size_t at = 0; at < n; at += n_piece) {
        srv_tool_reader_feed(r, text + at, n - at < n_piece ? n - at : n_piece, out);
    }
    srv_tool_reader_end(r, out);
}

static void check_calls(const struct srv_tool_reader *a, const struct srv_tool_reader *b)
{
    must(a->n_call == b->n_call);
    for (size_t i = 0; i < a->n_call; i++) {
        const struct srv_tool_call *c = &a->calls[i];
        struct err e;
        must(strcmp(c->name, "f") == 0 || strcmp(c->name, "g") == 0);
        must(c->arguments[0] == '{');
        must(srv_json_check(c->arguments, strlen(c->arguments), &e) == ERR_OK ||
             e.code == ERR_INVALID); /* an answer here may hold what is no UTF-8 */
        must(strcmp(c->arguments, b->calls[i].arguments) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (n < 2) {
        return 0;
    }
    cJSON *tools = cJSON_Parse(tools_json);
    enum srv_tool_format format = (enum srv_tool_format)(bytes[0] % (SRV_TOOLS_JSON + 1));
    const char *text = (const char *)bytes + 2;
    struct srv_tool_reader whole;
    struct srv_tool_reader parts;
    struct buf a = {0};
    struct buf b = {0};
    n -= 2;
    read_answer(format, tools, text, n, n ? n : 1, &whole, &a);
    read_answer(format, tools, text, n, bytes[1] ? bytes[1] : 1, &parts, &b);
    must(a.len == b.len && (!a.len || memcmp(a.data, b.data, a.len) == 0));
    must(whole.n_call || format == SRV_TOOLS_HARMONY || format == SRV_TOOLS_TAGS ||
         format == SRV_TOOLS_MISTRAL || (a.len == n && (!n || memcmp(a.data, text, n) == 0)));
    must(a.len + whole.thought.len <= n);
    must(whole.thought.len == parts.thought.len);
    check_calls(&whole, &parts);
    fuzz_use((unsigned)whole.n_call);
    srv_tool_reader_finish(&whole);
    srv_tool_reader_finish(&parts);
    buf_free(&a);
    buf_free(&b);
    cJSON_Delete(tools);
    return 0;
}
