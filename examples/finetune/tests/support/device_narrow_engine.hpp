// Encoder, optimizer and trainer in bfloat16 and half on a backend whose memory is not the host's (see narrow_engine.hpp).
#pragma once

#define SPARSEGRAD_TEST_NARROW_TYPES bfloat16, float16
#include "support/narrow_engine.hpp"

namespace sparsegrad::finetune::test {

SPARSEGRAD_TEST_NARROW("narrow engine: heads that are too wide are refused") {
  DeviceBackend::Context ctx;
  EncoderModel<T, DeviceBackend> model(ctx, narrow_config(136));
  CHECK_THROWS_WITH_AS(model.reserve(ctx, 8, 1, 8), doctest::Contains("heads of size 136"), ShapeError);
}

TEST_CASE("narrow trainer: in half a gradient that overflows leaves the step out and halves the loss scale") {
  for (const RunType type : {RunType::ft, RunType::sparse}) {
    CAPTURE(std::string(to_string(type)));
    TrainOptions options = narrow_options(type, NumberType::float16);
    DeviceRun<float16, DeviceBackend> run(options);
    REQUIRE(run.trainer->collect_bases());
    REQUIRE(run.trainer->loss_scale().scale == LossScale::start);
    multiply_classifier(run.model, 200);
    const auto weights = [&] { return run.model.values(run.model.parameters().weights()); };
    const std::vector<float> before = weights();
    run.trainer->step();
    CHECK(run.trainer->loss_scale().scale == LossScale::start / 2);
    CHECK(run.trainer->report().skipped_steps == 1);
    CHECK(run.trainer->report().steps_done == 1);
    CHECK(weights() == before);
    double moment = 0;
    const auto look = [&] {
      const std::vector<float> scaled = run.model.values(run.model.parameters().gradients());
      moment = 0.1 * norm_of(scaled) / run.trainer->loss_scale().scale;
    };
    for (int step = 0; step < 20 && run.trainer->loss_scale().whole_steps == 0; ++step)
      run.trainer->step(look);
    CHECK(run.trainer->loss_scale().whole_steps == 1);
    CHECK(run.trainer->loss_scale().scale ==
          std::ldexp(LossScale::start, -static_cast<int>(run.trainer->report().skipped_steps)));
    CHECK(weights() != before);
    for (const float w : weights())
      REQUIRE(std::isfinite(w));
    // The first moments are those of one step, of the gradient without the scale of the time.
    const std::filesystem::path state = fresh_folder("narrow_overflow") / "state.safetensors";
    run.trainer->save_state(state);
    const io::SafetensorsFile file(state.string());
    CHECK(norm_of(file.read<float>("dense.m")) == doctest::Approx(moment).epsilon(1e-5));
  }
}

TEST_CASE("loss scale: grows after whole steps in a row, and is not to blame at 1") {
  LossScale scale = LossScale::of<float16>();
  CHECK(LossScale::of<bfloat16>().scale == 1);
  for (index_t step = 0; step < LossScale::interval - 1; ++step)
    scale.count_whole_step();
  CHECK(scale.scale == LossScale::start);
  scale.count_overflow();
  for (index_t step = 0; step < LossScale::interval; ++step)
    scale.count_whole_step();
  CHECK(scale.scale == LossScale::start);
  CHECK(scale.whole_steps == 0);
  while (scale.scale > 1)
    scale.count_overflow();
  CHECK_THROWS_WITH_AS(scale.count_overflow(), doctest::Contains("learning rate"), NonFiniteError);
}

}  // namespace sparsegrad::finetune::test
