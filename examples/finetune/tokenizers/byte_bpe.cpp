#include "tokenizers/byte_bpe.hpp"

#include <algorithm>
#include <array>

#include "tokenizers/bpe_merges.hpp"
#include "tokenizers/encoding.hpp"
#include "tokenizers/folder_settings.hpp"
#include "tokenizers/split_patterns.hpp"
#include "tokenizers/token_table.hpp"
#include "tokenizers/tokenizer_files.hpp"
#include "tokenizers/unicode.hpp"
#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune {
using namespace tokenizer_files;
namespace {

// ---- Files

/// What the files of a directory say, before it is checked, and the files themselves for errors.
struct Description {
  Path vocabulary_file{};
  Path merges_file{};
  Vocabulary vocabulary{};
  Merges merges{};
  ByteBpeOptions options{};
  std::vector<AddedToken> added{};
  Json tokenizer_json{};  ///< without its vocabulary; null where there is no such file
};

Merges read_merges_txt(const Path& file, TokenizerReport& report) {
  Merges merges;
  const std::vector<std::string> lines = read_lines(file, &report);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    if (line.empty() || line.starts_with("#version")) continue;
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string::npos) {
      throw TokenizerError(file.string() + ":" + std::to_string(i + 1) +
                           ": expected two tokens with a space between them, found " + in_quotes(line));
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

Vocabulary read_vocab_json(const Path& file) {
  const Json vocabulary = read_json(file);
  if (vocabulary.is_object()) return read_vocabulary(vocabulary, file);
  throw TokenizerError(file.string() + ": expected a JSON object of tokens and ids, found " +
                       vocabulary.type_name());
}

Description read_two_files(const Path& vocab_json, const Path& merges_txt, TokenizerReport& report) {
  Description description{.vocabulary_file = vocab_json, .merges_file = merges_txt};
  description.vocabulary = read_vocab_json(vocab_json);
  description.merges = read_merges_txt(merges_txt, report);
  report.files.insert(report.files.end(), {"vocab.json", "merges.txt"});
  if (description.merges.empty()) {
    report.notes.emplace_back("merges.txt has no merges: every byte of a text is a token of its own");
  }
  return description;
}

Description read_tokenizer_json(const Path& file) {
  Description description{.vocabulary_file = file, .merges_file = file};
  Json& root = description.tokenizer_json = read_json(file);
  const Json& model = object_at(root, "model", file);
  if (const std::string type = model_type(root, file); type != "BPE")
    throw TokenizerError(file.string() + ": expected a BPE model, found " + type);
  const auto refuse = [&](const char* key, bool is_set) {
    if (is_set) {
      throw TokenizerError(file.string() + ": expected a model without " + key + ", found " +
                           model.at(key).dump());
    }
  };
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    refuse(key, !get_optional<std::string>(model, key, file).value_or("").empty());
  for (const char* key : {"byte_fallback", "ignore_merges"})
    refuse(key, get_optional<bool>(model, key, file).value_or(false));
  refuse("dropout", get_optional<double>(model, "dropout", file).value_or(0) != 0);

  ByteBpeOptions& options = description.options;
  expect_type(root, "normalizer", {"none"}, file);
  expect_type(root, "pre_tokenizer", {"ByteLevel"}, file);
  const Json& pre_tokenizer = root.at("pre_tokenizer");
  set_from(options.add_prefix_space, pre_tokenizer, "add_prefix_space", file);
  if (!get_optional<bool>(pre_tokenizer, "use_regex", file).value_or(true))
    throw TokenizerError(file.string() + ": the pre_tokenizer's \"use_regex\" is false, expected true");
  description.vocabulary = read_vocabulary(object_at(model, "vocab", file), file);
  description.merges = read_merges(model.value("merges", Json()), file);
  description.added = read_added_tokens(root, file);
  read_post_processor(root, {"RoBERTa", "RobertaProcessing", " %:0 B:0 %:0"}, description.vocabulary,
                      description.added, options.cls_token, options.sep_token, file);
  root.erase("model");
  return description;
}

/// Reads vocab.json and merges.txt beside tokenizer.json, which goes before them, and notes where they
/// differ.
void compare_two_files(const Path& directory, const Description& description, TokenizerReport& report) {
  const auto compare = [&](const char* name, auto read) {
    std::error_code no_error;
    if (!std::filesystem::exists(directory / name, no_error)) return;
    try {
      read(directory / name);
      report.files.emplace_back(name);
    } catch (const TokenizerError& error) {
      note_unreadable(error, report);
    }
  };
  compare("vocab.json", [&](const Path& file) {
    note_differences("vocab.json", read_vocab_json(file), description.vocabulary, description.added, report);
  });
  compare("merges.txt", [&](const Path& file) {
    const Merges other = read_merges_txt(file, report);
    if (other == description.merges) return;
    const std::size_t both = std::min(other.size(), description.merges.size());
    const auto first = std::mismatch(other.begin(), other.begin() + static_cast<std::ptrdiff_t>(both),
                                     description.merges.begin())
                           .first;
    report.notes.push_back("merges.txt contradicts tokenizer.json, first in merge " +
                           std::to_string(first - other.begin() + 1) +
                           ": tokenizer.json goes first, as in transformers");
  });
}

/// tokenizer_config.json and the other files beside the vocabulary.
void read_settings(const Path& directory, Description& description, TokenizerReport& report) {
  static constexpr std::array<std::string_view, 4> classes{"RobertaTokenizer", "RobertaTokenizerFast",
                                                           "PreTrainedTokenizerFast", "TokenizersBackend"};
  ByteBpeOptions& options = description.options;
  const FrameTokens of_json{options.cls_token, options.sep_token};
  // Of no use here, but special: transformers' class has them by these names where no file says otherwise.
  std::string bos_token = "<s>";
  std::string eos_token = "</s>";
  const Json config = read_folder_settings(directory, {"byte-level BPE", classes},
                                           {{"bos_token", &bos_token},
                                            {"eos_token", &eos_token},
                                            {"unk_token", &options.unk_token},
                                            {"cls_token", &options.cls_token},
                                            {"sep_token", &options.sep_token},
                                            {"pad_token", &options.pad_token},
                                            {"mask_token", &options.mask_token}},
                                           description.vocabulary, description.added, report);
  if (!follows_tokenizer_json(config)) {
    for (const std::string& token : {bos_token, eos_token})
      add_if_known(token, description.vocabulary, description.added);
  }
  const Path file = directory / "tokenizer_config.json";
  if (description.tokenizer_json.is_null()) {
    set_from(options.add_prefix_space, config, "add_prefix_space", file);
  } else {
    settle_frame_tokens(description.tokenizer_json, config, of_json, options.cls_token, options.sep_token,
                        report);
    settle(options.add_prefix_space, config, "add_prefix_space", "add_prefix_space", false, file, report);
  }
  check_sides(description.tokenizer_json, config, directory, report);
}

}  // namespace

struct ByteBpeTokenizer::Impl {
  ByteBpeOptions options;
  TokenTable table;
  MergeTable merges;
  std::array<std::int32_t, 256> byte_ids{};
  // There is no normalisation, but tokens of the raw text are matched before those of the normalised text.
  AddedTokenMatcher raw_tokens;
  AddedTokenMatcher normalized_tokens;
  std::int32_t unk_id = 0;
  std::int32_t cls_id = 0;
  std::int32_t sep_id = 0;
  std::int32_t pad_id = 0;
  std::optional<std::int32_t> mask_id;

  /// Errors name the file that they are about where `description` has it.
  static std::shared_ptr<const Impl> from(Description description) {
    auto impl = std::make_shared<Impl>();
    impl->options = description.options;
    const auto in_file = [](const Path& file, auto make) {
      if (file.empty()) {
        make();
      } else {
        naming_file(file, make);
      }
    };
    in_file(description.vocabulary_file,
            [&] { impl->set_tokens(std::move(description.vocabulary), std::move(description.added)); });
    in_file(description.merges_file,
            [&] { impl->merges = MergeTable(description.merges, impl->table.vocabulary()); });
    return impl;
  }

  void set_tokens(Vocabulary vocabulary, std::vector<AddedToken> added) {
    table = TokenTable(std::move(vocabulary), std::move(added));
    unk_id = table.add_special({.content = options.unk_token}, "unknown");
    cls_id = table.add_special({.content = options.cls_token}, "first");
    sep_id = table.add_special({.content = options.sep_token}, "separating");
    pad_id = table.add_special({.content = options.pad_token}, "padding");
    if (table.find(options.mask_token))
      mask_id = table.add_special({.content = options.mask_token, .lstrip = true}, "mask");
    if (const auto id = table.hole()) {
      throw TokenizerError("expected a token for every id below " + std::to_string(table.id_end()) +
                           ", found none for " + std::to_string(*id));
    }
    const auto found = byte_tokens(table.vocabulary());
    for (std::size_t byte = 0; byte < 256; ++byte) {
      if (found[byte] < 0) {
        throw TokenizerError("expected a token for every byte, found no " + in_quotes(byte_character(byte)) +
                             " for " + hexadecimal(byte));
      }
    }
    byte_ids = found;
    for (const AddedToken& token : table.added()) {
      require_utf8(token.content);
      (token.normalized ? normalized_tokens : raw_tokens).add(token.content, token);
    }
  }

  void append_words(std::string_view text, Merger& merger, std::vector<std::int32_t>& ids) const {
    std::string with_space;
    if (options.add_prefix_space && !text.starts_with(' ')) {
      with_space.assign(1, ' ').append(text);
      text = with_space;
    }
    std::vector<std::int32_t> bytes;
    for (const std::string_view word : split_words(text, SplitPattern::gpt2)) {
      bytes.clear();
      for (const char c : word)
        bytes.push_back(byte_ids[static_cast<unsigned char>(c)]);
      merger.append_merged(bytes, ids);
    }
  }
};

ByteBpeTokenizer::ByteBpeTokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

ByteBpeTokenizer::ByteBpeTokenizer(Vocabulary vocabulary, const Merges& merges, const ByteBpeOptions& options,
                                   std::vector<AddedToken> added)
    : impl_(Impl::from({.vocabulary = std::move(vocabulary),
                        .merges = merges,
                        .options = options,
                        .added = std::move(added)})) {}

ByteBpeTokenizer ByteBpeTokenizer::from_vocab(const Path& vocab_json, const Path& merges_txt,
                                              const ByteBpeOptions& options) {
  TokenizerReport unread;
  Description description = read_two_files(vocab_json, merges_txt, unread);
  description.options = options;
  return ByteBpeTokenizer(Impl::from(std::move(description)));
}

ByteBpeTokenizer ByteBpeTokenizer::from_tokenizer_json(const Path& file) {
  return ByteBpeTokenizer(Impl::from(read_tokenizer_json(file)));
}

ByteBpeTokenizer ByteBpeTokenizer::from_directory(const Path& directory, TokenizerReport* report) {
  std::error_code no_error;
  require_directory(directory);
  TokenizerReport own;
  TokenizerReport& out = report != nullptr ? *report : own;
  out.kind = "byte-level BPE";
  const Path tokenizer_json = directory / "tokenizer.json";
  Description description;
  if (std::filesystem::exists(tokenizer_json, no_error)) {
    description = read_tokenizer_json(tokenizer_json);
    out.files.emplace_back("tokenizer.json");
    compare_two_files(directory, description, out);
  } else {
    description = read_two_files(directory / "vocab.json", directory / "merges.txt", out);
  }
  read_settings(directory, description, out);
  return ByteBpeTokenizer(Impl::from(std::move(description)));
}

std::vector<std::int32_t> ByteBpeTokenizer::tokenize_ids(std::string_view text) const {
  require_utf8(text);
  std::vector<std::int32_t> ids;
  Merger merger(impl_->merges);
  for (const Stretch& raw : impl_->raw_tokens.split(text)) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    for (const Stretch& part : impl_->normalized_tokens.split(raw.text)) {
      if (part.id) {
        ids.push_back(*part.id);
      } else {
        impl_->append_words(part.text, merger, ids);
      }
    }
  }
  return ids;
}

Encoding ByteBpeTokenizer::encode(std::string_view a, std::optional<std::string_view> b,
                                  std::size_t max_length) const {
  const Frame frame{.first = impl_->cls_id, .last = impl_->sep_id, .between = 2, .second_type = 0};
  return encode_in_frame(*this, frame, a, b, max_length);
}

std::int32_t ByteBpeTokenizer::pad_id() const {
  return impl_->pad_id;
}
std::size_t ByteBpeTokenizer::vocab_size() const {
  return impl_->table.id_end();
}
std::int32_t ByteBpeTokenizer::cls_id() const {
  return impl_->cls_id;
}
std::int32_t ByteBpeTokenizer::sep_id() const {
  return impl_->sep_id;
}
std::int32_t ByteBpeTokenizer::unk_id() const {
  return impl_->unk_id;
}
std::optional<std::int32_t> ByteBpeTokenizer::mask_id() const {
  return impl_->mask_id;
}
const ByteBpeOptions& ByteBpeTokenizer::options() const {
  return impl_->options;
}

std::optional<std::int32_t> ByteBpeTokenizer::id_of(std::string_view token) const {
  return impl_->table.find(token);
}

const std::string& ByteBpeTokenizer::token_of(std::int32_t id) const {
  return impl_->table.token_of(id);
}

}  // namespace sparsegrad::finetune
