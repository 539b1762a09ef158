#include "models/mlp/packed_product.hpp"

#include <type_traits>

#include "models/layers/host/row_products.hpp"

namespace sparsegrad::finetune {

template <class T>
void round_numbers(const float* from, index_t n, T* to) {
  if constexpr (is_low_precision<T>) {
    for_packs<float>(n, [=](auto at) { at.store(to, at.load(from)); });
  } else {
    for (index_t i = 0; i < n; ++i)
      to[i] = static_cast<T>(from[i]);
  }
}

template <class T, class Out>
void packed_product(HostContext& ctx, MatrixView<const T> x, const PackedMatrix& w, MatrixView<Out> y) {
  using C = compute_t<T>;
  w.require_whole();
  const index_t cols = w.cols();
  auto frame = ctx.frame();
  const MatrixView<float> unpacked = frame.matrix<float>(ctx.threads(), cols);
  const MatrixView<T> rounded = frame.matrix<T>(std::is_same_v<T, float> ? 0 : ctx.threads(), cols);
  for_weight_rows(ctx, w.rows(), cols, [&](index_t first, index_t last, index_t part) {
    float* const values = unpacked.row(part);
    for (index_t j = first; j < last; ++j) {
      w.read(j, 0, cols, values);
      MatrixView<const T> row;
      if constexpr (std::is_same_v<T, float>) {
        row = MatrixView<const T>(values, 1, cols);
      } else {
        round_numbers(values, cols, rounded.row(part));
        row = MatrixView<const T>(rounded.row(part), 1, cols);
      }
      row_products<T, Out>(C(1), x, row, C(0), y.block(0, j, y.rows, 1));
    }
  });
}

#define FINETUNE_PACKED_PRODUCT(T, Out)                                                        \
  template void packed_product<T, Out>(HostContext&, MatrixView<const T>, const PackedMatrix&, \
                                       MatrixView<Out>)
FINETUNE_PACKED_PRODUCT(float, float);
FINETUNE_PACKED_PRODUCT(double, double);
FINETUNE_PACKED_PRODUCT(sparsegrad::bfloat16, sparsegrad::bfloat16);
FINETUNE_PACKED_PRODUCT(sparsegrad::bfloat16, float);
#undef FINETUNE_PACKED_PRODUCT

template void round_numbers(const float*, index_t, double*);
template void round_numbers(const float*, index_t, sparsegrad::bfloat16*);

}  // namespace sparsegrad::finetune
