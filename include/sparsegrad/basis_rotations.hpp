// BasisRotations: a basis with the precision of a step's rotations.
#pragma once

#include "rotation_side.hpp"
#include "tucker_basis.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::detail {

/// Both sides of a basis as a step's rotations use them. Refers to the basis.
template <class T, Backend B>
struct BasisRotations {
  /// `precision` must be available. What it needs is made at the first call for a basis.
  BasisRotations(typename B::Context& ctx, const TuckerBasis<T, B>& basis, RotationPrecision precision)
      : out(basis.out(), precision, terms(ctx, basis, precision, true)),
        in(basis.in(), precision, terms(ctx, basis, precision, false)) {}

  RotationSide<T, B> out;  ///< V
  RotationSide<T, B> in;   ///< U

 private:
  static SplitMatrix terms(typename B::Context& ctx, const TuckerBasis<T, B>& basis,
                           RotationPrecision precision, bool of_out) {
    if constexpr (splits_products<T, B>) {
      if (precision != RotationPrecision::full) {
        const SplitBasis<B>& split = basis.split(ctx, precision);
        return of_out ? split.out() : split.in();
      }
    }
    return {};
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::detail
