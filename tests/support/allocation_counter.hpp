// Counts the heap allocations of a program, on all its threads, and makes one of them fail. Link allocation_counter.cpp into a program of its
// own: it replaces the allocation functions of the whole program.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsegrad::test {

/// False where a sanitizer has allocation functions of its own, which stay in place: then nothing is counted.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool counts_allocations = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool counts_allocations = false;
#else
inline constexpr bool counts_allocations = true;
#endif
#else
inline constexpr bool counts_allocations = true;
#endif

/// Allocations (malloc, calloc, realloc, aligned_alloc, posix_memalign, memalign, operator new and what calls
/// them) of all threads since the program's start.
struct Allocations {
  std::int64_t count = 0;
  std::int64_t bytes = 0;
};
Allocations allocations();

/// Counts from its construction on.
class AllocationMark {
 public:
  AllocationMark() : start_(allocations()) {}
  std::int64_t count() const { return allocations().count - start_.count; }
  std::int64_t bytes() const { return allocations().bytes - start_.bytes; }

 private:
  Allocations start_;
};

/// From its construction to its end what the calling thread allocates is not counted.
class UncountedAllocations {
 public:
  UncountedAllocations();
  ~UncountedAllocations();
  UncountedAllocations(const UncountedAllocations&) = delete;
  UncountedAllocations& operator=(const UncountedAllocations&) = delete;
};

/// From its construction to its end the allocation number `n` (0: the next one) fails, and no other.
class FailingAllocation {
 public:
  explicit FailingAllocation(std::int64_t n);
  ~FailingAllocation();
  FailingAllocation(const FailingAllocation&) = delete;
  FailingAllocation& operator=(const FailingAllocation&) = delete;
  /// Whether that allocation was asked for.
  bool failed() const;
};

}  // namespace sparsegrad::test
