// engine SETTING [--steps N] [--pretrain N] [--rate X] [--sparse-rate X]   SETTING: none, all, paper or side
// engine check [--steps N]
//
// Trains a small GPT on sentences, then fine-tunes it on sums in words, its MLP matrices by the engine's AdamW (none)
// or by sparsegrad. `check` trains twice, with `none` and with `all`, and fails where their losses differ by more than
// rounding does.
#define _POSIX_C_SOURCE 200809L
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

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
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

static int train(SparseSetting setting, const char* name, int pretrain, int steps, float rate,
                 float sparse_rate, Data* data) {
  Gpt gpt;
  Sparse none, sparse;
  gpt_begin(&gpt, config, 1);
  sparse_begin(&none, &gpt, SPARSE_NONE);
  fill(data, TEXT_SENTENCES);
  uint64_t random = 3;
  for (int s = 0; s < pretrain; ++s)
    (void)step(&gpt, &none, data, &random, 1e-3f, 0);
  fill(data, TEXT_SUMS);
  const float before = held_out_loss(&gpt, data);

  const size_t all = gpt_moment_bytes(&gpt);
  sparse_begin(&sparse, &gpt, setting);
  random = 4;
  double spent = 0;
  int timed = 0;
  for (int s = 0; s < steps; ++s) {
    const double begin = seconds();
    (void)step(&gpt, &sparse, data, &random, rate, sparse_rate);
    if (s < 40) continue;  // the warm-up
    spent += seconds() - begin;
    ++timed;
  }
  const size_t moments =
      setting == SPARSE_NONE
          ? 2 * sizeof(float) * 8 * (size_t)(config.layers * config.channels * config.channels)
          : (size_t)sparse_bytes(&sparse);
  printf(
      "%-5s rate %.0e sparse %.0e: loss %.4f to %.4f, %.1f ms a step, MLP optimizer %.2f MiB (all of AdamW "
      "%.2f)\n",
      name, (double)rate, (double)sparse_rate, (double)before, (double)held_out_loss(&gpt, data),
      timed > 0 ? 1e3 * spent / timed : 0.0, (double)moments / 1048576, (double)all / 1048576);
  sparse_end(&sparse);
  gpt_end(&gpt);
  return 0;
}

int main(int argc, char** argv) {
  static const char* const settings[] = {"none", "all", "paper", "side"};
  int steps = 0, pretrain = 200;
  float rate = 1e-3f, sparse_rate = 0;
  for (int i = 2; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--steps") == 0)
      steps = atoi(argv[i + 1]);
    else if (strcmp(argv[i], "--pretrain") == 0)
      pretrain = atoi(argv[i + 1]);
    else if (strcmp(argv[i], "--rate") == 0)
      rate = (float)atof(argv[i + 1]);
    else if (strcmp(argv[i], "--sparse-rate") == 0)
      sparse_rate = (float)atof(argv[i + 1]);
    else
      argc = 0;
  }
  Data* data = malloc(sizeof(Data));
  int result = 2;
  if (argc >= 2 && argc % 2 == 0 && data != NULL) {
    if (strcmp(argv[1], "check") == 0) result = check(steps > 0 ? steps : 30, data);
    for (int s = 0; s < 4; ++s)
      if (strcmp(argv[1], settings[s]) == 0)
        result = train((SparseSetting)s, settings[s], pretrain, steps > 0 ? steps : 300, rate,
                       sparse_rate > 0 ? sparse_rate : rate, data);
  }
  if (result == 2)
    fprintf(
        stderr,
        "usage: engine none|all|paper|side|check [--steps N] [--pretrain N] [--rate X] [--sparse-rate X]\n");
  free(data);
  return result;
}
