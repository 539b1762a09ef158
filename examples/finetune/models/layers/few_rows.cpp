#include "models/layers/few_rows.hpp"

#include "models/layers/host/row_products.hpp"

namespace sparsegrad::finetune {

template <class T, class Out>
void few_rows_product(HostContext& ctx, compute_t<T> alpha, MatrixView<const T> x, MatrixView<const T> w,
                      compute_t<T> beta, MatrixView<Out> y) {
  for_weight_rows(ctx, w.rows, w.cols, [&](index_t first, index_t last, index_t) {
    row_products<T, Out>(alpha, x, w.block(first, 0, last - first, w.cols), beta,
                         y.block(0, first, y.rows, last - first));
  });
}

#define FINETUNE_FEW_ROWS(T, Out)                                                         \
  template void few_rows_product<T, Out>(HostContext&, compute_t<T>, MatrixView<const T>, \
                                         MatrixView<const T>, compute_t<T>, MatrixView<Out>)
FINETUNE_FEW_ROWS(float, float);
FINETUNE_FEW_ROWS(double, double);
FINETUNE_FEW_ROWS(sparsegrad::bfloat16, sparsegrad::bfloat16);
FINETUNE_FEW_ROWS(sparsegrad::bfloat16, float);
#undef FINETUNE_FEW_ROWS

}  // namespace sparsegrad::finetune
