// engine check [--steps N]     trains twice, by the engine alone and with the library on identity sides and all
//                              entries, and fails where their losses differ by more than rounding does
// engine table [--steps N]     trains on sentences, then fine-tunes that model on sums in words, its MLP matrices by
//                              the engine's AdamW or by sparsegrad in several settings; the table of docs/engine.md
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gpt.h"
#include "sparse.h"
#include "text.h"

enum { TEXT = 60000, HELD_OUT_BATCHES = 8 };

static const GptConfig config = {
    .vocab = TEXT_VOCAB, .length = 64, .batch = 8, .channels = 128, .heads = 4, .layers = 2};
static const float weight_decay = 0.01f, max_norm = 1.0f;

typedef struct Data {
  int text[TEXT], held_out[TEXT];
  int inputs[512], targets[512];  // one batch
} Data;

// Of the processor, all threads together: also what idle threads spin away.
static double seconds(void) {
  return (double)clock() / CLOCKS_PER_SEC;
}

static void fill(Data* data, TextKind kind) {
  text_fill(kind, 1, data->text, TEXT);
  text_fill(kind, 2, data->held_out, TEXT);
}

static float step(Gpt* gpt, Sparse* sparse, Data* data, uint64_t* random, float rate, float sparse_rate) {
  text_batch(data->text, TEXT, config.batch, config.length, random, data->inputs, data->targets);
  gpt_clear_gradients(gpt);
  const float loss = gpt_forward(gpt, data->inputs, data->targets);
  gpt_backward(gpt, data->inputs, data->targets);
  sparse_step(sparse, gpt, rate, sparse_rate, weight_decay, max_norm);
  return loss;
}

static float held_out_loss(Gpt* gpt, Data* data) {
  uint64_t random = 5;
  float sum = 0;
  for (int b = 0; b < HELD_OUT_BATCHES; ++b) {
    text_batch(data->held_out, TEXT, config.batch, config.length, &random, data->inputs, data->targets);
    sum += gpt_forward(gpt, data->inputs, data->targets);
  }
  return sum / HELD_OUT_BATCHES;
}

// Trains the model from the beginning; the losses of its steps.
static void losses_of(SparseSetting setting, int steps, Data* data, float* losses) {
  Gpt gpt;
  Sparse sparse;
  gpt_begin(&gpt, config, 1);
  sparse_begin(&sparse, &gpt, setting);
  uint64_t random = 3;
  for (int s = 0; s < steps; ++s)
    losses[s] = step(&gpt, &sparse, data, &random, 1e-3f, 1e-3f);
  sparse_end(&sparse);
  gpt_end(&gpt);
}

static int check(int steps, Data* data) {
  float* losses = malloc(2 * (size_t)steps * sizeof(float));
  if (losses == NULL) return 1;
  fill(data, TEXT_SENTENCES);
  losses_of(SPARSE_NONE, steps, data, losses);
  losses_of(SPARSE_ALL, steps, data, losses + steps);
  float worst = 0;
  for (int s = 0; s < steps; ++s)
    worst = fmaxf(worst, fabsf(losses[s] - losses[steps + s]));
  printf("%d steps, loss %.4f to %.4f; with the library, all entries: largest difference %.2g\n", steps,
         (double)losses[0], (double)losses[steps - 1], (double)worst);
  const int fell = losses[steps - 1] < losses[0] - 0.3f;
  free(losses);
  return fell && worst < 2e-5f ? 0 : 1;
}

// Fine-tunes the model whose parameters are `start`; a row of the table.
static void fine_tune(const float* start, SparseSetting setting, const char* name, float sparse_rate,
                      int steps, Data* data) {
  Gpt gpt;
  Sparse sparse;
  gpt_begin(&gpt, config, 1);
  memcpy(gpt.block, start, gpt.count * sizeof(float));
  sparse_begin(&sparse, &gpt, setting);
  const float rate = setting == SPARSE_NONE ? sparse_rate : 1e-3f;
  uint64_t random = 4;
  double spent = 0;
  int timed = 0;
  for (int s = 0; s < steps; ++s) {
    const double begin = seconds();
    (void)step(&gpt, &sparse, data, &random, rate, sparse_rate);
    if (s < steps / 2) continue;  // the warm-up among them
    spent += seconds() - begin;
    ++timed;
  }
  // What trains the MLP matrices: moments of the engine's, or all that the library holds but temporary memory.
  const size_t c = (size_t)config.channels, mlp = (size_t)config.layers * 8 * c * c;
  const size_t bytes = setting == SPARSE_NONE ? mlp * 2 * sizeof(float) : (size_t)sparse_bytes(&sparse);
  printf("| %s | %g | %.4f | %.1f | %.2f |\n", name, (double)sparse_rate, (double)held_out_loss(&gpt, data),
         timed > 0 ? 1e3 * spent / timed : 0.0, (double)bytes / 1048576);
  fflush(stdout);
  sparse_end(&sparse);
  gpt_end(&gpt);
}

static int table(int steps, Data* data) {
  Gpt gpt;
  Sparse none;
  gpt_begin(&gpt, config, 1);
  sparse_begin(&none, &gpt, SPARSE_NONE);
  fill(data, TEXT_SENTENCES);
  uint64_t random = 3;
  for (int s = 0; s < steps; ++s)
    (void)step(&gpt, &none, data, &random, 1e-3f, 0);
  fill(data, TEXT_SUMS);
  printf(
      "loss before: %.4f\n| MLP matrices by | rate | loss | processor ms a step | MiB "
      "|\n|---|--:|--:|--:|--:|\n",
      (double)held_out_loss(&gpt, data));
  static const struct {
    SparseSetting setting;
    const char* name;
    float rate;
  } rows[] = {{SPARSE_NONE, "the engine's AdamW", 3e-4f}, {SPARSE_NONE, "the engine's AdamW", 1e-3f},
              {SPARSE_NONE, "the engine's AdamW", 3e-3f}, {SPARSE_ALL, "all entries, no basis", 1e-3f},
              {SPARSE_PAPER, "both sides full", 1e-3f},   {SPARSE_PAPER, "both sides full", 3e-3f},
              {SPARSE_PAPER, "both sides full", 1e-2f},   {SPARSE_SIDE, "width at rank 64", 1e-3f},
              {SPARSE_SIDE, "width at rank 64", 3e-3f},   {SPARSE_SIDE, "width at rank 64", 1e-2f}};
  for (size_t r = 0; r < sizeof rows / sizeof rows[0]; ++r)
    fine_tune(gpt.block, rows[r].setting, rows[r].name, rows[r].rate, steps, data);
  sparse_end(&none);
  gpt_end(&gpt);
  return 0;
}

int main(int argc, char** argv) {
  int steps = 0;
  if (argc == 4 && strcmp(argv[2], "--steps") == 0) steps = atoi(argv[3]);
  Data* data = malloc(sizeof(Data));
  int result = 2;
  if (data != NULL && argc >= 2 && (argc == 2 || steps > 0)) {
    if (strcmp(argv[1], "check") == 0) result = check(steps > 0 ? steps : 30, data);
    if (strcmp(argv[1], "table") == 0) result = table(steps > 0 ? steps : 200, data);
  }
  if (result == 2) fprintf(stderr, "usage: engine check|table [--steps N]\n");
  free(data);
  return result;
}
