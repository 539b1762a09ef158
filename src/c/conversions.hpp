// The C interface's structs as the library's types. What is out of range is refused here or there, with its name.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>

#include <sparsegrad/c/sparsegrad.h>
#include <sparsegrad/core/error.hpp>
#include <sparsegrad/core/low_precision.hpp>
#include <sparsegrad/core/number.hpp>
#include <sparsegrad/core/view.hpp>
#include <sparsegrad/sparse_adam.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

namespace sparsegrad::c {

/// "float32", "bfloat16", "float16", or the number.
inline std::string dtype_text(sparsegrad_dtype dtype) {
  switch (dtype) {
    case SPARSEGRAD_FLOAT32:
      return "float32";
    case SPARSEGRAD_BFLOAT16:
      return "bfloat16";
    case SPARSEGRAD_FLOAT16:
      return "float16";
    default:
      return "dtype " + std::to_string(dtype);
  }
}

/// The dtype of X.
template <class X>
inline constexpr sparsegrad_dtype dtype_of =
    std::is_same_v<std::remove_const_t<X>, float>      ? SPARSEGRAD_FLOAT32
    : std::is_same_v<std::remove_const_t<X>, bfloat16> ? SPARSEGRAD_BFLOAT16
                                                       : SPARSEGRAD_FLOAT16;

/// Throws ValueError unless value is in [0, count).
inline void require_choice(const char* what, std::int32_t value, std::int32_t count) {
  if (value >= 0 && value < count) return;
  throw ValueError(std::string(what) + " is " + std::to_string(value) + ", expected one of 0 to " +
                   std::to_string(count - 1));
}

/// Throws ValueError for a pointer that a call cannot do without.
inline void require_pointer(const char* what, const void* pointer) {
  if (pointer == nullptr) throw ValueError(std::string(what) + " is NULL");
}

/// The elements of a matrix, as X. Throws ValueError for elements of another type, or not aligned.
template <class X, class Void>
X* elements(const char* what, Void* data, sparsegrad_dtype dtype) {
  if (dtype != dtype_of<X>) {
    throw ValueError(std::string(what) + " is of " + dtype_text(dtype) + ", expected " +
                     dtype_text(dtype_of<X>));
  }
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(X) != 0) {
    throw ValueError(std::string(what) + " begins at an address that is no multiple of " +
                     std::to_string(alignof(X)) + ", the size of its elements");
  }
  return static_cast<X*>(data);
}

/// The matrix as a view of X, const for a sparsegrad_const_matrix. Throws ShapeError and ValueError,
/// naming it.
template <class X, class Matrix>
MatrixView<X> view(const char* what, const Matrix& m) {
  X* data = elements<X>(what, m.data, m.dtype);
  return with_name([&] { return std::string(what); },
                   [&] { return MatrixView<X>(data, m.rows, m.cols, m.stride == 0 ? m.cols : m.stride); });
}

/// The same, or an empty view for no matrix.
template <class X, class Matrix>
MatrixView<X> optional_view(const char* what, const Matrix& m) {
  if (m.data == nullptr && m.rows == 0 && m.cols == 0) return {};
  return view<X>(what, m);
}

/// A matrix back.
template <class X>
sparsegrad_const_matrix matrix_of(MatrixView<const X> m) {
  return {m.data, m.rows, m.cols, m.stride, dtype_of<X>};
}

/// A weight as the library has it.
template <class T>
TrainedWeight<T> trained_weight(const sparsegrad_weight& weight) {
  require_choice("layout", weight.layout, 2);
  const WeightLayout layout =
      weight.layout == SPARSEGRAD_OUT_IN ? WeightLayout::out_in : WeightLayout::in_out;
  const MatrixView<T> w = view<T>("the weight", weight.matrix);
  if constexpr (is_low_precision<T>) {
    if (weight.master == nullptr) return TrainedWeight<T>(w, layout);  // says what is missing
    const std::int64_t stride = weight.master_stride == 0 ? w.cols : weight.master_stride;
    float* master = elements<float>("the master", weight.master, SPARSEGRAD_FLOAT32);
    return TrainedWeight<T>(w, MatrixView<float>(master, w.rows, w.cols, stride), layout);
  } else {
    if (weight.master != nullptr) {
      throw ValueError("the weight is of float32 and has a master, expected NULL: it is its own");
    }
    return TrainedWeight<T>(w, layout);
  }
}

/// The recipe of one side.
inline SideRecipe side_recipe(const char* what, const sparsegrad_side& side) {
  require_choice(what, side.recipe, 4);
  const bool counts = side.recipe == SPARSEGRAD_HOSVD || side.recipe == SPARSEGRAD_RANDOM;
  if (side.rank < 0 || (side.rank != 0 && !counts)) {
    throw ValueError(std::string(what) + ": rank is " + std::to_string(side.rank) +
                     (counts ? ", expected >= 0 (0: full)" : ", expected 0 for a side that has no rank"));
  }
  if (side.energy != 0 && (side.recipe != SPARSEGRAD_HOSVD || side.rank != 0)) {
    throw ValueError(std::string(what) + ": energy is " + number_text(side.energy) +
                     ", expected 0 unless for a HOSVD side without a rank");
  }
  switch (side.recipe) {
    case SPARSEGRAD_IDENTITY:
      return SideRecipe::identity();
    case SPARSEGRAD_RANDOM:
      return SideRecipe::random(side.rank, side.seed);
    case SPARSEGRAD_HADAMARD:
      return SideRecipe::hadamard(side.seed);
    default:
      break;
  }
  if (side.energy != 0) {
    return with_name([&] { return std::string(what); },
                     [&] { return SideRecipe::hosvd(Truncation::energy(side.energy)); });
  }
  return side.rank == 0 ? SideRecipe::hosvd() : SideRecipe::hosvd(side.rank);
}

/// Throws ValueError unless the options were filled by their `_init`.
template <class Options>
void require_init(const char* name, const Options& options) {
  if (options.struct_size == sizeof(Options)) return;
  throw ValueError(std::string(name) + ".struct_size is " + std::to_string(options.struct_size) +
                   ", expected " + std::to_string(sizeof(Options)) + ": call " + name +
                   "_init first (or the program was compiled with the header of another version)");
}

/// The options given, or their defaults.
template <class Options>
Options options_or_default(const char* name, const Options* options, void (*init)(Options*)) {
  Options defaults;
  init(&defaults);
  if (options == nullptr) return defaults;
  require_init(name, *options);
  return *options;
}

/// What becomes of the moments.
inline MomentsPolicy moments_policy(std::int32_t moments) {
  require_choice("moments", moments, 2);
  return moments == SPARSEGRAD_MOMENTS_RESET ? MomentsPolicy::reset : MomentsPolicy::transport;
}

/// How a group's bases are made.
inline BasisRecipe basis_recipe(const sparsegrad_group_options& options) {
  require_choice("scope", options.scope, 2);
  BasisRecipe recipe;
  recipe.scope = options.scope == SPARSEGRAD_SCOPE_KIND ? BasisScope::kind : BasisScope::layer;
  recipe.normalize = options.normalize != 0;
  recipe.gram_limit_bytes = options.gram_limit_bytes;
  // Refused when the group is made, where no callback may change them later.
  (void)side_recipe("out_side", options.out_side);
  (void)side_recipe("in_side", options.in_side);
  recipe.sides = [options](const std::string& kind) {
    sparsegrad_side out = options.out_side;
    sparsegrad_side in = options.in_side;
    if (options.sides != nullptr) options.sides(options.sides_user, kind.c_str(), &out, &in);
    return with_name([&] { return "kind '" + kind + "'"; },
                     [&] {
                       return SideRecipes{side_recipe("out_side", out), side_recipe("in_side", in)};
                     });
  };
  return recipe;
}

/// The options of an Adam, by itself or in a group, but for its capacity.
inline SparseAdamOptions adam_numbers(double beta1, double beta2, double eps, std::int32_t semantics,
                                      std::int32_t overflow) {
  require_choice("semantics", semantics, 3);
  require_choice("overflow", overflow, 3);
  constexpr AdamSemantics meanings[] = {AdamSemantics::torch, AdamSemantics::per_entry_step,
                                        AdamSemantics::dense_core};
  constexpr Overflow overflows[] = {Overflow::evict_smallest, Overflow::go_dense, Overflow::error};
  SparseAdamOptions result;
  result.beta1 = beta1;
  result.beta2 = beta2;
  result.eps = eps;
  result.semantics = meanings[semantics];
  result.overflow = overflows[overflow];
  return result;
}
/// The options of an Adam by itself.
inline SparseAdamOptions adam_options(const sparsegrad_adam_options& options) {
  SparseAdamOptions result =
      adam_numbers(options.beta1, options.beta2, options.eps, options.semantics, options.overflow);
  result.capacity = options.capacity;
  return result;
}

/// A group's options.
inline GroupOptions group_options(const sparsegrad_group_options& options) {
  require_choice("non_finite", options.non_finite, 2);
  GroupOptions result;
  result.density = options.density;
  result.entries = options.entries;
  result.warmup_steps = options.warmup_steps;
  result.recipe = basis_recipe(options);
  result.optimizer =
      adam_numbers(options.beta1, options.beta2, options.eps, options.semantics, options.overflow);
  result.capacity_factor = options.capacity_factor;
  result.non_finite = options.non_finite == SPARSEGRAD_NON_FINITE_RAISE ? NonFinite::raise : NonFinite::skip;
  return result;
}

/// Calls f with a matrix of any type, named `what`, as a view of its own type.
template <class F>
decltype(auto) with_matrix(const char* what, const sparsegrad_const_matrix& matrix, F&& f) {
  require_choice((std::string(what) + "'s dtype").c_str(), matrix.dtype, 3);
  if (matrix.dtype == SPARSEGRAD_BFLOAT16) return f(view<const bfloat16>(what, matrix));
  if (matrix.dtype == SPARSEGRAD_FLOAT16) return f(view<const float16>(what, matrix));
  return f(view<const float>(what, matrix));
}

}  // namespace sparsegrad::c
