#include "checkpoints/model_folder.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "models/model_error.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

[[noreturn]] void fail(const fs::path& path, const std::string& text) {
  throw ModelError(path.string() + ": " + text);
}

/// A word of a shell's command.
std::string quoted(const std::string& text) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("/._-+=:,@").find(c) != std::string_view::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return text;
  std::string word = "'";
  for (const char c : text)
    word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}
std::string quoted(const fs::path& path) {
  return quoted(path.string());
}

/// The first few of them, and how many more there are.
std::string some(const Names& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 3); ++i)
    text += (i > 0 ? ", " : "") + names[i];
  if (names.size() > 3) text += " and " + std::to_string(names.size() - 3) + " more";
  return text;
}

std::string lower(std::string text) {
  for (char& c : text)
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

/// Names in a folder, sorted; none where it cannot be read.
Names entries_of(const fs::path& folder) {
  Names names;
  std::error_code code;
  for (fs::directory_iterator at(folder, code), end; !code && at != end; at.increment(code))
    names.push_back(at->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool ends_with_one_of(const std::string& name, std::initializer_list<std::string_view> endings) {
  const std::string small = lower(name);
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view ending) { return small.ends_with(ending); });
}
Names ending_in(const Names& names, std::initializer_list<std::string_view> endings) {
  Names found;
  for (const std::string& name : names)
    if (ends_with_one_of(name, endings)) found.push_back(name);
  return found;
}

bool is_pickle(const std::string& name) {
  static constexpr std::string_view others[] = {"training_args.bin", "optimizer.bin", "optimizer.pt",
                                                "scheduler.pt", "scaler.pt"};
  if (std::find(std::begin(others), std::end(others), name) != std::end(others)) return false;
  if (name.starts_with("rng_state") || name.starts_with("adapter_")) return false;
  return ends_with_one_of(name, {".bin", ".pt", ".pth", ".ckpt", ".pkl"});
}
/// Formats that hold a model as it runs, not as it is trained.
bool is_export(const std::string& name) {
  return ends_with_one_of(name, {".onnx", ".gguf", ".ggml", ".tflite", ".mlmodel", ".mlpackage", ".ot"}) ||
         lower(name).starts_with("openvino_model");
}
bool is_archive(const std::string& name) {
  return ends_with_one_of(name, {".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z"});
}
bool is_unfinished(const std::string& name) {
  return ends_with_one_of(name, {".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2"});
}

bool is_there(const fs::path& path) {
  std::error_code code;
  return fs::exists(path, code);
}
bool is_folder(const fs::path& path) {
  std::error_code code;
  return fs::is_directory(path, code);
}
bool has_weights(const fs::path& folder) {
  return is_there(folder / weights_file) || is_there(folder / shards_file);
}
bool is_model(const fs::path& folder) {
  return is_there(folder / config_file) && has_weights(folder);
}

/// The command that writes tensors of pickles to a safetensors file.
std::string pickle_command(const fs::path& to, const fs::path& folder, const Names& pickles) {
  std::string files;
  for (const std::string& name : pickles)
    files += " " + quoted(folder / name);
  return "python3 -c \"import sys, torch; from safetensors.torch import save_file; w = {}; "
         "[w.update(torch.load(f, map_location='cpu', weights_only=True)) for f in sys.argv[2:]]; "
         "save_file({k: v.contiguous().clone() for k, v in w.items()}, sys.argv[1], {'format': 'pt'})\" " +
         quoted(to) + files;
}
std::string about_pickles(const fs::path& folder, const Names& pickles) {
  return some(pickles) +
         ": weights as Python's pickles, which can run any program and are not read. Convert them (needs "
         "torch and safetensors): " +
         pickle_command(folder / weights_file, folder, pickles);
}

std::string transformers_command(const fs::path& folder, const std::string& option) {
  return "python3 -c \"import json, sys, transformers as t; d = sys.argv[1]; "
         "a = json.load(open(d + '/config.json'))['architectures'][0]; "
         "getattr(t, a).from_pretrained(d, " +
         option + "=True).save_pretrained(d)\" " + quoted(folder);
}

std::string text_of(const nlohmann::json& object, const char* key, const std::string& otherwise) {
  const auto at = object.find(key);
  return at != object.end() && at->is_string() ? at->get<std::string>() : otherwise;
}

[[noreturn]] void refuse_adapter(const fs::path& folder) {
  std::ifstream file(folder / "adapter_config.json");
  nlohmann::json config = nlohmann::json::parse(file, nullptr, false);
  if (!config.is_object()) config = nlohmann::json::object();
  const std::string base = text_of(config, "base_model_name_or_path", "one that it does not name");
  const fs::path merged = (folder.has_filename() ? folder : folder.parent_path()).string() + "-merged";
  fail(folder,
       "holds an adapter of peft (adapter_config.json: " + text_of(config, "peft_type", "of unknown type") +
           " for the model " + base + ")" +
           (has_weights(folder) ? " beside a model, whose results without it would be others"
                                : ", not a model") +
           ". Merge it into its model (needs peft), then give the new folder: python3 -c \"import sys; "
           "from peft import AutoPeftModelForSequenceClassification as M; from transformers import "
           "AutoTokenizer as A; m = M.from_pretrained(sys.argv[1]); b = "
           "m.peft_config['default'].base_model_name_or_path; "
           "m.merge_and_unload().save_pretrained(sys.argv[2]); "
           "A.from_pretrained(b).save_pretrained(sys.argv[2])\" " +
           quoted(folder) + " " + quoted(merged));
}

/// The snapshot of a folder "models--NAME" in the Hub's cache, when it has but one, or that of main.
std::optional<fs::path> snapshot_of(const fs::path& cache) {
  std::ifstream ref(cache / "refs" / "main");
  std::string hash;
  if (std::getline(ref, hash) && !hash.empty() && is_folder(cache / "snapshots" / hash))
    return cache / "snapshots" / hash;
  const Names names = entries_of(cache / "snapshots");
  if (names.size() == 1) return cache / "snapshots" / names[0];
  return std::nullopt;
}
void refuse_hub_cache(const fs::path& folder, const Names& names) {
  if (is_folder(folder / "snapshots")) {
    const std::optional<fs::path> snapshot = snapshot_of(folder);
    fail(folder, "is a model's folder in the Hub's cache; give the snapshot in it: " +
                     (snapshot ? quoted(*snapshot) : quoted(folder / "snapshots") + "/HASH"));
  }
  if (folder.filename() == "snapshots" && names.size() == 1 && is_folder(folder / names[0]))
    fail(folder, "is a folder of snapshots; give the one in it: " + quoted(folder / names[0]));
}

/// Subfolders that hold a model, also those in the Hub's cache.
std::vector<fs::path> models_below(const fs::path& folder, const Names& names) {
  std::vector<fs::path> found;
  for (const std::string& name : names) {
    const fs::path below = folder / name;
    if (!is_folder(below)) continue;
    if (is_model(below)) {
      found.push_back(below);
      continue;
    }
    if (const auto snapshot = snapshot_of(below); snapshot && is_model(*snapshot)) {
      found.push_back(*snapshot);
      continue;
    }
    for (const std::string& deeper : entries_of(below))
      if (is_model(below / deeper)) found.push_back(below / deeper);
  }
  return found;
}

[[noreturn]] void refuse_absent(const fs::path& path) {
  const std::string name = path.string();
  const auto of_a_name = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("._-/").find(c) != std::string_view::npos;
  };
  const bool like_a_name = !name.empty() && name.front() != '.' && name.front() != '/' &&
                           std::count(name.begin(), name.end(), '/') <= 1 &&
                           std::all_of(name.begin(), name.end(), of_a_name);
  fail(path, std::string("there is no such folder") +
                 (like_a_name ? "; a model of the Hugging Face Hub must be fetched first: hf download " +
                                    name + " --local-dir " + name
                              : ""));
}

[[noreturn]] void refuse_file(const fs::path& path) {
  const std::string name = path.filename().string();
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const std::string expected = "is a file, expected the folder of a model";
  if (is_archive(name)) fail(path, expected + "; unpack it and give the folder that comes out");
  if (is_model(parent)) fail(path, expected + ": " + quoted(parent));
  if (is_pickle(name)) fail(path, expected + ", and " + about_pickles(parent, {name}));
  if (is_export(name)) {
    fail(path,
         expected + ", in a format that training programs do not read; take the model it was made from");
  }
  fail(path, expected + " with config.json, model.safetensors and the tokenizer's files");
}

/// What stands in place of weights.
std::string instead_of_weights(const fs::path& folder, const Names& names) {
  std::error_code code;
  for (const char* file : {weights_file, shards_file}) {
    if (!fs::is_symlink(folder / file, code)) continue;
    return "a link of the name " + std::string(file) + " to " +
           fs::read_symlink(folder / file, code).string() +
           ", which is not there: an unfinished download, or a copy of a part of the Hub's cache; fetch it "
           "again";
  }
  Names found;
  std::copy_if(names.begin(), names.end(), std::back_inserter(found), is_unfinished);
  if (!found.empty()) return some(found) + ": an unfinished download; fetch the model again";
  const Names safe = ending_in(names, {".safetensors"});
  Names shards;
  for (const std::string& name : safe)
    if (name.find("-of-") != std::string::npos) shards.push_back(name);
  if (!shards.empty()) {
    return some(shards) + ": shards without their index; fetch " + std::string(shards_file) + " as well";
  }
  if (!safe.empty()) {
    return some(safe) + "; if that is the model, give it the usual name: cp " + quoted(folder / safe[0]) +
           " " + quoted(folder / weights_file);
  }
  std::copy_if(names.begin(), names.end(), std::back_inserter(found), is_pickle);
  const bool original = std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.ends_with(".ckpt.index") || name.ends_with(".ckpt.meta");
  });
  if (!found.empty() && !original) return about_pickles(folder, found);
  if (original) {
    const Names index = ending_in(names, {".ckpt.index", ".ckpt.meta"});
    const std::string checkpoint = index[0].substr(0, index[0].rfind('.'));
    return some(index) +
           ": a checkpoint of TensorFlow, as BERT was first published. The same models are on the Hub as "
           "google-bert/NAME. Or convert it (needs transformers 4, tensorflow and torch), then convert the "
           "pickle that comes out: python3 -m "
           "transformers.models.bert.convert_bert_original_tf_checkpoint_to_pytorch --tf_checkpoint_path " +
           quoted(folder / checkpoint) + " --bert_config_file " + quoted(folder / "bert_config.json") +
           " --pytorch_dump_path " + quoted(folder / "pytorch_model.bin");
  }
  if (is_there(folder / "tf_model.h5") || is_there(folder / "tf_model.h5.index.json")) {
    return "tf_model.h5: weights of TensorFlow. Convert them (needs transformers 4, tensorflow and torch): " +
           transformers_command(folder, "from_tf");
  }
  if (is_there(folder / "flax_model.msgpack") || is_there(folder / "flax_model.msgpack.index.json")) {
    return "flax_model.msgpack: weights of Flax. Convert them (needs transformers 4, flax and torch): " +
           transformers_command(folder, "from_flax");
  }
  found.clear();
  std::copy_if(names.begin(), names.end(), std::back_inserter(found), is_export);
  if (!found.empty() || is_folder(folder / "onnx"))
    return (found.empty() ? "onnx" : some(found)) +
           ": a model exported for use, not for training; take the one it was made from (sparsegrad-llm "
           "takes a "
           "GGUF file itself)";
  found.clear();
  std::copy_if(names.begin(), names.end(), std::back_inserter(found), is_archive);
  if (!found.empty()) return some(found) + "; unpack it and give the folder that comes out";
  return "";
}

std::string expected_files() {
  return std::string("expected ") + config_file + ", " + weights_file + " (or " + shards_file +
         " and its shards) and the tokenizer's files";
}

}  // namespace

void require_model_folder(const fs::path& path) {
  if (!is_there(path)) {
    std::error_code code;
    if (fs::is_symlink(path, code))
      fail(path, "is a link to " + fs::read_symlink(path, code).string() + ", which is not there");
    refuse_absent(path);
  }
  if (!is_folder(path)) refuse_file(path);
  const Names names = entries_of(path);
  if (is_there(path / "adapter_config.json")) refuse_adapter(path);
  if (is_model(path)) return;

  if (names.empty()) fail(path, "is an empty folder (or one that may not be read), " + expected_files());
  const std::string missing = is_there(path / config_file) ? std::string("has no ") + weights_file
                              : has_weights(path)
                                  ? std::string("has no ") + config_file
                                  : std::string("has neither ") + config_file + " nor " + weights_file;
  if (!is_there(path / config_file)) {
    if (is_there(path / "bert_config.json") && has_weights(path)) {
      fail(path, missing + " but bert_config.json, its name in the first BERTs: cp " +
                     quoted(path / "bert_config.json") + " " + quoted(path / config_file));
    }
    refuse_hub_cache(path, names);
  }
  if (!has_weights(path)) {
    if (const std::string found = instead_of_weights(path, names); !found.empty())
      fail(path, missing + " but " + found);
  }
  if (!is_there(path / config_file)) {
    const std::vector<fs::path> below = models_below(path, names);
    if (!below.empty()) {
      Names all;
      for (const fs::path& folder : below)
        all.push_back(quoted(folder));
      fail(path, missing + ", but " + (all.size() > 1 ? "there are models" : "there is a model") +
                     " below it; give " + (all.size() > 1 ? "one of: " : "") + some(all));
    }
  }
  fail(path, missing + ", " + expected_files() + "; found " + some(names));
}

void require_content(const fs::path& file, bool weights) {
  std::error_code code;
  const auto size = fs::file_size(file, code);
  if (code || !fs::is_regular_file(file, code)) return;  // the reader says why
  if (size == 0) fail(file, "is empty (0 bytes): an unfinished download or copy; fetch it again");
  std::array<char, 512> buffer{};
  std::ifstream in(file, std::ios::binary);
  in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
  const std::string_view begin(buffer.data(), static_cast<std::size_t>(in.gcount()));

  if (begin.starts_with("version https://git-lfs.github.com/spec/")) {
    const std::size_t at = begin.find("\nsize ");
    const std::string_view rest = at == std::string_view::npos ? "" : begin.substr(at + 6);
    const std::string bytes(rest.substr(0, rest.find_first_not_of("0123456789")));
    fail(file, "is a pointer of Git LFS (" + std::to_string(size) + " bytes) in place of the file" +
                   (bytes.empty() ? "" : " of " + bytes + " bytes") + "; fetch it: cd " +
                   quoted(file.has_parent_path() ? file.parent_path() : fs::path(".")) + " && git lfs pull");
  }
  const std::string text = lower(std::string(begin.substr(0, 200)));
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  const std::string_view start = first == std::string::npos ? "" : std::string_view(text).substr(first);
  if (start.starts_with("<!doctype html") || start.starts_with("<html")) {
    fail(file,
         "is a web page in place of the file: the address of a page was fetched, or one that wants a login; "
         "the Hub's files are at .../resolve/main/NAME, not .../blob/main/NAME");
  }
  // Eight bytes of a length, then a '{': a safetensors file, whatever the length looks like.
  if (!weights || (begin.size() > 8 && begin[8] == '{')) return;
  if (begin.starts_with("PK\x03\x04") || begin.starts_with("\x80")) {
    fs::path to = file.parent_path() / "converted.safetensors";
    fail(file,
         "is no safetensors file but a zip archive or pickle, as torch.save writes them. Convert it "
         "(needs torch and safetensors), then give the new file this name: " +
             pickle_command(to, file.parent_path(), {file.filename().string()}));
  }
  if (begin.starts_with("GGUF"))
    fail(file, "is a GGUF file, a model exported for use, not for training; take the one it was made from");
  if (begin.starts_with("\x1f\x8b")) fail(file, "is a gzip archive; unpack it");
  if (begin.starts_with("\x89HDF")) fail(file, "is an HDF5 file (TensorFlow), no safetensors file");
  // A header's length of which all eight bytes are letters: a message, or some other text.
  const auto printable = [](char c) { return c >= ' ' && c <= '~'; };
  if (begin.size() >= 8 && std::all_of(begin.begin(), begin.begin() + 8, printable)) {
    const auto line =
        static_cast<std::size_t>(std::find_if_not(begin.begin(), begin.end(), printable) - begin.begin());
    fail(file, "is a text in place of weights, which begins \"" +
                   std::string(begin.substr(0, std::min<std::size_t>(line, 80))) + "\"; fetch it again");
  }
}

}  // namespace sparsegrad::finetune
