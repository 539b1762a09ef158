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
#include "data/chat_template.hpp"
#include "models/decoder/decoder_model.hpp"
#include "tokenizers/causal_tokenizer.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// A model's configuration, tokenizer, chat template and weights, whatever the form of its files.
class CausalSource {
 public:
  /// Opens a folder, or a GGUF file; reads all but the weights. Throws ModelError, IoError or TokenizerError: neither of
  /// them, an architecture or quantisation that is not known, a tokenizer that does not fit the model.
  explicit CausalSource(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  bool is_gguf() const { return gguf_ != nullptr; }
  /// For people: "GGUF, Q4_1, F32 and Q8_0", or "folder".
  std::string form() const;
  const DecoderConfig& config() const { return folder_.config; }
  const CausalTokenizer& tokenizer() const { return *tokenizer_; }
  /// Null for a folder.
  const GgufFile* gguf() const { return gguf_.get(); }

  /// The template by its name, or where that is empty the model's own. Throws ValueError.
  ChatTemplate chat_template(const std::string& name) const;
  /// Ids of a text in which special tokens are spelt out, as transformers reads what a chat template has written.
  std::vector<std::int32_t> encode(std::string_view text) const {
    return tokenizer_->encode(text, SpecialText::parsed);
  }
  /// The tokens that end an answer.
  std::vector<std::int32_t> end_ids(const ChatTemplate& chat) const;

  /// What of the model may stay in the file's blocks, for a model that this object outlives. Throws ValueError for a
  /// folder where that is wanted.
  PackedMatrices packed(Base base) const;
  /// Fills the model's weights; adapters are made from `seed`. Throws ModelError or IoError.
  template <class T, class Backend>
  void load(DecoderModel<T, Backend>& model, std::uint64_t seed) const;
  /// Throws ModelError where `save` could not write the tokenizer: that of a GGUF file with SentencePiece.
  void require_savable() const;
  /// Writes a folder that transformers loads, with the tokenizer's files, adapters merged. Throws ModelError or IoError.
  template <class T, class Backend>
  void save(const std::filesystem::path& folder, const DecoderModel<T, Backend>& model, io::DType type) const;

 private:
  std::filesystem::path path_;
  DecoderFolder folder_;
  std::unique_ptr<GgufFile> gguf_;
  std::unique_ptr<CausalTokenizer> tokenizer_;
};

}  // namespace sparsegrad::finetune
