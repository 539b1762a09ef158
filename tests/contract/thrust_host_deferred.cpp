#include "support/deferred_backend.hpp"
#include "support/ordered_thrust_host.hpp"

using DeviceBackend = sparsegrad::test::Deferred<sparsegrad::test::OrderedThrustHost>;

#include "support/device_method.hpp"

namespace sparsegrad::test {

TEST_CASE("a group's step does not wait, unless it is told to") {
  for (const auto& [source, bases] :
       {std::pair(Source::layers, true), std::pair(Source::given, true), std::pair(Source::layers, false)}) {
    for (const NonFinite policy : {NonFinite::raise, NonFinite::skip, NonFinite::propagate}) {
      ManyLayers m(std::nullopt, policy, source, bases);
      m.group->reserve(m.ctx);  // memory that grows waits
      for (int s = 0; s < 3; ++s) {
        m.write_gradients();
        m.ctx.synchronize();
        const int before = m.ctx.waits;
        m.give_gradients();
        m.group->step(m.ctx, {.learning_rate = 1e-2, .weight_decay = 0.1});
        CHECK(m.ctx.waits == before);
        CHECK_FALSE(m.ctx.queue.empty());
      }
    }
  }
  ManyLayers compact(1.5);
  compact.gradients();
  const int before = compact.ctx.waits;
  compact.group->step(compact.ctx, {});
  CHECK(compact.ctx.waits > before);
}

TEST_CASE("a basis is finished when it is returned: another context may use it at once") {
  using B = DeviceBackend;
  std::mt19937_64 random(2);
  B::Context maker;
  B::Context user;
  const Buffer<float, B> g = to_device<B>(user, normal<float>(random, 10 * 6));
  const Buffer<float, B> other = to_device<B>(maker, normal<float>(random, 10 * 6));
  HosvdAccumulator<float, B> sums(maker, 10, 6);
  sums.add(maker, other.matrix(10, 6));
  using Basis = TuckerBasis<float, B>;
  const auto fitted = Basis::fit(maker, sums, SideRecipe::hosvd(), SideRecipe::hosvd(3));
  const auto project = [&](const Basis& basis) {
    Buffer<float, B> core(user, basis.rows() * basis.cols());
    basis.project(user, g.matrix(10, 6), core.matrix(basis.rows(), basis.cols()));
    return to_host<B>(user, core.data(), core.size());
  };
  const auto same_later = [&](const Basis& basis) {
    const Host<float> at_once = project(basis);
    maker.run();
    CHECK(project(basis) == at_once);
  };
  same_later(*fitted);
  same_later(*Basis::from_recipes(maker, 10, 6, SideRecipe::random(), SideRecipe::hadamard()));
  const Buffer<float, B> unit = to_device<B>(maker, Host<float>{0, 1, 0, 0, 0, 0});
  same_later(*Basis::from_sides(BasisSide<float, B>::identity(10),
                                BasisSide<float, B>::from_factor(maker, unit.matrix(6, 1))));
  same_later(*Basis::from_sides(BasisSide<float, B>::identity(10),
                                BasisSide<float, B>::from_rows(maker, unit.matrix(1, 6))));

  const LowPrecisionBasis<bfloat16, B>& low = fitted->low_precision<bfloat16>(maker);
  Buffer<bfloat16, B> tokens(user, 4 * 6);
  B::round_to<bfloat16>(user, g.matrix(10, 6).block(0, 0, 4, 6), tokens.matrix(4, 6));
  const auto product = [&] {
    Buffer<bfloat16, B> y(user, 4 * 3);
    low.in().project_columns(user, tokens.matrix(4, 6), y.matrix(4, 3));
    return to_host<B>(user, y.data(), y.size());
  };
  const Host<bfloat16> at_once = product();
  maker.run();
  const Host<bfloat16> later = product();
  for (std::size_t e = 0; e < later.size(); ++e)
    CHECK(static_cast<float>(at_once[e]) == static_cast<float>(later[e]));
}

}  // namespace sparsegrad::test
