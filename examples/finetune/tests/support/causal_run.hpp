// A small run of a language model on any backend.
#pragma once

#include <memory>

#include "support/tiny_decoder.hpp"
#include "training/causal_parts.hpp"
#include "training/causal_run_data.hpp"
#include "training/causal_source.hpp"
#include "training/run_device.hpp"
#include "training/trainer.hpp"

namespace sparsegrad::finetune::test {

inline const CausalSource& causal_test_source() {
  static const CausalSource opened(make_tiny_decoder(fresh_folder("causal_tiny")));
  return opened;
}

inline CausalDataset causal_test_data(int examples) {
  const Conversations read =
      read_conversations(write_sums(fresh_folder("causal_data") / "sums.jsonl", examples));
  return CausalDataset(
      "sums", read.examples, causal_test_source().chat_template(""),
      [](std::string_view text) { return causal_test_source().encode(text); }, 64);
}

inline TrainOptions causal_options(RunType type) {
  TrainOptions options;
  options.causal = CausalOptions();
  options.causal->matrices = "up,down,k";
  options.causal->blocks = "0,2";
  options.trained = TrainedParameters::mlp;
  options.run_type = type;
  options.batch_size = 3;
  options.accumulation = 2;
  options.max_steps = 8;
  options.epochs = 10;
  options.learning_rate = 2e-3;
  options.log_every = 1;
  options.threads = 1;
  options.sparse.phase1_steps = 2;
  options.sparse.share = 0.2;
  options.sparse.sides.width = "8";
  options.sparse.refresh_every = type == RunType::sparse ? 5 : 0;
  return options;
}

/// Context, data, model and trainer.
template <class T, class Backend>
struct CausalTestRun {
  using Model = DecoderModel<T, Backend>;

  explicit CausalTestRun(const TrainOptions& options, const CausalSource& from = causal_test_source())
      : ctx(RunDevice<Backend>::make_context(options)),
        train(causal_test_data(30)),
        held(causal_test_data(7)),
        model(ctx, from.config(), trained_parts(options, from.config()), from.packed(options.causal->base)),
        data(train, held) {
    from.load(model, options.seed);
    model.recompute(options.causal->recompute);
    trainer = std::make_unique<BasicTrainer<Model>>(ctx, model, data, options);
  }

  typename Backend::Context ctx;
  CausalDataset train;
  CausalDataset held;
  Model model;
  CausalRunData<T, Backend> data;
  std::unique_ptr<BasicTrainer<Model>> trainer;
};

}  // namespace sparsegrad::finetune::test
