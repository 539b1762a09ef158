#include "training/causal_source_impl.hpp"

#include <algorithm>
#include <fstream>
#include <map>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "checkpoints/delta_file.hpp"
#include "checkpoints/folder_packed.hpp"
#include "checkpoints/gguf_model.hpp"
#include "checkpoints/gguf_packed.hpp"
#include "checkpoints/gguf_tokenizer.hpp"
#include "checkpoints/gguf_tokenizer_files.hpp"
#include "models/host_backend.hpp"
#include "tokenizers/open_file.hpp"
#include "training/model_tokenizer.hpp"
#include "training/source_weights.hpp"

namespace sparsegrad::finetune {

namespace fs = std::filesystem;

namespace {

bool begins_with_gguf(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  char magic[4] = {};
  in.read(magic, sizeof magic);
  return in.gcount() == sizeof magic && std::string_view(magic, sizeof magic) == "GGUF";
}

/// `what`: an adapter or a delta, where a model is expected.
[[noreturn]] void refuse_change(const fs::path& path, const char* what) {
  throw ModelError(
      fmt::format("{}: is {}, expected a model: give the one that it was made for as --model and this one as "
                  "--adapter, or "
                  "merge the two: sparsegrad-llm export --model BASE --adapter '{}' --output FOLDER",
                  path.string(), what, path.string()));
}

}  // namespace

DecoderConfig read_decoder_config(const fs::path& path) {
  if (begins_with_gguf(path)) return gguf_config(GgufFile(path.string()));
  return open_decoder_folder(path).config;
}

CausalSource::CausalSource(const fs::path& path, const fs::path& change) : path_(path) {
  std::error_code code;
  if (fs::is_directory(path, code)) {
    if (fs::exists(path / "adapter_config.json", code)) refuse_change(path, "an adapter of peft");
    folder_ = open_decoder_folder(path);
    tokenizer_ = load_causal_tokenizer(path);
  } else if (!fs::exists(path, code)) {
    throw ModelError(path.string() +
                     ": there is no such file or folder, expected a GGUF file or a model's folder");
  } else if (begins_with_gguf(path)) {
    gguf_ = std::make_unique<GgufFile>(path.string());
    if (gguf_->get<std::string_view>("general.type") == "adapter") refuse_change(path, "a LoRA in GGUF");
    folder_.config = gguf_config(*gguf_);
    tokenizer_ = gguf_tokenizer(*gguf_);
  } else {
    (void)open_file<ModelError>(path);  // a file that cannot be read has no first letters either
    if (is_delta(path)) refuse_change(path, "a delta");
    throw ModelError(
        path.string() +
        ": expected a GGUF file, which begins with the letters GGUF, or a model's folder in Hugging "
        "Face form");
  }
  compare_tokenizer();
  if (!change.empty()) change_ = read_weight_change(change, config());
}

void CausalSource::compare_tokenizer() {
  notes_ = tokenizer_->notes();
  const auto ids = static_cast<std::int32_t>(tokenizer_->vocab_size());
  std::string left_over =
      vocabulary_note(path_.string(), ids, config().vocab_size, tokenizer_->token_of(ids - 1));
  if (!left_over.empty()) notes_.push_back(std::move(left_over));

  const std::vector<std::int32_t>& ends = config().eos_token_ids;
  const auto is_of_none = [&](std::int32_t id) { return id >= ids; };
  const auto refuse = [&](const char* name, std::int32_t id) {
    throw ModelError(fmt::format(
        "{}: \"{}\" of config.json is {}, the tokenizer has ids up to {}: the two are of different models, "
        "or the number is wrong there",
        path_.string(), name, id, ids - 1));
  };
  if (const auto end = std::find_if(ends.begin(), ends.end(), is_of_none); end != ends.end())
    refuse("eos_token_id", *end);
  if (is_of_none(config().bos_token_id)) refuse("bos_token_id", config().bos_token_id);
  // Nothing is padded.
  if (is_of_none(config().pad_token_id)) {
    notes_.push_back(fmt::format("\"pad_token_id\" of config.json is {}, the tokenizer has ids up to {}",
                                 config().pad_token_id, ids - 1));
  }
  const std::optional<std::int32_t> own = tokenizer_->settings().eos_id;
  if (!own || ends.empty() || std::find(ends.begin(), ends.end(), *own) != ends.end()) return;
  notes_.push_back(
      fmt::format("a text ends with {} (\"{}\") by the tokenizer's files, and with {} by the model's: either "
                  "ends an answer",
                  *own, tokenizer_->token_of(*own), fmt::join(ends, ", ")));
}

std::string CausalSource::form() const {
  const std::string changed = change_ != nullptr ? ", with a " + change_->text() : "";
  if (gguf_ == nullptr) return "folder" + changed;
  std::map<std::string, int> count;
  for (const GgufTensor& tensor : gguf_->tensors())
    ++count[std::string(tensor.type->name)];
  std::string text = "GGUF";
  for (const auto& [type, tensors] : count)
    text += fmt::format(", {} tensors {}", tensors, type);
  return text + changed;
}

ChatTemplate CausalSource::chat_template(const std::string& name, const std::string& date) const {
  const CausalSettings& settings = tokenizer_->settings();
  ChatTokens tokens;
  tokens.date = date;
  if (settings.eos_id) tokens.eos = tokenizer_->token_of(*settings.eos_id);
  if (settings.bos_id && (name != "plain" || settings.adds_bos))
    tokens.bos = tokenizer_->token_of(*settings.bos_id);
  if (name.empty()) return ChatTemplate::recognise(path_.string(), settings.chat_template, tokens);
  const ChatTemplate chat(name, tokens);
  for (const std::string& special : chat.special_texts()) {
    if (tokenizer_->id_of(special)) continue;
    throw ValueError(
        fmt::format("--chat-template is {}, whose token '{}' the model's tokenizer does not have; expected "
                    "one of the others, "
                    "or plain",
                    name, special));
  }
  return chat;
}

std::vector<std::int32_t> CausalSource::end_ids(const ChatTemplate& chat) const {
  std::vector<std::int32_t> ids = config().eos_token_ids;
  const CausalSettings& settings = tokenizer_->settings();
  ids.insert(ids.end(), settings.end_ids.begin(), settings.end_ids.end());
  if (settings.eos_id) ids.push_back(*settings.eos_id);
  for (const std::string& special : chat.special_texts())
    if (special == "<|im_end|>" || special == "<|eot_id|>")
      if (const auto id = tokenizer_->id_of(special)) ids.push_back(*id);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

PackedMatrices CausalSource::packed(Base base) const {
  if (base == Base::in_float) return {};
  auto shapes = std::make_shared<std::map<std::string, std::pair<index_t, index_t>, std::less<>>>();
  for (const ParameterShape& shape : decoder_shapes(config(), {}, 0))
    (*shapes)[shape.name] = {shape.rows, shape.cols};
  const auto folder = is_gguf() ? nullptr : std::make_shared<const ModelWeights>(path_);
  return [this, shapes, folder](std::string_view name) -> std::shared_ptr<const PackedMatrix> {
    if (change_ != nullptr && change_->changes(name)) return nullptr;
    const auto& [rows, cols] = shapes->find(name)->second;
    if (folder != nullptr) return folder_packed(folder, name, rows, cols);
    return gguf_packed(*gguf_, config(), name, rows, cols);
  };
}

template void CausalSource::load(DecoderModel<float, HostBackend>&, std::uint64_t) const;
template void CausalSource::load(DecoderModel<bfloat16, HostBackend>&, std::uint64_t) const;
template void CausalSource::save(const fs::path&, const DecoderModel<float, HostBackend>&, io::DType) const;
template void CausalSource::save(const fs::path&, const DecoderModel<bfloat16, HostBackend>&,
                                 io::DType) const;

}  // namespace sparsegrad::finetune
