#include "encoder_model_impl.hpp"

namespace sparsegrad::glue {

template class EncoderModel<float, backend::CpuBlas>;

}  // namespace sparsegrad::glue
