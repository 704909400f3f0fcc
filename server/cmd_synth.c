/* kvasir synth --shape NAME --type TYPE --vocab FILE -o OUT */
#include "base/units.h"
#include "engine/synth.h"
#include "server/commands.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_shapes(FILE *to)
{
    for (uint32_t i = 0; synth_shape_at(i); i++) {
        (void)fprintf(to, "%s%s", i ? " " : "", synth_shape_at(i)->name);
    }
}

static void print_types(FILE *to)
{
    for (uint32_t i = 0; quant_mix_at(i); i++) {
        (void)fprintf(to, "%s%s", i ? " " : "", quant_mix_at(i)->name);
    }
}

static void print_usage(void)
{
    (void)printf("usage: kvasir synth --shape NAME --type TYPE --vocab FILE -o OUT.gguf\n\n"
                 "Writes a model with made-up weights in the shape of a real one: as fast and as\n"
                 "large as that, and what it says is noise.\n\n"
                 "  --shape NAME   ");
    print_shapes(stdout);
    (void)printf("\n  --type TYPE    ");
    print_types(stdout);
    (void)printf("\n"
                 "  --vocab FILE   a GGUF file whose tokenizer is copied\n"
                 "  -o, --out OUT  the file to write\n"
                 "  --seed N       other weights (default 1)\n"
                 "  --layers N     that many layers instead of the shape's\n"
                 "  --threads N    worker threads (default: physical cores)\n"
                 "  --help         this text\n");
}

static bool parse_number(const char *name, const char *text, uint64_t max, uint64_t *ret_v)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || v > max) {
        (void)fprintf(stderr, "kvasir synth: --%s is a whole number up to %llu, not '%s'\n", name,
                      (unsigned long long)max, text);
        return false;
    }
    *ret_v = v;
    return true;
}

struct request {
    struct synth_options o;
    const char *shape;
    const char *type;
};

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct request *r)
{
    static const struct option options[] = {
        {"shape", required_argument, NULL, 's'},
        {"type", required_argument, NULL, 't'},
        {"vocab", required_argument, NULL, 'v'},
        {"out", required_argument, NULL, 'o'},
        {"seed", required_argument, NULL, 'n'},
        {"layers", required_argument, NULL, 'l'},
        {"threads", required_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    uint64_t v = 0;
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "o:h", options, NULL)) != -1) {
        switch (c) {
        case 's': r->shape = optarg; break;
        case 't': r->type = optarg; break;
        case 'v': r->o.vocab_path = optarg; break;
        case 'o': r->o.out_path = optarg; break;
        case 'n':
            if (!parse_number("seed", optarg, UINT64_MAX, &r->o.seed)) {
                return 2;
            }
            break;
        case 'l':
            if (!parse_number("layers", optarg, 1000, &v)) {
                return 2;
            }
            r->o.n_layer = (uint32_t)v;
            break;
        case 'j':
            if (!parse_number("threads", optarg, 1024, &v)) {
                return 2;
            }
            r->o.n_thread = (uint32_t)v;
            break;
        case 'h': print_usage(); return 0;
        default: return 2;
        }
    }
    if (optind != argc || !r->shape || !r->type || !r->o.vocab_path || !r->o.out_path) {
        (void)fprintf(stderr, "kvasir synth: needs --shape, --type, --vocab and -o; see kvasir "
                              "synth --help\n");
        return 2;
    }
    return -1;
}

int cmd_synth(int argc, char **argv)
{
    struct request r = {.o = {.seed = 1}};
    int status = parse(argc, argv, &r);
    if (status >= 0) {
        return status;
    }
    r.o.shape = synth_shape_by_name(r.shape);
    if (!r.o.shape) {
        (void)fprintf(stderr, "kvasir synth: no shape '%s'; there are ", r.shape);
        print_shapes(stderr);
        (void)fputc('\n', stderr);
        return 2;
    }
    r.o.mix = quant_mix_by_name(r.type);
    if (!r.o.mix) {
        (void)fprintf(stderr, "kvasir synth: no type '%s'; there are ", r.type);
        print_types(stderr);
        (void)fputc('\n', stderr);
        return 2;
    }
    struct err e;
    struct gguf *f = NULL;
    if (synth_write(&r.o, &e) || gguf_open(r.o.out_path, &f, &e)) {
        (void)fprintf(stderr, "kvasir synth: %s\n", e.msg);
        return 1;
    }
    struct gguf_array tokens = {0};
    char size[32];
    (void)gguf_get_array(f, "tokenizer.ggml.tokens", &tokens);
    if (tokens.n != r.o.shape->n_vocab) {
        (void)fprintf(
            stderr, "kvasir synth: note: this vocabulary has %llu tokens, that of the real %s %u\n",
            (unsigned long long)tokens.n, r.o.shape->name, r.o.shape->n_vocab);
    }
    (void)printf("%s: %s %s, %s\n", r.o.out_path, r.o.shape->name, r.o.mix->name,
                 units_format_bytes(gguf_file_bytes(f), size, sizeof size));
    gguf_close(f);
    return 0;
}
