// Runs of a language model on a backend whose memory is not the host's, against the CPU's: a file that includes this names
// the backend first, as `DeviceBackend`, and the types, as SPARSEGRAD_TEST_DEVICE_TYPES, and instantiates model and
// trainer for it in them.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <type_traits>
#include <vector>

#include "support/causal_run.hpp"
#include "support/device_run.hpp"
#include "training/generation.hpp"

namespace sparsegrad::finetune::test {

template <class T>
inline constexpr NumberType causal_number_type = std::is_same_v<T, float>      ? NumberType::float32
                                                 : std::is_same_v<T, bfloat16> ? NumberType::bfloat16
                                                                               : NumberType::float16;

template <class T>
TrainOptions device_causal_options(RunType type) {
  TrainOptions options = causal_options(type);
  options.device = Device::cuda;
  options.dtype = causal_number_type<T>;
  options.max_steps = 6;
  return options;
}

TEST_CASE_TEMPLATE("device runs of a language model: every run type has losses near the CPU's in float", T,
                   SPARSEGRAD_TEST_DEVICE_TYPES) {
  const double slack = is_low_precision<T> ? 16 * low_precision_epsilon<T> / 2 : 2e-3;
  for (const RunType type :
       {RunType::ft, RunType::sparse, RunType::topk, RunType::lora, RunType::frozen_mlp}) {
    CAPTURE(std::string(to_string(type)));
    TrainOptions options = device_causal_options<T>(type);
    TrainOptions exact = options;
    exact.dtype = NumberType::float32;
    CausalTestRun<float, HostBackend> on_cpu(exact);
    CausalTestRun<T, DeviceBackend> on_device(options);
    check_same_losses(on_cpu, on_device, slack);
    CHECK(on_device.trainer->report().skipped_steps == 0);
  }
  // Which entries of a row are largest depends on rounding: no more than that it runs.
  CausalTestRun<T, DeviceBackend> meprop(device_causal_options<T>(RunType::meprop));
  meprop.trainer->run();
  CHECK(meprop.trainer->report().evaluations.size() >= 1);
}

TEST_CASE_TEMPLATE(
    "device runs of a language model: a saved state goes on with the same bits; models are saved", T,
    SPARSEGRAD_TEST_DEVICE_TYPES) {
  const TrainOptions options = device_causal_options<T>(RunType::sparse);
  const std::filesystem::path state = fresh_folder("device_causal_state") / "state.safetensors";
  CausalTestRun<T, DeviceBackend> whole(options);
  REQUIRE(whole.trainer->collect_bases());
  for (int step = 0; step < 2; ++step)
    whole.trainer->step();
  whole.trainer->save_state(state);
  CausalTestRun<T, DeviceBackend> resumed(options);
  CHECK(resumed.trainer->restore_state(state) == "");
  for (int step = 0; step < 2; ++step) {
    whole.trainer->step();
    resumed.trainer->step();
  }
  CHECK(resumed.trainer->state_hash() == whole.trainer->state_hash());

  const std::filesystem::path folder = fresh_folder("device_causal_model");
  causal_test_source().save(folder, whole.model, io::DType::f32);
  const CausalSource saved(folder);
  HostBackend::Context cpu(1);
  DecoderModel<float, HostBackend> loaded(cpu, saved.config());
  saved.load(loaded, 1);
  CHECK(loaded.values(loaded.parameters().weights()) ==
        whole.model.values(whole.model.parameters().weights()));

  // Text, token by token, of the model as it is now.
  const std::vector<std::int32_t> prompt = saved.encode("<|im_start|>user\n1+2?<|im_end|>\n");
  GenerationLimits limits;
  limits.max_new_tokens = 5;
  const std::vector<std::int32_t> made =
      generate<T, DeviceBackend>(whole.ctx, whole.model, prompt, {}, limits);
  CHECK(made.size() == 5);
  if constexpr (std::is_same_v<T, float>)
    CHECK(made == generate<float, HostBackend>(cpu, loaded, prompt, {}, limits));
}

}  // namespace sparsegrad::finetune::test
