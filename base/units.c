#include "base/units.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum err_code units_parse_bytes(const char *text, uint64_t *ret_bytes, struct err *e)
{
    static const char letters[] = "kmgt";
    char *end = NULL;
    if (!isdigit((unsigned char)text[0])) {
        return err_set(e, ERR_INVALID, "'%.40s' is not a size such as 512M or 8G", text);
    }
    double value = strtod(text, &end);
    double scale = 1;
    const char *letter = *end ? strchr(letters, tolower((unsigned char)*end)) : NULL;
    if (letter) {
        scale = ldexp(1, 10 * (int)(letter - letters + 1));
        end++;
        if (strcasecmp(end, "b") == 0 || strcasecmp(end, "ib") == 0) {
            end += strlen(end);
        }
    }
    if (*end || !isfinite(value) || value * scale >= 0x1.0p63) {
        return err_set(e, ERR_INVALID, "'%.40s' is not a size such as 512M or 8G", text);
    }
    *ret_bytes = (uint64_t)(value * scale);
    return ERR_OK;
}

const char *units_format_bytes(uint64_t bytes, char *out, size_t out_cap)
{
    static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t i = 0;
    while (v >= 1024 && i + 1 < sizeof names / sizeof *names) {
        v /= 1024;
        i++;
    }
    (void)snprintf(out, out_cap, i ? "%.2f %s" : "%.0f %s", v, names[i]);
    return out;
}
