// Stop a training, write the group's state (bases, moments, step counts) into a safetensors file, read it in a new
// program, and go on: the continued training has the same bits as one that was never stopped.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/06_save_resume.cpp -o save_resume
// (needs nlohmann/json, as everything in sparsegrad/io)
#include <sparsegrad/io/group_file.hpp>
#include <sparsegrad/sparsegrad.hpp>

#include <cstdio>
#include <random>
#include <vector>

namespace sg = sparsegrad;
constexpr int inputs = 24, outputs = 32;

/// One weight in a group, as a program would hold a whole model.
struct Training {
  sg::backend::Cpu::Context ctx;
  std::vector<float> w = std::vector<float>(outputs * inputs), dw = w;
  sg::SparseGradGroup<float> group{{.density = 0.05, .warmup_steps = 4}};

  Training() {
    group.add_weight(ctx, {w.data(), outputs, inputs}, "up", {.gradient = {dw.data(), outputs, inputs}});
  }

  /// Steps `first` to `last` - 1, with a gradient that depends on the step alone.
  void run(int first, int last) {
    for (int step = first; step < last; ++step) {
      std::mt19937 random(static_cast<unsigned>(step));
      for (std::size_t i = 0; i < dw.size(); ++i)
        dw[i] = w[i] + static_cast<float>(random() >> 8) * 0x1p-24f;
      group.step(ctx, {.learning_rate = 0.01});
    }
  }
};

int main() {
  const char* path = "06_save_resume.safetensors";
  Training first;
  first.run(0, 20);
  sg::io::save(first.ctx, path, first.group);
  const std::vector<float> saved_w = first.w;  // weights are the engine's to save
  first.run(20, 40);

  Training second;  // as in a new process: the same options and layers
  second.w = saved_w;
  sg::io::load(second.ctx, path, second.group);
  std::printf("resumed after %d steps in the bases\n", static_cast<int>(second.group.optimizer(0).steps()));
  second.run(20, 40);
  std::printf("same bits as without the stop: %s\n", first.w == second.w ? "yes" : "no");
  std::remove(path);
}
