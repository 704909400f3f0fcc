/* What a model's chat template tells of tools: whether it shows them, how the model writes a call,
 * and whether the arguments of earlier calls are wanted as JSON values or as text. The template's
 * own words decide, never a model's name. Learned once, after loading; then read by any thread. */
#ifndef SERVER_TOOLS_H
#define SERVER_TOOLS_H

#include "engine/engine.h"
#include "scheduler/scheduler.h"

#include <stdbool.h>
#include <stdint.h>

enum srv_tool_format {
    SRV_TOOLS_TEXT, /* in no form known here: calls stay text */
    SRV_TOOLS_TAGS, /* <tool_call>{"name":…,"arguments":…}</tool_call>, or in the tags the form
                     * <function=NAME><parameter=KEY>VALUE</parameter>…</function>, or the form
                     * NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>… */
    SRV_TOOLS_MISTRAL, /* [TOOL_CALLS] and a list of objects, or NAME[ARGS]{…} */
    SRV_TOOLS_HARMONY, /* every answer is in channels: <|channel|>NAME<|message|>…<|end|>, with
                        * to=functions.NAME before <|message|> for a call */
    SRV_TOOLS_JSON, /* the whole answer is {"name":…,"parameters":…}, maybe after <|python_tag|> */
};

struct srv_tools {
    bool shown; /* the template has a place for tools */
    enum srv_tool_format format;
    bool text_arguments;            /* an earlier call's arguments are text for this template */
    int32_t show_ids[SCH_SHOW_MAX]; /* [n_show_id] control tokens that are part of a call's form */
    uint32_t n_show_id;
};

void srv_tools_learn(const struct eng *eng, struct srv_tools *ret_t);

#endif
