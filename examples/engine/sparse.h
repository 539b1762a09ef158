// All that the engine needs to train its MLP matrices with sparsegrad.
#ifndef ENGINE_SPARSE_H
#define ENGINE_SPARSE_H

#include <sparsegrad/c/sparsegrad.h>

#include "gpt.h"

typedef enum SparseSetting {
  SPARSE_NONE,   // the engine as it is
  SPARSE_ALL,    // identity sides and all entries: AdamW by the library
  SPARSE_PAPER,  // both sides full, 1.2 % of the entries
  SPARSE_SIDE    // the model's width at rank 64, the other side as it is, 1.2 % of the entries
} SparseSetting;

typedef struct Sparse {
  sparsegrad_context* context;
  sparsegrad_group* group;  // NULL under SPARSE_NONE
} Sparse;

// Hands the MLP matrices over to the library; the engine's AdamW leaves them out from now on.
void sparse_begin(Sparse* sparse, Gpt* gpt, SparseSetting setting);
void sparse_end(Sparse* sparse);
// The step of the whole model: clips over all parameters, then AdamW for the engine's, the library for the others.
void sparse_step(Sparse* sparse, Gpt* gpt, float learning_rate, float sparse_rate, float weight_decay,
                 float max_norm);
// Bytes that the library holds, its temporary memory left out.
int64_t sparse_bytes(const Sparse* sparse);

#endif
