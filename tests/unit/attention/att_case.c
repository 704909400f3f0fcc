#include "att_case.h"

#include "base/rng.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static float *random_floats(size_t n, uint64_t *seed, float scale)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; x && i < n; i++) {
        /* a sum of uniforms: bell-shaped, bounded */
        double u = 0;
        for (int j = 0; j < 4; j++) {
            u += (double)(rng_next(seed) >> 11) * 0x1p-53 * 2 - 1;
        }
        x[i] = (float)(u * 0.87 * scale);
    }
    return x;
}

void seq_init(struct seq *s, const struct att_case *shape, uint32_t n_tok, uint64_t seed,
              const struct att_ctx *c, int kv_fill)
{
    s->shape = shape;
    s->n_tok = n_tok;
    s->q = random_floats((size_t)n_tok * shape->n_head * shape->d_k, &seed, 2);
    s->k = random_floats((size_t)n_tok * shape->n_kv_head * shape->d_k, &seed, 2);
    s->v = random_floats((size_t)n_tok * shape->n_kv_head * shape->d_v, &seed, 1);
    s->out = malloc((size_t)n_tok * shape->n_head * shape->d_v * sizeof(float));
    memset(s->out, 0xff, (size_t)n_tok * shape->n_head * shape->d_v * sizeof(float));
    for (int i = 0; i < 64; i++) {
        s->sinks[i] = (float)(i % 7) - 2;
        s->alibi[i] = powf(2, -(float)(i % 8 + 1));
    }
    uint32_t n_chunk = (n_tok + att_chunk_tok(c) - 1) / att_chunk_tok(c);
    s->kv_bytes = n_chunk * att_chunk_bytes(c);
    s->kv = mmap(NULL, s->kv_bytes + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->kv == MAP_FAILED || mprotect(s->kv, s->kv_bytes, PROT_READ | PROT_WRITE) != 0) {
        abort();
    }
    memset(s->kv, kv_fill, s->kv_bytes);
}

void seq_finish(struct seq *s)
{
    free(s->q);
    free(s->k);
    free(s->v);
    free(s->out);
    (void)munmap(s->kv, s->kv_bytes + 4096);
}

struct att_params seq_params(const struct seq *s, uint32_t kv_layer)
{
    const struct att_case *a = s->shape;
    return (struct att_params){
        .kv_layer = kv_layer,
        .n_head = a->n_head,
        .scale = 1.0F / sqrtf((float)a->d_k),
        .softcap = a->softcap,
        .window = a->window,
        .sinks = a->sinks ? s->sinks : NULL,
        .alibi = a->alibi ? s->alibi : NULL,
        .bidirectional = a->bidirectional,
    };
}

struct att_slice seq_slice(const struct seq *s, uint32_t from, uint32_t to)
{
    const struct att_case *a = s->shape;
    struct att_slice x = {
        .kv = s->kv,
        .pos = from,
        .n_tok = to - from,
        .ldq = (size_t)a->n_head * a->d_k,
        .ldk = (size_t)a->n_kv_head * a->d_k,
        .ldv = (size_t)a->n_kv_head * a->d_v,
        .ldo = (size_t)a->n_head * a->d_v,
    };
    x.q = s->q + from * x.ldq;
    x.k = s->k + from * x.ldk;
    x.v = s->v + from * x.ldv;
    x.out = s->out + from * x.ldo;
    return x;
}

static float bf16_round(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000U;
    memcpy(&x, &u, sizeof u);
    return x;
}

/* x [n] as the type keeps it. */
static void store_as(enum eng_kv_type type, const float *x, uint32_t n, double *out)
{
    float max = 0;
    for (uint32_t i = 0; i < n; i++) {
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    }
    float scale = bf16_round(max / 127);
    if (scale * 127 < max) {
        scale = bf16_round(nextafterf(scale * (1 + 1.0F / 256), INFINITY));
    }
    for (uint32_t i = 0; i < n; i++) {
        out[i] = x[i];
        if (type == ENG_KV_BF16) {
            out[i] = bf16_round(x[i]);
        } else if (type == ENG_KV_INT8) {
            out[i] = scale > 0 ? (double)rintf(x[i] * (1.0F / scale)) * scale : 0; /* ties alike */
        }
    }
}

static double score(const struct seq *s, const double *all_q, const double *k, uint32_t i,
                    uint32_t j, uint32_t h)
{
    const struct att_case *a = s->shape;
    const double *q = all_q + ((size_t)i * a->n_head + h) * a->d_k;
    double sum[8] = {0};
    uint32_t d = 0;
    for (; d + 8 <= a->d_k; d += 8) {
        for (uint32_t l = 0; l < 8; l++) {
            sum[l] += q[d + l] * k[d + l];
        }
    }
    double x = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
    for (; d < a->d_k; d++) {
        x += q[d] * k[d];
    }
    x /= sqrt(a->d_k);
    if (a->softcap != 0) {
        x = a->softcap * tanh(x / a->softcap);
    }
    if (a->alibi) {
        x += s->alibi[h] * ((double)j - i);
    }
    return x;
}

static bool sees(const struct att_case *a, uint32_t i, uint32_t j)
{
    if (a->bidirectional) {
        return !a->window || (i > j ? i - j : j - i) <= a->window / 2;
    }
    return j <= i && (!a->window || j + a->window > i);
}

void seq_oracle(const struct seq *s, enum eng_kv_type type, bool bf16_q, double *out)
{
    const struct att_case *a = s->shape;
    double *k = malloc((size_t)s->n_tok * a->n_kv_head * a->d_k * sizeof *k);
    double *v = malloc((size_t)s->n_tok * a->n_kv_head * a->d_v * sizeof *v);
    double *w = malloc(s->n_tok * sizeof *w);
    const size_t n_q = (size_t)s->n_tok * a->n_head * a->d_k;
    double *q = malloc(n_q * sizeof *q);
    store_as(bf16_q ? ENG_KV_BF16 : ENG_KV_F32, s->q, (uint32_t)n_q, q);
    for (uint32_t r = 0; r < s->n_tok * a->n_kv_head; r++) {
        store_as(type, s->k + (size_t)r * a->d_k, a->d_k, k + (size_t)r * a->d_k);
        store_as(type, s->v + (size_t)r * a->d_v, a->d_v, v + (size_t)r * a->d_v);
    }
    for (uint32_t i = 0; i < s->n_tok; i++) {
        for (uint32_t h = 0; h < a->n_head; h++) {
            uint32_t kv = h / (a->n_head / a->n_kv_head);
            double max = a->sinks ? s->sinks[h] : -INFINITY;
            for (uint32_t j = 0; j < s->n_tok; j++) {
                w[j] = sees(a, i, j)
                           ? score(s, q, k + ((size_t)j * a->n_kv_head + kv) * a->d_k, i, j, h)
                           : -INFINITY;
                max = w[j] > max ? w[j] : max;
            }
            double sum = a->sinks ? exp(s->sinks[h] - max) : 0;
            double *o = out + ((size_t)i * a->n_head + h) * a->d_v;
            memset(o, 0, a->d_v * sizeof *o);
            for (uint32_t j = 0; j < s->n_tok; j++) {
                double p = exp(w[j] - max);
                sum += p;
                for (uint32_t d = 0; p > 0 && d < a->d_v; d++) {
                    o[d] += p * v[((size_t)j * a->n_kv_head + kv) * a->d_v + d];
                }
            }
            for (uint32_t d = 0; d < a->d_v; d++) {
                o[d] /= sum;
            }
        }
    }
    free(k);
    free(v);
    free(w);
    free(q);
}

bool machine_has(enum kern_isa isa)
{
    enum kern_isa got;
    return kern_isa_by_name(kern_isa_name(isa), &got, NULL) == ERR_OK;
}
