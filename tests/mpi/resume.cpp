// A run by local selection that is saved and goes on in new processes: mpirun starts this program once
// for each test case, the second after the first.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <sparsegrad/extras/local_top_k.hpp>
#include <sparsegrad/extras/mpi_reduce.hpp>
#include <sparsegrad/io/group_file.hpp>
#include <sparsegrad/io/reducer_file.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;
using namespace std::chrono_literals;

namespace {

using Local = LocalTopKReducer<double, B>;

std::string path_of(const std::string& name, const Communicator& comm) {
  return SPARSEGRAD_TEST_OUTPUT_DIR "/" + name + ".of" + std::to_string(comm.size());
}
std::string residuals_of(const Communicator& comm) {
  return path_of("residuals" + std::to_string(comm.rank()), comm);
}

struct Run {
  explicit Run(Communicator& all)
      : comm(all),
        group(keeping(4)),
        reducer(std::make_shared<Local>(all, LocalTopKOptions{.entries = 2, .check = true})) {
    model.add_to(group);
    group.use_reduce(reducer);
  }
  /// Gradients of a step, of this rank's own.
  void add_gradients(int step) {
    oracle::Random own(static_cast<std::uint64_t>(100 * step + comm.rank()));
    for (std::size_t i = 0; i < 3; ++i)
      model.add(i, own.matrix(static_cast<int>(model.layers[i]->out_extent()),
                              static_cast<int>(model.layers[i]->in_extent())));
  }
  void fit() {
    group.collect(model.ctx, recipe_of(SideRecipe::hosvd(5), SideRecipe::hosvd(4)));
    add_gradients(0);
    group.end_collecting_step(model.ctx);
    group.refresh(model.ctx);
  }
  void train(int first, int last) {
    for (int step = first; step <= last; ++step) {
      add_gradients(step);
      group.step(model.ctx, {.learning_rate = 0.01});
    }
  }
  /// Weights and group are the same on all ranks: rank 0 writes them.
  void save(const std::string& name) {
    io::save(model.ctx, residuals_of(comm), *reducer);
    if (comm.rank() == 0) {
      io::SafetensorsWriter writer;
      io::put(model.ctx, writer, "group.", group);
      for (std::size_t i = 0; i < 3; ++i)
        writer.add("weight." + std::to_string(i), {48}, std::span<const double>(model.weights[i]));
      writer.write(path_of(name, comm));
    }
    comm.barrier("the saved state");
  }
  void load(const std::string& name) {
    const io::SafetensorsFile file(path_of(name, comm));
    for (std::size_t i = 0; i < 3; ++i) {
      const auto saved = file.read<double>("weight." + std::to_string(i));
      std::copy(saved.begin(), saved.end(), model.weights[i].begin());  // where the layers look
    }
    io::get(model.ctx, file, "group.", group);
  }

  Communicator& comm;
  Model model;
  Group group;
  std::shared_ptr<Local> reducer;
};

}  // namespace

TEST_CASE("mpi resume: six steps at once, and three that are saved") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 60s});
  Run whole(comm);
  whole.fit();
  whole.train(1, 6);
  whole.save("six");
  Run half(comm);
  half.fit();
  half.train(1, 3);
  half.save("three");
}

TEST_CASE("mpi resume: three more steps in new processes end with the bits of six at once") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 60s});
  Run six(comm);
  six.load("six");
  Run run(comm);
  run.load("three");
  CHECK(run.model.weights != six.model.weights);
  io::load(run.model.ctx, residuals_of(comm), *run.reducer);
  run.train(4, 6);
  CHECK(run.model.weights == six.model.weights);

  // Residuals of 0 end elsewhere: what was saved counts.
  Run without(comm);
  without.load("three");
  without.train(4, 6);
  CHECK(without.model.weights != six.model.weights);

  // A rank that goes on alone, and one that takes another's file.
  MpiCommunicator self(MPI_COMM_SELF, {.timeout = 60s});
  Run alone(self);
  const std::string own = "rank " + std::to_string(comm.rank()) + " of " + std::to_string(comm.size());
  const auto refused = [&](Run& other) {
    return message_of([&] { io::load(other.model.ctx, residuals_of(comm), *other.reducer); });
  };
  CHECK(contains(refused(alone), "the saved residuals are those of " + own + ", expected rank 0 of 1"));
  const int next = (comm.rank() + 1) % comm.size();
  const std::string others = path_of("residuals" + std::to_string(next), comm);
  CHECK(
      contains(message_of([&] { io::load(run.model.ctx, others, *run.reducer); }),
               "rank " + std::to_string(next) + " of " + std::to_string(comm.size()) + ", expected " + own));
}
