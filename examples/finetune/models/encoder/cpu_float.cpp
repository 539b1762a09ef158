#include <sparsegrad/backend/cpu_blas.hpp>

#include "models/encoder/encoder_model_impl.hpp"
#include "models/layers/host/layer_ops.hpp"
#include "models/parameters/parameter_set_impl.hpp"

namespace sparsegrad::glue {

template class ParameterSet<float, backend::CpuBlas>;
template class EncoderModel<float, backend::CpuBlas>;

}  // namespace sparsegrad::glue
