/* kvasir quantize IN OUT TYPE */
#include "base/units.h"
#include "engine/quant/formats.h"
#include "engine/requantize.h"
#include "server/commands.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void print_types(FILE *to)
{
    for (uint32_t i = 0; quant_mix_at(i); i++) {
        (void)fprintf(to, "%s%s", i ? " " : "", quant_mix_at(i)->name);
    }
}

static void print_usage(void)
{
    (void)printf("usage: kvasir quantize [OPTIONS] IN.gguf OUT.gguf TYPE\n\n"
                 "Writes the model IN with weights of TYPE to OUT. TYPE is one of\n  ");
    print_types(stdout);
    (void)printf("\nThe best source is F32, F16 or BF16; quantised weights lose a little again.\n\n"
                 "  --threads N   worker threads (default: physical cores)\n"
                 "  --quiet       no line per tensor\n"
                 "  --help        this text\n");
}

struct totals {
    bool quiet;
    bool was_quantised;
    uint64_t in_bytes;
};

static void report(void *arg, const struct gguf_tensor *t, enum gguf_type to, uint64_t done_bytes,
                   uint64_t total_bytes)
{
    struct totals *s = arg;
    s->in_bytes = total_bytes;
    s->was_quantised |= to != t->type && quant_format_of(t->type)->n_block_elem > 1;
    if (!s->quiet) {
        (void)fprintf(stderr, "%3u %%  %-6s -> %-6s %.*s\n",
                      (unsigned)(100 * done_bytes / total_bytes), quant_format_of(t->type)->name,
                      quant_format_of(to)->name, (int)(t->name.n < 100 ? t->name.n : 100),
                      t->name.s);
    }
}

/* 1…1024; 0 when it is not. */
static uint32_t parse_threads(const char *text)
{
    char *end;
    unsigned long v = strtoul(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && v <= 1024 ? (uint32_t)v : 0;
}

static int run(const struct eng_requantize_options *o, const struct totals *s)
{
    struct err e;
    struct gguf *out = NULL;
    char sizes[2][32];
    if (eng_requantize(o, &e) || gguf_open(o->out_path, &out, &e)) {
        (void)fprintf(stderr, "kvasir quantize: %s\n", e.msg);
        return 1;
    }
    if (s->was_quantised) {
        (void)fprintf(
            stderr,
            "kvasir quantize: note: %s was quantised already; a file made from F16 or F32 "
            "weights would be more exact\n",
            o->in_path);
    }
    (void)printf("%s: %s, from %s to %s\n", o->out_path, o->mix->name,
                 units_format_bytes(s->in_bytes, sizes[0], sizeof sizes[0]),
                 units_format_bytes(gguf_file_bytes(out), sizes[1], sizeof sizes[1]));
    gguf_close(out);
    return 0;
}

int cmd_quantize(int argc, char **argv)
{
    static const struct option options[] = {
        {"threads", required_argument, NULL, 't'},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct totals s = {0};
    struct eng_requantize_options o = {.progress = report, .progress_arg = &s};
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 't':
            o.n_thread = parse_threads(optarg);
            if (!o.n_thread) {
                (void)fprintf(stderr, "kvasir quantize: --threads is 1 to 1024, not '%s'\n",
                              optarg);
                return 2;
            }
            break;
        case 'q': s.quiet = true; break;
        case 'h': print_usage(); return 0;
        default: return 2;
        }
    }
    if (argc - optind != 3) {
        (void)fprintf(stderr, "kvasir quantize: needs IN, OUT and TYPE; see kvasir quantize "
                              "--help\n");
        return 2;
    }
    o.in_path = argv[optind];
    o.out_path = argv[optind + 1];
    o.mix = quant_mix_by_name(argv[optind + 2]);
    if (!o.mix) {
        (void)fprintf(stderr, "kvasir quantize: no type '%s'; there are ", argv[optind + 2]);
        print_types(stderr);
        (void)fputc('\n', stderr);
        return 2;
    }
    return run(&o, &s);
}
