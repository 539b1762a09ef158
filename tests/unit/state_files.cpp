#include "sparsegrad/io/state_file.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "sparsegrad/backend/cpu_blas.hpp"
#include "sparsegrad/backend/reference.hpp"
#include "support/stacks.hpp"

using namespace sparsegrad;
using namespace sparsegrad::io;

namespace {

const std::string folder = SPARSEGRAD_TEST_OUTPUT_DIR;

template <class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const IoError& error) {
    return error.what();
  } catch (const Error& error) {
    return std::string("not an IoError: ") + error.what();
  }
  return "nothing was thrown";
}

template <class X>
bool same_bits(const std::vector<X>& a, const std::vector<X>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(X)) == 0);
}

template <class T, class B>
void check_same(typename B::Context& ctx, const BasisSide<T, B>& a, const BasisSide<T, B>& b) {
  CHECK(a.kind() == b.kind());
  CHECK(a.extent() == b.extent());
  CHECK(a.rank() == b.rank());
  CHECK(same_bits(a.host_factor(ctx), b.host_factor(ctx)));
  CHECK(same_bits(a.host_signs(ctx), b.host_signs(ctx)));
}

void check_same(const SideReport& a, const SideReport& b) {
  CHECK(same_bits(a.spectrum, b.spectrum));
  CHECK(same_bits<double>({a.kept_energy, a.tail_energy}, {b.kept_energy, b.tail_energy}));
}

template <class T, class B>
std::shared_ptr<const TuckerBasis<T, B>> fitted(typename B::Context& ctx) {
  HosvdAccumulator<T, B> sums(ctx, 6, 8);
  for (std::uint64_t seed = 1; seed < 4; ++seed) {
    auto g = test::random_matrix<T>(6, 8, seed);
    sums.add(ctx, g.view(), 1.0);
  }
  return TuckerBasis<T, B>::fit(ctx, sums, SideRecipe::hosvd(4), SideRecipe::hosvd());
}

template <class T, class B>
SparseAdam<T, B> stepped(typename B::Context& ctx, const SparseAdamOptions& options) {
  SparseAdam<T, B> adam(ctx, 6, 8, options);
  for (int t = 0; t < 3; ++t) {
    SparseGradient<T, B> s(ctx, 6, 8, 4);
    const std::vector<stored_index_t> index{t, 7 + t, 20, 47};
    const std::vector<T> values{T(0.1), T(-2), T(1e-30), T(t)};
    s.assign(ctx, index, values);
    SparseGradient<T, B> d(ctx, 6, 8, adam.update_capacity(4));
    adam.step(ctx, s, {}, d);
  }
  return adam;
}

template <class T>
bool same_state(const OptimizerState<T>& a, const OptimizerState<T>& b) {
  return a.type == b.type && a.rows == b.rows && a.cols == b.cols && a.capacity == b.capacity &&
         a.numbers == b.numbers && a.texts == b.texts && a.steps == b.steps && a.compact == b.compact &&
         same_bits(a.index, b.index) && same_bits(a.array("m"), b.array("m")) &&
         same_bits(a.array("v"), b.array("v")) && same_bits(a.count, b.count);
}

/// The arrays and metadata of one saved object, to be changed and put together again.
struct Parts {
  struct Array {
    DType dtype;
    std::vector<index_t> shape;
    std::vector<std::byte> bytes;
  };
  std::map<std::string, Array> arrays;
  std::map<std::string, std::string> metadata;

  explicit Parts(const SafetensorsFile& file) : metadata(file.metadata()) {
    for (const std::string& name : file.names()) {
      const Tensor tensor = file.find(name);
      arrays[name] = {tensor.dtype, tensor.shape, {tensor.bytes.begin(), tensor.bytes.end()}};
    }
  }
  template <class X>
  void set(const std::string& name, std::vector<index_t> shape, const std::vector<X>& values) {
    const auto bytes = std::as_bytes(std::span<const X>(values));
    arrays[name] = {dtype_of<X>(), std::move(shape), {bytes.begin(), bytes.end()}};
  }
  SafetensorsFile file() const {
    SafetensorsWriter writer;
    for (const auto& [key, value] : metadata)
      writer.metadata(key, value);
    for (const auto& [name, array] : arrays)
      writer.add(name, array.dtype, array.shape, array.bytes);
    return SafetensorsFile(FileBytes::from(writer.bytes()), "f");
  }
};

template <class Object>
Parts parts_of(DefaultBackend::Context& ctx, const Object& object) {
  SafetensorsWriter writer;
  put(ctx, writer, "p.", object);
  return Parts(SafetensorsFile(FileBytes::from(writer.bytes()), "f"));
}

/// The reader's message after a change.
std::string after(Parts parts, const std::function<void(Parts&)>& change,
                  const std::function<void(const SafetensorsFile&)>& read) {
  change(parts);
  return message([&] { read(parts.file()); });
}

}  // namespace

TEST_CASE_TEMPLATE("state files: a whole model's state in one file, bit by bit", S, SPARSEGRAD_TEST_SETUPS) {
  using T = typename S::T;
  using B = typename S::B;
  using Side = BasisSide<T, B>;
  using Basis = TuckerBasis<T, B>;
  typename B::Context ctx(1);
  const std::vector<std::shared_ptr<const Basis>> bases{
      fitted<T, B>(ctx),
      Basis::identity(6, 8),
      Basis::from_sides(Side::hadamard(ctx, 6, 1), Side::random(ctx, 8, 3, 2)),
      Basis::from_sides(Side::identity(0), Side::random(ctx, 8, 0, 2)),
  };
  std::vector<SparseAdam<T, B>> adams;
  for (const AdamSemantics semantics :
       {AdamSemantics::torch, AdamSemantics::per_entry_step, AdamSemantics::dense_core}) {
    for (const index_t capacity : {0, 4, 20}) {
      for (const Overflow overflow : {Overflow::go_dense, Overflow::evict_smallest}) {
        adams.push_back(stepped<T, B>(
            ctx,
            {.beta1 = 0.7, .eps = 1e-7, .semantics = semantics, .capacity = capacity, .overflow = overflow}));
      }
    }
  }
  SparseGradient<T, B> sparse(ctx, 6, 8, 5);
  const std::vector<stored_index_t> index{0, 13, 47};
  const std::vector<T> values{T(-0.0), T(0.1), std::numeric_limits<T>::denorm_min()};
  sparse.assign(ctx, index, values);
  SparseGradient<T, B> none(ctx, 6, 8, 5);
  SparseGradient<T, B> dense(ctx, 2, 2, 4);
  const std::vector<T> four{1, 2, 3, 4};
  dense.set_count(4);
  B::template upload<T>(ctx, four.data(), dense.values(), 4);

  SafetensorsWriter writer;
  for (std::size_t i = 0; i < bases.size(); ++i)
    put(ctx, writer, "basis." + std::to_string(i) + ".", *bases[i]);
  for (std::size_t i = 0; i < adams.size(); ++i)
    put(ctx, writer, "adam." + std::to_string(i) + ".", adams[i]);
  put(ctx, writer, "sparse.", sparse);
  put(ctx, writer, "none.", none);
  put(ctx, writer, "dense.", dense);
  const std::string path = folder + "/model.safetensors";
  writer.write(path);
  const SafetensorsFile file(path);

  for (std::size_t i = 0; i < bases.size(); ++i) {
    CAPTURE(i);
    const auto basis = get_basis<T, B>(ctx, file, "basis." + std::to_string(i) + ".");
    check_same<T, B>(ctx, basis->out(), bases[i]->out());
    check_same<T, B>(ctx, basis->in(), bases[i]->in());
    check_same(basis->report().out, bases[i]->report().out);
    check_same(basis->report().in, bases[i]->report().in);
    CHECK(basis->report().gradients == bases[i]->report().gradients);
    CHECK(basis->report().total_energy == bases[i]->report().total_energy);
  }
  CHECK(bases[0]->report().gradients == 3);
  for (std::size_t i = 0; i < adams.size(); ++i) {
    CAPTURE(i);
    const std::string prefix = "adam." + std::to_string(i) + ".";
    const OptimizerState<T> expected = adams[i].state(ctx);
    CHECK(same_state(get_adam<T, B>(ctx, file, prefix).state(ctx), expected));
    SparseAdam<T, B> into(ctx, 6, 8, adams[i].options());
    get(ctx, file, prefix, into);
    CHECK(same_state(into.state(ctx), expected));
  }
  const auto delta = get_delta<T, B>(ctx, file, "sparse.");
  CHECK(delta.rows() == 6);
  CHECK(delta.cols() == 8);
  CHECK(delta.count() == 3);
  CHECK(std::equal(index.begin(), index.end(), delta.indices()));
  CHECK(std::memcmp(delta.values(), values.data(), 3 * sizeof(T)) == 0);
  CHECK(get_delta<T, B>(ctx, file, "none.").count() == 0);
  CHECK(get_delta<T, B>(ctx, file, "dense.").dense());
  CHECK(std::equal(four.begin(), four.end(), get_delta<T, B>(ctx, file, "dense.").values()));

  // Each alone.
  save(ctx, path, *bases[0]);
  check_same<T, B>(ctx, load_basis<T, B>(ctx, path)->out(), bases[0]->out());
  save(ctx, path, adams[2]);
  SparseAdam<T, B> into(ctx, 6, 8, adams[2].options());
  load(ctx, path, into);
  CHECK(same_state(into.state(ctx), adams[2].state(ctx)));
  save(ctx, path, sparse);
  CHECK(load_delta<T, B>(ctx, path).count() == 3);
}

TEST_CASE("state files: what the readers refuse in a basis") {
  DefaultBackend::Context ctx(1);
  using Side = BasisSide<float>;
  const auto basis = TuckerBasis<float>::from_sides(Side::random(ctx, 6, 4, 1), Side::hadamard(ctx, 8, 2));
  const Parts good = parts_of(ctx, *basis);
  const auto text = [&](const std::function<void(Parts&)>& change) {
    return after(good, change, [&](const SafetensorsFile& f) { (void)get_basis<float>(ctx, f, "p."); });
  };
  CHECK(text([](Parts&) {}) == "nothing was thrown");
  CHECK(text([](Parts& p) { p.metadata.erase("p.type"); }) ==
        "f: holds nothing under 'p.', expected a tucker_basis 1");
  CHECK(text([](Parts& p) { p.metadata["p.type"] = "sparse_adam 1"; }) ==
        "f: 'p.' is a 'sparse_adam 1', expected a 'tucker_basis 1'");
  CHECK(text([](Parts& p) { p.metadata["p.out.kind"] = "other"; }) ==
        "f: metadata 'p.out.kind' is 'other', expected one of identity, factor, hadamard, random");
  CHECK(text([](Parts& p) { p.metadata.erase("p.in.kind"); }) == "f: metadata has no 'p.in.kind'");
  CHECK(text([](Parts& p) {
          p.set<std::int64_t>("p.out.extents", {2}, {6, 7});
        }) == "f: tensor 'p.out.extents' says extent 6 and rank 7, expected 0 <= rank <= extent < 2^31");
  CHECK(
      text([](Parts& p) {
        p.set<std::int64_t>("p.out.extents", {2}, {index_t{1} << 40, 4});
      }) ==
      "f: tensor 'p.out.extents' says extent 1099511627776 and rank 4, expected 0 <= rank <= extent < 2^31");
  CHECK(text([](Parts& p) {
          p.set<std::int64_t>("p.in.extents", {2}, {8, 7});
        }) ==
        "f: tensor 'p.in.extents' says extent 8 and rank 7, expected equal ones for a side of kind "
        "hadamard");
  CHECK(text([](Parts& p) { p.set<std::int64_t>("p.in.extents", {1}, {8}); }) ==
        "f: tensor 'p.in.extents' has shape [1], expected [2]");
  CHECK(text([](Parts& p) {
          p.set<std::int64_t>("p.out.extents", {2}, {6, 5});
        }) == "f: tensor 'p.out.factor' has shape [4, 6], expected [5, 6]");
  CHECK(text([](Parts& p) {
          p.arrays["p.out.factor"].shape = {6, 4};
        }) == "f: tensor 'p.out.factor' has shape [6, 4], expected [4, 6]");
  CHECK(text([](Parts& p) { p.arrays.erase("p.out.factor"); }).find("tensor 'p.out.factor' is missing") !=
        std::string::npos);
  CHECK(text([](Parts& p) {
          p.set<double>("p.out.factor", {4, 6}, std::vector<double>(24));
        }) == "f: tensor 'p.out.factor' has dtype F64, expected F32");
  CHECK(text([](Parts& p) {
          std::vector<float> f(24);
          f[5] = NAN;
          p.set("p.out.factor", {4, 6}, f);
        }) == "f: tensor 'p.out.factor' has NaN at element 5, expected finite numbers");
  CHECK(
      text([](Parts& p) {
        p.set<float>("p.out.factor", {4, 6}, std::vector<float>(24));
      }) ==
      "f: tensor 'p.out.factor' has rows that are not orthonormal: the largest defect is 1, expected at most "
      "0.0001");
  const auto bent = [&](float by, double tolerance) {
    Parts parts = good;
    auto factor = good.file().read<float>("p.out.factor");
    factor[7] += by;
    parts.set("p.out.factor", {4, 6}, factor);
    return message([&] { (void)get_basis<float>(ctx, parts.file(), "p.", tolerance); });
  };
  CHECK(bent(0.001F, 1e-4).find("not orthonormal") != std::string::npos);
  CHECK(bent(0.001F, NAN).find("not orthonormal") != std::string::npos);
  CHECK(bent(0.001F, 0.01) == "nothing was thrown");
  CHECK(text([](Parts& p) {
          p.set<float>("p.in.signs", {8}, {1, 1, 1, 2, 1, 1, 1, 1});
        }) == "f: 'p.in.': sign 3 of a Hadamard side is 2, expected 1 or -1");
  CHECK(text([](Parts& p) { p.set<float>("p.in.signs", {7}, std::vector<float>(7, 1)); }) ==
        "f: tensor 'p.in.signs' has shape [7], expected [8]");
  CHECK(text([](Parts& p) { p.set<double>("p.in.spectrum", {1}, {INFINITY}); }) ==
        "f: tensor 'p.in.spectrum' has Inf at element 0, expected finite numbers");
  CHECK(text([](Parts& p) {
          p.set<double>("p.in.spectrum", {1, 1}, {1});
        }) == "f: tensor 'p.in.spectrum' has shape [1, 1], expected one extent");
  CHECK(text([](Parts& p) { p.set<std::int64_t>("p.gradients", {1}, {-2}); }) ==
        "f: tensor 'p.gradients' is -2, expected >= 0");
  CHECK(text([](Parts& p) { p.set<double>("p.total_energy", {1}, {NAN}); }) ==
        "f: tensor 'p.total_energy' is nan, expected a finite number >= 0");
  CHECK(text([](Parts& p) { p.set<double>("p.total_energy", {1}, {-1}); }) ==
        "f: tensor 'p.total_energy' is -1, expected a finite number >= 0");
  CHECK(text([](Parts& p) {
          p.set<double>("p.in.spectrum", {2}, {1, -0.5});
        }) == "f: tensor 'p.in.spectrum' has -0.5, expected >= 0");
  const auto energy = [&](double kept, double tail) {
    return text([&](Parts& p) { p.set<double>("p.out.energy", {2}, {kept, tail}); });
  };
  CHECK(energy(NAN, NAN) == "nothing was thrown");
  CHECK(energy(1, 0) == "nothing was thrown");
  for (const auto& [kept, tail] :
       {std::pair{1.5, 0.0}, {-0.5, 0.0}, {HUGE_VAL, 0.0}, {0.5, -1.0}, {0.5, HUGE_VAL}})
    CHECK(energy(kept, tail).find("expected a fraction in [0, 1] and a finite energy >= 0") !=
          std::string::npos);
}

TEST_CASE("state files: what the readers refuse in an optimizer's state") {
  DefaultBackend::Context ctx(1);
  const SparseAdamOptions options{.semantics = AdamSemantics::per_entry_step, .capacity = 20};
  SparseAdam<float> adam = stepped<float, DefaultBackend>(ctx, options);
  REQUIRE(adam.compact());
  REQUIRE(adam.size() == 8);
  const OptimizerState<float> before = adam.state(ctx);
  const Parts good = parts_of(ctx, adam);
  const auto text = [&](const std::function<void(Parts&)>& change) {
    const std::string into = after(good, change, [&](const SafetensorsFile& f) { get(ctx, f, "p.", adam); });
    CHECK(same_state(before, adam.state(ctx)));
    return into;
  };
  const auto made = [&](const std::function<void(Parts&)>& change) {
    return after(good, change, [&](const SafetensorsFile& f) { (void)get_adam<float>(ctx, f, "p."); });
  };
  const std::vector<stored_index_t>& index = before.index;
  CHECK(text([](Parts&) {}) == "nothing was thrown");
  CHECK(text([](Parts& p) { p.metadata["p.semantics"] = "adam"; }) ==
        "f: metadata 'p.semantics' is 'adam', expected one of torch, per_entry_step, dense_core");
  CHECK(text([](Parts& p) { p.metadata["p.overflow"] = "panic"; }) ==
        "f: metadata 'p.overflow' is 'panic', expected one of go_dense, evict_smallest, error");
  CHECK(text([](Parts& p) { p.metadata["p.overflow"] = "error"; }) ==
        "f: 'p.': the saved state was made with overflow policy error, expected evict_smallest");
  CHECK(text([](Parts& p) { p.metadata["p.form"] = "loose"; }) ==
        "f: metadata 'p.form' is 'loose', expected compact or dense");
  CHECK(text([](Parts& p) { p.metadata["p.form"] = "dense"; }) ==
        "f: tensor 'p.m' has shape [8], expected [48]");
  CHECK(text([](Parts& p) {
          p.set<std::int64_t>("p.extents", {3}, {8, 6, 20});
        }) == "f: 'p.': the saved state is for a core of 8x6, expected 6x8");
  CHECK(text([](Parts& p) {
          p.set<std::int64_t>("p.extents", {3}, {-6, 8, 20});
        }) == "f: tensor 'p.extents' says -6x8, expected extents >= 0 whose product is below 2^31");
  CHECK(
      text([](Parts& p) {
        p.set<std::int64_t>("p.extents", {3}, {index_t{1} << 62, 4, 20});
      }) ==
      "f: tensor 'p.extents' says 4611686018427387904x4, expected extents >= 0 whose product is below 2^31");
  CHECK(text([](Parts& p) {
          p.set<std::int64_t>("p.extents", {3}, {6, 8, 19});
        }) == "f: 'p.': the saved state was made with capacity 19, expected 20");
  CHECK(text([](Parts& p) {
          p.set<double>("p.coefficients", {3}, {0.9, 0.99, 1e-8});
        }).find("the saved state was made with beta2 0.99, expected 0.999") != std::string::npos);
  CHECK(text([](Parts& p) { p.set<std::int64_t>("p.step", {1}, {-1}); }) ==
        "f: 'p.': the saved state has step -1, expected >= 0");
  // The next step would leave the range of the type.
  CHECK(text([](Parts& p) {
          p.set<std::int64_t>("p.step", {1}, {std::numeric_limits<std::int64_t>::max()});
        }) == "f: 'p.': the saved state has step 9223372036854775807, expected >= 0 and at most 2^53");
  CHECK(made([](Parts& p) {
          p.set<std::int64_t>("p.step", {1}, {(std::int64_t{1} << 53) + 1});
        }).find("at most 2^53") != std::string::npos);
  CHECK(made([](Parts& p) { p.set<std::int64_t>("p.step", {1}, {std::int64_t{1} << 53}); }) ==
        "nothing was thrown");
  CHECK_THROWS_AS(adam.set_steps((std::int64_t{1} << 53) + 1), ValueError);
  CHECK(text([&](Parts& p) {
          auto bad = index;
          std::swap(bad[1], bad[2]);
          p.set("p.index", {8}, bad);
        }).find("expected strictly rising positions in [0, 48)") != std::string::npos);
  CHECK(text([&](Parts& p) {
          auto bad = index;
          bad.back() = 48;
          p.set("p.index", {8}, bad);
        }) ==
        "f: tensor 'p.index' has position 48 at element 7, expected strictly rising positions in [0, 48)");
  CHECK(text([&](Parts& p) {
          auto bad = index;
          bad.front() = -1;
          p.set("p.index", {8}, bad);
        }) ==
        "f: tensor 'p.index' has position -1 at element 0, expected strictly rising positions in [0, 48)");
  CHECK(text([](Parts& p) { p.set<float>("p.v", {7}, std::vector<float>(7)); }) ==
        "f: tensor 'p.v' has shape [7], expected [8]");
  CHECK(text([](Parts& p) { p.set<float>("p.m", {8}, std::vector<float>(8, NAN)); }) ==
        "f: tensor 'p.m' has NaN at element 0, expected finite numbers");
  CHECK(text([](Parts& p) {
          p.set<float>("p.v", {8}, {0, 1, 1, 1, 1, 1, 1, NAN});
        }) == "f: tensor 'p.v' has NaN at element 7, expected finite numbers");
  CHECK(text([](Parts& p) {
          p.set<float>("p.v", {8}, {0, INFINITY, 1, 1, 1, 1, 1, 1});
        }) == "f: tensor 'p.v' has Inf at element 1, expected finite numbers");
  CHECK(text([](Parts& p) { p.set<float>("p.v", {8}, std::vector<float>(8, -1)); }) ==
        "f: 'p.': the saved state has v = -1 at entry 0, expected >= 0");
  CHECK(text([](Parts& p) { p.set<double>("p.m", {8}, std::vector<double>(8)); }) ==
        "f: tensor 'p.m' has dtype F64, expected F32");
  CHECK(text([](Parts& p) {
          p.set<std::int32_t>("p.count", {8}, {1, 1, 1, 1, -1, 1, 1, 1});
        }) == "f: 'p.': the saved state has count -1 at entry 4, expected >= 0");
  CHECK(
      text([](Parts& p) {
        p.set<std::int32_t>("p.count", {8}, {1, 1, std::numeric_limits<std::int32_t>::max(), 1, 1, 1, 1, 1});
      }) == "f: 'p.': the saved state has count 2147483647 at entry 2, expected >= 0 and at most 2^30");
  CHECK(made([](Parts& p) {
          p.set<std::int32_t>("p.count", {8}, {1, 1, (1 << 30) + 1, 1, 1, 1, 1, 1});
        }).find("at most 2^30") != std::string::npos);
  CHECK(made([](Parts& p) {
          p.set<std::int32_t>("p.count", {8}, {1, 1, 1 << 30, 1, 1, 1, 1, 1});
        }) == "nothing was thrown");
  CHECK(text([](Parts& p) { p.arrays.erase("p.count"); }).find("tensor 'p.count' is missing") !=
        std::string::npos);

  // Files of version 0.1 do not say how arrays and options are called.
  const auto without_names = [](Parts& p) {
    for (const char* key : {"p.arrays", "p.numbers", "p.texts"})
      CHECK(p.metadata.erase(key) == 1);
  };
  CHECK(text(without_names) == "nothing was thrown");
  CHECK(made(without_names) == "nothing was thrown");
  CHECK(text([](Parts& p) { p.metadata["p.arrays"] = "m"; }) == "f: 'p.': the saved state has no array 'v'");
  CHECK(text([](Parts& p) { p.metadata["p.numbers"] = "beta1,beta2"; }) ==
        "f: tensor 'p.coefficients' has shape [3], expected [2]");
  CHECK(text([](Parts& p) { p.metadata["p.numbers"] = "beta1,beta2,epsilon"; }) ==
        "f: 'p.': the saved state has no number 'eps'");
  CHECK(text([](Parts& p) { p.metadata["p.type"] = "sparse_sgd 1"; }) ==
        "f: 'p.': the saved state is a 'sparse_sgd 1', expected a 'sparse_adam 1'");
  CHECK(text([](Parts& p) { p.metadata["p.type"] = "tucker_basis 1", p.metadata.erase("p.arrays"); }) ==
        "f: 'p.' is a 'tucker_basis 1', expected an optimizer's state");

  CHECK(made([](Parts&) {}) == "nothing was thrown");
  CHECK(made([](Parts& p) {
          p.set<double>("p.coefficients", {3}, {1.5, 0.99, 1e-8});
        }) == "f: 'p.': beta1 is 1.5, expected 0 <= beta1 < 1");
  CHECK(made([](Parts& p) {
          p.set<std::int64_t>("p.extents", {3}, {6, 8, 0});
        }) == "f: 'p.': the state is compact, expected dense for its extents and capacity");
  CHECK(made([](Parts& p) {
          p.set<std::int64_t>("p.extents", {3}, {6, 8, 7});
        }) == "f: 'p.': the saved state has 8 entries, expected at most its capacity 7");
  // A file of 8 entries that asks for 21 GB.
  CHECK(made([](Parts& p) {
          p.set<std::int64_t>("p.extents", {3}, {46340, 46340, 1'300'000'000});
        }) ==
        "f: tensor 'p.extents' says capacity 1300000000 for a state of 8 entries, expected at most 4194304; "
        "io::get into an optimizer of that capacity reads it");
  CHECK(made([](Parts& p) {
          p.set<std::int64_t>("p.extents", {3}, {1 << 12, 1 << 12, (1 << 22) + 1});
        }).find("expected at most 4194304") != std::string::npos);
  CHECK(made([](Parts& p) {
          p.set<std::int64_t>("p.extents", {3}, {1 << 12, 1 << 12, 1 << 22});
        }) == "nothing was thrown");
}

TEST_CASE("state files: what the readers refuse in a delta") {
  DefaultBackend::Context ctx(1);
  SparseGradient<float> delta(ctx, 3, 4, 3);
  const std::vector<stored_index_t> index{1, 5, 11};
  const std::vector<float> values{1, 2, 3};
  delta.assign(ctx, index, values);
  const Parts good = parts_of(ctx, delta);
  const auto text = [&](const std::function<void(Parts&)>& change) {
    return after(good, change, [&](const SafetensorsFile& f) { (void)get_delta<float>(ctx, f, "p."); });
  };
  CHECK(text([](Parts&) {}) == "nothing was thrown");
  CHECK(text([](Parts& p) { p.metadata["p.form"] = ""; }) ==
        "f: metadata 'p.form' is '', expected sparse or dense");
  CHECK(text([](Parts& p) {
          p.set<std::int64_t>("p.extents", {2}, {1 << 16, 1 << 15});
        }) == "f: tensor 'p.extents' says 65536x32768, expected extents >= 0 whose product is below 2^31");
  CHECK(text([](Parts& p) {
          p.set<std::int64_t>("p.extents", {2}, {3, 3});
        }) ==
        "f: tensor 'p.index' has position 11 at element 2, expected strictly rising positions in [0, 9)");
  CHECK(text([](Parts& p) {
          p.set<std::int32_t>("p.index", {3}, {1, 1, 2});
        }) ==
        "f: tensor 'p.index' has position 1 at element 1, expected strictly rising positions in [0, 12)");
  CHECK(text([](Parts& p) {
          p.set<std::int64_t>("p.index", {3}, {1, 2, 3});
        }) == "f: tensor 'p.index' has dtype I64, expected I32");
  CHECK(text([](Parts& p) {
          p.set<float>("p.values", {2}, {1, 2});
        }) == "f: tensor 'p.values' has shape [2], expected [3]");
  CHECK(text([](Parts& p) {
          p.set<float>("p.values", {3}, {1, INFINITY, 2});
        }) == "f: tensor 'p.values' has Inf at element 1, expected finite numbers");
  CHECK(text([](Parts& p) { p.metadata["p.form"] = "dense"; }) ==
        "f: tensor 'p.values' has shape [3], expected [12]");
}
