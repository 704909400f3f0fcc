/* The table that the two halves of the filters share. */
#ifndef ENGINE_TEMPLATE_FILTERS_H
#define ENGINE_TEMPLATE_FILTERS_H

#include "engine/template/interp.h"

struct filter {
    const char *name;
    struct tmpl_value *(*run)(struct interp *in, struct tmpl_value *v,
                              const struct call_args *args);
};

const struct filter *interp_sequence_filter(const char *name); /* or NULL */

#endif
