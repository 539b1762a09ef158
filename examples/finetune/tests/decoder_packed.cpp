// Weights that stay quantised: products, passes and training as of the same numbers in float, memory, what is refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "checkpoints/gguf_packed.hpp"
#include "decoder_support.hpp"
#include "support/tiny_gguf.hpp"
#include "training/causal_parts.hpp"
#include "training/memory/memory_estimate.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
using Host = HostBackend;

namespace {

/// Small whole numbers, which every type and product has exactly.
class Pattern final : public PackedMatrix {
 public:
  Pattern(index_t rows, index_t cols) : rows_(rows), cols_(cols) {}
  index_t rows() const override { return rows_; }
  index_t cols() const override { return cols_; }
  index_t block() const override { return 32; }
  std::span<const std::byte> bytes() const override { return {}; }
  void require_whole() const override {}
  void read(index_t row, index_t first, index_t last, float* values) const override {
    for (index_t j = first; j < last; ++j)
      values[j - first] = static_cast<float>((row * 3 + j * 5) % 7 - 3);
  }

 private:
  index_t rows_, cols_;
};

template <class T>
FrozenWeight<T, Host> packed_weight(index_t rows, index_t cols) {
  Parameter<T> p;
  p.packed = std::make_shared<Pattern>(rows, cols);
  return FrozenWeight<T, Host>(p);
}

/// Sums of so many of the pattern's numbers are exact in float; a type of 16 bits rounds them once.
template <class T>
std::vector<T> ones(index_t rows, index_t cols) {
  std::vector<T> values;
  for (index_t i = 0; i < rows * cols; ++i)
    values.push_back(static_cast<T>(static_cast<float>(i % 3 - 1)));
  return values;
}

PackedMatrices packed_of(const GgufFile& file, const DecoderConfig& config) {
  return [&file, config](std::string_view name) {
    for (const ParameterShape& shape : decoder_shapes(config, {}, 0))
      if (shape.name == name) return gguf_packed(file, config, name, shape.rows, shape.cols);
    return std::shared_ptr<const PackedMatrix>();
  };
}

TrainedParts lora_parts(index_t layers) {
  TrainedParts parts{.mlp = {}, .dense = {}, .matrices = all_matrices(layers)};
  parts.mlp = {.matrices = false, .lora_rank = 4};
  parts.dense = [](std::string_view) { return false; };
  return parts;
}

template <class T>
struct Trained {
  std::vector<double> losses;
  std::vector<compute_t<T>> weights;
  ModelMemory memory;
};

template <class T>
Trained<T> train(const GgufFile& file, bool packed, const TrainedParts& parts, int threads) {
  Host::Context ctx(threads, true, Host::all_of("cpu_blas"));
  const DecoderConfig config = gguf_config(file);
  DecoderModel<T, Host> model(ctx, config, parts, packed ? packed_of(file, config) : PackedMatrices());
  load_gguf_weights(file, model, 3);
  AdamW<T, Host> adam(ctx, trained_segments<T>(ctx, model, 0));
  const Batch batch = random_batch({30, 9, 17}, config.vocab_size);
  Trained<T> result;
  for (int step = 0; step < 6; ++step) {
    result.losses.push_back(model.forward(ctx, batch, {.training = true}).loss);
    model.backward(ctx, batch);
    for (auto& layer : model.mlp())
      layer.core(ctx);
    adam.step(ctx, {.learning_rate = 1e-2, .clear_gradients = true});
    for (auto& layer : model.mlp())
      layer.clear(ctx);
  }
  for (const auto& p : model.parameters().all()) {
    const auto own = model.merged(p);
    const auto values = own ? *own : model.values_of(p);
    result.weights.insert(result.weights.end(), values.begin(), values.end());
  }
  result.memory = model.memory();
  return result;
}

}  // namespace

TEST_CASE_TEMPLATE("products with a packed matrix are those with its values, in pieces too", T, float, double,
                   sparsegrad::bfloat16) {
  using C = compute_t<T>;
  // Of the first, three pieces of rows and two of columns.
  for (const MatrixExtents& extents : {MatrixExtents{70000, 64}, MatrixExtents{40, 96}}) {
    const index_t out = extents.out;
    const index_t in = extents.in;
    for (const int threads : {1, 3}) {
      CAPTURE(out);
      CAPTURE(threads);
      Host::Context ctx(threads);
      const FrozenWeight<T, Host> packed = packed_weight<T>(out, in);
      std::vector<T> values;
      std::vector<float> row(static_cast<std::size_t>(in));
      const Pattern pattern(out, in);
      for (index_t i = 0; i < out; ++i) {
        pattern.read(i, 0, in, row.data());
        for (const float x : row)
          values.push_back(static_cast<T>(x));
      }
      const FrozenWeight<T, Host> plain(MatrixView<const T>(values.data(), out, in));
      constexpr index_t tokens = few_rows + 2;
      const std::vector<T> x = ones<T>(tokens, in);
      const std::vector<T> dy = ones<T>(tokens, out);
      const auto results = [&](const FrozenWeight<T, Host>& w) {
        std::vector<T> y(static_cast<std::size_t>(tokens * out));
        std::vector<C> wide(y.size());
        std::vector<T> dx = ones<T>(tokens, in);
        std::vector<T> fresh(dx.size());
        w.forward(ctx, {x.data(), tokens, in}, {y.data(), tokens, out});
        w.forward_wide(ctx, {x.data(), tokens, in}, {wide.data(), tokens, out});
        w.backward(ctx, {dy.data(), tokens, out}, C(1), {dx.data(), tokens, in});
        w.backward(ctx, {dy.data(), tokens, out}, C(0), {fresh.data(), tokens, in});
        w.backward(ctx, {dy.data(), tokens, out}, C(0), {});
        std::vector<double> all;
        for (const auto* part : {&y, &dx, &fresh})
          for (const T value : *part)
            all.push_back(static_cast<double>(value));
        all.insert(all.end(), wide.begin(), wide.end());
        return all;
      };
      const std::vector<double> found = results(packed);
      CHECK(found == results(plain));
      CHECK(std::any_of(found.begin(), found.end(), [](double v) { return v != 0; }));
    }
  }
}

TEST_CASE_TEMPLATE(
    "products of a few rows: those of a long sum, on any number of threads, whatever multiplies more", T,
    float, double, sparsegrad::bfloat16) {
  using C = compute_t<T>;
  // More numbers than one thread takes, also where a row is no multiple of a vector and has a stride; few
  // numbers; none.
  for (const MatrixExtents& extents :
       {MatrixExtents{1500, 96}, MatrixExtents{1203, 83}, MatrixExtents{7, 5}, MatrixExtents{3, 0}}) {
    const index_t out = extents.out;
    const index_t in = extents.in;
    const index_t stride = in + 3;
    CAPTURE(out);
    CAPTURE(in);
    std::uint64_t drawn = 7;
    const auto numbers = [&](index_t rows) {
      std::vector<T> values;
      for (index_t i = 0; i < rows * stride; ++i)
        values.push_back(static_cast<T>(static_cast<float>(stream_key(++drawn, 1) % 2001) / 1000 - 1));
      return values;
    };
    const std::vector<T> weights = numbers(out);
    const MatrixView<const T> w(weights.data(), out, in, stride);
    for (index_t rows = 0; rows <= few_rows; ++rows) {
      CAPTURE(rows);
      const std::vector<T> tokens = numbers(rows);
      const MatrixView<const T> x(tokens.data(), rows, in, stride);
      const std::vector<C> before(static_cast<std::size_t>(rows * out), C(0.25));
      const auto product = [&](const char* by, int threads, C alpha, C beta, std::vector<C> y) {
        Host::Context ctx(threads, false, Host::all_of(by));
        wide_product<T, Host>(ctx, Op::none, Op::transpose, alpha, x, w, beta,
                              MatrixView<C>(y.data(), rows, out));
        return y;
      };
      const std::vector<C> found = product("cpu_blas", 1, C(-1.5), C(2), before);
      for (index_t i = 0; i < rows; ++i) {
        for (index_t j = 0; j < out; ++j) {
          double sum = 0;
          for (index_t l = 0; l < in; ++l)
            sum += static_cast<double>(x(i, l)) * static_cast<double>(w(j, l));
          const double off =
              std::abs(static_cast<double>(found[static_cast<std::size_t>(i * out + j)]) - (0.5 - 1.5 * sum));
          if (!(off < 2e-5)) FAIL("element ", i, ", ", j, " is off by ", off);
        }
      }
      CHECK(found == product("cpu", 1, C(-1.5), C(2), before));
      CHECK(found == product("cpu", 3, C(-1.5), C(2), before));
      const std::vector<C> nan(before.size(), std::numeric_limits<C>::quiet_NaN());
      CHECK(product("cpu", 3, C(1), C(0), nan) == product("cpu_blas", 1, C(1), C(0), before));
      // In T: the same sums, rounded once.
      const std::vector<C> plain = product("cpu", 1, C(1), C(0), before);
      Host::Context ctx(3);
      std::vector<T> narrow(plain.size());
      Host::gemm<T>(ctx, Op::none, Op::transpose, C(1), x, w, C(0), MatrixView<T>(narrow.data(), rows, out));
      for (std::size_t i = 0; i < plain.size(); ++i)
        if (!(static_cast<C>(narrow[i]) == static_cast<C>(static_cast<T>(plain[i]))))
          FAIL("element ", i, " in T");
    }
  }
}

TEST_CASE_TEMPLATE("a few rows by a packed matrix: the bits of its numbers in memory, a row of it at a time",
                   T, float, double, sparsegrad::bfloat16) {
  using C = compute_t<T>;
  const GgufFile file = tiny_gguf().file();
  const DecoderConfig config = gguf_config(file);
  const index_t out = config.intermediate;
  const index_t in = config.hidden;
  Parameter<T> p;
  p.packed = gguf_packed(file, config, "model.layers.0.mlp.up_proj.weight", out, in);
  const FrozenWeight<T, Host> packed(p);
  std::vector<float> values(static_cast<std::size_t>(out * in));
  for (index_t i = 0; i < out; ++i)
    p.packed->read(i, 0, in, values.data() + i * in);
  const std::vector<T> rounded = [&] {
    std::vector<T> all;
    for (const float x : values)
      all.push_back(static_cast<T>(x));
    return all;
  }();
  const FrozenWeight<T, Host> plain(MatrixView<const T>(rounded.data(), out, in));
  for (index_t rows = 1; rows <= few_rows; ++rows) {
    const std::vector<T> x(rounded.begin() + 5, rounded.begin() + 5 + rows * in);
    const auto products = [&](const FrozenWeight<T, Host>& w) {
      Host::Context ctx(2);
      std::vector<T> y(static_cast<std::size_t>(rows * out));
      std::vector<C> wide(y.size());
      w.forward(ctx, {x.data(), rows, in}, {y.data(), rows, out});
      w.forward_wide(ctx, {x.data(), rows, in}, {wide.data(), rows, out});
      for (const T value : y)
        wide.push_back(static_cast<C>(value));
      return wide;
    };
    CHECK(products(packed) == products(plain));
  }

  Host::Context ctx(3);
  const FrozenWeight<T, Host> large = packed_weight<T>(70000, 64);
  const std::vector<T> x = ones<T>(few_rows, 64);
  std::vector<T> y(static_cast<std::size_t>(few_rows * 70000));
  large.forward(ctx, {x.data(), few_rows, 64}, {y.data(), few_rows, 70000});
  CHECK(ctx.scratch().most_used() < 16 * 1024);
}

TEST_CASE_TEMPLATE("a packed base trains adapters as the same numbers in float do", T, float,
                   sparsegrad::bfloat16) {
  for (const std::string family : {"llama", "qwen2"}) {
    const bool tied = family == "llama";
    CAPTURE(family);
    const GgufFile file = tiny_gguf(family, tied).file();
    const TrainedParts parts = lora_parts(4);
    const Trained<T> floats = train<T>(file, false, parts, 1);
    const Trained<T> packed = train<T>(file, true, parts, 1);
    REQUIRE(floats.losses.size() == packed.losses.size());
    CHECK(floats.losses.back() < floats.losses.front() - 0.1);
    for (std::size_t i = 0; i < floats.losses.size(); ++i)
      CHECK(packed.losses[i] == doctest::Approx(floats.losses[i]).epsilon(1e-6));
    REQUIRE(floats.weights.size() == packed.weights.size());
    double off = 0;
    for (std::size_t i = 0; i < floats.weights.size(); ++i)
      off = std::max(off, static_cast<double>(std::abs(floats.weights[i] - packed.weights[i])));
    CHECK(off < 1e-4);
    // Any number of threads: the same bits.
    const Trained<T> again = train<T>(file, true, parts, 3);
    CHECK(again.losses == packed.losses);
    CHECK(again.weights == packed.weights);
    CHECK(packed.memory.dense_gradients == floats.memory.dense_gradients);
    CHECK(packed.memory.weights < floats.memory.weights / 2);
  }
}

TEST_CASE("what is trained in place is float, and alone is") {
  const GgufFile file = tiny_gguf().file();
  const DecoderConfig config = gguf_config(file);
  TrainedParts parts;
  parts.matrices = {{1, 3}, {MatrixKind::up, MatrixKind::k}};
  const auto packed_names = [&] {
    Host::Context ctx(1);
    DecoderModel<float, Host> model(ctx, config, parts, packed_of(file, config));
    std::vector<std::string> names;
    for (const auto& p : model.parameters().all()) {
      if (p.packed == nullptr) continue;
      names.push_back(p.name);
      CHECK(p.weight.empty());
      CHECK(p.gradient.empty());
      CHECK(p.rounded.empty());
      CHECK(p.size() == p.packed->rows() * p.packed->cols());
    }
    CHECK(model.parameters().count() == [&] {
      index_t sum = 0;
      for (const ParameterShape& shape : decoder_shapes(config, {}, 0))
        sum += shape.rows * shape.cols;
      return sum;
    }());
    return names;
  };
  // Everything trains but 24 matrices of 28.
  std::vector<std::string> names = packed_names();
  CHECK(names.size() == 24);
  CHECK(std::find(names.begin(), names.end(), "model.layers.1.mlp.up_proj.weight") == names.end());
  parts.dense = [](std::string_view) { return false; };
  CHECK(packed_names().size() == 25);  // and the table
  parts.mlp.matrices = false;
  CHECK(packed_names().size() == 29);

  parts.mlp.matrices = true;
  const Trained<float> floats = train<float>(file, false, parts, 1);
  const Trained<float> packed = train<float>(file, true, parts, 1);
  CHECK(floats.losses.back() < floats.losses.front() - 0.01);
  for (std::size_t i = 0; i < floats.losses.size(); ++i)
    CHECK(packed.losses[i] == doctest::Approx(floats.losses[i]).epsilon(1e-6));
}

TEST_CASE("memory: the estimate knows packed weights") {
  const GgufFile file = tiny_gguf().file();
  const DecoderConfig config = gguf_config(file);
  for (const NumberType dtype : {NumberType::float32, NumberType::bfloat16}) {
    TrainOptions options;
    options.causal = CausalOptions();
    options.causal->matrices = "all";
    options.causal->blocks = "all";
    options.trained = TrainedParameters::mlp;
    options.run_type = RunType::lora;
    options.lora.rank = 4;
    options.dtype = dtype;
    options.threads = 1;
    const index_t packed = estimate_memory(config, options, 100, packed_of(file, config)).training.weights;
    const index_t floats = estimate_memory(config, options, 100).training.weights;
    const bool narrow = dtype == NumberType::bfloat16;
    const TrainedParts parts = trained_parts(options, config);
    // Gaps between parameters, of at most 64 bytes.
    CHECK(std::abs(floats - (narrow ? train<sparsegrad::bfloat16>(file, false, parts, 1).memory.weights
                                    : train<float>(file, false, parts, 1).memory.weights)) < 4096);
    CHECK(std::abs(packed - (narrow ? train<sparsegrad::bfloat16>(file, true, parts, 1).memory.weights
                                    : train<float>(file, true, parts, 1).memory.weights)) < 4096);
  }
}

TEST_CASE("what is wrong with a packed weight is told") {
  Host::Context ctx(1);
  {
    GgufModel model = tiny_gguf();
    std::string bytes = model.bytes();
    const GgufFile good = gguf_from(bytes);
    const GgufTensor& tensor = good.tensor("blk.2.ffn_down.weight");
    const std::size_t at =
        static_cast<std::size_t>(tensor.bytes.data() - good.tensor("token_embd.weight").bytes.data()) +
        bytes.size() - [&] {
          std::size_t size = 0;
          for (const GgufTensor& t : good.tensors())
            size += (t.bytes.size() + 31) / 32 * 32;
          return size;
        }();
    bytes[at + 34] = 0;
    bytes[at + 35] = 0x7C;  // the second block's scale: Inf
    const GgufFile bad = gguf_from(bytes);
    const DecoderConfig config = gguf_config(bad);
    DecoderModel<float, Host> model_of(ctx, config, lora_parts(4), packed_of(bad, config));
    const std::string error = error_text([&] { load_gguf_weights(bad, model_of, 0); });
    CHECK(has(error, "tensor 'blk.2.ffn_down.weight' has "));
    CHECK(has(error, "expected finite numbers"));
  }
  {
    const auto path = write_file(fresh_folder("packed_cut") / "model.gguf", tiny_gguf().bytes());
    const GgufFile file(path.string());
    const DecoderConfig config = gguf_config(file);
    DecoderModel<float, Host> model(ctx, config, lora_parts(4), packed_of(file, config));
    load_gguf_weights(file, model, 0);
    const Batch batch = random_batch({5}, config.vocab_size);
    (void)model.forward(ctx, batch, {.training = true});
    std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
    CHECK(has(error_text([&] { (void)model.forward(ctx, batch, {.training = true}); }),
              "it was shortened while it was read"));
  }
  {
    const GgufFile file = tiny_gguf().file();
    const DecoderConfig config = gguf_config(file);
    CHECK(
        has(error_text([&] { (void)gguf_packed(file, config, "lm_head.weight", 99, 32); }), "output.weight"));
    CHECK(has(error_text([&] { (void)gguf_packed(file, config, "model.embed_tokens.weight", 98, 32); }),
              "token_embd.weight"));
  }
}
