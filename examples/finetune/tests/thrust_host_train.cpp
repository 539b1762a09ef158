// The trainer with the GPU's kernels on Thrust's host system.
#include <sparsegrad/backend/thrust_host.cuh>

#include "support/fenced_layer_ops.hpp"

using DeviceBackend = sparsegrad::test::Fenced<sparsegrad::backend::ThrustHost>;

#include "checkpoints/hf_directory_impl.hpp"
#include "models/encoder/encoder_model_impl.hpp"
#include "models/parameters/parameter_set_impl.hpp"
#include "support/thrust_host_run.hpp"
#include "training/optimizer/adamw_impl.hpp"
#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

extern template class ParameterSet<float, HostBackend>;
extern template class EncoderModel<float, HostBackend>;
extern template class AdamW<float, HostBackend>;
extern template class GlueRunData<float, HostBackend>;
extern template class BasicTrainer<EncoderModel<float, HostBackend>>;
template class ParameterSet<float, DeviceBackend>;
template class EncoderModel<float, DeviceBackend>;
template class AdamW<float, DeviceBackend>;
template class GlueRunData<float, DeviceBackend>;
template class BasicTrainer<EncoderModel<float, DeviceBackend>>;

}  // namespace sparsegrad::finetune

#include "support/device_train.hpp"

namespace sparsegrad::finetune::test {

/// All matrices take their step together.
inline TrainOptions options_together(RunType type) {
  TrainOptions options = device_options(type);
  options.sparse.share_gradient_memory = false;
  options.sparse.state_capacity = 0;
  return options;
}

TEST_CASE("device trainer: a step waits for its loss, once more where it clips") {
  for (const RunType type : {RunType::ft, RunType::sparse, RunType::topk, RunType::lora}) {
    for (const double clip : {0.0, 0.5}) {
      CAPTURE(std::string(to_string(type)));
      TrainOptions options = options_together(type);
      options.clip_norm = clip;
      DeviceRun<float, DeviceBackend> run(options);
      REQUIRE(run.trainer->collect_bases());
      run.trainer->step();
      const int before = DeviceBackend::waits();
      run.trainer->step();
      CHECK(DeviceBackend::waits() - before == (clip > 0 ? 2 : 1));
    }
  }
}

TEST_CASE(
    "device trainer: NaN in a matrix's gradient is told in the next step, or before the state is saved") {
  const std::filesystem::path state = fresh_folder("device_nan") / "state.safetensors";
  for (const bool saves : {false, true}) {
    DeviceRun<float, DeviceBackend> run(options_together(RunType::sparse));
    REQUIRE(run.trainer->collect_bases());
    run.trainer->step();
    run.trainer->step([&] {
      auto& layer = run.model.mlp()[1];
      const auto size = static_cast<std::size_t>(layer.out_extent() * layer.in_extent());
      const std::vector<float> bad(size, std::nanf(""));
      Buffer<float, DeviceBackend> dw(run.ctx, static_cast<index_t>(size));
      DeviceBackend::upload<float>(run.ctx, bad.data(), dw.data(), dw.size());
      layer.add_gradient(run.ctx, dw.matrix(layer.out_extent(), layer.in_extent()));
    });
    std::string text;
    try {
      saves ? run.trainer->save_state(state) : run.trainer->step();
    } catch (const NonFiniteError& error) {
      text = error.what();
    }
    CHECK(text.find("step 2: the core gradient of layer or weight 1 of a group") == 0);
    CHECK_FALSE(std::filesystem::exists(state));
  }
}

}  // namespace sparsegrad::finetune::test
