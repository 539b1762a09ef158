// Layers that make the gradient from tokens, alone and in a group; bases and the other parts of a step by
// themselves.
#include <math.h>

#include "check.h"

enum { TOKENS = 6, OUT = 5, IN = 7 };

static void product_and_gradients(sparsegrad_context* context, int32_t layout) {
  float w[OUT * IN], stored[OUT * IN], bias[OUT], x[TOKENS * IN], y[TOKENS * OUT], dy[TOKENS * OUT];
  float dx[TOKENS * IN], added[TOKENS * IN], db[OUT] = {0};
  fill(w, OUT * IN, 1);
  fill(bias, OUT, 2);
  fill(x, TOKENS * IN, 3);
  fill(dy, TOKENS * OUT, 4);
  for (int o = 0; o < OUT; ++o)
    for (int i = 0; i < IN; ++i)
      stored[layout == SPARSEGRAD_OUT_IN ? o * IN + i : i * OUT + o] = w[o * IN + i];
  sparsegrad_weight weight = layout == SPARSEGRAD_OUT_IN ? sparsegrad_weight_f32(stored, OUT, IN)
                                                         : sparsegrad_weight_f32(stored, IN, OUT);
  weight.layout = layout;
  sparsegrad_layer_options options;
  sparsegrad_layer_options_init(&options);
  options.tokens = TOKENS;
  sparsegrad_layer* layer = NULL;
  OK(sparsegrad_layer_create(context, weight, bias, &options, &layer));
  int64_t cols = -1;
  OK(sparsegrad_layer_kept_cols(layer, &cols));
  CHECK(cols == 0);
  sparsegrad_saved_input saved;
  OK(sparsegrad_layer_forward(layer, sparsegrad_const_f32(x, TOKENS, IN), sparsegrad_f32(y, TOKENS, OUT),
                              sparsegrad_no_matrix(), &saved));
  for (int i = 0; i < TOKENS * IN; ++i)
    added[i] = dx[i] = 1.0f;
  OK(sparsegrad_layer_backward(layer, sparsegrad_const_f32(dy, TOKENS, OUT), &saved,
                               sparsegrad_f32(dx, TOKENS, IN), db, SPARSEGRAD_OVERWRITE));
  OK(sparsegrad_layer_backward(layer, sparsegrad_const_f32(dy, TOKENS, OUT), &saved,
                               sparsegrad_f32(added, TOKENS, IN), NULL, SPARSEGRAD_ADD));
  for (int t = 0; t < TOKENS; ++t) {
    for (int o = 0; o < OUT; ++o) {
      float sum = bias[o];
      for (int i = 0; i < IN; ++i)
        sum += x[t * IN + i] * w[o * IN + i];
      CHECK(fabsf(sum - y[t * OUT + o]) < 1e-5f);
    }
    for (int i = 0; i < IN; ++i) {
      float sum = 0;
      for (int o = 0; o < OUT; ++o)
        sum += dy[t * OUT + o] * w[o * IN + i];
      CHECK(fabsf(sum - dx[t * IN + i]) < 1e-5f);
      CHECK(fabsf(1.0f + sum - added[t * IN + i]) < 1e-5f);
    }
  }
  for (int o = 0; o < OUT; ++o) {
    float sum = 0;
    for (int t = 0; t < TOKENS; ++t)
      sum += dy[t * OUT + o];
    CHECK(fabsf(sum - db[o]) < 1e-5f);
  }

  // In a group, whose step it then takes; the handle may go first.
  sparsegrad_group* group = NULL;
  sparsegrad_group_options group_options;
  sparsegrad_group_options_init(&group_options);
  group_options.density = 1;
  OK(sparsegrad_group_create(context, &group_options, &group));
  int64_t index = -1;
  FAILS(SPARSEGRAD_OK, "", sparsegrad_group_add_layer(group, layer, "mlp", &index));
  CHECK(index == 0);
  double sum = 0, expected = 0;
  OK(sparsegrad_group_squared_norm(group, &sum));
  for (int o = 0; o < OUT; ++o) {
    for (int i = 0; i < IN; ++i) {
      float g = 0;
      for (int t = 0; t < TOKENS; ++t)
        g += 2 * dy[t * OUT + o] * x[t * IN + i];  // two passes
      expected += (double)g * (double)g;
    }
  }
  CHECK(fabs(sum - expected) < 1e-4 * expected);
  FAILS(SPARSEGRAD_ERROR_STATE, "makes its own gradient",
        sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(w, OUT, IN)));
  // Parameters that move: the group follows.
  float moved[OUT * IN];
  memcpy(moved, stored, sizeof moved);
  weight.matrix.data = moved;
  OK(sparsegrad_layer_rebind(layer, weight, bias));
  sparsegrad_layer_destroy(layer);
  OK(sparsegrad_group_step(group, NULL, NULL));
  CHECK(memcmp(moved, stored, sizeof moved) != 0);
  sparsegrad_group_destroy(group);
}

static void truncated_inputs_are_kept(sparsegrad_context* context) {
  enum { T = 32, O = 24, I = 16, RANK = 4 };
  float w[O * I], x[T * I], y[T * O], dy[T * O], keep[T * RANK];
  fill(w, O * I, 1);
  fill(x, T * I, 2);
  fill(dy, T * O, 3);
  sparsegrad_layer* layer = NULL;
  OK(sparsegrad_layer_create(context, sparsegrad_weight_f32(w, O, I), NULL, NULL, &layer));
  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  options.warmup_steps = 1;
  options.out_side.recipe = SPARSEGRAD_IDENTITY;
  options.in_side.rank = RANK;
  sparsegrad_group* group = NULL;
  OK(sparsegrad_group_create(context, &options, &group));
  OK(sparsegrad_group_add_layer(group, layer, NULL, NULL));
  for (int s = 0; s < 3; ++s) {
    int64_t cols = -1;
    OK(sparsegrad_layer_kept_cols(layer, &cols));
    CHECK(cols == 0 || (s > 0 && cols == RANK));
    const sparsegrad_matrix kept = cols > 0 ? sparsegrad_f32(keep, T, cols) : sparsegrad_no_matrix();
    sparsegrad_saved_input saved;
    OK(sparsegrad_layer_forward(layer, sparsegrad_const_f32(x, T, I), sparsegrad_f32(y, T, O), kept, &saved));
    CHECK(saved.projected == (cols > 0));
    OK(sparsegrad_layer_backward(layer, sparsegrad_const_f32(dy, T, O), &saved, sparsegrad_no_matrix(), NULL,
                                 SPARSEGRAD_OVERWRITE));
    sparsegrad_step_report report;
    OK(sparsegrad_group_step(group, NULL, &report));
    CHECK(report.warming_up == (s == 0));
  }
  sparsegrad_group_destroy(group);
  sparsegrad_layer_destroy(layer);
}

static void bfloat16_layers(sparsegrad_context* context) {
  uint16_t w[OUT * IN], bias[OUT], x[TOKENS * IN], y[TOKENS * OUT], dy[TOKENS * OUT], dx[TOKENS * IN];
  float master[OUT * IN], numbers[TOKENS * IN], db[OUT] = {0};
  fill(master, OUT * IN, 1);
  for (int e = 0; e < OUT; ++e)
    bias[e] = to_bf16(0.25f);
  fill(numbers, TOKENS * IN, 2);
  for (int e = 0; e < TOKENS * IN; ++e)
    x[e] = to_bf16(numbers[e]);
  for (int e = 0; e < TOKENS * OUT; ++e)
    dy[e] = to_bf16(0.5f);
  sparsegrad_layer* layer = NULL;
  OK(sparsegrad_layer_create(context, sparsegrad_weight_bf16(w, master, OUT, IN), bias, NULL, &layer));
  CHECK(w[0] == to_bf16(master[0]));
  sparsegrad_saved_input saved;
  OK(sparsegrad_layer_forward(layer, sparsegrad_const_bf16(x, TOKENS, IN), sparsegrad_bf16(y, TOKENS, OUT),
                              sparsegrad_no_matrix(), &saved));
  float sum = 0.25f;
  for (int i = 0; i < IN; ++i)
    sum += from_bf16(x[i]) * from_bf16(w[i]);
  CHECK(fabsf(from_bf16(y[0]) - sum) < 0.01f);
  OK(sparsegrad_layer_backward(layer, sparsegrad_const_bf16(dy, TOKENS, OUT), &saved,
                               sparsegrad_bf16(dx, TOKENS, IN), db, SPARSEGRAD_OVERWRITE));
  CHECK(db[0] == 0.5f * TOKENS);
  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  options.weight_dtype = SPARSEGRAD_BFLOAT16;
  sparsegrad_group* group = NULL;
  OK(sparsegrad_group_create(context, &options, &group));
  OK(sparsegrad_group_add_layer(group, layer, "mlp", NULL));
  OK(sparsegrad_group_step(group, NULL, NULL));
  OK(sparsegrad_layer_rebind(layer, sparsegrad_weight_bf16(w, master, OUT, IN), bias));
  sparsegrad_group_destroy(group);
  sparsegrad_layer_destroy(layer);
}

static void bases(sparsegrad_context* context) {
  enum { COUNT = 3 };
  float dw[COUNT][OUT * IN];
  sparsegrad_const_matrix gradients[COUNT];
  for (int i = 0; i < COUNT; ++i) {
    fill(dw[i], OUT * IN, (uint32_t)i + 7);
    gradients[i] = sparsegrad_const_f32(dw[i], OUT, IN);
  }
  const sparsegrad_side full = {SPARSEGRAD_HOSVD, 0, 0, 0}, rank3 = {SPARSEGRAD_HOSVD, 3, 0, 0};
  const sparsegrad_side half = {SPARSEGRAD_HOSVD, 0, 0.5, 0}, random3 = {SPARSEGRAD_RANDOM, 3, 0, 7};
  const sparsegrad_side hadamard = {SPARSEGRAD_HADAMARD, 0, 0, 7}, identity = {SPARSEGRAD_IDENTITY, 0, 0, 0};
  sparsegrad_basis* basis = NULL;
  sparsegrad_basis_info info;
  OK(sparsegrad_basis_fit(context, OUT, IN, gradients, COUNT, full, rank3, &basis));
  OK(sparsegrad_basis_describe(basis, &info));
  CHECK(info.out_extent == OUT && info.in_extent == IN && info.rows == OUT && info.cols == 3 &&
        info.gradients == COUNT && info.out_kept_energy == 1 && info.in_kept_energy < 1 && info.bytes > 0);
  double energies[IN], sum = 0;
  int64_t count = 0;
  OK(sparsegrad_basis_spectrum(basis, SPARSEGRAD_SIDE_IN, energies, IN, &count));
  CHECK(count == IN);
  for (int i = 0; i < IN; ++i) {
    CHECK(i == 0 || energies[i] <= energies[i - 1]);
    sum += energies[i];
  }
  CHECK(fabs(sum - info.total_energy) < 1e-6 * sum);
  OK(sparsegrad_basis_spectrum(basis, SPARSEGRAD_SIDE_OUT, NULL, 0, &count));
  CHECK(count == OUT);
  float v[OUT * OUT], u[IN * 3];
  OK(sparsegrad_basis_factor(basis, SPARSEGRAD_SIDE_OUT, sparsegrad_f32(v, OUT, OUT)));
  OK(sparsegrad_basis_factor(basis, SPARSEGRAD_SIDE_IN, sparsegrad_f32(u, IN, 3)));
  // kept_block = ||V^T G U||^2 / ||G||^2, by hand.
  sparsegrad_energy energy;
  OK(sparsegrad_basis_energy(basis, gradients[0], 4, &energy));
  double kept = 0, total = 0;
  for (int r = 0; r < OUT; ++r) {
    for (int c = 0; c < 3; ++c) {
      double core = 0;
      for (int o = 0; o < OUT; ++o)
        for (int i = 0; i < IN; ++i)
          core += (double)(v[o * OUT + r] * dw[0][o * IN + i] * u[i * 3 + c]);
      kept += core * core;
    }
  }
  for (int e = 0; e < OUT * IN; ++e)
    total += (double)(dw[0][e] * dw[0][e]);
  CHECK(fabs(energy.kept_block - kept / total) < 1e-5 && energy.basis_top_k <= energy.kept_block &&
        energy.raw_top_k > 0);

  // The same factors back, set in a group.
  sparsegrad_basis* own = NULL;
  OK(sparsegrad_basis_from_factors(context, sparsegrad_const_f32(v, OUT, OUT), sparsegrad_const_f32(u, IN, 3),
                                   0, &own));
  float w[OUT * IN], again[IN * 3];
  fill(w, OUT * IN, 1);
  sparsegrad_group* group = NULL;
  OK(sparsegrad_group_create(context, NULL, &group));
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, OUT, IN), "up", NULL));
  OK(sparsegrad_group_set_basis(group, 0, own, SPARSEGRAD_MOMENTS_RESET));
  sparsegrad_basis_destroy(own);
  OK(sparsegrad_group_basis(group, 0, &own));
  OK(sparsegrad_basis_factor(own, SPARSEGRAD_SIDE_IN, sparsegrad_f32(again, IN, 3)));
  CHECK(memcmp(u, again, sizeof u) == 0);
  sparsegrad_basis_destroy(own);
  OK(sparsegrad_group_set_gradient(group, 0, gradients[0]));
  OK(sparsegrad_group_step(group, NULL, NULL));
  OK(sparsegrad_group_set_basis(group, 0, NULL, SPARSEGRAD_MOMENTS_TRANSPORT));
  sparsegrad_weight_info weight;
  OK(sparsegrad_group_describe_weight(group, 0, &weight));
  CHECK(weight.core_cols == IN && weight.steps == 1);
  sparsegrad_group_destroy(group);
  sparsegrad_basis_destroy(basis);

  // Other recipes, and gradients of 16 bits.
  OK(sparsegrad_basis_fit(context, OUT, IN, gradients, COUNT, half, identity, &basis));
  OK(sparsegrad_basis_describe(basis, &info));
  CHECK(info.rows < OUT && info.cols == IN && info.out_kept_energy >= 0.5);
  sparsegrad_basis_destroy(basis);
  OK(sparsegrad_basis_fit(context, OUT, IN, NULL, 0, random3, hadamard, &basis));
  OK(sparsegrad_basis_describe(basis, &info));
  CHECK(info.rows == 3 && info.cols == IN && info.gradients == 0 && isnan(info.out_kept_energy));
  float h[IN * IN];
  OK(sparsegrad_basis_factor(basis, SPARSEGRAD_SIDE_IN, sparsegrad_f32(h, IN, IN)));
  for (int a = 0; a < IN; ++a) {
    float dot = 0;
    for (int i = 0; i < IN; ++i)
      dot += h[i * IN + a] * h[i * IN + a];
    CHECK(fabsf(dot - 1) < 1e-5f);
  }
  sparsegrad_basis_destroy(basis);
  uint16_t rounded[OUT * IN];
  for (int e = 0; e < OUT * IN; ++e)
    rounded[e] = to_bf16(dw[0][e]);
  const sparsegrad_const_matrix one = sparsegrad_const_bf16(rounded, OUT, IN);
  OK(sparsegrad_basis_fit(context, OUT, IN, &one, 1, full, full, &basis));
  OK(sparsegrad_basis_energy(basis, one, OUT * IN, &energy));
  CHECK(fabs(energy.basis_top_k - 1) < 1e-5);
  sparsegrad_basis_destroy(basis);
}

/// A group's step by its parts: core, largest entries, Adam, and the update as a change of the weight.
static void steps_by_parts(sparsegrad_context* context) {
  enum { O = 6, I = 5, RANK = 3, N = O * RANK, KEPT = 7 };
  float dw[O * I], w[O * I], in_group[O * I], core[N], update[N], change[O * I], values[KEPT];
  int32_t at[KEPT];
  const sparsegrad_side full = {SPARSEGRAD_HOSVD, 0, 0, 0}, rank = {SPARSEGRAD_HOSVD, RANK, 0, 0};
  fill(w, O * I, 1);
  memcpy(in_group, w, sizeof w);
  fill(dw, O * I, 9);
  const sparsegrad_const_matrix gradient = sparsegrad_const_f32(dw, O, I);
  sparsegrad_basis* basis = NULL;
  OK(sparsegrad_basis_fit(context, O, I, &gradient, 1, full, rank, &basis));
  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  options.entries = KEPT;
  sparsegrad_group* group = NULL;
  OK(sparsegrad_group_create(context, &options, &group));
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(in_group, O, I), NULL, NULL));
  OK(sparsegrad_group_set_basis(group, 0, basis, SPARSEGRAD_MOMENTS_RESET));
  sparsegrad_adam_options adam_options;
  sparsegrad_adam_options_init(&adam_options);
  adam_options.capacity = options.entries * 4;
  sparsegrad_adam* adam = NULL;
  OK(sparsegrad_adam_create(context, O, RANK, &adam_options, &adam));
  sparsegrad_step_options step;
  sparsegrad_step_options_init(&step);
  step.learning_rate = 0.1;
  for (int s = 0; s < 3; ++s) {
    fill(dw, O * I, (uint32_t)s + 9);
    OK(sparsegrad_group_set_gradient(group, 0, gradient));
    OK(sparsegrad_group_step(group, &step, NULL));

    int64_t count = 0;
    OK(sparsegrad_basis_project(basis, gradient, sparsegrad_f32(core, O, RANK)));
    OK(sparsegrad_top_k(context, sparsegrad_const_f32(core, O, RANK), KEPT, at, values, &count));
    CHECK(count == KEPT);
    for (int e = 0; e < KEPT; ++e)
      CHECK(values[e] == core[at[e]] && (e == 0 || at[e] > at[e - 1]));
    OK(sparsegrad_adam_step(adam, at, values, count, &step, sparsegrad_f32(update, O, RANK)));
    OK(sparsegrad_basis_expand(basis, sparsegrad_const_f32(update, O, RANK), sparsegrad_f32(change, O, I)));
    for (int e = 0; e < O * I; ++e)
      w[e] += change[e];
    CHECK(largest_difference(w, in_group, O * I) < 1e-5f);
  }
  sparsegrad_adam_info info;
  OK(sparsegrad_adam_describe(adam, &info));
  CHECK(info.rows == O && info.cols == RANK && info.steps == 3 && info.entries == N && info.bytes > 0);

  // Rows with gaps, 16 bits, more entries than there are, none.
  float padded[O * I], all[N];
  int32_t every[N];
  uint16_t rounded[N];
  for (int i = 0; i < O; ++i)
    for (int j = 0; j < I; ++j)
      padded[i * I + j] = j < RANK ? core[i * RANK + j] : 9.0f;
  for (int e = 0; e < N; ++e)
    rounded[e] = to_bf16(core[e]);
  sparsegrad_const_matrix strided = sparsegrad_const_f32(padded, O, RANK);
  strided.stride = I;
  int32_t same[KEPT];
  int64_t count = 0;
  OK(sparsegrad_top_k(context, strided, KEPT, same, values, &count));
  CHECK(memcmp(same, at, sizeof at) == 0);
  OK(sparsegrad_top_k(context, sparsegrad_const_bf16(rounded, O, RANK), 1000, every, all, &count));
  CHECK(count == N && every[N - 1] == N - 1 && all[4] == from_bf16(rounded[4]));
  OK(sparsegrad_top_k(context, strided, 0, NULL, NULL, &count));
  CHECK(count == 0);

  // What is wrong is refused, and no step taken.
  const sparsegrad_matrix to = sparsegrad_f32(update, O, RANK);
  const int32_t falling[2] = {4, 2};
  FAILS(SPARSEGRAD_ERROR_VALUE, "strictly rising", sparsegrad_adam_step(adam, falling, values, 2, &step, to));
  FAILS(SPARSEGRAD_ERROR_VALUE, "count is -1", sparsegrad_adam_step(adam, at, values, -1, &step, to));
  FAILS(SPARSEGRAD_ERROR_VALUE, "values is NULL", sparsegrad_adam_step(adam, at, NULL, 2, &step, to));
  FAILS(SPARSEGRAD_ERROR_SHAPE, "the update is 5x3",
        sparsegrad_adam_step(adam, at, values, 2, &step, sparsegrad_f32(update, 5, RANK)));
  values[1] = NAN;
  FAILS(SPARSEGRAD_ERROR_NON_FINITE, "value 1 is", sparsegrad_adam_step(adam, at, values, 2, &step, to));
  padded[0] = NAN;
  FAILS(SPARSEGRAD_ERROR_NON_FINITE, "row 0, column 0",
        sparsegrad_top_k(context, strided, KEPT, same, values, &count));
  FAILS(SPARSEGRAD_ERROR_VALUE, "k is -1", sparsegrad_top_k(context, strided, -1, same, values, &count));
  FAILS(SPARSEGRAD_ERROR_SHAPE, "", sparsegrad_basis_project(basis, strided, to));
  FAILS(SPARSEGRAD_ERROR_SHAPE, "", sparsegrad_basis_expand(basis, gradient, to));
  step.weight_decay = 0.1;
  FAILS(SPARSEGRAD_ERROR_VALUE, "weight_decay is 0.1, expected 0",
        sparsegrad_adam_step(adam, at, values, 0, &step, to));
  OK(sparsegrad_adam_describe(adam, &info));
  CHECK(info.steps == 3);
  adam_options.beta1 = 1;
  sparsegrad_adam* none = NULL;
  FAILS(SPARSEGRAD_ERROR_VALUE, "beta1 is 1", sparsegrad_adam_create(context, O, I, &adam_options, &none));
  FAILS(SPARSEGRAD_ERROR_VALUE, "context is NULL", sparsegrad_adam_create(NULL, O, I, NULL, &none));
  FAILS(SPARSEGRAD_ERROR_SHAPE, "the core is 0x3, expected positive extents",
        sparsegrad_adam_create(context, 0, 3, NULL, &none));
  FAILS(SPARSEGRAD_ERROR_SHAPE, "the core is 3x-1", sparsegrad_adam_create(context, 3, -1, NULL, &none));
  FAILS(SPARSEGRAD_ERROR_VALUE, "adam is NULL", sparsegrad_adam_step(NULL, at, values, 0, &step, to));
  CHECK(none == NULL);
  sparsegrad_adam_destroy(NULL);
  sparsegrad_adam_destroy(adam);
  sparsegrad_group_destroy(group);
  sparsegrad_basis_destroy(basis);
}

int main(void) {
  for (sparsegrad_backend b = SPARSEGRAD_BACKEND_EIGEN; b <= SPARSEGRAD_BACKEND_ONEDNN; ++b) {
    if (!sparsegrad_backend_available(b)) continue;
    sparsegrad_context* context = new_context(b);
    product_and_gradients(context, SPARSEGRAD_OUT_IN);
    product_and_gradients(context, SPARSEGRAD_IN_OUT);
    truncated_inputs_are_kept(context);
    bfloat16_layers(context);
    bases(context);
    steps_by_parts(context);
    sparsegrad_context_destroy(context);
  }
  return failure_count != 0;
}
