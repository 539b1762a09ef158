// What the layers do besides matrix products, as a backend does it.
#pragma once

#include <sparsegrad/core/view.hpp>

#include "adamw_coefficients.hpp"
#include "attention_shape.hpp"
#include "dropout.hpp"
#include "embeddings.hpp"
#include "layer_norm.hpp"
#include "placed_batch.hpp"

namespace sparsegrad::finetune {

// clang-format off
/// Specialised in host/layer_ops.hpp and device/layer_ops.cuh; a file that instantiates a model includes one of them.
///
/// | member | meaning |
/// |---|---|
/// | `scratch_bytes<T>(tokens, width)` | scratch that the following take over matrices up to [tokens, width] |
/// | `embeddings_forward(ctx, e, placed, dropout, xhat, rstd, y)` | y = dropout(LayerNorm(word[id] + position[p] + type[t])) |
/// | `embeddings_backward(ctx, e, placed, dropout, xhat, rstd, g)` | adds to the tables' gradients; g = dy is overwritten; an element of a table sums its tokens in a fixed order |
/// | `residual_norm_forward(ctx, norm, dropout, bias, x, residual, rstd, y)` | y = LayerNorm(dropout(x + bias) + residual); x becomes xhat |
/// | `residual_norm_backward(ctx, norm, dropout, xhat, rstd, g, extra, dx, d_bias)` | from dy = g + extra (extra may be empty): g <- dz, dx = mask dz (left alone with dropout off); adds to d_gamma, d_beta, d_bias (null: left out) |
/// | `gelu_forward(ctx, bias, h, out)` | out = gelu(h + bias), h <- gelu'(h + bias) |
/// | `gelu_backward(ctx, slope, g, d_bias)` | g <- g slope; d_bias += its column sums (null: left out) |
/// | `column_sums(ctx, g, sums)` | sums[j] += sum_i g(i, j) (null: nothing) |
/// | `attention_work(ctx, shape, tokens, longest)` | elements of `work` below |
/// | `attention_forward(ctx, shape, placed, bias, dropout, qkv, out, log_sums, work)` | qkv += bias (that of the keys, which softmax does not see, may be left out; the CPU scales the queries too); out = dropout(softmax(q k^T scale)) v; log_sums [heads, tokens] |
/// | `attention_backward(ctx, shape, placed, dropout, qkv, out, log_sums, d_out, d_qkv, work)` | d_qkv: the gradient of qkv before forward |
/// | `take_first(ctx, placed, x, first)`, `put_first(ctx, placed, first, x)` | first.row(s) = x's row of sequence s's first token; x = 0 but for these |
/// | `tanh_forward(ctx, bias, x)`, `tanh_backward(ctx, y, g)` | x = tanh(x + bias); g *= 1 - y^2 |
/// | `apply_mask(ctx, dropout, x)` | x *= mask |
/// | `adamw_chunk` | elements of an array that one piece of the following has at most |
/// | `adamw_block` | on the CPU: elements that have one MomentsState; divides adamw_chunk |
/// | `adamw(ctx, pieces, clear)` | AdamW's update (see adamw.hpp) of each piece; then its gradient = 0 if `clear` |
/// | `sums_of_squares(ctx, pieces, sums)` | of each piece's gradient, in double, to host memory |
// clang-format on
template <class Backend>
struct LayerOps;

}  // namespace sparsegrad::finetune
