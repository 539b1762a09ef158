// What the snippets in documentation comments and pages take for given: an engine's memory and the library's objects,
// under the names that the pages use. Declared, never defined: snippets are compiled, not run.
#pragma once

#include <cmath>
#include <deque>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <omp.h>

#include <nlohmann/json.hpp>

#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/backend/reference.hpp>
#include <sparsegrad/basis_collection.hpp>
#include <sparsegrad/extras/bucket_reduce.hpp>
#include <sparsegrad/extras/core_adapter.hpp>
#include <sparsegrad/extras/error_feedback.hpp>
#include <sparsegrad/extras/fixed_support.hpp>
#include <sparsegrad/extras/local_top_k.hpp>
#if __has_include(<mpi.h>)
#include <sparsegrad/extras/mpi_reduce.hpp>
#endif
#include <sparsegrad/extras/sampled_gradient.hpp>
#include <sparsegrad/extras/sparse_sgd.hpp>
#include <sparsegrad/extras/tensor.hpp>
#include <sparsegrad/io/group_file.hpp>
#include <sparsegrad/io/reducer_file.hpp>
#include <sparsegrad/io/side_recipe_text.hpp>
#include <sparsegrad/moment_store.hpp>
#include <sparsegrad/sparsegrad.hpp>

// The types that store 16 bits are those of every backend that has them.
namespace sparsegrad::backend {
using Cuda = Reference;
}

namespace snippets {
using namespace sparsegrad;
using namespace sparsegrad::io;
using sparsegrad::bfloat16;  // OpenBLAS's header has one of its own
using B = backend::Cpu;

extern B::Context& ctx;
extern backend::host::Executor& engine;

// An engine's memory. w and bias are of the type that a snippet stores weights in.
struct Memory {
  template <class T>
  operator T*() const;
};
extern index_t out, in, r, c, i;
extern float *W, *dW, *dw, *master, *V, *U, *db;
extern Memory w, bias;
extern MatrixView<float> x, y, dy, dx, g, core;
extern std::vector<MatrixView<const float>> gradients;
struct Matrix {
  float *W, *dW;
  index_t out, in, id;
  std::string kind;
};
extern std::deque<Matrix> mlp_matrices;
void backprop();
void backprop(float*, float*);
void your_optimizer_for_everything_else();
void all_reduce_sum(float*, index_t);
extern std::vector<float> numbers;

// The library's objects.
extern SparseGradGroup<float>& group;
extern SparseGradLinear<float>& layer;
extern SparseAdam<float>& adam;
extern MomentStore<float>& store;
extern StepReport report;
extern SparseGradient<float>&s, &d, &support;
extern std::shared_ptr<const TuckerBasis<float>> basis;
extern HosvdAccumulator<float>& sums;
extern BasisRecipe recipe;
extern std::vector<BasisCollection<float, B>::Layer> layers;
extern GroupOptions options;
extern Communicator& comm;
extern std::shared_ptr<GradientReducer<float, B>> reducer;
}  // namespace snippets
