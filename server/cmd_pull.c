/* `kvasir pull`: a model from the hub into the cache. */
#include "base/file.h"
#include "config/options.h"
#include "server/commands.h"
#include "server/hub.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TOKEN_BYTES_MAX 4096
#define HUB_URL         "https://huggingface.co"

static const char usage[] =
    "usage: kvasir pull [OPTIONS] hf.co/ORG/REPO[:QUANT]\n\n"
    "Fetches a model into the cache and prints the path to give to --model. A download that was\n"
    "cut off goes on where it stopped; what arrives is checked against the hub's SHA-256.\n"
    "Without QUANT: Q4_K_M if there is one. A repository without GGUF files is fetched as a "
    "folder.\n\n"
    "  --token-file FILE  an access token; else HF_TOKEN, else the file that the hub's own tools\n"
    "                     write (~/.cache/huggingface/token)\n"
    "  --cache DIR        default: KVASIR_CACHE, else XDG_CACHE_HOME/kvasir, else ~/.cache/kvasir\n"
    "  --hub-url URL      default: KVASIR_HUB_URL, else " HUB_URL "\n"
    "  --offline          no network: the path of what the cache has\n"
    "  --quiet            no progress bar\n"
    "  --help             this text\n\n"
    "Proxies are taken from https_proxy, http_proxy and no_proxy.\n";

struct arguments {
    struct hub_options o;
    const char *token_file;
    const char *name;
};

static int parse(int argc, char **argv, struct arguments *a)
{
    static const struct option options[] = {{"token-file", required_argument, NULL, 't'},
                                            {"cache", required_argument, NULL, 'c'},
                                            {"hub-url", required_argument, NULL, 'u'},
                                            {"offline", no_argument, NULL, 'o'},
                                            {"quiet", no_argument, NULL, 'q'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    int c;
    a->o.progress = isatty(STDERR_FILENO);
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 't': a->token_file = optarg; break;
        case 'c': a->o.cache_dir = optarg; break;
        case 'u': a->o.url = optarg; break;
        case 'o': a->o.offline = true; break;
        case 'q': a->o.progress = false; break;
        case 'h': (void)fputs(usage, stdout); return 0;
        default: return 2;
        }
    }
    if (optind + 1 != argc) {
        (void)fprintf(stderr, "kvasir pull: give one model, hf.co/ORG/REPO[:QUANT]; see kvasir "
                              "pull --help\n");
        return 2;
    }
    a->name = argv[optind];
    return -1;
}

/* A token is one line of visible ASCII. A default file that is not there is no error. */
static enum err_code read_token(const char *path, bool required, struct buf *out, struct err *e)
{
    struct err local;
    enum err_code rc = file_read(path, "token file", TOKEN_BYTES_MAX, out, &local);
    if (rc && !required) {
        buf_clear(out);
        return ERR_OK;
    }
    if (rc) {
        return err_set(e, rc, "%s", local.msg);
    }
    while (out->len && strchr(" \t\r\n", out->data[out->len - 1])) {
        out->data[--out->len] = 0;
    }
    for (size_t i = 0; i < out->len; i++) {
        if (out->data[i] <= ' ' || out->data[i] >= 0x7f) {
            return err_set(e, ERR_INVALID, "the token in %.300s is not one line of text", path);
        }
    }
    return ERR_OK;
}

static enum err_code find_token(const struct arguments *a, struct buf *out, struct err *e)
{
    const char *env = cfg_process_env(NULL, "HF_TOKEN");
    const char *home = cfg_process_env(NULL, "HOME");
    if (a->token_file) {
        return read_token(a->token_file, true, out, e);
    }
    if (env && env[0]) {
        buf_puts(out, env);
        return ERR_OK;
    }
    if (!home) {
        return ERR_OK;
    }
    struct buf path = {0};
    buf_printf(&path, "%s/.cache/huggingface/token", home);
    enum err_code rc = read_token(buf_str(&path), false, out, e);
    buf_free(&path);
    return rc;
}

static enum err_code pull(struct arguments *a, struct buf *path, struct err *e)
{
    struct hub_name name;
    struct buf dir = {0};
    struct buf token = {0};
    const char *env_url = cfg_process_env(NULL, "KVASIR_HUB_URL");
    enum err_code rc = hub_name_parse(a->name, &name, e);
    if (!rc && !a->o.cache_dir && !hub_cache_dir(&dir)) {
        rc = err_set(e, ERR_INVALID, "no folder for the cache: give --cache DIR");
    }
    rc = rc ? rc : find_token(a, &token, e);
    a->o.cache_dir = a->o.cache_dir ? a->o.cache_dir : buf_str(&dir);
    a->o.url = a->o.url ? a->o.url : env_url && env_url[0] ? env_url : HUB_URL;
    a->o.token = token.len ? buf_str(&token) : NULL;
    rc = rc ? rc : hub_pull(&a->o, &name, path, e);
    buf_free(&dir);
    buf_free(&token);
    return rc;
}

int cmd_pull(int argc, char **argv)
{
    struct arguments a = {0};
    struct buf path = {0};
    struct err e;
    int status = parse(argc, argv, &a);
    if (status >= 0) {
        return status;
    }
    status = 0;
    if (pull(&a, &path, &e)) {
        (void)fprintf(stderr, "kvasir pull: %s\n", e.msg);
        status = 1;
    } else {
        (void)printf("%s\n", buf_str(&path));
    }
    buf_free(&path);
    return status;
}
