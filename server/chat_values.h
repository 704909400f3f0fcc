/* From the messages of a chat request to the values a chat template works on. Pure; any thread. */
#ifndef SERVER_CHAT_VALUES_H
#define SERVER_CHAT_VALUES_H

#include "engine/template/value.h"
#include "server/openai_request.h"

/* Checks every message (role, content, parts, tool_calls) and builds the template's context in the
 * arena: a map of messages, tools, add_generation_prompt and the request's chat_template_kwargs.
 * Text parts are joined by newlines, so that content is always a string or none; the role
 * "developer" becomes "system". A call's arguments, which clients send as text, become the values
 * they stand for unless text_arguments; a result without a name gets its call's. False: *f names
 * the message and field. */
bool srv_chat_context(const struct srv_request *r, bool text_arguments, struct tmpl_arena *a,
                      struct tmpl_value **ret_context, struct srv_fail *f);

/* The text of the last message, "" if it has none: what continue_final_message goes on from.
 * Belongs to the context's arena. */
const char *srv_chat_final_text(const struct tmpl_value *context, size_t *ret_n);
/* Its role, "" if there is none. */
const char *srv_chat_final_role(const struct tmpl_value *context);

#endif
