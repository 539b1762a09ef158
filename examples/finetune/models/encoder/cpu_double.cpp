#include <sparsegrad/backend/cpu_blas.hpp>

#include "adamw_impl.hpp"
#include "encoder_model_impl.hpp"
#include "host/layer_ops.hpp"
#include "parameter_set_impl.hpp"

namespace sparsegrad::glue {

template class ParameterSet<double, backend::CpuBlas>;
template class EncoderModel<double, backend::CpuBlas>;
template class AdamW<double, backend::CpuBlas>;

}  // namespace sparsegrad::glue
