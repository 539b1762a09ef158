// libFuzzer target: a group takes a file's state or refuses it by an IoError and is then as it was. With a state that it
// took it makes a step, whose numbers are finite.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <sparsegrad/extras/error_feedback.hpp>
#include <sparsegrad/extras/fixed_support.hpp>
#include <sparsegrad/io/group_file.hpp>

#include "support/fuzz.hpp"
#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

/// A group of three layers, of which one keeps an error feedback and one a fixed support.
struct Run {
  explicit Run(bool compact) : group(options(compact)) {
    model.add_to(group);
    group.use_selector(model.ctx, 1, std::make_shared<ErrorFeedback<double, B>>());
    SparseGradient<double, B> support(model.ctx, 6, 8, 2);
    const std::vector<stored_index_t> at{1, 5};
    support.assign(model.ctx, at, std::vector<double>(2));
    group.use_selector(model.ctx, 2, FixedSupport<double, B>(model.ctx, support));
    group.reserve(model.ctx);
    fresh = state();
    weights = model.weights;
  }
  static GroupOptions options(bool compact) {
    GroupOptions options = keeping(2);
    options.capacity_factor = compact ? 3 : 0;
    return options;
  }
  std::vector<std::byte> state() {
    io::SafetensorsWriter writer;
    io::put(model.ctx, writer, "", group);
    return writer.bytes();
  }
  void take(const std::vector<std::byte>& state) {
    io::get(model.ctx, io::SafetensorsFile(io::FileBytes::from(state), "written"), "", group);
  }
  /// As it was made, whatever was loaded since: making one takes longer than reading a file.
  void renew() {
    take(fresh);
    fuzz::require(state() == fresh, "a group that took its first state again is another");
    for (std::size_t i = 0; i < weights.size(); ++i)
      std::copy(weights[i].begin(), weights[i].end(), model.weights[i].begin());
  }

  Model model;
  Group group;
  std::vector<std::byte> fresh;
  Weights weights;
};

/// Whether the group is as before; it may have to be made anew after a step that failed.
bool load_and_step(const io::SafetensorsFile& file, Run& run) {
  try {
    io::get(run.model.ctx, file, "", run.group);
  } catch (const IoError& error) {
    fuzz::refused(error);
    fuzz::require(run.state() == run.fresh, "a group that refused a state is another");
    return true;
  }
  const std::vector<std::byte> taken = run.state();
  try {
    run.take(run.fresh);
    run.take(taken);
  } catch (const IoError& error) {
    fuzz::require(false, std::string("what was written is refused: ") + error.what());
  }
  fuzz::require(run.state() == taken, "what was written and read is written differently");
  try {
    for (int step = 0; step < 2; ++step) {
      run.model.add_gradients();
      run.group.step(run.model.ctx, {.learning_rate = 0.05, .weight_decay = 0.1});
    }
    for (const std::vector<double>& weight : run.model.weights)
      for (const double w : weight)
        fuzz::require(is_finite(w), "a step with a state that was taken makes a weight that is not finite");
  } catch (const Error& error) {  // it says why: a moment that overflows, a state that is full
    fuzz::refused(error);
    return false;
  }
  run.renew();
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static std::unique_ptr<Run> runs[2];
  for (const bool compact : {false, true}) {
    std::unique_ptr<Run>& run = runs[compact ? 1 : 0];
    if (run == nullptr) run = std::make_unique<Run>(compact);
    bool usable = true;
    {
      const fuzz::MemoryBound bound(size);
      try {
        const auto* bytes = reinterpret_cast<const std::byte*>(data);
        usable =
            load_and_step(io::SafetensorsFile(io::FileBytes::from({bytes, bytes + size}), "input"), *run);
      } catch (const IoError& error) {  // no safetensors file
        fuzz::refused(error);
      }
    }
    if (!usable) run.reset();
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_safetensors(data, size, max_size, seed);
}
