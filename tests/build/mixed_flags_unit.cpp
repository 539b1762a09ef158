// One unit of a program whose units are compiled with different flags; MIXED_FLAGS_UNIT is its name.
#include <sparsegrad/backend/host/lanes.hpp>
#include <sparsegrad/core/float_bits.hpp>

using sparsegrad::backend::host::Lanes;

/// The sum of a vector of ones over their number: 1, unless another unit's code, whose vectors are shorter, took it.
extern "C" float MIXED_FLAGS_UNIT(const float* x, bool* finite);
extern "C" float MIXED_FLAGS_UNIT(const float* x, bool* finite) {
  *finite = sparsegrad::is_finite(*x);
  const float ones[] = {1, 1, 1, 1, 1, 1, 1, 1};
  const auto v = Lanes<float>::load(ones);
  float sums[4];
  sparsegrad::backend::host::sums_of(v, v, v, v, sums);
  return sums[0] / static_cast<float>(Lanes<float>::count);
}
