// What stands around the CUDA backend's kernels, as far as it can be shown without a GPU: memory that runs out, errors,
// precision, the numbers of Adam's steps.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <thrust/system_error.h>

#include <sparsegrad/backend/reference.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#if __has_include(<cublas_api.h>)
#include <sparsegrad/backend/cuda/error_kind.cuh>
#endif

#include "support/device_memory.hpp"
#include "support/ordered_thrust_host.hpp"

using namespace sparsegrad;
using sparsegrad::test::Host;
using sparsegrad::test::normal;
using sparsegrad::test::to_device;
using sparsegrad::test::to_host;

namespace {

using Base = test::OrderedThrustHost;

/// Has memory for so many allocations.
struct Scarce : Base {
  static inline int left = std::numeric_limits<int>::max();
  struct Memory : Base::Memory {
    std::byte* allocate(std::size_t bytes) {
      if (left-- <= 0) throw std::bad_alloc();
      return Base::Memory::allocate(bytes);
    }
  };
  static Memory memory(const Context&) { return {}; }
};

/// Whose contexts each have a pool, as a GPU's may have an engine's.
struct Pooled : Base {
  struct Memory : Base::Memory {
    int* pieces = nullptr;  ///< that the pool has given and not got back

    std::byte* allocate(std::size_t bytes) {
      ++*pieces;
      return Base::Memory::allocate(bytes);
    }
    void deallocate(std::byte* p) noexcept {
      --*pieces;
      Base::Memory::deallocate(p);
    }
  };
  struct Context : Base::Context {
    explicit Context(int& pool) : Base::Context(1), pieces(&pool) {}
    int* pieces;
  };
  static Memory memory(const Context& ctx) { return {{}, ctx.pieces}; }
};

/// Float products of 8 bits of mantissa where the context allows it, as TF32's of 10 on a GPU.
struct Rounding : Base {
  struct Context : Base::Context {
    Context() : Base::Context(1) {}
    bool full_precision(bool on) { return std::exchange(full, on); }
    bool full = false;
  };
  template <class T>
  static void gemm(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha, ConstMatrixView<T> a,
                   ConstMatrixView<T> b, compute_t<T> beta, MatrixView<T> c) {
    if constexpr (std::is_same_v<T, float>) {
      if (!ctx.full) {
        std::vector<float> rounded(static_cast<std::size_t>(a.rows * a.cols));
        const MatrixView<float> view(rounded.data(), a.rows, a.cols);
        for (index_t i = 0; i < a.rows; ++i)
          for (index_t j = 0; j < a.cols; ++j)
            view(i, j) = static_cast<float>(static_cast<bfloat16>(a(i, j)));
        return Base::gemm<T>(ctx, op_a, op_b, alpha, view, b, beta, c);
      }
    }
    Base::gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, c);
  }
};

/// Thrust fails on it.
struct FailingSystem {
  using Context = backend::portable::ThrustHostContext;

  static std::remove_cvref_t<decltype(thrust::cpp::par)> policy(Context&) {
    throw thrust::system_error(7, thrust::generic_category(), "Thrust's own");
  }
  template <class F>
  static decltype(auto) call(F&& f) {
    try {
      return f();
    } catch (const thrust::system_error& error) {
      throw Error("translated " + std::to_string(error.code().value()));
    }
  }
  template <class K>
  static void launch(Context&, index_t, const K&) {}
  template <class T>
  static T fetch(Context&, const T* p) {
    return *p;
  }
};

}  // namespace

TEST_CASE("Buffer::resize without memory leaves the old elements") {
  Scarce::Context ctx(1);
  Buffer<float, Scarce> buffer(ctx, 3);
  Base::upload<float>(ctx, std::vector<float>{1, 2, 3}.data(), buffer.data(), 3);
  Scarce::left = 0;
  CHECK_THROWS_AS(buffer.resize(ctx, 5), std::bad_alloc);
  REQUIRE(buffer.size() == 3);
  CHECK(buffer.data()[2] == 3);
  Scarce::left = 1;
  buffer.resize(ctx, 5);
  CHECK(buffer.size() == 5);
  CHECK(buffer.data()[2] == 0);
  buffer.resize(ctx, 5);  // needs no memory
  Scarce::left = std::numeric_limits<int>::max();
}

TEST_CASE("a buffer's memory is that of the context at hand, and goes back there") {
  int first = 0;
  int second = 0;
  auto ctx = std::make_unique<Pooled::Context>(first);
  Pooled::Context other(second);
  {
    Buffer<float, Pooled> a(*ctx, 10);
    Buffer<float, Pooled> b(other, 10);
    CHECK((first == 1 && second == 1));
    Buffer<float, Pooled> moved = std::move(a);
    moved.resize(other, 10);  // of this size already
    CHECK((first == 1 && second == 1));
    b = std::move(moved);
    CHECK((first == 1 && second == 0));
    b.resize(other, 11);
    CHECK((first == 0 && second == 1));
    a.resize(*ctx, 3);
    ctx.reset();
  }
  CHECK((first == 0 && second == 0));
}

TEST_CASE(
    "a layer, its basis and its optimizer take their memory from their context, which they may outlive") {
  int pool = 0;
  std::mt19937_64 random(7);
  std::vector<float> weight = normal<float>(random, 48);
  const std::vector<float> gradient = normal<float>(random, 48);
  {
    auto ctx = std::make_unique<Pooled::Context>(pool);
    SparseGradLinear<float, Pooled> layer(*ctx, MatrixView<float>(weight.data(), 8, 6), nullptr);
    GroupOptions options;
    options.entries = 5;
    SparseGradGroup<float, Pooled> group(options);
    group.add(*ctx, layer, "up");
    group.collect(*ctx, {});
    int before = 0;
    for (int step = 0; step < 3; ++step) {
      before = pool;
      layer.add_gradient(*ctx, MatrixView<const float>(gradient.data(), 8, 6));
      if (group.collecting()) {
        group.end_collecting_step(*ctx);
        group.refresh(*ctx);
      } else {
        group.step(*ctx, {});
      }
      CHECK(pool > 0);
    }
    CHECK(pool == before);  // the second step took nothing more
    ctx.reset();
  }
  CHECK(pool == 0);
}

TEST_CASE("scratch: what has run once allocates nothing when it runs again") {
  struct Memory {
    int* calls;
    bool* empty;
    std::byte* allocate(std::size_t bytes) {
      if (*empty) throw std::bad_alloc();
      ++*calls;
      return static_cast<std::byte*>(::operator new(bytes));
    }
    void deallocate(std::byte* p) noexcept { ::operator delete(p); }
  };
  int calls = 0;
  bool empty = false;
  backend::BasicScratch<Memory> scratch(Memory{&calls, &empty});
  using Frame = backend::BasicScratch<Memory>::Frame;
  const auto step = [&] {
    Frame outer(scratch);
    outer.take<char>(1000);
    {
      Frame inner(scratch);
      inner.take<char>(100000);
    }
    outer.take<char>(5000);
  };
  step();
  const int first = calls;
  CHECK(first >= 3);  // two blocks and the one that joins them, all in the first step
  step();
  CHECK(calls == first);
  // Without memory for the joined block the frame ends in peace, and the next says so.
  {
    Frame frame(scratch);
    frame.take<char>(300000);
    empty = true;
  }
  CHECK_THROWS_AS(step(), std::bad_alloc);
  empty = false;
  step();
}

TEST_CASE("bases, and what is carried to them, do not see the precision of layers' products") {
  std::mt19937_64 random(4);
  const Host<float> gradient = normal<float>(random, 24 * 16);
  const auto run = [&](bool full) {
    Rounding::Context ctx;
    ctx.full = full;
    const Buffer<float, Rounding> g = to_device<Rounding>(ctx, gradient);
    HosvdOptions options;
    options.gram_limit_bytes = 12 * 12 * 8;  // both sides are sketched
    options.sketch_columns = 4;
    HosvdAccumulator<float, Rounding> sums(ctx, 24, 16, options);
    sums.add(ctx, g.matrix(24, 16));
    using Basis = TuckerBasis<float, Rounding>;
    const auto sketched = Basis::fit(ctx, sums, SideRecipe::hosvd(3), SideRecipe::hosvd(3));
    const auto from = Basis::from_recipes(ctx, 24, 16, SideRecipe::random(0, 1), SideRecipe::random(0, 2));
    const auto to = Basis::from_recipes(ctx, 24, 16, SideRecipe::random(0, 3), SideRecipe::random(0, 4));
    const OrthogonalityDefect defect = from->orthogonality_defect(ctx);
    CHECK(defect.out < 1e-5);
    CHECK(from->energy(ctx, g.matrix(24, 16), 24 * 16).kept_block == doctest::Approx(1).epsilon(1e-5));
    SparseAdam<float, Rounding> adam(ctx, 24, 16);
    SparseGradient<float, Rounding> s(ctx, 24, 16, 24 * 16);
    SparseGradient<float, Rounding> d(ctx, 24, 16, 24 * 16);
    std::vector<stored_index_t> index(24 * 16);
    for (std::size_t e = 0; e < index.size(); ++e)
      index[e] = static_cast<stored_index_t>(e);
    s.assign(ctx, index, gradient);
    adam.step(ctx, s, {}, d);
    adam.rebase(ctx, *from, *to, MomentsPolicy::transport);
    Host<float> all = adam.state(ctx).array("m");
    for (const auto* side : {&sketched->out(), &sketched->in()}) {
      const Host<float> factor = side->host_factor(ctx);
      all.insert(all.end(), factor.begin(), factor.end());
    }
    CHECK(ctx.full == full);
    return all;
  };
  CHECK(run(false) == run(true));
}

TEST_CASE("what Thrust throws becomes this library's exception") {
  using backend::portable::Kernels;
  using K = Kernels<FailingSystem>;
  FailingSystem::Context ctx(1);
  std::vector<float> x(8);
  std::vector<stored_index_t> list(8);
  const MatrixView<float> view(x.data(), 2, 4);
  CHECK_THROWS_WITH_AS(K::zero<float>(ctx, x.data(), 8), "translated 7", Error);
  CHECK_THROWS_WITH_AS(K::copy<float>(ctx, view, MatrixView<float>(x.data(), 2, 4)), "translated 7", Error);
  CHECK_THROWS_WITH_AS(K::first_nonfinite<float>(ctx, view), "translated 7", Error);
  CHECK_THROWS_WITH_AS(
      K::group_support(ctx, list.data(), 8, 2, 4, true, list.data(), list.data(), list.data(), list.data()),
      "translated 7", Error);
  CHECK_THROWS_WITH_AS(K::locate_entries(ctx, list.data(), 8, list.data(), 8, list.data(), list.data()),
                       "translated 7", Error);
}

TEST_CASE("round_rows: the sign of each row, by its first entry as large as the largest") {
  Base::Context ctx(1);
  const index_t n = 700;
  std::vector<double> x(static_cast<std::size_t>(4 * n), 0.25);
  const MatrixView<double> rows(x.data(), 4, n);
  rows(0, 650) = -0.5;              // the largest, negative
  rows(1, 3) = -0.5 * (1 - 5e-6);   // as large as the largest to 1e-5, and before it
  rows(1, 600) = 0.5;               //
  rows(2, 10) = -0.5 * (1 - 5e-5);  // smaller
  rows(2, 600) = 0.5;               //
  for (index_t j = 0; j < n; ++j)
    rows(3, j) = 0;
  std::vector<float> out(x.size());
  Base::round_rows<float>(ctx, MatrixView<const double>(rows), true, MatrixView<float>(out.data(), 4, n));
  const int signs[] = {-1, -1, 1, 1};
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < n; ++j)
      CHECK(out[static_cast<std::size_t>(i * n + j)] == static_cast<float>(signs[i] * rows(i, j)));
  Base::round_rows<float>(ctx, MatrixView<const double>(rows), false, MatrixView<float>(out.data(), 4, n));
  CHECK(out[650] == -0.5F);
}

TEST_CASE_TEMPLATE("top_k reads an array for its first two digits, then the shortlist alone", T, float,
                   double) {
  namespace portable = backend::portable;
  using List = portable::Shortlist<T>;
  std::mt19937_64 random(8);
  const index_t n = 20 * List::tile + 77;
  const index_t k = n / 100;
  std::vector<T> x = normal<T>(random, n);
  for (index_t i = 3 * List::tile; i < 3 * List::tile + List::room + 8; ++i)
    x[static_cast<std::size_t>(i)] += T(50);  // a tile that has more than there is room for
  Base::Context ctx(1);
  std::vector<stored_index_t> expected(static_cast<std::size_t>(k)), index(expected.size());
  std::vector<T> largest(expected.size()), value(expected.size());
  backend::Reference::top_k<T>(ctx, x.data(), n, k, expected.data(), largest.data());

  const auto tiles = static_cast<std::size_t>((n + List::tile - 1) / List::tile);
  std::vector<std::uint32_t> found(tiles);
  std::vector<T> kept(tiles * List::room);
  std::vector<std::uint16_t> place(kept.size());
  const List list{x.data(), n, found.data(), kept.data(), place.data()};
  portable::SelectState state{};
  std::vector<std::uint32_t> counts(portable::buckets);
  const auto launch = [](const auto& kernel) { test::run_blocks_in_order(kernel.blocks(), kernel); };
  launch(portable::StartSelect{&state, counts.data(), static_cast<std::uint32_t>(k)});
  portable::Digit digit = portable::Digit{8 * static_cast<int>(sizeof(T)) - 1, 0}.next();
  const List unlisted{x.data(), n, nullptr, nullptr, nullptr};
  launch(portable::FindDigit<T, false>{unlisted, digit, &state, counts.data()});
  const std::uint64_t least = state.key;  // no key below it can be chosen
  digit = digit.next();
  launch(portable::FindDigit<T, true>{list, digit, &state, counts.data()});

  index_t listed = 0;
  for (std::size_t t = 0; t < tiles; ++t) {
    std::vector<T> values;
    std::vector<std::uint16_t> places;
    for (index_t i = static_cast<index_t>(t) * List::tile;
         i < std::min(n, (static_cast<index_t>(t) + 1) * List::tile); ++i) {
      if (portable::magnitude_key(x[static_cast<std::size_t>(i)]) < least) continue;
      values.push_back(x[static_cast<std::size_t>(i)]);
      places.push_back(static_cast<std::uint16_t>(i % List::tile));
    }
    CAPTURE(t);
    CHECK(found[t] == values.size());
    if (values.size() > static_cast<std::size_t>(List::room)) continue;
    ++listed;
    CHECK(std::equal(values.begin(), values.end(), kept.begin() + static_cast<index_t>(t) * List::room));
    CHECK(std::equal(places.begin(), places.end(), place.begin() + static_cast<index_t>(t) * List::room));
  }
  CHECK(found[3] > static_cast<std::uint32_t>(List::room));
  CHECK(listed > static_cast<index_t>(tiles) / 2);

  for (index_t i = 0; i < n; ++i)
    if (found[static_cast<std::size_t>(i / List::tile)] <= List::room)
      x[static_cast<std::size_t>(i)] = T(1000);
  for (digit = digit.next(); digit.bits > 0; digit = digit.next())
    launch(portable::FindDigit<T, false>{list, digit, &state, counts.data()});
  const portable::ChosenEntries<T> entries{list, &state, nullptr};
  std::vector<portable::ChosenCount> before(static_cast<std::size_t>(entries.blocks()));
  launch(portable::CountChosen<T>{{list, &state, before.data()}});
  launch(portable::WriteChosen<T>{{list, &state, before.data()}, index.data(), value.data()});
  CHECK(index == expected);
  CHECK(value == largest);
}

TEST_CASE_TEMPLATE("keep_largest_of_rows: what top_k chooses of each row", T, float, double) {
  std::mt19937_64 random(6);
  Base::Context ctx(1);
  for (const index_t cols : {index_t{1}, index_t{7}, index_t{256}, index_t{3001}}) {
    const index_t rows = 6;
    const index_t stride = cols + 3;
    std::vector<T> x = normal<T>(random, rows * stride);
    const MatrixView<T> a(x.data(), rows, cols, stride);
    for (index_t j = 0; j < cols; ++j) {
      a(1, j) = static_cast<T>(static_cast<int>(a(1, j)));  // ties
      a(2, j) = T(0);                                       // nothing but ties
      if (j % 5 == 0) a(3, j) = std::numeric_limits<T>::quiet_NaN();
      if (j % 2 == 0) a(4, j) = -a(4, j - j % 4);
    }
    for (const index_t k : {index_t{0}, index_t{1}, cols / 3, cols - 1, cols}) {
      if (k > cols) continue;
      std::vector<T> expected = x;
      for (index_t i = 0; i < rows; ++i) {
        std::vector<stored_index_t> index(static_cast<std::size_t>(k) + 1);
        std::vector<T> value(index.size());
        backend::Reference::top_k<T>(ctx, a.row(i), cols, k, index.data(), value.data());
        for (index_t j = 0; j < cols; ++j)
          expected[static_cast<std::size_t>(i * stride + j)] = T(0);
        for (index_t e = 0; e < k; ++e) {
          const auto at = static_cast<std::size_t>(e);
          expected[static_cast<std::size_t>(i * stride + index[at])] = value[at];
        }
      }
      std::vector<T> found = x;
      Base::keep_largest_of_rows<T>(ctx, k, MatrixView<T>(found.data(), rows, cols, stride));
      CAPTURE(cols);
      CAPTURE(k);
      bool same = true;
      for (std::size_t e = 0; e < found.size(); ++e)
        same = same && std::memcmp(&found[e], &expected[e], sizeof(T)) == 0;
      CHECK(same);
    }
  }
}

TEST_CASE("expand_nonzeros: rows or columns of a sparse matrix times a factor") {
  std::mt19937_64 random(8);
  Base::Context ctx(1);
  const index_t rows = 700;
  const index_t cols = 9;
  const index_t n = 300;
  Host<double> values = normal<double>(random, rows * cols);
  for (std::size_t e = 0; e < values.size(); ++e)
    if (e % 7 != 0) values[e] = 0;
  const MatrixView<const double> d(values.data(), rows, cols);
  for (const bool columns : {true, false}) {
    const index_t size = columns ? rows : cols;
    const index_t groups = columns ? cols : rows;
    const Host<double> factor = normal<double>(random, size * n);
    Host<double> panel(static_cast<std::size_t>(groups * n), 7.0);  // overwritten
    Base::expand_nonzeros<double>(ctx, d, columns, MatrixView<const double>(factor.data(), size, n),
                                  MatrixView<double>(panel.data(), groups, n));
    double worst = 0;
    for (index_t b = 0; b < groups; ++b) {
      for (index_t j = 0; j < n; ++j) {
        double sum = 0;
        for (index_t a = 0; a < size; ++a)
          sum += (columns ? d(a, b) : d(b, a)) * factor[static_cast<std::size_t>(a * n + j)];
        worst = std::max(worst, std::abs(sum - panel[static_cast<std::size_t>(b * n + j)]));
      }
    }
    CHECK(worst < 1e-12);
  }
}

TEST_CASE("power: as pow, for all steps that a training may take") {
  using backend::portable::power;
  CHECK(power(0.9, 0) == 1);
  CHECK(power(0.9, 1) == 0.9);
  CHECK(power(0, 3) == 0);
  for (const double base : {0.9, 0.999, 0.99999})
    for (const std::int64_t n : {2, 3, 10, 255, 256, 1000, 12345, 1000000})
      CHECK(power(base, n) == doctest::Approx(std::pow(base, static_cast<double>(n)))
                                  .epsilon(1e-16 * static_cast<double>(n) + 1e-15));
}

#if __has_include(<cublas_api.h>)
TEST_CASE("CUDA's errors are told for what they are") {
  using namespace backend::cuda;
  CHECK(kind_of(cudaErrorMemoryAllocation) == ErrorKind::out_of_memory);
  CHECK(kind_of(cudaErrorNoDevice) == ErrorKind::no_device);
  for (const cudaError_t status :
       {cudaErrorInsufficientDriver, cudaErrorCallRequiresNewerDriver, cudaErrorUnsupportedPtxVersion,
        cudaErrorSystemDriverMismatch, cudaErrorCompatNotSupportedOnDevice})
    CHECK(kind_of(status) == ErrorKind::old_driver);
  CHECK(kind_of(cudaErrorNoKernelImageForDevice) == ErrorKind::other_architecture);
  CHECK(kind_of(cudaErrorIllegalAddress) == ErrorKind::sticky);
  CHECK(kind_of(cudaErrorInvalidValue) == ErrorKind::other);
  CHECK(kind_of(CUBLAS_STATUS_ALLOC_FAILED, cudaSuccess) == ErrorKind::out_of_memory);
  CHECK(kind_of(CUBLAS_STATUS_EXECUTION_FAILED, cudaErrorIllegalAddress) == ErrorKind::sticky);
  CHECK(kind_of(CUBLAS_STATUS_INVALID_VALUE, cudaSuccess) == ErrorKind::other);
  CHECK(kind_of(CUSOLVER_STATUS_ALLOC_FAILED, cudaSuccess) == ErrorKind::out_of_memory);

  const auto says = [](ErrorKind kind, int driver, const char* part) {
    return explanation(kind, driver, 13000).find(part) != std::string::npos;
  };
  CHECK(says(ErrorKind::old_driver, 12040, "the driver is for CUDA 12.4, expected one for CUDA 13.0"));
  CHECK(says(ErrorKind::old_driver, 0, "there is no NVIDIA driver, expected one for CUDA 13.0"));
  CHECK(says(ErrorKind::no_device, 13000, "CUDA_VISIBLE_DEVICES"));
  CHECK(says(ErrorKind::other_architecture, 13000, "CMAKE_CUDA_ARCHITECTURES"));
  CHECK(says(ErrorKind::sticky, 13000, "cannot use the device any more"));
  CHECK(explanation(ErrorKind::other, 13000, 13000).empty());
  CHECK(memory_text(12, 80) == "12 of 80 bytes are free");
}
#endif
