// Units of one program that were compiled with different flags keep each to its own code.
#include <cstdio>
#include <limits>

using Unit = float(const float* x, bool* finite);
extern "C" Unit mixed_flags_plain_headers, mixed_flags_plain_compiled, mixed_flags_fast_headers,
    mixed_flags_fast_compiled;

int main() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") == 0) return 77;
#endif
  const float nan = std::numeric_limits<float>::quiet_NaN();
  int failed = 0;
  Unit* const units[] = {mixed_flags_plain_headers, mixed_flags_fast_headers, mixed_flags_plain_compiled,
                         mixed_flags_fast_compiled};
  for (Unit* unit : units) {
    bool finite = true;
    const float sum = unit(&nan, &finite);
    std::printf("sum %g, expected 1; NaN is finite: %d\n", sum, finite);
    failed += sum != 1 || finite ? 1 : 0;
  }
  return failed;
}
