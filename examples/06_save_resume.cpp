// Stop a training, write weight, basis and optimizer into one safetensors file, read them in a new program, and go on:
// the continued training has the same bits as one that was never stopped.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/06_save_resume.cpp -o save_resume
// (needs nlohmann/json, as everything in sparsegrad/io)
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/io/state_file.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include <algorithm>
#include <cstdio>
#include <random>
#include <span>
#include <vector>

namespace sg = sparsegrad;
constexpr int inputs = 24, outputs = 32;
using Context = sg::backend::Cpu::Context;

/// One layer in a group, as a program would hold a whole model.
struct Training {
  std::vector<float> w = std::vector<float>(outputs * inputs);
  sg::SparseGradLinear<float> layer;
  sg::SparseGradGroup<float> group{{.density = 0.05}};

  explicit Training(Context& ctx) : layer(ctx, {w.data(), outputs, inputs}, nullptr) {
    group.add(ctx, layer, "up");
  }

  /// Steps `first` to `last` - 1, with a gradient that depends on the step alone.
  void run(Context& ctx, int first, int last) {
    std::vector<float> dw(outputs * inputs);
    for (int step = first; step < last; ++step) {
      std::mt19937 random(static_cast<unsigned>(step));
      for (std::size_t i = 0; i < dw.size(); ++i)
        dw[i] = w[i] + static_cast<float>(random() >> 8) * 0x1p-24f;
      layer.add_gradient(ctx, {dw.data(), outputs, inputs});
      group.collecting() ? group.end_collecting_step(ctx) : (void)group.step(ctx, {.learning_rate = 0.01});
    }
  }
};

void save(Context& ctx, Training& training, const char* path) {
  sg::io::SafetensorsWriter writer;
  writer.add("up.weight", {outputs, inputs}, std::span<const float>(training.w));
  sg::io::put(ctx, writer, "up.basis.", *training.layer.basis());
  sg::io::put(ctx, writer, "up.adam.", training.group.optimizer(0));
  writer.write(path);
}

void load(Context& ctx, const char* path, Training& training) {
  const sg::io::SafetensorsFile file(path);
  const std::vector<float> w = file.read<float>("up.weight");
  std::copy(w.begin(), w.end(),
            training.w.begin());  // the layer borrows this memory: it must stay where it is
  training.group.set_basis(ctx, 0, sg::io::get_basis<float>(ctx, file, "up.basis."));
  sg::io::get(ctx, file, "up.adam.", training.group.optimizer(0));
}

int main() {
  const char* path = "06_save_resume.safetensors";
  Context ctx;
  Training first(ctx);
  first.group.collect(ctx, {});
  first.run(ctx, 0, 4);
  first.group.refresh(ctx);
  first.run(ctx, 4, 20);
  save(ctx, first, path);
  first.run(ctx, 20, 40);

  Training second(ctx);  // as in a new process: neither gradients nor a collection
  load(ctx, path, second);
  std::printf("resumed at step %d with %d entries of the optimizer's state\n",
              static_cast<int>(second.group.optimizer(0).steps()),
              static_cast<int>(second.group.optimizer(0).size()));
  second.run(ctx, 20, 40);
  std::printf("same bits as without the stop: %s\n", first.w == second.w ? "yes" : "no");
  std::remove(path);
}
