#include "base/utf8.h"

/* Length a lead byte promises, and the range of the byte after it (Unicode table 3-7). */
static size_t lead_info(unsigned char c, unsigned char *ret_lo, unsigned char *ret_hi)
{
    *ret_lo = 0x80;
    *ret_hi = 0xbf;
    if (c < 0x80) {
        return 1;
    }
    if (c >= 0xc2 && c <= 0xdf) {
        return 2;
    }
    if (c >= 0xe0 && c <= 0xef) {
        *ret_lo = c == 0xe0 ? 0xa0 : 0x80;
        *ret_hi = c == 0xed ? 0x9f : 0xbf;
        return 3;
    }
    if (c >= 0xf0 && c <= 0xf4) {
        *ret_lo = c == 0xf0 ? 0x90 : 0x80;
        *ret_hi = c == 0xf4 ? 0x8f : 0xbf;
        return 4;
    }
    return 0;
}

/* How many bytes of a character stand at s, and how many it needs; need 0 when it can't be one. */
static size_t scan_char(const char *s, size_t n, size_t *ret_need)
{
    unsigned char lo = 0;
    unsigned char hi = 0;
    *ret_need = n ? lead_info((unsigned char)s[0], &lo, &hi) : 0;
    size_t i = 1;
    for (; i < *ret_need && i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c < lo || c > hi) {
            *ret_need = 0;
            return 0;
        }
        lo = 0x80;
        hi = 0xbf;
    }
    return i;
}

size_t utf8_char_len(const char *s, size_t n)
{
    size_t need = 0;
    size_t have = scan_char(s, n, &need);
    return need && have == need ? need : 0;
}

size_t utf8_decode(const char *s, size_t n, uint32_t *ret_cp)
{
    size_t len = utf8_char_len(s, n);
    const unsigned char *u = (const unsigned char *)s;
    switch (len) {
    case 1: *ret_cp = u[0]; break;
    case 2: *ret_cp = (uint32_t)(u[0] & 0x1f) << 6 | (u[1] & 0x3f); break;
    case 3:
        *ret_cp = (uint32_t)(u[0] & 0x0f) << 12 | (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3f);
        break;
    case 4:
        *ret_cp = (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3f) << 12 |
                  (uint32_t)(u[2] & 0x3f) << 6 | (u[3] & 0x3f);
        break;
    default: break;
    }
    return len;
}

size_t utf8_encode(uint32_t cp, char *out)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

size_t utf8_valid_prefix(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        size_t len = (unsigned char)s[i] < 0x80 ? 1 : utf8_char_len(s + i, n - i);
        if (!len) {
            return i;
        }
        i += len;
    }
    return n;
}

size_t utf8_incomplete_tail(const char *s, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        unsigned char c = (unsigned char)s[n - k];
        if (c < 0x80) {
            return 0;
        }
        if (c >= 0xc0) {
            size_t need = 0;
            size_t have = scan_char(s + n - k, k, &need);
            return need > have && have == k ? k : 0;
        }
    }
    return 0;
}
