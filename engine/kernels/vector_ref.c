/* The oracle: plain loops, double sums, libm. */
#include "engine/kernels/vector.h"
#include "engine/kernels/vector_impl.h"

#include <math.h>

static void ref_rmsnorm(float *y, const float *x, const float *w, size_t n, float eps)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i] * x[i];
    }
    float s = (float)(1.0 / sqrt(sum / (double)n + eps));
    for (size_t i = 0; i < n; i++) {
        y[i] = w ? x[i] * s * w[i] : x[i] * s;
    }
}

static void ref_layernorm(float *y, const float *x, const float *w, const float *b, size_t n,
                          float eps)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i];
    }
    double mean = sum / (double)n;
    double var = 0;
    for (size_t i = 0; i < n; i++) {
        var += (x[i] - mean) * (x[i] - mean);
    }
    double s = 1.0 / sqrt(var / (double)n + eps);
    for (size_t i = 0; i < n; i++) {
        double d = (x[i] - mean) * s;
        y[i] = (float)((w ? d * w[i] : d) + (b ? b[i] : 0));
    }
}

static void ref_add(float *y, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = a[i] + b[i];
    }
}

static void ref_mul(float *y, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = a[i] * b[i];
    }
}

static void ref_scale(float *y, const float *x, float s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = x[i] * s;
    }
}

static void ref_axpy(float *y, const float *x, float s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] += x[i] * s;
    }
}

static double activate(double x, enum vec_act kind)
{
    switch (kind) {
    case VEC_SILU: return x / (1 + exp(-x));
    case VEC_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case VEC_GELU_ERF: return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case VEC_GELU_QUICK: return x / (1 + exp(-1.702 * x));
    case VEC_RELU: return x < 0 ? 0 : x; /* NaN stays */
    case VEC_RELU_SQR: return x < 0 ? 0 : x * x;
    }
    return x;
}

static void ref_act(float *y, const float *x, enum vec_act kind, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = (float)activate(x[i], kind);
    }
}

static void ref_act_mul(float *y, const float *gate, const float *up, enum vec_act kind, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = (float)activate(gate[i], kind) * up[i];
    }
}

static void ref_rope(float *x, uint32_t n_head, uint32_t head_dim, uint32_t n_rot,
                     const float *cos_sin, int neox)
{
    uint32_t half = n_rot / 2;
    for (uint32_t h = 0; h < n_head; h++, x += head_dim) {
        for (uint32_t i = 0; i < half; i++) {
            float *first = neox ? &x[i] : &x[(size_t)2 * i];
            float *second = neox ? &x[i + half] : &x[(size_t)2 * i + 1];
            float c = cos_sin[(size_t)2 * i];
            float s = cos_sin[(size_t)2 * i + 1];
            float a = *first;
            float b = *second;
            *first = a * c - b * s;
            *second = b * c + a * s;
        }
    }
}

static void ref_softmax(float *y, const float *x, size_t n)
{
    float max = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        y[i] = expf(x[i] - max);
        sum += y[i];
    }
    float s = (float)(1.0 / sum);
    for (size_t i = 0; i < n; i++) {
        y[i] *= s;
    }
}

static void ref_softcap(float *y, const float *x, float cap, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = cap * tanhf(x[i] / cap);
    }
}

static uint32_t ref_argmax(const float *x, size_t n)
{
    uint32_t best = 0;
    float max = -INFINITY;
    int found = 0;
    for (size_t i = 0; i < n; i++) {
        if (x[i] > max || (!found && x[i] == max)) {
            max = x[i];
            best = (uint32_t)i;
            found = 1;
        }
    }
    return best;
}

const struct vec_ops vec_ops_ref = {
    .rmsnorm = ref_rmsnorm,
    .layernorm = ref_layernorm,
    .add = ref_add,
    .mul = ref_mul,
    .scale = ref_scale,
    .axpy = ref_axpy,
    .act = ref_act,
    .act_mul = ref_act_mul,
    .rope = ref_rope,
    .softmax = ref_softmax,
    .softcap = ref_softcap,
    .argmax = ref_argmax,
};
