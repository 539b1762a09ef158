// Memory of the host backends, and their scratch.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "../scratch.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host {

inline constexpr std::size_t alignment = 64;

struct AlignedDelete {
  void operator()(std::byte* p) const noexcept { ::operator delete[](p, std::align_val_t{alignment}); }
};
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;

inline AlignedBytes aligned_bytes(std::size_t count) {
  return AlignedBytes(static_cast<std::byte*>(::operator new[](count, std::align_val_t{alignment})));
}

/// Where the host's memory comes from.
struct HostMemory {
  std::byte* allocate(std::size_t bytes) { return aligned_bytes(bytes).release(); }
  void deallocate(std::byte* p) noexcept { AlignedDelete{}(p); }
};

using Scratch = BasicScratch<HostMemory>;

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host
