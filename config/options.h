/* Every option of `kvasir serve`: one table gives each its flag (--kv-ram), its environment
 * variable (KVASIR_KV_RAM), its key in the YAML file (kv-ram), its range, default and help. A flag
 * wins over the environment, that over the file, that over the default. An error names the option,
 * where the value came from, the value and the range.
 *
 * Thread: cfg_load is for main before threads start; a loaded struct cfg is read-only and for all.
 */
#ifndef CONFIG_OPTIONS_H
#define CONFIG_OPTIONS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cfg_kv_io { CFG_KV_IO_AUTO, CFG_KV_IO_URING, CFG_KV_IO_PREAD };
enum cfg_switch { CFG_ON, CFG_OFF };
enum cfg_kv_type { CFG_KV_AUTO, CFG_KV_F32, CFG_KV_BF16, CFG_KV_INT8 };
enum cfg_pooling {
    CFG_POOLING_AUTO,
    CFG_POOLING_MEAN,
    CFG_POOLING_CLS,
    CFG_POOLING_LAST,
    CFG_POOLING_OFF
};
enum cfg_log_level { CFG_LOG_ERROR, CFG_LOG_WARN, CFG_LOG_INFO, CFG_LOG_DEBUG };
enum cfg_log_format { CFG_LOG_TEXT, CFG_LOG_JSON };

/* Strings are NULL where not given and have no default; they belong to the struct. */
struct cfg {
    /* model */
    char *model;
    char *quantize; /* of a folder's weights; NULL: as stored */
    char *alias;
    char *chat_template;
    bool chat_template_fallback;
    char *lora;             /* see server/lora_option.h */
    char *sampling;         /* see server/sampling.h */
    uint64_t pooling;       /* enum cfg_pooling */
    uint64_t ctx_tok;       /* 0: the trained length */
    uint64_t n_thread;      /* 0: the physical cores allowed */
    uint64_t isa;           /* index into cfg_isa_name */
    uint64_t kv_type;       /* enum cfg_kv_type */
    uint64_t kv_ram_bytes;  /* 0: a share of what is free */
    char *kv_dir;           /* NULL: none */
    uint64_t kv_disk_bytes; /* 0: a share of what is free there */
    char *kv_key_file;      /* NULL: not encrypted */
    uint64_t kv_io;         /* enum cfg_kv_io */
    uint64_t prefix_cache;  /* enum cfg_switch */
    /* network */
    char *host;
    uint64_t port; /* 0: any free one */
    uint64_t n_connection;
    uint64_t n_http_thread;
    uint64_t n_prep_thread;
    uint64_t body_bytes_max;
    uint64_t bodies_bytes_max; /* of all requests not yet parsed, together */
    uint64_t header_s;
    uint64_t idle_s;
    uint64_t stall_s;
    uint64_t ping_s; /* 0: no pings */
    char *cors_origin;
    char *api_key_file;
    bool insecure_no_auth;
    /* scheduling */
    uint64_t n_queued;
    uint64_t n_running;
    uint64_t n_step_tok; /* 0: the engine's limit */
    uint64_t itl_ms;     /* 0: steps are not sized by time */
    uint64_t request_s;  /* 0: no deadline */
    uint64_t drain_s;
    uint64_t stuck_s;
    /* logging */
    uint64_t log_level;
    uint64_t log_format;
    bool access_log;
    /* where the rest came from */
    char *config;
};

/* Reads the environment for cfg_load; tests bring their own. NULL: not set. */
typedef const char *cfg_env_fn(void *arg, const char *name);
const char *cfg_process_env(void *arg, const char *name);

/* argv[0] is skipped. *ret_help is set, and nothing else is read, when --help is among the flags.
 * ERR_INVALID for anything wrong with a value, ERR_IO for a configuration file that cannot be read;
 * *ret_cfg is then untouched. Every cfg that was loaded ends with cfg_finish. */
enum err_code cfg_load(int argc, char **argv, cfg_env_fn *env, void *env_arg, struct cfg *ret_cfg,
                       bool *ret_help, struct err *e);
void cfg_finish(struct cfg *c);

/* The --help text of all options. */
void cfg_help(struct buf *out);
/* The whole configuration as YAML, keys in table order: what config/kvasir.yaml is. */
void cfg_sample(struct buf *out);

/* The name eng_options.isa wants; NULL: the best. */
const char *cfg_isa_name(const struct cfg *c);

#endif
