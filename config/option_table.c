#include "config/option_table.h"

#include "base/buf.h"
#include "base/units.h"
#include "config/options.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define TIB ((uint64_t)1 << 40)

#define STRING(NAME, FIELD)                                                                        \
    .name = NAME, .kind = CFG_KIND_STRING, .offset = offsetof(struct cfg, FIELD)
#define BOOL(NAME, FIELD) .name = NAME, .kind = CFG_KIND_BOOL, .offset = offsetof(struct cfg, FIELD)
#define CHOICE(NAME, FIELD, CHOICES)                                                               \
    .name = NAME, .kind = CFG_KIND_CHOICE, .offset = offsetof(struct cfg, FIELD), .choices = CHOICES
#define NUMBER(NAME, FIELD, MIN, MAX)                                                              \
    .name = NAME, .kind = CFG_KIND_NUMBER, .offset = offsetof(struct cfg, FIELD), .min = MIN,      \
    .max = MAX
#define BYTES(NAME, FIELD, MIN, MAX)                                                               \
    .name = NAME, .kind = CFG_KIND_BYTES, .offset = offsetof(struct cfg, FIELD), .min = MIN,       \
    .max = MAX

/* clang-format off */
const struct cfg_option cfg_options[] = {
    {STRING("model", model), .unit = "FILE", .group = "Model",
     .help = "GGUF file or Hugging Face folder to serve, or a model that kvasir pull fetched; "
             "default: the small one that comes along"},
    {STRING("quantize", quantize), .unit = "TYPE",
     .help = "weight type that a Hugging Face folder is converted to, as Q4_K_M; else as stored"},
    {STRING("alias", alias), .unit = "NAME",
     .help = "name of the model in requests and answers; else its file's"},
    {STRING("chat-template", chat_template), .unit = "FILE",
     .help = "chat template to use instead of the model's own"},
    {BOOL("chat-template-fallback", chat_template_fallback), .deflt = "false",
     .help = "a chat template that does not parse gives way to a built-in one"},
    {STRING("lora", lora), .unit = "NAME=FILE[:SCALE]", .list = true,
     .help = "LoRA adapter in GGUF format, for requests with model \"MODEL:NAME\" or lora \"NAME\"; "
             "may be given several times, or with commas between"},
    {STRING("sampling", sampling), .deflt = "model", .unit = "SPEC",
     .help = "sampling of requests that do not say: model (as its file recommends), openai, or "
             "values over the model's, temperature=0.7,top_k=20"},
    {CHOICE("pooling", pooling, "auto|mean|cls|last|off"), .deflt = "auto",
     .help = "how /v1/embeddings makes one vector of a text; auto: what the model says, else mean "
             "for encoders and last for others; off: no embeddings"},
    {NUMBER("ctx", ctx_tok, 8, 16777216), .deflt = "auto", .auto_word = "auto", .unit = "TOKENS",
     .help = "longest sequence; auto: the length the model was trained for"},
    {NUMBER("threads", n_thread, 1, 1024), .deflt = "auto", .auto_word = "auto", .unit = "N",
     .help = "threads that compute; auto: the physical cores this process may use"},
    {CHOICE("isa", isa, "auto|scalar|avx2|avx512|amx|neon"), .deflt = "auto",
     .help = "instruction set of the kernels; auto: the best this CPU has"},

    {BYTES("kv-ram", kv_ram_bytes, MIB, 64 * TIB), .deflt = "auto", .auto_word = "auto",
     .unit = "SIZE", .group = "KV memory",
     .help = "memory for KV; auto: 60 % of what the machine or its cgroup has free"},
    {STRING("kv-dir", kv_dir), .unit = "DIR",
     .help = "directory where KV is kept on disk, also across restarts; auto: kvasir in the user's "
             "cache directory; else none"},
    {BYTES("kv-disk", kv_disk_bytes, MIB, 1024 * TIB), .deflt = "auto", .auto_word = "auto",
     .unit = "SIZE",
     .help = "disk space for KV; auto: half of what is free in kv-dir, at most 64 GiB "
             "and 16 times kv-ram"},
    {STRING("kv-key-file", kv_key_file), .unit = "FILE",
     .help = "encrypts KV on disk (AES-256-GCM) with this file's 32 bytes or 64 hex digits, which "
             "nobody else may read"},
    {CHOICE("kv-io", kv_io, "auto|io_uring|pread"), .deflt = "auto",
     .help = "how the disk is read and written; auto: io_uring where the system lets it"},
    {CHOICE("prefix-cache", prefix_cache, "on|off"), .deflt = "on",
     .help = "prompts begin with the KV that earlier requests of the same tenant left"},
    {CHOICE("kv-type", kv_type, "auto|f32|bf16|int8"), .deflt = "auto",
     .help = "number format of KV; auto: f32 for F32 and F16 models, bf16 otherwise"},

    {STRING("host", host), .deflt = "127.0.0.1", .unit = "ADDRESS", .group = "Network",
     .help = "address to listen on; one that others can reach needs API keys"},
    {NUMBER("port", port, 0, 65535), .deflt = "8080", .unit = "N",
     .help = "TCP port; 0: any free one, told in the log"},
    {STRING("api-key-file", api_key_file), .unit = "FILE",
     .help = "API keys, one per line: KEY, NAME:KEY or NAME:sha256:DIGEST; SIGHUP reads it again"},
    {BOOL("insecure-no-auth", insecure_no_auth), .deflt = "false",
     .help = "serve anyone who can reach the address, without keys"},
    {STRING("cors-origin", cors_origin), .unit = "ORIGIN",
     .help = "web origin that browsers may call from, or *; else none"},
    {NUMBER("connections", n_connection, 1, 65536), .deflt = "4096", .unit = "N",
     .help = "open connections at most"},
    {NUMBER("http-threads", n_http_thread, 1, 64), .deflt = "2", .unit = "N",
     .help = "threads that move bytes"},
    {NUMBER("prep-threads", n_prep_thread, 1, 64), .deflt = "2", .unit = "N",
     .help = "threads that parse, render and tokenize requests"},
    {BYTES("body-limit", body_bytes_max, KIB, 1024 * MIB), .deflt = "8M", .unit = "SIZE",
     .help = "largest request body"},
    {BYTES("bodies-limit", bodies_bytes_max, MIB, TIB), .deflt = "512M", .unit = "SIZE",
     .help = "request bodies in memory, all together"},
    {NUMBER("header-timeout", header_s, 1, 3600), .deflt = "10", .unit = "SECONDS",
     .help = "time to send a request's headers; a body then needs 1 KiB/s"},
    {NUMBER("idle-timeout", idle_s, 1, 86400), .deflt = "60", .unit = "SECONDS",
     .help = "how long an unused connection stays open"},
    {NUMBER("stall-timeout", stall_s, 1, 3600), .deflt = "30", .unit = "SECONDS",
     .help = "a client that takes nothing of its answer for so long is cut off"},

    {NUMBER("sse-ping", ping_s, 0, 3600), .deflt = "10", .unit = "SECONDS",
     .help = "a stream that says nothing for so long gets a comment, so that clients and proxies "
             "wait on; 0: none"},

    {NUMBER("queue", n_queued, 1, 1048576), .deflt = "2048", .unit = "N", .group = "Scheduling",
     .help = "sequences waiting to run; beyond it requests get 429"},
    {NUMBER("running", n_running, 1, 65536), .deflt = "256", .unit = "N",
     .help = "sequences computed together"},
    {NUMBER("step-tokens", n_step_tok, 1, 1048576), .deflt = "auto", .auto_word = "auto",
     .unit = "N", .help = "tokens of one step; auto: the engine's limit"},
    {NUMBER("itl-target", itl_ms, 0, 60000), .deflt = "100", .unit = "MS",
     .help = "a prefill slice shall not make running answers wait longer; 0: no such limit"},
    {NUMBER("request-timeout", request_s, 0, 604800), .deflt = "0", .unit = "SECONDS",
     .help = "time one request may take, waiting included; 0: any"},
    {NUMBER("drain-timeout", drain_s, 0, 86400), .deflt = "30", .unit = "SECONDS",
     .help = "time running answers get to end after SIGTERM"},
    {NUMBER("stuck-timeout", stuck_s, 1, 86400), .deflt = "60", .unit = "SECONDS",
     .help = "/health turns 503 when work waits and no step has ended for so long"},

    {CHOICE("log-level", log_level, "error|warn|info|debug"), .deflt = "info", .group = "Logging",
     .help = "least important line that is logged"},
    {CHOICE("log-format", log_format, "text|json"), .deflt = "text", .help = "form of a log line"},
    {BOOL("access-log", access_log), .deflt = "false", .help = "one log line per request"},

    {STRING("config", config), .unit = "FILE", .group = "Configuration",
     .help = "YAML file with any of these options as keys, without the dashes"},
};
/* clang-format on */
const size_t cfg_n_option = sizeof cfg_options / sizeof *cfg_options;
_Static_assert(sizeof cfg_options / sizeof *cfg_options <= CFG_OPTION_MAX, "raise CFG_OPTION_MAX");

void cfg_env_name(const struct cfg_option *o, char *out, size_t cap)
{
    (void)snprintf(out, cap, "KVASIR_%s", o->name);
    for (char *c = out; *c; c++) {
        *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
    }
}

void cfg_range_text(const struct cfg_option *o, char *out, size_t cap)
{
    char low[24];
    char high[24];
    const char *or_word = o->auto_word ? " or " : "";
    const char *word = o->auto_word ? o->auto_word : "";
    switch (o->kind) {
    case CFG_KIND_STRING: (void)snprintf(out, cap, "a %s", o->unit); break;
    case CFG_KIND_BOOL: (void)snprintf(out, cap, "true or false"); break;
    case CFG_KIND_CHOICE: (void)snprintf(out, cap, "one of %s", o->choices); break;
    case CFG_KIND_NUMBER:
        (void)snprintf(out, cap, "a number from %" PRIu64 " to %" PRIu64 "%s%s", o->min, o->max,
                       or_word, word);
        break;
    case CFG_KIND_BYTES:
        (void)snprintf(out, cap, "a size from %s to %s%s%s",
                       units_format_bytes(o->min, low, sizeof low),
                       units_format_bytes(o->max, high, sizeof high), or_word, word);
        break;
    }
}

/* "VALUE" of "--name VALUE"; empty for switches. */
static const char *value_text(const struct cfg_option *o)
{
    return o->kind == CFG_KIND_BOOL ? "" : o->kind == CFG_KIND_CHOICE ? o->choices : o->unit;
}

void cfg_help(struct buf *out)
{
    buf_puts(out, "usage: kvasir serve --model FILE [OPTIONS]\n\n"
                  "Answers OpenAI requests over HTTP. Each option may also be given as an\n"
                  "environment variable (--kv-ram is KVASIR_KV_RAM) or as a key of the YAML file\n"
                  "that --config names (kv-ram: 8G). Flags win over the environment, and that\n"
                  "over the file.\n");
    for (size_t i = 0; i < cfg_n_option; i++) {
        const struct cfg_option *o = &cfg_options[i];
        if (o->group) {
            buf_printf(out, "\n%s:\n", o->group);
        }
        buf_printf(out, "  --%s %s\n      %s", o->name, value_text(o), o->help);
        if (o->deflt && o->kind != CFG_KIND_BOOL) {
            buf_printf(out, " (default %s)", o->deflt);
        }
        buf_putc(out, '\n');
    }
}

void cfg_sample(struct buf *out)
{
    buf_puts(out,
             "# Every option of `kvasir serve`, at its default. Read with --config FILE; flags\n"
             "# and KVASIR_… variables win over it. Lines that begin with # set nothing.\n");
    for (size_t i = 0; i < cfg_n_option; i++) {
        const struct cfg_option *o = &cfg_options[i];
        char range[96];
        if (strcmp(o->name, "config") == 0) {
            continue; /* a file cannot name itself */
        }
        if (o->group) {
            buf_printf(out, "\n# ---- %s\n", o->group);
        }
        cfg_range_text(o, range, sizeof range);
        buf_printf(out, "\n# %s: %s.\n", range, o->help);
        if (o->deflt) {
            buf_printf(out, "%s: %s\n", o->name, o->deflt);
        } else {
            buf_printf(out, "# %s:\n", o->name);
        }
    }
}
