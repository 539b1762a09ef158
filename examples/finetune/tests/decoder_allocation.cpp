// After reserve, passes over batches of varying shape and generation allocate nothing.
#include <doctest/doctest.h>

#include "decoder_support.hpp"

#if !defined(__SANITIZE_ADDRESS__)  // which has its own allocation functions
#include "support/allocation_counter.cpp"

TEST_CASE_TEMPLATE("decoder: training, evaluation and generation allocate nothing after reserve", T, float,
                   sparsegrad::bfloat16) {
  using namespace sparsegrad;
  using namespace sparsegrad::finetune;
  using namespace sparsegrad::finetune::test;
  using Blas = HostBackend;
  for (const bool lora : {false, true}) {
    CAPTURE(lora);
    // Not oneDNN's products: they take some memory for a number of tokens that is new.
    Blas::Context ctx(2, false, HostBackend::all_of("cpu_blas"));
    DecoderConfig config = micro_decoder();
    config.hidden = 96;
    config.intermediate = 160;
    config.head_size = 16;
    config.qkv_bias = true;
    TrainedParts trained{.mlp = {}, .dense = {}, .matrices = all_matrices(3)};
    if (lora) trained.mlp = {.matrices = false, .lora_rank = 4};
    DecoderModel<T, Blas> model(ctx, config, trained);
    model.initialize(1);
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
