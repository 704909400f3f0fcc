#include "server/embeddings.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define NUMBER_BYTES 14 /* of one value as text, with its comma, at most about */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "base64 is of the floats' own bytes");

static uint32_t n_value_of(const struct srv_request *r, uint32_t n_embd)
{
    return r->n_dimension ? (uint32_t)r->n_dimension : n_embd;
}

bool srv_embeddings_check(const struct srv_request *r, size_t n_input, uint32_t n_embd,
                          struct srv_fail *f)
{
    if (r->n_dimension > n_embd) {
        return srv_fail(f, 400, "invalid_value", "dimensions",
                        "dimensions is %d, this model's embeddings have %u", (int)r->n_dimension,
                        n_embd);
    }
    size_t n_byte = n_input * n_value_of(r, n_embd) * NUMBER_BYTES;
    if (n_byte > SRV_REPLY_BYTES_MAX) {
        return srv_fail(f, 400, "answer_too_large", "input",
                        "%zu inputs with %u numbers each make an answer of more than %zu MiB; send "
                        "fewer at a time",
                        n_input, n_value_of(r, n_embd), SRV_REPLY_BYTES_MAX >> 20);
    }
    return true;
}

/* RFC 4648, section 4. */
static void put_base64(const unsigned char *bytes, size_t n, struct buf *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t word = (uint32_t)bytes[i] << 16;
        word |= i + 1 < n ? (uint32_t)bytes[i + 1] << 8 : 0;
        word |= i + 2 < n ? bytes[i + 2] : 0;
        const char four[4] = {digits[word >> 18], digits[word >> 12 & 63],
                              i + 1 < n ? digits[word >> 6 & 63] : '=',
                              i + 2 < n ? digits[word & 63] : '='};
        buf_append(out, four, sizeof four);
    }
}

static void put_vector(const struct srv_request *r, const float *v, uint32_t n_embd,
                       struct buf *out)
{
    uint32_t n = n_value_of(r, n_embd);
    double length = 0;
    for (uint32_t i = 0; i < n; i++) {
        length += (double)v[i] * (double)v[i];
    }
    /* A whole vector has its length already: its bits stay. */
    double scale = n < n_embd && length > 0 ? 1 / sqrt(length) : 1;
    buf_putc(out, r->base64 ? '"' : '[');
    struct buf raw = {0};
    for (uint32_t i = 0; i < n; i++) {
        float x = (float)((double)v[i] * scale);
        if (r->base64) {
            buf_append(&raw, &x, sizeof x);
            continue;
        }
        buf_puts(out, i ? "," : "");
        buf_json_f32(out, x);
    }
    put_base64((const unsigned char *)buf_str(&raw), raw.len, out);
    out->failed = out->failed || raw.failed;
    buf_free(&raw);
    buf_putc(out, r->base64 ? '"' : ']');
}

void srv_embeddings_whole(const struct srv_answer *a, const char *model, uint32_t n_embd,
                          struct buf *out)
{
    uint64_t n_tok = 0;
    buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < a->n_choice; i++) {
        const struct srv_choice *c = &a->choices[i];
        n_tok += a->prompts[c->i_prompt].ids.n;
        buf_printf(out,
                   "%s{\"object\":\"embedding\",\"index\":%" PRIu32 ",\"embedding\":", i ? "," : "",
                   c->index);
        put_vector(&a->request, c->vector, n_embd, out);
        buf_putc(out, '}');
    }
    buf_puts(out, "],\"model\":");
    buf_json_string(out, model, strlen(model));
    buf_printf(out, ",\"usage\":{\"prompt_tokens\":%" PRIu64 ",\"total_tokens\":%" PRIu64 "}}",
               n_tok, n_tok);
}
