/* The template engine against what the reference Jinja2 rendered (data/templates/goldens.json), and
 * on its own: limits, refusals, errors with line and column. */
#include "base/buf.h"
#include "engine/template/template.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#define NOW_UNIX_S 1785058200 /* 2026-07-26 09:30:00 UTC, the goldens' clock */

static struct tmpl_value *value_of(struct tmpl_arena *a, const cJSON *v)
{
    const cJSON *item = NULL;
    if (cJSON_IsString(v)) {
        return tmpl_string(a, v->valuestring, strlen(v->valuestring));
    }
    if (cJSON_IsNumber(v)) {
        double x = v->valuedouble;
        return x == floor(x) && fabs(x) < 1e15 ? tmpl_int(a, (int64_t)x) : tmpl_float(a, x);
    }
    if (cJSON_IsBool(v)) {
        return tmpl_bool(a, cJSON_IsTrue(v));
    }
    if (cJSON_IsArray(v)) {
        struct tmpl_value *list = tmpl_list(a);
        cJSON_ArrayForEach(item, v)
        {
            assert_true(tmpl_list_add(a, list, value_of(a, item)));
        }
        return list;
    }
    if (cJSON_IsObject(v)) {
        struct tmpl_value *map = tmpl_map(a);
        cJSON_ArrayForEach(item, v)
        {
            assert_true(
                tmpl_map_set(a, map, item->string, strlen(item->string), value_of(a, item)));
        }
        return map;
    }
    return tmpl_none(a);
}

static enum err_code render(const char *source, const char *context_json, struct buf *out,
                            struct err *e)
{
    struct tmpl *t = NULL;
    struct tmpl_arena *a = NULL;
    buf_clear(out);
    enum err_code rc = tmpl_compile(source, strlen(source), &t, e);
    if (!rc) {
        cJSON *json = cJSON_Parse(context_json);
        assert_non_null(json);
        assert_int_equal(tmpl_arena_create(1 << 24, &a, e), ERR_OK);
        rc = tmpl_render(t, value_of(a, json), NULL, NOW_UNIX_S, out, e);
        cJSON_Delete(json);
    }
    tmpl_arena_destroy(a);
    tmpl_destroy(t);
    return rc;
}

static char *read_file(const char *folder, const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) {
        return NULL;
    }
    (void)fseek(f, 0, SEEK_END);
    long n = ftell(f);
    (void)fseek(f, 0, SEEK_SET);
    char *text = calloc(1, (size_t)n + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, (size_t)n, f), n);
    (void)fclose(f);
    return text;
}

/* raise_exception's message must come through as it stands. */
static bool same_refusal(const char *expected, const char *got)
{
    static const char raised[] = "TemplateError: ";
    return strncmp(expected, raised, strlen(raised)) != 0 ||
           strncmp(expected + strlen(raised), got, 230) == 0;
}

/* The first place where they differ, with what surrounds it. */
static void print_difference(const char *expected, const char *got)
{
    size_t at = 0;
    while (expected[at] && expected[at] == got[at]) {
        at++;
    }
    size_t from = at > 60 ? at - 60 : 0;
    print_error("  expected: ...%.160s\n  got:      ...%.160s\n", expected + from,
                strlen(got) > from ? got + from : got);
}

static bool check_one(const char *name, const char *source, const cJSON *context,
                      const cJSON *expected)
{
    struct buf out = {0};
    struct err e = {0};
    char *json = cJSON_PrintUnformatted(context);
    enum err_code rc = render(source, json, &out, &e);
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(expected, "text");
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(expected, "error");
    bool ok = text ? rc == ERR_OK && strcmp(buf_str(&out), text->valuestring) == 0
                   : rc != ERR_OK && same_refusal(error->valuestring, e.msg);
    if (!ok) {
        print_error("%s / %s: %s\n", name, context->string,
                    rc     ? e.msg
                    : text ? "another text"
                           : "rendered, but the reference refuses");
        print_difference(text ? text->valuestring : error->valuestring, buf_str(&out));
    }
    free(json);
    buf_free(&out);
    return ok;
}

static void test_goldens(void **state)
{
    (void)state;
    const char *shared = getenv("KVASIR_SHARED");
    char folder[400];
    (void)snprintf(folder, sizeof folder, "%s/data/templates", shared ? shared : "../shared");
    char *goldens_text = read_file(folder, "goldens.json");
    char *contexts_text = read_file(folder, "contexts.json");
    if (!goldens_text || !contexts_text) {
        print_message("skipped: no templates in %s\n", folder);
        skip();
    }
    cJSON *goldens = cJSON_Parse(goldens_text);
    cJSON *contexts = cJSON_Parse(contexts_text);
    const cJSON *row = NULL;
    int n = 0;
    int n_wrong = 0;
    cJSON_ArrayForEach(row, goldens)
    {
        char *source = read_file(folder, row->string);
        const cJSON *expected = NULL;
        assert_non_null(source);
        cJSON_ArrayForEach(expected, row)
        {
            const cJSON *context = cJSON_GetObjectItemCaseSensitive(contexts, expected->string);
            n++;
            n_wrong += !check_one(row->string, source, context, expected);
        }
        free(source);
    }
    print_message("%d of %d renderings as the reference has them\n", n - n_wrong, n);
    cJSON_Delete(goldens);
    cJSON_Delete(contexts);
    free(goldens_text);
    free(contexts_text);
    assert_int_equal(n, 825);
    assert_int_equal(n_wrong, 0);
}

/* Pairs of template and rendering over {"a":[3,1,2],"s":"Héllo
 * wörld","m":{"x":1,"items":2},"n":null}. */
static const char *const small[][2] = {
    {"{{ 'a-b_c d' | wordcount }}{{ 2.5 is odd }}{{ 3.0 is divisibleby 1.5 }}", "3FalseTrue"},
    {"{{ 'upper' is filter }}{{ 'odd' is test }}{{ 1 is filter }}{{ x is callable }}",
     "TrueTrueFalseTrue"},
    {"{% for i in a %}{% break %}{% else %}none ended{% endfor %}", "none ended"},
    {"{{ [{'k':2,'j':1},{'k':1,'j':2},{'k':1,'j':1}] | sort(attribute='k,j') | map('tojson') | "
     "join }}",
     "{\"k\": 1, \"j\": 1}{\"k\": 1, \"j\": 2}{\"k\": 2, \"j\": 1}"},
    {"{{ {'a b': '/', 'c': 1} | urlencode }} {{ 'a b/' | urlencode }}", "a+b=%2F&c=1 a%20b/"},
    {"{{ [1, 2, 3] | slice(3, 0) | list }}{{ -0.25 // 1e9 }}{{ 0.25 // 1e9 }}",
     "[[1, 0], [2, 0], [3, 0]]-1.00.0"},
    {"{% for i in a %}{{ loop.index }}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}",
     "13,21,32"},
    {"{% set x = 0 %}{% for i in a %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}", "3 1 2 0"},
    {"{% set ns = namespace(x=0) %}{% for i in a %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
     "6"},
    {"  {%- if true %}\n  yes\n{% endif -%}  end", "  yes\nend"},
    {"{{ s|upper }}|{{ s[1:4] }}|{{ s[-1] }}|{{ s[::-1] }}|{{ s|length }}",
     "HÉLLO WÖRLD|éll|d|dlröw olléH|11"},
    {"{{ m.items() | list }}{{ m['items'] }}{{ m.zz is defined }}",
     "[('x', 1), ('items', 2)]2False"},
    {"{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 1e20 }} {{ 0.1 + 0.2 }}",
     "3 -4 2 3.5 1024 1e+20 0.30000000000000004"},
    {"{{ a|sort }}{{ a|sort(reverse=true)|join('-') }}{{ a|sum }}{{ a|max }}", "[1, 2, 3]3-2-163"},
    {"{{ 'x' if n else 'y' }}{{ n is none }}{{ n }}{{ missing }}", "yTrueNone"},
    {"{% macro f(x, y=2) %}[{{ x }}{{ y }}]{% endmacro %}{{ f(1) }}{{ f(1, y=3) }}", "[12][13]"},
    {"{% macro f() %}<{{ caller('z') }}>{% endmacro %}{% call(q) f() %}{{ q }}!{% endcall %}",
     "<z!>"},
    {"{{ {'a': [1, 2.0, none, true]}|tojson }}{{ 'é\"'|tojson }}",
     "{\"a\": [1, 2.0, null, true]}\"é\\\"\""},
    {"{{ {'a': [1], 'b': {}}|tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}"},
    {"{{ '%s-%03d-%.2f' % ('a', 7, 1.5) }} {{ '{:>5}|{a!r}'.format(3, a='q') }}",
     "a-007-1.50     3|'q'"},
    {"{% raw %}{{ x }}{% endraw %}{# gone #}.", "{{ x }}."},
    {"{{ a is iterable and s is string and m is mapping and 3 is odd }}", "True"},
    {"{{ a|select('gt', 1)|list }}{{ [m]|map(attribute='x')|first }}", "[3, 2]1"},
    {"{% if a|select('gt', 9) %}generators are true{% endif %}", "generators are true"},
    {"{% for k, v in m|dictsort %}{{ k }}={{ v }};{% endfor %}", "items=2;x=1;"},
    {"{{ 'a,b,c'.split(',')|reverse|list }}{{ '  x '.strip() }}{{ 'abc'.startswith(('x', 'a')) }}",
     "['c', 'b', 'a']xTrue"},
    {"{{ strftime_now('%Y-%m-%d %H:%M') }}", "2026-07-26 09:30"},
    {"{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{% if i == 1 %}{% continue %}{% "
     "endif %}"
     "{{ i }}{% endfor %}",
     "02"},
    {"{% set t %}a{{ 1 }}{% endset %}{{ t ~ 2 ~ none }}{% filter upper %}x{% endfilter %}",
     "a12NoneX"},
    {"{{ 1 < 2 < 3 }}{{ 1 in a }}{{ 'x' not in m }}{{ 2 if false }}", "TrueTrueFalse"},
    {"{% with q = 5 %}{{ q }}{% endwith %}{{ q }}", "5"},
    {"{{ '<' ~ 'a'|safe }}{{ '<' + 'a'|safe }}{{ '<b>'|e }}", "<a&lt;a&lt;b&gt;"},
};

static void test_small(void **state)
{
    (void)state;
    static const char context[] =
        "{\"a\":[3,1,2],\"s\":\"Héllo wörld\",\"m\":{\"x\":1,\"items\":2},\"n\":null}";
    struct buf out = {0};
    struct err e = {0};
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        if (render(small[i][0], context, &out, &e)) {
            print_error("%s\n  %s\n", small[i][0], e.msg);
            fail();
        }
        assert_string_equal(buf_str(&out), small[i][1]);
    }
    buf_free(&out);
}

/* Templates that must fail, and a word of the message. */
static const char *const bad[][2] = {
    {"{{ 5 | indent }}", "indent needs a string"},
    {"{{ 5 | truncate }}", "no len()"},
    {"{{ {}[:2] }}", "no slices"},
    {"{{ nope | int }}", "undefined"},
    {"{{ [[1]] | unique | list }}", "unhashable"},
    {"{{ {(1, [2]): 1} }}", "unhashable"},
    {"{{ {1: 1, 'a': 1} | tojson(sort_keys=true) }}", "cannot be sorted"},
    {"{% filter length %}x{% endfilter %}", "gives text"},
    {"{{ '{:>4}'.format(none) }}", "takes no format"},
    {"{{ ['ab', 'abc'] | urlencode }}", "pairs"},
    {"{{ 1", "line 1, column 1:"},
    {"a\nb{% if x %}", "endif"},
    {"{% endfor %}", "unknown tag"},
    {"{{ 'x }}", "closing quote"},
    {"x\n  {{ a b }}", "line 2, column 8"},
    {"{{ x.y.z }}", "undefined"},
    {"{{ 1/0 }}", "division by zero"},
    {"{{ raise_exception('no way') }}", "no way"},
    {"{% for i in range(999999) %}{% endfor %}", "range too big"},
    {"{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}", "64 MiB"},
    {"{{ 'x' * 99999999 }}", "bytes"},
    {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested"},
    {"{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor "
     "%}{{ ns.x }}",
     "nested"},
    {"{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor "
     "%}",
     "bytes"},
    {"{{ a|nosuch }}", "no filter named"},
    {"{{ a is nosuch }}", "no test named"},
    {"{{ {}.update({'a': 1}) }}", "unsafe"},
    {"{{ [].append(1) }}", "unsafe"},
    {"{% include 'x' %}", "unknown tag"},
    {"{% macro f() %}{% endmacro %}{{ f(**{99: 1}) }}", "keywords must be strings"},
    {"{{ 9223372036854775807 + 1 }}", "out of range"},
    {"{{ (((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((1", "nested"},
    {"{% set x.y = 1 %}", "namespace"},
    {"{{ 1 + 'a' }}", "unsupported operand"},
    {"{{ '{:9999999999}'.format(1) }}{{ '{' }}{{ '{'.format() }}", "not closed"},
    {"{{ [1]|tojson(indent=-1) }}{{ range|tojson }}", "JSON"},
};

static void test_bad(void **state)
{
    (void)state;
    struct buf out = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        if (!render(bad[i][0], "{\"a\":1}", &out, &e) || !strstr(e.msg, bad[i][1])) {
            print_error("%.80s: wanted \"%s\", got \"%s\"\n", bad[i][0], bad[i][1], e.msg);
            fail();
        }
        assert_int_equal(out.len, 0);
    }
    buf_free(&out);
}

/* Every prefix of every small template: an error or a rendering, never a crash. */
static void test_prefixes(void **state)
{
    (void)state;
    struct buf out = {0};
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        char text[256];
        for (size_t n = 0; n < strlen(small[i][0]) && n < sizeof text; n++) {
            struct err e = {0};
            memcpy(text, small[i][0], n);
            text[n] = 0;
            (void)render(text, "{\"a\":[1],\"m\":{},\"s\":\"x\"}", &out, &e);
        }
    }
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_goldens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
