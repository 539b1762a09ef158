// After reserve, training steps over batches of varying shape allocate nothing.
#include <doctest/doctest.h>

#include "bert_support.hpp"

#if !defined(__SANITIZE_ADDRESS__)  // which has its own allocation functions
#include "support/allocation_counter.cpp"

TEST_CASE_TEMPLATE("training and evaluation steps allocate nothing after reserve", T, float,
                   sparsegrad::bfloat16) {
  using namespace sparsegrad;
  using namespace sparsegrad::finetune;
  using Blas = HostBackend;
  for (const bool mlp : {true, false}) {
    CAPTURE(mlp);
    // Not oneDNN's products: they take some memory for a number of tokens that is new.
    Blas::Context ctx(2, false, HostBackend::all_of("cpu_blas"));
    ModelConfig config;
    config.vocab_size = 50;
    config.max_positions = 40;
    config.layers = 2;
    config.hidden = 96;
    config.heads = 3;
    config.intermediate = 384;
    EncoderModel<T, Blas> model(ctx, config, {.mlp = {.matrices = mlp}, .dense = {}});
    model.initialize(1);
    model.reserve(ctx, 400, 16, 40);
    AdamW<T, Blas> adam(ctx, finetune::test::dense_segments<T, Blas>(ctx, model, 0.01));
    Batch batch;
    batch.reserve(400, 16);
    const std::vector<std::int32_t> ids(40, 7);
    const auto step = [&](index_t sequences, index_t shortest, bool training) {
      batch.clear();
      for (index_t s = 0; s < sequences; ++s)
        batch.add(std::span(ids).first(static_cast<std::size_t>(shortest + s)), {},
                  static_cast<float>(s % 2));
      model.forward(ctx, batch, {.training = training, .dropout_key = 3});
      if (!training) return;
      model.backward(ctx, batch);
      for (auto& layer : model.mlp())
        layer.core(ctx);
      const double norm = adam.gradient_norm(ctx);
      adam.step(ctx, {.learning_rate = 1e-3, .grad_scale = clip_factor(norm, 1.0), .clear_gradients = true});
      for (auto& layer : model.mlp())
        layer.clear(ctx);
    };
    step(2, 3, true);  // the BLAS makes its own buffers at the first product of a thread
    const sparsegrad::test::AllocationMark mark;
    step(9, 30, true);
    step(1, 1, true);
    step(16, 8, false);
    step(10, 31, true);
    const auto count = mark.count();
    CHECK(count == 0);
  }
}

#else

TEST_CASE("skipped: the address sanitizer has its own allocation functions") {
  CHECK(true);
}

#endif
