#include "server/tool_calls.h"

#include "base/rng.h"
#include "server/json_check.h"

#include <stdlib.h>
#include <string.h>

#define TAG_BEGIN  "<tool_call>"
#define TAG_END    "</tool_call>"
#define MISTRAL    "[TOOL_CALLS]"
#define PYTHON_TAG "<|python_tag|>"
#define HEAD_MAX   ((size_t)512)  /* of a channel's head; more is no head */
#define SPACE_MAX  ((size_t)4096) /* held back around calls; more is text */

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && is_space(*at)) {
        at++;
    }
    return at;
}

static const char *trim_end(const char *at, const char *end)
{
    while (end > at && is_space(end[-1])) {
        end--;
    }
    return end;
}

/* The first `mark` of [at, end), NULL: none. */
static const char *find(const char *at, const char *end, const char *mark)
{
    size_t n = strlen(mark);
    for (; (size_t)(end - at) >= n; at++) {
        const char *hit = memchr(at, mark[0], (size_t)(end - at) - n + 1);
        if (!hit || memcmp(hit, mark, n) == 0) {
            return hit;
        }
        at = hit;
    }
    return NULL;
}

static bool starts(const char *at, const char *end, const char *mark)
{
    size_t n = strlen(mark);
    return (size_t)(end - at) >= n && memcmp(at, mark, n) == 0;
}

/* Where the object or list that begins at `at` ends, NULL: it does not. */
static const char *json_end(const char *at, const char *end)
{
    size_t depth = 0;
    bool quoted = false;
    for (; at < end; at++) {
        if (quoted) {
            quoted = *at != '"';
            at += *at == '\\' && at + 1 < end;
        } else if (*at == '"') {
            quoted = true;
        } else if (*at == '{' || *at == '[') {
            depth++;
        } else if (*at == '}' || *at == ']') {
            if (depth <= 1) {
                return depth ? at + 1 : NULL;
            }
            depth--;
        }
        if (!depth) {
            return NULL;
        }
    }
    return NULL;
}

/* The JSON of [at, end); NULL where it is none. */
static cJSON *parse(const char *at, const char *end)
{
    struct err e = {0};
    char *copy = strndup(at, (size_t)(end - at));
    size_t n = copy ? strlen(copy) : 0;
    cJSON *v = copy && n == (size_t)(end - at) && srv_json_check(copy, n, &e) == ERR_OK
                   ? cJSON_ParseWithLength(copy, n)
                   : NULL;
    free(copy);
    return v;
}

/* ---- calls */

static const cJSON *tool_function(const struct srv_tool_reader *r, const char *name)
{
    const cJSON *tool = NULL;
    cJSON_ArrayForEach(tool, r->tools)
    {
        const cJSON *f = cJSON_GetObjectItemCaseSensitive(tool, "function");
        const cJSON *is = cJSON_GetObjectItemCaseSensitive(f, "name");
        if (cJSON_IsString(is) && strcmp(is->valuestring, name) == 0) {
            return f;
        }
    }
    return NULL;
}

static void make_id(char id[SRV_CALL_ID_LEN + 1])
{
    static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    uint64_t random = rng_entropy();
    for (size_t i = 0; i < SRV_CALL_ID_LEN; i++) {
        id[i] = digits[random % 62];
        random /= 62;
    }
    id[SRV_CALL_ID_LEN] = 0;
}

/* Takes over `arguments`. False: no call, or no memory. What our own check would refuse when the
 * client sends it back is no call: a key or a nesting beyond its limits. */
static bool add_call(struct srv_tool_reader *r, const char *name, char *arguments)
{
    struct err e;
    if (!arguments || !tool_function(r, name) || r->n_call == SRV_CALL_MAX ||
        srv_json_check(arguments, strlen(arguments), &e) == ERR_LIMIT) {
        r->failed = r->failed || !arguments;
        free(arguments);
        return false;
    }
    if (r->single && r->n_call) {
        free(arguments);
        return true;
    }
    struct srv_tool_call *calls = realloc(r->calls, (r->n_call + 1) * sizeof *calls);
    r->calls = calls ? calls : r->calls;
    char *copy = calls ? strdup(name) : NULL;
    if (!copy) {
        r->failed = true;
        free(arguments);
        return false;
    }
    r->n_call_byte += strlen(name) + strlen(arguments);
    struct srv_tool_call *c = &r->calls[r->n_call++];
    *c = (struct srv_tool_call){.name = copy, .arguments = arguments};
    make_id(c->id);
    return true;
}

static void drop_calls(struct srv_tool_reader *r, size_t n_keep)
{
    while (r->n_call > n_keep) {
        r->n_call--;
        free(r->calls[r->n_call].name);
        free(r->calls[r->n_call].arguments);
    }
}

static const cJSON *arguments_of(const cJSON *v)
{
    const cJSON *arguments = cJSON_GetObjectItemCaseSensitive(v, "arguments");
    return arguments ? arguments : cJSON_GetObjectItemCaseSensitive(v, "parameters");
}

/* {"name":…,"arguments":{…}}; some models write the arguments as text. */
static bool take_object(struct srv_tool_reader *r, const cJSON *v)
{
    const cJSON *inner = cJSON_GetObjectItemCaseSensitive(v, "function");
    v = cJSON_IsObject(inner) ? inner : v;
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(v, "name");
    const cJSON *arguments = arguments_of(v);
    cJSON *inside = NULL;
    if (cJSON_IsString(arguments)) {
        const char *s = arguments->valuestring;
        arguments = inside = parse(s, s + strlen(s));
    }
    bool good = cJSON_IsString(name) && cJSON_IsObject(arguments) &&
                add_call(r, name->valuestring, cJSON_PrintUnformatted(arguments));
    cJSON_Delete(inside);
    return good;
}

static bool take_json(struct srv_tool_reader *r, const char *at, const char *end)
{
    cJSON *v = parse(at, end);
    size_t n_before = r->n_call;
    bool good = false;
    if (cJSON_IsArray(v)) {
        const cJSON *item = NULL;
        good = v->child != NULL;
        cJSON_ArrayForEach(item, v)
        {
            good = good && take_object(r, item);
        }
    } else if (cJSON_IsObject(v)) {
        good = take_object(r, v);
    }
    cJSON_Delete(v);
    if (!good) {
        drop_calls(r, n_before);
    }
    return good;
}

/* ---- calls in tags */

/* Whether the tool's schema says that this argument is text. */
static bool is_text(const struct srv_tool_reader *r, const char *function, const char *key)
{
    const cJSON *schema =
        cJSON_GetObjectItemCaseSensitive(tool_function(r, function), "parameters");
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(schema, "properties");
    const cJSON *type =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(all, key), "type");
    return cJSON_IsString(type) && strcmp(type->valuestring, "string") == 0;
}

/* Adds [at, end) as the value of key: as text where the schema says so or it is no JSON. */
static bool add_argument(const struct srv_tool_reader *r, const char *function, const char *key,
                         const char *at, const char *end, cJSON *to)
{
    cJSON *v = is_text(r, function, key) ? NULL : parse(at, end);
    if (!v) {
        char *text = strndup(at, (size_t)(end - at));
        v = text ? cJSON_CreateString(text) : NULL;
        free(text);
    }
    if (cJSON_GetObjectItemCaseSensitive(to, key) || !v || !cJSON_AddItemToObject(to, key, v)) {
        cJSON_Delete(v);
        return false;
    }
    return true;
}

/* How key and value stand between their marks. */
struct marks {
    const char *key_begin, *key_end, *value_begin, *value_end;
    bool trims; /* one line break inside the value's marks is not of it */
};

/* Every argument of [at, end), which holds nothing else. */
static bool take_arguments(struct srv_tool_reader *r, const char *name, const struct marks *m,
                           const char *at, const char *end)
{
    cJSON *arguments = cJSON_CreateObject();
    bool good = arguments != NULL;
    while (good && (at = skip_space(at, end)) < end) {
        const char *key = at + strlen(m->key_begin);
        const char *key_end = starts(at, end, m->key_begin) ? find(key, end, m->key_end) : NULL;
        const char *value = key_end ? skip_space(key_end + strlen(m->key_end), end) : end;
        value = m->value_begin[0] ? value : key_end ? key_end + strlen(m->key_end) : end;
        const char *stop = NULL;
        if (key_end && starts(value, end, m->value_begin)) {
            value += strlen(m->value_begin);
            stop = find(value, end, m->value_end);
        }
        good = stop != NULL;
        if (good) {
            at = stop + strlen(m->value_end);
            value += m->trims && value < stop && *value == '\n';
            stop -= m->trims && stop > value && stop[-1] == '\n';
            char *copy = strndup(key, (size_t)(key_end - key));
            good = copy && add_argument(r, name, copy, value, stop, arguments);
            free(copy);
        }
    }
    good = good && add_call(r, name, cJSON_PrintUnformatted(arguments));
    cJSON_Delete(arguments);
    return good;
}

/* What stands between <tool_call> and </tool_call>. */
static bool take_tagged(struct srv_tool_reader *r, const char *at, const char *end)
{
    static const struct marks xml = {"<parameter=", ">", "", "</parameter>", true};
    static const struct marks pairs = {"<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
                                       false};
    const struct marks *m = &pairs;
    at = skip_space(at, end);
    end = trim_end(at, end);
    if (at < end && *at == '{') {
        return take_json(r, at, end);
    }
    const char *name_end = find(at, end, pairs.key_begin);
    name_end = name_end ? name_end : end;
    const char *rest = name_end;
    if (starts(at, end, "<function=")) {
        static const char close[] = "</function>";
        size_t n_close = sizeof close - 1;
        m = &xml;
        at += strlen("<function=");
        name_end = find(at, end, ">");
        if (!name_end || (size_t)(end - name_end) < n_close ||
            memcmp(end - n_close, close, n_close) != 0) {
            return false;
        }
        rest = name_end + 1;
        end -= n_close;
    }
    name_end = trim_end(at, name_end);
    char *name = strndup(at, (size_t)(name_end - at));
    bool good = name && tool_function(r, name) && take_arguments(r, name, m, rest, end);
    free(name);
    return good;
}

/* ---- calls without an end mark: what follows the first mark, to the answer's end */

/* NAME, maybe [CALL_ID] and an id, maybe [ARGS], then the arguments. Returns where it ends. */
static const char *take_named(struct srv_tool_reader *r, const char *at, const char *end)
{
    const char *object = find(at, end, "{");
    const char *stop = object ? json_end(object, end) : NULL;
    if (!stop) {
        return NULL;
    }
    const char *name_end = object;
    const char *mark = find(at, object, "[CALL_ID]");
    mark = mark ? mark : find(at, object, "[ARGS]");
    name_end = trim_end(at, mark ? mark : name_end);
    char *name = strndup(at, (size_t)(name_end - at));
    cJSON *v = parse(object, stop);
    bool good = name && v && add_call(r, name, cJSON_PrintUnformatted(v));
    cJSON_Delete(v);
    free(name);
    return good ? stop : NULL;
}

static bool take_mistral(struct srv_tool_reader *r, const char *at, const char *end)
{
    size_t n_before = r->n_call;
    while ((at = skip_space(at, end)) < end) {
        const char *stop = NULL;
        if (starts(at, end, MISTRAL)) {
            at += strlen(MISTRAL);
            continue;
        }
        if (*at == '[' || *at == '{') {
            stop = json_end(at, end);
            stop = stop && take_json(r, at, stop) ? stop : NULL;
        } else {
            stop = take_named(r, at, end);
        }
        if (!stop) {
            drop_calls(r, n_before);
            return false;
        }
        at = stop;
    }
    return r->n_call > n_before;
}

/* One object or several, with semicolons or nothing between them. */
static bool take_objects(struct srv_tool_reader *r, const char *at, const char *end)
{
    size_t n_before = r->n_call;
    at = skip_space(at, end);
    at += starts(at, end, PYTHON_TAG) ? strlen(PYTHON_TAG) : 0;
    while ((at = skip_space(at, end)) < end) {
        const char *stop = json_end(at, end);
        if (!stop || !take_json(r, at, stop)) {
            drop_calls(r, n_before);
            return false;
        }
        at = skip_space(stop, end);
        at += at < end && *at == ';';
    }
    return r->n_call > n_before;
}

/* ---- the stream */

void srv_tool_reader_init(struct srv_tool_reader *r, enum srv_tool_format format,
                          const cJSON *tools, bool single)
{
    *r = (struct srv_tool_reader){.format = format, .tools = tools, .single = single};
}

void srv_tool_reader_finish(struct srv_tool_reader *r)
{
    drop_calls(r, 0);
    free(r->calls);
    buf_free(&r->held);
    buf_free(&r->name);
    buf_free(&r->thought);
    *r = (struct srv_tool_reader){0};
}

static const char *first_mark(const struct srv_tool_reader *r)
{
    return r->format == SRV_TOOLS_TAGS ? TAG_BEGIN : MISTRAL;
}

/* The first n bytes of what is held are text. */
static void release(struct srv_tool_reader *r, size_t n, struct buf *out)
{
    buf_append(out, buf_str(&r->held), n);
    buf_drop(&r->held, n);
}

/* White space in front of `end` that would go with a call there. */
static size_t n_space_before(const char *at, const char *end)
{
    size_t n = (size_t)(end - trim_end(at, end));
    return n < SPACE_MAX ? n : SPACE_MAX;
}

/* Bytes at the end of held that may belong to a call's beginning: white space, then the first bytes
 * of a mark. */
static size_t n_undecided(const struct srv_tool_reader *r)
{
    const char *mark = first_mark(r);
    const char *at = buf_str(&r->held);
    const char *end = at + r->held.len;
    size_t n = strlen(mark) - 1 < r->held.len ? strlen(mark) - 1 : r->held.len;
    while (n && memcmp(end - n, mark, n) != 0) {
        n--;
    }
    return n + n_space_before(at, end - n);
}

/* Looks for a call's first mark. True: held begins with it now. */
static bool find_begin(struct srv_tool_reader *r, struct buf *out)
{
    const char *at = buf_str(&r->held);
    const char *end = at + r->held.len;
    const char *mark = find(at, end, first_mark(r));
    if (!mark) {
        release(r, r->held.len - n_undecided(r), out);
        return false;
    }
    size_t n_space = n_space_before(at, mark);
    release(r, (size_t)(mark - at) - n_space, out);
    buf_drop(&r->held, n_space);
    r->inside = true;
    r->n_scanned = strlen(first_mark(r));
    return true;
}

/* Looks for the call's end. True: the call, or what it turned out to be, is dealt with. */
static bool find_end(struct srv_tool_reader *r, struct buf *out)
{
    const char *at = buf_str(&r->held);
    const char *end = at + r->held.len;
    const char *stop = find(at + r->n_scanned, end, TAG_END);
    if (!stop) {
        size_t n_keep = strlen(TAG_END) - 1;
        size_t least = strlen(TAG_BEGIN);
        size_t scanned = r->held.len > n_keep ? r->held.len - n_keep : 0;
        r->n_scanned = scanned > least ? scanned : least;
        return false;
    }
    size_t n = (size_t)(stop - at) + strlen(TAG_END);
    r->inside = false;
    if (take_tagged(r, at + strlen(TAG_BEGIN), stop)) {
        buf_drop(&r->held, n);
    } else {
        release(r, n, out);
    }
    return true;
}

/* This form has its calls at the beginning, or none. */
static void decide_json(struct srv_tool_reader *r, struct buf *out)
{
    const char *end = buf_str(&r->held) + r->held.len;
    const char *at = skip_space(buf_str(&r->held), end);
    size_t n = (size_t)(end - at);
    size_t n_tag = strlen(PYTHON_TAG);
    bool tag = n && memcmp(at, PYTHON_TAG, n < n_tag ? n : n_tag) == 0;
    if ((n && *at != '{' && !tag) || r->held.len - n > SPACE_MAX) {
        r->plain = true;
        release(r, r->held.len, out);
    }
}

/* ---- channels */

static const char *const harmony_marks[] = {"<|end|>",     "<|start|>", "<|channel|>",
                                            "<|message|>", "<|call|>",  "<|return|>"};
#define N_HARMONY_MARK (sizeof harmony_marks / sizeof *harmony_marks)

/* The first mark of [at, end); NULL: none. *ret_n: its length. */
static const char *find_any_mark(const char *at, const char *end, size_t *ret_n)
{
    while ((at = find(at, end, "<|"))) {
        for (size_t i = 0; i < N_HARMONY_MARK; i++) {
            if (starts(at, end, harmony_marks[i])) {
                *ret_n = strlen(harmony_marks[i]);
                return at;
            }
        }
        at++;
    }
    return NULL;
}

/* Bytes at the end that may be the beginning of a mark. */
static size_t n_mark_begun(const char *at, const char *end)
{
    size_t n = 0;
    for (size_t i = 0; i < N_HARMONY_MARK; i++) {
        size_t most = strlen(harmony_marks[i]) - 1;
        size_t k = most < (size_t)(end - at) ? most : (size_t)(end - at);
        while (k > n && memcmp(end - k, harmony_marks[i], k) != 0) {
            k--;
        }
        n = k > n ? k : n;
    }
    return n;
}

/* Whether [at, end) may be the beginning of a head. */
static bool may_be_head(const char *at, const char *end)
{
    static const char *const firsts[] = {"<|channel|>", "<|start|>", "<|message|>", " to="};
    for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {
        size_t n = strlen(firsts[i]);
        n = n < (size_t)(end - at) ? n : (size_t)(end - at);
        if (memcmp(at, firsts[i], n) == 0) {
            return (size_t)(end - at) <= HEAD_MAX;
        }
    }
    return false;
}

/* What the body behind this head is. */
static void read_head(struct srv_tool_reader *r, const char *at, const char *end)
{
    static const char to[] = "to=functions.";
    const char *name = find(at, end, to);
    const char *channel = find(at, end, "<|channel|>");
    r->part = SRV_PART_TEXT;
    if (name) {
        const char *name_end = name += sizeof to - 1;
        while (name_end < end && !is_space(*name_end) && *name_end != '<') {
            name_end++;
        }
        buf_clear(&r->name);
        buf_append(&r->name, name, (size_t)(name_end - name));
        r->part = SRV_PART_CALL;
    } else if (channel && starts(channel + strlen("<|channel|>"), end, "analysis")) {
        r->part = SRV_PART_THOUGHT;
    }
}

/* The first n bytes held are of the present body, which `ends` with them or goes on. */
static void take_body(struct srv_tool_reader *r, size_t n, bool ends, struct buf *out)
{
    const char *at = buf_str(&r->held);
    if (r->part == SRV_PART_CALL) {
        if (!ends) {
            return; /* a call is taken whole */
        }
        const char *from = skip_space(at, at + n);
        cJSON *v = parse(from, trim_end(from, at + n));
        bool good = cJSON_IsObject(v) && add_call(r, buf_str(&r->name), cJSON_PrintUnformatted(v));
        cJSON_Delete(v);
        if (good) {
            buf_drop(&r->held, n);
            return;
        }
    }
    release(r, n, r->part == SRV_PART_THOUGHT ? &r->thought : out);
}

/* True: something was dealt with, and there may be more. */
static bool step_channel(struct srv_tool_reader *r, struct buf *out)
{
    const char *at = buf_str(&r->held);
    const char *end = at + r->held.len;
    size_t n_mark = 0;
    if (r->part == SRV_PART_HEAD) {
        const char *mark = find(at, end, "<|message|>");
        if (!may_be_head(at, mark ? mark : end - n_mark_begun(at, end))) {
            r->plain = true;
            release(r, r->held.len, out);
            return false;
        }
        if (mark) {
            read_head(r, at, mark);
            buf_drop(&r->held, (size_t)(mark - at) + strlen("<|message|>"));
        }
        return mark != NULL;
    }
    const char *mark = find_any_mark(at + r->n_scanned, end, &n_mark);
    if (!mark) {
        size_t n_sure = r->held.len - n_mark_begun(at, end);
        take_body(r, n_sure, false, out);
        r->n_scanned = r->part == SRV_PART_CALL ? n_sure : 0;
        return false;
    }
    bool goes_on = starts(mark, end, "<|start|>") || starts(mark, end, "<|channel|>");
    size_t n_after = (size_t)(end - mark) - (goes_on ? 0 : n_mark);
    take_body(r, (size_t)(mark - at), true, out);
    buf_drop(&r->held, r->held.len - n_after);
    r->n_scanned = 0;
    r->part = SRV_PART_HEAD;
    return r->held.len != 0;
}

void srv_tool_reader_feed(struct srv_tool_reader *r, const char *text, size_t n, struct buf *out)
{
    if (r->plain || r->format == SRV_TOOLS_TEXT) {
        buf_append(out, text, n);
        return;
    }
    buf_append(&r->held, text, n);
    if (!buf_ok(&r->held)) {
        r->failed = true;
        return;
    }
    if (r->format == SRV_TOOLS_JSON) {
        decide_json(r, out);
        return;
    }
    bool moved = true;
    while (moved && r->format == SRV_TOOLS_HARMONY) {
        moved = r->held.len && step_channel(r, out);
    }
    while (moved) {
        moved = !r->inside                    ? find_begin(r, out)
                : r->format == SRV_TOOLS_TAGS ? find_end(r, out)
                                              : false;
    }
}

void srv_tool_reader_end(struct srv_tool_reader *r, struct buf *out)
{
    const char *at = buf_str(&r->held);
    const char *end = at + r->held.len;
    bool taken = false;
    if (r->format == SRV_TOOLS_HARMONY) {
        if (r->part != SRV_PART_HEAD) {
            take_body(r, r->held.len, true, out);
        }
        buf_clear(&r->held); /* half a head is no text */
        return;
    }
    if (r->inside && r->format == SRV_TOOLS_TAGS) { /* some end without the last mark */
        taken = take_tagged(r, at + strlen(TAG_BEGIN), end);
    } else if (r->inside) {
        taken = take_mistral(r, at, end);
    } else if (r->format == SRV_TOOLS_JSON && r->held.len) {
        taken = take_objects(r, at, end);
    }
    bool only_space = skip_space(at, end) == end;
    if (!taken && !(r->n_call && only_space)) {
        release(r, r->held.len, out);
    }
    buf_clear(&r->held);
    r->inside = false;
}
