/* Takes a model's answer apart into text, tool calls and, where the form tells it, the thinking
 * before them, while it comes. What begins a call is held
 * back until the call is whole, so that a client never sees half of one; what turns out not to be a
 * call, names no tool of the request or is not JSON is text all the same. White space around calls
 * is no text. One thread at a time. */
#ifndef SERVER_TOOL_CALLS_H
#define SERVER_TOOL_CALLS_H

#include "base/buf.h"
#include "server/tools.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#define SRV_CALL_ID_LEN 9 /* letters and digits: what the strictest templates take back */
#define SRV_CALL_MAX    128

struct srv_tool_call {
    char id[SRV_CALL_ID_LEN + 1];
    char *name;
    char *arguments; /* JSON, an object */
};

struct srv_tool_reader {
    enum srv_tool_format format;
    const cJSON *tools; /* the request's, checked; outlives the reader */
    bool single;        /* calls after the first are dropped */
    struct buf held;    /* text that may be the beginning of a call */
    size_t n_scanned;   /* of held, inside a call: looked through for its end */
    bool inside;        /* held begins with a call's first mark */
    bool plain;  /* the form has its calls at the beginning, and this answer has text there */
    bool failed; /* memory ran out */
    enum { SRV_PART_HEAD, SRV_PART_TEXT, SRV_PART_THOUGHT, SRV_PART_CALL } part; /* of HARMONY */
    struct buf name;    /* of the call that PART_CALL holds the arguments of */
    struct buf thought; /* what was thought and not yet taken; the reader's user clears it */
    struct srv_tool_call *calls; /* [n_call] */
    size_t n_call;
    size_t n_call_byte; /* of names and arguments */
};

void srv_tool_reader_init(struct srv_tool_reader *r, enum srv_tool_format format,
                          const cJSON *tools, bool single);
void srv_tool_reader_finish(struct srv_tool_reader *r); /* of a zeroed one too */
/* Whether the form takes every answer apart, of requests without tools too. */
static inline bool srv_tool_format_always(enum srv_tool_format format)
{
    return format == SRV_TOOLS_HARMONY;
}
/* The answer's next text; what is surely text of the reply is appended to out. */
void srv_tool_reader_feed(struct srv_tool_reader *r, const char *text, size_t n, struct buf *out);
/* The answer has ended. */
void srv_tool_reader_end(struct srv_tool_reader *r, struct buf *out);

#endif
