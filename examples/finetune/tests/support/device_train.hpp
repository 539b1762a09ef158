// Training runs on a backend whose memory is not the host's, against the same runs on the CPU: a file that includes this
// names the backend first, as `DeviceBackend`, with a Context that is made without arguments, and its RunDevice, and
// instantiates engine and trainer for it.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "support/device_run.hpp"

namespace sparsegrad::finetune::test {

inline void check_same_run(const TrainOptions& options) {
  DeviceRun<float, HostBackend> on_cpu(options);
  DeviceRun<float, DeviceBackend> on_device(options);
  check_same_losses(on_cpu, on_device, 2e-3);
}

TEST_CASE("device trainer: every run type has the CPU's losses") {
  for (const RunType type :
       {RunType::ft, RunType::sparse, RunType::topk, RunType::lora, RunType::meprop, RunType::frozen_mlp}) {
    CAPTURE(std::string(to_string(type)));
    check_same_run(device_options(type));
  }
}

TEST_CASE("device trainer: preset-like settings, clipping, accumulation and the reference's defects") {
  TrainOptions one_sided = device_options(RunType::sparse);
  one_sided.sparse.sides.width = "8";
  one_sided.sparse.sides.other = "identity";
  one_sided.sparse.share = 1;
  one_sided.sparse.adam = AdamSemantics::dense_core;
  one_sided.sparse.scope = BasisScope::layer;
  one_sided.sparse.refresh_every = 5;
  one_sided.sparse.moments = MomentsPolicy::transport;
  one_sided.sparse.share_gradient_memory = false;  // all matrices take their step together
  check_same_run(one_sided);

  TrainOptions together = device_options(RunType::sparse);
  together.sparse.share_gradient_memory = false;
  together.sparse.state_capacity = 0;
  check_same_run(together);

  TrainOptions clipped = device_options(RunType::sparse);
  clipped.clip_norm = 0.5;
  clipped.accumulation = 2;
  clipped.batch_size = 8;
  check_same_run(clipped);
  clipped.sparse.share_gradient_memory = false;
  clipped.sparse.state_capacity = 0;
  check_same_run(clipped);

  TrainOptions reference = device_options(RunType::sparse);
  reference.sparse.keep_phase1 = true;
  reference.sparse.defects = {true, true, true, true};
  check_same_run(reference);
}

TEST_CASE("device trainer: phase 1 leaves no trace, a state that was saved goes on as if nothing had been") {
  const TrainOptions options = device_options(RunType::sparse);
  const std::filesystem::path state = fresh_folder("device_state") / "state.safetensors";
  DeviceRun<float, DeviceBackend> whole(options);
  const std::uint64_t before = whole.trainer->state_hash();
  REQUIRE(whole.trainer->collect_bases());
  CHECK(whole.trainer->state_hash() == before);
  for (int step = 0; step < 4; ++step)
    whole.trainer->step();
  CHECK(whole.trainer->state_hash() != before);
  whole.trainer->save_state(state);

  DeviceRun<float, DeviceBackend> resumed(options);
  CHECK(resumed.trainer->restore_state(state) == "");
  CHECK(resumed.trainer->state_hash() == whole.trainer->state_hash());
  for (int step = 0; step < 3; ++step) {
    whole.trainer->step();
    resumed.trainer->step();
  }
  CHECK(resumed.trainer->state_hash() == whole.trainer->state_hash());

  // What the GPU wrote the CPU reads, and the model's files too.
  DeviceRun<float, HostBackend> on_cpu(options);
  CHECK(on_cpu.trainer->restore_state(state) == "");
  const std::filesystem::path folder = fresh_folder("device_model");
  save_model(folder, device_test_model(), whole.model);
  EncoderModel<float, HostBackend> loaded(on_cpu.ctx, device_test_model().config);
  CHECK(load_weights(open_model_directory(folder), loaded, 1).text() == "");
  CHECK(loaded.values(loaded.parameters().weights()) ==
        whole.model.values(whole.model.parameters().weights()));
}

}  // namespace sparsegrad::finetune::test
