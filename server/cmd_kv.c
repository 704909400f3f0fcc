/* kvasir kv list|verify|pin|unpin|export|import|drop: a KV store's directory, without a server. */
#include "base/clock.h"
#include "base/units.h"
#include "kvstore/kv_dir.h"
#include "kvstore/kvstore.h"
#include "server/commands.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOR_S_MAX 3153600000u /* a hundred years */

static void print_usage(void)
{
    (void)printf(
        "usage: kvasir kv list DIR [--json]         what is kept: one line per cached sequence\n"
        "       kvasir kv verify DIR [--json]       reads everything and checks it\n"
        "       kvasir kv pin DIR KEY [--for S]     holds a sequence against eviction\n"
        "       kvasir kv unpin DIR KEY\n"
        "       kvasir kv export DIR KEY FILE       writes a sequence to a file\n"
        "       kvasir kv import DIR FILE           adds one from a file\n"
        "       kvasir kv drop DIR KEY              deletes a chunk and all that follow it\n\n"
        "DIR is what --kv-dir was given. KEY is as list prints it, or more of its hex digits.\n"
        "list, verify and export may run beside a server; the others need it stopped.\n\n"
        "  --for S    seconds that the pin holds (default: until unpin)\n"
        "  --json     one machine-readable line per result\n"
        "  --help     this text\n");
}

struct settings {
    const char *action;
    const char *dir;
    const char *key;
    const char *file;
    uint32_t for_s; /* 0: for good */
    bool json;
    /* over the stores of dir */
    uint32_t n_bad;
    uint32_t n_done; /* stores that had the key */
    struct err error;
};

static const char *key_text(const uint8_t key[32], char out[65])
{
    for (int i = 0; i < 32; i++) {
        (void)snprintf(out + 2 * i, 3, "%02x", key[i]);
    }
    return out;
}

static void print_store(const struct kv_dir_info *info, bool json)
{
    char bytes[32];
    if (!json) {
        (void)printf("%s: %u chunks of %u tokens in %u slots, %s\n", info->path, info->n_chunk,
                     info->chunk_tok, info->n_slot,
                     units_format_bytes(info->disk_bytes, bytes, sizeof bytes));
    }
}

static void print_pin(uint32_t kept_until_s, uint32_t now_s, char out[32])
{
    if (kept_until_s == KV_PIN_FOR_GOOD) {
        (void)snprintf(out, 32, "pinned");
    } else if (kept_until_s > now_s) {
        (void)snprintf(out, 32, "pinned for %us", kept_until_s - now_s);
    } else {
        out[0] = 0;
    }
}

static void print_sequence(const struct kv_dir_info *info, const struct kv_dir_chunk *c, bool json)
{
    char key[65];
    char pin[32];
    uint32_t now_s = (uint32_t)clock_unix_s();
    (void)key_text(c->key, key);
    if (json) {
        (void)printf("{\"key\":\"%s\",\"tokens\":%u,\"chunks\":%u,\"uses\":%u,\"written\":%lld,"
                     "\"pinned_until\":%u,\"expires\":%u,\"usable\":%s,\"fingerprint\":\"",
                     key, c->n_tok_path, c->depth + 1, c->freq, (long long)c->written_unix_s,
                     c->kept_until_s, c->expires_s, c->is_whole ? "true" : "false");
        (void)printf("%s\"}\n", key_text(info->fingerprint, key));
        return;
    }
    key[16] = 0;
    print_pin(c->kept_until_s, now_s, pin);
    (void)printf("  %s  %8u tokens  %5u chunks  %3u uses  %8llds old  %s%s\n", key, c->n_tok_path,
                 c->depth + 1, c->freq, (long long)now_s - (long long)c->written_unix_s, pin,
                 c->is_whole ? "" : "  not usable: its beginning is gone");
}

static void list(const struct settings *o, const struct kv_dir *d)
{
    struct kv_dir_info info;
    kv_dir_info(d, &info);
    print_store(&info, o->json);
    for (uint32_t i = 0; i < info.n_chunk; i++) {
        if (kv_dir_chunk(d, i)->n_child == 0) {
            print_sequence(&info, kv_dir_chunk(d, i), o->json);
        }
    }
}

static void verify(struct settings *o, struct kv_dir *d)
{
    struct kv_dir_info info;
    struct err e;
    uint32_t n_bad = 0;
    kv_dir_info(d, &info);
    for (uint32_t i = 0; i < info.n_chunk; i++) {
        if (kv_dir_verify(d, i, &e)) {
            (void)fprintf(stderr, "kvasir kv: %s\n", e.msg);
            n_bad++;
        }
    }
    o->n_bad += n_bad;
    print_store(&info, o->json);
    if (o->json) {
        char text[65];
        (void)printf("{\"fingerprint\":\"%s\",\"chunks\":%u,\"bad\":%u}\n",
                     key_text(info.fingerprint, text), info.n_chunk, n_bad);
    } else {
        (void)printf("  %u chunks are right, %u are not\n", info.n_chunk - n_bad, n_bad);
    }
}

/* What is done with one key in the store that has it. */
static enum err_code act(const struct settings *o, struct kv_dir *d, uint32_t i, struct err *e)
{
    uint32_t n = 0;
    enum err_code code = ERR_OK;
    if (strcmp(o->action, "pin") == 0) {
        uint64_t until = (uint64_t)clock_unix_s() + o->for_s;
        code = kv_dir_pin(d, i, o->for_s ? (uint32_t)until : KV_PIN_FOR_GOOD, e);
    } else if (strcmp(o->action, "unpin") == 0) {
        code = kv_dir_pin(d, i, 0, e);
    } else if (strcmp(o->action, "export") == 0) {
        code = kv_dir_export(d, i, o->file, e);
    } else {
        code = kv_dir_drop(d, i, &n, e);
    }
    if (!code) {
        (void)printf("%s: %u tokens\n", o->action, kv_dir_chunk(d, i)->n_tok_path);
    }
    return code;
}

static void visit(void *arg, const char *path)
{
    struct settings *o = arg;
    struct kv_dir *d = NULL;
    struct err e = {0};
    bool is_look = !o->key;
    bool changes = o->key && strcmp(o->action, "export") != 0;
    uint32_t i = 0;
    enum err_code code = kv_dir_open(path, changes, &d, &e);
    if (!code && is_look) {
        (strcmp(o->action, "list") == 0 ? list(o, d) : verify(o, d));
    } else if (!code) {
        code = kv_dir_find(d, o->key, &i, &e);
        if (code == ERR_NOT_FOUND) {
            code = ERR_OK; /* perhaps in the next store */
        } else if (!code) {
            code = act(o, d, i, &e);
            o->n_done++;
        }
    }
    if (code && !o->error.code) {
        o->error = e;
    }
    kv_dir_close(d);
}

static int run(struct settings *o)
{
    struct err e = {0};
    if (strcmp(o->action, "import") == 0) {
        uint32_t n = 0;
        if (kv_dir_import(o->dir, o->file, &n, &e)) {
            (void)fprintf(stderr, "kvasir kv: %s\n", e.msg);
            return 1;
        }
        (void)printf("import: %u new chunks\n", n);
        return 0;
    }
    if (kv_dir_each(o->dir, visit, o, &e)) {
        (void)fprintf(stderr, "kvasir kv: %s\n", e.msg);
        return 1;
    }
    if (o->error.code) {
        (void)fprintf(stderr, "kvasir kv: %s\n", o->error.msg);
        return 1;
    }
    if (o->key && o->n_done == 0) {
        (void)fprintf(stderr, "kvasir kv: no chunk in %s has a key that begins with %s\n", o->dir,
                      o->key);
        return 1;
    }
    return o->n_bad ? 1 : 0;
}

/* How many words each action takes: DIR, KEY, FILE. */
static const struct action {
    const char *name;
    bool has_key;
    bool has_file;
} actions[] = {
    {"list", false, false}, {"verify", false, false}, {"pin", true, false},  {"unpin", true, false},
    {"export", true, true}, {"import", false, true},  {"drop", true, false},
};

int cmd_kv(int argc, char **argv)
{
    static const struct option options[] = {
        {"for", required_argument, NULL, 'f'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct settings o = {0};
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 'f': {
            char *end;
            unsigned long v = strtoul(optarg, &end, 10);
            if (*optarg < '0' || *optarg > '9' || *end || v == 0 || v > FOR_S_MAX ||
                v + (uint64_t)clock_unix_s() >= KV_PIN_FOR_GOOD) {
                (void)fprintf(stderr, "kvasir kv: --for is a number of seconds, not '%s'\n",
                              optarg);
                return 2;
            }
            o.for_s = (uint32_t)v;
            break;
        }
        case 'j': o.json = true; break;
        case 'h': print_usage(); return 0;
        default: return 2;
        }
    }
    const struct action *a = NULL;
    for (size_t i = 0; optind < argc && i < sizeof actions / sizeof *actions; i++) {
        a = strcmp(argv[optind], actions[i].name) == 0 ? &actions[i] : a;
    }
    if (!a || argc - optind != 2 + a->has_key + a->has_file) {
        (void)fprintf(stderr,
                      "kvasir kv: needs an action and its arguments; see kvasir kv --help\n");
        return 2;
    }
    o.action = a->name;
    o.dir = argv[optind + 1];
    o.key = a->has_key ? argv[optind + 2] : NULL;
    o.file = a->has_file ? argv[optind + 2 + a->has_key] : NULL;
    return run(&o);
}
