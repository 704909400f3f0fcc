#include "tests/golden/recipe.h"

#include "base/hash.h"
#include "base/rng.h"
#include "engine/gguf_write.h"
#include "engine/quant/formats.h"
#include "tests/golden/recipe_values.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_BYTES 65536
#define WORDS_MAX      4096
#define NAMES_MAX      4096

static const char *const value_types[] = {"u8",   "i8",  "u16", "i16", "u32", "i32", "f32",
                                          "bool", "str", "",    "u64", "i64", "f64"};

const char *recipe_type_name(enum gguf_value_type type)
{
    return value_types[type];
}

static enum gguf_value_type type_of_name(const char *name)
{
    for (int i = 0; i <= GGUF_F64; i++) {
        if (strcmp(value_types[i], name) == 0) {
            return (enum gguf_value_type)i;
        }
    }
    return GGUF_ARRAY;
}

/* ---- reading ---- */

static bool read_want(char *line, struct recipe *r)
{
    char type[32];
    struct recipe_want w;
    int at = 0;
    if (sscanf(line, "want %31s %u %lf%n", type, &w.pos, &w.check, &at) != 3) {
        return false;
    }
    w.type = quant_type_by_name(type);
    for (int i = 0; i < RECIPE_N_BEST; i++) {
        int n = 0;
        if (sscanf(line + at, " %u %lf%n", &w.ids[i], &w.values[i], &n) != 2) {
            return false;
        }
        at += n;
    }
    r->want = realloc(r->want, (r->n_want + 1) * sizeof *r->want);
    r->want[r->n_want++] = w;
    return w.type != GGUF_TYPE_END;
}

bool recipe_read(const char *path, struct recipe *r)
{
    *r = (struct recipe){.seed = 1};
    FILE *f = fopen(path, "r");
    char *line = malloc(LINE_MAX_BYTES);
    bool ok = f != NULL;
    while (ok && fgets(line, LINE_MAX_BYTES, f)) {
        if (strncmp(line, "want ", 5) == 0) {
            ok = read_want(line, r);
        } else if (strncmp(line, "seed ", 5) == 0) {
            r->seed = strtoull(line + 5, NULL, 10);
        } else {
            buf_puts(&r->text, line);
            r->any_type |= line[0] == 't' && strstr(line, " * ");
        }
    }
    if (f) {
        fclose(f);
    }
    if (!ok) {
        fprintf(stderr, "%s: %s", path, f ? line : "cannot open\n");
    }
    free(line);
    return ok;
}

void recipe_free(struct recipe *r)
{
    buf_free(&r->text);
    free(r->want);
}

/* ---- metadata ---- */

static size_t pack_number(enum gguf_value_type type, const char *text, uint8_t *to)
{
    double d = strtod(text, NULL);
    float f = (float)d;
    int64_t i = strtoll(text, NULL, 10);
    uint64_t u = strtoull(text, NULL, 10);
    switch (type) {
    case GGUF_F32: memcpy(to, &f, 4); return 4;
    case GGUF_F64: memcpy(to, &d, 8); return 8;
    case GGUF_U64: memcpy(to, &u, 8); return 8;
    case GGUF_I64: memcpy(to, &i, 8); return 8;
    case GGUF_U32:
    case GGUF_I32: memcpy(to, &i, 4); return 4;
    case GGUF_U16:
    case GGUF_I16: memcpy(to, &i, 2); return 2;
    default: memcpy(to, &i, 1); return 1;
    }
}

/* Words of "kv KEY TYPE VALUE…". */
static bool put_key(struct gguf_writer *w, char **word, uint32_t n)
{
    bool array = n >= 3 && strncmp(word[2], "[]", 2) == 0;
    enum gguf_value_type type = n >= 3 ? type_of_name(word[2] + (array ? 2 : 0)) : GGUF_ARRAY;
    if (type == GGUF_ARRAY || (!array && n != 4)) {
        return false;
    }
    if (!array && type == GGUF_STRING) {
        gguf_put_str(w, word[1], word[3]);
        return true;
    }
    uint8_t *data = malloc((size_t)n * 8);
    struct gguf_str *strings = malloc((size_t)n * sizeof *strings);
    size_t len = 0;
    for (uint32_t i = 3; i < n; i++) {
        strings[i - 3] = (struct gguf_str){word[i], strlen(word[i])};
        len += type == GGUF_STRING ? 0 : pack_number(type, word[i], data + len);
    }
    if (array) {
        gguf_put_array(
            w, word[1],
            &(struct gguf_array){type, n - 3, data, type == GGUF_STRING ? strings : NULL});
    } else {
        gguf_put_number(w, word[1], type, data);
    }
    free(strings);
    free(data);
    return true;
}

/* Control tokens, then a byte or a made-up word for each id. */
static void put_vocab(struct gguf_writer *w, uint32_t n)
{
    static const char *const first[] = {"<unk>", "<s>", "</s>"};
    struct gguf_str *tokens = malloc(n * sizeof *tokens);
    char(*text)[16] = malloc(n * sizeof *text);
    float *scores = malloc(n * sizeof *scores);
    int32_t *types = malloc(n * sizeof *types);
    for (uint32_t i = 0; i < n; i++) {
        bool byte = i >= 3 && i < 259;
        snprintf(text[i], sizeof text[i], byte ? "<0x%02X>" : "w%u", byte ? i - 3 : i);
        const char *s = i < 3 ? first[i] : text[i];
        tokens[i] = (struct gguf_str){s, strlen(s)};
        scores[i] = -(float)i;
        types[i] = i == 0 ? 2 : i < 3 ? 3 : byte ? 6 : 1;
    }
    gguf_put_str(w, "tokenizer.ggml.model", "llama");
    gguf_put_array(w, "tokenizer.ggml.tokens", &(struct gguf_array){GGUF_STRING, n, NULL, tokens});
    gguf_put_array(w, "tokenizer.ggml.scores", &(struct gguf_array){GGUF_F32, n, scores, NULL});
    gguf_put_array(w, "tokenizer.ggml.token_type", &(struct gguf_array){GGUF_I32, n, types, NULL});
    gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2);
    free(tokens);
    free(text);
    free(scores);
    free(types);
}

/* ---- tensors ---- */

struct spec {
    char name[96];
    enum gguf_type type;
    char *values; /* "u LO HI" or "v VALUE…", in the line */
};

struct build {
    const struct recipe *r;
    enum gguf_type type; /* of tensors marked * */
    double shake;
    struct gguf_writer *w;
    struct spec *specs; /* [NAMES_MAX] */
    uint32_t n_spec;
};

/* Words of "t NAME TYPE NE… u|v …"; `values` begins at u or v. */
static bool declare(struct build *b, char **word, uint32_t n, char *values)
{
    uint64_t ne[GGUF_DIMS_MAX];
    uint32_t n_dim = 0;
    while (3 + n_dim < n && n_dim < GGUF_DIMS_MAX && word[3 + n_dim][0] >= '0' &&
           word[3 + n_dim][0] <= '9') {
        ne[n_dim] = strtoull(word[3 + n_dim], NULL, 10);
        n_dim++;
    }
    enum gguf_type type = strcmp(word[2], "*") == 0 ? b->type : quant_type_by_name(word[2]);
    uint32_t from = 0;
    uint32_t to = 0;
    int at = 0;
    bool each = sscanf(word[1], "blk.%u-%u.%n", &from, &to, &at) == 2 && at;
    if (type == GGUF_TYPE_END || !n_dim) {
        return false;
    }
    for (uint32_t il = from; il <= to && b->n_spec < NAMES_MAX; il++) {
        struct spec *s = &b->specs[b->n_spec++];
        s->type = type;
        s->values = values;
        if (each) {
            snprintf(s->name, sizeof s->name, "blk.%u.%.70s", il, word[1] + at);
        } else {
            snprintf(s->name, sizeof s->name, "%.90s", word[1]);
        }
        gguf_put_tensor(b->w, (struct gguf_str){s->name, strlen(s->name)}, type, n_dim, ne);
        if (strcmp(s->name, "token_embd.weight") == 0) {
            put_vocab(b->w, (uint32_t)ne[1]);
        }
    }
    return true;
}

static bool fill(struct build *b, uint32_t idx, struct err *e)
{
    const struct spec *s = &b->specs[idx];
    const struct quant_format *f = quant_format_of(s->type);
    uint64_t n_byte = gguf_writer_tensor_bytes(b->w, idx);
    size_t n = (size_t)(n_byte / f->n_block_byte * f->n_block_elem);
    float *v = malloc(n * sizeof *v);
    void *blocks = malloc((size_t)n_byte);
    uint64_t key = rng_mix(b->r->seed, hash_fnv1a(s->name, strlen(s->name)));
    char *rest = s->values + 1;
    double lo = strtod(rest, &rest);
    double hi = strtod(rest, &rest);
    rest = s->values + 1;
    for (size_t i = 0; i < n; i++) {
        double x = s->values[0] == 'v' ? strtod(rest, &rest) : lo + (hi - lo) * rng_unit(key, i);
        v[i] = (float)(x * (1 + b->shake * (rng_unit(~key, i) - 0.5)));
    }
    recipe_blocks(s->type, v, key, blocks, n);
    bool ok = !gguf_writer_data(b->w, idx, 0, blocks, (size_t)n_byte, e);
    free(blocks);
    free(v);
    return ok;
}

/* One line: false when it says nothing that is known. */
static bool take_line(struct build *b, char *line, char **word)
{
    char *values = strstr(line, " u ");
    values = values ? values : strstr(line, " v ");
    char *rest = values ? strdup(values + 1) : NULL;
    uint32_t n = 0;
    char *save = NULL;
    for (char *s = strtok_r(line, " \n", &save); s && n < WORDS_MAX;
         s = strtok_r(NULL, " \n", &save)) {
        word[n++] = s;
    }
    bool tensor = n >= 5 && strcmp(word[0], "t") == 0 && rest;
    bool ok = n == 0 || line[0] == '#' || (tensor && declare(b, word, n, rest)) ||
              (n >= 3 && strcmp(word[0], "kv") == 0 && put_key(b->w, word, n));
    if (!tensor) {
        free(rest);
    }
    return ok;
}

static void free_specs(struct build *b)
{
    for (uint32_t i = 0; i < b->n_spec; i++) {
        if (i == 0 || b->specs[i].values != b->specs[i - 1].values) {
            free(b->specs[i].values);
        }
    }
    free(b->specs);
}

bool recipe_build(const struct recipe *r, enum gguf_type type, double shake, const char *out_path)
{
    struct build b = {.r = r, .type = type, .shake = shake};
    struct err e = {.msg = "a line of the recipe is not understood"};
    b.specs = calloc(NAMES_MAX, sizeof *b.specs);
    char **word = malloc(WORDS_MAX * sizeof *word);
    char *text = strdup(buf_str(&r->text));
    bool ok = !gguf_writer_create(&b.w, &e);
    char *next = NULL;
    for (char *line = text; ok && *line; line = next) {
        size_t n = strcspn(line, "\n");
        next = line + n + (line[n] == '\n');
        line[n] = 0;
        ok = take_line(&b, line, word);
    }
    ok = ok && !gguf_writer_open(b.w, out_path, &e);
    for (uint32_t i = 0; ok && i < b.n_spec; i++) {
        ok = fill(&b, i, &e);
    }
    ok = ok && !gguf_writer_finish(b.w, &e);
    if (!ok) {
        fprintf(stderr, "%s: %s\n", out_path, e.msg);
    }
    gguf_writer_destroy(b.w);
    free_specs(&b);
    free(word);
    free(text);
    return ok;
}

/* ---- results ---- */

double recipe_check(const float *row, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += rng_mix(7, i) & 1 ? (double)row[i] : -(double)row[i];
    }
    return sum / sqrt(n);
}

void recipe_sum_up(const float *row, uint32_t n, struct recipe_want *out)
{
    out->check = recipe_check(row, n);
    for (int k = 0; k < RECIPE_N_BEST; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < n; i++) {
            bool taken = false;
            for (int j = 0; j < k; j++) {
                taken |= out->ids[j] == i;
            }
            best = !taken && (best == UINT32_MAX || row[i] > row[best]) ? i : best;
        }
        out->ids[k] = best;
        out->values[k] = row[best];
    }
}
