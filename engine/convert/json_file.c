#include "engine/convert/json_file.h"

#include "base/file.h"

#include <stdio.h>
#include <unistd.h>

#define FILE_BYTES_MAX ((size_t)256 << 20)

enum err_code json_file_read(const char *dir, const char *name, bool required, cJSON **ret_j,
                             struct err *e)
{
    char path[4096];
    struct buf text = {0};
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) {
        return err_set(e, ERR_INVALID, "the path %.100s… is too long", dir);
    }
    if (!required && access(path, F_OK) != 0) {
        *ret_j = NULL;
        return ERR_OK;
    }
    enum err_code rc = file_read(path, "", FILE_BYTES_MAX, &text, e);
    cJSON *json = rc ? NULL : cJSON_ParseWithLength(buf_str(&text), text.len);
    if (!rc && !cJSON_IsObject(json)) {
        rc = err_set(e, ERR_CORRUPT, "%.400s is no JSON object", path);
        cJSON_Delete(json);
    }
    buf_free(&text);
    if (!rc) {
        *ret_j = json;
    }
    return rc;
}

const cJSON *json_get(const cJSON *o, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(o, key);
}

double json_num(const cJSON *o, const char *key, double absent)
{
    const cJSON *v = json_get(o, key);
    return cJSON_IsNumber(v) ? v->valuedouble : absent;
}

const char *json_str(const cJSON *o, const char *key, const char *absent)
{
    const char *s = cJSON_GetStringValue(json_get(o, key));
    return s ? s : absent;
}

bool json_flag(const cJSON *o, const char *key, bool absent)
{
    const cJSON *v = json_get(o, key);
    return cJSON_IsBool(v) ? cJSON_IsTrue(v) : absent;
}

bool json_has(const cJSON *o, const char *key)
{
    const cJSON *v = json_get(o, key);
    return v && !cJSON_IsNull(v);
}
