// MpiRollCall: which ranks are there, asked when one does not come.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include <mpi.h>

#include "../core/config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::detail {

/// A rank whose wait has lasted too long asks all others what they wait in. Those that wait too answer;
/// who is silent computes, hangs, or is gone.
class MpiRollCall {
 public:
  MpiRollCall() = default;
  /// The communicator must live as long; messages use its tags 1 and 2.
  MpiRollCall(MPI_Comm comm, int rank, int size) : comm_(comm), rank_(rank), size_(size) {}

  /// Answers those that have asked: this rank waits in the call of that name.
  void answer(const std::string& what) {
    std::string text;
    for (int peer = take(question, text); peer >= 0; peer = take(question, text)) {
      // Lives until the engine has sent it.
      answers_.push_back(what.empty() ? "a call" : what.substr(0, 200));
      send(peer, answered, answers_.back());
    }
  }
  /// Asks all, and returns what each says it waits in, within the time; empty: it says nothing.
  std::vector<std::string> ask(const std::string& what, std::chrono::milliseconds time) {
    std::vector<std::string> said(static_cast<std::size_t>(size_));
    answers_.emplace_back("?");
    for (int r = 0; r < size_; ++r)
      if (r != rank_) send(r, question, answers_.back());
    const auto begin = std::chrono::steady_clock::now();
    const auto waited = [&] { return std::chrono::steady_clock::now() - begin; };
    while (std::chrono::duration_cast<std::chrono::milliseconds>(waited()) < time) {
      answer(what);
      std::string text;
      for (int peer = take(answered, text); peer >= 0; peer = take(answered, text))
        said[static_cast<std::size_t>(peer)] = text;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return said;
  }

 private:
  static constexpr int question = 1;
  static constexpr int answered = 2;

  void send(int peer, int tag, const std::string& text) {
    MPI_Request request = MPI_REQUEST_NULL;
    const int code =
        MPI_Isend(text.data(), static_cast<int>(text.size()), MPI_CHAR, peer, tag, comm_, &request);
    if (code == MPI_SUCCESS) MPI_Request_free(&request);
  }
  /// A message of this tag, where one has come: its sender, else -1.
  int take(int tag, std::string& text) {
    int there = 0;
    MPI_Status status{};
    if (MPI_Iprobe(MPI_ANY_SOURCE, tag, comm_, &there, &status) != MPI_SUCCESS || there == 0) return -1;
    int length = 0;
    MPI_Get_count(&status, MPI_CHAR, &length);
    text.assign(static_cast<std::size_t>((std::max)(length, 0)), ' ');
    const int code =
        MPI_Recv(text.data(), length, MPI_CHAR, status.MPI_SOURCE, tag, comm_, MPI_STATUS_IGNORE);
    return code == MPI_SUCCESS ? status.MPI_SOURCE : -1;
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  std::deque<std::string> answers_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::detail
