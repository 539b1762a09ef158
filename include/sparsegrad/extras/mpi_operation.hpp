// MpiOperation: a call of MpiCommunicator that has been started, with its messages and its memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <mpi.h>

#include "../core/low_precision.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::detail {

/// Some of an operation's bytes.
struct MpiPart {
  std::size_t first = 0;  ///< where they begin
  std::size_t count = 0;  ///< how many they are
};

/// A message to or from a rank.
struct MpiMessage {
  int peer = 0;           ///< the other rank; -1: all of them
  bool received = false;  ///< it comes from there
  std::size_t bytes = 0;  ///< its length
};

/// What an error of MPI means; of a receive that was given room for so many bytes from `peer` (-1: of a
/// call of all ranks).
inline std::string mpi_error_text(int code, int peer, std::size_t bytes) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  std::string meaning(text, static_cast<std::size_t>(length));
  int kind = MPI_SUCCESS;
  MPI_Error_class(code, &kind);
  if (kind != MPI_ERR_TRUNCATE) return meaning;
  meaning += peer < 0 ? "; another rank gives more numbers than this one"
                      : "; rank " + std::to_string(peer) + " has sent more than the " +
                            std::to_string(bytes) + " bytes that this rank expects";
  return meaning +
         ": the ranks disagree about sizes, as where one has other options or another program; all ranks "
         "must make the same calls";
}

/// A call that has been started, in two stages: every rank gets its part of the others' numbers and
/// adds them up; then all get the results. Its memory is its own, so that it may outlive the caller's
/// where the engine does not let go of it.
struct MpiOperation {
  std::int64_t ticket = 0;            ///< its number
  std::string what;                   ///< its name in messages
  MPI_Datatype type = MPI_BYTE;       ///< of the numbers
  std::size_t element = 1;            ///< bytes of a number
  std::size_t count = 0;              ///< numbers
  std::byte* target = nullptr;        ///< the caller's memory
  int stage = 1;                      ///< 1: parts go to their rank; 2: results to all
  bool adds = true;                   ///< the parts of stage 1 are summed
  std::vector<std::byte> own;         ///< this rank's numbers, then the sums
  std::vector<std::byte> parts;       ///< what each rank has for this rank's part
  std::vector<MPI_Request> requests;  ///< of the present stage
  std::vector<MpiMessage> messages;   ///< of the requests

  /// The part of the numbers that rank r adds up.
  MpiPart part(int r, int size) const {
    const auto ranks = static_cast<std::size_t>(size);
    const auto at = static_cast<std::size_t>(r);
    const std::size_t begin = this->count * at / ranks;
    return {begin * element, (this->count * (at + 1) / ranks - begin) * element};
  }

  /// Adds this rank's part of all ranks' numbers, in the order of the ranks. `wide`: memory to add 16
  /// bits in.
  void add_parts(int rank, int size, std::vector<float>& wide) {
    if (type == MPI_FLOAT) return add_numbers<float>(rank, size);
    if (type == MPI_DOUBLE) return add_numbers<double>(rank, size);
    const std::size_t n = part(rank, size).count / sizeof(bfloat16);
    wide.assign(n, 0);
    for (int r = 0; r < size; ++r) {
      const bfloat16* x = numbers<bfloat16>(r, rank, size);
      for (std::size_t e = 0; e < n; ++e)
        wide[e] = r == 0 ? static_cast<float>(x[e]) : wide[e] + static_cast<float>(x[e]);
    }
    bfloat16* sum = numbers<bfloat16>(rank, rank, size);
    for (std::size_t e = 0; e < n; ++e)
      sum[e] = bfloat16(wide[e]);
  }

 private:
  /// What rank r has for this rank's part. (The vectors' memory is aligned for any number.)
  template <class N>
  N* numbers(int r, int rank, int size) {
    const MpiPart mine = part(rank, size);
    return reinterpret_cast<N*>(r == rank ? own.data() + mine.first
                                          : parts.data() + mine.count * static_cast<std::size_t>(r));
  }
  template <class N>
  void add_numbers(int rank, int size) {
    const MpiPart mine = part(rank, size);
    const std::size_t n = mine.count / sizeof(N);
    N* sum = numbers<N>(0, rank, size);
    for (int r = 1; r < size; ++r) {
      const N* x = numbers<N>(r, rank, size);
      for (std::size_t e = 0; e < n; ++e)
        sum[e] += x[e];
    }
    if (rank != 0 && n > 0) std::memcpy(numbers<N>(rank, rank, size), sum, mine.count);
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::detail
