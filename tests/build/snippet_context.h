// What the snippets in C take for given: snippet_context.hpp says more.
#ifndef SNIPPET_CONTEXT_H
#define SNIPPET_CONTEXT_H

#include <math.h>
#include <omp.h>
#include <string.h>

#include <sparsegrad/c/sparsegrad.h>

extern float *W, *dW, **up_w, **down_w, **up_dw, **down_dw;
extern int64_t out, in, C, layers, w;
extern double rate, max_norm;
void backprop(float*, float*);
double own_squared_norm(void);
void own_adamw(double);

extern sparsegrad_context* context;
extern sparsegrad_group* group;
extern sparsegrad_group_options options;
extern sparsegrad_context_options threads;
extern sparsegrad_step_options step;
extern sparsegrad_step_report report;
// Functions that other snippets define.
static void on_team(void* user, int64_t count, sparsegrad_task task, void* argument);
static void at_rank_64(void* user, const char* kind, sparsegrad_side* out, sparsegrad_side* in);

#endif
