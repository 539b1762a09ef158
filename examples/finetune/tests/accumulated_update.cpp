// What training adds to a matrix that stays packed: sums over bases, in the least memory, with the numbers of a matrix
// that takes the same updates itself.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "models/host_backend.hpp"
#include "models/layers/random.hpp"
#include "models/mlp/accumulated_update.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;

namespace {

using Host = HostBackend;
using Update = AccumulatedUpdate<float, Host>;
using Basis = TuckerBasis<float, Host>;
using Side = BasisSide<float, Host>;

constexpr index_t out = 12;
constexpr index_t in = 16;

/// A matrix [out, in] and the same one with its updates beside it.
struct Both {
  Both() : weight(random(out * in, 1)), still(weight), update(out, in, RotationPrecision::full) {}
  static std::vector<float> random(index_t count, std::uint64_t key) {
    std::vector<float> values;
    for (index_t i = 0; i < count; ++i)
      values.push_back(static_cast<float>(normal_at(key, static_cast<std::uint64_t>(i))));
    return values;
  }
  /// Entries `first`, `first` + `step`, ... of the core; step 1 and first 0: all.
  void add(const std::shared_ptr<const Basis>& basis, index_t first, index_t step, double decay = 0) {
    const index_t core = basis->rows() * basis->cols();
    std::vector<stored_index_t> positions;
    for (index_t i = first; i < core; i += step)
      positions.push_back(static_cast<stored_index_t>(i));
    const std::vector<float> values = random(static_cast<index_t>(positions.size()), ++number);
    SparseGradient<float, Host> d(ctx, basis->rows(), basis->cols(), static_cast<index_t>(positions.size()));
    d.assign(ctx, positions, values);
    update.add(ctx, basis, d, decay);
    update_weight<float, Host>(ctx, TrainedWeight<float>({weight.data(), out, in}, WeightLayout::out_in),
                               *basis, d, decay);
  }
  double difference() {
    std::vector<float> beside = still;
    update.apply(ctx, {beside.data(), out, in});
    double worst = 0;
    for (std::size_t i = 0; i < beside.size(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(beside[i]) - static_cast<double>(weight[i])));
    return worst;
  }

  Host::Context ctx{1};
  std::vector<float> weight, still;
  Update update;
  std::uint64_t number = 1;
};

std::shared_ptr<const Basis> one_side(Host::Context& ctx, std::uint64_t seed) {
  return Basis::from_sides(Side::identity(out), Side::random(ctx, in, 3, seed));
}

}  // namespace

TEST_CASE("the sum of updates is that of a matrix that takes them, in every kind of basis") {
  Both all;
  CHECK(all.update.empty());
  Host::Context& ctx = all.ctx;
  for (const auto& basis : {Basis::identity(out, in), one_side(ctx, 5),
                            Basis::from_sides(Side::random(ctx, out, out, 6), Side::random(ctx, in, in, 7)),
                            Basis::from_sides(Side::random(ctx, out, 4, 8), Side::hadamard(ctx, in, 9)),
                            Basis::from_sides(Side::hadamard(ctx, out, 3), Side::identity(in))}) {
    Both one;
    for (Both* both : {&one, &all}) {
      both->add(basis, 0, 5);
      CHECK_FALSE(both->update.empty());
      both->add(basis, 0, 5);  // the same support
      both->add(basis, 2, 5, 0.1);
      both->add(basis, 1, 3);
      CHECK(both->difference() < 2e-5);
      both->add(basis, 0, 1);  // all of it
      both->add(basis, 2, 7);
      CHECK(both->difference() < 4e-5);
    }
  }
  CHECK(all.update.keep() == doctest::Approx(std::pow(0.9, 5)));
}

TEST_CASE(
    "entries take eight bytes each, until dense numbers take less, and old terms no more than a matrix") {
  Both both;
  const auto identity = Basis::identity(out, in);
  both.add(identity, 0, 24);
  CHECK(both.update.bytes() == 8 * 8);
  both.add(identity, 0, 24);
  CHECK(both.update.bytes() == 8 * 8);
  both.add(identity, 12, 24);
  CHECK(both.update.bytes() == 16 * 8);
  both.add(identity, 1, 2);
  CHECK(both.update.bytes() == out * in * 4);
  CHECK(both.update.terms().front().core.dense());

  Both several;
  constexpr index_t dense = out * in * 4;
  std::size_t most = 0;
  for (std::uint64_t refresh = 0; refresh < 9; ++refresh) {
    const auto basis = one_side(several.ctx, 100 + refresh);
    several.add(basis, 0, 1);
    CHECK(several.update.terms().back().basis == basis);
    most = std::max(most, several.update.terms().size());
    CHECK(several.update.bytes() <= 2 * dense + out * 3 * 4);
  }
  CHECK(most > 2);
  CHECK(several.update.terms().size() < 9);
  CHECK(several.difference() < 4e-5);
}
