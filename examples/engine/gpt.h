// A small GPT in plain C: parameters and gradients in one block each, backward passes by hand, loops on OpenMP.
// It stands for an engine that somebody has, and knows nothing of sparsegrad.
#ifndef ENGINE_GPT_H
#define ENGINE_GPT_H

#include <stddef.h>
#include <stdint.h>

enum { GPT_MAX_LAYERS = 12 };

typedef struct GptConfig {
  int vocab;     // characters
  int length;    // tokens of one sequence
  int batch;     // sequences of one step
  int channels;  // width C of the model
  int heads;
  int layers;
} GptConfig;

// Pointers into a block; matrices are [out, in], row by row.
typedef struct GptLayer {
  float *norm1_w, *norm1_b;          // [C]
  float *qkv_w, *qkv_b;              // [3C, C], [3C]
  float *attention_w, *attention_b;  // [C, C], [C]
  float *norm2_w, *norm2_b;          // [C]
  float *up_w, *up_b;                // [4C, C], [4C]
  float *down_w, *down_b;            // [C, 4C], [C]
} GptLayer;

typedef struct GptParameters {
  float* tokens;     // [vocab, C], also the last layer
  float* positions;  // [length, C]
  GptLayer layer[GPT_MAX_LAYERS];
  float *norm_w, *norm_b;  // [C]
} GptParameters;

// One tensor of the block, as the optimizer walks it.
typedef struct GptTensor {
  size_t first, count;
  int decays;    // matrices decay, biases and norms do not
  int skip;      // another optimizer trains it: no moments
  float *m, *v;  // AdamW's moments
} GptTensor;

typedef struct GptActivations GptActivations;

typedef struct Gpt {
  GptConfig config;
  size_t count;  // numbers in a block
  float *block, *gradient_block;
  GptParameters p, g;  // both blocks by name
  GptTensor* tensors;
  int tensor_count;
  GptActivations* activations;
  struct Arena* arena;  // all memory but the moments
  int64_t adamw_steps;
} Gpt;

// Takes all memory and draws the parameters. Ends the program where there is none.
void gpt_begin(Gpt* gpt, GptConfig config, uint64_t seed);
void gpt_end(Gpt* gpt);

// Mean loss of a batch: inputs and targets [batch, length]. Fills what backward needs.
float gpt_forward(Gpt* gpt, const int* inputs, const int* targets);
// Adds to the gradients, which gpt_clear_gradients sets to 0.
void gpt_backward(Gpt* gpt, const int* inputs, const int* targets);
void gpt_clear_gradients(Gpt* gpt);

// Another optimizer trains this weight from now on: AdamW leaves it out, and has no moments of it.
void gpt_skip(Gpt* gpt, const float* weight);
// Sum of squares of the gradients that AdamW sees.
double gpt_squared_norm(const Gpt* gpt);
// One step of AdamW for all that is not left out, on gradients times `scale`.
void gpt_adamw(Gpt* gpt, float learning_rate, float weight_decay, float scale);

#endif
