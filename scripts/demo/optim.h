/* Muon for the matrices of the layers, Adam for the embedding and the gains. */
#ifndef DEMO_OPTIM_H
#define DEMO_OPTIM_H

#include "model.h"

struct optim {
    float *mean, *square; /* flat, like the weights; square is unused where Muon works */
};
struct optim_work;

int optim_alloc(struct optim *o, const struct model *m);
struct optim_work *optim_work_new(void);
/* The step's work in independent jobs, for several threads: job < optim_n_job(). */
int optim_n_job(void);
void optim_job(struct optim *o, struct model *m, const float *grad, int job, double lr,
               double decay, uint64_t step, struct optim_work *w);

#endif
