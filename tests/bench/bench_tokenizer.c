/* Speed of the tokenizers: bench_tokenizer [TEXT [VOCAB.gguf …]]; defaults from KVASIR_SHARED. One
 * line a vocabulary: MB/s of process CPU time (best of 7), load time, tokens per byte. */
#include "base/buf.h"
#include "engine/tokenizer/vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 7

static double cpu_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static bool read_file(const char *path, struct buf *b)
{
    FILE *f = fopen(path, "rb");
    char part[65536];
    size_t n;
    while (f && (n = fread(part, 1, sizeof part, f)) > 0) {
        buf_append(b, part, n);
    }
    return f && fclose(f) == 0 && buf_ok(b) && b->len;
}

static int bench(const char *path, const struct buf *text)
{
    struct gguf *f = NULL;
    struct vocab *v = NULL;
    struct err e = {0};
    if (gguf_open(path, &f, &e)) {
        (void)fprintf(stderr, "%s: %s\n", path, e.msg);
        return 1;
    }
    double load = cpu_s();
    if (vocab_load(f, &v, &e)) {
        (void)fprintf(stderr, "%s: %s\n", path, e.msg);
        return 1;
    }
    load = cpu_s() - load;
    struct eng_ids ids = {0};
    double best = 1e9;
    double first = 0;
    int rc = 0;
    for (int i = 0; i < ROUNDS && !rc; i++) {
        ids.n = 0;
        double t = cpu_s();
        rc = vocab_tokenize(v, text->data, text->len, 0, &ids, &e) != ERR_OK;
        t = cpu_s() - t;
        first = i ? first : t;
        best = t < best ? t : best;
    }
    const char *name = strrchr(path, '/');
    (void)printf("%-20s %7.1f MB/s (first %6.1f)  load %5.1f ms  %.3f tokens/byte\n",
                 name ? name + 1 : path, (double)text->len / best * 1e-6,
                 (double)text->len / first * 1e-6, load * 1e3, (double)ids.n / (double)text->len);
    eng_ids_free(&ids);
    vocab_destroy(v);
    gguf_close(f);
    return rc;
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"llama-bpe",    "qwen2",     "gpt-2", "starcoder", "falcon",
                                        "deepseek-llm", "llama-spm", "phi-3", "bert-bge"};
    const char *shared = getenv("KVASIR_SHARED");
    char path[4096];
    struct buf text = {0};
    (void)snprintf(path, sizeof path, "%s/data/corpora/wiki.test.raw", shared ? shared : ".");
    if (!read_file(argc > 1 ? argv[1] : path, &text)) {
        (void)fprintf(stderr, "skipped: no text at %s\n", argc > 1 ? argv[1] : path);
        return 77;
    }
    int rc = 0;
    for (int i = 2; i < argc; i++) {
        rc |= bench(argv[i], &text);
    }
    for (size_t i = 0; argc < 3 && i < sizeof names / sizeof *names; i++) {
        (void)snprintf(path, sizeof path, "%s/data/vocab/%s.gguf", shared ? shared : ".", names[i]);
        rc |= bench(path, &text);
    }
    buf_free(&text);
    return rc;
}
