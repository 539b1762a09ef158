// Groups: weights and gradients of the caller's, options, reports, memory, saved states.
#include <math.h>
#include <stdlib.h>

#include "check.h"

enum { OUT = 12, IN = 8, N = OUT * IN };

typedef struct Model {
  float w[2][N];
  float dw[2][N];
  sparsegrad_group* group;
} Model;

static sparsegrad_group_options options_for(int64_t warmup) {
  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  options.entries = 20;
  options.warmup_steps = warmup;
  return options;
}

static void begin(Model* m, sparsegrad_context* context, const sparsegrad_group_options* options) {
  OK(sparsegrad_group_create(context, options, &m->group));
  for (int i = 0; i < 2; ++i) {
    int64_t index = -1;
    fill(m->w[i], N, (uint32_t)i + 1);
    OK(sparsegrad_group_add_weight(m->group, sparsegrad_weight_f32(m->w[i], OUT, IN), "up", &index));
    CHECK(index == i);
  }
}

static void give(Model* m, int step) {
  for (int i = 0; i < 2; ++i) {
    fill(m->dw[i], N, (uint32_t)(10 + 2 * step + i));
    OK(sparsegrad_group_set_gradient(m->group, i, sparsegrad_const_f32(m->dw[i], OUT, IN)));
  }
}

static sparsegrad_step_options rate(double learning_rate) {
  sparsegrad_step_options options;
  sparsegrad_step_options_init(&options);
  options.learning_rate = learning_rate;
  return options;
}

static void trains(sparsegrad_context* context) {
  Model m;
  sparsegrad_group_options options = options_for(2);
  begin(&m, context, &options);
  const float before = m.w[0][0];
  sparsegrad_step_options step = rate(0.01);
  step.want_norm = 1;
  sparsegrad_step_report report;
  sparsegrad_group_info info;
  OK(sparsegrad_group_describe(m.group, &info));
  CHECK(info.size == 2 && info.warming_up == 1 && info.collecting == 0);
  for (int s = 0; s < 5; ++s) {
    give(&m, s);
    double squares = 0, sum = 0;
    for (int i = 0; i < 2; ++i)
      for (int e = 0; e < N; ++e)
        squares += (double)m.dw[i][e] * (double)m.dw[i][e];
    OK(sparsegrad_group_squared_norm(m.group, &sum));
    CHECK(fabs(sum - squares) < 1e-4 * squares);  // full sides keep the norm
    OK(sparsegrad_group_step(m.group, &step, &report));
    CHECK(report.warming_up == (s < 2));
    CHECK(report.kept == (s < 2 ? 0 : 40));
    CHECK(report.without_gradient == 0 && report.became_dense == 0 && report.skipped == 0);
    CHECK(fabs(report.norm - sqrt(squares)) < 1e-4 * sqrt(squares));
    CHECK((m.w[0][0] == before) == (s < 2));
  }
  OK(sparsegrad_group_step(m.group, NULL, NULL));  // no gradients, default numbers
  step.want_norm = 0;
  OK(sparsegrad_group_step(m.group, &step, &report));
  CHECK(report.without_gradient == 2 && report.kept == 0 && isnan(report.norm));

  OK(sparsegrad_group_reserve(m.group, 16));
  sparsegrad_weight_info weight;
  OK(sparsegrad_group_describe_weight(m.group, 1, &weight));
  CHECK(weight.out_extent == OUT && weight.in_extent == IN && weight.core_rows == OUT &&
        weight.core_cols == IN && weight.kept == 20 && weight.steps == 3 && weight.optimizer_bytes > 0);
  sparsegrad_memory memory;
  OK(sparsegrad_group_memory(m.group, &memory));
  CHECK(memory.optimizer == 2 * weight.optimizer_bytes && memory.bases >= (OUT * OUT + IN * IN) * 4 &&
        memory.scratch > 0 && memory.collection == 0);
  CHECK(memory.total == memory.gradients + memory.sparse_gradients + memory.optimizer + memory.bases +
                            memory.collection + memory.scratch);
  sparsegrad_group_destroy(m.group);
}

static void all_entries_are_adamw(sparsegrad_context* context) {
  Model m;
  sparsegrad_group_options options = options_for(0);
  options.entries = 0;
  options.density = 1;
  options.semantics = SPARSEGRAD_ADAM_DENSE_CORE;
  begin(&m, context, &options);
  float w[N], first[N] = {0}, second[N] = {0};
  memcpy(w, m.w[0], sizeof w);
  sparsegrad_step_options step = rate(0.01);
  step.weight_decay = 0.1;
  step.grad_scale = 0.5;
  for (int s = 0; s < 4; ++s) {
    give(&m, s);
    OK(sparsegrad_group_step(m.group, &step, NULL));
    for (int e = 0; e < N; ++e) {
      const float g = 0.5f * m.dw[0][e];
      first[e] = 0.9f * first[e] + 0.1f * g;
      second[e] = 0.999f * second[e] + 0.001f * g * g;
      const double m_hat = first[e] / (1 - pow(0.9, s + 1)), v_hat = second[e] / (1 - pow(0.999, s + 1));
      w[e] = (float)(w[e] * (1 - 0.01 * 0.1) - 0.01 * m_hat / (sqrt(v_hat) + 1e-8));
    }
    CHECK(largest_difference(w, m.w[0], N) < 1e-6f);
  }
  sparsegrad_group_destroy(m.group);
}

static void strided_transposed_and_16_bits(sparsegrad_context* context) {
  // The same weight four ways: as it is, with padded rows, as its transpose, and from 16-bit gradients.
  enum { STRIDE = IN + 3 };
  float plain[N], padded[OUT * STRIDE] = {0}, turned[N], rounded[N], dw[N], dw_padded[OUT * STRIDE],
                               dw_turned[N];
  uint16_t dw16[N];
  fill(plain, N, 1);
  memcpy(rounded, plain, sizeof plain);
  for (int i = 0; i < OUT; ++i) {
    for (int j = 0; j < IN; ++j) {
      padded[i * STRIDE + j] = plain[i * IN + j];
      turned[j * OUT + i] = plain[i * IN + j];
    }
  }
  sparsegrad_group* group = NULL;
  sparsegrad_group_options options = options_for(0);
  OK(sparsegrad_group_create(context, &options, &group));
  sparsegrad_weight weights[4] = {
      sparsegrad_weight_f32(plain, OUT, IN), sparsegrad_weight_f32(padded, OUT, IN),
      sparsegrad_weight_f32(turned, IN, OUT), sparsegrad_weight_f32(rounded, OUT, IN)};
  weights[1].matrix.stride = STRIDE;
  weights[2].layout = SPARSEGRAD_IN_OUT;
  for (int i = 0; i < 4; ++i)
    OK(sparsegrad_group_add_weight(group, weights[i], NULL, NULL));
  for (int s = 0; s < 3; ++s) {
    fill(dw, N, (uint32_t)s + 5);
    for (int i = 0; i < OUT; ++i) {
      for (int j = 0; j < IN; ++j) {
        dw16[i * IN + j] = to_bf16(dw[i * IN + j]);
        dw[i * IN + j] = from_bf16(dw16[i * IN + j]);
        dw_padded[i * STRIDE + j] = dw[i * IN + j];
        dw_turned[j * OUT + i] = dw[i * IN + j];
      }
    }
    sparsegrad_const_matrix strided = sparsegrad_const_f32(dw_padded, OUT, IN);
    strided.stride = STRIDE;
    OK(sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw, OUT, IN)));
    OK(sparsegrad_group_set_gradient(group, 1, strided));
    OK(sparsegrad_group_set_gradient(group, 2, sparsegrad_const_f32(dw_turned, IN, OUT)));
    OK(sparsegrad_group_set_gradient(group, 3, sparsegrad_const_bf16(dw16, OUT, IN)));
    const sparsegrad_step_options step = rate(0.01);
    OK(sparsegrad_group_step(group, &step, NULL));
  }
  CHECK(memcmp(plain, rounded, sizeof plain) == 0);
  for (int i = 0; i < OUT; ++i)
    for (int j = 0; j < IN; ++j)
      CHECK(plain[i * IN + j] == padded[i * STRIDE + j] && plain[i * IN + j] == turned[j * OUT + i]);
  for (int i = 0; i < OUT; ++i)
    for (int j = IN; j < STRIDE; ++j)
      CHECK(padded[i * STRIDE + j] == 0.0f);

  // Half: 1.0 is 0x3C00.
  uint16_t half[N];
  for (int e = 0; e < N; ++e)
    half[e] = 0x3C00;
  const sparsegrad_const_matrix halves = {half, OUT, IN, 0, SPARSEGRAD_FLOAT16};
  OK(sparsegrad_group_set_gradient(group, 0, halves));
  double sum = 0;
  OK(sparsegrad_group_squared_norm(group, &sum));
  CHECK(sum == N);
  OK(sparsegrad_group_clear(group));
  OK(sparsegrad_group_squared_norm(group, &sum));
  CHECK(sum == 0);
  sparsegrad_group_destroy(group);
}

static void bfloat16_weights(sparsegrad_context* context) {
  uint16_t w[N];
  float master[N], dw[N];
  fill(master, N, 1);
  fill(dw, N, 2);
  sparsegrad_group_options options = options_for(1);
  options.weight_dtype = SPARSEGRAD_BFLOAT16;
  sparsegrad_group* group = NULL;
  OK(sparsegrad_group_create(context, &options, &group));
  memset(w, 0, sizeof w);
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_bf16(w, master, OUT, IN), "up", NULL));
  const float before = master[3];
  for (int s = 0; s < 3; ++s) {
    for (int e = 0; e < N; ++e)
      CHECK(w[e] == to_bf16(master[e]));
    OK(sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw, OUT, IN)));
    const sparsegrad_step_options step = rate(0.1);
    OK(sparsegrad_group_step(group, &step, NULL));
  }
  CHECK(master[3] != before);
  sparsegrad_group_destroy(group);
}

/// Sides by kind: "up" gets rank 3 on its in side, others nothing.
static void sides_of(void* user, const char* kind, sparsegrad_side* out_side, sparsegrad_side* in_side) {
  ++*(int*)user;
  if (strcmp(kind, "up") == 0) in_side->rank = 3;
  if (strcmp(kind, "none") == 0) in_side->recipe = SPARSEGRAD_IDENTITY;
  out_side->recipe = SPARSEGRAD_IDENTITY;
}

static void recipes_by_kind(sparsegrad_context* context) {
  int calls = 0;
  sparsegrad_group_options options = options_for(1);
  options.sides = sides_of;
  options.sides_user = &calls;
  Model m;
  begin(&m, context, &options);
  float w[N];
  fill(w, N, 9);
  OK(sparsegrad_group_add_weight(m.group, sparsegrad_weight_f32(w, OUT, IN), "none", NULL));
  give(&m, 0);
  OK(sparsegrad_group_step(m.group, NULL, NULL));
  CHECK(calls == 2);
  sparsegrad_weight_info info;
  OK(sparsegrad_group_describe_weight(m.group, 0, &info));
  CHECK(info.core_rows == OUT && info.core_cols == 3);
  OK(sparsegrad_group_describe_weight(m.group, 2, &info));
  CHECK(info.core_rows == OUT && info.core_cols == IN);
  sparsegrad_group_destroy(m.group);

  // Each weight its own, and gradients of norm 1.
  options.scope = SPARSEGRAD_SCOPE_WEIGHT;
  options.normalize = 1;
  calls = 0;
  begin(&m, context, &options);
  give(&m, 0);
  OK(sparsegrad_group_step(m.group, NULL, NULL));
  CHECK(calls == 2);
  sparsegrad_basis* basis = NULL;
  sparsegrad_basis_info fitted;
  OK(sparsegrad_group_basis(m.group, 0, &basis));
  OK(sparsegrad_basis_describe(basis, &fitted));
  CHECK(fitted.gradients == 1 && fabs(fitted.total_energy - 1) < 1e-6);
  sparsegrad_basis_destroy(basis);
  sparsegrad_group_destroy(m.group);
}

static void bases_are_refreshed(sparsegrad_context* context) {
  Model m;
  sparsegrad_group_options options = options_for(1);
  options.in_side.rank = 4;
  begin(&m, context, &options);
  give(&m, 0);
  OK(sparsegrad_group_step(m.group, NULL, NULL));
  OK(sparsegrad_group_collect(m.group));
  sparsegrad_group_info info;
  OK(sparsegrad_group_describe(m.group, &info));
  CHECK(info.collecting == 1 && info.warming_up == 0);
  sparsegrad_step_report report;
  give(&m, 1);
  OK(sparsegrad_group_step(m.group, NULL, &report));
  CHECK(report.kept == 40);  // it trains all the while
  OK(sparsegrad_group_refresh(m.group, SPARSEGRAD_MOMENTS_TRANSPORT));
  sparsegrad_weight_info weight;
  OK(sparsegrad_group_describe_weight(m.group, 0, &weight));
  CHECK(weight.steps == 1);
  OK(sparsegrad_group_collect(m.group));
  OK(sparsegrad_group_stop_collecting(m.group));
  OK(sparsegrad_group_describe(m.group, &info));
  CHECK(info.collecting == 0);
  OK(sparsegrad_group_collect(m.group));
  give(&m, 2);
  OK(sparsegrad_group_step(m.group, NULL, NULL));
  OK(sparsegrad_group_refresh(m.group, SPARSEGRAD_MOMENTS_RESET));
  OK(sparsegrad_group_describe_weight(m.group, 0, &weight));
  CHECK(weight.steps == 0);
  sparsegrad_group_destroy(m.group);
}

static void members_move_and_leave(sparsegrad_context* context) {
  Model m;
  sparsegrad_group_options options = options_for(0);
  begin(&m, context, &options);
  float moved[N];
  memcpy(moved, m.w[0], sizeof moved);
  OK(sparsegrad_group_rebind(m.group, 0, sparsegrad_weight_f32(moved, OUT, IN)));
  const float before = m.w[0][0];
  give(&m, 0);
  OK(sparsegrad_group_step(m.group, NULL, NULL));
  CHECK(memcmp(moved, m.w[0], sizeof moved) != 0 && m.w[0][0] == before);
  OK(sparsegrad_group_remove(m.group, 0));
  sparsegrad_group_info info;
  OK(sparsegrad_group_describe(m.group, &info));
  CHECK(info.size == 1);
  OK(sparsegrad_group_set_gradient(m.group, 0, sparsegrad_const_f32(m.dw[1], OUT, IN)));
  float other[N];
  memcpy(other, m.w[1], sizeof other);
  OK(sparsegrad_group_step(m.group, NULL, NULL));
  CHECK(memcmp(other, m.w[1], sizeof other) != 0);
  sparsegrad_group_destroy(m.group);
}

static void overflow_is_reported(sparsegrad_context* context) {
  Model m;
  sparsegrad_group_options options = options_for(0);
  options.entries = 10;
  options.capacity_factor = 2;
  options.overflow = SPARSEGRAD_OVERFLOW_GO_DENSE;
  begin(&m, context, &options);
  int64_t dense = 0;
  for (int s = 0; s < 8; ++s) {
    sparsegrad_step_report report;
    give(&m, s);
    OK(sparsegrad_group_step(m.group, NULL, &report));
    dense += report.became_dense;
  }
  CHECK(dense == 2);
  sparsegrad_group_destroy(m.group);

  options.overflow = SPARSEGRAD_OVERFLOW_EVICT_SMALLEST;
  begin(&m, context, &options);
  int64_t evicted = 0;
  for (int s = 0; s < 8; ++s) {
    sparsegrad_step_report report;
    give(&m, s);
    OK(sparsegrad_group_step(m.group, NULL, &report));
    evicted += report.evicted;
  }
  CHECK(evicted > 0);
  sparsegrad_group_destroy(m.group);
}

static void states_go_on_with_the_same_bits(sparsegrad_context* context) {
  Model a, b, c;
  const sparsegrad_group_options options = options_for(1);
  begin(&a, context, &options);
  begin(&b, context, &options);
  begin(&c, context, &options);
  const sparsegrad_step_options step = rate(0.01);
  for (int s = 0; s < 4; ++s) {
    give(&a, s);
    OK(sparsegrad_group_step(a.group, &step, NULL));
  }
  sparsegrad_state* state = NULL;
  OK(sparsegrad_group_save(a.group, &state));
  CHECK(sparsegrad_state_size(state) > 100);
  OK(sparsegrad_group_restore(b.group, sparsegrad_state_data(state), sparsegrad_state_size(state)));
  OK(sparsegrad_group_save_file(a.group, "group_state.safetensors"));
  OK(sparsegrad_group_load_file(c.group, "group_state.safetensors"));
  FILE* file = fopen("group_state.safetensors", "rb");
  CHECK(file != NULL);
  if (file != NULL) {
    char* bytes = malloc(sparsegrad_state_size(state) + 1);
    const size_t read = fread(bytes, 1, sparsegrad_state_size(state) + 1, file);
    CHECK(read == sparsegrad_state_size(state) && memcmp(bytes, sparsegrad_state_data(state), read) == 0);
    free(bytes);
    fclose(file);
  }
  sparsegrad_state_destroy(state);
  memcpy(b.w, a.w, sizeof a.w);
  memcpy(c.w, a.w, sizeof a.w);
  for (int s = 4; s < 7; ++s) {
    Model* models[3] = {&a, &b, &c};
    for (int i = 0; i < 3; ++i) {
      give(models[i], s);
      OK(sparsegrad_group_step(models[i]->group, &step, NULL));
    }
  }
  CHECK(memcmp(b.w, a.w, sizeof a.w) == 0 && memcmp(c.w, a.w, sizeof a.w) == 0);
  remove("group_state.safetensors");
  sparsegrad_group_destroy(a.group);
  sparsegrad_group_destroy(b.group);
  sparsegrad_group_destroy(c.group);
}

int main(void) {
  for (sparsegrad_backend b = SPARSEGRAD_BACKEND_DEFAULT; b <= SPARSEGRAD_BACKEND_ONEDNN; ++b) {
    if (!sparsegrad_backend_available(b)) continue;
    sparsegrad_context* context = new_context(b);
    sparsegrad_backend has = 0;
    int32_t threads = 0;
    OK(sparsegrad_context_describe(context, &has, &threads));
    CHECK(threads == 1 && has != SPARSEGRAD_BACKEND_DEFAULT && (b == SPARSEGRAD_BACKEND_DEFAULT || has == b));
    trains(context);
    all_entries_are_adamw(context);
    strided_transposed_and_16_bits(context);
    bfloat16_weights(context);
    recipes_by_kind(context);
    bases_are_refreshed(context);
    members_move_and_leave(context);
    overflow_is_reported(context);
    states_go_on_with_the_same_bits(context);
    sparsegrad_context_destroy(context);
  }
  // Handles in any order: the group keeps what it needs.
  sparsegrad_context* context = new_context(SPARSEGRAD_BACKEND_DEFAULT);
  Model m;
  const sparsegrad_group_options options = options_for(0);
  begin(&m, context, &options);
  sparsegrad_context_destroy(context);
  give(&m, 0);
  OK(sparsegrad_group_step(m.group, NULL, NULL));
  sparsegrad_group_destroy(m.group);
  return failure_count != 0;
}
