#include "allocation_counter.hpp"

#include <cerrno>
#include <cstdlib>

#include <atomic>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SPARSEGRAD_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SPARSEGRAD_TEST_SANITIZED 1
#endif
#endif

namespace {

std::atomic<std::int64_t> count{0};
std::atomic<std::int64_t> bytes{0};
std::atomic<std::int64_t> until_failure{-1};  // allocations before the one that fails; below 0: none fails
thread_local int uncounted = 0;

}  // namespace

#if !defined(SPARSEGRAD_TEST_SANITIZED)
// glibc's own functions under the names that it keeps for interposers. operator new calls malloc or
// aligned_alloc, and so is counted through these.
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* p, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
}

namespace {

/// Whether the allocation may be made.
bool note(std::size_t size) {
  if (uncounted > 0) return true;
  count.fetch_add(1, std::memory_order_relaxed);
  bytes.fetch_add(static_cast<std::int64_t>(size), std::memory_order_relaxed);
  if (until_failure.load(std::memory_order_relaxed) < 0 || until_failure.fetch_sub(1) != 0) return true;
  errno = ENOMEM;
  return false;
}

}  // namespace

extern "C" {
void* malloc(std::size_t size) noexcept {
  if (!note(size)) return nullptr;
  return __libc_malloc(size);
}
void* calloc(std::size_t n, std::size_t size) noexcept {
  if (!note(n * size)) return nullptr;
  return __libc_calloc(n, size);
}
void* realloc(void* p, std::size_t size) noexcept {
  if (!note(size)) return nullptr;
  return __libc_realloc(p, size);
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  if (!note(size)) return nullptr;
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  if (!note(size)) return nullptr;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** p, std::size_t alignment, std::size_t size) noexcept {
  if (!note(size)) return ENOMEM;
  *p = __libc_memalign(alignment, size);
  return *p == nullptr ? ENOMEM : 0;
}
}
#endif

namespace sparsegrad::test {

Allocations allocations() {
  return {count.load(), bytes.load()};
}

UncountedAllocations::UncountedAllocations() {
  ++uncounted;
}
UncountedAllocations::~UncountedAllocations() {
  --uncounted;
}

FailingAllocation::FailingAllocation(std::int64_t n) {
  until_failure.store(n);
}
FailingAllocation::~FailingAllocation() {
  until_failure.store(-1);
}
bool FailingAllocation::failed() const {
  return until_failure.load() < 0;
}

}  // namespace sparsegrad::test
