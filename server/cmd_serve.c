/* `kvasir serve`: options, then the server. */
#include "base/log.h"
#include "config/default_model.h"
#include "config/options.h"
#include "engine/convert/convert.h"
#include "server/commands.h"
#include "server/hub.h"
#include "server/lora_option.h"
#include "server/model_folder.h"
#include "server/serve.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH 40

struct progress {
    bool terminal;
    uint64_t shown; /* percent; beyond 100: nothing yet */
};

/* On a terminal a bar that stays in place and goes when it is full; else debug lines. */
static void on_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct progress *p = arg;
    uint64_t percent = total_bytes ? done_bytes / ((total_bytes + 99) / 100) : 100;
    percent = percent < 100 && done_bytes < total_bytes ? percent : 100;
    if (percent == p->shown || (!p->terminal && percent / 10 == p->shown / 10)) {
        return;
    }
    p->shown = percent;
    if (!p->terminal) {
        log_debug("loading: %" PRIu64 " %%", percent);
        return;
    }
    char bar[BAR_WIDTH + 1];
    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', BAR_WIDTH * percent / 100);
    bar[BAR_WIDTH] = '\0';
    (void)fprintf(stderr, "\rloading [%s] %3" PRIu64 " %%", bar, percent);
    if (percent == 100) {
        (void)fprintf(stderr, "\r%*s\r", BAR_WIDTH + 17, "");
    }
}

/* The engine reads GGUF: a folder's comes from a file that is gone once it is open. */
static enum err_code convert_model(const struct cfg *cfg, struct buf *ret_path, struct err *e)
{
    if (convert_is_folder(cfg->model)) {
        return srv_folder_for_serving(cfg->model, cfg->quantize, ret_path, e);
    }
    if (cfg->quantize) {
        return err_set(e, ERR_INVALID,
                       "quantize is for Hugging Face folders; kvasir quantize does it to %s",
                       cfg->model);
    }
    return ERR_OK;
}

static void forget_converted(struct buf *path)
{
    if (path->len) {
        (void)unlink(buf_str(path));
    }
    buf_free(path);
}

static enum err_code open_model(const struct cfg *cfg, struct eng **ret_g, struct err *e)
{
    static const enum eng_kv_type kv_types[] = {ENG_KV_AUTO, ENG_KV_F32, ENG_KV_BF16, ENG_KV_INT8};
    struct progress progress = {.terminal = isatty(STDERR_FILENO), .shown = 101};
    struct srv_lora_list loras = {0};
    struct buf converted = {0};
    enum err_code code = srv_lora_parse(cfg->lora, &loras, e);
    if (code != ERR_OK) {
        return code;
    }
    code = convert_model(cfg, &converted, e);
    if (code != ERR_OK) {
        srv_lora_finish(&loras);
        return code;
    }
    const struct eng_options options = {
        .model_path = converted.len ? buf_str(&converted) : cfg->model,
        .chat_template_path = cfg->chat_template,
        .chat_template_fallback = cfg->chat_template_fallback,
        .n_ctx = (uint32_t)cfg->ctx_tok,
        .n_thread = (uint32_t)cfg->n_thread,
        .kv_type = kv_types[cfg->kv_type],
        .isa = cfg_isa_name(cfg),
        .adapters = loras.files,
        .n_adapter = loras.n,
        .progress = on_progress,
        .progress_arg = &progress,
    };
    log_info("loading %s", cfg->model);
    code = eng_open(&options, ret_g, e);
    srv_lora_finish(&loras);
    forget_converted(&converted);
    return code;
}

static enum err_code use_default_model(struct cfg *cfg, struct err *e)
{
    struct buf path = {0};
    enum err_code code = cfg_default_model(NULL, &path, e);
    if (code == ERR_OK) {
        cfg->model = path.data; /* the configuration's from here on */
        path = (struct buf){0};
    }
    buf_free(&path);
    return code;
}

/* A model that is no file may be one of the cache: its path takes the name's place. */
static enum err_code find_model(struct cfg *cfg, struct err *e)
{
    struct buf dir = {0};
    struct buf path = {0};
    enum err_code rc = err_set(e, ERR_NOT_FOUND, "model: cannot read %s", cfg->model);
    if (access(cfg->model, R_OK) == 0) {
        rc = ERR_OK;
    } else if (cfg->model[0] != '/' && cfg->model[0] != '.' && hub_cache_dir(&dir)) {
        rc = hub_cache_find(buf_str(&dir), cfg->model, &path, e);
    }
    if (!rc && path.len) {
        free(cfg->model);
        cfg->model = path.data;
        path = (struct buf){0};
    }
    buf_free(&dir);
    buf_free(&path);
    return rc;
}

int cmd_serve(int argc, char **argv)
{
    struct cfg cfg;
    struct err e = {0};
    bool help = false;
    if (cfg_load(argc, argv, cfg_process_env, NULL, &cfg, &help, &e) != ERR_OK) {
        (void)fprintf(stderr, "kvasir serve: %s\n", e.msg);
        return 2;
    }
    if (help) {
        struct buf text = {0};
        cfg_help(&text);
        (void)fputs(buf_str(&text), stdout);
        buf_free(&text);
        return 0;
    }
    int status = 0;
    if (!cfg.model && use_default_model(&cfg, &e) != ERR_OK) {
        (void)fprintf(stderr, "kvasir serve: give --model FILE, a model in GGUF format (%s)\n",
                      e.msg);
        status = 2;
    } else if (find_model(&cfg, &e) != ERR_OK) {
        (void)fprintf(stderr, "kvasir serve: %s\n", e.msg);
        status = 1;
    } else {
        status = srv_run(&cfg, open_model);
    }
    cfg_finish(&cfg);
    return status;
}
