// Character data that the engine makes itself: sentences about animals, and sums in words.
#ifndef ENGINE_TEXT_H
#define ENGINE_TEXT_H

#include <stdint.h>

enum { TEXT_VOCAB = 29 };

typedef enum TextKind { TEXT_SENTENCES, TEXT_SUMS } TextKind;

// Fills text[count] with characters as numbers below TEXT_VOCAB, the same for the same seed.
void text_fill(TextKind kind, uint64_t seed, int* text, int count);
// Draws a batch of sequences from a text: inputs and, one character on, targets.
void text_batch(const int* text, int count, int batch, int length, uint64_t* random, int* inputs,
                int* targets);

#endif
