#include <sparsegrad/backend/cpu_blas.hpp>

using ContractBackend = sparsegrad::backend::CpuBlas;

#include "contract.hpp"

namespace sparsegrad::test {
namespace {

TEST_CASE("eigh: several blocks of reflectors, numbers far from 1") {
  Random random(8);
  for (const index_t n : {128, 129, 300}) {
    for (const double size : {1.0, 1e-120, 1e120}) {
      CAPTURE(n);
      CAPTURE(size);
      std::vector<double> values = normal_values<double>(random, n);
      for (index_t i = 0; i < n; ++i)
        values[static_cast<std::size_t>(i)] *= size * std::pow(10.0, static_cast<double>(-(i % 9)));
      const PaddedMatrix<double> a = with_spectrum(values, random);
      PaddedMatrix<double> work = a;
      std::vector<double> w(values.size());
      Context ctx(2);
      B::eigh(ctx, work.view(), w.data());
      check_eigenpairs(a, work, w);
    }
  }
}

}  // namespace
}  // namespace sparsegrad::test
