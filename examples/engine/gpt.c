#include "gpt.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- memory -----------------------------------------------------------------------------------------------

// One piece of memory that is handed out front to back and freed at once.
typedef struct Arena {
  char* base;
  size_t used, size;
} Arena;

static float* take(Arena* arena, size_t count) {
  const size_t begin = (arena->used + 63) / 64 * 64;
  arena->used = begin + count * sizeof(float);
  return arena->base == NULL ? NULL : (float*)(void*)(arena->base + begin);  // without memory: only counts
}

static void* must(void* memory) {
  if (memory != NULL) return memory;
  fprintf(stderr, "no memory left\n");
  exit(1);
}

// ---- parameters -------------------------------------------------------------------------------------------

// Places every tensor in a block that begins at `base`, and lists them where `tensors` is given.
static size_t place(GptConfig config, float* base, GptParameters* p, GptTensor* tensors, int* tensor_count) {
  const size_t c = (size_t)config.channels;
  size_t used = 0;
  int n = 0;
#define PLACE(pointer, numbers, is_matrix)         \
  do {                                             \
    (pointer) = base == NULL ? NULL : base + used; \
    if (tensors != NULL) {                         \
      tensors[n].first = used;                     \
      tensors[n].count = (numbers);                \
      tensors[n].decays = (is_matrix);             \
    }                                              \
    ++n;                                           \
    used += (numbers);                             \
  } while (0)
  PLACE(p->tokens, (size_t)config.vocab * c, 1);
  PLACE(p->positions, (size_t)config.length * c, 1);
  for (int l = 0; l < config.layers; ++l) {
    GptLayer* layer = &p->layer[l];
    PLACE(layer->norm1_w, c, 0);
    PLACE(layer->norm1_b, c, 0);
    PLACE(layer->qkv_w, 3 * c * c, 1);
    PLACE(layer->qkv_b, 3 * c, 0);
    PLACE(layer->attention_w, c * c, 1);
    PLACE(layer->attention_b, c, 0);
    PLACE(layer->norm2_w, c, 0);
    PLACE(layer->norm2_b, c, 0);
    PLACE(layer->up_w, 4 * c * c, 1);
    PLACE(layer->up_b, 4 * c, 0);
    PLACE(layer->down_w, 4 * c * c, 1);
    PLACE(layer->down_b, c, 0);
  }
  PLACE(p->norm_w, c, 0);
  PLACE(p->norm_b, c, 0);
#undef PLACE
  if (tensor_count != NULL) *tensor_count = n;
  return used;
}

static float uniform(uint64_t* state) {  // in (0, 1)
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return ((float)(*state >> 40) + 0.5f) / 16777216.0f;
}
static float normal(uint64_t* state) {
  const float r = sqrtf(-2 * logf(uniform(state)));
  return r * cosf(6.2831853f * uniform(state));
}

// ---- activations ------------------------------------------------------------------------------------------

typedef struct LayerActivations {
  float *norm1, *mean1, *rstd1;      // [N, C], [N], [N] with N = batch * length
  float *qkv, *weights, *attention;  // [N, 3C], [batch, heads, length, length], [N, C]
  float* middle;                     // [N, C], the stream after the attention
  float *norm2, *mean2, *rstd2;
  float *up, *gelu;  // [N, 4C]
  float* out;        // [N, C], the stream after the layer
} LayerActivations;

struct GptActivations {
  float* input;  // [N, C]
  LayerActivations layer[GPT_MAX_LAYERS];
  float *norm, *mean, *rstd;
  float* probabilities;  // [N, vocab]
  // Gradients, the same for every layer.
  float *d_stream, *d_branch, *d_wide, *d_wide2, *d_qkv, *d_logits;
};

static void place_activations(GptConfig config, GptActivations* a, Arena* arena) {
  const size_t c = (size_t)config.channels, n = (size_t)config.batch * (size_t)config.length;
  a->input = take(arena, n * c);
  for (int l = 0; l < config.layers; ++l) {
    LayerActivations* layer = &a->layer[l];
    layer->norm1 = take(arena, n * c);
    layer->mean1 = take(arena, n);
    layer->rstd1 = take(arena, n);
    layer->qkv = take(arena, n * 3 * c);
    layer->weights = take(arena, n * (size_t)config.heads * (size_t)config.length);
    layer->attention = take(arena, n * c);
    layer->middle = take(arena, n * c);
    layer->norm2 = take(arena, n * c);
    layer->mean2 = take(arena, n);
    layer->rstd2 = take(arena, n);
    layer->up = take(arena, n * 4 * c);
    layer->gelu = take(arena, n * 4 * c);
    layer->out = take(arena, n * c);
  }
  a->norm = take(arena, n * c);
  a->mean = take(arena, n);
  a->rstd = take(arena, n);
  a->probabilities = take(arena, n * (size_t)config.vocab);
  a->d_stream = take(arena, n * c);
  a->d_branch = take(arena, n * c);
  a->d_wide = take(arena, n * 4 * c);
  a->d_wide2 = take(arena, n * 4 * c);
  a->d_qkv = take(arena, n * 3 * c);
  a->d_logits = take(arena, n * (size_t)config.vocab);
}

void gpt_begin(Gpt* gpt, GptConfig config, uint64_t seed) {
  memset(gpt, 0, sizeof *gpt);
  gpt->config = config;
  gpt->count = place(config, NULL, &gpt->p, NULL, &gpt->tensor_count);
  gpt->tensors = must(calloc((size_t)gpt->tensor_count, sizeof(GptTensor)));
  gpt->activations = must(calloc(1, sizeof(GptActivations)));
  gpt->arena = must(calloc(1, sizeof(Arena)));
  for (int pass = 0; pass < 2; ++pass) {  // counts, then takes
    gpt->arena->used = 0;
    gpt->block = take(gpt->arena, gpt->count);
    gpt->gradient_block = take(gpt->arena, gpt->count);
    place_activations(config, gpt->activations, gpt->arena);
    if (pass == 0) gpt->arena->base = must(aligned_alloc(64, (gpt->arena->used + 63) / 64 * 64));
  }
  place(config, gpt->block, &gpt->p, gpt->tensors, NULL);
  place(config, gpt->gradient_block, &gpt->g, NULL, NULL);
  uint64_t random = seed;
  const float residual = 0.02f / sqrtf(2.0f * (float)config.layers);
  for (int t = 0; t < gpt->tensor_count; ++t) {
    GptTensor* tensor = &gpt->tensors[t];
    for (size_t i = 0; i < tensor->count; ++i)
      gpt->block[tensor->first + i] = tensor->decays ? 0.02f * normal(&random) : 0.0f;
    tensor->m = must(calloc(2 * tensor->count, sizeof(float)));
    tensor->v = tensor->m + tensor->count;
  }
  for (int l = 0; l < config.layers; ++l) {
    const size_t c = (size_t)config.channels;
    for (size_t i = 0; i < c; ++i)
      gpt->p.layer[l].norm1_w[i] = gpt->p.layer[l].norm2_w[i] = gpt->p.norm_w[i] = 1;
    for (size_t i = 0; i < c * c; ++i)
      gpt->p.layer[l].attention_w[i] *= residual / 0.02f;
    for (size_t i = 0; i < 4 * c * c; ++i)
      gpt->p.layer[l].down_w[i] *= residual / 0.02f;
  }
  gpt_clear_gradients(gpt);
}

void gpt_end(Gpt* gpt) {
  for (int t = 0; t < gpt->tensor_count; ++t)
    free(gpt->tensors[t].m);
  free(gpt->tensors);
  free(gpt->activations);
  free(gpt->arena->base);
  free(gpt->arena);
}

// ---- layers -----------------------------------------------------------------------------------------------

// y = x W^T + b; x [n, in], W [out, in], y [n, out].
static void linear(float* y, const float* x, const float* w, const float* b, int n, int in, int out) {
#pragma omp parallel for
  for (int t = 0; t < n; ++t) {
    const float* row = x + (size_t)t * (size_t)in;
    for (int o = 0; o < out; ++o) {
      const float* weight = w + (size_t)o * (size_t)in;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int i = 0; i < in; ++i)
        sum += row[i] * weight[i];
      y[(size_t)t * (size_t)out + (size_t)o] = sum + (b == NULL ? 0 : b[o]);
    }
  }
}

// dx = dy W; dW += dy^T x; db += column sums of dy.
static void linear_backward(float* dx, float* dw, float* db, const float* dy, const float* x, const float* w,
                            int n, int in, int out) {
#pragma omp parallel for
  for (int t = 0; t < n; ++t) {
    float* to = dx + (size_t)t * (size_t)in;
    memset(to, 0, (size_t)in * sizeof(float));
    for (int o = 0; o < out; ++o) {
      const float d = dy[(size_t)t * (size_t)out + (size_t)o];
      const float* weight = w + (size_t)o * (size_t)in;
      for (int i = 0; i < in; ++i)
        to[i] += d * weight[i];
    }
  }
#pragma omp parallel for
  for (int o = 0; o < out; ++o) {
    float* to = dw + (size_t)o * (size_t)in;
    for (int t = 0; t < n; ++t) {
      const float d = dy[(size_t)t * (size_t)out + (size_t)o];
      const float* row = x + (size_t)t * (size_t)in;
      if (db != NULL) db[o] += d;
      for (int i = 0; i < in; ++i)
        to[i] += d * row[i];
    }
  }
}

static void norm(float* y, float* mean, float* rstd, const float* x, const float* w, const float* b, int n,
                 int c) {
#pragma omp parallel for
  for (int t = 0; t < n; ++t) {
    const float* row = x + (size_t)t * (size_t)c;
    float m = 0, v = 0;
    for (int i = 0; i < c; ++i)
      m += row[i];
    m /= (float)c;
    for (int i = 0; i < c; ++i)
      v += (row[i] - m) * (row[i] - m);
    const float s = 1 / sqrtf(v / (float)c + 1e-5f);
    for (int i = 0; i < c; ++i)
      y[(size_t)t * (size_t)c + (size_t)i] = (row[i] - m) * s * w[i] + b[i];
    mean[t] = m;
    rstd[t] = s;
  }
}

// dx += ...: the stream goes past the norm.
static void norm_backward(float* dx, float* dw, float* db, const float* dy, const float* x, const float* mean,
                          const float* rstd, const float* w, int n, int c) {
#pragma omp parallel for
  for (int t = 0; t < n; ++t) {
    const float *row = x + (size_t)t * (size_t)c, *d = dy + (size_t)t * (size_t)c;
    float sum = 0, product = 0;
    for (int i = 0; i < c; ++i) {
      const float scaled = d[i] * w[i];
      sum += scaled;
      product += scaled * (row[i] - mean[t]) * rstd[t];
    }
    for (int i = 0; i < c; ++i) {
      const float hat = (row[i] - mean[t]) * rstd[t];
      dx[(size_t)t * (size_t)c + (size_t)i] += (d[i] * w[i] - (sum + hat * product) / (float)c) * rstd[t];
    }
  }
#pragma omp parallel for
  for (int i = 0; i < c; ++i) {
    for (int t = 0; t < n; ++t) {
      const size_t at = (size_t)t * (size_t)c + (size_t)i;
      dw[i] += dy[at] * (x[at] - mean[t]) * rstd[t];
      db[i] += dy[at];
    }
  }
}

// Causal attention: y [n, C] from qkv [n, 3C]; weights [batch, heads, length, length].
static void attention(float* y, float* weights, const float* qkv, GptConfig k) {
  const int c = k.channels, d = c / k.heads;
  const float scale = 1 / sqrtf((float)d);
#pragma omp parallel for collapse(2)
  for (int b = 0; b < k.batch; ++b) {
    for (int h = 0; h < k.heads; ++h) {
      for (int t = 0; t < k.length; ++t) {
        const float* q = qkv + (size_t)((b * k.length + t) * 3 * c + h * d);
        float* p = weights + (size_t)(((b * k.heads + h) * k.length + t) * k.length);
        float most = -1e30f, sum = 0;
        for (int s = 0; s <= t; ++s) {
          const float* key = qkv + (size_t)((b * k.length + s) * 3 * c + c + h * d);
          float dot = 0;
          for (int i = 0; i < d; ++i)
            dot += q[i] * key[i];
          p[s] = dot * scale;
          if (p[s] > most) most = p[s];
        }
        for (int s = 0; s <= t; ++s)
          sum += p[s] = expf(p[s] - most);
        float* to = y + (size_t)((b * k.length + t) * c + h * d);
        memset(to, 0, (size_t)d * sizeof(float));
        for (int s = 0; s < k.length; ++s) {
          p[s] = s <= t ? p[s] / sum : 0;
          const float* value = qkv + (size_t)((b * k.length + s) * 3 * c + 2 * c + h * d);
          for (int i = 0; i < d && s <= t; ++i)
            to[i] += p[s] * value[i];
        }
      }
    }
  }
}

static void attention_backward(float* dqkv, const float* dy, const float* weights, const float* qkv,
                               GptConfig k) {
  const int c = k.channels, d = c / k.heads;
  const float scale = 1 / sqrtf((float)d);
  memset(dqkv, 0, (size_t)(k.batch * k.length * 3 * c) * sizeof(float));
#pragma omp parallel for collapse(2)
  for (int b = 0; b < k.batch; ++b) {
    for (int h = 0; h < k.heads; ++h) {
      for (int t = 0; t < k.length; ++t) {
        const size_t at = (size_t)((b * k.length + t) * 3 * c + h * d);
        const float* p = weights + (size_t)(((b * k.heads + h) * k.length + t) * k.length);
        const float* out = dy + (size_t)((b * k.length + t) * c + h * d);
        float mean = 0;
        for (int s = 0; s <= t; ++s) {
          const size_t from = (size_t)((b * k.length + s) * 3 * c + h * d);
          float dot = 0;
          for (int i = 0; i < d; ++i)
            dot += out[i] * qkv[from + (size_t)(2 * c + i)];
          mean += p[s] * dot;
        }
        for (int s = 0; s <= t; ++s) {
          const size_t from = (size_t)((b * k.length + s) * 3 * c + h * d);
          float dot = 0;
          for (int i = 0; i < d; ++i) {
            dot += out[i] * qkv[from + (size_t)(2 * c + i)];
            dqkv[from + (size_t)(2 * c + i)] += p[s] * out[i];
          }
          const float ds = p[s] * (dot - mean) * scale;
          for (int i = 0; i < d; ++i) {
            dqkv[at + (size_t)i] += ds * qkv[from + (size_t)(c + i)];
            dqkv[from + (size_t)(c + i)] += ds * qkv[at + (size_t)i];
          }
        }
      }
    }
  }
}

static void gelu(float* y, const float* x, size_t n) {
#pragma omp parallel for
  for (size_t i = 0; i < n; ++i)
    y[i] = 0.5f * x[i] * (1 + tanhf(0.7978846f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}
static void gelu_backward(float* dx, const float* dy, const float* x, size_t n) {
#pragma omp parallel for
  for (size_t i = 0; i < n; ++i) {
    const float t = tanhf(0.7978846f * (x[i] + 0.044715f * x[i] * x[i] * x[i]));
    const float slope = 0.7978846f * (1 + 3 * 0.044715f * x[i] * x[i]);
    dx[i] = dy[i] * (0.5f * (1 + t) + 0.5f * x[i] * (1 - t * t) * slope);
  }
}
static void sum_of(float* y, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i)
    y[i] = a[i] + b[i];
}

// ---- the model --------------------------------------------------------------------------------------------

float gpt_forward(Gpt* gpt, const int* inputs, const int* targets) {
  const GptConfig k = gpt->config;
  const GptParameters* p = &gpt->p;
  GptActivations* a = gpt->activations;
  const int c = k.channels, n = k.batch * k.length;
  const size_t numbers = (size_t)n * (size_t)c;
  for (int t = 0; t < n; ++t)
    sum_of(a->input + (size_t)(t * c), p->tokens + (size_t)(inputs[t] * c),
           p->positions + (size_t)(t % k.length * c), (size_t)c);
  const float* stream = a->input;
  for (int l = 0; l < k.layers; ++l) {
    const GptLayer* w = &p->layer[l];
    LayerActivations* layer = &a->layer[l];
    norm(layer->norm1, layer->mean1, layer->rstd1, stream, w->norm1_w, w->norm1_b, n, c);
    linear(layer->qkv, layer->norm1, w->qkv_w, w->qkv_b, n, c, 3 * c);
    attention(layer->attention, layer->weights, layer->qkv, k);
    linear(layer->middle, layer->attention, w->attention_w, w->attention_b, n, c, c);
    sum_of(layer->middle, layer->middle, stream, numbers);
    norm(layer->norm2, layer->mean2, layer->rstd2, layer->middle, w->norm2_w, w->norm2_b, n, c);
    linear(layer->up, layer->norm2, w->up_w, w->up_b, n, c, 4 * c);
    gelu(layer->gelu, layer->up, 4 * numbers);
    linear(layer->out, layer->gelu, w->down_w, w->down_b, n, 4 * c, c);
    sum_of(layer->out, layer->out, layer->middle, numbers);
    stream = layer->out;
  }
  norm(a->norm, a->mean, a->rstd, stream, p->norm_w, p->norm_b, n, c);
  linear(a->probabilities, a->norm, p->tokens, NULL, n, c, k.vocab);
  double loss = 0;
  for (int t = 0; t < n; ++t) {
    float* row = a->probabilities + (size_t)(t * k.vocab);
    float most = row[0], sum = 0;
    for (int v = 1; v < k.vocab; ++v)
      if (row[v] > most) most = row[v];
    for (int v = 0; v < k.vocab; ++v)
      sum += row[v] = expf(row[v] - most);
    for (int v = 0; v < k.vocab; ++v)
      row[v] /= sum;
    loss -= log((double)row[targets[t]] + 1e-30);
  }
  return (float)(loss / n);
}

void gpt_backward(Gpt* gpt, const int* inputs, const int* targets) {
  const GptConfig k = gpt->config;
  const GptParameters *p = &gpt->p, *g = &gpt->g;
  GptActivations* a = gpt->activations;
  const int c = k.channels, n = k.batch * k.length;
  const size_t numbers = (size_t)n * (size_t)c;
  for (int t = 0; t < n; ++t)
    for (int v = 0; v < k.vocab; ++v)
      a->d_logits[t * k.vocab + v] =
          (a->probabilities[t * k.vocab + v] - (v == targets[t] ? 1.0f : 0.0f)) / (float)n;
  linear_backward(a->d_branch, g->tokens, NULL, a->d_logits, a->norm, p->tokens, n, c, k.vocab);
  memset(a->d_stream, 0, numbers * sizeof(float));
  const float* last = k.layers > 0 ? a->layer[k.layers - 1].out : a->input;
  norm_backward(a->d_stream, g->norm_w, g->norm_b, a->d_branch, last, a->mean, a->rstd, p->norm_w, n, c);
  for (int l = k.layers - 1; l >= 0; --l) {
    const GptLayer *w = &p->layer[l], *d = &g->layer[l];
    const LayerActivations* layer = &a->layer[l];
    const float* stream = l > 0 ? a->layer[l - 1].out : a->input;
    linear_backward(a->d_wide, d->down_w, d->down_b, a->d_stream, layer->gelu, w->down_w, n, 4 * c, c);
    gelu_backward(a->d_wide2, a->d_wide, layer->up, 4 * numbers);
    linear_backward(a->d_branch, d->up_w, d->up_b, a->d_wide2, layer->norm2, w->up_w, n, c, 4 * c);
    norm_backward(a->d_stream, d->norm2_w, d->norm2_b, a->d_branch, layer->middle, layer->mean2, layer->rstd2,
                  w->norm2_w, n, c);
    linear_backward(a->d_branch, d->attention_w, d->attention_b, a->d_stream, layer->attention,
                    w->attention_w, n, c, c);
    attention_backward(a->d_qkv, a->d_branch, layer->weights, layer->qkv, k);
    linear_backward(a->d_branch, d->qkv_w, d->qkv_b, a->d_qkv, layer->norm1, w->qkv_w, n, c, 3 * c);
    norm_backward(a->d_stream, d->norm1_w, d->norm1_b, a->d_branch, stream, layer->mean1, layer->rstd1,
                  w->norm1_w, n, c);
  }
  for (int t = 0; t < n; ++t) {
    for (int i = 0; i < c; ++i) {
      g->tokens[inputs[t] * c + i] += a->d_stream[t * c + i];
      g->positions[t % k.length * c + i] += a->d_stream[t * c + i];
    }
  }
}

void gpt_clear_gradients(Gpt* gpt) {
  memset(gpt->gradient_block, 0, gpt->count * sizeof(float));
}

// ---- the optimizer ----------------------------------------------------------------------------------------

void gpt_skip(Gpt* gpt, const float* weight) {
  for (int t = 0; t < gpt->tensor_count; ++t) {
    GptTensor* tensor = &gpt->tensors[t];
    if (gpt->block + tensor->first != weight) continue;
    tensor->skip = 1;
    free(tensor->m);
    tensor->m = tensor->v = NULL;
  }
}

double gpt_squared_norm(const Gpt* gpt) {
  double sum = 0;
  for (int t = 0; t < gpt->tensor_count; ++t) {
    const GptTensor* tensor = &gpt->tensors[t];
    for (size_t i = 0; i < tensor->count && !tensor->skip; ++i)
      sum += (double)gpt->gradient_block[tensor->first + i] * (double)gpt->gradient_block[tensor->first + i];
  }
  return sum;
}

void gpt_adamw(Gpt* gpt, float learning_rate, float weight_decay, float scale) {
  const float beta1 = 0.9f, beta2 = 0.999f;
  const double t = (double)++gpt->adamw_steps;
  const float correct1 = (float)(1 / (1 - pow(0.9, t))), correct2 = (float)(1 / (1 - pow(0.999, t)));
  for (int k = 0; k < gpt->tensor_count; ++k) {
    const GptTensor* tensor = &gpt->tensors[k];
    if (tensor->skip) continue;
    float* w = gpt->block + tensor->first;
    const float* g = gpt->gradient_block + tensor->first;
    const float decay = tensor->decays ? learning_rate * weight_decay : 0;
#pragma omp parallel for
    for (size_t i = 0; i < tensor->count; ++i) {
      const float gradient = scale * g[i];
      tensor->m[i] = beta1 * tensor->m[i] + (1 - beta1) * gradient;
      tensor->v[i] = beta2 * tensor->v[i] + (1 - beta2) * gradient * gradient;
      w[i] -=
          decay * w[i] + learning_rate * tensor->m[i] * correct1 / (sqrtf(tensor->v[i] * correct2) + 1e-8f);
    }
  }
}
