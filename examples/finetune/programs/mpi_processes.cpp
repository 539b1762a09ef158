// Processes over MPI: the only unit that includes its header. Without FINETUNE_MPI several processes are refused.
#include "programs/processes.hpp"

#include <cstdlib>
#include <string>

#include <fmt/format.h>

#if defined(FINETUNE_MPI)
#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/extras/mpi_reduce.hpp>

#include "programs/interrupt.hpp"
#include "training/output/console.hpp"
#include "training/process_agreement.hpp"
#include "training/state_arrays.hpp"
#endif

namespace sparsegrad::finetune {

namespace {

/// How many processes a launcher says that it has started; 1 where none says so.
int launched() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {  // Open MPI; MPICH and its kin
    if (const char* const value = std::getenv(name)) return std::atoi(value);
  }
  return 1;
}

#if defined(FINETUNE_MPI)

using Clock = std::chrono::steady_clock;

/// Where a rank runs, for the others.
nlohmann::json place_of_this_process() {
  std::string boot;  // tells hosts apart, whatever their names
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  std::error_code none;
  std::vector<int> processors;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &allowed)) processors.push_back(cpu);
  }
  return {{"host", boot},
          {"process_numbers", std::filesystem::read_symlink("/proc/self/ns/pid", none).string()},
          {"process", ::getpid()},
          {"processors", processors},
          {"threads", backend::Cpu::Context(0).threads()}};
}

/// The threads of this rank that leave no processor to two ranks of a host.
int threads_of(const nlohmann::json& own, const std::vector<nlohmann::json>& all) {
  std::map<int, int> ranks;  // of a processor
  for (const nlohmann::json& place : all) {
    if (place.at("host") != own.at("host")) continue;
    for (const int cpu : place.at("processors"))
      ++ranks[cpu];
  }
  double share = 0;
  for (const int cpu : own.at("processors"))
    share += 1.0 / ranks[cpu];
  const auto processors = static_cast<double>(std::max<std::size_t>(own.at("processors").size(), 1));
  return std::max(1, static_cast<int>(own.at("threads").get<int>() * share / processors + 1e-9));
}

class MpiProcesses final : public Processes {
 public:
  explicit MpiProcesses(int expected) {
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &threads_allowed_);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);  // MPICH asks it for every communicator
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    if (size_ == expected) {
      MPI_Comm_dup(MPI_COMM_WORLD, &control_);
      MPI_Comm_set_errhandler(control_, MPI_ERRORS_RETURN);
      return;
    }
    MPI_Finalize();
    throw ValueError(fmt::format(
        "a launcher has started {} processes, of which this program's MPI sees {}; use the mpirun of the "
        "MPI that it was built with",
        expected, size_));
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Communicator* communicator(double timeout) override {
    if (communicator_ != nullptr) return communicator_.get();
    timeout_ = timeout;
    require_all_run(timeout);
    MpiOptions options;
    options.timeout = std::chrono::milliseconds(static_cast<std::int64_t>(1000 * timeout));
    options.watch = [this] { return trouble(); };
    // Else gradients on their way go on where the next one is started.
    options.progress_thread = threads_allowed_ >= MPI_THREAD_MULTIPLE;
    communicator_ = std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, options);
    const nlohmann::json own = place_of_this_process();
    places_ = values_of_all(*communicator_, own, "the places of the processes");
    for (int r = 0; r < size_; ++r) {
      const nlohmann::json& place = places_[static_cast<std::size_t>(r)];
      const bool seen =
          place.at("host") == own.at("host") && place.at("process_numbers") == own.at("process_numbers");
      if (r != rank_ && seen) neighbours_.emplace_back(r, place.at("process").get<pid_t>());
    }
    return communicator_.get();
  }

  int on_host() const override {
    const auto here = [&](const nlohmann::json& place) {
      return place.at("host") == places_[static_cast<std::size_t>(rank_)].at("host");
    };
    return static_cast<int>(std::count_if(places_.begin(), places_.end(), here));
  }
  int threads() const override {
    int least = threads_of(places_.front(), places_);
    for (const nlohmann::json& place : places_)
      least = std::min(least, threads_of(place, places_));
    return least;
  }

  std::optional<std::string> name_for(const std::string& text, bool error) override {
    if (met_) return name();
    const std::string told = error ? text : "it has told what --help or --version asks for, and does not run";
    Hash hash;
    hash.add(text.data(), text.size());
    // Those that run, or hang, print nothing: there is no need to wait longer.
    const std::vector<std::string> said =
        meet(fmt::format("{}{:016x}{}", error ? 'e' : 'a', hash.value(), told), 10);
    const bool alike = std::equal(said.begin() + 1, said.end(), said.begin());
    ends_alone_ = !alike;
    if (!alike) return name();
    if (rank_ != 0) return std::nullopt;
    return fmt::format(", all {} ranks", size_);
  }
  void fail(const std::string& why) noexcept override {
    if (communicator_ == nullptr || !why_.empty()) return;
    why_ = why.substr(0, 2000);
    send_to_others(why_, failure_tag);
  }

  int leave(int status) override {
    if (ends_alone_) {
      status = std::max(status, 1);  // the others do not run without this one
    } else if (status == 0 || status == interrupted_status) {
      try {
        if (communicator_ != nullptr) communicator_->barrier("the end of the run");
        communicator_.reset();
        MPI_Finalize();
        return status;
      } catch (const std::exception& error) {
        print_error("{}\n", error.what());
        status = 1;
      }
    }
    // The others may be in the middle of a step when this one fails: they look for its message at the step's end.
    say_farewell(why_.empty() ? 2 : std::min(timeout_, 60.0));
    MPI_Abort(MPI_COMM_WORLD, status);
    return status;
  }

 private:
  static constexpr int failure_tag = 1;
  static constexpr int start_tag = 2;

  /// Before a run: sends all others what this process is about to do, once, and returns what each says, by rank, as soon
  /// as all have said the same, or one something else; empty where one has not come within so many seconds.
  std::vector<std::string> meet(const std::string& own, double seconds) {
    met_ = true;
    own_start_ = own.substr(0, 2000);
    std::vector<std::string> said(static_cast<std::size_t>(size_));
    said[static_cast<std::size_t>(rank_)] = own_start_;
    send_to_others(own_start_, start_tag);
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    const auto waits = [&] {
      for (const std::string& text : said)
        if (!text.empty() && text != own_start_) return false;
      return std::count(said.begin(), said.end(), "") > 0;
    };
    while (waits() && Clock::now() < end) {
      std::string text;
      for (int peer = take(start_tag, text); peer >= 0; peer = take(start_tag, text))
        said[static_cast<std::size_t>(peer)] = text;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return said;
  }
  /// Throws CommunicationError unless all have come here.
  void require_all_run(double timeout) {
    const std::vector<std::string> said = meet("run", timeout);
    std::vector<int> missing;
    for (int r = 0; r < size_; ++r) {
      const std::string& text = said[static_cast<std::size_t>(r)];
      if (text.empty()) missing.push_back(r);
      if (text.empty() || text == own_start_) continue;
      throw CommunicationError(fmt::format("rank {} has ended: {}", r, text.substr(1 + 16)));
    }
    if (missing.empty()) return;
    throw CommunicationError(fmt::format("{} {} not come to the start for {} s (--process-timeout)",
                                         Communicator::ranks_text(missing),
                                         missing.size() == 1 ? "has" : "have", timeout));
  }
  /// A short message leaves at once; it must stay until the process ends.
  void send_to_others(const std::string& text, int tag) {
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Isend(text.data(), static_cast<int>(text.size()), MPI_CHAR, r, tag, control_, &request);
    }
  }
  /// A message of this tag, where one has come: its sender, else -1.
  int take(int tag, std::string& text) {
    int there = 0;
    MPI_Status status{};
    if (MPI_Iprobe(MPI_ANY_SOURCE, tag, control_, &there, &status) != MPI_SUCCESS || there == 0) return -1;
    int length = 0;
    MPI_Get_count(&status, MPI_CHAR, &length);
    text.assign(static_cast<std::size_t>(std::max(length, 0)), ' ');
    MPI_Recv(text.data(), length, MPI_CHAR, status.MPI_SOURCE, tag, control_, MPI_STATUS_IGNORE);
    return status.MPI_SOURCE;
  }

  /// Why a wait for the others should end: one has said that it ends, or is gone.
  std::string trouble() {
    if (const std::string told = told_by_another(); !told.empty()) return told;
    const auto now = Clock::now();
    if (now - looked_ < std::chrono::milliseconds(100)) return "";
    looked_ = now;
    for (const auto& [rank, process] : neighbours_) {
      if (::kill(process, 0) == 0 || errno != ESRCH) continue;
      if (const std::string told = told_by_another(); !told.empty()) return told;
      return fmt::format("rank {} (process {}) has ended", rank, process);
    }
    return "";
  }
  std::string told_by_another() {
    std::string text;
    const int peer = take(failure_tag, text);
    return peer < 0 ? "" : fmt::format("rank {} has ended: {}", peer, text);
  }
  /// Waits until all have come here, for so many seconds at most.
  static void say_farewell(double seconds) {
    MPI_Request request = MPI_REQUEST_NULL;
    if (MPI_Ibarrier(MPI_COMM_WORLD, &request) != MPI_SUCCESS) return;
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    for (int done = 0; done == 0 && Clock::now() < end;) {
      if (MPI_Test(&request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  int rank_ = 0;
  int size_ = 1;
  int threads_allowed_ = MPI_THREAD_SINGLE;
  double timeout_ = 0;
  MPI_Comm control_ = MPI_COMM_NULL;  ///< for what is no part of a run: why a rank ends
  std::unique_ptr<MpiCommunicator> communicator_;
  std::vector<nlohmann::json> places_;             ///< of all ranks
  std::vector<std::pair<int, pid_t>> neighbours_;  ///< ranks whose processes this one can see
  bool met_ = false;                               ///< the others were told what this one does
  bool ends_alone_ = false;                        ///< before a run, and others do not end, or otherwise
  std::string own_start_;                          ///< what they were told, while it is sent
  std::string why_;                                ///< what the others were told
  Clock::time_point looked_ = Clock::now();        ///< for the neighbours
};

#endif

}  // namespace

std::string Processes::launched_name() {
  if (launched() <= 1) return "";
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK"}) {
    if (const char* const value = std::getenv(name)) return fmt::format(", rank {}", std::atoi(value));
  }
  return "";
}

std::unique_ptr<Processes> Processes::join() {
  const int count = launched();
  if (count <= 1) return std::make_unique<Processes>();
#if defined(FINETUNE_MPI)
  return std::make_unique<MpiProcesses>(count);
#else
  throw ValueError(
      fmt::format("a launcher has started {} processes, and this program was built without MPI; build it "
                  "where MPI is found "
                  "(Debian: libopenmpi-dev), with SPARSEGRAD_MPI on",
                  count));
#endif
}

}  // namespace sparsegrad::finetune
