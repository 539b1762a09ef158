// Hugging Face folders of decoders: what config.json may say, and files in and out.
#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>

#include <sparsegrad/io/safetensors.hpp>

#include "checkpoints/config_file.hpp"
#include "checkpoints/decoder_config_file.hpp"
#include "decoder_support.hpp"

namespace {

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
using Blas = HostBackend;
using nlohmann::json;
namespace fs = std::filesystem;

/// As transformers 4 writes it.
json llama_json() {
  return {{"model_type", "llama"},       {"vocab_size", 49152},       {"max_position_embeddings", 8192},
          {"num_hidden_layers", 30},     {"hidden_size", 576},        {"intermediate_size", 1536},
          {"num_attention_heads", 9},    {"num_key_value_heads", 3},  {"rms_norm_eps", 1e-5},
          {"tie_word_embeddings", true}, {"rope_theta", 100000},      {"rope_scaling", nullptr},
          {"hidden_act", "silu"},        {"attention_bias", false},   {"bos_token_id", 1},
          {"eos_token_id", {2, 7}},      {"rope_interleaved", false}, {"quantization_config", nullptr}};
}

std::string refused(json j, const char* key, const json& value) {
  j[key] = value;
  return error_text([&] { parse_decoder_config(j, "config.json"); });
}

fs::path folder_for(const char* name) {
  const fs::path path = fs::path(SPARSEGRAD_TEST_OUTPUT_DIR) / name;
  fs::remove_all(path);
  fs::create_directories(path);
  return path;
}

}  // namespace

TEST_CASE("decoder's config.json: what the models say") {
  const DecoderConfig c = parse_decoder_config(llama_json(), "config.json");
  CHECK(c.family == DecoderFamily::llama);
  CHECK(c.head_size == 64);
  CHECK(c.kv_cols() == 192);
  CHECK(c.rope.base == 100000);
  CHECK(c.tied_embeddings);
  CHECK(!c.qkv_bias);
  CHECK(c.eos_token_ids == std::vector<std::int32_t>{2, 7});
  CHECK(c.pad_token_id == -1);
  json below = llama_json();
  below["pad_token_id"] = -2;
  below["eos_token_id"] = {2, -1};
  const DecoderConfig none = parse_decoder_config(below, "config.json");
  CHECK(none.pad_token_id == -1);
  CHECK(none.eos_token_ids == std::vector<std::int32_t>{2});

  json j = llama_json();
  j.erase("num_key_value_heads");  // LLaMA 1
  CHECK(parse_decoder_config(j, "").kv_heads == 9);
  j["hidden_act"] = "swish";
  j["attention_bias"] = true;
  CHECK(parse_decoder_config(j, "").o_bias);

  j = llama_json();
  j["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};  // the older spelling
  CHECK(parse_decoder_config(j, "").rope.scaling == RopeScaling::linear);
  j["rope_scaling"] = {{"rope_type", "llama3"},
                       {"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  const RopeConfig rope = parse_decoder_config(j, "").rope;
  CHECK(rope.scaling == RopeScaling::llama3);
  CHECK(rope.factor == 32);
  // transformers 5 has the base there as well.
  j.erase("rope_scaling");
  j.erase("rope_theta");
  j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500.0}};
  CHECK(parse_decoder_config(j, "").rope.base == 500);

  j = llama_json();
  j["model_type"] = "qwen2";
  j["use_sliding_window"] = false;
  j["sliding_window"] = 4096;  // not in use
  CHECK(parse_decoder_config(j, "").qkv_bias);
  CHECK(!parse_decoder_config(j, "").o_bias);
  j["model_type"] = "mistral";
  j["sliding_window"] = nullptr;
  CHECK(parse_decoder_config(j, "").family == DecoderFamily::mistral);
  j["sliding_window"] = 8192;  // as long as the longest sequence
  CHECK(parse_decoder_config(j, "").max_positions == 8192);
}

TEST_CASE("decoder's config.json: what the engine does not have is refused with what was read") {
  const json good = llama_json();
  CHECK(has(refused(good, "model_type", "gemma"), "\"model_type\" is \"gemma\""));
  CHECK(has(refused(good, "model_type", nullptr), "\"model_type\" is missing"));
  CHECK(has(refused(good, "hidden_act", "gelu"), "\"hidden_act\" is \"gelu\""));
  CHECK(has(refused(good, "mlp_bias", true), "mlp_bias"));
  CHECK(has(refused(good, "quantization_config", {{"quant_method", "gptq"}}), "gptq"));
  CHECK(has(refused(good, "auto_map", {{"AutoModelForCausalLM", "modeling.Own"}}), "modeling.Own"));
  CHECK(has(refused(good, "rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}}), "\"yarn\""));
  CHECK(has(refused(good, "rope_scaling", {{"type", "dynamic"}, {"factor", 4}}), "\"dynamic\""));
  CHECK(has(refused(good, "rope_scaling", {{"rope_type", "linear"}}), "\"factor\""));
  CHECK(has(refused(good, "rope_scaling", {{"rope_type", "linear"}, {"factor", 0.5}}), "0.5"));
  CHECK(has(refused(good, "rope_scaling", {{"rope_type", "llama3"}, {"factor", 8}}), "\"low_freq_factor\""));
  CHECK(has(refused(good, "rope_scaling", "linear"), "expected an object"));
  CHECK(has(refused(good, "partial_rotary_factor", 0.5), "partial_rotary_factor"));
  CHECK(has(refused(good, "num_key_value_heads", 2), "not a multiple"));
  CHECK(has(refused(good, "num_attention_heads", 10), "head_dim"));
  CHECK(has(refused(good, "head_dim", 7), "even"));
  CHECK(has(refused(good, "hidden_size", "576"), "expected an integer"));
  CHECK(has(refused(good, "num_hidden_layers", 0), "num_hidden_layers"));
  CHECK(has(refused(good, "rms_norm_eps", 0), "rms_norm_eps"));
  CHECK(has(refused(good, "rope_theta", -1), "rope_theta"));
  CHECK(has(refused(good, "tie_word_embeddings", 1), "expected true or false"));
  CHECK(has(refused(good, "eos_token_id", "</s>"), "eos_token_id"));
  CHECK(has(refused(good, "is_encoder_decoder", true), "is_encoder_decoder"));
  json mistral = good;
  mistral["model_type"] = "mistral";
  CHECK(has(refused(mistral, "sliding_window", 4096), "\"max_position_embeddings\" to 4096"));
  CHECK(has(refused(mistral, "unrelated", 1), "4096"));  // what transformers takes where nothing is said
  json qwen = good;
  qwen["model_type"] = "qwen2";
  qwen["sliding_window"] = 1024;
  CHECK(has(refused(qwen, "use_sliding_window", true), "\"use_sliding_window\": false"));
  CHECK(has(error_text([] { parse_decoder_config(json::array(), "config.json"); }), "JSON object"));
}

TEST_CASE("decoder's folders: written and read again, whole and in shards") {
  Blas::Context ctx(1);
  for (const char* variant : {"llama", "llama3", "qwen2", "mistral"}) {
    CAPTURE(variant);
    const DecoderFolder source = open_decoder_folder(decoder_goldens() / variant);
    const TrainedParts nothing{.mlp = {.matrices = false}, .dense = {}, .matrices = {}};
    DecoderModel<float, Blas> model(ctx, source.config, nothing);
    load_weights(source, model, 1);
    const Batch batch = random_batch({5, 20}, source.config.vocab_size);
    const double loss = model.forward(ctx, batch).loss;
    for (const io::DType dtype : {io::DType::f32, io::DType::bf16, io::DType::f16}) {
      const fs::path to = folder_for("written");
      save_decoder(to, source, model, dtype);
      const DecoderFolder again = open_decoder_folder(to);
      DecoderModel<float, Blas> other(ctx, again.config, nothing);
      CHECK(load_weights(again, other, 1).text().empty());
      const double found = other.forward(ctx, batch).loss;
      if (dtype == io::DType::f32) {
        CHECK(found == loss);
      } else {
        CHECK(found == doctest::Approx(loss).epsilon(0.02));
        CHECK(found != loss);
      }
      const json written = read_json(to / "config.json");
      CHECK(to_json(again.config, written, dtype) == written);
      CHECK(written["torch_dtype"] == (dtype == io::DType::f32    ? "float32"
                                       : dtype == io::DType::bf16 ? "bfloat16"
                                                                  : "float16"));
    }
    // A model without a folder, and shards.
    const fs::path shards = folder_for("shards");
    save_decoder(shards, {{}, json::object(), source.config}, model);
    const io::SafetensorsFile whole((shards / "model.safetensors").string());
    json index = {{"weight_map", json::object()}};
    io::SafetensorsWriter writers[2];
    std::size_t number = 0;
    for (const std::string& name : whole.names()) {
      const std::size_t shard = number++ % 2;
      writers[shard].add(name, whole.find(name).shape, whole.read<float>(name));
      index["weight_map"][name] = "model-0000" + std::to_string(shard + 1) + "-of-00002.safetensors";
    }
    fs::remove(shards / "model.safetensors");
    writers[0].write((shards / "model-00001-of-00002.safetensors").string());
    writers[1].write((shards / "model-00002-of-00002.safetensors").string());
    std::ofstream(shards / "model.safetensors.index.json") << index;
    DecoderModel<float, Blas> other(ctx, source.config, nothing);
    load_weights(open_decoder_folder(shards), other, 1);
    CHECK(other.forward(ctx, batch).loss == loss);
  }
}

TEST_CASE("decoder's folders: tensors that are missing, too many, or of another model") {
  Blas::Context ctx(1);
  const DecoderFolder source = open_decoder_folder(decoder_goldens() / "llama");
  const io::SafetensorsFile file((source.path / "model.safetensors").string());
  const auto loaded = [&](const std::string& without, const std::string& with, bool tied = false,
                          index_t layers = 2, const std::string& prefix = "") {
    const fs::path to = folder_for("changed");
    json config = source.config_json;
    config["tie_word_embeddings"] = tied;
    config["num_hidden_layers"] = layers;
    std::ofstream(to / "config.json") << config;
    io::SafetensorsWriter writer;
    for (const std::string& name : file.names())
      if (name != without)
        writer.add(prefix.empty() ? name : prefix + name, file.find(name).shape, file.read<float>(name));
    if (!with.empty()) writer.add(with, {2}, std::vector<float>{1, 2});
    writer.write((to / "model.safetensors").string());
    const DecoderFolder folder = open_decoder_folder(to);
    DecoderModel<float, Blas> model(ctx, folder.config,
                                    {.mlp = {.matrices = false}, .dense = {}, .matrices = {}});
    return load_weights(folder, model, 1).text();
  };
  const auto error = [&](const std::string& without, const std::string& with, index_t layers = 2) {
    return error_text([&] { loaded(without, with, false, layers); });
  };
  CHECK(loaded("", "").empty());
  CHECK(loaded("", "", false, 2, "module.").empty());
  CHECK(loaded("", "model.layers.0.self_attn.rotary_emb.inv_freq").empty());
  CHECK(has(loaded("", "score.weight"), "not used: score.weight"));
  CHECK(has(loaded("", "", true), "not used: lm_head.weight"));
  CHECK(has(error("lm_head.weight", ""), "tie_word_embeddings"));
  CHECK(has(error("model.layers.1.mlp.up_proj.weight", ""), "model.layers.1.mlp.up_proj.weight"));
  CHECK(has(error("", "model.layers.1.self_attn.q_norm.weight"), "q_norm.weight\" has no place"));
  CHECK(has(error("", "model.layers.0.self_attn.q_proj.bias"), "q_proj.bias\" has no place"));
  CHECK(has(error("", "", 1), "is of block 1"));
  CHECK(has(error("model.norm.weight", "model.norm.weight"), "model.norm.weight"));  // another shape
}
