#include "engine/kernels/roofline.h"

#include "base/clock.h"
#include "base/units.h"
#include "engine/kernels/roofline_impl.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE   ((size_t)2 << 20)
#define READ_ITEM   ((size_t)1 << 20)
#define N_STREAM    4 /* read side by side: more reads in flight than one stream has */
#define READ_SPAN   ((size_t)16 << 20) /* timed at a time */
#define N_PROBE_RUN 5
#define PROBE_NS    2000000 /* of one run on each thread */

struct roof {
    struct eng_pool *pool;
    uint8_t *mem;
    size_t n_byte;
    uint64_t sink; /* keeps the reads alive */
};

struct read_work {
    struct roof *r;
    size_t offset;
};

static void touch_item(void *arg, uint32_t item, uint32_t worker)
{
    struct roof *r = arg;
    (void)worker;
    memset(r->mem + item * READ_ITEM, 1, READ_ITEM);
}

enum err_code roof_create(struct eng_pool *pool, size_t n_byte, struct roof **ret_r, struct err *e)
{
    struct roof *r = calloc(1, sizeof *r);
    if (!r) {
        return err_set(e, ERR_NOMEM, "out of memory for the bandwidth probe");
    }
    r->pool = pool;
    r->n_byte = units_align(n_byte ? n_byte : 1, READ_SPAN);
    r->mem = aligned_alloc(HUGE_PAGE, r->n_byte);
    if (!r->mem) {
        free(r);
        return err_set(e, ERR_NOMEM, "out of memory for %zu bytes to read", n_byte);
    }
    (void)madvise(r->mem, r->n_byte, MADV_HUGEPAGE);
    eng_pool_run(pool, (uint32_t)(r->n_byte / READ_ITEM), touch_item, r);
    *ret_r = r;
    return ERR_OK;
}

void roof_destroy(struct roof *r)
{
    if (r) {
        free(r->mem);
        free(r);
    }
}

static void read_item(void *arg, uint32_t item, uint32_t worker)
{
    struct read_work *rw = arg;
    struct roof *r = rw->r;
    const size_t n = READ_ITEM / N_STREAM / sizeof(uint64_t);
    const uint64_t *p = (const uint64_t *)(r->mem + rw->offset + item * READ_ITEM);
    uint64_t sum = 0;
    (void)worker;
    for (size_t i = 0; i < n; i += 8) { /* one cache line of each stream */
        for (size_t s = 0; s < N_STREAM; s++) {
            const uint64_t *line = p + s * n + i;
            __builtin_prefetch(line + 512, 0, 2);
            sum += line[0] ^ line[4]; /* the line comes whole */
        }
    }
    if (sum == 1) { /* never: what was written makes even sums */
        r->sink = sum;
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The upper decile over short spans: what the memory gives while nobody else takes the cores. */
double roof_read_bytes_per_s(struct roof *r)
{
    size_t n_span = r->n_byte / READ_SPAN;
    double *rates = calloc(n_span, sizeof *rates);
    if (!rates) {
        return 0;
    }
    for (size_t i = 0; i < n_span; i++) {
        struct read_work rw = {r, i * READ_SPAN};
        uint64_t t = clock_mono_ns();
        eng_pool_run(r->pool, (uint32_t)(READ_SPAN / READ_ITEM), read_item, &rw);
        t = clock_mono_ns() - t;
        rates[i] = (double)READ_SPAN * 1e9 / (double)(t ? t : 1);
    }
    qsort(rates, n_span, sizeof *rates, by_value);
    double rate = rates[n_span - 1 - n_span / 10];
    free(rates);
    return rate;
}

static roof_probe_fn *probe_for(enum kern_isa isa, enum roof_unit unit)
{
#if defined(__x86_64__)
    if (isa == KERN_AMX && unit == ROOF_BF16) {
        return roof_bf16_amx;
    }
    if (isa == KERN_AMX || isa == KERN_AVX512) {
        return unit == ROOF_F32 ? roof_f32_avx512 : unit == ROOF_I8 ? roof_i8_avx512 : NULL;
    }
    if (isa == KERN_AVX2) {
        return unit == ROOF_F32 ? roof_f32_avx2 : unit == ROOF_I8 ? roof_i8_avx2 : NULL;
    }
#endif
    (void)isa;
    (void)unit;
    return NULL;
}

struct probe_work {
    roof_probe_fn *fn;
    double *flop_per_s; /* [n_thread] */
};

/* Runs for a while and keeps its best rate, so that the moments another program took do not
 * count. */
static void probe_item(void *arg, uint32_t item, uint32_t worker)
{
    struct probe_work *p = arg;
    uint64_t start = clock_mono_ns(), t = start;
    double best = 0;
    (void)worker;
    while (t - start < PROBE_NS) {
        double flop = p->fn();
        uint64_t end = clock_mono_ns();
        double rate = flop * 1e9 / (double)(end > t ? end - t : 1);
        best = rate > best ? rate : best;
        t = end;
    }
    p->flop_per_s[item] = best;
}

double roof_flop_per_s(struct roof *r, enum kern_isa isa, enum roof_unit unit)
{
    uint32_t n_thread = eng_pool_n_thread(r->pool);
    struct probe_work p = {probe_for(isa, unit), NULL};
    double best = 0;
    if (!p.fn || !(p.flop_per_s = calloc(n_thread, sizeof *p.flop_per_s))) {
        return 0;
    }
    for (int run = 0; run < N_PROBE_RUN; run++) {
        double sum = 0;
        eng_pool_run(r->pool, n_thread, probe_item, &p);
        for (uint32_t i = 0; i < n_thread; i++) {
            sum += p.flop_per_s[i];
        }
        best = sum > best ? sum : best;
    }
    free(p.flop_per_s);
    return best;
}
