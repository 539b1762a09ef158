// A small training run on any backend.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/host_backend.hpp"

#include "files.hpp"
#include "support/tiny_bert.hpp"
#include "tokenizers/tokenizer.hpp"
#include "training/trainer.hpp"

namespace sparsegrad::finetune::test {

inline const ModelDirectory& device_test_model() {
  static const ModelDirectory directory = open_model_directory(make_tiny_bert(fresh_folder("tiny_bert")));
  return directory;
}

inline TrainOptions device_options(RunType type) {
  TrainOptions options;
  options.run_type = type;
  options.batch_size = 16;
  options.max_steps = 12;
  options.epochs = 10;
  options.learning_rate = 1e-3;
  options.weight_decay = 0.01;
  options.log_every = 1;
  options.sparse.phase1_steps = 3;
  options.sparse.share = 0.05;
  return options;
}

/// Context, model, data and trainer of one run.
template <class T, class Backend>
struct DeviceRun {
  explicit DeviceRun(const TrainOptions& options)
      : ctx(RunDevice<Backend>::make_context(options)),
        model(ctx, device_test_model().config, trained_parts(options)),
        tokenizer(load_tokenizer(device_test_model().path)),
        train(builtin_acceptability(Split::train), *tokenizer, 32, 160),
        dev(builtin_acceptability(Split::dev), *tokenizer, 32, 40) {
    load_weights(device_test_model(), model, options.seed);
    trainer = std::make_unique<GlueTrainer<T, Backend>>(ctx, model, find_task("acceptability"), train, dev,
                                                        options);
  }

  typename Backend::Context ctx;
  EncoderModel<T, Backend> model;
  std::unique_ptr<Tokenizer> tokenizer;
  EncodedDataset train;
  EncodedDataset dev;
  std::unique_ptr<GlueTrainer<T, Backend>> trainer;
};

/// Losses of the steps of phase 1 and of training, and the last evaluation's loss.
inline std::vector<double> losses_of(const TrainReport& report) {
  std::vector<double> all = report.phase1.losses;
  for (const StepRecord& record : report.steps)
    all.push_back(record.loss);
  all.push_back(report.evaluations.back().loss);
  return all;
}

/// Trains two runs; the losses of one are within `slack` of those of the other, as a part of each.
template <class Exact, class Found>
void check_same_losses(Exact& exact, Found& own, double slack) {
  exact.trainer->run();
  own.trainer->run();
  const std::vector<double> wanted = losses_of(exact.trainer->report());
  const std::vector<double> found = losses_of(own.trainer->report());
  REQUIRE(found.size() == wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i)
    CHECK_MESSAGE(std::abs(found[i] - wanted[i]) <= slack * std::abs(wanted[i]),
                  "loss " << i << ": " << found[i] << ", expected about " << wanted[i]);
}

}  // namespace sparsegrad::finetune::test
