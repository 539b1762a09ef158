// The decoder and its trainer in bfloat16 and half, with the GPU's kernels on Thrust's host system. A warp's tensor cores
// are loops there.
#include "support/thrust_host_causal.hpp"

namespace sparsegrad::finetune {

SPARSEGRAD_TEST_CAUSAL(bfloat16);
SPARSEGRAD_TEST_CAUSAL(float16);

}  // namespace sparsegrad::finetune

#define SPARSEGRAD_TEST_DEVICE_TYPES bfloat16, float16
#include "support/device_causal_train.hpp"
#include "support/device_narrow_decoder.hpp"
