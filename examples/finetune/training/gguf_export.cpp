#include "training/gguf_export.hpp"

#include <fmt/format.h>

#include "checkpoints/gguf_metadata.hpp"
#include "checkpoints/gguf_model.hpp"
#include "training/source_weights.hpp"

namespace sparsegrad::finetune {

namespace {

/// The model's name for people: that of its folder, or of the one above a run's.
std::string name_of(const std::filesystem::path& path) {
  std::filesystem::path folder = std::filesystem::absolute(path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  if (folder.filename() == "model") folder = folder.parent_path();
  return folder.filename().string();
}

}  // namespace

std::vector<std::string> write_gguf_model(const CausalSource& source, const GgufType& type,
                                          const std::filesystem::path& file) {
  const DecoderConfig& config = source.config();
  std::vector<std::string> notes;
  GgufWriter writer;
  if (source.is_gguf()) {
    put_gguf_metadata(*source.gguf(), writer);
  } else {
    put_gguf_config(config, name_of(source.path()), writer);
    notes = put_gguf_tokenizer(source.path(), config.vocab_size, config.eos_token_ids, writer);
  }
  put_gguf_file_type(type, writer);
  if (const std::vector<float> factors = gguf_rope_factors(config); !factors.empty())
    writer.tensor("rope_freqs.weight", {static_cast<index_t>(factors.size())}, factors, gguf_type("F32"));

  const SourceWeights weights(source);
  for (const ParameterShape& p : decoder_shapes(config, {}, 0)) {
    const std::string name = gguf_name(p.name);
    const std::vector<index_t> shape =
        p.is_vector() ? std::vector<index_t>{p.cols} : std::vector<index_t>{p.rows, p.cols};
    const GgufType* own = p.is_vector() ? &gguf_type("F32") : &type;
    if (p.cols % own->block != 0) {
      own = &gguf_type("F16");
      notes.push_back(
          fmt::format("{} is F16: its rows of {} values are no whole blocks of {}", name, p.cols, type.name));
    }
    const std::vector<float> values = weights.values(p);
    const bool changed = source.change() != nullptr && source.change()->changes(p.name);
    if (source.is_gguf() && !changed && source.gguf()->tensor(name).type == own)
      writer.tensor(name, shape, *own, source.gguf()->blocks(source.gguf()->tensor(name)));
    else
      writer.tensor(name, shape, gguf_row_order(config, p.name, values, p.is_vector() ? 1 : p.cols), *own);
  }
  writer.write(file);
  return notes;
}

}  // namespace sparsegrad::finetune
