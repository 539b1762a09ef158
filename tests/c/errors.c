// What C programs bring that is wrong: each refused, with its status and a text that says what was found.
#include <math.h>
#include <stdlib.h>

#include "check.h"

enum { OUT = 4, IN = 3, N = OUT * IN };

static void contexts(void) {
  sparsegrad_context* context = NULL;
  sparsegrad_context_options options;
  memset(&options, 0, sizeof options);
  FAILS(SPARSEGRAD_ERROR_VALUE, "call sparsegrad_context_options_init first",
        sparsegrad_context_create(&options, &context));
  sparsegrad_context_options_init(&options);
  FAILS(SPARSEGRAD_ERROR_VALUE, "context is NULL", sparsegrad_context_create(&options, NULL));
  options.backend = 9;
  FAILS(SPARSEGRAD_ERROR_VALUE, "backend is 9, expected one of 0 to 3",
        sparsegrad_context_create(&options, &context));
  for (sparsegrad_backend b = SPARSEGRAD_BACKEND_EIGEN; b <= SPARSEGRAD_BACKEND_ONEDNN; ++b) {
    options.backend = b;
    if (!sparsegrad_backend_available(b))
      FAILS(SPARSEGRAD_ERROR_VALUE, "was built without", sparsegrad_context_create(&options, &context));
  }
  CHECK(sparsegrad_backend_available(0) == 1 && sparsegrad_backend_available(9) == 0 &&
        sparsegrad_backend_available(-1) == 0);
  options.backend = SPARSEGRAD_BACKEND_DEFAULT;
  options.threads = -1;
  FAILS(SPARSEGRAD_ERROR_VALUE, "threads is -1", sparsegrad_context_create(&options, &context));
  options.threads = 70000;
  FAILS(SPARSEGRAD_ERROR_VALUE, "threads is 70000", sparsegrad_context_create(&options, &context));
  FAILS(SPARSEGRAD_ERROR_VALUE, "context is NULL", sparsegrad_context_describe(NULL, NULL, NULL));
  CHECK(context == NULL);
  sparsegrad_context_options_init(NULL);
  sparsegrad_context_destroy(NULL);
}

static void null_handles(sparsegrad_context* context) {
  const sparsegrad_const_matrix none = {NULL, 0, 0, 0, SPARSEGRAD_FLOAT32};
  const sparsegrad_weight weight = {{NULL, 0, 0, 0, SPARSEGRAD_FLOAT32}, 0, NULL, 0};
  const sparsegrad_side side = {SPARSEGRAD_IDENTITY, 0, 0, 0};
  sparsegrad_saved_input saved = {{NULL, 0, 0, 0, SPARSEGRAD_FLOAT32}, 0, 0};
  sparsegrad_group* group = NULL;
  sparsegrad_layer* layer = NULL;
  sparsegrad_basis* basis = NULL;
  sparsegrad_state* state = NULL;
  sparsegrad_memory memory;
  sparsegrad_group_info info;
  sparsegrad_weight_info weight_info;
  sparsegrad_basis_info basis_info;
  sparsegrad_energy energy;
  double number;
  int64_t count;
  const sparsegrad_status value = SPARSEGRAD_ERROR_VALUE;
  FAILS(value, "context is NULL", sparsegrad_group_create(NULL, NULL, &group));
  FAILS(value, "group is NULL", sparsegrad_group_create(context, NULL, NULL));
  FAILS(value, "group is NULL", sparsegrad_group_add_weight(NULL, weight, "up", NULL));
  FAILS(value, "layer is NULL", sparsegrad_group_add_layer(NULL, NULL, "up", NULL));
  FAILS(value, "group is NULL", sparsegrad_group_remove(NULL, 0));
  FAILS(value, "group is NULL", sparsegrad_group_rebind(NULL, 0, weight));
  FAILS(value, "group is NULL", sparsegrad_group_set_gradient(NULL, 0, none));
  FAILS(value, "group is NULL", sparsegrad_group_clear(NULL));
  FAILS(value, "group is NULL", sparsegrad_group_squared_norm(NULL, &number));
  FAILS(value, "group is NULL", sparsegrad_group_step(NULL, NULL, NULL));
  FAILS(value, "group is NULL", sparsegrad_group_collect(NULL));
  FAILS(value, "group is NULL", sparsegrad_group_stop_collecting(NULL));
  FAILS(value, "group is NULL", sparsegrad_group_refresh(NULL, 0));
  FAILS(value, "group is NULL", sparsegrad_group_basis(NULL, 0, &basis));
  FAILS(value, "group is NULL", sparsegrad_group_set_basis(NULL, 0, NULL, 0));
  FAILS(value, "group is NULL", sparsegrad_group_reserve(NULL, 1));
  FAILS(value, "group is NULL", sparsegrad_group_memory(NULL, &memory));
  FAILS(value, "group is NULL", sparsegrad_group_describe(NULL, &info));
  FAILS(value, "group is NULL", sparsegrad_group_describe_weight(NULL, 0, &weight_info));
  FAILS(value, "group is NULL", sparsegrad_group_save(NULL, &state));
  FAILS(value, "group is NULL", sparsegrad_group_restore(NULL, "", 0));
  FAILS(value, "group is NULL", sparsegrad_group_save_file(NULL, "x"));
  FAILS(value, "group is NULL", sparsegrad_group_load_file(NULL, "x"));
  FAILS(value, "context is NULL", sparsegrad_layer_create(NULL, weight, NULL, NULL, &layer));
  FAILS(value, "layer is NULL", sparsegrad_layer_create(context, weight, NULL, NULL, NULL));
  FAILS(value, "layer is NULL", sparsegrad_layer_kept_cols(NULL, &count));
  FAILS(value, "layer is NULL", sparsegrad_layer_forward(NULL, none, weight.matrix, weight.matrix, &saved));
  FAILS(value, "layer is NULL", sparsegrad_layer_backward(NULL, none, &saved, weight.matrix, NULL, 0));
  FAILS(value, "layer is NULL", sparsegrad_layer_rebind(NULL, weight, NULL));
  FAILS(value, "context is NULL", sparsegrad_basis_fit(NULL, 1, 1, NULL, 0, side, side, &basis));
  FAILS(value, "basis is NULL", sparsegrad_basis_fit(context, 1, 1, NULL, 0, side, side, NULL));
  FAILS(value, "context is NULL", sparsegrad_basis_from_factors(NULL, none, none, 0, &basis));
  FAILS(value, "basis is NULL", sparsegrad_basis_from_factors(context, none, none, 0, NULL));
  FAILS(value, "basis is NULL", sparsegrad_basis_describe(NULL, &basis_info));
  FAILS(value, "basis is NULL", sparsegrad_basis_factor(NULL, 0, weight.matrix));
  FAILS(value, "basis is NULL", sparsegrad_basis_spectrum(NULL, 0, NULL, 0, &count));
  FAILS(value, "basis is NULL", sparsegrad_basis_energy(NULL, none, 1, &energy));
  sparsegrad_group_destroy(NULL);
  sparsegrad_layer_destroy(NULL);
  sparsegrad_basis_destroy(NULL);
  sparsegrad_state_destroy(NULL);
  sparsegrad_group_options_init(NULL);
  sparsegrad_step_options_init(NULL);
  sparsegrad_layer_options_init(NULL);
  CHECK(sparsegrad_state_data(NULL) == NULL && sparsegrad_state_size(NULL) == 0);
  CHECK(group == NULL && layer == NULL && basis == NULL && state == NULL);
}

static void group_options(sparsegrad_context* context) {
  sparsegrad_group* group = NULL;
  sparsegrad_group_options o;
  memset(&o, 0, sizeof o);
  FAILS(SPARSEGRAD_ERROR_VALUE, "call sparsegrad_group_options_init first",
        sparsegrad_group_create(context, &o, &group));
#define REFUSED(text, change)                                                          \
  do {                                                                                 \
    sparsegrad_group_options_init(&o);                                                 \
    change;                                                                            \
    FAILS(SPARSEGRAD_ERROR_VALUE, text, sparsegrad_group_create(context, &o, &group)); \
  } while (0)
  REFUSED("weight_dtype is float16", o.weight_dtype = SPARSEGRAD_FLOAT16);
  REFUSED("weight_dtype is dtype 7", o.weight_dtype = 7);
  REFUSED("density", o.density = 0);
  REFUSED("density", o.density = 1.5);
  REFUSED("density", o.density = NAN);
  REFUSED("entries is -1", o.entries = -1);
  REFUSED("warmup_steps is -1", o.warmup_steps = -1);
  REFUSED("scope is 2", o.scope = 2);
  REFUSED("out_side is 4", o.out_side.recipe = 4);
  REFUSED("in_side: rank is -1", o.in_side.rank = -1);
  REFUSED("out_side: rank is 3, expected 0", (o.out_side.recipe = SPARSEGRAD_IDENTITY, o.out_side.rank = 3));
  REFUSED("in_side: energy is 0.5", (o.in_side.rank = 3, o.in_side.energy = 0.5));
  REFUSED("out_side: energy is 0.5", (o.out_side.recipe = SPARSEGRAD_RANDOM, o.out_side.energy = 0.5));
  REFUSED("energy fraction is 2", o.in_side.energy = 2);
  REFUSED("energy fraction is -0.5", o.in_side.energy = -0.5);
  REFUSED("energy fraction is nan", o.in_side.energy = NAN);
  REFUSED("gram_limit_bytes is -1", o.gram_limit_bytes = -1);
  REFUSED("semantics is 3", o.semantics = 3);
  REFUSED("overflow is -1", o.overflow = -1);
  REFUSED("capacity_factor is -1", o.capacity_factor = -1);
  REFUSED("capacity_factor is nan", o.capacity_factor = NAN);
  REFUSED("non_finite is 2", o.non_finite = 2);
#undef REFUSED
  CHECK(group == NULL);
}

static void matrices(sparsegrad_context* context) {
  float w[N], other[N], dw[N + 1];
  uint16_t small[N];
  fill(w, N, 1);
  fill(other, N, 1);
  fill(dw, N, 2);
  memset(small, 0, sizeof small);
  sparsegrad_group* group = NULL;
  OK(sparsegrad_group_create(context, NULL, &group));
  const sparsegrad_status value = SPARSEGRAD_ERROR_VALUE, shape = SPARSEGRAD_ERROR_SHAPE;
  sparsegrad_weight weight = sparsegrad_weight_f32(NULL, OUT, IN);
  FAILS(shape, "the weight", sparsegrad_group_add_weight(group, weight, "up", NULL));
  FAILS(shape, "weight is 0x0",
        sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, 0, 0), "up", NULL));
  FAILS(shape, "4x-3", sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, OUT, -IN), "up", NULL));
  weight = sparsegrad_weight_f32(w, OUT, IN);
  weight.matrix.stride = IN - 1;
  FAILS(shape, "row stride 2", sparsegrad_group_add_weight(group, weight, "up", NULL));
  weight.matrix.stride = INT64_MAX;
  FAILS(shape, "less than 2^63 bytes", sparsegrad_group_add_weight(group, weight, "up", NULL));
  weight = sparsegrad_weight_f32(w, OUT, IN);
  weight.layout = 5;
  FAILS(value, "layout is 5", sparsegrad_group_add_weight(group, weight, "up", NULL));
  weight.layout = 0;
  weight.master = other;
  FAILS(value, "has a master, expected NULL", sparsegrad_group_add_weight(group, weight, "up", NULL));
  weight = sparsegrad_weight_f32((float*)(void*)((char*)w + 1), OUT, IN - 1);
  FAILS(value, "no multiple of 4", sparsegrad_group_add_weight(group, weight, "up", NULL));
  weight = sparsegrad_weight_bf16(small, other, OUT, IN);
  FAILS(value, "the weight is of bfloat16, expected float32",
        sparsegrad_group_add_weight(group, weight, "up", NULL));
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, OUT, IN), "up", NULL));
  FAILS(value, "common", sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w + 1, 2, 2), "up", NULL));

  FAILS(value, "index is 1, expected 0 <= index < 1",
        sparsegrad_group_set_gradient(group, 1, sparsegrad_const_f32(dw, OUT, IN)));
  FAILS(value, "index is -1", sparsegrad_group_set_gradient(group, -1, sparsegrad_const_f32(dw, OUT, IN)));
  FAILS(shape, "weight 0 ('up')", sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw, IN, OUT)));
  FAILS(shape, "the gradient", sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(NULL, OUT, IN)));
  FAILS(value, "weight 0 ('up')", sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(w, OUT, IN)));
  sparsegrad_const_matrix odd = sparsegrad_const_f32(dw, OUT, IN);
  odd.dtype = 3;
  FAILS(value, "dtype is 3", sparsegrad_group_set_gradient(group, 0, odd));
  FAILS(value, "index is 5", sparsegrad_group_remove(group, 5));
  FAILS(value, "index is 5", sparsegrad_group_rebind(group, 5, sparsegrad_weight_f32(w, OUT, IN)));
  FAILS(shape, "4x2", sparsegrad_group_rebind(group, 0, sparsegrad_weight_f32(w, OUT, IN - 1)));
  weight = sparsegrad_weight_f32(w, OUT, IN);
  weight.layout = SPARSEGRAD_IN_OUT;
  FAILS(value, "layout is 1, expected that of before", sparsegrad_group_rebind(group, 0, weight));
  sparsegrad_basis* basis = NULL;
  sparsegrad_weight_info info;
  FAILS(value, "index is 5", sparsegrad_group_basis(group, 5, &basis));
  FAILS(value, "index is 5", sparsegrad_group_set_basis(group, 5, NULL, 0));
  FAILS(value, "index is 5", sparsegrad_group_describe_weight(group, 5, &info));
  FAILS(value, "max_tokens", sparsegrad_group_reserve(group, -1));
  sparsegrad_group_destroy(group);

  // Weights of 16 bits need their master.
  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  options.weight_dtype = SPARSEGRAD_BFLOAT16;
  OK(sparsegrad_group_create(context, &options, &group));
  FAILS(value, "needs a float master",
        sparsegrad_group_add_weight(group, sparsegrad_weight_bf16(small, NULL, OUT, IN), "up", NULL));
  FAILS(value, "expected bfloat16",
        sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, OUT, IN), "up", NULL));
  sparsegrad_layer* layer = NULL;
  OK(sparsegrad_layer_create(context, sparsegrad_weight_f32(w, OUT, IN), NULL, NULL, &layer));
  FAILS(value, "expected one of bfloat16", sparsegrad_group_add_layer(group, layer, "up", NULL));
  sparsegrad_group_destroy(group);
  sparsegrad_layer_destroy(layer);
}

static void steps(sparsegrad_context* context) {
  float w[N], dw[N];
  fill(w, N, 1);
  fill(dw, N, 2);
  sparsegrad_group* group = NULL;
  OK(sparsegrad_group_create(context, NULL, &group));
  FAILS(SPARSEGRAD_ERROR_STATE, "the group is empty", sparsegrad_group_step(group, NULL, NULL));
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, OUT, IN), "up", NULL));
  float before[N];
  memcpy(before, w, sizeof w);
  sparsegrad_step_options o;
  memset(&o, 0, sizeof o);
  FAILS(SPARSEGRAD_ERROR_VALUE, "call sparsegrad_step_options_init first",
        sparsegrad_group_step(group, &o, NULL));
  OK(sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw, OUT, IN)));
#define REFUSED(text, change)                                                    \
  do {                                                                           \
    sparsegrad_step_options_init(&o);                                            \
    o.want_norm = 1;                                                             \
    change;                                                                      \
    FAILS(SPARSEGRAD_ERROR_VALUE, text, sparsegrad_group_step(group, &o, NULL)); \
  } while (0)
  REFUSED("learning_rate is -1", o.learning_rate = -1);
  REFUSED("learning_rate is nan", o.learning_rate = NAN);
  REFUSED("learning_rate is inf", o.learning_rate = INFINITY);
  REFUSED("weight_decay is -1", o.weight_decay = -1);
  REFUSED("learning_rate * weight_decay is", (o.learning_rate = 10, o.weight_decay = 10));
  REFUSED("grad_scale is nan", o.grad_scale = NAN);
#undef REFUSED
  // Refused numbers have not touched the gradient: it may still be replaced.
  dw[5] = NAN;
  OK(sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw, OUT, IN)));
  FAILS(SPARSEGRAD_ERROR_NON_FINITE, "weight 0 ('up')", sparsegrad_group_step(group, NULL, NULL));
  OK(sparsegrad_group_clear(group));
  dw[5] = -INFINITY;
  OK(sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw, OUT, IN)));
  FAILS(SPARSEGRAD_ERROR_NON_FINITE, "Inf", sparsegrad_group_step(group, NULL, NULL));
  FAILS(SPARSEGRAD_ERROR_STATE, "holds a gradient", sparsegrad_group_collect(group));
  sparsegrad_state* state = NULL;
  FAILS(SPARSEGRAD_ERROR_STATE, "holds a gradient", sparsegrad_group_save(group, &state));
  FAILS(SPARSEGRAD_ERROR_VALUE, "sum is NULL", sparsegrad_group_squared_norm(group, NULL));
  OK(sparsegrad_group_clear(group));
  CHECK(memcmp(before, w, sizeof w) == 0);
  FAILS(SPARSEGRAD_ERROR_STATE, "nothing was collected",
        sparsegrad_group_refresh(group, SPARSEGRAD_MOMENTS_RESET));
  FAILS(SPARSEGRAD_ERROR_VALUE, "moments is 2", sparsegrad_group_refresh(group, 2));
  FAILS(SPARSEGRAD_ERROR_VALUE, "moments is -1", sparsegrad_group_set_basis(group, 0, NULL, -1));
  OK(sparsegrad_group_collect(group));
  FAILS(SPARSEGRAD_ERROR_STATE, "none was collected",
        sparsegrad_group_refresh(group, SPARSEGRAD_MOMENTS_RESET));
  OK(sparsegrad_group_stop_collecting(group));
  sparsegrad_group_destroy(group);

  // The other policies: a step left out, a state that must not grow.
  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  options.non_finite = SPARSEGRAD_NON_FINITE_SKIP;
  OK(sparsegrad_group_create(context, &options, &group));
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, OUT, IN), "up", NULL));
  OK(sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw, OUT, IN)));
  sparsegrad_step_report report;
  OK(sparsegrad_group_step(group, NULL, &report));
  CHECK(report.skipped == 1 && report.kept == 0 && memcmp(before, w, sizeof w) == 0);
  sparsegrad_group_destroy(group);
  sparsegrad_group_options_init(&options);
  options.entries = 2;
  options.capacity_factor = 1;
  options.overflow = SPARSEGRAD_OVERFLOW_ERROR;
  OK(sparsegrad_group_create(context, &options, &group));
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, OUT, IN), "up", NULL));
  sparsegrad_status status = SPARSEGRAD_OK;
  for (uint32_t s = 0; s < 20 && status == SPARSEGRAD_OK; ++s) {
    fill(dw, N, s);
    OK(sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw, OUT, IN)));
    status = sparsegrad_group_step(group, NULL, NULL);
  }
  CHECK(status == SPARSEGRAD_ERROR_CAPACITY);
  sparsegrad_group_destroy(group);

  // A kind of two extents; recipes that a callback spoils.
  sparsegrad_group_options_init(&options);
  options.warmup_steps = 1;
  OK(sparsegrad_group_create(context, &options, &group));
  float v[N];
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, OUT, IN), "up", NULL));
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(v, IN, OUT), "up", NULL));
  FAILS(SPARSEGRAD_ERROR_SHAPE, "kind 'up'", sparsegrad_group_step(group, NULL, NULL));
  sparsegrad_group_destroy(group);
}

static void spoil(void* user, const char* kind, sparsegrad_side* out_side, sparsegrad_side* in_side) {
  (void)kind;
  (void)out_side;
  in_side->recipe = *(int32_t*)user;
}

static void callbacks(sparsegrad_context* context) {
  float w[N];
  fill(w, N, 1);
  int32_t recipe = 77;
  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  options.warmup_steps = 1;
  options.sides = spoil;
  options.sides_user = &recipe;
  sparsegrad_group* group = NULL;
  OK(sparsegrad_group_create(context, &options, &group));
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, OUT, IN), "up", NULL));
  FAILS(SPARSEGRAD_ERROR_VALUE, "kind 'up': in_side is 77", sparsegrad_group_step(group, NULL, NULL));
  sparsegrad_group_destroy(group);
}

static void layers(sparsegrad_context* context) {
  enum { T = 2 };
  float w[N], x[T * IN], y[T * OUT], dx[T * IN], db[OUT] = {0};
  uint16_t small[T * IN] = {0};
  fill(w, N, 1);
  fill(x, T * IN, 2);
  fill(y, T * OUT, 3);
  const sparsegrad_status value = SPARSEGRAD_ERROR_VALUE, shape = SPARSEGRAD_ERROR_SHAPE;
  sparsegrad_layer* layer = NULL;
  sparsegrad_layer_options options;
  memset(&options, 0, sizeof options);
  FAILS(value, "call sparsegrad_layer_options_init first",
        sparsegrad_layer_create(context, sparsegrad_weight_f32(w, OUT, IN), NULL, &options, &layer));
  sparsegrad_layer_options_init(&options);
  options.tokens = 0;
  FAILS(value, "0 tokens",
        sparsegrad_layer_create(context, sparsegrad_weight_f32(w, OUT, IN), NULL, &options, &layer));
  sparsegrad_weight weight = sparsegrad_weight_f32(w, OUT, IN);
  weight.matrix.dtype = SPARSEGRAD_FLOAT16;
  FAILS(value, "the weight is of float16", sparsegrad_layer_create(context, weight, NULL, NULL, &layer));
  FAILS(value, "the bias begins at",
        sparsegrad_layer_create(context, sparsegrad_weight_f32(w, OUT, IN), (char*)w + 1, NULL, &layer));
  OK(sparsegrad_layer_create(context, sparsegrad_weight_f32(w, OUT, IN), NULL, NULL, &layer));
  const sparsegrad_matrix none = sparsegrad_no_matrix();
  sparsegrad_saved_input saved;
  const sparsegrad_const_matrix in = sparsegrad_const_f32(x, T, IN), dy = sparsegrad_const_f32(y, T, OUT);
  FAILS(shape, "X is 2x4, expected 2x3",
        sparsegrad_layer_forward(layer, dy, sparsegrad_f32(y, T, OUT), none, NULL));
  FAILS(shape, "Y is 2x3, expected 2x4",
        sparsegrad_layer_forward(layer, in, sparsegrad_f32(dx, T, IN), none, NULL));
  FAILS(value, "X is of bfloat16, expected float32",
        sparsegrad_layer_forward(layer, sparsegrad_const_bf16(small, T, IN), sparsegrad_f32(y, T, OUT), none,
                                 NULL));
  FAILS(value, "overlap", sparsegrad_layer_forward(layer, in, sparsegrad_f32(w, T, OUT), none, NULL));
  OK(sparsegrad_layer_forward(layer, in, sparsegrad_f32(y, T, OUT), none, &saved));
  FAILS(value, "saved is NULL", sparsegrad_layer_backward(layer, dy, NULL, none, NULL, 0));
  FAILS(value, "mode is 2", sparsegrad_layer_backward(layer, dy, &saved, none, NULL, 2));
  FAILS(shape, "dX is 2x4",
        sparsegrad_layer_backward(layer, dy, &saved, sparsegrad_f32(dx, T, OUT), NULL, 0));
  FAILS(value, "db begins at",
        sparsegrad_layer_backward(layer, dy, &saved, none, (float*)(void*)((char*)db + 2), 0));
  saved.basis = 12345;
  saved.projected = 1;
  CHECK(sparsegrad_layer_backward(layer, dy, &saved, none, NULL, 0) != SPARSEGRAD_OK);
  FAILS(shape, "3x4", sparsegrad_layer_rebind(layer, sparsegrad_weight_f32(w, IN, OUT), NULL));
  FAILS(value, "cols is NULL", sparsegrad_layer_kept_cols(layer, NULL));

  sparsegrad_context* other = new_context(SPARSEGRAD_BACKEND_DEFAULT);
  sparsegrad_group* group = NULL;
  OK(sparsegrad_group_create(other, NULL, &group));
  FAILS(value, "another context", sparsegrad_group_add_layer(group, layer, "up", NULL));
  sparsegrad_group_destroy(group);
  OK(sparsegrad_group_create(context, NULL, &group));
  OK(sparsegrad_group_add_layer(group, layer, "up", NULL));
  FAILS(value, "already", sparsegrad_group_add_layer(group, layer, "up", NULL));
  sparsegrad_group_destroy(group);
  sparsegrad_context_destroy(other);
  sparsegrad_layer_destroy(layer);
}

static void bases(sparsegrad_context* context) {
  float g[N], q[N], factor[N];
  fill(g, N, 1);
  memset(q, 0, sizeof q);
  const sparsegrad_status value = SPARSEGRAD_ERROR_VALUE, shape = SPARSEGRAD_ERROR_SHAPE;
  const sparsegrad_side hosvd = {SPARSEGRAD_HOSVD, 0, 0, 0}, odd = {9, 0, 0, 0};
  const sparsegrad_side identity = {SPARSEGRAD_IDENTITY, 0, 0, 0};
  sparsegrad_const_matrix gradient = sparsegrad_const_f32(g, OUT, IN);
  sparsegrad_basis* basis = NULL;
  FAILS(SPARSEGRAD_ERROR_STATE, "gradients",
        sparsegrad_basis_fit(context, OUT, IN, NULL, 0, hosvd, hosvd, &basis));
  FAILS(value, "gradients is NULL", sparsegrad_basis_fit(context, OUT, IN, NULL, 2, hosvd, hosvd, &basis));
  FAILS(value, "count is -1", sparsegrad_basis_fit(context, OUT, IN, NULL, -1, hosvd, hosvd, &basis));
  FAILS(value, "in_side is 9", sparsegrad_basis_fit(context, OUT, IN, &gradient, 1, hosvd, odd, &basis));
  FAILS(shape, "gradient 0", sparsegrad_basis_fit(context, IN, OUT, &gradient, 1, hosvd, hosvd, &basis));
  CHECK(sparsegrad_basis_fit(context, -1, IN, NULL, 0, identity, identity, &basis) != SPARSEGRAD_OK);
  g[2] = NAN;
  FAILS(SPARSEGRAD_ERROR_NON_FINITE, "gradient 0",
        sparsegrad_basis_fit(context, OUT, IN, &gradient, 1, hosvd, hosvd, &basis));
  g[2] = 0;
  FAILS(value, "orthonormal",
        sparsegrad_basis_from_factors(context, sparsegrad_const_f32(q, OUT, 2),
                                      sparsegrad_const_f32(q, IN, 2), 0, &basis));
  CHECK(basis == NULL);
  OK(sparsegrad_basis_fit(context, OUT, IN, &gradient, 1, hosvd, identity, &basis));
  FAILS(value, "side is 2", sparsegrad_basis_factor(basis, 2, sparsegrad_f32(factor, IN, IN)));
  FAILS(shape, "the factor is 3x3, expected 4x4",
        sparsegrad_basis_factor(basis, 0, sparsegrad_f32(factor, IN, IN)));
  FAILS(value, "side is -1", sparsegrad_basis_spectrum(basis, -1, NULL, 0, NULL));
  FAILS(value, "energies is NULL", sparsegrad_basis_spectrum(basis, 0, NULL, 3, NULL));
  FAILS(value, "capacity is -3", sparsegrad_basis_spectrum(basis, 0, NULL, -3, NULL));
  sparsegrad_energy energy;
  FAILS(shape, "gradient is 3x4",
        sparsegrad_basis_energy(basis, sparsegrad_const_f32(g, IN, OUT), 1, &energy));
  FAILS(value, "k is -1", sparsegrad_basis_energy(basis, gradient, -1, &energy));
  FAILS(value, "energy is NULL", sparsegrad_basis_energy(basis, gradient, 1, NULL));
  // A basis of other extents, and of another backend.
  float w[N];
  fill(w, N, 1);
  sparsegrad_group* group = NULL;
  OK(sparsegrad_group_create(context, NULL, &group));
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, IN, OUT), "up", NULL));
  FAILS(shape, "", sparsegrad_group_set_basis(group, 0, basis, 0));
  for (sparsegrad_backend b = SPARSEGRAD_BACKEND_EIGEN; b <= SPARSEGRAD_BACKEND_ONEDNN; ++b) {
    sparsegrad_backend own = 0;
    OK(sparsegrad_context_describe(context, &own, NULL));
    if (b == own || !sparsegrad_backend_available(b)) continue;
    sparsegrad_context* other = new_context(b);
    sparsegrad_group* of_other = NULL;
    OK(sparsegrad_group_create(other, NULL, &of_other));
    OK(sparsegrad_group_add_weight(of_other, sparsegrad_weight_f32(w, OUT, IN), "up", NULL));
    FAILS(value, "another backend", sparsegrad_group_set_basis(of_other, 0, basis, 0));
    sparsegrad_group_destroy(of_other);
    sparsegrad_context_destroy(other);
  }
  sparsegrad_group_destroy(group);
  sparsegrad_basis_destroy(basis);
}

static void saved_states(sparsegrad_context* context) {
  float w[N], dw[N];
  fill(w, N, 1);
  fill(dw, N, 2);
  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  options.warmup_steps = 1;
  sparsegrad_group *group = NULL, *other = NULL;
  OK(sparsegrad_group_create(context, &options, &group));
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, OUT, IN), "up", NULL));
  sparsegrad_state* state = NULL;
  FAILS(SPARSEGRAD_ERROR_STATE, "warms up", sparsegrad_group_save(group, &state));
  FAILS(SPARSEGRAD_ERROR_VALUE, "state is NULL", sparsegrad_group_save(group, NULL));
  OK(sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw, OUT, IN)));
  OK(sparsegrad_group_step(group, NULL, NULL));
  OK(sparsegrad_group_save(group, &state));
  const char* data = sparsegrad_state_data(state);
  const size_t size = sparsegrad_state_size(state);
  FAILS(SPARSEGRAD_ERROR_VALUE, "data is NULL", sparsegrad_group_restore(group, NULL, size));
  for (size_t n = 0; n < size; n += n < 32 ? 1 : 37)
    CHECK(sparsegrad_group_restore(group, data, n) == SPARSEGRAD_ERROR_IO);
  FAILS(SPARSEGRAD_ERROR_IO, "the saved state", sparsegrad_group_restore(group, "not a state", 11));
  char* spoiled = malloc(size);
  for (size_t at = 0; at < size; at += 1 + size / 97) {  // whatever they do, they are statuses
    memcpy(spoiled, data, size);
    spoiled[at] = (char)(spoiled[at] ^ 0x55);
    const sparsegrad_status status = sparsegrad_group_restore(group, spoiled, size);
    CHECK(status == SPARSEGRAD_OK || status == SPARSEGRAD_ERROR_IO);
  }
  free(spoiled);
  OK(sparsegrad_group_restore(group, data, size));
  options.entries = 2;
  OK(sparsegrad_group_create(context, &options, &other));
  OK(sparsegrad_group_add_weight(other, sparsegrad_weight_f32(dw, OUT, IN), "up", NULL));
  FAILS(SPARSEGRAD_ERROR_IO, "kept entries", sparsegrad_group_restore(other, data, size));
  FAILS(SPARSEGRAD_ERROR_VALUE, "path is NULL", sparsegrad_group_save_file(group, NULL));
  FAILS(SPARSEGRAD_ERROR_VALUE, "path is NULL", sparsegrad_group_load_file(group, NULL));
  FAILS(SPARSEGRAD_ERROR_IO, "no/such/folder", sparsegrad_group_save_file(group, "no/such/folder/state"));
  FAILS(SPARSEGRAD_ERROR_IO, "no_such_file", sparsegrad_group_load_file(group, "no_such_file"));
  sparsegrad_state_destroy(state);
  sparsegrad_group_destroy(group);
  sparsegrad_group_destroy(other);
}

int main(void) {
  CHECK(strcmp(sparsegrad_last_error(), "") == 0);
  CHECK(strcmp(sparsegrad_status_name(SPARSEGRAD_OK), "ok") == 0 &&
        strcmp(sparsegrad_status_name(SPARSEGRAD_ERROR_INTERNAL), "internal") == 0 &&
        strcmp(sparsegrad_status_name(99), "unknown") == 0);
  CHECK(strchr(sparsegrad_version(), '.') != NULL);
  contexts();
  sparsegrad_context* context = new_context(SPARSEGRAD_BACKEND_DEFAULT);
  null_handles(context);
  group_options(context);
  matrices(context);
  steps(context);
  callbacks(context);
  layers(context);
  bases(context);
  saved_states(context);
  sparsegrad_context_destroy(context);
  return failure_count != 0;
}
