/* Any bytes as a GGUF file with a vocabulary: what loads must take any text without harm. */
#include "fuzz.h"

#include "engine/tokenizer/vocab.h"

#include <stdlib.h>
#include <string.h>

static const char *const texts[] = {
    "",
    "Hello, world! it's 12345  \n\n\t x",
    "<s> [INST] <|im_start|>user\n\xe2\x96\x81\xe2\x96\x81 a</s>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\xff\xc3\xa9\xe4\xb8\xad\xe6\x96\x87\xf0\x9f\x98\x80\xed\x95\x9c\xcc\x81\xef\xac\x81",
};

static void use(const struct vocab *v, const char *text, unsigned flags)
{
    struct eng_ids ids = {0};
    struct eng_detok state = {0};
    struct buf out = {0};
    struct err e;
    if (vocab_tokenize(v, text, strlen(text), flags, &ids, &e) && ids.n) {
        abort(); /* a failure leaves no ids */
    }
    for (size_t i = 0; i < ids.n; i++) {
        if (ids.ids[i] < 0 || (uint32_t)ids.ids[i] >= vocab_n(v)) {
            abort();
        }
        vocab_detokenize(v, &state, ids.ids[i], flags & 1, &out);
        fuzz_use(vocab_is_eog(v, ids.ids[i]));
    }
    buf_free(&out);
    eng_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct gguf *f = NULL;
    struct vocab *v = NULL;
    struct err e;
    if (gguf_open_memory(bytes, n, &f, &e)) {
        return 0;
    }
    if (!vocab_load(f, &v, &e)) {
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
            for (unsigned flags = 0; flags < 4; flags++) {
                use(v, texts[i], flags);
            }
        }
        for (int32_t id = -1; id <= (int32_t)vocab_n(v) && id < 1000; id++) {
            struct gguf_str piece = vocab_piece(v, id);
            fuzz_use((unsigned)vocab_find(v, piece.s, piece.n) + vocab_type(v, id));
        }
        vocab_destroy(v);
    }
    gguf_close(f);
    return 0;
}
