// The serial product in float of oneDNN that is made for no shape.
#pragma once

#include <oneapi/dnnl/dnnl.h>

#include <span>
#include <string>

#include "../../core/error.hpp"
#include "../cpu_blas/serial.hpp"
#include "../host/blas_threads.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::onednn {

/// For products whose operands were converted block by block: dnnl_sgemm takes any extents and
/// factors at once, where a matmul would be made for each. It is fast on x86-64 alone; elsewhere,
/// and for small products, the BLAS multiplies.
struct FloatSerial {
  template <class T>
  static index_t pack_count(index_t, index_t, index_t) {
    return 0;
  }
  template <class T>
  static void gemm(Op op_a, Op op_b, float alpha, MatrixView<const float> a, MatrixView<const float> b,
                   float beta, MatrixView<float> c, std::span<float> pack) {
#if defined(__x86_64__)
    const index_t depth = op_a == Op::none ? a.cols : a.rows;
    constexpr double fewest = 1 << 15;
    const double work =
        static_cast<double>(c.rows) * static_cast<double>(c.cols) * static_cast<double>(depth);
    if (alpha != 0.0F && work >= fewest) {
      const auto letter = [](Op op) { return op == Op::none ? 'N' : 'T'; };
      const host::BlasThreads serial(1);
      const dnnl_status_t status = dnnl_sgemm(letter(op_a), letter(op_b), c.rows, c.cols, depth, alpha,
                                              a.data, a.stride, b.data, b.stride, beta, c.data, c.stride);
      if (status == dnnl_success) return;
      throw Error("dnnl_sgemm of oneDNN returned status " + std::to_string(status));
    }
#endif
    detail::BlasSerial::gemm<float>(op_a, op_b, alpha, a, b, beta, c, pack);
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::onednn
