#include "text.h"

#include <stdio.h>
#include <string.h>

static uint32_t draw(uint64_t* random, uint32_t below) {
  *random = *random * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(((*random >> 32) * below) >> 32);
}

static int number_of(char c) {
  if (c == ' ') return 0;
  if (c == '.') return 1;
  if (c == '\n') return 2;
  return 3 + c - 'a';
}

static int sentence(TextKind kind, uint64_t* random, char* line, size_t size) {
  static const char* const things[] = {"dog", "cat", "bird", "horse", "mouse", "fox", "frog", "goat"};
  static const char* const looks[] = {"small", "old", "red", "quick", "quiet", "tired"};
  static const char* const acts[] = {"sees", "hears", "follows", "finds", "likes"};
  static const char* const numbers[] = {"zero",    "one",     "two",       "three",    "four",
                                        "five",    "six",     "seven",     "eight",    "nine",
                                        "ten",     "eleven",  "twelve",    "thirteen", "fourteen",
                                        "fifteen", "sixteen", "seventeen", "eighteen"};
  if (kind == TEXT_SUMS) {
    const uint32_t a = draw(random, 10), b = draw(random, 10);
    return snprintf(line, size, "%s and %s make %s.\n", numbers[a], numbers[b], numbers[a + b]);
  }
  const uint32_t a = draw(random, 6), b = draw(random, 8), c = draw(random, 5), d = draw(random, 6),
                 e = draw(random, 8);
  return snprintf(line, size, "the %s %s %s the %s %s.\n", looks[a], things[b], acts[c], looks[d], things[e]);
}

void text_fill(TextKind kind, uint64_t seed, int* text, int count) {
  uint64_t random = seed;
  char line[96];
  for (int at = 0; at < count;) {
    const int length = sentence(kind, &random, line, sizeof line);
    for (int i = 0; i < length && at < count; ++i)
      text[at++] = number_of(line[i]);
  }
}

void text_batch(const int* text, int count, int batch, int length, uint64_t* random, int* inputs,
                int* targets) {
  for (int b = 0; b < batch; ++b) {
    const int begin = (int)draw(random, (uint32_t)(count - length));
    memcpy(inputs + b * length, text + begin, (size_t)length * sizeof(int));
    memcpy(targets + b * length, text + begin + 1, (size_t)length * sizeof(int));
  }
}
