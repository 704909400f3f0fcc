#include "config/options.h"

#include "base/units.h"
#include "config/option_table.h"
#include "config/yaml_file.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Where a value came from, the stronger the higher. */
enum source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ENV, SOURCE_FLAG };

struct loading {
    struct cfg cfg;
    enum source source_of[CFG_OPTION_MAX]; /* by table index */
};

const char *cfg_process_env(void *arg, const char *name)
{
    (void)arg;
    return getenv(name); /* NOLINT(concurrency-mt-unsafe): before threads start */
}

const char *cfg_isa_name(const struct cfg *c)
{
    static const char *const names[] = {NULL, "scalar", "avx2", "avx512", "amx", "neon"};
    return names[c->isa];
}

/* "--kv-ram", "KVASIR_KV_RAM" or "kv-ram in FILE": how an error names the place of a value. */
static void place_name(const struct cfg_option *o, enum source from, char *out, size_t cap)
{
    switch (from) {
    case SOURCE_FLAG: (void)snprintf(out, cap, "--%s", o->name); break;
    case SOURCE_ENV: cfg_env_name(o, out, cap); break;
    default: (void)snprintf(out, cap, "%s (configuration file)", o->name); break;
    }
}

static enum err_code bad_value(const struct cfg_option *o, enum source from, const char *text,
                               struct err *e)
{
    char place[64];
    char range[96];
    place_name(o, from, place, sizeof place);
    cfg_range_text(o, range, sizeof range);
    return err_set(e, ERR_INVALID, "%s: '%.60s' is not %s", place, text, range);
}

static bool parse_number(const char *text, uint64_t *ret_v)
{
    char *end = NULL;
    if (!isdigit((unsigned char)text[0])) {
        return false;
    }
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || *end) {
        return false;
    }
    *ret_v = v;
    return true;
}

static bool parse_bool(const char *text, bool *ret_v)
{
    static const struct {
        const char *word;
        bool v;
    } words[] = {{"true", true},   {"yes", true}, {"on", true},   {"1", true},
                 {"false", false}, {"no", false}, {"off", false}, {"0", false}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(text, words[i].word) == 0) {
            *ret_v = words[i].v;
            return true;
        }
    }
    return false;
}

/* Index of text among "a|b|c". */
static bool parse_choice(const char *choices, const char *text, uint64_t *ret_v)
{
    size_t n = strlen(text);
    uint64_t i = 0;
    for (const char *at = choices; n; i++) {
        size_t k = strcspn(at, "|");
        if (k == n && strncmp(at, text, n) == 0) {
            *ret_v = i;
            return true;
        }
        if (!at[k]) {
            break;
        }
        at += k + 1;
    }
    return false;
}

/* before: what goes in front of it, and a comma; NULL: nothing. */
static enum err_code set_string(char **field, const char *before, const char *text, struct err *e)
{
    size_t n = strlen(text) + (before ? strlen(before) + 1 : 0) + 1;
    char *copy = malloc(n);
    if (copy) {
        (void)snprintf(copy, n, "%s%s%s", before ? before : "", before ? "," : "", text);
    }
    if (!copy) {
        return err_set(e, ERR_NOMEM, "out of memory for the configuration");
    }
    free(*field);
    *field = copy;
    return ERR_OK;
}

static enum err_code set_value(struct loading *l, size_t i, enum source from, const char *text,
                               struct err *e)
{
    const struct cfg_option *o = &cfg_options[i];
    void *field = (char *)&l->cfg + o->offset;
    uint64_t v = 0;
    bool b = false;
    if (from < l->source_of[i]) {
        return ERR_OK;
    }
    switch (o->kind) {
    case CFG_KIND_STRING: {
        bool again = o->list && l->source_of[i] == from && from != SOURCE_DEFAULT;
        if (!text[0] && from != SOURCE_DEFAULT) {
            return bad_value(o, from, text, e);
        }
        l->source_of[i] = from;
        return set_string(field, again ? *(char **)field : NULL, text, e);
    }
    case CFG_KIND_BOOL:
        if (!parse_bool(text, &b)) {
            return bad_value(o, from, text, e);
        }
        *(bool *)field = b;
        break;
    case CFG_KIND_CHOICE:
        if (!parse_choice(o->choices, text, &v)) {
            return bad_value(o, from, text, e);
        }
        *(uint64_t *)field = v;
        break;
    case CFG_KIND_BYTES:
    case CFG_KIND_NUMBER:
        if (o->auto_word && strcmp(text, o->auto_word) == 0) {
            v = 0;
        } else if (o->kind == CFG_KIND_BYTES ? units_parse_bytes(text, &v, NULL) != ERR_OK
                                             : !parse_number(text, &v)) {
            return bad_value(o, from, text, e);
        }
        if ((v < o->min || v > o->max) && !(o->auto_word && v == 0)) {
            return bad_value(o, from, text, e);
        }
        *(uint64_t *)field = v;
        break;
    }
    l->source_of[i] = from;
    return ERR_OK;
}

static enum err_code find_option(const char *name, size_t n_name, size_t *ret_i)
{
    for (size_t i = 0; i < cfg_n_option; i++) {
        if (strlen(cfg_options[i].name) == n_name &&
            memcmp(cfg_options[i].name, name, n_name) == 0) {
            *ret_i = i;
            return ERR_OK;
        }
    }
    return ERR_NOT_FOUND;
}

static enum err_code read_flags(struct loading *l, int argc, char **argv, struct err *e)
{
    for (int k = 1; k < argc; k++) {
        const char *arg = argv[k];
        if (strncmp(arg, "--", 2) != 0 || !arg[2]) {
            return err_set(e, ERR_INVALID,
                           "'%.60s' is not an option; options are written --name VALUE", arg);
        }
        const char *name = arg + 2;
        size_t n_name = strcspn(name, "=");
        size_t i = 0;
        if (find_option(name, n_name, &i) != ERR_OK) {
            return err_set(e, ERR_INVALID, "--%.*s: no such option; --help lists them",
                           (int)(n_name < 60 ? n_name : 60), name);
        }
        const char *text = name[n_name] ? name + n_name + 1 : NULL;
        if (!text && cfg_options[i].kind == CFG_KIND_BOOL) {
            text = "true";
        } else if (!text) {
            if (k + 1 == argc) {
                return err_set(e, ERR_INVALID, "--%s needs a value", cfg_options[i].name);
            }
            text = argv[++k];
        }
        if (l->source_of[i] == SOURCE_FLAG && !cfg_options[i].list) {
            return err_set(e, ERR_INVALID, "--%s is given twice", cfg_options[i].name);
        }
        enum err_code code = set_value(l, i, SOURCE_FLAG, text, e);
        if (code != ERR_OK) {
            return code;
        }
    }
    return ERR_OK;
}

static enum err_code read_env(struct loading *l, cfg_env_fn *env, void *env_arg, struct err *e)
{
    for (size_t i = 0; i < cfg_n_option; i++) {
        char name[64];
        cfg_env_name(&cfg_options[i], name, sizeof name);
        const char *text = env(env_arg, name);
        enum err_code code = text ? set_value(l, i, SOURCE_ENV, text, e) : ERR_OK;
        if (code != ERR_OK) {
            return code;
        }
    }
    return ERR_OK;
}

static enum err_code on_yaml_pair(void *arg, const char *key, const char *value, size_t line,
                                  struct err *e)
{
    struct loading *l = arg;
    size_t i = 0;
    if (find_option(key, strlen(key), &i) != ERR_OK || strcmp(key, "config") == 0) {
        return err_set(e, ERR_INVALID, "line %zu: '%.60s' is not an option", line, key);
    }
    return set_value(l, i, SOURCE_FILE, value, e);
}

/* What no single option can tell. */
static enum err_code check_whole(const struct cfg *c, struct err *e)
{
    assert(c->host); /* it has a default */
    bool loopback = strcmp(c->host, "localhost") == 0 || strcmp(c->host, "::1") == 0 ||
                    strncmp(c->host, "127.", 4) == 0;
    if (!loopback && !c->api_key_file && !c->insecure_no_auth) {
        return err_set(e, ERR_INVALID,
                       "host: %.60s can be reached from outside: give --api-key-file FILE, or "
                       "--insecure-no-auth to serve anyone",
                       c->host);
    }
    if (c->kv_dir && c->prefix_cache == CFG_OFF) {
        return err_set(e, ERR_INVALID,
                       "kv-dir: keeps the prefix cache, which prefix-cache turns "
                       "off");
    }
    return ERR_OK;
}

/* A size alone asks for the default directory, as the word auto does: the XDG cache directory. */
static enum err_code resolve_kv_dir(struct cfg *c, cfg_env_fn *env, void *env_arg, struct err *e)
{
    bool is_auto = c->kv_dir ? strcmp(c->kv_dir, "auto") == 0 : c->kv_disk_bytes != 0;
    if (!is_auto) {
        return ERR_OK;
    }
    const char *xdg = env(env_arg, "XDG_CACHE_HOME");
    const char *home = env(env_arg, "HOME");
    const char *base = xdg && xdg[0] == '/' ? xdg : home;
    if (!base || !base[0]) {
        return err_set(e, ERR_INVALID,
                       "kv-dir: neither XDG_CACHE_HOME nor HOME tells where auto "
                       "is; give a directory");
    }
    struct buf path = {0};
    buf_printf(&path, "%s%s/kvasir/kv", base, base == xdg ? "" : "/.cache");
    enum err_code code = buf_ok(&path)
                             ? set_string(&c->kv_dir, NULL, buf_str(&path), e)
                             : err_set(e, ERR_NOMEM, "out of memory for the configuration");
    buf_free(&path);
    return code;
}

static enum err_code load(struct loading *l, int argc, char **argv, cfg_env_fn *env, void *env_arg,
                          struct err *e)
{
    enum err_code code = ERR_OK;
    for (size_t i = 0; i < cfg_n_option && code == ERR_OK; i++) {
        const char *text = cfg_options[i].deflt;
        code = text ? set_value(l, i, SOURCE_DEFAULT, text, e) : ERR_OK;
    }
    if (code == ERR_OK) {
        code = read_flags(l, argc, argv, e);
    }
    if (code == ERR_OK) {
        code = read_env(l, env, env_arg, e);
    }
    if (code == ERR_OK && l->cfg.config) {
        code = cfg_yaml_read(l->cfg.config, on_yaml_pair, l, e);
    }
    if (code == ERR_OK) {
        code = resolve_kv_dir(&l->cfg, env, env_arg, e);
    }
    if (code == ERR_OK) {
        code = check_whole(&l->cfg, e);
    }
    return code;
}

enum err_code cfg_load(int argc, char **argv, cfg_env_fn *env, void *env_arg, struct cfg *ret_cfg,
                       bool *ret_help, struct err *e)
{
    for (int k = 1; k < argc; k++) {
        if (strcmp(argv[k], "--help") == 0 || strcmp(argv[k], "-h") == 0) {
            *ret_help = true;
            return ERR_OK;
        }
    }
    struct loading l = {0};
    enum err_code code = load(&l, argc, argv, env, env_arg, e);
    if (code != ERR_OK) {
        cfg_finish(&l.cfg);
        return code;
    }
    *ret_cfg = l.cfg;
    *ret_help = false;
    return ERR_OK;
}

void cfg_finish(struct cfg *c)
{
    for (size_t i = 0; i < cfg_n_option; i++) {
        if (cfg_options[i].kind == CFG_KIND_STRING) {
            char **field = (char **)((char *)c + cfg_options[i].offset);
            free(*field);
            *field = NULL;
        }
    }
}
