// Two units of one program, one of them with -ffast-math and longer vectors, keep each to its own code.
#include <cstdio>
#include <limits>

extern "C" float mixed_flags_plain(const float* x, bool* finite);
extern "C" float mixed_flags_fast(const float* x, bool* finite);

int main() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") == 0) return 77;
#endif
  const float nan = std::numeric_limits<float>::quiet_NaN();
  bool finite[] = {true, true};
  const float sums[] = {mixed_flags_plain(&nan, &finite[0]), mixed_flags_fast(&nan, &finite[1])};
  std::printf("plain: %g, NaN is finite: %d; fast: %g, NaN is finite: %d\n", sums[0], finite[0], sums[1],
              finite[1]);
  return sums[0] == 1 && sums[1] == 1 && !finite[0] && !finite[1] ? 0 : 1;
}
