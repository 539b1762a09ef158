// A language model as it lies on the disk: a GGUF file, or a folder in Hugging Face form.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>
#include <sparsegrad/io/dtype.hpp>

#include "checkpoints/decoder_folder.hpp"
#include "checkpoints/gguf_file.hpp"
#include "checkpoints/weight_change.hpp"
#include "data/chat_template.hpp"
#include "models/decoder/decoder_model.hpp"
#include "tokenizers/causal_tokenizer.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// The configuration of a folder or a GGUF file. Throws ModelError or IoError.
DecoderConfig read_decoder_config(const std::filesystem::path& path);

/// A model's configuration, tokenizer, chat template and weights, whatever the form of its files.
class CausalSource {
 public:
  /// Opens a folder, or a GGUF file; reads all but the weights. `change`: an adapter or a delta that is put on the
  /// weights as they are read; empty: none. Throws ModelError, IoError or TokenizerError: neither of them, an architecture
  /// or quantisation that is not known, a tokenizer that does not fit the model, a change that does not fit it.
  explicit CausalSource(const std::filesystem::path& path, const std::filesystem::path& change = {});

  const std::filesystem::path& path() const { return path_; }
  bool is_gguf() const { return gguf_ != nullptr; }
  /// Null where nothing is put on the weights.
  const WeightChange* change() const { return change_.get(); }
  /// For people: "GGUF, Q4_1, F32 and Q8_0", or "folder"; with a change that is put on it.
  std::string form() const;
  const DecoderConfig& config() const { return folder_.config; }
  const CausalTokenizer& tokenizer() const { return *tokenizer_; }
  /// For people: the tokenizer's notes, and where it and the model say different things.
  const std::vector<std::string>& notes() const { return notes_; }
  /// Null for a folder.
  const GgufFile* gguf() const { return gguf_.get(); }

  /// The template by its name, or where that is empty the model's own; `date` is what it gives as today's, where it does.
  /// Throws ValueError.
  ChatTemplate chat_template(const std::string& name, const std::string& date = default_chat_date) const;
  /// Ids of a text in which special tokens are spelt out, as transformers reads what a chat template has written.
  std::vector<std::int32_t> encode(std::string_view text) const {
    return tokenizer_->encode(text, SpecialText::parsed);
  }
  /// The tokens that end an answer.
  std::vector<std::int32_t> end_ids(const ChatTemplate& chat) const;

  /// What of the model may stay as its files have it, for a model that this object outlives: all but what a change is put
  /// on, and in a folder what has more than 32 bits. Throws ModelError or IoError.
  PackedMatrices packed(Base base) const;
  /// Fills the model's weights; adapters are made from `seed`. Throws ModelError or IoError.
  template <class T, class Backend>
  void load(DecoderModel<T, Backend>& model, std::uint64_t seed) const;
  /// Writes a folder that transformers loads, with the tokenizer's files, adapters merged. Throws ModelError or IoError.
  template <class T, class Backend>
  void save(const std::filesystem::path& folder, const DecoderModel<T, Backend>& model, io::DType type) const;

 private:
  /// Refuses a tokenizer of another model, and puts together the notes.
  void compare_tokenizer();

  std::filesystem::path path_;
  std::vector<std::string> notes_;
  DecoderFolder folder_;
  std::unique_ptr<GgufFile> gguf_;
  std::unique_ptr<CausalTokenizer> tokenizer_;
  std::unique_ptr<WeightChange> change_;
};

}  // namespace sparsegrad::finetune
