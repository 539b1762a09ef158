// RotationPrecision: how exact the products of a basis with float gradients and updates are.
#pragma once

#include <concepts>
#include <span>
#include <type_traits>

#include "core/backend.hpp"
#include "core/low_precision.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// How the products of a step's rotations are taken: V^T dW U of a float gradient at the end of a
/// step, and the weight's update V D U^T.
///
/// bf16xN takes each number as a sum of N bfloat16 numbers, x = hi + lo + ..., each the rounded rest
/// of those before, and adds up, in float, all products of two terms whose places add up to less
/// than N: hi hi, then also lo hi and hi lo, and so on. The names and the products are those of the
/// compute modes float_to_bf16, float_to_bf16x2 and float_to_bf16x3 of Intel's oneMKL. What each
/// loses: docs/math.md.
enum class RotationPrecision {
  full,    ///< float products
  bf16x1,  ///< 1 product of bfloat16, each operand exact to 2^-9
  bf16x2,  ///< 3 products, exact to 2^-17
  bf16x3,  ///< 6 products, as exact as float
};

/// The precision's name: "full", "bf16x1", "bf16x2" or "bf16x3".
inline const char* to_string(RotationPrecision precision) {
  switch (precision) {
    case RotationPrecision::full:
      return "full";
    case RotationPrecision::bf16x1:
      return "bf16x1";
    case RotationPrecision::bf16x2:
      return "bf16x2";
    case RotationPrecision::bf16x3:
      return "bf16x3";
  }
  return "?";
}

/// Number of bfloat16 numbers that stand for one of float; 0 for `full`.
inline int bfloat16_terms(RotationPrecision precision) {
  return static_cast<int>(precision);
}

/// Number of products of bfloat16 that one of float becomes; 0 for `full`.
inline int bfloat16_products(RotationPrecision precision) {
  const int terms = bfloat16_terms(precision);
  return terms * (terms + 1) / 2;
}

namespace contract {

/// Terms [i] (bfloat16) of A = terms[0] + terms[1] + ..., each the rounded rest of those before; and
/// a context that knows whether products of bfloat16 gain anything.
template <class B>
concept HasSplit = requires(typename B::Context& ctx, MatrixView<const float> a,
                            std::span<const MatrixView<bfloat16>> terms) {
  B::split(ctx, a, terms);
  { ctx.template multiplies<bfloat16>() } -> std::same_as<bool>;
};

}  // namespace contract

namespace detail {

/// Whether products of T can be taken in terms of bfloat16 on B.
template <class T, class B>
inline constexpr bool splits_products =
    std::is_same_v<T, float>&& LowPrecisionBackend<B, bfloat16>&& contract::HasSplit<B>;

/// Whether the context's processor multiplies numbers of S = bfloat16 or float16 itself.
template <class S, class Context>
bool multiplies(const Context& ctx) {
  if constexpr (requires { ctx.template multiplies<S>(); }) return ctx.template multiplies<S>();
  return false;
}

}  // namespace detail

/// What becomes of `wanted` where rotations are in C: itself where the processor multiplies bfloat16
/// numbers and the backend makes use of it (backend::CpuOneDnn), else full.
template <class C, Backend B>
RotationPrecision available_rotations(const typename B::Context& ctx, RotationPrecision wanted) {
  if constexpr (detail::splits_products<C, B>)
    return detail::multiplies<bfloat16>(ctx) ? wanted : RotationPrecision::full;
  return RotationPrecision::full;
}

/// The rotations of layers that store T and choose none: bf16x1 for bfloat16, where it is available,
/// else full. docs/results/rotations.md has the measurements behind it.
template <class T, Backend B>
RotationPrecision default_rotations(const typename B::Context& ctx) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return available_rotations<float, B>(ctx, RotationPrecision::bf16x1);
  return RotationPrecision::full;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
