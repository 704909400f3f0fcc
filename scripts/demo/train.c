/* The trainer: reads units of tokens from the generator's pipe, steps, saves. See usage(). */
#include "optim.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_UNITS = 256, N_TAG = 24 };

struct step_data { /* what one step learns from; the reader fills one while the other is used */
    struct unit unit[MAX_UNITS];
    int n_unit;
    double weight;
};

struct options {
    const char *dir, *gen;
    long steps, save_every, warmup, decay_from;
    double lr, decay;
    int n_thread, eval;
    uint64_t seed;
};

struct trainer {
    struct options opt;
    struct model m;
    struct optim o;
    FILE *pipe;
    struct step_data data[2], *now;
    double lr;
    uint64_t step;
    struct {
        struct work *w;
        struct optim_work *ow;
        float *grad;
        struct loss by_tag[N_TAG];
    } thread[16];
    atomic_int next, next_slice, next_job;
    pthread_barrier_t start, middle, middle2, end;
    struct loss total[N_TAG];
    double n_tok;
};

struct worker {
    struct trainer *t;
    int id;
};

enum { SLICES = 64 };

static volatile sig_atomic_t asked_to_end;

static void on_signal(int sig)
{
    (void)sig;
    asked_to_end = 1;
}

/* Sums the threads' gradients into the first one's and clears the others, one slice of the weights.
 */
static void reduce_slice(struct trainer *t, int slice)
{
    size_t n = t->m.at.n_param, from = n * (size_t)slice / SLICES,
           to = n * (size_t)(slice + 1) / SLICES;
    float *sum = t->thread[0].grad;
    for (int k = 1; k < t->opt.n_thread; k++) {
        float *g = t->thread[k].grad;
        for (size_t i = from; i < to; i++) {
            sum[i] += g[i];
        }
        memset(g + from, 0, (to - from) * sizeof(float));
    }
}

static void one_step(struct trainer *t, int id)
{
    struct step_data *d = t->now;
    int i;
    while ((i = atomic_fetch_add(&t->next, 1)) < d->n_unit) {
        struct unit *u = &d->unit[i];
        struct loss l = model_step(&t->m, t->thread[id].w, u,
                                   t->opt.eval ? NULL : t->thread[id].grad, (float)(1 / d->weight));
        struct loss *sum = &t->thread[id].by_tag[u->tag % N_TAG];
        sum->loss += l.loss;
        sum->weight += l.weight;
        sum->right += l.right;
    }
    pthread_barrier_wait(&t->middle);
    if (t->opt.eval) {
        return;
    }
    while ((i = atomic_fetch_add(&t->next_slice, 1)) < SLICES) {
        reduce_slice(t, i);
    }
    pthread_barrier_wait(&t->middle2);
    while ((i = atomic_fetch_add(&t->next_job, 1)) < optim_n_job()) {
        /* the largest job, the embedding, comes first */
        optim_job(&t->o, &t->m, t->thread[0].grad, optim_n_job() - 1 - i, t->lr, t->opt.decay,
                  t->step + 1, t->thread[id].ow);
    }
}

static void *work_thread(void *arg)
{
    struct worker *me = arg;
    mm_thread_init();
    for (;;) {
        pthread_barrier_wait(&me->t->start);
        if (!me->t->now) {
            return NULL;
        }
        one_step(me->t, me->id);
        pthread_barrier_wait(&me->t->end);
    }
}

/* A step in the pipe: u32 count, then per unit u32 rows, len, tag, u16 tokens, u8 weights. */
static int read_step(FILE *f, struct step_data *d)
{
    uint32_t n, head[3];
    if (fread(&n, 4, 1, f) != 1 || n > MAX_UNITS) {
        return 0;
    }
    d->n_unit = (int)n;
    d->weight = 1e-9;
    for (uint32_t i = 0; i < n; i++) {
        struct unit *u = &d->unit[i];
        if (fread(head, 4, 3, f) != 3 || (size_t)head[0] * head[1] > MAX_UNIT || head[1] % 64) {
            return 0;
        }
        u->n_row = head[0];
        u->len = head[1];
        u->tag = head[2];
        size_t n_tok = (size_t)u->n_row * u->len;
        if (fread(u->token, 2, n_tok, f) != n_tok || fread(u->weight, 1, n_tok, f) != n_tok) {
            return 0;
        }
        for (size_t k = 0; k < n_tok; k++) {
            d->weight += k % u->len ? u->weight[k] / 16.0 : 0;
            if (u->token[k] >= VOCAB) {
                return 0;
            }
        }
    }
    return 1;
}

struct reader {
    struct trainer *t;
    struct step_data *d;
    int ok;
};

static void *read_thread(void *arg)
{
    struct reader *r = arg;
    r->ok = read_step(r->t->pipe, r->d);
    return NULL;
}

static const char magic[8] = "KVDEMO1";

static int save(struct trainer *t, const char *name)
{
    char path[512], part[520];
    snprintf(path, sizeof path, "%s/%s", t->opt.dir, name);
    snprintf(part, sizeof part, "%s.part", path);
    FILE *f = fopen(part, "wb");
    uint64_t head[2] = {t->step, t->m.at.n_param};
    size_t n = t->m.at.n_param;
    int ok = f && fwrite(magic, 8, 1, f) == 1 && fwrite(head, 8, 2, f) == 2 &&
             fwrite(t->m.param, 4, n, f) == n && fwrite(t->o.mean, 4, n, f) == n &&
             fwrite(t->o.square, 4, n, f) == n;
    ok = f && fclose(f) == 0 && ok;
    if (!ok || rename(part, path) != 0) {
        fprintf(stderr, "demo-trainer: %s: %s\n", path, strerror(errno));
        return 0;
    }
    return 1;
}

static void load(struct trainer *t)
{
    char path[512], seen[8];
    uint64_t head[2];
    size_t n = t->m.at.n_param;
    snprintf(path, sizeof path, "%s/last.ckpt", t->opt.dir);
    FILE *f = fopen(path, "rb");
    if (!f) {
        model_init(&t->m, t->opt.seed);
        return;
    }
    if (fread(seen, 8, 1, f) != 1 || memcmp(seen, magic, 8) != 0 || fread(head, 8, 2, f) != 2 ||
        head[1] != n || fread(t->m.param, 4, n, f) != n || fread(t->o.mean, 4, n, f) != n ||
        fread(t->o.square, 4, n, f) != n) {
        fprintf(stderr, "demo-trainer: %s is not a checkpoint of this model\n", path);
        exit(1);
    }
    fclose(f);
    t->step = head[0];
}

static double seconds(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void report(struct trainer *t, double *wall, double *cpu)
{
    double now = seconds(CLOCK_MONOTONIC), used = seconds(CLOCK_PROCESS_CPUTIME_ID);
    time_t clock = time(NULL);
    struct tm tm;
    gmtime_r(&clock, &tm);
    printf("%02d:%02d:%02d step %lu lr %.2e %.1fk tok/s (%.1fk per cpu s)", tm.tm_hour, tm.tm_min,
           tm.tm_sec, (unsigned long)t->step, t->lr, t->n_tok / (now - *wall) / 1e3,
           t->n_tok / (used - *cpu) / 1e3);
    for (int i = 0; i < N_TAG; i++) {
        struct loss *l = &t->total[i];
        if (l->weight > 0) {
            printf(" | %d %.3f %.1f%%", i, l->loss / l->weight, 100 * l->right / l->weight);
        }
        *l = (struct loss){0};
    }
    printf("\n");
    fflush(stdout);
    t->n_tok = 0;
    *wall = now;
    *cpu = used;
}

static void gather(struct trainer *t)
{
    for (int k = 0; k < t->opt.n_thread; k++) {
        for (int i = 0; i < N_TAG; i++) {
            struct loss *l = &t->thread[k].by_tag[i];
            t->total[i].loss += l->loss;
            t->total[i].weight += l->weight;
            t->total[i].right += l->right;
            *l = (struct loss){0};
        }
    }
    for (int i = 0; i < t->now->n_unit; i++) {
        t->n_tok += (double)t->now->unit[i].n_row * t->now->unit[i].len;
    }
}

static double rate_at(const struct options *o, uint64_t step)
{
    double lr = o->lr;
    if (step < (uint64_t)o->warmup) {
        lr *= (double)(step + 1) / (double)o->warmup;
    }
    if (o->decay_from >= 0 && step >= (uint64_t)o->decay_from) {
        lr *= (double)(o->steps - (long)step) / (double)(o->steps - o->decay_from);
    }
    return lr;
}

static void run(struct trainer *t, struct worker *workers, pthread_t *threads)
{
    double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), saved = wall;
    struct reader r = {.t = t, .d = &t->data[0]};
    read_thread(&r);
    while (r.ok && !asked_to_end && t->step < (uint64_t)t->opt.steps) {
        pthread_t reader;
        t->now = r.d;
        t->lr = rate_at(&t->opt, t->step);
        atomic_store(&t->next, 0);
        atomic_store(&t->next_slice, 0);
        atomic_store(&t->next_job, 0);
        r.d = t->now == &t->data[0] ? &t->data[1] : &t->data[0];
        pthread_create(&reader, NULL, read_thread, &r);
        pthread_barrier_wait(&t->start);
        one_step(t, 0);
        pthread_barrier_wait(&t->end);
        gather(t);
        memset(t->thread[0].grad, 0, t->m.at.n_param * sizeof(float));
        t->step++;
        pthread_join(reader, NULL);
        if (!t->opt.eval && t->step % 20 == 0) {
            report(t, &wall, &cpu);
        }
        if (!t->opt.eval && seconds(CLOCK_MONOTONIC) - saved > (double)t->opt.save_every) {
            save(t, "last.ckpt");
            saved = seconds(CLOCK_MONOTONIC);
        }
    }
    report(t, &wall, &cpu);
    t->now = NULL;
    pthread_barrier_wait(&t->start);
    for (int k = 1; k < t->opt.n_thread; k++) {
        pthread_join(threads[k], NULL);
    }
    (void)workers;
}

static void usage(void)
{
    fputs(
        "demo-trainer DIR --gen COMMAND [--steps N] [--lr X] [--warmup N] [--decay-from STEP]\n"
        "  [--weight-decay X] [--threads N] [--save-every SECONDS] [--seed N] [--eval]\n"
        "DIR/last.ckpt is continued if it is there. COMMAND writes steps to its standard output;\n"
        "' --step N' is added to it.\n",
        stderr);
    exit(2);
}

static struct options parse(int argc, char **argv)
{
    struct options o = {.steps = 1000000,
                        .save_every = 180,
                        .warmup = 100,
                        .decay_from = -1,
                        .lr = 4e-3,
                        .decay = 0.02,
                        .n_thread = 2,
                        .seed = 1};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(a, "--eval") == 0) {
            o.eval = 1;
            continue;
        }
        if (a[0] != '-') {
            o.dir = a;
            continue;
        }
        if (!v) {
            usage();
        }
        i++;
        if (strcmp(a, "--gen") == 0) {
            o.gen = v;
        } else if (strcmp(a, "--steps") == 0) {
            o.steps = atol(v);
        } else if (strcmp(a, "--lr") == 0) {
            o.lr = atof(v);
        } else if (strcmp(a, "--warmup") == 0) {
            o.warmup = atol(v);
        } else if (strcmp(a, "--decay-from") == 0) {
            o.decay_from = atol(v);
        } else if (strcmp(a, "--weight-decay") == 0) {
            o.decay = atof(v);
        } else if (strcmp(a, "--threads") == 0) {
            o.n_thread = atoi(v);
        } else if (strcmp(a, "--save-every") == 0) {
            o.save_every = atol(v);
        } else if (strcmp(a, "--seed") == 0) {
            o.seed = strtoull(v, NULL, 10);
        } else {
            usage();
        }
    }
    if (!o.dir || !o.gen || o.n_thread < 1 || o.n_thread > 16) {
        usage();
    }
    return o;
}

int main(int argc, char **argv)
{
    struct trainer *t = must_alloc(sizeof *t);
    t->opt = parse(argc, argv);
    if (mm_process_init() != 0) {
        fprintf(stderr, "demo-trainer: no tile registers here: build without AMX\n");
        return 1;
    }
    signal(SIGTERM, on_signal); /* saves first */
    mm_thread_init();
    model_alloc(&t->m);
    optim_alloc(&t->o, &t->m);
    load(t);
    model_pack_all(&t->m);
    char command[2048];
    snprintf(command, sizeof command, "%s --step %lu", t->opt.gen, (unsigned long)t->step);
    t->pipe = popen(command, "r");
    for (int i = 0; i < 2 * MAX_UNITS; i++) {
        struct unit *u = &t->data[i / MAX_UNITS].unit[i % MAX_UNITS];
        u->token = must_alloc(MAX_UNIT * 2);
        u->weight = must_alloc(MAX_UNIT);
    }
    unsigned n = (unsigned)t->opt.n_thread;
    pthread_barrier_init(&t->start, NULL, n);
    pthread_barrier_init(&t->middle, NULL, n);
    pthread_barrier_init(&t->middle2, NULL, n);
    pthread_barrier_init(&t->end, NULL, n);
    struct worker workers[16];
    pthread_t threads[16];
    for (int k = 0; k < t->opt.n_thread; k++) {
        t->thread[k].w = work_new();
        t->thread[k].ow = optim_work_new();
        t->thread[k].grad = must_alloc(t->m.at.n_param * sizeof(float));
        workers[k] = (struct worker){.t = t, .id = k};
        if (k) {
            pthread_create(&threads[k], NULL, work_thread, &workers[k]);
        }
    }
    run(t, workers, threads);
    int ok = t->opt.eval || save(t, "last.ckpt");
    fclose(t->pipe); /* the generator sees its reader gone */
    return ok ? 0 : 1;
}
