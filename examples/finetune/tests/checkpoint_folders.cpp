// What a folder of a model may be, and what is said of one that is none.
#include "checkpoints/model_folder.hpp"
#include "checkpoints/model_weights.hpp"

#include <cmath>
#include <functional>
#include <limits>

#include "files.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* pointer =
    "version https://git-lfs.github.com/spec/v1\noid sha256:68d45e234eb4a928\nsize 440449768\n";

/// One number a tensor.
fs::path write_weights(const fs::path& file, const std::vector<std::pair<std::string, float>>& tensors) {
  fs::create_directories(file.parent_path());
  io::SafetensorsWriter writer;
  for (const auto& [name, value] : tensors)
    writer.add(name, {1}, std::vector<float>{value});
  writer.write(file.string());
  return file;
}
fs::path write_model(const fs::path& folder) {
  write_file(folder / "config.json", "{}");
  write_weights(folder / "model.safetensors", {{"x", 1.0F}});
  return folder;
}

/// What is said of a folder with these files, without its name; "" where it is a model's.
std::string said_of(const fs::path& path) {
  try {
    require_model_folder(path);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    REQUIRE(text.starts_with(path.string() + ": "));
    return text.substr(path.string().size() + 2);
  }
  return "";
}
std::string said_of_files(const std::vector<std::string>& files, const char* content = "x") {
  const fs::path folder = fresh_folder("files");
  for (const std::string& file : files)
    write_file(folder / file, content);
  return said_of(folder);
}

/// The message of opening the folder's weights, "" where there is none.
std::string opened(const fs::path& folder) {
  try {
    const ModelWeights weights(folder);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("folders: a model, whole or in shards, also by links") {
  const fs::path root = fresh_folder("whole");
  CHECK(said_of(write_model(root / "model")) == "");
  CHECK(said_of((root / "model").string() + "/") == "");
  write_file(root / "shards" / "config.json", "{}");
  write_file(root / "shards" / "model.safetensors.index.json", "{}");
  CHECK(said_of(root / "shards") == "");
  fs::create_directories(root / "links");
  for (const char* name : {"config.json", "model.safetensors"})
    fs::create_symlink("../model/" + std::string(name), root / "links" / name);
  CHECK(said_of(root / "links") == "");
  CHECK(opened(root / "links") == "");
}

TEST_CASE("folders: what stays refused is named, with the way out") {
  const auto says = [](const std::string& text, std::initializer_list<const char*> parts) {
    for (const char* part : parts)
      check_says(text, part);
  };
  const std::string here = (fs::path(SPARSEGRAD_TEST_OUTPUT_DIR) / "files").string();
  says(said_of_files({}), {"is an empty folder", "expected config.json, model.safetensors"});
  says(said_of_files({"config.json"}), {"has no model.safetensors", "found config.json"});
  says(said_of_files({"notes.md"}), {"has neither config.json nor model.safetensors", "found notes.md"});
  says(said_of_files({"model.safetensors", "vocab.txt"}), {"has no config.json"});

  // Other formats.
  says(said_of_files({"config.json", "pytorch_model.bin", "training_args.bin"}),
       {"has no model.safetensors but pytorch_model.bin: weights as Python's pickles",
        "torch.load(f, map_location='cpu', weights_only=True)",
        (here + "/model.safetensors " + here + "/pytorch_model.bin").c_str()});
  says(said_of_files({"config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"}),
       {(here + "/pytorch_model-00001-of-00002.bin " + here + "/pytorch_model-00002-of-00002.bin").c_str()});
  says(said_of_files({"config.json", "tf_model.h5"}), {"weights of TensorFlow", "from_tf=True"});
  says(said_of_files({"config.json", "flax_model.msgpack"}), {"weights of Flax", "from_flax=True"});
  says(said_of_files({"bert_config.json", "bert_model.ckpt.index", "bert_model.ckpt.meta",
                      "bert_model.ckpt.data-00000-of-00001", "vocab.txt"}),
       {"has neither config.json nor model.safetensors but bert_model.ckpt.index", "google-bert/NAME",
        ("--tf_checkpoint_path " + here + "/bert_model.ckpt ").c_str()});
  for (const char* name : {"model.onnx", "onnx/model.onnx", "m.Q8_0.gguf", "openvino_model.xml"})
    says(said_of_files({"config.json", name}), {"exported for use, not for training"});
  says(said_of_files({"config.json", "model.zip"}), {"model.zip; unpack it"});
  says(said_of_files({"bert_config.json", "model.safetensors"}),
       {("bert_config.json, its name in the first BERTs: cp " + here + "/bert_config.json").c_str()});

  // Adapters, with and without a model.
  const char* adapter = R"({"peft_type":"LORA","base_model_name_or_path":"bert-base-uncased"})";
  says(said_of_files({"adapter_config.json", "adapter_model.safetensors"}, adapter),
       {"holds an adapter of peft (adapter_config.json: LORA for the model bert-base-uncased), not a model",
        "merge_and_unload()", (here + " " + here + "-merged").c_str()});
  says(said_of_files({"adapter_config.json", "config.json", "model.safetensors"}, "["),
       {"of unknown type", "beside a model, whose results without it would be others"});

  // Half of a model.
  says(said_of_files({"config.json", "model-00001-of-00002.safetensors"}),
       {"shards without their index; fetch model.safetensors.index.json"});
  says(said_of_files({"config.json", "model.fp16.safetensors"}),
       {("cp " + here + "/model.fp16.safetensors " + here + "/model.safetensors").c_str()});
  says(said_of_files({"config.json", "model.safetensors.incomplete"}), {"an unfinished download"});
  const fs::path dangling = fresh_folder("dangling");
  write_file(dangling / "config.json", "{}");
  fs::create_symlink("../../blobs/12ab", dangling / "model.safetensors");
  says(said_of(dangling), {"a link of the name model.safetensors to ../../blobs/12ab, which is not there"});

  // Quotes that a shell takes.
  const fs::path odd = fresh_folder("it's a (folder)");
  write_file(odd / "config.json", "{}");
  write_file(odd / "pytorch_model.bin", "x");
  says(said_of(odd), {"/it'\\''s a (folder)/pytorch_model.bin'"});
}

TEST_CASE("folders: the path of something else") {
  const fs::path root = fresh_folder("paths");
  const std::string model = write_model(root / "out" / "model").string();
  check_says(said_of(root / "out"), "there is a model below it; give " + model);
  check_says(said_of(root / "out" / "model" / "model.safetensors"),
             "is a file, expected the folder of a model: " + model);
  write_model(root / "out" / "other");
  check_says(said_of(root / "out"), "there are models below it; give one of: " + model + ", ");
  check_says(said_of(write_file(root / "a.tar.gz", "x")), "unpack it and give the folder");
  check_says(said_of(write_file(root / "a.bin", "x")),
             "is a file, expected the folder of a model, and a.bin:");
  check_says(said_of(write_file(root / "a.gguf", "x")), "in a format that training programs do not read");
  check_says(said_of(write_file(root / "a.txt", "x")), "is a file, expected the folder of a model with");
  CHECK(said_of(root / "absent") == "there is no such folder");
  CHECK(said_of("bert-base-uncased") ==
        "there is no such folder; a model of the Hugging Face Hub must be fetched first: hf download "
        "bert-base-uncased --local-dir bert-base-uncased");
  check_says(said_of("google-bert/bert-base-uncased"), "hf download google-bert/bert-base-uncased");
  fs::create_symlink("gone", root / "link");
  check_says(said_of(root / "link"), "is a link to gone, which is not there");

  const fs::path cache = root / "hub" / "models--a--b";
  const std::string snapshot = write_model(cache / "snapshots" / "12ab").string();
  write_file(cache / "blobs" / "x", "");
  for (const fs::path& path : {cache, cache / "snapshots", root / "hub"})
    check_says(said_of(path), snapshot);
  write_model(cache / "snapshots" / "34cd");
  check_says(said_of(cache), "snapshots/HASH");
  write_file(cache / "refs" / "main", "34cd");
  check_says(said_of(cache), "snapshots/34cd");
}

TEST_CASE("folders: what a failed download leaves in place of a file") {
  const fs::path root = fresh_folder("content");
  const auto said = [&](std::string_view content, bool weights = true) -> std::string {
    try {
      require_content(write_file(root / "file", content), weights);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  };
  check_says(said(pointer), "is a pointer of Git LFS (");
  check_says(said(pointer, false), "in place of the file of 440449768 bytes; fetch it: cd " + root.string());
  check_says(said("version https://git-lfs.github.com/spec/v1"), "in place of the file; fetch it");
  check_says(said(""), "is empty (0 bytes)");
  check_says(said("", false), "is empty (0 bytes)");
  check_says(said("\n<!DOCTYPE HTML>"), "is a web page in place of the file");
  check_says(said("<html lang=en>", false), "is a web page in place of the file");
  check_says(said(std::string_view("PK\x03\x04\x14\0\0\0\0\0\0\0", 12)), "a zip archive or pickle");
  check_says(said(std::string_view("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20", 10)), "a zip archive or pickle");
  check_says(said("GGUF\x03"), "is a GGUF file");
  check_says(said("\x1f\x8b\x08"), "is a gzip archive");
  check_says(said("Entry not found\n"), "which begins \"Entry not found\"");
  CHECK(said("Entry not found\n", false) == "");
  // Lengths of headers that look like something else.
  for (const std::uint64_t length : {std::uint64_t{0x80}, std::uint64_t{0x088b1f}}) {
    std::string file(8, '\0');
    std::memcpy(file.data(), &length, 8);
    CHECK(said(file + "{}") == "");
  }
}

TEST_CASE("weights: names that wrappers have lengthened") {
  const fs::path folder = fresh_folder("names");
  const auto one = [&](const std::string& name) {
    write_weights(folder / "model.safetensors", {{name, 2.0F}});
    const ModelWeights weights(folder);
    CHECK(weights.names() == std::vector<std::string>{name});
    const auto found = weights.spelled("bert.encoder.layer.0.output.dense.weight");
    REQUIRE(found.size() == 1);
    CHECK(found[0] == name);
    CHECK(weights.read_as<double>(name) == std::vector<double>{2});
    CHECK(weights.spelled("bert").empty());
  };
  for (const std::string prefix :
       {"", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "base_model.model.",
        "module.model.", "_forward_module.model.", "0.auto_model."})
    one(prefix + "bert.encoder.layer.0.output.dense.weight");
  one("bert._orig_mod.encoder.layer.0.output.dense.weight");
  one("_fsdp_wrapped_module.bert.encoder.layer.0._checkpoint_wrapped_module.output.dense.weight");

  // Two of them, and tensors of which the weights are but a part.
  write_weights(folder / "model.safetensors", {{"bert.x", 1}, {"module.bert.x", 2}, {"modules.y", 3}});
  const ModelWeights twice(folder);
  CHECK(twice.spelled("bert.x").size() == 2);
  CHECK(twice.spelled("modules.y").size() == 1);
  for (const char* name :
       {"base_model.model.bert.query.lora_A.default.weight", "bert.query.base_layer.weight",
        "classifier.modules_to_save.default.weight", "bert.output.adapters.a.down.0.weight"}) {
    write_weights(folder / "model.safetensors", {{"bert.x", 1}, {name, 2}});
    check_says(opened(folder), std::string("the tensor \"") + name + "\" belongs to an adapter");
  }
}

TEST_CASE("weights: numbers that are none, element types that are not read") {
  const fs::path folder = fresh_folder("numbers");
  io::SafetensorsWriter writer;
  writer.add("nan", {3}, std::vector<float>{1, 2, NAN});
  writer.add("inf", {1}, std::vector<float>{-INFINITY});
  writer.add("wide", {2}, std::vector<double>{1, 1e300});
  writer.add("whole", {2}, std::vector<std::int64_t>{1, 2});
  const std::vector<std::byte> bytes(2);
  writer.add("f8", io::DType::f8_e4m3, {2}, bytes);
  writer.write((folder / "model.safetensors").string());
  const ModelWeights weights(folder);
  const std::string file = weights.path() + ": tensor '";
  CHECK(error_of([&] { (void)weights.read_as<float>("nan"); }) ==
        file + "nan' has NaN at element 2, expected finite numbers");
  CHECK(error_of([&] { (void)weights.read_as<double>("inf"); }) ==
        file + "inf' has Inf at element 0, expected finite numbers");
  check_says(error_of([&] { (void)weights.read_as<float>("wide"); }), "'wide' has Inf at element 1");
  CHECK(weights.read_as<double>("wide") == std::vector<double>{1, 1e300});
  CHECK(error_of([&] { (void)weights.read_as<float>("whole"); }) ==
        file + "whole' has dtype I64, expected a floating-point type (F64, F32, F16, BF16)");
  check_says(error_of([&] { (void)weights.read_as<float>("f8"); }), "'f8' has dtype F8_E4M3, expected");
  const std::vector<index_t> shape{3};
  check_says(error_of([&] { (void)weights.find("inf", shape); }), "has shape [1], expected [3]");
}

TEST_CASE("weights: shards, and an index that does not fit them") {
  const fs::path folder = fresh_folder("shards");
  const std::string index = (folder / "model.safetensors.index.json").string();
  const auto write_index = [&](const json& content) { write_file(index, content.dump()); };
  write_weights(folder / "a.safetensors", {{"module.bert.x", 1}, {"y", 2}, {"unlisted", 5}});
  write_weights(folder / "b.safetensors", {{"z", 3}, {"y", 4}});
  write_weights(folder.parent_path() / "outside.safetensors", {{"z", 3}});
  const json good = {{"module.bert.x", "a.safetensors"}, {"y", "b.safetensors"}, {"z", "b.safetensors"}};
  const auto said = [&](const std::function<void(json&)>& change) -> std::string {
    json map = good;
    change(map);
    write_index({{"metadata", {{"total_size", 1}}}, {"weight_map", map}});
    const std::string text = opened(folder);
    if (text.empty()) return text;
    REQUIRE(text.starts_with(index + ": "));
    return text.substr(index.size() + 2);
  };
  CHECK(said([](json&) {}) == "");
  const ModelWeights weights(folder);
  CHECK(weights.path() == index);
  CHECK(weights.names() == std::vector<std::string>{"module.bert.x", "z", "y"});
  CHECK(weights.spelled("bert.x")[0] == "module.bert.x");
  CHECK(weights.read_as<float>("module.bert.x") == std::vector<float>{1});
  CHECK(weights.read_as<float>("y") == std::vector<float>{4});  // the index says which of the two
  CHECK(weights.spelled("unlisted").empty());
  CHECK(weights.unlisted("unlisted") ==
        "; " + (folder / "a.safetensors").string() + " holds it, but the index does not list it");
  CHECK(weights.unlisted("nowhere") == "");

  CHECK(said([](json& map) { map["z"] = "a.safetensors"; }) ==
        "weight_map: the tensor \"z\" is to be in a.safetensors, which does not hold it; b.safetensors does");
  CHECK(
      said([](json& map) { map["w"] = "a.safetensors"; }) ==
      "weight_map: the tensor \"w\" is to be in a.safetensors, which does not hold it; no other shard does: "
      "index and shards are not of one model");
  for (const char* name : {"../outside.safetensors", "sub/a.safetensors", "/etc/passwd", "", ".", ".."}) {
    CHECK(said([&](json& map) { map["z"] = name; }) ==
          "weight_map: \"z\" is in \"" + std::string(name) + "\", expected a file of this folder");
  }
  CHECK(said([](json& map) { map["z"] = "pytorch_model.bin"; }) ==
        "weight_map: \"z\" is in \"pytorch_model.bin\", expected safetensors files");
  CHECK(said([](json& map) { map["z"] = 5; }) == "weight_map: \"z\" is 5, expected a file's name");
  CHECK(said([](json& map) { map["z"] = "c.safetensors"; }) ==
        "1 of 3 shards are missing (c.safetensors); fetch them as well");
  const std::string long_name = std::string(300, 's') + ".safetensors";  // no file can have it
  CHECK(said([&](json& map) { map["z"] = long_name; }) ==
        "1 of 3 shards are missing (" + long_name + "); fetch them as well");
  check_says(said([](json& map) { map["z"] = std::string("a.safetensors\0.safetensors", 26); }),
             "expected a file of this folder");
  CHECK(said([](json& map) { map = json::object(); }) ==
        "has no \"weight_map\", expected an object of shards by tensor name");
  for (const json& content : {json(), json::array(), json({{"a", 1}}), json({{"weight_map", "a"}})}) {
    write_index(content);
    check_says(opened(folder), "has no \"weight_map\"");
  }
  write_file(index, "{\"weight_map\"");
  check_says(opened(folder), "is not valid JSON");
  write_file(index, "{\"weight_map\": {\"y\": " + std::string(100000, '[') + std::string(100000, ']') + "}}");
  check_says(opened(folder), "nested at most 256 deep, found deeper ones");
  write_file(index, pointer);
  check_says(opened(folder), "is a pointer of Git LFS");
  CHECK(said([](json&) {}) == "");
  write_file(folder / "b.safetensors", pointer);
  check_says(opened(folder), "b.safetensors: is a pointer of Git LFS");
  // One file goes before shards, as it does in transformers.
  write_weights(folder / "model.safetensors", {{"x", 7}});
  CHECK(opened(folder) == "");
  write_file(folder / "model.safetensors", std::string(8, '\xff') + "{}");
  check_says(opened(folder), "model.safetensors: the header's length is");
}
