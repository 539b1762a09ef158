#include <sparsegrad/backend/cpu_blas.hpp>

#include "adamw_impl.hpp"
#include "encoder_model_impl.hpp"
#include "host/layer_ops.hpp"
#include "parameter_set_impl.hpp"

namespace sparsegrad::glue {

template class ParameterSet<float, backend::CpuBlas>;
template class EncoderModel<float, backend::CpuBlas>;
template class AdamW<float, backend::CpuBlas>;

}  // namespace sparsegrad::glue
