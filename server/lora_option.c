#include "server/lora_option.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One of the list, in place: its parts end where = and the last colon stood. */
static enum err_code parse_one(char *at, struct srv_lora_list *l, struct err *e)
{
    struct eng_adapter_file *file = &l->files[l->n];
    char *path = strchr(at, '=');
    if (!path || path == at || !path[1] || memchr(at, ':', (size_t)(path - at))) {
        return err_set(e, ERR_INVALID, "lora: '%.60s' is not NAME=FILE[:SCALE]", at);
    }
    *path++ = 0;
    *file = (struct eng_adapter_file){.name = at, .path = path, .scale = 1};
    char *colon = strrchr(path, ':');
    char *end = NULL;
    double scale = colon ? strtod(colon + 1, &end) : 1;
    if (colon && end != colon + 1 && !*end) { /* else the colon is of the file's name */
        if (!isfinite(scale) || fabs(scale) > 1e6) {
            return err_set(e, ERR_INVALID, "lora: the scale of %.60s is not a number", at);
        }
        *colon = 0;
        file->scale = (float)scale;
    }
    for (uint32_t i = 0; i < l->n; i++) {
        if (strcmp(l->files[i].name, at) == 0) {
            return err_set(e, ERR_INVALID, "lora: the name %.60s is given twice", at);
        }
    }
    l->n++;
    return ERR_OK;
}

enum err_code srv_lora_parse(const char *text, struct srv_lora_list *ret_l, struct err *e)
{
    struct srv_lora_list l = {0};
    enum err_code code = ERR_OK;
    uint32_t n = text ? 1 : 0;
    for (const char *c = text; c && *c; c++) {
        n += *c == ',';
    }
    if (n > SRV_LORA_MAX) {
        return err_set(e, ERR_INVALID, "lora: more than %d adapters", SRV_LORA_MAX);
    }
    if (n) {
        l.text = strdup(text);
        l.files = calloc(n, sizeof *l.files);
        if (!l.text || !l.files) {
            code = err_set(e, ERR_NOMEM, "out of memory for the option lora");
        }
    }
    for (char *at = l.text; at && !code;) {
        char *comma = strchr(at, ',');
        if (comma) {
            *comma = 0;
        }
        code = parse_one(at, &l, e);
        at = comma ? comma + 1 : NULL;
    }
    if (code) {
        srv_lora_finish(&l);
        return code;
    }
    *ret_l = l;
    return ERR_OK;
}

void srv_lora_finish(struct srv_lora_list *l)
{
    free(l->files);
    free(l->text);
    *l = (struct srv_lora_list){0};
}
