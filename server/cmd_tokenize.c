/* `kvasir tokenize`: text from standard input, its token ids on standard output. Needs only a
 * file's vocabulary, so it takes vocabulary-only files and any architecture. */
#include "server/commands.h"

#include "engine/gguf.h"
#include "engine/tokenizer/vocab.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES (64u << 10)

static const char usage[] =
    "usage: kvasir tokenize --model FILE [--no-bos] [--parse-special] < TEXT\n\n"
    "Prints the token ids of TEXT as one line, a JSON array.\n\n"
    "  --model FILE     GGUF file; its vocabulary is enough\n"
    "  --no-bos         without automatic tokens (BOS, EOS, CLS, SEP)\n"
    "  --parse-special  text such as <|im_end|> becomes its control token\n"
    "  --help           this text\n";

struct arguments {
    const char *model;
    bool no_bos;
    bool parse_special;
    bool help;
};

static int wrong_usage(const char *what, const char *which)
{
    (void)fprintf(stderr, "kvasir tokenize: %s%s; see kvasir tokenize --help\n", what, which);
    return 2;
}

static int parse(int argc, char **argv, struct arguments *a)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            a->help = true;
        } else if (strcmp(arg, "--no-bos") == 0) {
            a->no_bos = true;
        } else if (strcmp(arg, "--parse-special") == 0) {
            a->parse_special = true;
        } else if (strncmp(arg, "--model=", 8) == 0) {
            a->model = arg + 8;
        } else if (strcmp(arg, "--model") == 0 || strcmp(arg, "-m") == 0) {
            if (++i == argc) {
                return wrong_usage("no file after ", arg);
            }
            a->model = argv[i];
        } else {
            return wrong_usage("unknown argument ", arg);
        }
    }
    return a->model || a->help ? 0 : wrong_usage("--model FILE is missing", "");
}

static enum err_code read_all(struct buf *text, struct err *e)
{
    for (;;) {
        char *at = buf_reserve(text, READ_BYTES);
        if (!at) {
            return err_set(e, ERR_NOMEM, "out of memory for %zu bytes of text", text->len);
        }
        ssize_t n = read(STDIN_FILENO, at, READ_BYTES);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return err_errno(e, ERR_IO, errno, "standard input");
        }
        if (n == 0) {
            return ERR_OK;
        }
        text->len += (size_t)n;
    }
}

static enum err_code print_ids(const struct eng_ids *ids, struct err *e)
{
    struct buf line = {0};
    buf_putc(&line, '[');
    for (size_t i = 0; i < ids->n; i++) {
        buf_printf(&line, i ? ",%d" : "%d", ids->ids[i]);
    }
    buf_puts(&line, "]\n");
    enum err_code rc = ERR_OK;
    if (!buf_ok(&line)) {
        rc = err_set(e, ERR_NOMEM, "out of memory for %zu ids", ids->n);
    } else if (fwrite(line.data, 1, line.len, stdout) != line.len || fflush(stdout) != 0) {
        rc = err_errno(e, ERR_IO, errno, "standard output");
    }
    buf_free(&line);
    return rc;
}

/* vocab_load, whose errors name keys, with the file's name before them. */
static enum err_code load(const struct arguments *a, const struct gguf *file,
                          struct vocab **ret_vocab, struct err *e)
{
    struct err inner = {0};
    enum err_code rc = vocab_load(file, ret_vocab, &inner);
    return rc ? err_set(e, rc, "%s: %s", a->model, inner.msg) : ERR_OK;
}

static enum err_code tokenize(const struct arguments *a, struct err *e)
{
    struct gguf *file = NULL;
    struct vocab *vocab = NULL;
    struct buf text = {0};
    struct eng_ids ids = {0};
    unsigned flags = (a->no_bos ? 0u : (unsigned)ENG_TOKENIZE_ADD_SPECIAL) |
                     (a->parse_special ? (unsigned)ENG_TOKENIZE_PARSE_SPECIAL : 0u);
    enum err_code rc = gguf_open(a->model, &file, e);
    rc = rc ? rc : load(a, file, &vocab, e);
    rc = rc ? rc : read_all(&text, e);
    rc = rc ? rc : vocab_tokenize(vocab, buf_str(&text), text.len, flags, &ids, e);
    rc = rc ? rc : print_ids(&ids, e);
    eng_ids_free(&ids);
    buf_free(&text);
    vocab_destroy(vocab);
    gguf_close(file);
    return rc;
}

int cmd_tokenize(int argc, char **argv)
{
    struct arguments a = {0};
    struct err e = {0};
    int status = parse(argc, argv, &a);
    if (status) {
        return status;
    }
    if (a.help) {
        return fputs(usage, stdout) < 0;
    }
    if (tokenize(&a, &e)) {
        (void)fprintf(stderr, "kvasir tokenize: %s\n", e.msg);
        return 1;
    }
    return 0;
}
