// A forked child: every handle of its parent's is refused there, freeing them ends, and a context of its own works.
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { OUT = 96, IN = 64, N = OUT * IN };

typedef struct Handles {
  sparsegrad_context* context;
  sparsegrad_basis* basis;
  sparsegrad_layer* layer;
  sparsegrad_group* group;
  sparsegrad_adam* adam;
  float *w, *layer_w, *dw;
} Handles;

static Handles make(sparsegrad_backend backend) {
  Handles h = {0};
  sparsegrad_context_options options;
  sparsegrad_context_options_init(&options);
  options.backend = backend;
  options.threads = 3;        // on which a child would wait for ever
  options.deterministic = 1;  // keeps OpenMP below a BLAS to one thread: its team has gone at a fork, too
  OK(sparsegrad_context_create(&options, &h.context));
  h.w = calloc(N, sizeof(float));
  h.layer_w = calloc(N, sizeof(float));
  h.dw = calloc(N, sizeof(float));
  fill(h.w, N, 1);
  fill(h.layer_w, N, 2);
  fill(h.dw, N, 3);
  const sparsegrad_side full = {SPARSEGRAD_HOSVD, 0, 0, 0};
  const sparsegrad_const_matrix dw = sparsegrad_const_f32(h.dw, OUT, IN);
  OK(sparsegrad_basis_fit(h.context, OUT, IN, &dw, 1, full, full, &h.basis));
  OK(sparsegrad_layer_create(h.context, sparsegrad_weight_f32(h.layer_w, OUT, IN), NULL, NULL, &h.layer));
  OK(sparsegrad_adam_create(h.context, OUT, IN, NULL, &h.adam));
  OK(sparsegrad_group_create(h.context, NULL, &h.group));
  OK(sparsegrad_group_add_weight(h.group, sparsegrad_weight_f32(h.w, OUT, IN), "up", NULL));
  OK(sparsegrad_group_set_basis(h.group, 0, h.basis, SPARSEGRAD_MOMENTS_RESET));
  return h;
}

static void step(const Handles* h) {
  sparsegrad_step_report report;
  OK(sparsegrad_group_set_gradient(h->group, 0, sparsegrad_const_f32(h->dw, OUT, IN)));
  OK(sparsegrad_group_step(h->group, NULL, &report));
  CHECK(report.kept > 0);
}

static void destroy(Handles* h) {
  sparsegrad_context_destroy(h->context);
  sparsegrad_group_destroy(h->group);
  sparsegrad_layer_destroy(h->layer);
  sparsegrad_basis_destroy(h->basis);
  sparsegrad_adam_destroy(h->adam);
  free(h->w);
  free(h->layer_w);
  free(h->dw);
}

/// Of each kind of handle a call that would compute, and one that would only look.
static void refuse(const Handles* h, sparsegrad_backend backend) {
  const sparsegrad_status state = SPARSEGRAD_ERROR_STATE;
  const sparsegrad_const_matrix dw = sparsegrad_const_f32(h->dw, OUT, IN);
  float out[N];
  const sparsegrad_matrix to = sparsegrad_f32(out, OUT, IN);
  int32_t threads = 0;
  int32_t positions[1];
  FAILS(state, "the context was made by process", sparsegrad_context_describe(h->context, NULL, &threads));
  FAILS(state, "anew in the child", sparsegrad_top_k(h->context, dw, 1, positions, out, NULL));
  sparsegrad_group* group = NULL;
  FAILS(state, "the context", sparsegrad_group_create(h->context, NULL, &group));
  CHECK(group == NULL && threads == 0);
  sparsegrad_basis_info basis;
  FAILS(state, "the basis was made", sparsegrad_basis_describe(h->basis, &basis));
  FAILS(state, "the basis was made", sparsegrad_basis_project(h->basis, dw, to));
  int64_t cols = 0;
  FAILS(state, "the layer was made", sparsegrad_layer_kept_cols(h->layer, &cols));
  FAILS(state, "the layer was made",
        sparsegrad_layer_forward(h->layer, sparsegrad_const_f32(h->dw, OUT, IN),
                                 sparsegrad_f32(out, OUT, OUT), sparsegrad_no_matrix(), NULL));
  sparsegrad_adam_info adam;
  FAILS(state, "the adam was made", sparsegrad_adam_describe(h->adam, &adam));
  FAILS(state, "the adam was made", sparsegrad_adam_step(h->adam, positions, out, 0, NULL, to));
  FAILS(state, "the group was made", sparsegrad_group_set_gradient(h->group, 0, dw));
  FAILS(state, "the group was made", sparsegrad_group_step(h->group, NULL, NULL));
  sparsegrad_group_info info;
  FAILS(state, "the group was made", sparsegrad_group_describe(h->group, &info));

  // Beside what the child has made itself.
  Handles own = make(backend);
  step(&own);
  FAILS(state, "the layer was made", sparsegrad_group_add_layer(own.group, h->layer, "", NULL));
  FAILS(state, "the basis was made",
        sparsegrad_group_set_basis(own.group, 0, h->basis, SPARSEGRAD_MOMENTS_RESET));
  destroy(&own);
}

int main(void) {
  for (sparsegrad_backend b = SPARSEGRAD_BACKEND_EIGEN; b <= SPARSEGRAD_BACKEND_ONEDNN; ++b) {
    if (!sparsegrad_backend_available(b)) continue;
    Handles handles = make(b);
    step(&handles);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(120);  // ends a child that hangs
      refuse(&handles, b);
      destroy(&handles);
      _exit(failure_count != 0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    step(&handles);  // the parent goes on
    destroy(&handles);
  }
  return failure_count != 0;
}
