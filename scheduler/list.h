/* An intrusive doubly linked list: sequences move between lists without memory. One thread. */
#ifndef SCHEDULER_LIST_H
#define SCHEDULER_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct sch_link {
    struct sch_link *prev;
    struct sch_link *next;
};

#define SCH_OWNER_OF(link, type, member) ((type *)((char *)(link)-offsetof(type, member)))

/* A head is a link that stands for the list; empty when it names itself. */
static inline void sch_list_init(struct sch_link *head)
{
    head->prev = head;
    head->next = head;
}

static inline bool sch_list_empty(const struct sch_link *head)
{
    return head->next == head;
}

static inline void sch_list_insert_before(struct sch_link *at, struct sch_link *l)
{
    l->prev = at->prev;
    l->next = at;
    at->prev->next = l;
    at->prev = l;
}

static inline void sch_list_push_back(struct sch_link *head, struct sch_link *l)
{
    sch_list_insert_before(head, l);
}

static inline void sch_list_remove(struct sch_link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    l->prev = l;
    l->next = l;
}

#endif
