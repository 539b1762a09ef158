#include <sparsegrad/backend/cpu_blas.hpp>

#include "models/layers/host/layer_ops.hpp"
#include "training/optimizer/adamw_impl.hpp"

namespace sparsegrad::glue {

template class AdamW<float, backend::CpuBlas>;
template class AdamW<double, backend::CpuBlas>;
template class AdamW<bfloat16, backend::CpuBlas>;

}  // namespace sparsegrad::glue
