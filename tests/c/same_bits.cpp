// The C interface beside the C++ one in the same program: the same steps give the same bits. Texts of errors are this
// thread's own.
//
// same_bits resume c|cpp float32|bfloat16 FIRST LAST STATE WEIGHT: steps [FIRST, LAST) of one training by that
// interface. Where FIRST > 0 it goes on from the saved state and the weight (in float, for bfloat16 the master) in these
// files; it writes both anew. Python's tests compare them with their own.
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/io/group_file.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "check.h"

namespace {

using namespace sparsegrad;
using B = backend::Cpu;

constexpr int out = 24, in = 16, tokens = 8;

std::vector<float> numbers(std::size_t n, std::uint32_t seed) {
  std::vector<float> x(n);
  fill(x.data(), static_cast<std::int64_t>(n), seed);
  return x;
}

struct Recipe {
  sparsegrad_side c;
  SideRecipe cpp;
};

/// W and dW of an engine, in float or bfloat16 with a master.
template <class T>
void weights(const Recipe& out_side, const Recipe& in_side, AdamSemantics semantics,
             std::int32_t c_semantics) {
  const std::vector<float> start = numbers(out * in, 1);
  std::vector<float> master = start, c_master = start;
  std::vector<T> w(start.size()), c_w(start.size());
  constexpr bool low = !std::is_same_v<T, float>;

  B::Context ctx(1);
  GroupOptions options;
  options.density = 0.2;
  options.warmup_steps = 2;
  options.optimizer.semantics = semantics;
  options.recipe.sides = [&](const std::string&) { return SideRecipes{out_side.cpp, in_side.cpp}; };
  SparseGradGroup<T, B> group(options);

  sparsegrad_context* context = new_context(SPARSEGRAD_BACKEND_EIGEN);
  sparsegrad_group_options c_options;
  sparsegrad_group_options_init(&c_options);
  c_options.density = 0.2;
  c_options.warmup_steps = 2;
  c_options.semantics = c_semantics;
  c_options.out_side = out_side.c;
  c_options.in_side = in_side.c;
  sparsegrad_group* c_group = nullptr;
  if constexpr (low) {
    group.add_weight(ctx, {w.data(), out, in}, {master.data(), out, in}, "up");
    c_options.weight_dtype = SPARSEGRAD_BFLOAT16;
    OK(sparsegrad_group_create(context, &c_options, &c_group));
    auto* bits = reinterpret_cast<std::uint16_t*>(c_w.data());
    OK(sparsegrad_group_add_weight(c_group, sparsegrad_weight_bf16(bits, c_master.data(), out, in), "up",
                                   nullptr));
  } else {
    w = c_w = start;
    group.add_weight(ctx, {w.data(), out, in}, "up");
    OK(sparsegrad_group_create(context, &c_options, &c_group));
    OK(sparsegrad_group_add_weight(c_group, sparsegrad_weight_f32(c_w.data(), out, in), "up", nullptr));
  }
  sparsegrad_step_options step;
  sparsegrad_step_options_init(&step);
  step.learning_rate = 0.01;
  step.weight_decay = 0.1;
  step.grad_scale = 0.5;
  for (std::uint32_t s = 0; s < 6; ++s) {
    const std::vector<float> dw = numbers(out * in, s + 2);
    group.set_gradient(0, {dw.data(), out, in});
    OK(sparsegrad_group_set_gradient(c_group, 0, sparsegrad_const_f32(dw.data(), out, in)));
    double c_norm = 0;
    OK(sparsegrad_group_squared_norm(c_group, &c_norm));
    CHECK(c_norm == group.squared_norm(ctx));
    sparsegrad_step_report c_report;
    const GroupReport report =
        group.step(ctx, {.learning_rate = 0.01, .weight_decay = 0.1, .grad_scale = 0.5});
    OK(sparsegrad_group_step(c_group, &step, &c_report));
    CHECK(c_report.kept == report.kept && (c_report.warming_up != 0) == report.warming_up);
    CHECK(std::memcmp(w.data(), c_w.data(), w.size() * sizeof(T)) == 0);
    if (low) CHECK(master == c_master);
  }
  // The saved states are the same bytes too.
  io::SafetensorsWriter writer;
  io::put(ctx, writer, "", group);
  const std::vector<std::byte> bytes = writer.bytes();
  sparsegrad_state* state = nullptr;
  OK(sparsegrad_group_save(c_group, &state));
  CHECK(bytes.size() == sparsegrad_state_size(state) &&
        std::memcmp(bytes.data(), sparsegrad_state_data(state), bytes.size()) == 0);
  sparsegrad_state_destroy(state);
  sparsegrad_group_destroy(c_group);
  sparsegrad_context_destroy(context);
}

/// What `resume` reads and writes.
struct Files {
  std::uint32_t first, last;
  const char* state;
  const char* weight;
};

/// The step options of `resume`.
constexpr GroupStep resumed_step{.learning_rate = 0.01, .weight_decay = 0.1};

template <class T>
void resume_cpp(const Files& files, std::vector<float>& weight) {
  std::vector<T> low(weight.size());
  B::Context ctx(1);
  SparseGradGroup<T, B> group({.density = 0.2, .warmup_steps = 2});
  if constexpr (std::is_same_v<T, float>) {
    group.add_weight(ctx, {weight.data(), out, in}, "up");
  } else {
    group.add_weight(ctx, {low.data(), out, in}, {weight.data(), out, in}, "up");
  }
  if (files.first > 0) io::load(ctx, files.state, group);
  for (std::uint32_t s = files.first; s < files.last; ++s) {
    const std::vector<float> dw = numbers(out * in, s + 2);
    group.set_gradient(0, {dw.data(), out, in});
    group.step(ctx, resumed_step);
  }
  io::save(ctx, files.state, group);
}

void resume_c(std::int32_t dtype, const Files& files, std::vector<float>& weight) {
  std::vector<std::uint16_t> low(weight.size());
  sparsegrad_context* context = new_context(SPARSEGRAD_BACKEND_EIGEN);
  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  options.weight_dtype = dtype;
  options.density = 0.2;
  options.warmup_steps = 2;
  sparsegrad_group* group = nullptr;
  OK(sparsegrad_group_create(context, &options, &group));
  const sparsegrad_weight w = dtype == SPARSEGRAD_FLOAT32
                                  ? sparsegrad_weight_f32(weight.data(), out, in)
                                  : sparsegrad_weight_bf16(low.data(), weight.data(), out, in);
  OK(sparsegrad_group_add_weight(group, w, "up", nullptr));
  if (files.first > 0) OK(sparsegrad_group_load_file(group, files.state));
  sparsegrad_step_options step;
  sparsegrad_step_options_init(&step);
  step.learning_rate = resumed_step.learning_rate;
  step.weight_decay = resumed_step.weight_decay;
  for (std::uint32_t s = files.first; s < files.last; ++s) {
    const std::vector<float> dw = numbers(out * in, s + 2);
    OK(sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw.data(), out, in)));
    OK(sparsegrad_group_step(group, &step, nullptr));
  }
  OK(sparsegrad_group_save_file(group, files.state));
  sparsegrad_group_destroy(group);
  sparsegrad_context_destroy(context);
}

void resume(const std::string& interface, const std::string& dtype, const Files& files) {
  std::vector<float> weight = numbers(out * in, 1);
  const auto bytes = static_cast<std::streamsize>(weight.size() * sizeof(float));
  if (files.first > 0) {
    std::ifstream file(files.weight, std::ios::binary);
    CHECK(file.read(reinterpret_cast<char*>(weight.data()), bytes));
  }
  const bool full = dtype == "float32";
  if (interface == "c") {
    resume_c(full ? SPARSEGRAD_FLOAT32 : SPARSEGRAD_BFLOAT16, files, weight);
  } else if (full) {
    resume_cpp<float>(files, weight);
  } else {
    resume_cpp<bfloat16>(files, weight);
  }
  std::ofstream file(files.weight, std::ios::binary);
  CHECK(file.write(reinterpret_cast<const char*>(weight.data()), bytes));
}

void layers() {
  std::vector<float> w = numbers(out * in, 1), bias = numbers(out, 2);
  std::vector<float> c_w = w;
  const std::vector<float> x = numbers(tokens * in, 3), dy = numbers(tokens * out, 4);
  std::vector<float> y(tokens * out), c_y = y, dx(tokens * in), c_dx = dx, db(out), c_db = db;
  B::Context ctx(1);
  SparseGradLinear<float, B> layer(ctx, {w.data(), out, in}, bias.data());
  SparseGradGroup<float, B> group;
  group.add(ctx, layer, "up");
  sparsegrad_context* context = new_context(SPARSEGRAD_BACKEND_EIGEN);
  sparsegrad_layer* c_layer = nullptr;
  sparsegrad_group* c_group = nullptr;
  OK(sparsegrad_layer_create(context, sparsegrad_weight_f32(c_w.data(), out, in), bias.data(), nullptr,
                             &c_layer));
  OK(sparsegrad_group_create(context, nullptr, &c_group));
  OK(sparsegrad_group_add_layer(c_group, c_layer, "up", nullptr));
  for (int s = 0; s < 4; ++s) {
    const auto saved = layer.forward(ctx, {x.data(), tokens, in}, {y.data(), tokens, out});
    layer.backward(ctx, {dy.data(), tokens, out}, saved, {dx.data(), tokens, in}, db.data(),
                   InputGradient::add);
    group.step(ctx, {});
    sparsegrad_saved_input c_saved;
    OK(sparsegrad_layer_forward(c_layer, sparsegrad_const_f32(x.data(), tokens, in),
                                sparsegrad_f32(c_y.data(), tokens, out), sparsegrad_no_matrix(), &c_saved));
    OK(sparsegrad_layer_backward(c_layer, sparsegrad_const_f32(dy.data(), tokens, out), &c_saved,
                                 sparsegrad_f32(c_dx.data(), tokens, in), c_db.data(), SPARSEGRAD_ADD));
    OK(sparsegrad_group_step(c_group, nullptr, nullptr));
    CHECK(y == c_y && dx == c_dx && db == c_db && w == c_w);
  }
  sparsegrad_group_destroy(c_group);
  sparsegrad_layer_destroy(c_layer);
  sparsegrad_context_destroy(context);
}

void texts_by_thread() {
  (void)sparsegrad_group_clear(nullptr);
  const std::string mine = sparsegrad_last_error();
  std::string before, after;
  std::thread other([&] {
    before = sparsegrad_last_error();
    (void)sparsegrad_layer_kept_cols(nullptr, nullptr);
    after = sparsegrad_last_error();
  });
  other.join();
  CHECK(before.empty() && after == "cols is NULL" && mine == "group is NULL" &&
        mine == sparsegrad_last_error());
}

/// An executor that throws, as C++ code behind a C callback may.
void foreign_exceptions() {
  sparsegrad_context_options options;
  sparsegrad_context_options_init(&options);
  options.executor.concurrency = 2;
  options.executor.run = [](void*, std::int64_t, sparsegrad_task, void*) { throw 42; };
  sparsegrad_context* context = nullptr;
  OK(sparsegrad_context_create(&options, &context));
  std::vector<float> w = numbers(512 * 256, 1), dw = numbers(512 * 256, 2);
  sparsegrad_group* group = nullptr;
  OK(sparsegrad_group_create(context, nullptr, &group));
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w.data(), 512, 256), "up", nullptr));
  OK(sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw.data(), 512, 256)));
  FAILS(SPARSEGRAD_ERROR_INTERNAL, "from a callback", sparsegrad_group_step(group, nullptr, nullptr));
  sparsegrad_group_destroy(group);
  sparsegrad_context_destroy(context);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 8 && std::string(argv[1]) == "resume") {
    const auto number = [](const char* text) { return static_cast<std::uint32_t>(std::atoi(text)); };
    resume(argv[2], argv[3], {number(argv[4]), number(argv[5]), argv[6], argv[7]});
    return failure_count != 0;
  }
  const Recipe full{{SPARSEGRAD_HOSVD, 0, 0, 0}, SideRecipe::hosvd()};
  const Recipe rank{{SPARSEGRAD_HOSVD, 5, 0, 0}, SideRecipe::hosvd(5)};
  const Recipe energy{{SPARSEGRAD_HOSVD, 0, 0.6, 0}, SideRecipe::hosvd(Truncation::energy(0.6))};
  const Recipe identity{{SPARSEGRAD_IDENTITY, 0, 0, 0}, SideRecipe::identity()};
  const Recipe random{{SPARSEGRAD_RANDOM, 7, 0, 3}, SideRecipe::random(7, 3)};
  const Recipe hadamard{{SPARSEGRAD_HADAMARD, 0, 0, 3}, SideRecipe::hadamard(3)};
  weights<float>(full, full, AdamSemantics::torch, SPARSEGRAD_ADAM_TORCH);
  weights<float>(rank, identity, AdamSemantics::per_entry_step, SPARSEGRAD_ADAM_PER_ENTRY_STEP);
  weights<float>(energy, hadamard, AdamSemantics::dense_core, SPARSEGRAD_ADAM_DENSE_CORE);
  weights<float>(identity, random, AdamSemantics::torch, SPARSEGRAD_ADAM_TORCH);
  weights<bfloat16>(full, rank, AdamSemantics::torch, SPARSEGRAD_ADAM_TORCH);
  layers();
  texts_by_thread();
  foreign_exceptions();
  return failure_count != 0;
}
