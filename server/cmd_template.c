/* `kvasir template`: renders a chat template over a context of JSON, exactly, on standard output.
 */
#include "server/commands.h"

#include "base/clock.h"
#include "base/file.h"
#include "engine/gguf.h"
#include "engine/template/template.h"
#include "server/json_check.h"
#include "server/json_value.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define FILE_BYTES_MAX    ((size_t)16 << 20)
#define CONTEXT_BYTES_MAX ((size_t)256 << 20)

static const char usage[] =
    "usage: kvasir template (--template FILE | --model FILE) --context FILE [--now TIME]\n\n"
    "Prints the rendering of a chat template, no newline added; an error is one line and exit "
    "1.\n\n"
    "  --template FILE  a Jinja chat template\n"
    "  --model FILE     a GGUF file that brings one\n"
    "  --context FILE   a JSON object: messages, add_generation_prompt, tools, bos_token, ...\n"
    "  --now TIME       what strftime_now sees, as 2026-07-26T09:30:00 (UTC); default: now\n"
    "  --help           this text\n";

struct arguments {
    const char *template_path;
    const char *model_path;
    const char *context_path;
    int64_t now_unix_s;
};

static int wrong_usage(const char *what)
{
    (void)fprintf(stderr, "kvasir template: %s; see kvasir template --help\n", what);
    return 2;
}

static bool parse_time(const char *text, int64_t *ret_unix_s)
{
    struct tm t = {0};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &t);
    if (!end) {
        end = strptime(text, "%Y-%m-%d", &t);
    }
    if (!end || (*end && strcmp(end, "Z") != 0)) {
        return false;
    }
    *ret_unix_s = (int64_t)timegm(&t);
    return true;
}

/* 0: go on; 1: --help was printed; 2: wrong usage. */
static int parse(int argc, char **argv, struct arguments *a)
{
    static const struct option options[] = {
        {"template", required_argument, NULL, 't'}, {"model", required_argument, NULL, 'm'},
        {"context", required_argument, NULL, 'c'},  {"now", required_argument, NULL, 'n'},
        {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0}};
    int c = 0;
    a->now_unix_s = clock_unix_s();
    while ((c = getopt_long(argc, argv, "t:m:c:h", options, NULL)) != -1) {
        switch (c) {
        case 't': a->template_path = optarg; break;
        case 'm': a->model_path = optarg; break;
        case 'c': a->context_path = optarg; break;
        case 'n':
            if (!parse_time(optarg, &a->now_unix_s)) {
                return wrong_usage("--now wants a time such as 2026-07-26T09:30:00");
            }
            break;
        case 'h': (void)fputs(usage, stdout); return 1;
        default: return 2;
        }
    }
    if (optind != argc) {
        return wrong_usage("too many arguments");
    }
    if (!a->template_path == !a->model_path) {
        return wrong_usage("give one of --template and --model");
    }
    return a->context_path ? 0 : wrong_usage("--context FILE is missing");
}

static enum err_code template_text(const struct arguments *a, struct buf *out, struct err *e)
{
    if (a->template_path) {
        return file_read(a->template_path, "", FILE_BYTES_MAX, out, e);
    }
    struct gguf *f = NULL;
    struct gguf_str s;
    enum err_code rc = gguf_open(a->model_path, &f, e);
    if (!rc && !gguf_get_str(f, "tokenizer.chat_template", &s)) {
        rc = err_set(e, ERR_NOT_FOUND, "%s has no chat template", a->model_path);
    } else if (!rc) {
        buf_append(out, s.s, s.n);
    }
    gguf_close(f);
    return rc;
}

static enum err_code read_context(const char *path, struct tmpl_arena *arena,
                                  struct tmpl_value **ret_v, struct err *e)
{
    struct buf text = {0};
    struct err why;
    cJSON *json = NULL;
    enum err_code rc = file_read(path, "", FILE_BYTES_MAX, &text, e);
    if (!rc && srv_json_check(buf_str(&text), text.len, &why)) {
        rc = err_set(e, ERR_INVALID, "%.60s: %.160s", path, why.msg);
    }
    if (!rc && !(json = cJSON_ParseWithLength(text.data, text.len))) {
        rc = err_set(e, ERR_NOMEM, "out of memory for %s", path);
    }
    if (!rc && !cJSON_IsObject(json)) {
        rc = err_set(e, ERR_INVALID, "%s must hold one JSON object", path);
    }
    if (!rc && !(*ret_v = srv_json_value(arena, json))) {
        rc = err_set(e, ERR_LIMIT, "%s takes more than %zu MiB", path, CONTEXT_BYTES_MAX >> 20);
    }
    cJSON_Delete(json);
    buf_free(&text);
    return rc;
}

static enum err_code render(const struct arguments *a, struct err *e)
{
    struct buf source = {0};
    struct buf out = {0};
    struct tmpl *t = NULL;
    struct tmpl_arena *arena = NULL;
    struct tmpl_value *context = NULL;
    enum err_code rc = template_text(a, &source, e);
    rc = rc ? rc : tmpl_compile(buf_str(&source), source.len, &t, e);
    rc = rc ? rc : tmpl_arena_create(CONTEXT_BYTES_MAX, &arena, e);
    rc = rc ? rc : read_context(a->context_path, arena, &context, e);
    rc = rc ? rc : tmpl_render(t, context, NULL, a->now_unix_s, &out, e);
    if (!rc && (fwrite(buf_str(&out), 1, out.len, stdout) != out.len || fflush(stdout) != 0)) {
        rc = err_errno(e, ERR_IO, errno, "standard output");
    }
    tmpl_arena_destroy(arena);
    tmpl_destroy(t);
    buf_free(&out);
    buf_free(&source);
    return rc;
}

int cmd_template(int argc, char **argv)
{
    struct arguments a = {0};
    struct err e;
    int stop = parse(argc, argv, &a);
    if (stop) {
        return stop == 1 ? 0 : stop;
    }
    if (render(&a, &e)) {
        (void)fprintf(stderr, "kvasir template: %s\n", e.msg);
        return 1;
    }
    return 0;
}
