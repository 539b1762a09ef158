#if __has_include(<sparsegrad/sparsegrad.hpp>)
#include <sparsegrad/sparsegrad.hpp>
#endif
#include <cblas.h>
#include <lapacke.h>

#include <Eigen/Core>
#include <nlohmann/json.hpp>

int main() {
  const float x[3] = {1, 2, 3};
  const float blas = cblas_sdot(3, x, 1, x, 1);
  float matrix[4] = {2, 0, 0, 3};
  float eigenvalues[2] = {};
  const int info = LAPACKE_ssyevd(LAPACK_ROW_MAJOR, 'N', 'U', 2, matrix, 2, eigenvalues);
  const float eigen = Eigen::Map<const Eigen::Vector3f>(x).squaredNorm();
  const nlohmann::json json = {{"dot", blas}};
  return blas == eigen && info == 0 && eigenvalues[1] > 2.5f && json.contains("dot") ? 0 : 1;
}
