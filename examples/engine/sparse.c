#include "sparse.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

// Every call of the library goes through here.
static void must(sparsegrad_status status) {
  if (status == SPARSEGRAD_OK) return;
  fprintf(stderr, "sparsegrad (%s): %s\n", sparsegrad_status_name(status), sparsegrad_last_error());
  exit(1);
}

#ifdef _OPENMP
// The library's tasks on the engine's own OpenMP team: no second pool, whose threads and these would wait for each
// other in turns.
static void run_on_team(void* user, int64_t count, sparsegrad_task task, void* argument) {
  (void)user;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < count; ++i)
    task(argument, i, omp_get_thread_num());
}
#endif

// "up" is [4C, C], "down" is [C, 4C]: the width C gets the rank.
static void width_at_rank_64(void* user, const char* kind, sparsegrad_side* out_side,
                             sparsegrad_side* in_side) {
  (void)user;
  const int up = strcmp(kind, "up") == 0;
  sparsegrad_side *width = up ? in_side : out_side, *other = up ? out_side : in_side;
  width->rank = 64;
  other->recipe = SPARSEGRAD_IDENTITY;
}

void sparse_begin(Sparse* sparse, Gpt* gpt, SparseSetting setting) {
  memset(sparse, 0, sizeof *sparse);
  if (setting == SPARSE_NONE) return;
  sparsegrad_context_options context;
  sparsegrad_context_options_init(&context);
#ifdef _OPENMP
  context.executor.run = run_on_team;
  context.executor.concurrency = omp_get_max_threads();
#endif
  must(sparsegrad_context_create(&context, &sparse->context));

  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  if (setting == SPARSE_ALL) {
    options.density = 1;  // no warm-up, so no basis: both sides are identities
    options.semantics = SPARSEGRAD_ADAM_DENSE_CORE;
    options.capacity_factor = 0;
  } else {
    options.warmup_steps = 30;
    if (setting == SPARSE_SIDE) options.sides = width_at_rank_64;
  }
  must(sparsegrad_group_create(sparse->context, &options, &sparse->group));
  const int64_t c = gpt->config.channels;
  for (int l = 0; l < gpt->config.layers; ++l) {
    GptLayer* layer = &gpt->p.layer[l];
    must(
        sparsegrad_group_add_weight(sparse->group, sparsegrad_weight_f32(layer->up_w, 4 * c, c), "up", NULL));
    must(sparsegrad_group_add_weight(sparse->group, sparsegrad_weight_f32(layer->down_w, c, 4 * c), "down",
                                     NULL));
    gpt_skip(gpt, layer->up_w);
    gpt_skip(gpt, layer->down_w);
  }
  must(sparsegrad_group_reserve(sparse->group, 0));
}

void sparse_end(Sparse* sparse) {
  sparsegrad_group_destroy(sparse->group);
  sparsegrad_context_destroy(sparse->context);
}

void sparse_step(Sparse* sparse, Gpt* gpt, float learning_rate, float sparse_rate, float weight_decay,
                 float max_norm) {
  double squares = gpt_squared_norm(gpt);
  if (sparse->group != NULL) {
    const int64_t c = gpt->config.channels;
    for (int l = 0; l < gpt->config.layers; ++l) {
      const GptLayer* g = &gpt->g.layer[l];
      must(sparsegrad_group_set_gradient(sparse->group, 2 * l, sparsegrad_const_f32(g->up_w, 4 * c, c)));
      must(
          sparsegrad_group_set_gradient(sparse->group, 2 * l + 1, sparsegrad_const_f32(g->down_w, c, 4 * c)));
    }
    double cores = 0;
    must(sparsegrad_group_squared_norm(sparse->group, &cores));
    squares += cores;
  }
  const double norm = sqrt(squares);
  const float scale = norm > (double)max_norm ? (float)((double)max_norm / norm) : 1.0f;
  gpt_adamw(gpt, learning_rate, weight_decay, scale);
  if (sparse->group == NULL) return;
  sparsegrad_step_options step;
  sparsegrad_step_options_init(&step);
  step.learning_rate = (double)sparse_rate;
  step.weight_decay = (double)weight_decay;
  step.grad_scale = (double)scale;
  must(sparsegrad_group_step(sparse->group, &step, NULL));
}

int64_t sparse_bytes(const Sparse* sparse) {
  if (sparse->group == NULL) return 0;
  sparsegrad_memory memory;
  must(sparsegrad_group_memory(sparse->group, &memory));
  return memory.total - memory.scratch;
}
