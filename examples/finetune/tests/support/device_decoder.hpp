// The decoder on a backend whose memory is not the host's against the CPU's: a file that includes this names the backend
// first, as `DeviceBackend`, with a Context that is made without arguments, and instantiates the model for it.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "decoder_support.hpp"

namespace sparsegrad::finetune::test {

/// The distance in the norm of all numbers; NaN is not near.
template <class T, class C>
void check_near(const std::vector<T>& found, const std::vector<C>& wanted, double slack) {
  REQUIRE(found.size() == wanted.size());
  double off = 0;
  double all = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double x = static_cast<double>(wanted[i]);
    const double difference = static_cast<double>(found[i]) - x;
    off += difference * difference;
    all += x * x;
  }
  CHECK_MESSAGE(std::sqrt(off) <= slack * std::max(std::sqrt(all), 0.1),
                "off by " << std::sqrt(off) << " of " << std::sqrt(all));
}

/// Two training passes with an evaluation between them, then logits and decoding, of the device's model in T and the CPU's
/// in Wide: no more than `slack` of the norm of each tensor apart.
template <class T, class Wide>
void check_decoder(const DecoderConfig& config, const TrainedParts& trained, const Batch& batch,
                   double slack) {
  using Values = std::vector<compute_t<T>>;
  HostBackend::Context cpu(1);
  DeviceBackend::Context ctx;
  DecoderModel<Wide, HostBackend> exact(cpu, config, trained);
  DecoderModel<T, DeviceBackend> model(ctx, config, trained);
  fill(exact, 3);
  fill(model, 3);
  for (int pass = 0; pass < 2; ++pass) {
    const auto wanted = exact.forward(cpu, batch, {.training = true});
    const auto found = model.forward(ctx, batch, {.training = true});
    CHECK(found.counted == wanted.counted);
    CHECK(std::abs(found.loss - wanted.loss) <= slack * wanted.loss);
    check_near(std::vector<double>(found.token_losses.begin(), found.token_losses.end()),
               std::vector<double>(wanted.token_losses.begin(), wanted.token_losses.end()), slack);
    exact.backward(cpu, batch, 0.5);
    model.backward(ctx, batch, 0.5);
  }
  for (const auto& p : exact.parameters().all()) {
    const auto wanted = exact.values(gradient_of(cpu, exact, p.name));
    const auto found = model.values(gradient_of(ctx, model, p.name));
    CAPTURE(p.name);
    // The keys' bias shifts all scores of a query alike: its gradient is zero but for rounding.
    check_near(found, wanted, slack * (p.name.ends_with("k_proj.bias") ? 10 : 1));
  }
  const auto logits = exact.logits(cpu, batch);
  check_near(model.logits(ctx, batch), logits, slack);

  // The first sequence in pieces, then beside the last one.
  KeyValueCache<T, DeviceBackend> cache(ctx, config, 70);
  const index_t length = std::min<index_t>(batch.lengths[0], 60);
  const auto words = static_cast<std::size_t>(config.vocab_size);
  const auto row = [&](index_t at) {
    const auto begin = logits.begin() + at * config.vocab_size;
    return std::vector(begin, begin + config.vocab_size);
  };
  const std::span<const std::int32_t> ids(batch.ids);
  for (index_t at = 0; at < length;) {
    const index_t count = at == 0 ? std::max<index_t>(length / 2, 1) : 1;
    const auto next =
        model.decode(ctx, cache, ids.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(count)));
    at += count;
    check_near(Values(next.begin(), next.end()), row(at - 1), slack);
  }
  cache.shorten(length - 1);
  KeyValueCache<T, DeviceBackend> other(ctx, config, 70);
  KeyValueCache<T, DeviceBackend>* const both[] = {&cache, &other};
  const index_t last = batch.sequences() - 1;
  Batch following;
  following.add_sequence(ids.subspan(static_cast<std::size_t>(length - 1), 1));
  following.add_sequence(
      ids.subspan(static_cast<std::size_t>(batch.offsets[static_cast<std::size_t>(last)])));
  const auto both_logits = model.decode(ctx, both, following);
  check_near(Values(both_logits.row(0), both_logits.row(0) + words), row(length - 1), slack);
  check_near(Values(both_logits.row(1), both_logits.row(1) + words), row(batch.tokens() - 1), slack);
}

/// Heads of sizes that are and are not copied in packs, groups, biases, tied and own heads, chosen matrices, adapters;
/// sequences of one token, and longer than several panels of keys.
template <class T, class Wide>
void check_all_decoders(double slack) {
  const Batch batch = random_batch({37, 1, 70, 2, 64}, 23);
  const auto none = [](std::string_view) { return false; };
  for (const auto& [head_size, kv_heads] :
       {std::pair<index_t, index_t>{6, 4}, {6, 2}, {16, 4}, {16, 2}, {72, 2}, {72, 1}}) {
    CAPTURE(head_size);
    CAPTURE(kv_heads);
    DecoderConfig config = micro_decoder();
    config.layers = 2;
    config.head_size = head_size;
    config.kv_heads = kv_heads;
    config.hidden = head_size == 6 ? 12 : 24;
    config.intermediate = head_size == 6 ? 20 : 40;
    config.vocab_size = head_size == 16 ? 24 : 23;
    config.qkv_bias = config.o_bias = kv_heads == 2;
    config.tied_embeddings = kv_heads == 1;
    check_decoder<T, Wide>(config, {.mlp = {}, .dense = {}, .matrices = all_matrices(2)}, batch, slack);
    if (head_size != 16 || kv_heads != 2) continue;
    check_decoder<T, Wide>(config,
                           {.mlp = {.matrices = false, .lora_rank = 3, .lora_scale = 0.7},
                            .dense = none,
                            .matrices = all_matrices(2)},
                           batch, slack);
    check_decoder<T, Wide>(config,
                           {.mlp = {}, .dense = none, .matrices = {{1}, {MatrixKind::up, MatrixKind::down}}},
                           batch, slack);
  }
}

}  // namespace sparsegrad::finetune::test
