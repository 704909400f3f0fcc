#include "scheduler/stop.h"

#include <stdlib.h>
#include <string.h>

static void fill_fail(struct sch_stop_string *t)
{
    uint32_t k = 0;
    t->fail[0] = 0;
    for (uint32_t i = 1; i < t->len; i++) {
        while (k && t->text[i] != t->text[k]) {
            k = t->fail[k - 1];
        }
        k += t->text[i] == t->text[k];
        t->fail[i] = k;
    }
}

enum err_code sch_stop_init(struct sch_stop *s, const char *const *strings, uint32_t n,
                            struct err *e)
{
    *s = (struct sch_stop){0};
    if (n > SCH_STOP_MAX) {
        return err_set(e, ERR_INVALID, "%u stop strings: at most %d", n, SCH_STOP_MAX);
    }
    for (uint32_t i = 0; i < n; i++) {
        struct sch_stop_string *t = &s->strings[i];
        size_t len = strlen(strings[i]);
        if (!len || len > UINT32_MAX / 8) {
            sch_stop_finish(s);
            return err_set(e, ERR_INVALID, "stop string %u has %zu bytes", i, len);
        }
        s->n++;
        t->len = (uint32_t)len;
        t->text = strdup(strings[i]);
        t->fail = malloc(len * sizeof *t->fail);
        if (!t->text || !t->fail) {
            sch_stop_finish(s);
            return err_set(e, ERR_NOMEM, "out of memory for a stop string of %zu bytes", len);
        }
        fill_fail(t);
    }
    return ERR_OK;
}

void sch_stop_finish(struct sch_stop *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        free(s->strings[i].text);
        free(s->strings[i].fail);
    }
    *s = (struct sch_stop){0};
}

static bool advance(struct sch_stop_string *t, char c)
{
    uint32_t k = t->n_matched;
    while (k && t->text[k] != c) {
        k = t->fail[k - 1];
    }
    t->n_matched = k + (t->text[k] == c);
    return t->n_matched == t->len;
}

struct sch_stop_match sch_stop_feed(struct sch_stop *s, const char *piece, size_t n)
{
    struct sch_stop_match m = {.idx = -1};
    for (size_t i = 0; i < n && m.idx < 0; i++) {
        for (uint32_t k = 0; k < s->n; k++) {
            struct sch_stop_string *t = &s->strings[k];
            if (advance(t, piece[i]) && t->len > m.match_len) {
                m = (struct sch_stop_match){
                    .idx = (int32_t)k, .n_byte = i + 1, .match_len = t->len};
            }
        }
    }
    return m;
}

size_t sch_stop_n_held(const struct sch_stop *s)
{
    size_t n = 0;
    for (uint32_t k = 0; k < s->n; k++) {
        n = s->strings[k].n_matched > n ? s->strings[k].n_matched : n;
    }
    return n;
}
