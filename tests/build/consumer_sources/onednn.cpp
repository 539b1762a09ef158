#include <sparsegrad/backend/cpu_onednn.hpp>
#include <vector>

int main() {
  using sparsegrad::MatrixView;
  using sparsegrad::Op;
  using sparsegrad::backend::CpuOneDnn;
  CpuOneDnn::Context ctx(2);
  const std::vector<float> x(64 * 64, 0.5F);
  std::vector<float> y(64 * 64);
  const MatrixView<const float> a(x.data(), 64, 64);
  CpuOneDnn::gemm<float>(ctx, Op::none, Op::transpose, 1.0F, a, a, 0.0F, MatrixView<float>(y.data(), 64, 64));
  return y[0] == 16.0F && y[64 * 64 - 1] == 16.0F ? 0 : 1;
}
