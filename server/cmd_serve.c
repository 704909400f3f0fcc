/* `kvasir serve`: options, then the server. */
#include "base/log.h"
#include "config/options.h"
#include "server/commands.h"
#include "server/lora_option.h"
#include "server/serve.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

static void on_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    uint64_t *last_tenth = arg;
    uint64_t tenth = total_bytes ? done_bytes / ((total_bytes + 9) / 10) : 10;
    if (tenth > *last_tenth) {
        *last_tenth = tenth;
        log_debug("loading: %" PRIu64 " %%", tenth * 10);
    }
}

static enum err_code open_model(const struct cfg *cfg, struct eng **ret_g, struct err *e)
{
    static const enum eng_kv_type kv_types[] = {ENG_KV_AUTO, ENG_KV_F32, ENG_KV_BF16, ENG_KV_INT8};
    uint64_t tenth = 0;
    struct srv_lora_list loras = {0};
    enum err_code code = srv_lora_parse(cfg->lora, &loras, e);
    if (code != ERR_OK) {
        return code;
    }
    const struct eng_options options = {
        .model_path = cfg->model,
        .chat_template_path = cfg->chat_template,
        .chat_template_fallback = cfg->chat_template_fallback,
        .n_ctx = (uint32_t)cfg->ctx_tok,
        .n_thread = (uint32_t)cfg->n_thread,
        .kv_type = kv_types[cfg->kv_type],
        .isa = cfg_isa_name(cfg),
        .adapters = loras.files,
        .n_adapter = loras.n,
        .progress = on_progress,
        .progress_arg = &tenth,
    };
    log_info("loading %s", cfg->model);
    code = eng_open(&options, ret_g, e);
    srv_lora_finish(&loras);
    return code;
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
    if (!cfg.model) {
        (void)fprintf(stderr, "kvasir serve: give --model FILE, a model in GGUF format\n");
        status = 2;
    } else if (access(cfg.model, R_OK) != 0) {
        (void)fprintf(stderr, "kvasir serve: model: cannot read %s\n", cfg.model);
        status = 1;
    } else {
        status = srv_run(&cfg, open_model);
    }
    cfg_finish(&cfg);
    return status;
}
