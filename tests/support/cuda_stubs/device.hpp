// A device that exists on the host alone: what the functions of CUDA's runtime, cuBLAS and cuSOLVER that stand beside this
// file (runtime.cpp, products.cpp, eigen_problem.cpp) do their work on. A program is linked with them in place of CUDA's.
//
// Work that a stream is given is done when somebody waits for the stream, and not before: who reads a result without
// waiting reads something else. Device memory is memory that the host cannot touch but for that time, and neither anybody
// after it was freed: a fault says so. What CUDA forbids, and what it leaves undefined, is a violation: its text is
// printed, and the program ends with status 1 though its tests pass.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <cuda_runtime_api.h>

namespace sparsegrad::test::cuda_stubs {

using Work = std::function<void()>;

/// What a capture records, in order, and what a graph made of it does.
struct Graph {
  std::vector<Work> work;
};

struct Stream {
  std::deque<Work> queue;
  std::unique_ptr<Graph> capture;  ///< where one is under way
  bool capture_valid = true;
  std::thread::id capturer;
};

class Device {
 public:
  static constexpr std::size_t total_bytes = std::size_t{8} << 30;
  static Device& get();

  // Memory.
  cudaError_t allocate(void** p, std::size_t bytes);
  cudaError_t deallocate(void* p);
  cudaError_t allocate_on_host(void** p, std::size_t bytes);
  cudaError_t deallocate_on_host(void* p);
  std::size_t held_bytes();
  /// Whether p is an address of the device's, of memory that there is or was.
  bool owns(const void* p) const;
  /// A violation unless the bytes are of one piece of memory that there is.
  bool covers(const std::string& what, const void* p, std::size_t bytes);
  /// A copy or a filling of `bytes` bytes.
  cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream);

  // Streams.
  cudaStream_t make_stream(bool waits_for_default);
  cudaError_t destroy_stream(cudaStream_t stream);
  cudaError_t submit(cudaStream_t stream, Work work);
  cudaError_t synchronize(cudaStream_t stream);
  cudaError_t synchronize();
  bool is_capturing(cudaStream_t stream);
  cudaError_t begin_capture(cudaStream_t stream);
  cudaError_t end_capture(cudaStream_t stream, Graph** graph);

  /// How often the host has waited, and what streams were given to do, since the program began; nothing of captures.
  struct Counts {
    int waits = 0;
    int work = 0;
  };
  Counts counts();

  // What a program has to give back; `name` is what is said where it does not.
  void* hold(const std::string& name, std::shared_ptr<void> thing);
  bool release(const std::string& name, void* thing);

  /// A violation where this thread captures a stream; the capture is lost then.
  bool forbidden_in_capture(const std::string& what);
  void violation(const std::string& text);
  /// The texts since the last call, which then do not count.
  std::vector<std::string> take_violations();
  /// From now on every call fails so, as after a kernel that failed; cudaSuccess: no more.
  void fail_with(cudaError_t status);
  cudaError_t status(cudaError_t own);
  cudaError_t take_last_error();

  /// From now on memory is the host's too, as managed memory is, the device takes pointers to the host's own, and work is
  /// done at once, as with CUDA_LAUNCH_BLOCKING.
  void share_with_host();

  std::recursive_mutex mutex;

 private:
  Device();
  ~Device();
  Stream& find(cudaStream_t stream);
  void run(Stream& stream);
  void open();
  void close();

  struct Piece {
    std::byte* pages;
    std::size_t page_bytes;
    std::size_t bytes;
  };
  struct Held {
    std::string name;
    std::shared_ptr<void> thing;
  };
  std::byte* arena_ = nullptr;
  std::size_t arena_used_ = 0;
  int open_ = 0;  ///< by how many it is held open
  bool shared_ = false;
  std::map<const std::byte*, Piece> pieces_;
  std::map<const std::byte*, std::size_t> host_pieces_;
  Stream default_stream_;            ///< and all streams that wait for it, which are one queue with it
  std::set<cudaStream_t> blocking_;  ///< those
  std::map<cudaStream_t, std::unique_ptr<Stream>> streams_;
  std::map<void*, Held> held_;
  std::vector<std::string> violations_;
  Counts counts_;
  cudaError_t sticky_ = cudaSuccess;
  cudaError_t last_ = cudaSuccess;
};

}  // namespace sparsegrad::test::cuda_stubs
