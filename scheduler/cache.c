#include "scheduler/cache.h"

#include <string.h>

/* What does not get on for so long, and for as long as a chunk takes when all that run compute one,
 * is computed by who waits for it. */
#define FOLLOW_US 2000000
/* Sleeps of the loop: never shorter, and so long while a sequence waits for another. */
#define NAP_MIN_US    200
#define NAP_FOLLOW_US 5000

enum err_code sch_cache_identity(const struct eng_info *info, uint32_t adapter, const char *tenant,
                                 const char *salt, struct kv_identity *ret_id, struct err *e)
{
    const uint32_t kv_type = (uint32_t)info->kv_type;
    struct kv_field fields[8] = {
        {KV_FIELD_WEIGHTS, sizeof info->weights_digest, info->weights_digest},
        {KV_FIELD_KV_TYPE, sizeof kv_type, &kv_type},
        {KV_FIELD_LAYOUT, sizeof info->kv_layout_id, &info->kv_layout_id},
        {KV_FIELD_ARITHMETIC, sizeof info->arithmetic_id, &info->arithmetic_id},
        {KV_FIELD_ROPE, sizeof info->rope_id, &info->rope_id},
        {KV_FIELD_TENANT, tenant ? (uint32_t)strlen(tenant) : 0, tenant ? tenant : ""},
    };
    uint32_t n = 6;
    if (adapter) {
        const struct eng_adapter *a = &info->adapters[adapter - 1];
        fields[n++] = (struct kv_field){KV_FIELD_ADAPTER, sizeof a->digest, a->digest};
    }
    if (salt) {
        fields[n++] = (struct kv_field){KV_FIELD_SALT, (uint32_t)strlen(salt), salt};
    }
    return kv_identity_make(fields, n, ret_id, e);
}

enum err_code sch_kv_fingerprint(const struct eng *eng, uint8_t ret_fingerprint[32], struct err *e)
{
    struct kv_identity id;
    enum err_code code = sch_cache_identity(&eng->info, 0, NULL, NULL, &id, e);
    if (!code) {
        memcpy(ret_fingerprint, id.root, sizeof id.root);
    }
    return code;
}

/* Tokens whose KV may come from elsewhere: not those whose rows are yet to give log-probabilities.
 */
static uint32_t n_tok_shared_max(const struct sch_seq *q)
{
    bool scores = q->prompt_logprobs && q->n_scored < q->n_prompt;
    return scores ? q->n_scored : sch_seq_n_tok(q);
}

uint32_t sch_cache_look(struct sch *s, const struct sch_seq *q)
{
    return q->shares ? kv_prefetch(s->o.kv, &q->identity, q->tokens, n_tok_shared_max(q)) : 0;
}

/* ---- Twins: who computes the same prompt ---- */

static bool is_twin(const struct sch_seq *q, const struct sch_seq *other)
{
    return other != q && other->shares && !other->follows && other->room && other->kv &&
           other->n_prompt == q->n_prompt &&
           memcmp(other->identity.root, q->identity.root, sizeof q->identity.root) == 0 &&
           memcmp(other->tokens, q->tokens, q->n_prompt * sizeof *q->tokens) == 0;
}

/* The one of those that compute q's whole prompt, or have, that is furthest. */
static struct sch_seq *find_twin(const struct sch *s, const struct sch_seq *q)
{
    struct sch_seq *twin = NULL;
    if (q->n_gen || n_tok_shared_max(q) < q->n_prompt) {
        return NULL;
    }
    for (struct sch_link *l = s->running.next; l != &s->running; l = l->next) {
        struct sch_seq *other = sch_seq_of_link(l);
        if (is_twin(q, other) && (!twin || other->n_computed > twin->n_computed)) {
            twin = other;
        }
    }
    return twin;
}

/* What q may take of its twin at the end: all but the row that gives the first token. */
static bool twin_is_done(const struct sch_seq *q, const struct sch_seq *twin)
{
    return twin->n_computed + 1 >= q->n_prompt;
}

/* Goes on from the twin's KV, the last chunk begun included. False: q keeps what it has, since
 * there is no more to take, or no frame for the copy of that chunk. */
static bool fork_twin(struct sch_seq *q, struct sch_seq *twin)
{
    struct kv_seq *k = NULL;
    struct err e;
    if (!twin || !twin_is_done(q, twin) || q->n_prompt - 1 <= kv_seq_n_tok(q->kv) ||
        kv_seq_fork(twin->kv, q->n_prompt - 1, &k, &e)) {
        return false;
    }
    kv_seq_close(q->kv);
    kv_seq_retain(k, &q->retention);
    q->kv = k;
    return true;
}

/* ---- Following ---- */

/* Looks for more of q's tokens, and counts what the disk gave. */
static void match_more(struct sch *s, struct sch_seq *q, bool wait)
{
    struct kv_stats before;
    struct kv_stats after;
    kv_get_stats(s->o.kv, &before);
    kv_seq_follow(q->kv, q->tokens, n_tok_shared_max(q), wait, &q->match);
    kv_get_stats(s->o.kv, &after);
    q->n_match_disk += (uint32_t)(after.n_tok_hit_disk - before.n_tok_hit_disk);
    q->match_epoch = s->kv_epoch;
}

/* Whether q waits on. Each thing it waits for must get on in time. */
static bool waits_on(struct sch *s, struct sch_seq *q, const struct sch_seq *twin)
{
    bool pending = q->match.n_tok_pending > q->match.n_tok_ready;
    bool twin_works = twin && !twin_is_done(q, twin);
    uint64_t now_us = sch_now(s);
    uint64_t mark =
        (uint64_t)q->match.n_tok_ready + q->match.n_tok_pending + (twin ? twin->n_computed : 0);
    if (mark != q->follow_mark || !q->follow_us) {
        q->follow_mark = mark;
        q->follow_us = now_us;
    }
    double chunk_us = s->cost.b_us * s->o.eng->info.chunk_tok;
    uint64_t limit_us = FOLLOW_US + (uint64_t)(chunk_us * s->n_running);
    return (pending || twin_works) && now_us - q->follow_us < limit_us;
}

/* Computing begins behind what is there. What was taken over counts once, however often q comes
 * back; what it had computed before and lost counts as computed again. */
static void begin(struct sch *s, struct sch_seq *q)
{
    struct sch_stats *n = &s->board.now;
    q->n_computed = kv_seq_n_tok(q->kv);
    if (!q->n_charged) {
        q->n_cached = q->n_computed < q->n_prompt ? q->n_computed : q->n_prompt;
        q->n_cached_disk = q->n_match_disk < q->n_cached ? q->n_match_disk : q->n_cached;
        n->n_cached_tok += q->n_cached;
        n->n_cached_disk_tok += q->n_cached_disk;
        sch_fairness_charge(&q->ticket, q->n_cached / SCH_CACHED_PER_COST);
    }
    if (q->n_charged > q->n_computed) {
        n->n_recomputed_tok += q->n_charged - q->n_computed;
    } else {
        q->n_charged = q->n_computed;
    }
}

static void stop_following(struct sch *s, struct sch_seq *q)
{
    s->n_following -= q->follows;
    q->follows = false;
    q->follow_us = 0;
}

/* False: q goes on waiting. */
static bool try_begin(struct sch *s, struct sch_seq *q)
{
    struct sch_seq *twin = find_twin(s, q);
    if (waits_on(s, q, twin)) {
        return false;
    }
    if (!fork_twin(q, twin) && q->match.n_tok_pending > q->match.n_tok_ready) {
        match_more(s, q, false);
    }
    stop_following(s, q);
    begin(s, q);
    return true;
}

bool sch_cache_follow(struct sch *s, struct sch_seq *q)
{
    if (q->follows && q->match_epoch != s->kv_epoch) {
        match_more(s, q, true);
    }
    return !q->follows || try_begin(s, q);
}

uint64_t sch_cache_n_promised(const struct sch *s)
{
    uint32_t n_tok_chunk = s->o.eng->info.chunk_tok;
    uint64_t n = 0;
    for (struct sch_link *l = s->running.next; s->n_following && l != &s->running; l = l->next) {
        const struct sch_seq *q = sch_seq_of_link(l);
        if (q->follows) {
            n += (sch_seq_n_tok(q) - 1) / n_tok_chunk + 1 - q->match.n_tok_pending / n_tok_chunk;
        }
    }
    return n;
}

/* ---- Opening, filling, closing ---- */

enum err_code sch_cache_open(struct sch *s, struct sch_seq *q, struct err *e)
{
    q->n_computed = 0;
    if (!q->shares) {
        return kv_seq_open(s->o.kv, &q->kv, e);
    }
    struct kv_stats before;
    struct kv_stats after;
    kv_get_stats(s->o.kv, &before);
    enum err_code code = kv_seq_open_prompt(s->o.kv, &q->identity, q->tokens, n_tok_shared_max(q),
                                            &q->kv, &q->match, e);
    if (code) {
        return code;
    }
    kv_seq_retain(q->kv, &q->retention);
    kv_get_stats(s->o.kv, &after);
    q->n_match_disk = (uint32_t)(after.n_tok_hit_disk - before.n_tok_hit_disk);
    q->match_epoch = s->kv_epoch;
    q->follows = true;
    s->n_following++;
    (void)try_begin(s, q);
    return ERR_OK;
}

void sch_cache_close(struct sch *s, struct sch_seq *q)
{
    stop_following(s, q);
    s->kv_epoch += q->kv != NULL;
    kv_seq_close(q->kv);
    q->kv = NULL;
}

void sch_cache_commit(struct sch *s, struct sch_seq *q, uint32_t n_tok)
{
    uint32_t n_tok_chunk = s->o.eng->info.chunk_tok;
    kv_seq_commit(q->kv, q->tokens + q->n_computed, n_tok);
    s->kv_epoch += n_tok > 1 || (q->n_computed + n_tok) % n_tok_chunk == 0;
}

/* ---- The disk ---- */

void sch_cache_poll(struct sch *s)
{
    struct kv_stats kv;
    kv_poll(s->o.kv);
    if (s->n_following) {
        kv_get_stats(s->o.kv, &kv);
        s->kv_epoch += kv.n_frame_loading || s->was_loading;
        s->was_loading = kv.n_frame_loading;
    }
}

uint64_t sch_cache_nap_us(struct sch *s, uint64_t max_us)
{
    uint64_t us = kv_idle_us(s->o.kv);
    us = us > NAP_MIN_US ? us : NAP_MIN_US;
    us = s->n_following && us > NAP_FOLLOW_US ? NAP_FOLLOW_US : us;
    return us < max_us ? us : max_us;
}
