#include "checkpoints/gguf_metadata.hpp"

#include <algorithm>
#include <optional>

#include <sparsegrad/core/error.hpp>

#include "checkpoints/gguf_model.hpp"
#include "checkpoints/gguf_tokenizer.hpp"
#include "tokenizers/causal_folder.hpp"
#include "tokenizers/sentencepiece.hpp"

namespace sparsegrad::finetune {

namespace {

/// Tokens by id, with types (PieceType) and, of SentencePiece, scores.
struct Tokens {
  std::vector<std::string> texts;
  std::vector<std::int32_t> types;
  std::vector<float> scores;

  explicit Tokens(index_t rows)
      : types(static_cast<std::size_t>(rows), static_cast<std::int32_t>(PieceType::unused)),
        scores(static_cast<std::size_t>(rows), -1000.0F) {
    for (index_t i = 0; i < rows; ++i)
      texts.push_back("[PAD" + std::to_string(i) + "]");
  }
  void set(std::int32_t id, std::string_view text, PieceType type) {
    texts[static_cast<std::size_t>(id)] = text;
    types[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(type);
  }
  void set(const AddedToken& token) {
    set(token.id, token.content, token.special ? PieceType::control : PieceType::user_defined);
  }
};

void put_settings(const CausalSettings& settings, std::span<const std::int32_t> ends, GgufWriter& writer,
                  std::vector<std::string>& notes) {
  const auto put = [&](const char* name, const std::optional<std::int32_t>& id) {
    if (id) writer.integer(gguf_tokenizer_key(name), static_cast<std::uint32_t>(*id));
  };
  put("bos_token_id", settings.bos_id);
  put("padding_token_id", settings.pad_id);
  std::vector<std::int32_t> all;
  const auto add = [&](std::int32_t id) {
    if (std::find(all.begin(), all.end(), id) == all.end()) all.push_back(id);
  };
  if (settings.eos_id) add(*settings.eos_id);
  for (const std::int32_t id : settings.end_ids)
    add(id);
  for (const std::int32_t id : ends)
    add(id);
  constexpr const char* names[] = {"eos_token_id", "eot_token_id", "eom_token_id"};
  for (std::size_t i = 0; i < all.size() && i < std::size(names); ++i)
    put(names[i], all[i]);
  for (std::size_t i = std::size(names); i < all.size(); ++i)
    notes.push_back("the token " + std::to_string(all[i]) +
                    " ends answers too, and a GGUF file names three such");
  writer.truth(gguf_tokenizer_key("add_bos_token"), settings.adds_bos);
  writer.truth(gguf_tokenizer_key("add_eos_token"), settings.adds_eos);
  if (!settings.chat_template.empty()) writer.text("tokenizer.chat_template", settings.chat_template);
}

/// Where the reader of a GGUF file would take other settings for this pattern.
void require_same_bpe(const CausalBpeParts& parts, const std::string& path) {
  const auto require = [&](bool same, const char* what) {
    if (same) return;
    throw TokenizerError(path + ": the tokenizer of the pattern " + to_string(parts.pattern) + " " + what +
                         ", of which a GGUF file cannot tell; expected the model's own tokenizer");
  };
  require(parts.nfc == (parts.pattern == SplitPattern::qwen2),
          parts.nfc ? "composes texts" : "does not compose texts");
  require(parts.ignore_merges == (parts.pattern == SplitPattern::llama3),
          parts.ignore_merges ? "takes whole words first" : "does not take whole words first");
}

void put_bpe(const CausalBpeParts& parts, const std::string& path, index_t rows, GgufWriter& writer,
             std::vector<std::string>& notes) {
  require_same_bpe(parts, path);
  Tokens tokens(rows);
  for (const auto& [text, id] : parts.vocabulary)
    tokens.set(id, text, PieceType::normal);
  for (const AddedToken& token : parts.added) {
    tokens.set(token);
    if (token.lstrip || token.rstrip || token.single_word)
      notes.push_back("the token \"" + token.content +
                      "\" takes blanks or stands alone, which a GGUF file cannot say");
  }
  std::vector<std::string> merges;
  for (const auto& [left, right] : parts.merges)
    merges.push_back(left + " " + right);
  writer.text(gguf_tokenizer_key("model"), "gpt2");
  writer.text(gguf_tokenizer_key("pre"), pre_of_pattern(parts.pattern));
  writer.texts(gguf_tokenizer_key("tokens"), tokens.texts);
  writer.integers(gguf_tokenizer_key("token_type"), tokens.types);
  writer.texts(gguf_tokenizer_key("merges"), merges);
}

void put_pieces(const PieceFiles& files, index_t rows, GgufWriter& writer) {
  const PieceModel model = read_piece_model(files.model, files.path);
  Tokens tokens(rows);
  std::int32_t id = 0;
  for (const Piece& piece : model.pieces) {
    tokens.scores[static_cast<std::size_t>(id)] = piece.score;
    if (piece.type == PieceType::unknown)
      writer.integer(gguf_tokenizer_key("unknown_token_id"), static_cast<std::uint32_t>(id));
    tokens.set(id++, piece.text, piece.type);
  }
  // Beside the pieces alone: "<unk>" as an added token stays what it is.
  for (const AddedToken& token : files.added)
    if (token.id >= id) tokens.set(token);
  writer.text(gguf_tokenizer_key("model"), "llama");
  writer.text(gguf_tokenizer_key("pre"), "default");
  writer.texts(gguf_tokenizer_key("tokens"), tokens.texts);
  writer.reals(gguf_tokenizer_key("scores"), tokens.scores);
  writer.integers(gguf_tokenizer_key("token_type"), tokens.types);
  writer.truth(gguf_tokenizer_key("add_space_prefix"), model.add_dummy_prefix);
}

}  // namespace

void put_gguf_config(const DecoderConfig& config, const std::string& name, GgufWriter& writer) {
  const std::string architecture(gguf_architecture(config));
  const auto integer = [&](const char* what, index_t value) {
    writer.integer(architecture + "." + what, static_cast<std::uint32_t>(value));
  };
  writer.text("general.architecture", architecture);
  writer.text("general.type", "model");
  writer.text("general.name", name);
  integer("vocab_size", config.vocab_size);
  integer("context_length", config.max_positions);
  integer("embedding_length", config.hidden);
  integer("block_count", config.layers);
  integer("feed_forward_length", config.intermediate);
  integer("attention.head_count", config.heads);
  integer("attention.head_count_kv", config.kv_heads);
  integer("attention.key_length", config.head_size);
  integer("attention.value_length", config.head_size);
  integer("rope.dimension_count", config.head_size);
  writer.real(architecture + ".rope.freq_base", static_cast<float>(config.rope.base));
  writer.real(architecture + ".attention.layer_norm_rms_epsilon", static_cast<float>(config.rms_norm_eps));
  if (config.rope.scaling != RopeScaling::linear) return;
  writer.text(architecture + ".rope.scaling.type", "linear");
  writer.real(architecture + ".rope.scaling.factor", static_cast<float>(config.rope.factor));
}

std::vector<std::string> put_gguf_tokenizer(const std::filesystem::path& folder, index_t rows,
                                            std::span<const std::int32_t> ends, GgufWriter& writer) {
  std::vector<std::string> notes;
  const CausalFolder files = read_causal_folder(folder);
  if (files.bpe)
    put_bpe(*files.bpe, files.path, rows, writer, notes);
  else
    put_pieces(*files.pieces, rows, writer);
  put_settings(files.bpe ? files.bpe->settings : files.pieces->settings, ends, writer, notes);
  return notes;
}

void put_gguf_metadata(const GgufFile& file, GgufWriter& writer) {
  for (const std::string& name : file.keys()) {
    const bool of_this_file = name == "general.file_type" || name == "general.quantization_version" ||
                              name == "general.alignment" || name.starts_with("split.");
    if (!of_this_file) writer.value(name, file.value_bytes(name));
  }
}

void put_gguf_file_type(const GgufType& type, GgufWriter& writer) {
  // llama.h, llama_ftype: that of most tensors.
  const std::uint32_t number = type.name == "F16"    ? 1
                               : type.name == "Q8_0" ? 7
                               : type.name == "BF16" ? 32
                                                     : 0;
  writer.integer("general.file_type", number);
  if (type.block > 1) writer.integer("general.quantization_version", 2);
}

}  // namespace sparsegrad::finetune
