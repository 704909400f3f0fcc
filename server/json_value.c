#include "server/json_value.h"

#include <math.h>
#include <string.h>

#define INTEGER_EXACT 0x1.0p53

struct tmpl_value *srv_json_value(struct tmpl_arena *a, const cJSON *v)
{
    const cJSON *item = NULL;
    if (cJSON_IsString(v)) {
        return tmpl_string(a, v->valuestring, strlen(v->valuestring));
    }
    if (cJSON_IsNumber(v)) {
        double x = v->valuedouble;
        return x == floor(x) && fabs(x) < INTEGER_EXACT ? tmpl_int(a, (int64_t)x)
                                                        : tmpl_float(a, x);
    }
    if (cJSON_IsBool(v)) {
        return tmpl_bool(a, cJSON_IsTrue(v));
    }
    if (cJSON_IsArray(v)) {
        struct tmpl_value *list = tmpl_list(a);
        cJSON_ArrayForEach(item, v)
        {
            if (!list || !tmpl_list_add(a, list, srv_json_value(a, item))) {
                return NULL;
            }
        }
        return list;
    }
    if (cJSON_IsObject(v)) {
        struct tmpl_value *map = tmpl_map(a);
        cJSON_ArrayForEach(item, v)
        {
            if (!map || !tmpl_map_set(a, map, item->string, strlen(item->string),
                                      srv_json_value(a, item))) {
                return NULL;
            }
        }
        return map;
    }
    return tmpl_none(a);
}
