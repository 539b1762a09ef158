#include <sparsegrad/backend/cpu_blas.hpp>

#include "models/encoder/encoder_model_impl.hpp"
#include "models/layers/host/layer_ops.hpp"
#include "models/parameters/parameter_set_impl.hpp"

namespace sparsegrad::glue {

template class ParameterSet<bfloat16, backend::CpuBlas>;
template class EncoderModel<bfloat16, backend::CpuBlas>;

}  // namespace sparsegrad::glue
