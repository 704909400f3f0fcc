/* `kvasir models`: what the cache of `kvasir pull` holds. */
#include "base/clock.h"
#include "base/units.h"
#include "server/commands.h"
#include "server/hub.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: kvasir models [list|rm NAME|prune] [OPTIONS]\n\n"
    "  list             the models in the cache (default)\n"
    "  rm NAME          removes one, as list names it\n"
    "  prune            removes what unfinished downloads left\n\n"
    "  --older-than N   prune: also models that were not used for N days\n"
    "  --cache DIR      default: KVASIR_CACHE, else XDG_CACHE_HOME/kvasir, else ~/.cache/kvasir\n"
    "  --help           this text\n";

struct arguments {
    const char *verb;
    const char *name;
    const char *cache_dir;
    int64_t older_s; /* -1: none by age */
};

static int wrong_usage(const char *what)
{
    (void)fprintf(stderr, "kvasir models: %s; see kvasir models --help\n", what);
    return 2;
}

static int parse(int argc, char **argv, struct arguments *a)
{
    static const struct option options[] = {{"older-than", required_argument, NULL, 'd'},
                                            {"cache", required_argument, NULL, 'c'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    int c;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        char *end = NULL;
        switch (c) {
        case 'd':
            errno = 0;
            a->older_s = strtol(optarg, &end, 10);
            if (*end || end == optarg || errno || a->older_s < 0 || a->older_s > 36500) {
                return wrong_usage("--older-than is a number of days");
            }
            a->older_s *= 86400;
            break;
        case 'c': a->cache_dir = optarg; break;
        case 'h': (void)fputs(usage, stdout); return 0;
        default: return 2;
        }
    }
    a->verb = optind < argc ? argv[optind++] : "list";
    bool rm = strcmp(a->verb, "rm") == 0;
    if (!rm && strcmp(a->verb, "list") != 0 && strcmp(a->verb, "prune") != 0) {
        return wrong_usage("the verbs are list, rm and prune");
    }
    if (argc - optind != rm) {
        return wrong_usage(rm ? "rm wants one name" : "too many arguments");
    }
    a->name = rm ? argv[optind] : NULL;
    return -1;
}

static void print_list(const struct hub_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct hub_cached *c = &l->items[i];
        char size[32];
        char day[32];
        struct tm t;
        (void)strftime(day, sizeof day, "%Y-%m-%d", gmtime_r(&c->used, &t));
        (void)printf("%-12s %s  %s%s\n", units_format_bytes(c->n_byte, size, sizeof size), day,
                     c->name, c->partial ? " (unfinished)" : "");
    }
}

static bool is_meant(const struct arguments *a, const struct hub_cached *c)
{
    if (a->name) {
        return strcmp(c->name, a->name) == 0;
    }
    return c->partial || (a->older_s >= 0 && clock_unix_s() - (int64_t)c->used > a->older_s);
}

static enum err_code remove_meant(const struct arguments *a, const char *dir,
                                  const struct hub_list *l, struct err *e)
{
    size_t n = 0;
    uint64_t n_byte = 0;
    char size[32];
    enum err_code rc = ERR_OK;
    for (size_t i = 0; !rc && i < l->n; i++) {
        if (is_meant(a, &l->items[i])) {
            rc = hub_cache_remove(dir, &l->items[i], e);
            n += !rc;
            n_byte += rc ? 0 : l->items[i].n_byte;
        }
    }
    if (!rc && n == 0 && a->name) {
        return err_set(e, ERR_NOT_FOUND, "no model '%.200s' in the cache; 'kvasir models' lists it",
                       a->name);
    }
    (void)printf("removed %zu, %s\n", n, units_format_bytes(n_byte, size, sizeof size));
    return rc;
}

int cmd_models(int argc, char **argv)
{
    struct arguments a = {.older_s = -1};
    struct hub_list l = {0};
    struct buf dir = {0};
    struct err e;
    int status = parse(argc, argv, &a);
    if (status >= 0) {
        return status;
    }
    enum err_code rc = ERR_OK;
    if (a.cache_dir) {
        buf_puts(&dir, a.cache_dir);
    } else if (!hub_cache_dir(&dir)) {
        rc = err_set(&e, ERR_INVALID, "no folder for the cache: give --cache DIR");
    }
    rc = rc ? rc : hub_cache_list(buf_str(&dir), &l, &e);
    if (!rc && strcmp(a.verb, "list") == 0) {
        print_list(&l);
    } else if (!rc) {
        rc = remove_meant(&a, buf_str(&dir), &l, &e);
    }
    if (rc) {
        (void)fprintf(stderr, "kvasir models: %s\n", e.msg);
    }
    hub_cache_list_free(&l);
    buf_free(&dir);
    return rc ? 1 : 0;
}
