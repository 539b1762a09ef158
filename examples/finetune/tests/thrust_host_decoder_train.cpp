// The trainer of language models with the GPU's kernels on Thrust's host system.
#include "support/thrust_host_causal.hpp"

namespace sparsegrad::finetune {

SPARSEGRAD_TEST_CAUSAL(float);

}  // namespace sparsegrad::finetune

#define SPARSEGRAD_TEST_DEVICE_TYPES float
#include "support/device_causal_train.hpp"
