// The decoder in 16 bits on a backend whose memory is not the host's, against the CPU's in float (see device_decoder.hpp).
#pragma once

#include "support/device_decoder.hpp"

namespace sparsegrad::finetune::test {

// The gradients of q and k are differences of nearly equal numbers: they are off the most, by some 23 roundings.
TEST_CASE_TEMPLATE("device decoder in 16 bits is the CPU's in float to some roundings", T, bfloat16,
                   float16) {
  check_all_decoders<T, float>(32 * low_precision_epsilon<T> / 2);
}

}  // namespace sparsegrad::finetune::test
