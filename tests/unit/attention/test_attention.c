/* Attention of every instruction set and KV type: against the double oracle, and one arithmetic for
 * 1…n rows, to the bit. Unwritten KV holds NaN, and ends at a page that cannot be touched. */
#include "att_bench.h"
#include "att_case.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static enum kern_isa g_isa;
static enum eng_kv_type g_type;
static struct eng_pool *g_pool[4]; /* of 1…3 threads */
static bool g_all;                 /* every length and slicing: half a minute */

static const struct att_case cases[] = {
    {"mha", 2, 2, 64, 64, .window = 0},
    {"gqa2", 4, 2, 32, 32, .window = 0},
    {"gqa4", 4, 1, 128, 128, .window = 0},
    {"gqa7", 14, 2, 64, 64, .window = 0},
    {"gqa8", 8, 1, 64, 64, .window = 0},
    {"tiny head", 8, 4, 8, 8, .window = 0},
    {"head 80", 2, 1, 80, 80, .window = 0},
    {"head 96, odd values", 3, 1, 96, 40, .window = 0},
    {"odd head", 2, 1, 33, 17, .window = 0},
    {"mla", 2, 1, 576, 512, .window = 0},
    {"window 1", 2, 1, 64, 64, .window = 1},
    {"window 33", 8, 2, 64, 64, .window = 33},
    {"window 520, sinks", 4, 2, 64, 64, .window = 520, .sinks = true},
    {"sinks", 8, 2, 64, 64, .sinks = true},
    {"softcap", 4, 2, 64, 64, .softcap = 5},
    {"softcap, window", 4, 2, 256, 256, .softcap = 50, .window = 100},
    {"alibi", 4, 4, 64, 64, .alibi = true},
    {"encoder", 4, 4, 64, 64, .bidirectional = true},
    {"encoder, window", 4, 4, 32, 32, .bidirectional = true, .window = 64},
};
#define N_CASE (sizeof cases / sizeof *cases)

/* Without --all the scalar path, where all is slow, takes every third case. */
static bool takes_turn(size_t i)
{
    return g_isa != KERN_SCALAR || i % 3 == (size_t)g_type % 3;
}

static struct att_ctx *make_ctx(const struct att_case *a, uint32_t n_thread)
{
    const struct att_kv_shape shapes[] = {
        {a->n_kv_head, a->d_k, a->d_v}, {0, 0, 0}, {a->n_kv_head, a->d_k, a->d_v}};
    struct att_ctx *c = NULL;
    struct err e = {0};
    if (att_ctx_create(g_isa, g_type, shapes, 3, g_pool[n_thread], &c, &e) != ERR_OK) {
        fail_msg("%s", e.msg);
    }
    return c;
}

/* Runs a sequence in slices of n_row tokens. */
static void run_sliced(struct att_ctx *c, struct seq *s, uint32_t n_row)
{
    const struct att_params p = seq_params(s, 2);
    for (uint32_t from = 0; from < s->n_tok; from += n_row) {
        uint32_t to = from + n_row < s->n_tok ? from + n_row : s->n_tok;
        struct att_slice x = seq_slice(s, from, to);
        assert_int_equal(att_forward(c, &p, &x, 1, NULL), ERR_OK);
    }
}

/* AMX rounds queries (the oracle follows) and weights (2^-9 each) to bf16. */
static bool rounds_to_bf16(void)
{
    return g_isa == KERN_AMX && g_type != ENG_KV_F32;
}

static double tolerance(void)
{
    return rounds_to_bf16() ? 6e-3 : 2e-5;
}

static void check_oracle(const struct att_case *a, uint32_t n_tok, uint32_t n_row)
{
    struct att_ctx *c = make_ctx(a, 2);
    struct seq s;
    seq_init(&s, a, n_tok, n_tok * 31 + n_row, c, 0xff);
    run_sliced(c, &s, n_row);
    size_t n = (size_t)n_tok * a->n_head * a->d_v;
    double *want = malloc(n * sizeof *want);
    seq_oracle(&s, g_type, rounds_to_bf16(), want);
    double err2 = 0;
    double ref2 = 0;
    for (size_t i = 0; i < n; i++) {
        double d = s.out[i] - want[i];
        if (!(fabs(d) <= tolerance() * (1 + fabs(want[i])))) {
            fail_msg("%s, %u tokens by %u: element %zu (token %zu) is %.9g, the oracle has %.9g",
                     a->name, n_tok, n_row, i, i / ((size_t)a->n_head * a->d_v), s.out[i], want[i]);
        }
        err2 += d * d;
        ref2 += want[i] * want[i];
    }
    if (!(sqrt(err2 / ref2) <= tolerance() / 2)) {
        fail_msg("%s, %u tokens by %u: relative error %g", a->name, n_tok, n_row,
                 sqrt(err2 / ref2));
    }
    free(want);
    seq_finish(&s);
    att_ctx_destroy(c);
}

static void test_oracle(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {1, 67, 17, 131, 2, 3, 15, 16, 31, 32, 33, 63, 65, 100, 257};
    for (size_t i = 0; i < N_CASE; i++) {
        size_t n = g_all ? (i < 2 ? sizeof lengths / sizeof *lengths : 4) : takes_turn(i) ? 2 : 0;
        for (size_t j = 0; j < n; j++) {
            check_oracle(&cases[i], lengths[j], lengths[j]);
        }
        if (n && !cases[i].bidirectional) {
            check_oracle(&cases[i], 40, g_all ? 1 : 13);
        }
    }
    /* over the split points */
    check_oracle(&cases[1], 530, 200);
    if (g_all) {
        check_oracle(&cases[0], 1100, 1100);
        check_oracle(&cases[12], 700, 333);
        check_oracle(&cases[17], 530, 530);
    }
}

/* Every length from 1 to 300, the last row of each compared. */
static void test_every_length(void **state)
{
    (void)state;
    const struct att_case *a = &cases[1];
    struct att_ctx *c = make_ctx(a, 1);
    struct seq s;
    seq_init(&s, a, 300, 5, c, 0xff);
    double *want = malloc((size_t)300 * a->n_head * a->d_v * sizeof *want);
    seq_oracle(&s, g_type, rounds_to_bf16(), want);
    run_sliced(c, &s, 1);
    for (size_t i = 0; i < (size_t)300 * a->n_head * a->d_v; i++) {
        if (!(fabs(s.out[i] - want[i]) <= tolerance() * (1 + fabs(want[i])))) {
            fail_msg("element %zu is %.9g, the oracle has %.9g", i, s.out[i], want[i]);
        }
    }
    free(want);
    seq_finish(&s);
    att_ctx_destroy(c);
}

/* The same sequence in other slices, with other threads, over other garbage. */
static void check_bits(const struct att_case *a, uint32_t n_tok, const uint32_t *slicings,
                       size_t n_slicing, uint32_t n_thread)
{
    struct att_ctx *c = make_ctx(a, 1);
    struct seq first;
    seq_init(&first, a, n_tok, 99, c, 0);
    run_sliced(c, &first, n_tok);
    const size_t bytes = (size_t)n_tok * a->n_head * a->d_v * sizeof(float);
    struct att_ctx *c2 = make_ctx(a, n_thread);
    for (size_t i = 0; i < n_slicing; i++) {
        struct seq s;
        seq_init(&s, a, n_tok, 99, c2, 0xff);
        run_sliced(c2, &s, slicings[i]);
        if (memcmp(s.out, first.out, bytes) != 0) {
            size_t at = 0;
            while (memcmp(&s.out[at], &first.out[at], sizeof *s.out) == 0) {
                at++;
            }
            fail_msg("%s, %u tokens by %u, %u threads: token %zu differs (%.9g, %.9g)", a->name,
                     n_tok, slicings[i], n_thread, at / ((size_t)a->n_head * a->d_v), s.out[at],
                     first.out[at]);
        }
        seq_finish(&s);
    }
    att_ctx_destroy(c2);
    seq_finish(&first);
    att_ctx_destroy(c);
}

static void test_bits_do_not_depend_on_slices(void **state)
{
    (void)state;
    static const uint32_t few[] = {1, 37};
    static const uint32_t many[] = {1, 3, 16, 37, 64, 300};
    for (size_t i = 0; i < N_CASE; i++) {
        if (cases[i].bidirectional) {
            continue;
        }
        if (g_all) {
            for (uint32_t n_thread = 1; n_thread <= 3; n_thread++) {
                check_bits(&cases[i], cases[i].d_k > 256 ? 90 : 190, many, 6, n_thread);
            }
        } else if (takes_turn(i)) {
            check_bits(&cases[i], 70, few, 2, 2);
        }
    }
    static const uint32_t across[] = {1, 300};
    check_bits(&cases[4], 600, across + (g_isa == KERN_SCALAR), g_isa == KERN_SCALAR ? 1 : 2, 2);
    if (g_all) {
        check_bits(&cases[4], 1100, many, 6, 2);
        check_bits(&cases[12], 1100, many, 6, 3);
    }
}

/* Written one by one or in groups, tokens leave the same bytes. */
static void test_bytes_do_not_depend_on_slices(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CASE; i++) {
        struct att_ctx *c = make_ctx(&cases[i], 1);
        struct seq s[2];
        for (int j = 0; j < 2; j++) {
            seq_init(&s[j], &cases[i], 75, 7, c, 0xff);
            s[j].v[5] = 3.4e38F;
            s[j].v[6] = -INFINITY;
            s[j].k[7] = 3.4e38F;
            run_sliced(c, &s[j], j ? 1 : 75);
        }
        assert_memory_equal(s[0].kv, s[1].kv, s[0].kv_bytes);
        seq_finish(&s[0]);
        seq_finish(&s[1]);
        att_ctx_destroy(c);
    }
}

/* Sequences of different lengths in one call give what each gives alone. */
static void test_bits_do_not_depend_on_neighbours(void **state)
{
    (void)state;
    enum { N_SEQ = 9 };
    static const uint32_t n_tok_all[N_SEQ] = {1, 40, 700, 2, 65, 333, 18, 1200, 5};
    static const uint32_t n_tok_few[N_SEQ] = {1, 40, 70, 2, 65, 33, 18, 540, 5};
    const uint32_t *n_tok = g_all ? n_tok_all : n_tok_few;
    const struct att_case *a = &cases[3];
    struct att_ctx *c = make_ctx(a, 2);
    struct att_ctx *c1 = make_ctx(a, 1);
    struct seq alone[N_SEQ];
    struct seq beside[N_SEQ];
    struct att_slice x[N_SEQ];
    for (uint32_t i = 0; i < N_SEQ; i++) {
        seq_init(&alone[i], a, n_tok[i], i, c, 0);
        run_sliced(c1, &alone[i], n_tok[i]);
        seq_init(&beside[i], a, n_tok[i], i, c, 0xff);
    }
    /* two steps: all but the last tokens, then the last ones: prefill beside decode */
    const struct att_params p = seq_params(&beside[0], 2);
    for (int step = 0; step < 2; step++) {
        for (uint32_t i = 0; i < N_SEQ; i++) {
            uint32_t cut = n_tok[i] > 1 ? n_tok[i] - 1 - i % 2 * (n_tok[i] > 2) : 0;
            x[i] = seq_slice(&beside[i], step ? cut : 0, step ? n_tok[i] : cut);
        }
        assert_int_equal(att_forward(c, &p, x, N_SEQ, NULL), ERR_OK);
    }
    for (uint32_t i = 0; i < N_SEQ; i++) {
        assert_memory_equal(alone[i].out, beside[i].out,
                            (size_t)n_tok[i] * a->n_head * a->d_v * sizeof(float));
        seq_finish(&alone[i]);
        seq_finish(&beside[i]);
    }
    att_ctx_destroy(c);
    att_ctx_destroy(c1);
}

/* A token's bytes are its own: no other token's write touches them. */
static void test_tokens_do_not_share_bytes(void **state)
{
    (void)state;
    const struct att_case *a = &cases[7];
    struct att_ctx *c = make_ctx(a, 1);
    uint32_t n = att_chunk_tok(c);
    size_t bytes = att_chunk_bytes(c);
    uint16_t *owner = calloc(bytes, sizeof *owner);
    struct seq s;
    seq_init(&s, a, n, 3, c, 0);
    const struct att_params p = seq_params(&s, 2);
    for (uint32_t t = 0; t < n; t++) {
        for (int fill = 0; fill <= 0xff; fill += 0xff) {
            memset(s.kv, fill, bytes);
            struct att_slice x = seq_slice(&s, t, t + 1);
            assert_int_equal(att_forward(c, &p, &x, 1, NULL), ERR_OK);
            for (size_t i = 0; i < bytes; i++) {
                if (s.kv[i] != fill) {
                    assert_true(owner[i] == 0 || owner[i] == t + 1);
                    owner[i] = (uint16_t)(t + 1);
                }
            }
        }
    }
    size_t n_owned = 0;
    for (size_t i = 0; i < bytes; i++) {
        n_owned += owner[i] != 0;
    }
    assert_int_equal(n_owned, n * att_bytes_per_tok(c) / 2); /* one of two layers */
    free(owner);
    seq_finish(&s);
    att_ctx_destroy(c);
}

/* Rows before a value that is not finite do not see it. */
static void test_later_nonfinite_values_do_no_harm(void **state)
{
    (void)state;
    const struct att_case *a = &cases[4];
    struct att_ctx *c = make_ctx(a, 1);
    struct seq s;
    struct seq clean;
    seq_init(&clean, a, 40, 3, c, 0);
    run_sliced(c, &clean, 40);
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int b = 0; b < 3; b++) {
        seq_init(&s, a, 40, 3, c, 0);
        for (uint32_t d = 0; d < a->d_v; d++) {
            s.v[30 * a->d_v + d] = bad[b];
            s.k[30 * a->d_k + d] = bad[b];
        }
        run_sliced(c, &s, 40);
        assert_memory_equal(s.out, clean.out, (size_t)30 * a->n_head * a->d_v * sizeof(float));
        seq_finish(&s);
    }
    seq_finish(&clean);
    att_ctx_destroy(c);
}

static void test_chunk_geometry(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_layer, n_kv_head, d;
    } models[] = {{22, 4, 64}, {16, 8, 64}, {32, 8, 128}, {24, 2, 64}, {28, 8, 128}, {5, 4, 8}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct att_kv_shape shapes[32];
        for (uint32_t l = 0; l < models[i].n_layer; l++) {
            shapes[l] = (struct att_kv_shape){models[i].n_kv_head, models[i].d, models[i].d};
        }
        struct att_ctx *c = NULL;
        assert_int_equal(
            att_ctx_create(g_isa, g_type, shapes, models[i].n_layer, g_pool[1], &c, NULL), ERR_OK);
        uint32_t n = att_chunk_tok(c);
        assert_true(n == 64 || n == 128 || n == 256);
        assert_int_equal(att_chunk_bytes(c) % 4096, 0);
        assert_true(att_chunk_bytes(c) >= n * att_bytes_per_tok(c));
        assert_true(att_chunk_bytes(c) < n * att_bytes_per_tok(c) + 4096);
        assert_true(n == 64 || att_chunk_bytes(c) % (2 << 20) == 0);
        uint64_t id = att_layout_id(c);
        att_ctx_destroy(c);
        shapes[0].d_k += 8;
        assert_int_equal(
            att_ctx_create(g_isa, g_type, shapes, models[i].n_layer, g_pool[1], &c, NULL), ERR_OK);
        assert_true(att_layout_id(c) != id);
        att_ctx_destroy(c);
    }
    struct err e = {0};
    struct att_ctx *c = NULL;
    const struct att_kv_shape huge = {70000, 128, 128};
    assert_int_equal(att_ctx_create(g_isa, g_type, &huge, 1, g_pool[1], &c, &e), ERR_LIMIT);
    assert_null(c);
    assert_non_null(strstr(e.msg, "70000"));
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        return att_bench(argc - 2, argv + 2);
    }
    static const enum kern_isa isas[] = {KERN_SCALAR, KERN_AVX2, KERN_AVX512, KERN_AMX};
    static const char *const isa_names[] = {"scalar", "avx2", "avx512", "amx"};
    static const enum eng_kv_type types[] = {ENG_KV_F32, ENG_KV_BF16, ENG_KV_INT8};
    static const char *const type_names[] = {"f32", "bf16", "int8"};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_every_length),
        cmocka_unit_test(test_bits_do_not_depend_on_slices),
        cmocka_unit_test(test_bytes_do_not_depend_on_slices),
        cmocka_unit_test(test_bits_do_not_depend_on_neighbours),
        cmocka_unit_test(test_tokens_do_not_share_bytes),
        cmocka_unit_test(test_later_nonfinite_values_do_no_harm),
        cmocka_unit_test(test_chunk_geometry),
    };
    const char *only = NULL; /* one instruction set alone */
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--all") == 0) {
            g_all = true;
        } else {
            only = argv[i];
        }
    }
    int n_failed = 0;
    (void)machine_has(KERN_AMX); /* permission for tiles is asked for before threads start */
    for (uint32_t i = 1; i <= 3; i++) {
        if (eng_pool_create(i, &g_pool[i], NULL) != ERR_OK) {
            return 1;
        }
    }
    for (size_t i = 0; i < 4; i++) {
        if (only && strcmp(only, isa_names[i]) != 0) {
            continue;
        }
        if (!machine_has(isas[i])) {
            print_message("%s: not on this machine\n", isa_names[i]);
            continue;
        }
        for (size_t t = 0; t < 3; t++) {
            char name[32];
            (void)snprintf(name, sizeof name, "%s %s", isa_names[i], type_names[t]);
            g_isa = isas[i];
            g_type = types[t];
            n_failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
        }
    }
    for (uint32_t i = 1; i <= 3; i++) {
        eng_pool_destroy(g_pool[i]);
    }
    return n_failed ? 1 : 0;
}
