#include "scheduler/text.h"

#include "base/utf8.h"

#define REPLACEMENT "\xef\xbf\xbd"

enum err_code sch_text_init(struct sch_text *t, const char *const *stop, uint32_t n_stop,
                            bool keep_stop, struct err *e)
{
    *t = (struct sch_text){.keep_stop = keep_stop, .matched = -1};
    return sch_stop_init(&t->stop, stop, n_stop, e);
}

void sch_text_finish(struct sch_text *t)
{
    sch_stop_finish(&t->stop);
    buf_free(&t->raw);
    buf_free(&t->text);
}

/* Length of the longest beginning of a character at s that the next byte breaks: at least 1. */
static size_t broken_len(const char *s, size_t n)
{
    size_t len = 1;
    while (len < 3 && len < n && utf8_incomplete_tail(s, len + 1) == len + 1) {
        len++;
    }
    return len;
}

/* Moves from raw to text what is decided; at the answer's end that is all of it. */
static void decode(struct sch_text *t, bool is_end)
{
    const char *s = buf_str(&t->raw);
    size_t n = t->raw.len;
    size_t n_whole = is_end ? n : n - utf8_incomplete_tail(s, n);
    size_t i = 0;
    while (i < n_whole) {
        size_t n_valid = utf8_valid_prefix(s + i, n_whole - i);
        buf_append(&t->text, s + i, n_valid);
        i += n_valid;
        if (i < n_whole) {
            buf_puts(&t->text, REPLACEMENT);
            i += broken_len(s + i, n_whole - i);
        }
    }
    buf_drop(&t->raw, n_whole);
}

static bool look_for_stop(struct sch_text *t, size_t from)
{
    struct sch_stop_match m = sch_stop_feed(&t->stop, buf_str(&t->text) + from, t->text.len - from);
    if (m.idx < 0) {
        t->n_ready = t->text.len - sch_stop_n_held(&t->stop);
        return false;
    }
    t->matched = m.idx;
    t->text.len = from + m.n_byte - (t->keep_stop ? 0 : m.match_len);
    t->text.data[t->text.len] = 0;
    t->n_ready = t->text.len;
    return true;
}

bool sch_text_feed(struct sch_text *t, bool look)
{
    size_t from = t->text.len;
    decode(t, false);
    t->n_ready = look ? t->text.len - sch_stop_n_held(&t->stop) : t->text.len;
    return look && sch_text_ok(t) && t->text.len > from && look_for_stop(t, from);
}

void sch_text_flush(struct sch_text *t)
{
    if (t->matched < 0) {
        decode(t, true);
    }
    t->n_ready = t->text.len;
}

void sch_text_taken(struct sch_text *t)
{
    buf_drop(&t->text, t->n_ready);
    t->n_ready = 0;
}

bool sch_text_ok(const struct sch_text *t)
{
    return buf_ok(&t->raw) && buf_ok(&t->text);
}
