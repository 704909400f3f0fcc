#include "scheduler/fairness.h"

#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

/* Idle tenants are remembered for their debts, so many at most. */
#define N_TENANT_KEPT 1024

static struct sch_tenant *tenant_of(struct sch_link *l)
{
    return SCH_OWNER_OF(l, struct sch_tenant, link);
}

void sch_fairness_init(struct sch_fairness *f)
{
    *f = (struct sch_fairness){0};
    sch_list_init(&f->tenants);
}

static void forget(struct sch_fairness *f, struct sch_tenant *n)
{
    sch_list_remove(&n->link);
    f->n_tenant--;
    free(n->name);
    free(n);
}

void sch_fairness_finish(struct sch_fairness *f)
{
    while (!sch_list_empty(&f->tenants)) {
        forget(f, tenant_of(f->tenants.next));
    }
}

/* The least counter of those with work. It never falls: who idles cannot bring it back. */
static uint64_t update_floor(struct sch_fairness *f)
{
    uint64_t least = UINT64_MAX;
    for (struct sch_link *l = f->tenants.next; l != &f->tenants; l = l->next) {
        struct sch_tenant *n = tenant_of(l);
        if (n->n_active && n->n_used < least) {
            least = n->n_used;
        }
    }
    if (least != UINT64_MAX && least > f->n_used_floor) {
        f->n_used_floor = least;
    }
    return f->n_used_floor;
}

/* Drops the idle tenant with the least debt, where there are too many. */
static void forget_one(struct sch_fairness *f)
{
    struct sch_tenant *least = NULL;
    for (struct sch_link *l = f->tenants.next; l != &f->tenants; l = l->next) {
        struct sch_tenant *n = tenant_of(l);
        if (!n->n_active && (!least || n->n_used < least->n_used)) {
            least = n;
        }
    }
    if (least) {
        forget(f, least);
    }
}

static struct sch_tenant *find(struct sch_fairness *f, const char *name, uint64_t hash)
{
    for (struct sch_link *l = f->tenants.next; l != &f->tenants; l = l->next) {
        struct sch_tenant *n = tenant_of(l);
        if (n->hash == hash && !strcmp(n->name, name)) {
            return n;
        }
    }
    return NULL;
}

enum err_code sch_fairness_join(struct sch_fairness *f, struct sch_ticket *t, const char *tenant,
                                struct err *e)
{
    uint64_t hash = hash_fnv1a(tenant, strlen(tenant));
    struct sch_tenant *n = find(f, tenant, hash);
    if (!n) {
        if (f->n_tenant >= N_TENANT_KEPT) {
            forget_one(f);
        }
        n = calloc(1, sizeof *n);
        char *name = strdup(tenant);
        if (!n || !name) {
            free(n);
            free(name);
            return err_set(e, ERR_NOMEM, "out of memory for a tenant");
        }
        n->name = name;
        n->hash = hash;
        sch_list_init(&n->waiting);
        sch_list_push_back(&f->tenants, &n->link);
        f->n_tenant++;
    }
    if (!n->n_active) {
        uint64_t floor = update_floor(f);
        n->n_used = n->n_used > floor ? n->n_used : floor;
    }
    n->n_active++;
    t->tenant = n;
    sch_list_push_back(&n->waiting, &t->link);
    return ERR_OK;
}

struct sch_ticket *sch_fairness_next(struct sch_fairness *f, uint64_t since_us)
{
    struct sch_ticket *best = NULL;
    struct sch_ticket *oldest = NULL;
    for (struct sch_link *l = f->tenants.next; l != &f->tenants; l = l->next) {
        struct sch_tenant *n = tenant_of(l);
        if (sch_list_empty(&n->waiting)) {
            continue;
        }
        struct sch_ticket *head = SCH_OWNER_OF(n->waiting.next, struct sch_ticket, link);
        if (!oldest || head->serial < oldest->serial) {
            oldest = head;
        }
        if (!best || n->n_used < best->tenant->n_used ||
            (n->n_used == best->tenant->n_used && head->serial < best->serial)) {
            best = head;
        }
    }
    return oldest && oldest->submit_us < since_us ? oldest : best;
}

void sch_fairness_take(struct sch_ticket *t)
{
    sch_list_remove(&t->link);
}

void sch_fairness_charge(struct sch_ticket *t, uint64_t n_virtual_tok)
{
    t->tenant->n_used += n_virtual_tok;
}

void sch_fairness_leave(struct sch_fairness *f, struct sch_ticket *t)
{
    (void)update_floor(f);
    t->tenant->n_active--;
    t->tenant = NULL;
}
