#include "device.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace sparsegrad::test::cuda_stubs {

namespace {

// Addresses are given once: memory that was freed stays closed.
constexpr std::size_t arena_bytes = std::size_t{256} << 30;
// What cudaMalloc gives is aligned to this.
constexpr std::size_t alignment = 256;
// New memory holds NaNs up to here; large workspaces need not be in physical memory.
constexpr std::size_t most_filled = std::size_t{1} << 20;

std::size_t page_bytes() {
  return static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

using Lock = std::lock_guard<std::recursive_mutex>;

}  // namespace

Device& Device::get() {
  static Device device;
  return device;
}

Device::Device() {
  void* p = mmap(nullptr, arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  arena_ = static_cast<std::byte*>(p);
}

// At the end of the program: what was not given back, and what was done that must not be.
Device::~Device() {
  for (const auto& [p, piece] : pieces_)
    violation("cudaMalloc's " + std::to_string(piece.bytes) + " bytes were never freed");
  for (const auto& [p, bytes] : host_pieces_)
    violation("cudaHostAlloc's " + std::to_string(bytes) + " bytes were never freed");
  for (const auto& [p, held] : held_)
    violation(held.name + " was never destroyed");
  for (std::size_t s = 0; s < streams_.size(); ++s)
    violation("a stream was never destroyed");
  if (violations_.empty()) return;
  std::fprintf(stderr, "%zu violations\n", violations_.size());
  std::fflush(nullptr);
  std::_Exit(1);
}

cudaError_t Device::allocate(void** p, std::size_t bytes) {
  const Lock lock(mutex);
  if (sticky_ != cudaSuccess) return sticky_;
  if (forbidden_in_capture("cudaMalloc")) return cudaErrorStreamCaptureUnsupported;
  if (bytes == 0) {
    *p = nullptr;
    return cudaSuccess;
  }
  if (bytes > total_bytes - held_bytes()) return cudaErrorMemoryAllocation;
  const std::size_t aligned = (bytes + alignment - 1) / alignment * alignment;
  const std::size_t pages = (aligned + page_bytes() - 1) / page_bytes() * page_bytes();
  if (arena_used_ + pages + page_bytes() > arena_bytes) return cudaErrorMemoryAllocation;
  // It ends where its last page does, and the page behind it is never open.
  std::byte* first = arena_ + arena_used_;
  std::byte* memory = first + (pages - aligned);
  arena_used_ += pages + page_bytes();
  mprotect(first, pages, PROT_READ | PROT_WRITE);
  if (aligned <= most_filled) std::memset(memory, 0xff, aligned);
  if (open_ == 0) mprotect(first, pages, PROT_NONE);
  pieces_[memory] = {first, pages, bytes};
  *p = memory;
  return cudaSuccess;
}

cudaError_t Device::deallocate(void* p) {
  const Lock lock(mutex);
  if (p == nullptr) return cudaSuccess;
  if (forbidden_in_capture("cudaFree")) return cudaErrorStreamCaptureUnsupported;
  synchronize();  // as cudaFree does
  const auto place = pieces_.find(static_cast<std::byte*>(p));
  if (place == pieces_.end()) {
    violation("cudaFree of what is no memory, or was freed before");
    return cudaErrorInvalidValue;
  }
  mprotect(place->second.pages, place->second.page_bytes, PROT_NONE);
  madvise(place->second.pages, place->second.page_bytes, MADV_DONTNEED);
  pieces_.erase(place);
  return cudaSuccess;
}

cudaError_t Device::allocate_on_host(void** p, std::size_t bytes) {
  const Lock lock(mutex);
  if (forbidden_in_capture("cudaHostAlloc")) return cudaErrorStreamCaptureUnsupported;
  *p = std::malloc(bytes);
  host_pieces_[static_cast<std::byte*>(*p)] = bytes;
  return cudaSuccess;
}

cudaError_t Device::deallocate_on_host(void* p) {
  const Lock lock(mutex);
  if (forbidden_in_capture("cudaFreeHost")) return cudaErrorStreamCaptureUnsupported;
  synchronize();
  if (host_pieces_.erase(static_cast<std::byte*>(p)) == 0) {
    violation("cudaFreeHost of what is no memory, or was freed before");
    return cudaErrorInvalidValue;
  }
  std::free(p);
  return cudaSuccess;
}

std::size_t Device::held_bytes() {
  const Lock lock(mutex);
  std::size_t sum = 0;
  for (const auto& [p, piece] : pieces_)
    sum += piece.bytes;
  return sum;
}

bool Device::owns(const void* p) const {
  const auto* byte = static_cast<const std::byte*>(p);
  return byte >= arena_ && byte < arena_ + arena_bytes;
}

bool Device::covers(const std::string& what, const void* p, std::size_t bytes) {
  const Lock lock(mutex);
  const auto* byte = static_cast<const std::byte*>(p);
  if (bytes == 0 || (shared_ && !owns(p))) return true;
  auto after = pieces_.upper_bound(byte);
  if (owns(p) && after != pieces_.begin()) {
    const auto& [begin, piece] = *--after;
    if (byte + bytes <= begin + piece.bytes) return true;
    if (byte < begin + piece.bytes) {
      violation(what + ": " + std::to_string(bytes) + " bytes, of which " +
                std::to_string(begin + piece.bytes - byte) + " are there");
      return false;
    }
  }
  violation(what + (owns(p) ? ": the memory was freed" : ": no memory of the device's"));
  return false;
}

cudaError_t Device::copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  const Lock lock(mutex);
  for (const void* p : {static_cast<const void*>(to), from}) {
    if (owns(p)) {
      if (!covers("cudaMemcpyAsync", p, bytes)) return cudaErrorInvalidValue;
      continue;
    }
    const auto* byte = static_cast<const std::byte*>(p);
    auto after = host_pieces_.upper_bound(byte);
    const bool pinned =
        after != host_pieces_.begin() && byte + bytes <= std::prev(after)->first + std::prev(after)->second;
    if (!pinned && is_capturing(stream)) {
      violation("a copy from or to the host's pageable memory in a capture: a replay would do it again");
      return cudaErrorStreamCaptureUnsupported;
    }
  }
  if (!owns(to) && !is_capturing(stream)) std::memset(to, 0xa5, bytes);  // not yet there
  return submit(stream, [=, this] {
    for (const void* p : {static_cast<const void*>(to), from})
      if (owns(p) && !covers("cudaMemcpyAsync when it is done", p, bytes)) return;
    std::memmove(to, from, bytes);
  });
}

cudaStream_t Device::make_stream(bool waits_for_default) {
  const Lock lock(mutex);
  auto own = std::make_unique<Stream>();
  const auto stream = reinterpret_cast<cudaStream_t>(own.get());
  if (waits_for_default) blocking_.insert(stream);
  streams_[stream] = std::move(own);
  return stream;
}

cudaError_t Device::destroy_stream(cudaStream_t stream) {
  const Lock lock(mutex);
  if (streams_.count(stream) == 0) {
    violation("cudaStreamDestroy of what is no stream, or was destroyed before");
    return cudaErrorInvalidResourceHandle;
  }
  if (streams_[stream]->capture != nullptr) violation("a stream was destroyed in its capture");
  run(find(stream));  // what it was given is done all the same
  streams_.erase(stream);
  blocking_.erase(stream);
  return cudaSuccess;
}

/// The queue of a stream, unless it captures.
Stream& Device::find(cudaStream_t stream) {
  if (stream == nullptr || stream == cudaStreamLegacy || blocking_.count(stream) != 0) return default_stream_;
  const auto place = streams_.find(stream);
  if (place != streams_.end()) return *place->second;
  violation("a stream that was destroyed, or never made");
  return default_stream_;
}

bool Device::is_capturing(cudaStream_t stream) {
  const Lock lock(mutex);
  const auto place = streams_.find(stream);
  return place != streams_.end() && place->second->capture != nullptr;
}

cudaError_t Device::submit(cudaStream_t stream, Work work) {
  const Lock lock(mutex);
  if (sticky_ != cudaSuccess) return sticky_;
  if (is_capturing(stream)) {
    streams_[stream]->capture->work.push_back(std::move(work));
  } else {
    ++counts_.work;
    find(stream).queue.push_back(std::move(work));
    if (shared_) run(find(stream));
  }
  return cudaSuccess;
}

cudaError_t Device::synchronize(cudaStream_t stream) {
  const Lock lock(mutex);
  if (forbidden_in_capture("cudaStreamSynchronize")) return cudaErrorStreamCaptureUnsupported;
  ++counts_.waits;
  run(find(stream));
  return sticky_;
}

cudaError_t Device::synchronize() {
  const Lock lock(mutex);
  if (forbidden_in_capture("cudaDeviceSynchronize")) return cudaErrorStreamCaptureUnsupported;
  ++counts_.waits;
  run(default_stream_);
  for (const auto& [stream, own] : streams_)
    run(*own);
  return sticky_;
}

void Device::run(Stream& stream) {
  if (stream.queue.empty()) return;
  open();
  while (!stream.queue.empty()) {
    const Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    work();
  }
  close();
}

void Device::open() {
  if (open_++ > 0) return;
  for (const auto& [p, piece] : pieces_)
    mprotect(piece.pages, piece.page_bytes, PROT_READ | PROT_WRITE);
}

void Device::close() {
  if (--open_ > 0) return;
  for (const auto& [p, piece] : pieces_)
    mprotect(piece.pages, piece.page_bytes, PROT_NONE);
}

cudaError_t Device::begin_capture(cudaStream_t stream) {
  const Lock lock(mutex);
  if (stream == nullptr || stream == cudaStreamLegacy) {
    violation("a capture of the default stream");
    return cudaErrorStreamCaptureUnsupported;
  }
  if (streams_.count(stream) == 0 || is_capturing(stream)) return cudaErrorIllegalState;
  Stream& own = *streams_[stream];
  own.capture = std::make_unique<Graph>();
  own.capture_valid = true;
  own.capturer = std::this_thread::get_id();
  return cudaSuccess;
}

cudaError_t Device::end_capture(cudaStream_t stream, Graph** graph) {
  const Lock lock(mutex);
  *graph = nullptr;
  if (!is_capturing(stream)) return cudaErrorIllegalState;
  Stream& own = *streams_[stream];
  const std::shared_ptr<Graph> recorded = std::move(own.capture);
  if (!own.capture_valid) return cudaErrorStreamCaptureInvalidated;
  *graph = static_cast<Graph*>(hold("a graph", recorded));
  return cudaSuccess;
}

Device::Counts Device::counts() {
  const Lock lock(mutex);
  return counts_;
}

void* Device::hold(const std::string& name, std::shared_ptr<void> thing) {
  const Lock lock(mutex);
  void* p = thing.get();
  held_[p] = {name, std::move(thing)};
  return p;
}

bool Device::release(const std::string& name, void* thing) {
  const Lock lock(mutex);
  const auto place = held_.find(thing);
  if (place == held_.end() || place->second.name != name) {
    violation(name + " was destroyed twice, or never made");
    return false;
  }
  held_.erase(place);
  return true;
}

bool Device::forbidden_in_capture(const std::string& what) {
  const Lock lock(mutex);
  bool found = false;
  for (const auto& [stream, own] : streams_) {
    if (own->capture == nullptr || own->capturer != std::this_thread::get_id()) continue;
    own->capture_valid = false;
    found = true;
  }
  if (found) violation(what + " in a capture");
  return found;
}

void Device::violation(const std::string& text) {
  const Lock lock(mutex);
  std::fprintf(stderr, "CUDA violation: %s\n", text.c_str());
  violations_.push_back(text);
}

std::vector<std::string> Device::take_violations() {
  const Lock lock(mutex);
  return std::exchange(violations_, {});
}

void Device::share_with_host() {
  const Lock lock(mutex);
  if (!shared_) open();
  shared_ = true;
}

void Device::fail_with(cudaError_t status) {
  const Lock lock(mutex);
  sticky_ = status;
}

cudaError_t Device::status(cudaError_t own) {
  const Lock lock(mutex);
  const cudaError_t found = own != cudaSuccess ? own : sticky_;
  if (found != cudaSuccess) last_ = found;
  return found;
}

cudaError_t Device::take_last_error() {
  const Lock lock(mutex);
  return sticky_ != cudaSuccess ? sticky_ : std::exchange(last_, cudaSuccess);
}

}  // namespace sparsegrad::test::cuda_stubs
