#include "engine/engine.h"

#include <stdlib.h>

#define IDS_CAP_MIN 64

enum err_code eng_ids_push(struct eng_ids *l, int32_t id, struct err *e)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : IDS_CAP_MIN;
        int32_t *ids = realloc(l->ids, cap * sizeof *ids);
        if (!ids) {
            return err_set(e, ERR_NOMEM, "out of memory for %zu token ids", cap);
        }
        l->ids = ids;
        l->cap = cap;
    }
    l->ids[l->n++] = id;
    return ERR_OK;
}

void eng_ids_free(struct eng_ids *l)
{
    free(l->ids);
    *l = (struct eng_ids){0};
}
