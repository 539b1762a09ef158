#include "encoder_model_impl.hpp"

namespace sparsegrad::glue {

template class EncoderModel<double, backend::CpuBlas>;

}  // namespace sparsegrad::glue
