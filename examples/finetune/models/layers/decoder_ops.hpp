// What the layers of decoders do besides matrix products, as a backend does it.
#pragma once

#include <sparsegrad/core/view.hpp>

#include "causal_shape.hpp"
#include "placed_batch.hpp"
#include "rms_norm.hpp"
#include "rope.hpp"

namespace sparsegrad::finetune {

// clang-format off
/// Specialised in host/decoder_ops.hpp and device/decoder_ops.cuh; a file that instantiates a DecoderModel includes one of
/// them.
///
/// | member | meaning |
/// |---|---|
/// | `scratch_bytes<T>(tokens, width)` | scratch that the following take over matrices up to [tokens, width] |
/// | `embed_forward(ctx, table, placed, x)` | x.row(i) = table's row of token i |
/// | `embed_backward(ctx, placed, g, d_table)` | adds the rows of g to those of their tokens, in the tokens' order |
/// | `add_rms_norm_forward(ctx, norm, bias, residual, x, rstd, y)` | x += residual + bias (empty, null: left out); y = norm(x) |
/// | `rms_norm_again(ctx, norm, x, rstd, y)` | y = norm(x), bit for bit as before |
/// | `rms_norm_backward(ctx, norm, x, rstd, dy, factor, overwrite, g)` | g += factor dx (`overwrite`: =), adds to d_gamma |
/// | `swiglu_forward(ctx, gate, up, out)` | out = silu(gate) up |
/// | `swiglu_backward(ctx, d_out, gate, up)` | gate and up become their gradients |
/// | `rope_forward(ctx, shape, table, placed, bias, qkv)` | qkv += bias (null: none), then q and k are rotated to their positions |
/// | `rope_backward(ctx, shape, table, placed, d_qkv)` | the gradient before the rotation |
/// | `column_sums(ctx, g, sums)` | sums[j] += sum_i g(i, j) (null: nothing) |
/// | `attention_work<T>(ctx, shape, tokens, longest)` | elements of `work` below for `tokens` rows and `longest` keys |
/// | `attention_forward(ctx, shape, placed, qkv, out, log_sums, work)` | CausalShape; log_sums [heads, tokens] |
/// | `attention_after(ctx, shape, placed, past, keys, values, longest, qkv, out, work)` | the same of tokens that follow past[s] others, whose keys and values are rows of keys[s] and values[s] with the new ones behind |
/// | `attention_backward(ctx, shape, placed, qkv, out, log_sums, d_out, d_qkv, work)` | the gradient of q (rotated), k (rotated) and v |
/// | `take_rows(ctx, placed, x, residual, y)` | y.row(i) = x.row(r) + residual.row(r) for r = row i of those counted (CountedRows) |
/// | `put_rows(ctx, placed, y, x)` | x.row(r) = y.row(i), all other rows 0 |
/// | `cross_entropy(ctx, placed, first, logits, losses, d_logits)` | of the counted rows from `first` on: losses[i] = -log softmax(row)[target], and its gradient (empty: not wanted) |
// clang-format on
template <class Backend>
struct DecoderOps;

}  // namespace sparsegrad::finetune
