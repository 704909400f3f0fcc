/* kvasir inspect FILE [--json] */
#include "base/buf.h"
#include "base/units.h"
#include "engine/arch/arch.h"
#include "engine/gguf.h"
#include "engine/gguf_facts.h"
#include "engine/quant/formats.h"
#include "server/commands.h"
#include "server/inspect_value.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static void print_usage(void)
{
    (void)printf(
        "usage: kvasir inspect [OPTIONS] FILE.gguf\n\n"
        "Metadata, tensors, quantisation types, KV bytes per token and estimated memory of\n"
        "a model, of any architecture, or of a vocabulary-only file.\n\n"
        "  --json       one line of JSON; arrays of more than 16 elements are given as\n"
        "               {\"n\": length, \"head\": [first elements]}\n"
        "  --no-tensors leave out the list of tensors\n"
        "  --help       this text\n");
}

struct view {
    const struct gguf *f;
    struct gguf_facts facts;
    const char *path;
    bool tensors;
};

/* Memory for the weights and one sequence of the trained length. */
static uint64_t estimate(const struct gguf_facts *a, uint64_t kv_bytes)
{
    uint64_t kv;
    uint64_t sum;
    return units_mul(kv_bytes, a->n_ctx_train, &kv) && units_add(kv, a->tensor_bytes, &sum) ? sum
                                                                                            : 0;
}

/* ---- for people ---- */

static void put_text(struct buf *b, const char *label, struct gguf_str s)
{
    if (s.n) {
        buf_printf(b, "%-17s", label);
        inspect_put_text(b, s);
        buf_putc(b, '\n');
    }
}

static void put_count(struct buf *b, const char *label, uint64_t v)
{
    if (v) {
        buf_printf(b, "%-17s%llu\n", label, (unsigned long long)v);
    }
}

static void put_sized(struct buf *b, uint64_t bytes)
{
    char size[32];
    buf_puts(b, units_format_bytes(bytes, size, sizeof size));
}

static void put_summary(struct buf *b, const struct view *v)
{
    const struct gguf_facts *a = &v->facts;
    buf_printf(b, "%-17s%s (GGUF version %u, ", "file", v->path, gguf_version(v->f));
    put_sized(b, gguf_file_bytes(v->f));
    buf_puts(b, ")\n");
    put_text(b, "name", a->name);
    put_text(b, "architecture", a->arch);
    if (a->arch.n && gguf_n_tensor(v->f) && !arch_find(a->arch.s, a->arch.n)) {
        buf_printf(b, "%-17snot one this build can run\n", "");
    }
    if (a->file_type) {
        buf_printf(b, "%-17s%s\n", "weights", a->file_type);
    }
    put_count(b, "parameters", a->n_param);
    put_count(b, "layers", a->n_layer);
    put_count(b, "embedding", a->n_embd);
    if (a->n_head) {
        buf_printf(b, "%-17s%llu of %llu values, %llu for KV\n", "heads",
                   (unsigned long long)a->n_head, (unsigned long long)a->head_dim,
                   (unsigned long long)a->n_head_kv);
    }
    put_count(b, "feed-forward", a->n_ff);
    if (a->n_expert) {
        buf_printf(b, "%-17s%llu, %llu used per token\n", "experts",
                   (unsigned long long)a->n_expert, (unsigned long long)a->n_expert_used);
    }
    put_count(b, "trained context", a->n_ctx_train);
    put_text(b, "tokenizer", a->tokenizer);
    put_count(b, "vocabulary", a->n_vocab);
    buf_printf(b, "%-17s%s\n", "chat template", a->chat_template_bytes ? "yes" : "none");
}

static void put_memory(struct buf *b, const struct view *v)
{
    const struct gguf_facts *a = &v->facts;
    const struct {
        const char *name;
        uint64_t bytes;
    } kinds[] = {{"f32", a->kv_f32_bytes}, {"bf16", a->kv_bf16_bytes}, {"int8", a->kv_int8_bytes}};
    if (!a->kv_f32_bytes || !a->tensor_bytes) {
        return;
    }
    buf_puts(b, "\nmemory\n  weights     ");
    put_sized(b, a->tensor_bytes);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        buf_printf(b, "\n  KV as %-4s  ", kinds[i].name);
        put_sized(b, kinds[i].bytes);
        buf_puts(b, " a token");
        uint64_t sum = estimate(a, kinds[i].bytes);
        if (sum && a->n_ctx_train) {
            buf_printf(b, "; with one sequence of %llu tokens ",
                       (unsigned long long)a->n_ctx_train);
            put_sized(b, sum);
        }
    }
    buf_putc(b, '\n');
}

static void put_types(struct buf *b, const struct view *v, bool json)
{
    const char *comma = "";
    for (uint32_t type = 0; type < GGUF_TYPE_END; type++) {
        uint64_t n = 0;
        uint64_t bytes = 0;
        for (uint64_t i = 0; i < gguf_n_tensor(v->f); i++) {
            const struct gguf_tensor *t = gguf_tensor_at(v->f, i);
            if ((uint32_t)t->type == type) {
                n++;
                (void)units_add(bytes, t->n_byte, &bytes);
            }
        }
        if (n && json) {
            buf_printf(b, "%s\"%s\":{\"tensors\":%llu,\"bytes\":%llu}", comma,
                       quant_format_of(type)->name, (unsigned long long)n,
                       (unsigned long long)bytes);
            comma = ",";
        } else if (n) {
            buf_printf(b, "  %-8s%5llu tensors, ", quant_format_of(type)->name,
                       (unsigned long long)n);
            put_sized(b, bytes);
            buf_putc(b, '\n');
        }
    }
}

static void put_human(struct buf *b, const struct view *v)
{
    put_summary(b, v);
    put_memory(b, v);
    buf_puts(b, "\nmetadata\n");
    for (uint64_t i = 0; i < gguf_n_kv(v->f); i++) {
        const struct gguf_kv *kv = gguf_kv_at(v->f, i);
        buf_puts(b, "  ");
        inspect_put_text(b, kv->key);
        buf_puts(b, " = ");
        inspect_put_value(b, kv, false);
        buf_putc(b, '\n');
    }
    if (!gguf_n_tensor(v->f)) {
        buf_puts(b, "\nno tensors\n");
        return;
    }
    buf_puts(b, "\ntypes\n");
    put_types(b, v, false);
    if (!v->tensors) {
        return;
    }
    buf_puts(b, "\ntensors\n");
    for (uint64_t i = 0; i < gguf_n_tensor(v->f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(v->f, i);
        buf_printf(b, "  %-8s", quant_format_of(t->type)->name);
        inspect_put_text(b, t->name);
        buf_puts(b, " [");
        for (uint32_t d = 0; d < t->n_dim; d++) {
            buf_printf(b, "%s%llu", d ? ", " : "", (unsigned long long)t->ne[d]);
        }
        buf_puts(b, "]\n");
    }
}

/* ---- for programs ---- */

static void put_json_str(struct buf *b, const char *name, struct gguf_str s)
{
    buf_printf(b, ",\"%s\":", name);
    if (s.n) {
        buf_json_string(b, s.s, s.n);
    } else {
        buf_puts(b, "null");
    }
}

static void put_json_tensors(struct buf *b, const struct gguf *f)
{
    buf_puts(b, ",\"tensors\":[");
    for (uint64_t i = 0; i < gguf_n_tensor(f); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f, i);
        buf_puts(b, i ? ",{\"name\":" : "{\"name\":");
        buf_json_string(b, t->name.s, t->name.n);
        buf_printf(b, ",\"type\":\"%s\",\"ne\":[", quant_format_of(t->type)->name);
        for (uint32_t d = 0; d < t->n_dim; d++) {
            buf_printf(b, "%s%llu", d ? "," : "", (unsigned long long)t->ne[d]);
        }
        buf_printf(b, "],\"bytes\":%llu,\"offset\":%llu,\"part\":%u}",
                   (unsigned long long)t->n_byte, (unsigned long long)t->offset, t->part);
    }
    buf_putc(b, ']');
}

static void put_json_numbers(struct buf *b, const struct gguf_facts *a)
{
    const struct {
        const char *name;
        uint64_t v;
    } numbers[] = {
        {"n_param", a->n_param},
        {"n_layer", a->n_layer},
        {"n_embd", a->n_embd},
        {"n_head", a->n_head},
        {"n_head_kv", a->n_head_kv},
        {"head_dim", a->head_dim},
        {"n_ff", a->n_ff},
        {"n_expert", a->n_expert},
        {"n_expert_used", a->n_expert_used},
        {"n_ctx_train", a->n_ctx_train},
        {"n_vocab", a->n_vocab},
        {"chat_template_bytes", a->chat_template_bytes},
        {"weights_bytes", a->tensor_bytes},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        buf_printf(b, ",\"%s\":%llu", numbers[i].name, (unsigned long long)numbers[i].v);
    }
    buf_printf(b, ",\"kv_bytes_per_token\":{\"f32\":%llu,\"bf16\":%llu,\"int8\":%llu}",
               (unsigned long long)a->kv_f32_bytes, (unsigned long long)a->kv_bf16_bytes,
               (unsigned long long)a->kv_int8_bytes);
    buf_printf(b, ",\"memory_bytes\":{\"f32\":%llu,\"bf16\":%llu,\"int8\":%llu}",
               (unsigned long long)estimate(a, a->kv_f32_bytes),
               (unsigned long long)estimate(a, a->kv_bf16_bytes),
               (unsigned long long)estimate(a, a->kv_int8_bytes));
}

static void put_json(struct buf *b, const struct view *v)
{
    const struct gguf_facts *a = &v->facts;
    buf_puts(b, "{\"file\":");
    buf_json_string(b, v->path, strlen(v->path));
    buf_printf(b, ",\"version\":%u,\"file_bytes\":%llu", gguf_version(v->f),
               (unsigned long long)gguf_file_bytes(v->f));
    put_json_str(b, "architecture", a->arch);
    buf_printf(b, ",\"supported\":%s", arch_find(a->arch.s, a->arch.n) ? "true" : "false");
    put_json_str(b, "name", a->name);
    put_json_str(b, "file_type",
                 (struct gguf_str){a->file_type, a->file_type ? strlen(a->file_type) : 0});
    put_json_str(b, "tokenizer", a->tokenizer);
    put_json_numbers(b, a);
    buf_puts(b, ",\"types\":{");
    put_types(b, v, true);
    buf_puts(b, "},\"metadata\":{");
    for (uint64_t i = 0; i < gguf_n_kv(v->f); i++) {
        const struct gguf_kv *kv = gguf_kv_at(v->f, i);
        buf_puts(b, i ? "," : "");
        buf_json_string(b, kv->key.s, kv->key.n);
        buf_putc(b, ':');
        inspect_put_value(b, kv, true);
    }
    buf_putc(b, '}');
    if (v->tensors) {
        put_json_tensors(b, v->f);
    }
    buf_puts(b, "}\n");
}

int cmd_inspect(int argc, char **argv)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'},
        {"no-tensors", no_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct view v = {.tensors = true};
    bool json = false;
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 'j': json = true; break;
        case 't': v.tensors = false; break;
        case 'h': print_usage(); return 0;
        default: return 2;
        }
    }
    if (argc - optind != 1) {
        (void)fprintf(stderr, "kvasir inspect: needs one FILE; see kvasir inspect --help\n");
        return 2;
    }
    v.path = argv[optind];
    struct gguf *f = NULL;
    struct err e;
    if (gguf_open(v.path, &f, &e)) {
        (void)fprintf(stderr, "kvasir inspect: %s\n", e.msg);
        return 1;
    }
    struct buf out = {0};
    v.f = f;
    gguf_facts_read(f, &v.facts);
    (json ? put_json : put_human)(&out, &v);
    bool ok =
        buf_ok(&out) && fwrite(buf_str(&out), 1, out.len, stdout) == out.len && fflush(stdout) == 0;
    buf_free(&out);
    gguf_close(f);
    if (!ok) {
        (void)fprintf(stderr, "kvasir inspect: cannot write the result\n");
    }
    return ok ? 0 : 1;
}
