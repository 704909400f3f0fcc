/* Whole files: every tensor of the golden model gets the type that the golden quantised files hold,
 * with no larger an error; metadata stays; faults are named and leave no file behind. */
#include "engine/gguf_write.h"
#include "engine/quant/formats.h"
#include "engine/requantize.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/kvasir-requant-XXXXXX";
static char golden[512];

static struct gguf *open_file(const char *path)
{
    struct err e;
    struct gguf *f = NULL;
    if (gguf_open(path, &f, &e)) {
        fail_msg("%s", e.msg);
    }
    return f;
}

static float *values_of(const struct gguf_tensor *t)
{
    float *v = malloc(t->n_elem * sizeof *v);
    assert_non_null(v);
    quant_format_of(t->type)->dequant(t->data, v, t->n_elem);
    return v;
}

/* Sum of squared differences to the f32 tensor. */
static double error_of(const struct gguf_tensor *t, const struct gguf_tensor *exact)
{
    float *v = values_of(t);
    float *x = values_of(exact);
    double sum = 0;
    for (uint64_t i = 0; i < t->n_elem; i++) {
        sum += ((double)v[i] - (double)x[i]) * ((double)v[i] - (double)x[i]);
    }
    free(v);
    free(x);
    return sum;
}

static void check_same_metadata(const struct gguf *a, const struct gguf *b)
{
    assert_int_equal(gguf_n_kv(a), gguf_n_kv(b));
    uint64_t type_a;
    uint64_t type_b;
    assert_true(gguf_get_u64(a, "general.file_type", &type_a));
    assert_true(gguf_get_u64(b, "general.file_type", &type_b));
    assert_int_equal(type_a, type_b);
    struct gguf_array tokens_a;
    struct gguf_array tokens_b;
    assert_true(gguf_get_array(a, "tokenizer.ggml.tokens", &tokens_a));
    assert_true(gguf_get_array(b, "tokenizer.ggml.tokens", &tokens_b));
    assert_int_equal(tokens_a.n, tokens_b.n);
    for (uint64_t i = 0; i < tokens_a.n; i++) {
        assert_int_equal(tokens_a.strings[i].n, tokens_b.strings[i].n);
        assert_memory_equal(tokens_a.strings[i].s, tokens_b.strings[i].s, tokens_a.strings[i].n);
    }
}

static void check_mix(const char *name)
{
    char source[600];
    char want[600];
    char out[128];
    struct err e;
    (void)snprintf(source, sizeof source, "%s/f32.gguf", golden);
    (void)snprintf(want, sizeof want, "%s/%s.gguf", golden, name);
    (void)snprintf(out, sizeof out, "%s/%s.gguf", dir, name);
    struct eng_requantize_options o = {
        .in_path = source, .out_path = out, .mix = quant_mix_by_name(name), .n_thread = 2};
    if (eng_requantize(&o, &e)) {
        fail_msg("%s", e.msg);
    }
    struct gguf *f32 = open_file(source);
    struct gguf *theirs = open_file(want);
    struct gguf *ours = open_file(out);
    double error_ours = 0;
    double error_theirs = 0;
    check_same_metadata(ours, theirs);
    assert_int_equal(gguf_n_tensor(ours), gguf_n_tensor(theirs));
    for (uint64_t i = 0; i < gguf_n_tensor(ours); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(ours, i);
        char tensor[64];
        (void)snprintf(tensor, sizeof tensor, "%.*s", (int)t->name.n, t->name.s);
        const struct gguf_tensor *other = gguf_find_tensor(theirs, tensor);
        if (!other || other->type != t->type) {
            fail_msg("%s: %s is not as golden", name, tensor);
        }
        error_ours += error_of(t, gguf_find_tensor(f32, tensor));
        error_theirs += error_of(other, gguf_find_tensor(f32, tensor));
    }
    print_message("%-7s squared error %.4g, golden %.4g, ratio %.3f\n", name, error_ours,
                  error_theirs, error_ours / error_theirs);
    assert_true(error_ours <= 1.05 * 1.05 * error_theirs);
    gguf_close(f32);
    gguf_close(theirs);
    gguf_close(ours);
}

static void test_mixes(void **state)
{
    (void)state;
    static const char *const names[] = {"Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q2_K"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        check_mix(names[i]);
    }
}

static struct gguf_str str(const char *s)
{
    return (struct gguf_str){s, strlen(s)};
}

/* A file of one tensor "blk.0.w.weight" [n, 2] with one bad element, and an integer tensor. */
static void put_small(const char *path, uint64_t row_len, float bad)
{
    struct err e;
    struct gguf_writer *w;
    float *v = calloc(2 * row_len, sizeof *v);
    assert_non_null(v);
    for (uint64_t i = 0; i < 2 * row_len; i++) {
        v[i] = (float)i / 64 - 1;
    }
    v[row_len + 3] = bad;
    assert_int_equal(gguf_writer_create(&w, &e), ERR_OK);
    gguf_put_str(w, "general.architecture", "none");
    gguf_put_u32(w, "general.alignment", 32);
    uint32_t a =
        gguf_put_tensor(w, str("blk.0.w.weight"), GGUF_TYPE_F32, 2, (uint64_t[]){row_len, 2});
    uint32_t b = gguf_put_tensor(w, str("blk.0.ids.weight"), GGUF_TYPE_I32, 2, (uint64_t[]){2, 2});
    assert_int_equal(gguf_writer_open(w, path, &e), ERR_OK);
    assert_int_equal(gguf_writer_data(w, a, 0, v, 2 * row_len * sizeof *v, &e), ERR_OK);
    assert_int_equal(gguf_writer_data(w, b, 0, (int32_t[]){1, 2, 3, 4}, 16, &e), ERR_OK);
    assert_int_equal(gguf_writer_finish(w, &e), ERR_OK);
    gguf_writer_destroy(w);
    free(v);
}

static void test_faults(void **state)
{
    (void)state;
    char in[128];
    char out[128];
    struct err e;
    (void)snprintf(in, sizeof in, "%s/in.gguf", dir);
    (void)snprintf(out, sizeof out, "%s/out.gguf", dir);
    struct eng_requantize_options o = {.in_path = in, .out_path = out, .n_thread = 2};
    put_small(in, 256, NAN);
    o.mix = quant_mix_by_name("q4_k_m");
    assert_int_equal(eng_requantize(&o, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.msg, "tensor 'blk.0.w.weight'"));
    assert_int_equal(access(out, F_OK), -1);
    o.out_path = "/nonexistent/out.gguf";
    assert_int_equal(eng_requantize(&o, &e), ERR_IO);
    o.in_path = "/nonexistent/in.gguf";
    assert_int_equal(eng_requantize(&o, &e), ERR_NOT_FOUND);
}

/* Rows that are no whole blocks get the next simpler type; a file may be replaced in place. */
static void test_odd_rows_in_place(void **state)
{
    (void)state;
    static const struct {
        uint64_t row_len;
        const char *mix;
        enum gguf_type type;
    } cases[] = {
        {64, "Q4_K_M", GGUF_TYPE_Q5_0}, {64, "Q5_K_M", GGUF_TYPE_Q5_1},
        {64, "Q6_K", GGUF_TYPE_Q8_0},   {64, "Q2_K", GGUF_TYPE_Q4_0},
        {50, "Q4_K_M", GGUF_TYPE_F16},  {50, "Q8_0", GGUF_TYPE_F16},
        {50, "BF16", GGUF_TYPE_BF16},   {50, "F32", GGUF_TYPE_F32},
    };
    char path[128];
    struct err e;
    (void)snprintf(path, sizeof path, "%s/odd.gguf", dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct eng_requantize_options o = {.in_path = path,
                                           .out_path = path,
                                           .mix = quant_mix_by_name(cases[i].mix),
                                           .n_thread = 1};
        put_small(path, cases[i].row_len, 0);
        assert_int_equal(eng_requantize(&o, &e), ERR_OK);
        struct gguf *f = open_file(path);
        assert_int_equal(gguf_find_tensor(f, "blk.0.w.weight")->type, cases[i].type);
        const struct gguf_tensor *ids = gguf_find_tensor(f, "blk.0.ids.weight");
        assert_int_equal(ids->type, GGUF_TYPE_I32);
        assert_memory_equal(ids->data, ((int32_t[]){1, 2, 3, 4}), 16);
        gguf_close(f);
    }
}

int main(void)
{
    const char *shared = getenv("KVASIR_SHARED");
    (void)snprintf(golden, sizeof golden, "%s/data/golden/quant-model", shared ? shared : ".");
    const struct CMUnitTest pure[] = {
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_odd_rows_in_place),
    };
    const struct CMUnitTest with_data[] = {cmocka_unit_test(test_mixes)};
    if (!mkdtemp(dir)) {
        return 1;
    }
    int rc = cmocka_run_group_tests(pure, NULL, NULL);
    bool have_data = access(golden, R_OK) == 0;
    if (have_data) {
        rc += cmocka_run_group_tests(with_data, NULL, NULL);
    } else {
        print_message("skipped: no golden data at %s\n", golden);
    }
    char clean[64];
    (void)snprintf(clean, sizeof clean, "rm -r %s", dir);
    rc += system(clean) != 0;
    return rc || have_data ? rc : 77;
}
