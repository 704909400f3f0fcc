/* JSON as the values a chat template works on. Pure; any thread. */
#ifndef SERVER_JSON_VALUE_H
#define SERVER_JSON_VALUE_H

#include "engine/template/value.h"

#include <cjson/cJSON.h>

/* A copy of v in the arena; NULL when that is spent. v comes from text that passed srv_json_check,
 * so its nesting is bounded. Numbers without a fraction become integers. */
struct tmpl_value *srv_json_value(struct tmpl_arena *a, const cJSON *v);

#endif
