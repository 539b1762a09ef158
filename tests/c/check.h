// Checks of the C tests: a failed one is printed and counted; main returns failures() != 0.
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <sparsegrad/c/sparsegrad.h>

static int failure_count = 0;

static inline void check_failed(const char* file, int line, const char* what) {
  ++failure_count;
  fprintf(stderr, "%s:%d: %s (last error: %s)\n", file, line, what, sparsegrad_last_error());
}

/// The condition holds.
#define CHECK(condition)                                            \
  do {                                                              \
    if (!(condition)) check_failed(__FILE__, __LINE__, #condition); \
  } while (0)

/// The call succeeds.
#define OK(call) CHECK((call) == SPARSEGRAD_OK)

/// The call ends with this status, and its text has `part` in it.
#define FAILS(status, part, call)                                                       \
  do {                                                                                  \
    if ((call) != (status)) check_failed(__FILE__, __LINE__, "another status: " #call); \
    if (strstr(sparsegrad_last_error(), (part)) == NULL)                                \
      check_failed(__FILE__, __LINE__, "text lacks: " part);                            \
  } while (0)

/// The number after `*state` of a generator that is the same everywhere, in [-0.5, 0.5).
static inline float next_number(uint32_t* state) {
  *state = *state * 1664525u + 1013904223u;
  return (float)(*state >> 8) / 16777216.0f - 0.5f;
}
static inline void fill(float* x, int64_t n, uint32_t seed) {
  uint32_t state = seed * 2654435761u + 1u;
  for (int64_t i = 0; i < n; ++i)
    x[i] = next_number(&state);
}
/// x rounded to bfloat16, to nearest and even.
static inline uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}
static inline float from_bf16(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
static inline float largest_difference(const float* a, const float* b, int64_t n) {
  float worst = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float d = a[i] > b[i] ? a[i] - b[i] : b[i] - a[i];
    if (d > worst) worst = d;
  }
  return worst;
}

static inline sparsegrad_context* new_context(sparsegrad_backend backend) {
  sparsegrad_context_options options;
  sparsegrad_context_options_init(&options);
  options.backend = backend;
  options.threads = 1;
  sparsegrad_context* context = NULL;
  OK(sparsegrad_context_create(&options, &context));
  return context;
}

#endif
