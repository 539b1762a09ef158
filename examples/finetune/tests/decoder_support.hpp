// Reading the goldens of golden/make_decoder_goldens.py, and small decoders.
#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoints/decoder_folder.hpp"
#include "models/decoder/decoder_model.hpp"
#include "models/host_backend.hpp"
#include "models/layers/random.hpp"
#include "training/optimizer/adamw.hpp"

namespace sparsegrad::finetune::test {

inline std::filesystem::path decoder_goldens() {
  return std::filesystem::path(SPARSEGRAD_TEST_DIR) / "golden" / "decoder_tiny";
}

inline Batch decoder_batch(const nlohmann::json& rows) {
  Batch batch;
  for (const auto& row : rows) {
    batch.add_sequence(row["ids"].get<std::vector<std::int32_t>>(),
                       row["targets"].get<std::vector<std::int32_t>>());
  }
  return batch;
}

/// The gradient of a parameter, wherever it is kept; empty where it has none.
template <class T, class Backend>
MatrixView<compute_t<T>> gradient_of(typename Backend::Context& ctx, DecoderModel<T, Backend>& model,
                                     const std::string& name) {
  for (index_t i = 0; i < static_cast<index_t>(model.mlp().size()); ++i) {
    if (model.mlp_name(i) == name) return model.mlp()[static_cast<std::size_t>(i)].core(ctx);
  }
  return model.parameters().at(name).gradient;
}

template <class T, class Backend>
void clear_gradients(typename Backend::Context& ctx, DecoderModel<T, Backend>& model) {
  model.parameters().zero_gradients(ctx);
  for (auto& layer : model.mlp())
    layer.clear(ctx);
}

/// What AdamW trains: every dense gradient, and the matrices' cores.
template <class T, class Backend>
std::vector<typename AdamW<T, Backend>::Segment> trained_segments(typename Backend::Context& ctx,
                                                                  DecoderModel<T, Backend>& model,
                                                                  double decay) {
  std::vector<typename AdamW<T, Backend>::Segment> segments;
  for (auto& p : model.parameters().all()) {
    if (!p.gradient.empty())
      segments.push_back({p.name, p.weight.data, p.gradient.data, p.weight.size(), decay, p.rounded.data});
  }
  for (index_t i = 0; i < static_cast<index_t>(model.mlp().size()); ++i) {
    auto& layer = model.mlp()[static_cast<std::size_t>(i)];
    const MatrixView<compute_t<T>> core = layer.core(ctx);
    const Parameter<T>& p = model.parameters().at(model.mlp_name(i));
    segments.push_back({p.name, p.weight.data, core.data, core.size(), decay, p.rounded.data});
    layer.clear(ctx);
  }
  return segments;
}

/// Every matrix of every block.
inline MatrixChoice all_matrices(index_t layers) {
  return {every_block(layers, 1), {all_matrix_kinds.begin(), all_matrix_kinds.end()}};
}

inline DecoderConfig micro_decoder() {
  DecoderConfig c;
  c.vocab_size = 23;
  c.max_positions = 80;
  c.layers = 3;
  c.hidden = 12;
  c.intermediate = 20;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_size = 6;
  c.rope.base = 100;
  return c;
}

/// Numbers large enough for every gradient to matter.
template <class T, class Backend>
void fill(DecoderModel<T, Backend>& model, std::uint64_t seed) {
  using C = compute_t<T>;
  for (auto& p : model.parameters().all()) {
    const std::uint64_t key = stream_key(seed, std::hash<std::string>()(p.name));
    std::vector<C> values(static_cast<std::size_t>(p.weight.size()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double x = normal_at(key, i);
      values[i] = static_cast<C>(p.name.ends_with("norm.weight") ? 1 + 0.2 * x : 0.3 * x);
    }
    model.set_values(p.weight, values);
  }
}

/// Sequences of these lengths; of each, targets at about half of the rows.
inline Batch random_batch(const std::vector<index_t>& lengths, index_t vocab, std::uint64_t seed = 1) {
  Batch batch;
  std::uint64_t number = 0;
  const auto next = [&] { return mix_bits(seed * 1000003 + ++number); };
  for (const index_t length : lengths) {
    std::vector<std::int32_t> ids;
    std::vector<std::int32_t> targets;
    for (index_t i = 0; i < length; ++i)
      ids.push_back(static_cast<std::int32_t>(next() % static_cast<std::uint64_t>(vocab)));
    for (std::size_t i = 0; i < ids.size(); ++i)
      targets.push_back(i + 1 < ids.size() && (next() % 2 == 0 || i == 0) ? ids[i + 1] : -1);
    batch.add_sequence(ids, targets);
  }
  return batch;
}

inline std::string error_text(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace sparsegrad::finetune::test
