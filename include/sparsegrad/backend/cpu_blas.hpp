// backend::CpuBlas: CBLAS for dense products, LAPACKE for the symmetric eigenproblem.
#pragma once

#include "cpu_blas/eigh.hpp"
#include "cpu_blas/serial.hpp"
#include "host/dense_kernels.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend {

/// Products run on the context's threads, each tile a serial BLAS call: with an OpenMP or a serial
/// build of the BLAS nothing else starts threads. Extents up to 2^31 - 1 (32-bit BLAS integers).
struct CpuBlas : host::DenseKernels<detail::BlasSerial> {
  static constexpr const char* name() { return "cpu_blas"; }

  /// By dsytrd, dstemr and products with blocks of reflectors (cpu_blas/eigh.hpp).
  static void eigh(Context& ctx, MatrixView<double> a, double* w) { detail::BlasEigh::eigh(ctx, a, w); }
};

static_assert(Backend<CpuBlas> && LowPrecisionBackend<CpuBlas, bfloat16> &&
              LowPrecisionBackend<CpuBlas, float16>);

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
