// Processes that a launcher started together: mpirun -n N sparsegrad-glue train ...
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <sparsegrad/extras/communicator.hpp>

#include "programs/run_processes.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// The processes that a launcher started together, as one of them sees them; this one alone where no launcher did.
class Processes {
 public:
  /// Joins the others, before the command line is read. Throws ValueError where there are others and this program cannot
  /// reach them: it was built without MPI, or the launcher is another MPI's.
  static std::unique_ptr<Processes> join();
  /// `name` of this process where it could not join: as its launcher calls it.
  static std::string launched_name();

  Processes() = default;
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  virtual ~Processes() = default;

  virtual int rank() const { return 0; }
  virtual int size() const { return 1; }
  bool is_first() const { return rank() == 0; }
  /// "", or of several ", rank 2": for messages.
  std::string name() const { return size() == 1 ? "" : ", rank " + std::to_string(rank()); }

  /// What a run of all of them speaks over, whose waits end after so many seconds; null of one alone.
  virtual Communicator* communicator(double timeout) {
    (void)timeout;
    return nullptr;
  }
  /// Of them on this host, and the threads of each that leave no processor to two: the same number on all ranks. After
  /// `communicator`.
  virtual int on_host() const { return 1; }
  virtual int threads() const { return 0; }

  /// Tells the others why this one ends.
  virtual void fail(const std::string& why) noexcept { (void)why; }
  /// Ends together with the others, for the end of the program: the exit status. Where that tells of an error, this ends
  /// the others too after a short while, and may not return.
  virtual int leave(int status) { return status; }
  /// Before this process prints the text that it ends with, because of an error or in place of a run (--help): the name to
  /// print it under; nothing where rank 0 prints the same text for all. Before a run the processes tell each other, within
  /// a bounded time, so that none waits for one that has ended.
  virtual std::optional<std::string> name_for(const std::string& text, bool error) {
    (void)text;
    (void)error;
    return "";
  }

  /// Throws ValueError where there are several.
  void require_one(const std::string& what) const;
  /// Returns run(), whose error the others are told.
  template <class F>
  int guard(F&& run) {
    try {
      return run();
    } catch (const CommunicationError&) {
      throw;  // they know, or are gone
    } catch (const std::exception& error) {
      fail(error.what());
      throw;
    }
  }
};

/// A program's whole run, run(processes), as one of the processes that a launcher started: the exit status, which is not 0
/// where something that was printed is lost.
int run_in_processes(const char* program, const std::function<int(Processes&)>& run);

/// Makes the options those of one of several processes. Throws CommunicationError on all of them when a rank has another
/// program or other options than rank 0.
RunProcesses share_run(Processes& processes, TrainOptions& options);

/// Gives the options the products and the type of numbers that the first rank chooses; what the log says of them
/// (choose_products), on the first rank.
std::string share_products(TrainOptions& options, const RunProcesses& processes);

}  // namespace sparsegrad::finetune
