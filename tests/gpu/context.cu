#include <sparsegrad/sparsegrad_cuda.cuh>

using DeviceBackend = sparsegrad::backend::Cuda;

#include "support/device_context.hpp"

TEST_CASE("top-k of arrays that many blocks share, with many entries of one magnitude") {
  std::mt19937_64 random(12);
  B::Context ctx;
  backend::Reference::Context host(1);
  for (const index_t n : {index_t{1000}, index_t{100000}, index_t{1} << 22}) {
    Host<float> x = normal<float>(random, n);
    for (index_t e = 0; e < n; e += 3)  // ties at the k-th entry
      x[static_cast<std::size_t>(e)] = e % 2 == 0 ? 2.5F : -2.5F;
    const Buffer<float, B> on_device = to_device<B>(ctx, x);
    for (const index_t k : {n / 50, n / 100}) {  // of fewer than 1/64 a short list is kept aside
      Host<stored_index_t> index(static_cast<std::size_t>(k));
      Host<float> value(index.size());
      backend::Reference::top_k<float>(host, x.data(), n, k, index.data(), value.data());
      Buffer<stored_index_t, B> found(ctx, k);
      Buffer<float, B> values(ctx, k);
      for (int run = 0; run < 20; ++run) {  // a race shows now and then
        B::top_k<float>(ctx, on_device.data(), n, k, found.data(), values.data());
        REQUIRE(to_host<B>(ctx, found.data(), k) == index);
        REQUIRE(to_host<B>(ctx, values.data(), k) == value);
      }
    }
  }
}
