// After reserve, passes over batches of varying shape and generation allocate nothing.
#include <doctest/doctest.h>

#include "decoder_support.hpp"

#if !defined(__SANITIZE_ADDRESS__)  // which has its own allocation functions
#include "support/allocation_counter.cpp"

namespace {

/// Stands for a matrix in a file.
class StoredMatrix final : public sparsegrad::finetune::PackedMatrix {
 public:
  using index_t = sparsegrad::index_t;
  StoredMatrix(index_t rows, index_t cols) : rows_(rows), cols_(cols) {}
  index_t rows() const override { return rows_; }
  index_t cols() const override { return cols_; }
  index_t block() const override { return 32; }
  std::span<const std::byte> bytes() const override { return {}; }
  void require_whole() const override {}
  void read(index_t row, index_t first, index_t last, float* values) const override {
    for (index_t j = first; j < last; ++j)
      values[j - first] = static_cast<float>((row * 3 + j * 5) % 7 - 3) / 30;
  }

 private:
  index_t rows_, cols_;
};

}  // namespace

TEST_CASE_TEMPLATE("decoder: training, evaluation and generation allocate nothing after reserve", T, float,
                   sparsegrad::bfloat16) {
  using namespace sparsegrad;
  using namespace sparsegrad::finetune;
  using namespace sparsegrad::finetune::test;
  using Blas = HostBackend;
  for (const auto& [lora, packed] :
       {std::pair(false, false), std::pair(true, false), std::pair(true, true)}) {
    CAPTURE(lora);
    CAPTURE(packed);
    // Not oneDNN's products: they take some memory for a number of tokens that is new.
    Blas::Context ctx(2, false, HostBackend::all_of("cpu_blas"));
    DecoderConfig config = micro_decoder();
    config.hidden = 96;
    config.intermediate = 160;
    config.head_size = 16;
    config.qkv_bias = true;
    TrainedParts trained{.mlp = {}, .dense = {}, .matrices = all_matrices(3)};
    if (lora) trained.mlp = {.matrices = false, .lora_rank = 4};
    PackedMatrices stored;
    if (packed) {
      trained.dense = [](std::string_view) { return false; };
      stored = [&](std::string_view name) -> std::shared_ptr<const PackedMatrix> {
        for (const ParameterShape& shape : decoder_shapes(config, {}, 0))
          if (shape.name == name) return std::make_shared<StoredMatrix>(shape.rows, shape.cols);
        return nullptr;
      };
    }
    DecoderModel<T, Blas> model(ctx, config, trained, stored);
    model.initialize(1);
    model.recompute(packed);
    model.reserve(ctx, 400, 16, 80);
    AdamW<T, Blas> adam(ctx, trained_segments<T>(ctx, model, 0.01));
    KeyValueCache<T, Blas> cache(ctx, config, 80);
    Batch batch;
    batch.reserve(400, 16);
    const std::vector<std::int32_t> ids(80, 7);
    const auto step = [&](index_t sequences, index_t shortest, bool training) {
      batch.clear();
      for (index_t s = 0; s < sequences; ++s) {
        const auto part = std::span(ids).first(static_cast<std::size_t>(shortest + s));
        batch.add_sequence(part, part);
      }
      model.forward(ctx, batch, {.training = training});
      if (!training) return;
      model.backward(ctx, batch);
      for (auto& layer : model.mlp())
        layer.core(ctx);
      adam.step(ctx, {.learning_rate = 1e-3, .clear_gradients = true});
      for (auto& layer : model.mlp())
        layer.clear(ctx);
    };
    const auto generate = [&] {
      cache.shorten(0);
      model.decode(ctx, cache, std::span(ids).first(30));
      for (int i = 0; i < 5; ++i)
        model.decode(ctx, cache, std::span(ids).first(1));
    };
    step(2, 3, true);  // the BLAS makes its own buffers at the first product of a thread
    generate();
    const sparsegrad::test::AllocationMark mark;
    step(9, 30, true);
    step(1, 1, true);
    step(16, 8, false);
    step(10, 31, true);
    generate();
    const auto count = mark.count();
    CHECK(count == 0);
  }
}

#else

TEST_CASE("skipped: the address sanitizer has its own allocation functions") {
  CHECK(true);
}

#endif
