// Every number that comes in has a range, in the type in which it is used: what lies outside is refused with its value
// and the range. Most options are doubles and most sums floats, so that a number may be fine in the one and Inf or 0 in
// the other.
#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include <sparsegrad/core/number.hpp>
#include <sparsegrad/extras/core_adapter.hpp>
#include <sparsegrad/extras/sparse_sgd.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

struct Case {
  std::string name;
  std::function<void()> call;
  const char* found;     ///< the message begins with it; null: it is accepted
  const char* expected;  ///< and holds this
};

void check(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    CAPTURE(c.name);
    const std::string message = message_of(c.call);
    if (c.found == nullptr) {
      CHECK(message == "nothing was thrown");
      continue;
    }
    CHECK(message.substr(0, std::string(c.found).size()) == c.found);
    CHECK(contains(message, std::string("expected ") + c.expected));
  }
}

template <class T>
std::function<void()> adam(SparseAdamOptions options) {
  return [=] {
    B::Context ctx;
    SparseAdam<T, B>(ctx, 2, 3, options);
  };
}
template <class T>
std::function<void()> sgd(SparseSgdOptions options) {
  return [=] {
    B::Context ctx;
    SparseSgd<T, B>(ctx, 2, 3, options);
  };
}
/// One step of an optimizer with one entry, which must leave its state as it was where it is refused.
template <class O, class T>
std::function<void()> step_of(typename O::Options options, StepOptions step) {
  return [=] {
    B::Context ctx;
    O optimizer(ctx, 2, 3, options);
    SparseGradient<T, B> s(ctx, 2, 3, 1), d(ctx, 2, 3, 1);
    s.assign(ctx, std::vector<stored_index_t>{1}, std::vector<T>{2});
    const auto before = optimizer.state(ctx);
    try {
      optimizer.step(ctx, s, step, d);
    } catch (const Error&) {
      CHECK(optimizer.state(ctx) == before);
      throw;
    }
    CHECK(is_finite(d.values()[0]));
    CHECK(is_finite(optimizer.state(ctx).array("m")[1]));
  };
}
template <class T>
std::function<void()> adam_step(StepOptions step, SparseAdamOptions options = {}) {
  return step_of<SparseAdam<T, B>, T>(options, step);
}
template <class T>
std::function<void()> sgd_step(StepOptions step, SparseSgdOptions options = {}) {
  return step_of<SparseSgd<T, B>, T>(options, step);
}
/// A group's step, which must leave the weight as it was where it is refused.
template <class T>
std::function<void()> group_step(GroupStep step, SparseAdamOptions options = {}) {
  return [=] {
    B::Context ctx;
    std::vector<T> w{1, 2, 3, 4, 5, 6};
    const std::vector<T> g{1, 2, 3, 4, 5, -6};
    SparseGradGroup<T, B> group({.entries = 2, .optimizer = options});
    group.add_weight(ctx, {w.data(), 2, 3}, "w");
    const std::vector<T> before = w;
    group.set_gradient(0, {g.data(), 2, 3});
    try {
      group.step(ctx, step);
    } catch (const Error&) {
      CHECK(w == before);
      CHECK(group.optimizer(0).steps() == 0);
      throw;
    }
    for (const T x : w)
      CHECK(is_finite(x));
  };
}
std::function<void()> group(GroupOptions options) {
  return [=] { (void)Group(options); };
}
std::function<void()> linear(LinearOptions options) {
  return [=] {
    B::Context ctx;
    std::vector<double> w(6);
    Layer(ctx, {w.data(), 2, 3}, nullptr, options);
  };
}
std::function<void()> weight(CostModel model) {
  return [=] {
    B::Context ctx;
    std::vector<double> w(6);
    Group g;
    g.add_weight(ctx, {w.data(), 2, 3}, "w", {.cost_model = model});
  };
}
std::function<void()> update(double decay, CostModel model) {
  return [=] {
    B::Context ctx;
    std::vector<double> w(6, 1.0);
    const std::vector<double> before = w;
    SparseGradient<double, B> d(ctx, 2, 3, 1);
    const auto basis = TuckerBasis<double, B>::identity(2, 3);
    try {
      update_weight<double, B>(ctx, TrainedWeight<double>({w.data(), 2, 3}, WeightLayout::out_in), *basis, d,
                               decay, model);
    } catch (const Error&) {
      CHECK(w == before);
      throw;
    }
  };
}
std::function<void()> hosvd(HosvdOptions options, index_t out = 2) {
  return [=] {
    B::Context ctx;
    HosvdAccumulator<float, B>(ctx, out, 3, options);
  };
}
/// Two gradients of squared norm 6e20 with this weight.
std::function<void()> weighted(double weight, bool normalize = false) {
  return [=] {
    B::Context ctx;
    HosvdAccumulator<double, B> sums(ctx, 2, 3, {.normalize = normalize});
    const std::vector<double> g(6, 1e10);
    sums.add(ctx, MatrixView<const double>(g.data(), 2, 3), weight);
    sums.add(ctx, MatrixView<const double>(g.data(), 2, 3), weight);
    CHECK(is_finite(sums.total_energy()));
  };
}
std::function<void()> adapter_decay(double decay) {
  return [=] {
    B::Context ctx;
    CoreAdapter<double, B> adapter(ctx, TuckerBasis<double, B>::identity(2, 3));
    SparseGradient<double, B> d(ctx, 2, 3, 1);
    adapter.apply(ctx, d, decay);
  };
}

}  // namespace

TEST_CASE("ranges: Adam's options") {
  check({
      {"beta1 of 1", adam<float>({.beta1 = 1}), "beta1 is 1", "0 <= beta1 < 1"},
      {"beta1 below 0", adam<float>({.beta1 = -1e-9}), "beta1 is -1e-09", "0 <= beta1 < 1"},
      {"beta1 NaN", adam<float>({.beta1 = not_a_number}), "beta1 is nan", "0 <= beta1 < 1"},
      {"beta2 of 1", adam<double>({.beta2 = 1}), "beta2 is 1", "0 <= beta2 < 1"},
      {"beta2 Inf", adam<double>({.beta2 = infinity}), "beta2 is inf", "0 <= beta2 < 1"},
      {"both betas 0", adam<float>({.beta1 = 0, .beta2 = 0}), nullptr, nullptr},
      {"betas next to 1", adam<float>({.beta1 = 1 - 1e-12, .beta2 = 1 - 1e-12}), nullptr, nullptr},
      {"eps of 0", adam<double>({.eps = 0}), "eps is 0", "a finite number >= 2.2250738585072014e-308"},
      {"eps lost in float", adam<float>({.eps = 1e-50}), "eps is 1e-50", "a finite number >= 1.1754944e-38"},
      {"eps below 0", adam<float>({.eps = -1e-8}), "eps is -1e-08", "a finite number >= 1.1754944e-38"},
      {"eps Inf in float", adam<float>({.eps = 1e39}), "eps is 1e+39", "a finite number"},
      {"eps Inf once its bias is corrected", adam<float>({.eps = 1e38}), "eps is 1e+38", "a finite number"},
      {"eps NaN", adam<float>({.eps = not_a_number}), "eps is nan", "a finite number"},
      {"the same eps in double", adam<double>({.eps = 1e-50}), nullptr, nullptr},
      {"capacity", adam<float>({.capacity = -1}), "capacity is -1", ">= 0"},
  });
}

TEST_CASE("ranges: a step of Adam") {
  const char* rate = "0 <= learning_rate <= 3.4028235e+38";
  const char* scale = "0, or a magnitude from 1.1754944e-38 to 3.4028235e+38";
  check({
      {"rate Inf in float", adam_step<float>({.learning_rate = 1e39}), "learning_rate is 1e+39", rate},
      {"the same rate in double", adam_step<double>({.learning_rate = 1e39}), nullptr, nullptr},
      {"rate below 0", adam_step<float>({.learning_rate = -1e-9}), "learning_rate is -1e-09", rate},
      {"rate NaN", adam_step<float>({.learning_rate = not_a_number}), "learning_rate is nan", rate},
      {"rate Inf once its bias is corrected", adam_step<float>({.learning_rate = 1e38}),
       "learning_rate is 1e+38", "learning_rate / (1 - beta1) <= 3.4028235e+38 with beta1 = 0.9"},
      {"the same rate and beta1 = 0", adam_step<float>({.learning_rate = 1e38}, {.beta1 = 0, .beta2 = 0}),
       nullptr, nullptr},
      {"rate of 0", adam_step<float>({.learning_rate = 0}), nullptr, nullptr},
      {"rate too small for float", adam_step<float>({.learning_rate = 1e-50}), nullptr, nullptr},
      {"scale Inf in float", adam_step<float>({.grad_scale = -1e39}), "grad_scale is -1e+39", scale},
      {"scale lost in float", adam_step<float>({.grad_scale = 1e-50}), "grad_scale is 1e-50", scale},
      {"scale NaN", adam_step<float>({.grad_scale = not_a_number}), "grad_scale is nan", scale},
      {"the same scales in double", adam_step<double>({.grad_scale = 1e-50}), nullptr, nullptr},
      {"scale of 0", adam_step<float>({.grad_scale = 0}), nullptr, nullptr},
  });
  CHECK(contains(message_of(adam_step<float>({.grad_scale = 3e38})),
                 "entry 0 of the gradient is 2, times grad_scale 3e+38 beyond 3.4028235e+38 in magnitude"));
}

TEST_CASE("ranges: SGD") {
  check({
      {"momentum of 1", sgd<double>({.momentum = 1}), "momentum is 1", "0 <= momentum <= 0.9999999999999999"},
      {"momentum of 1 in float", sgd<float>({.momentum = 1 - 1e-12}), "momentum is 0.999999999999",
       "0 <= momentum <= 0.99999994"},
      {"the same momentum in double", sgd<double>({.momentum = 1 - 1e-12}), nullptr, nullptr},
      {"momentum below 0", sgd<float>({.momentum = -0.5}), "momentum is -0.5", "0 <= momentum"},
      {"momentum NaN", sgd<float>({.momentum = not_a_number}), "momentum is nan", "0 <= momentum"},
      {"capacity", sgd<float>({.capacity = -7}), "capacity is -7", ">= 0"},
      {"rate", sgd_step<float>({.learning_rate = 1e39}), "learning_rate is 1e+39", "0 <= learning_rate"},
      {"scale", sgd_step<float>({.grad_scale = infinity}), "grad_scale is inf", "0, or a magnitude"},
      {"rate times scale", sgd_step<float>({.learning_rate = 1e20, .grad_scale = 1e20}, {.nesterov = true}),
       "learning_rate * grad_scale is 1e+40", "a magnitude <= 3.4028235e+38"},
  });
  CHECK(contains(message_of(sgd_step<float>({.grad_scale = 3e38})), "beyond 3.4028235e+38 in magnitude"));
}

TEST_CASE("ranges: a group's step changes no weight where it is refused") {
  const char* rate = "0 <= learning_rate <= 3.4028235e+38";
  check({
      {"rate Inf in float", group_step<float>({.learning_rate = 1e39}), "learning_rate is 1e+39", rate},
      {"rate Inf once its bias is corrected", group_step<float>({.learning_rate = 1e38}),
       "weight 0 ('w'): learning_rate is 1e+38", "learning_rate / (1 - beta1)"},
      {"a rate below 0, and small", group_step<float>({.learning_rate = -1e-9}), "learning_rate is -1e-09",
       rate},
      {"decay below 0", group_step<float>({.learning_rate = 0, .weight_decay = -1}), "weight_decay is -1",
       "a finite number >= 0"},
      {"decay NaN", group_step<float>({.weight_decay = not_a_number}), "weight_decay is nan",
       "a finite number >= 0"},
      {"decay Inf", group_step<float>({.learning_rate = 0, .weight_decay = infinity}), "weight_decay is inf",
       "a finite number >= 0"},
      {"decay of more than the weight", group_step<float>({.learning_rate = 1e-3, .weight_decay = 1001}),
       "learning_rate * weight_decay is 1.001", "it in [0, 1]"},
      {"decay beyond double", group_step<double>({.learning_rate = 1e300, .weight_decay = 1e300}),
       "learning_rate * weight_decay is inf", "it in [0, 1]"},
      {"all of the weight", group_step<float>({.learning_rate = 0.5, .weight_decay = 2}), nullptr, nullptr},
      {"scale Inf in float", group_step<float>({.grad_scale = 1e39}), "grad_scale is 1e+39", "0, or a"},
      {"scale lost in float", group_step<float>({.grad_scale = 1e-46}), "grad_scale is 1e-46", "0, or a"},
      {"the same in double", group_step<double>({.grad_scale = 1e-46}), nullptr, nullptr},
  });
}

TEST_CASE("ranges: a group's options") {
  const auto recipe = [](index_t limit) {
    BasisRecipe r;
    r.gram_limit_bytes = limit;
    return r;
  };
  check({
      {"density of 0", group({.density = 0}), "density is 0", "0 < density <= 1"},
      {"density NaN", group({.density = not_a_number}), "density is nan", "0 < density <= 1"},
      {"density above 1", group({.density = 1.0000001}), "density is 1.0000001", "0 < density <= 1"},
      {"density tiny", group({.density = 1e-300}), nullptr, nullptr},
      {"capacity_factor", group({.capacity_factor = -0.5}), "capacity_factor is -0.5", ">= 0"},
      {"capacity_factor NaN", group({.capacity_factor = not_a_number}), "capacity_factor is nan", ">= 0"},
      {"warmup_steps", group({.warmup_steps = -1}), "warmup_steps is -1", ">= 0"},
      {"gram_limit_bytes", group({.recipe = recipe(-8)}), "gram_limit_bytes is -8", ">= 0"},
  });
}

TEST_CASE("ranges: a positive capacity_factor, however small, asks for a compact state") {
  Model model;
  GroupOptions options = keeping(5);
  for (const auto& [factor, compact, capacity] :
       {std::tuple(0.01, true, 1), std::tuple(1.0, true, 5), std::tuple(0.0, false, 48)}) {
    options.capacity_factor = factor;
    Group g(options);
    model.add_to(g);
    CHECK(g.optimizer(0).compact() == compact);
    CHECK(g.optimizer(0).capacity() == capacity);
  }
}

TEST_CASE("ranges: workloads, cost models, decays") {
  const char* numbers = "finite numbers >= 0";
  check({
      {"no tokens", linear({.workload = {.tokens = 0}}), "the workload is 1 micro-batches of 0 tokens",
       "both numbers >= 1"},
      {"no micro-batches", linear({.workload = {.micro_batches = -2}}), "the workload is -2", "both numbers"},
      {"a layer's cost", linear({.cost_model = CostModel{.sparse_entry = not_a_number}}),
       "the cost model has", numbers},
      {"a weight's cost", weight({.transform_entry = -1}), "the cost model has transform_entry -1", numbers},
      {"an update's cost", update(0.5, {.transform_entry = infinity}), "the cost model has", numbers},
      {"an update's decay", update(-0.25, {}), "decay is -0.25", "0 <= learning rate * weight decay <= 1"},
      {"an update's decay NaN", update(not_a_number, {}), "decay is nan",
       "0 <= learning rate * weight decay <= 1"},
      {"an adapter's decay", adapter_decay(1.5), "decay is 1.5", "0 <= learning rate * weight decay <= 1"},
  });
  Model model;
  const Plan plan = model.layers[0]->plan();
  CHECK_THROWS_AS(model.layers[0]->set_plan(model.ctx, {}, {.tokens = -1}), ValueError);
  CHECK(model.layers[0]->plan() == plan);
}

TEST_CASE("ranges: what bases are fitted from") {
  const char* sum = "one whose product with the gradient's squared norm";
  check({
      {"limit", hosvd({.gram_limit_bytes = -1}), "gram_limit_bytes is -1", ">= 0"},
      {"sketch", hosvd({.sketch_columns = -3}), "gram_limit_bytes is 536870912 and sketch_columns -3",
       ">= 0"},
      {"extent", hosvd({}, -2), "gradients of -2x3", "extents >= 0"},
      {"weight below 0", weighted(-1e-7), "weight of gradient 0 is -1e-07", "finite and >= 0"},
      {"weight NaN", weighted(not_a_number), "weight of gradient 0 is nan", "finite and >= 0"},
      {"weight whose energy is Inf", weighted(1e290), "weight of gradient 0 is 1e+290", sum},
      {"weights whose sum is Inf", weighted(1.7e308, true), "weight of gradient 1 is 1.7e+308", sum},
      {"weight of 0", weighted(0), nullptr, nullptr},
      {"rank", [] { (void)SideRecipe::hosvd(0); }, "rank is 0", "rank >= 1"},
      {"random rank", [] { (void)SideRecipe::random(-1); }, "rank of a random side is -1", ">= 0"},
      {"energy of 0", [] { (void)Truncation::energy(0); }, "energy fraction is 0", "0 < fraction <= 1"},
      {"energy above 1", [] { (void)Truncation::energy(1.5); }, "energy fraction is 1.5",
       "0 < fraction <= 1"},
      {"energy NaN", [] { (void)Truncation::energy(not_a_number); }, "energy fraction is nan",
       "0 < fraction <= 1"},
      {"k",
       [] {
         B::Context ctx;
         const std::vector<double> core(6);
         SparseGradient<double, B> s(ctx, 2, 3, 2);
         select_entries<double, B>(ctx, TopK{-1}, MatrixView<const double>(core.data(), 2, 3), s);
       },
       "k is -1", "k >= 0"},
  });
}

namespace {

/// A float layer of 2x3 in a group with this policy, after one step with a gradient whose largest entry is 3e38.
struct Overflowing {
  explicit Overflowing(NonFinite policy) : group({.entries = 2, .non_finite = policy}) {
    group.add_weight(ctx, {w.data(), 2, 3}, "first");
    group.add_weight(ctx, {w.data() + 6, 2, 3}, "last");
  }
  GroupReport step(double scale) {
    group.set_gradient(0, {small.data(), 2, 3});
    group.set_gradient(1, {large.data(), 2, 3});
    return group.step(ctx, {.learning_rate = 1, .grad_scale = scale});
  }

  B::Context ctx;
  std::vector<float> w = std::vector<float>(12, 1.0F);
  std::vector<float> small{1, 2, 3, 4, 5, 6}, large{1, 2, 3e38F, 4, 5, -6};
  SparseGradGroup<float, B> group;
};

}  // namespace

TEST_CASE(
    "ranges: gradients that grad_scale takes beyond float are treated as Inf, whichever layer has them") {
  const std::vector<float> before(12, 1.0F);
  for (const NonFinite policy : {NonFinite::raise, NonFinite::propagate}) {
    Overflowing o(policy);
    for (const double scale : {100.0, -100.0}) {
      CHECK(contains(message_of([&] { o.step(scale); }),
                     "weight 1 ('last'): entry 0 of the gradient is 3e+38, times grad_scale "));
      CHECK(o.w == before);
      CHECK(o.group.optimizer(0).steps() == 0);
      o.group.clear(o.ctx);
    }
  }
  Overflowing skipping(NonFinite::skip);
  const GroupReport report = skipping.step(100);
  CHECK(report.skipped);
  CHECK(report.kept == 0);
  CHECK(skipping.w == before);
  CHECK(skipping.group.optimizer(0).steps() == 0);

  // Finite, but not its square in Adam's v, which would be Inf, and NaN in the next step.
  Overflowing squares(NonFinite::raise);
  for (const double scale : {1.0, 1e-18, 0.5}) {
    CHECK(contains(message_of([&] { squares.step(scale); }),
                   "in magnitude, the largest that the optimizer takes"));
    CHECK(squares.w == before);
    squares.group.clear(squares.ctx);
  }
  CHECK(skipping.step(1).skipped);
  Overflowing fits(NonFinite::raise);
  for (int step = 0; step < 3; ++step)
    CHECK_FALSE(fits.step(step == 0 ? 5e-20 : 1e-20).skipped);
  for (const float x : fits.w)
    CHECK(is_finite(x));
  CHECK(fits.w != before);
}

TEST_CASE("ranges: numbers in messages are the shortest that read back") {
  CHECK(number_text(-1e-9) == "-1e-09");
  CHECK(number_text(0.1) == "0.1");
  CHECK(number_text(1.0 / 3) == "0.3333333333333333");
  CHECK(number_text(0.1F) == "0.1");
  CHECK(number_text(1.0 / 3, 3) == "0.333");
  CHECK(number_text(-1.23456e-9, 3) == "-1.23e-09");
  CHECK(number_text(infinity, 3) == "inf");
  CHECK(number_text(infinity) == "inf");
  CHECK(number_text(-infinity) == "-inf");
  CHECK(number_text(5e-324) == "5e-324");
  CHECK(contains(number_text(not_a_number), "nan"));
  CHECK(finite_in<float>(3.4e38));
  CHECK_FALSE(finite_in<float>(3.5e38));
  CHECK(finite_in<double>(3.5e38));
  CHECK_FALSE(finite_in<double>(not_a_number));
  CHECK(normal_in<float>(0));
  CHECK(normal_in<float>(-1.2e-38));
  CHECK_FALSE(normal_in<float>(1e-38));
  CHECK(normal_in<double>(1e-38));
}
