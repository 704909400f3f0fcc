#include "config/yaml_file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#define KEY_MAX 256 /* keys of one file; far above what the table holds */

struct reader {
    yaml_parser_t parser;
    const char *path;
    char *keys[KEY_MAX]; /* seen so far */
    size_t n_key;
};

static enum err_code wrong(const struct reader *r, size_t line, const char *what, struct err *e)
{
    return err_set(e, ERR_INVALID, "%.80s line %zu: %s", r->path, line, what);
}

static enum err_code next_event(struct reader *r, yaml_event_t *ret_event, struct err *e)
{
    if (!yaml_parser_parse(&r->parser, ret_event)) {
        const char *problem = r->parser.problem ? r->parser.problem : "not YAML";
        return wrong(r, r->parser.problem_mark.line + 1, problem, e);
    }
    return ERR_OK;
}

/* Skips what stands before the mapping; *ret_empty when the file holds nothing. */
static enum err_code open_mapping(struct reader *r, bool *ret_empty, struct err *e)
{
    for (;;) {
        yaml_event_t event;
        enum err_code code = next_event(r, &event, e);
        if (code != ERR_OK) {
            return code;
        }
        yaml_event_type_t type = event.type;
        size_t line = event.start_mark.line + 1;
        bool null_scalar = type == YAML_SCALAR_EVENT && event.data.scalar.length == 0;
        yaml_event_delete(&event);
        if (type == YAML_MAPPING_START_EVENT) {
            *ret_empty = false;
            return ERR_OK;
        }
        if (type == YAML_STREAM_END_EVENT || null_scalar) {
            *ret_empty = true;
            return ERR_OK;
        }
        if (type != YAML_STREAM_START_EVENT && type != YAML_DOCUMENT_START_EVENT) {
            return wrong(r, line, "expected lines of the form 'option: value'", e);
        }
    }
}

static enum err_code remember_key(struct reader *r, const char *key, size_t line, struct err *e)
{
    for (size_t i = 0; i < r->n_key; i++) {
        if (strcmp(r->keys[i], key) == 0) {
            return err_set(e, ERR_INVALID, "%.80s line %zu: '%.60s' is given twice", r->path, line,
                           key);
        }
    }
    if (r->n_key == KEY_MAX) {
        return wrong(r, line, "too many keys", e);
    }
    r->keys[r->n_key] = strdup(key);
    if (!r->keys[r->n_key]) {
        return err_set(e, ERR_NOMEM, "out of memory for the configuration file");
    }
    r->n_key++;
    return ERR_OK;
}

static bool is_text(const yaml_event_t *event)
{
    return event->type == YAML_SCALAR_EVENT &&
           strlen((const char *)event->data.scalar.value) == event->data.scalar.length;
}

static enum err_code read_pairs(struct reader *r, cfg_yaml_fn *on_pair, void *arg, struct err *e)
{
    for (;;) {
        yaml_event_t key;
        yaml_event_t value;
        enum err_code code = next_event(r, &key, e);
        if (code != ERR_OK) {
            return code;
        }
        size_t line = key.start_mark.line + 1;
        if (key.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&key);
            return ERR_OK;
        }
        if (!is_text(&key)) {
            yaml_event_delete(&key);
            return wrong(r, line, "expected the name of an option", e);
        }
        code = next_event(r, &value, e);
        if (code != ERR_OK) {
            yaml_event_delete(&key);
            return code;
        }
        const char *name = (const char *)key.data.scalar.value;
        if (!is_text(&value)) {
            code = wrong(r, line, "an option's value must be plain text or a number", e);
        } else {
            code = remember_key(r, name, line, e);
        }
        if (code == ERR_OK) {
            struct err inner = {0};
            code = on_pair(arg, name, (const char *)value.data.scalar.value, line, &inner);
            if (code != ERR_OK) {
                (void)err_set(e, code, "%.80s: %s", r->path, inner.msg);
            }
        }
        yaml_event_delete(&key);
        yaml_event_delete(&value);
        if (code != ERR_OK) {
            return code;
        }
    }
}

enum err_code cfg_yaml_read(const char *path, cfg_yaml_fn *on_pair, void *arg, struct err *e)
{
    struct reader *r = calloc(1, sizeof *r);
    FILE *file = fopen(path, "rbe");
    enum err_code code = ERR_OK;
    bool empty = false;
    bool parser_made = false;
    if (!r) {
        code = err_set(e, ERR_NOMEM, "out of memory for the configuration file");
        goto out;
    }
    if (!file) {
        code = err_errno(e, ERR_IO, errno, "config: cannot open %.120s", path);
        goto out;
    }
    r->path = path;
    if (!yaml_parser_initialize(&r->parser)) {
        code = err_set(e, ERR_NOMEM, "out of memory for the configuration file");
        goto out;
    }
    parser_made = true;
    yaml_parser_set_input_file(&r->parser, file);
    code = open_mapping(r, &empty, e);
    if (code == ERR_OK && !empty) {
        code = read_pairs(r, on_pair, arg, e);
    }
out:
    if (parser_made) {
        yaml_parser_delete(&r->parser);
    }
    for (size_t i = 0; r && i < r->n_key; i++) {
        free(r->keys[i]);
    }
    free(r);
    if (file) {
        (void)fclose(file);
    }
    return code;
}
