/* One rendering of a template: the state that the evaluator's files share. Lives on the renderer's
 * stack; one thread. Every function that can fail returns NULL (or false) with in->e set. */
#ifndef ENGINE_TEMPLATE_INTERP_H
#define ENGINE_TEMPLATE_INTERP_H

#include "base/buf.h"
#include "engine/template/ast.h"
#include "engine/template/value_impl.h"

#include <locale.h>
#include <stdbool.h>
#include <time.h>

/* Limits of one rendering. Templates and conversations are hostile input. */
#define INTERP_FUEL_MAX  1000000
#define INTERP_DEPTH_MAX 120
#define INTERP_OUT_MAX   (4U << 20)
#define INTERP_ARENA_MAX (64U << 20)
#define INTERP_RANGE_MAX 100000

/* Variables of one scope; lookups go outwards. */
struct scope {
    struct scope *outer;
    struct tmpl_value *vars; /* a map, made when the first variable is set */
};

struct interp {
    struct tmpl_arena *a;
    struct scope *scope;
    struct buf *out; /* of the innermost capture */
    size_t n_out;    /* bytes printed into all captures together */
    uint64_t fuel;
    uint32_t depth;
    uint32_t line;   /* of the statement being run */
    locale_t locale; /* C.UTF-8 (C where the system lacks it), for letter case and dates */
    struct tm now;
    struct err *e;
};

/* Arguments of a call, filter or test. */
struct call_args {
    struct tmpl_value **pos;
    size_t n_pos;
    struct tmpl_value *kw;     /* a map, or NULL when there are none */
    struct tmpl_value *caller; /* of a call block, else NULL */
};

struct macro {
    const struct node *def;
    struct scope *scope; /* where it was defined */
};

struct loop {
    struct tmpl_value **items;
    size_t n;
    size_t idx;
    uint32_t depth0;
    struct tmpl_value *changed;   /* arguments of the last changed() */
    const struct node *recursive; /* the for statement, if the loop may call itself */
    struct scope *scope;
};

struct method {
    struct tmpl_value *self;
    const char *name;
};

struct joiner {
    struct tmpl_value *sep;
    bool used;
};

typedef struct tmpl_value *(*interp_function)(struct interp *in, const struct call_args *args);

/* Errors. */
struct tmpl_value *interp_fail(struct interp *in, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
struct tmpl_value *interp_spent(struct interp *in); /* the arena is */
bool interp_burn(struct interp *in, uint64_t fuel);

/* Evaluation. */
struct tmpl_value *interp_eval(struct interp *in, const struct node *node);
bool interp_run(struct interp *in, const struct body *body);
/* Runs body with its output captured as a string value. */
struct tmpl_value *interp_capture(struct interp *in, const struct body *body);
struct tmpl_value *interp_lookup(struct interp *in, const char *name, size_t n);
bool interp_set_var(struct interp *in, const char *name, size_t n, struct tmpl_value *v);
struct scope *interp_push_scope(struct interp *in, struct scope *outer);
struct tmpl_value *interp_call(struct interp *in, struct tmpl_value *callee,
                               const struct call_args *args);
struct tmpl_value *interp_call_macro(struct interp *in, const struct macro *m,
                                     const struct call_args *args);
struct tmpl_value *interp_eval_call(struct interp *in, const struct node *node,
                                    struct tmpl_value *caller);
/* The arguments that a call, filter or test node spells out. */
bool interp_eval_args(struct interp *in, const struct node *node, struct call_args *ret);
struct tmpl_value *interp_run_loop(struct interp *in, const struct node *node,
                                   struct tmpl_value *over, uint32_t depth0);
struct tmpl_value *interp_apply_filter(struct interp *in, const struct node *node,
                                       struct tmpl_value *v);
struct tmpl_value *interp_filter(struct interp *in, const char *name, struct tmpl_value *v,
                                 const struct call_args *args);
bool interp_has_filter(const char *name);
bool interp_has_test(const char *name);
/* 1, 0, or -1 on failure. */
int interp_test(struct interp *in, const char *name, struct tmpl_value *v,
                const struct call_args *args);
struct tmpl_value *interp_binary(struct interp *in, const char *op, struct tmpl_value *a,
                                 struct tmpl_value *b);
int interp_compare(struct interp *in, const char *op, struct tmpl_value *a, struct tmpl_value *b);
/* -1, 0, 1 as a < b, a == b, a > b; false when the two have no order. */
bool interp_order(struct interp *in, const struct tmpl_value *a, const struct tmpl_value *b,
                  int *ret);
struct tmpl_value *interp_attr(struct interp *in, struct tmpl_value *v, const char *name, size_t n);
struct tmpl_value *interp_item(struct interp *in, struct tmpl_value *v, struct tmpl_value *key);
struct tmpl_value *interp_slice(struct interp *in, struct tmpl_value *v,
                                struct tmpl_value *const part[3]);
struct tmpl_value *interp_call_method(struct interp *in, const struct method *m,
                                      const struct call_args *args);
bool interp_has_method(const struct tmpl_value *v, const char *name, size_t n);
struct tmpl_value *interp_str_method(struct interp *in, struct tmpl_value *self, const char *name,
                                     const struct call_args *args);
interp_function interp_global(const char *name, size_t n);
struct tmpl_value *interp_call_object(struct interp *in, struct tmpl_value *callee,
                                      const struct call_args *args);

/* Values. */
bool interp_truth(const struct tmpl_value *v);
/* The items that iterating v gives: of a list, the keys of a map, the characters of a string; an
 * iterator is spent by it. NULL when v cannot be iterated. */
struct tmpl_value **interp_items(struct interp *in, struct tmpl_value *v, size_t *ret_n);
struct tmpl_value *interp_list_of(struct interp *in,
                                  struct tmpl_value *v);  /* a new list of these */
const char *interp_type_name(const struct tmpl_value *v); /* Python's: "str", "int", … */
size_t interp_str_len(const struct tmpl_value *s);        /* in characters */
struct tmpl_value *interp_buf_value(struct interp *in, struct buf *b); /* frees b */
struct tmpl_value *interp_string(struct interp *in, const char *s, size_t n);
bool interp_is_text_space(uint32_t cp);
bool interp_is_word(const struct interp *in, uint32_t cp); /* letters, digits, underscore */
/* Whether a dict may have it as a key; fails in when not. */
bool interp_can_hash(struct interp *in, const struct tmpl_value *v);

/* Argument access: by position or by name; NULL when not given. */
struct tmpl_value *interp_arg(const struct call_args *args, size_t pos, const char *name);
bool interp_arg_int(struct interp *in, const struct call_args *args, size_t pos, const char *name,
                    int64_t fallback, int64_t *ret);
/* Checks the count of arguments of a function `what`. */
bool interp_arity(struct interp *in, const char *what, const struct call_args *args, size_t min,
                  size_t max);

/* Text forms (pytext.c): Python's str() and repr(), JSON as json.dumps writes it. */
bool interp_text(struct interp *in, struct buf *out, const struct tmpl_value *v);
bool interp_repr(struct interp *in, struct buf *out, const struct tmpl_value *v);
struct tmpl_value *interp_str(struct interp *in, struct tmpl_value *v); /* str(v) as a value */
void interp_float_text(struct buf *out, double v);
struct json_style {
    bool ascii;
    bool sort_keys;
    const char *indent; /* NULL: one line */
    const char *item_sep;
    const char *key_sep;
};
bool interp_json(struct interp *in, struct buf *out, const struct tmpl_value *v,
                 const struct json_style *s, uint32_t level);
/* format.c: "…" % args, "…".format(…) */
struct tmpl_value *interp_percent(struct interp *in, const struct tmpl_value *format,
                                  struct tmpl_value *args);
struct tmpl_value *interp_format(struct interp *in, const struct tmpl_value *format,
                                 const struct call_args *args);
/* HTML escaping, for the values of the `safe` and `escape` filters. */
void interp_escape(struct buf *out, const char *s, size_t n);

#endif
