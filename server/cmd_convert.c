/* kvasir convert DIR OUT.gguf [TYPE] */
#include "base/units.h"
#include "engine/convert/convert.h"
#include "engine/gguf.h"
#include "server/commands.h"
#include "server/model_folder.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: kvasir convert DIR OUT.gguf [TYPE]\n\n"
    "Writes a Hugging Face folder (config.json, *.safetensors, tokenizer.json) as a GGUF file:\n"
    "Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3, Phi 3, in F32, F16 or BF16.\n\n"
    "  TYPE     also quantise it, as kvasir quantize does: Q4_K_M, Q8_0, …\n"
    "  --help   this text\n";

int cmd_convert(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {0}};
    int c;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c != 'h') {
            return 2;
        }
        (void)fputs(usage, stdout);
        return 0;
    }
    int n = argc - optind;
    if (n != 2 && n != 3) {
        (void)fprintf(stderr, "kvasir convert: needs DIR and OUT.gguf; see kvasir convert "
                              "--help\n");
        return 2;
    }
    struct err e;
    struct gguf *f = NULL;
    char size[32];
    const char *out = argv[optind + 1];
    if (!convert_is_folder(argv[optind])) {
        (void)fprintf(stderr, "kvasir convert: %s is no folder with a config.json\n", argv[optind]);
        return 1;
    }
    if (srv_folder_to_gguf(argv[optind], out, n == 3 ? argv[optind + 2] : NULL, &e) ||
        gguf_open(out, &f, &e)) {
        (void)fprintf(stderr, "kvasir convert: %s\n", e.msg);
        return 1;
    }
    (void)printf("%s: %llu tensors, %s\n", out, (unsigned long long)gguf_n_tensor(f),
                 units_format_bytes(gguf_file_bytes(f), size, sizeof size));
    gguf_close(f);
    return 0;
}
