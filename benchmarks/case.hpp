// What one benchmark is, and how one run of it is timed.
#pragma once

#include <chrono>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace sparsegrad::bench {

/// Bytes that the training of one layer holds between or within its steps. What every step has alike, Y, dY and dX, is
/// no part of it.
struct Memory {
  double weight = 0;
  double gradient = 0;     ///< dense or core gradient, the kept entries, the update
  double optimizer = 0;    ///< moments, with their positions
  double basis = 0;        ///< or the adapter's factors
  double saved_input = 0;  ///< what forward keeps for backward
  double scratch = 0;      ///< temporaries, the most at a time
};

/// A prepared benchmark; what `run` needs lives as long as this.
struct Work {
  std::function<void()> run;
  std::function<void()> reset = nullptr;     ///< before every timed run, not timed itself
  double flops = 0;                          ///< of the dense products in one run, 0: none worth a rate
  double bytes = 0;                          ///< read and written at least, 0: not stated
  std::function<Memory()> memory = nullptr;  ///< after a run; null: not stated
  std::function<double()> extra_bytes =
      nullptr;  ///< memory at the peak of a run beyond what it is about; null: not stated
};

/// A benchmark by name. Nothing is allocated before `prepare`.
struct Case {
  std::string name;
  std::function<Work()> prepare;
  double most_ratio = 0;    ///< wanted at most: time over that of `over`; 0: nothing promised
  double most_seconds = 0;  ///< wanted at most; 0: nothing promised
  std::string over = {};    ///< case of the same rounds that a ratio is taken to; empty: the first, or none
  double most_extra_bytes = 0;  ///< wanted at most of Work::extra_bytes; 0: nothing promised
};

/// An object that several cases share: made when the first of them is prepared, gone with the last.
template <class T>
class OnDemand {
 public:
  explicit OnDemand(std::function<std::shared_ptr<T>()> make) : state_(std::make_shared<State>()) {
    state_->make = std::move(make);
  }
  std::shared_ptr<T> operator()() const {
    std::shared_ptr<T> object = state_->object.lock();
    if (object == nullptr) {
      object = state_->make();
      state_->object = object;
    }
    return object;
  }

 private:
  struct State {
    std::function<std::shared_ptr<T>()> make;
    std::weak_ptr<T> object;
  };
  std::shared_ptr<State> state_;
};

/// Wall-clock time, and the processor time of all threads: the second suffers less on a machine that others use too.
struct Sample {
  double wall = 0;
  double cpu = 0;
};

inline double cpu_seconds() {
  std::timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// One run.
inline Sample time(const Work& work) {
  if (work.reset) work.reset();
  const double cpu = cpu_seconds();
  const auto start = std::chrono::steady_clock::now();
  work.run();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  return {wall.count(), cpu_seconds() - cpu};
}

}  // namespace sparsegrad::bench
