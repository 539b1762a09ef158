// The classes of float and bfloat16 on backend::Cpu, and what it computes with Eigen for all others.
#include <sparsegrad/backend/cpu/eigen.hpp>
#include <sparsegrad/compiled/cpu.hpp>

namespace sparsegrad::SPARSEGRAD_ABI::backend {

template void Cpu::eigh<void>(Context&, MatrixView<double>, double*);

namespace detail {

template index_t EigenSerial::pack_count<float>(index_t, index_t, index_t);
template index_t EigenSerial::pack_count<double>(index_t, index_t, index_t);
template void EigenSerial::gemm<float>(Op, Op, float, MatrixView<const float>, MatrixView<const float>, float,
                                       MatrixView<float>, std::span<float>);
template void EigenSerial::gemm<double>(Op, Op, double, MatrixView<const double>, MatrixView<const double>,
                                        double, MatrixView<double>, std::span<double>);

}  // namespace detail
}  // namespace sparsegrad::SPARSEGRAD_ABI::backend

SPARSEGRAD_COMPILED_CLASSES(, backend::Cpu)
