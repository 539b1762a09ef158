// Decoders out of GGUF files: values and rows as Hugging Face has them (golden/gguf), and what is refused.
#include "checkpoints/gguf_model.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "files.hpp"
#include "gguf_bytes.hpp"
#include "models/decoder/decoder_model.hpp"
#include "models/host_backend.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using test::check_says;
using test::error_of;
using test::GgufModel;

namespace {

const std::filesystem::path golden = std::filesystem::path(SPARSEGRAD_TEST_DIR) / "golden" / "gguf";

/// A model of one block, of zeros.
GgufModel tiny() {
  GgufModel model;
  model.text("general.architecture", "llama");
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, std::uint32_t>>{{"context_length", 16},
                                                          {"block_count", 1},
                                                          {"embedding_length", 4},
                                                          {"feed_forward_length", 6},
                                                          {"attention.head_count", 2}}) {
    model.number(std::string("llama.") + key, value);
  }
  model.real("llama.attention.layer_norm_rms_epsilon", 1e-6F);
  return model.tensor("token_embd.weight", {4, 7});
}

std::string refused(const GgufModel& model) {
  const GgufFile file = model.file();
  const std::string error = error_of([&] { gguf_config(file); });
  check_says(error, "x.gguf: ");
  return error;
}

}  // namespace

TEST_CASE("models have Hugging Face's names, and rows in its order") {
  std::ifstream stream(golden / "model.json");
  const auto goldens = nlohmann::json::parse(stream);
  for (const char* family : {"llama", "qwen2"}) {
    CAPTURE(family);
    const GgufFile file((golden / (std::string(family) + ".gguf")).string());
    const DecoderConfig config = gguf_config(file);
    CHECK(to_string(config.family) == std::string(family));
    CHECK(config.vocab_size == 10);
    CHECK(config.max_positions == 32);
    CHECK(config.layers == 2);
    CHECK(config.hidden == 8);
    CHECK(config.intermediate == 12);
    CHECK(config.heads == 4);
    CHECK(config.kv_heads == 2);
    CHECK(config.head_size == 4);
    CHECK(config.rms_norm_eps == doctest::Approx(1e-5));
    CHECK(config.qkv_bias);
    CHECK_FALSE(config.o_bias);
    CHECK(config.bos_token_id == 1);
    CHECK(config.eos_token_ids == std::vector<std::int32_t>{2});
    CHECK(config.pad_token_id == -1);
    const bool llama = config.family == DecoderFamily::llama;
    CHECK(config.tied_embeddings == !llama);
    CHECK(config.rope.base == (llama ? 500000 : 1000000));
    CHECK(config.rope.scaling == (llama ? RopeScaling::llama3 : RopeScaling::none));
    if (llama) CHECK(config.rope.factor == doctest::Approx(8).epsilon(1e-5));

    HostBackend::Context ctx;
    DecoderModel<float, HostBackend> model(ctx, config);
    CHECK(load_gguf_weights(file, model, 0).unused.empty());
    const auto& expected = goldens.at(family);
    std::size_t parameters = 0;
    for (const auto& p : model.parameters().all()) {
      CAPTURE(p.name);
      CHECK(model.values(p.weight) == expected.at(p.name).get<std::vector<float>>());
      ++parameters;
    }
    CHECK(parameters == expected.size());
  }
}

TEST_CASE("rows of heads of 8, where the order is not its own inverse") {
  const GgufFile file((golden / "heads8.gguf").string());
  const DecoderConfig config = gguf_config(file);
  CHECK(config.head_size == 8);
  std::ifstream stream(golden / "heads8.json");
  const auto goldens = nlohmann::json::parse(stream);
  CHECK(goldens.size() == 4);
  for (const auto& entry : goldens.items()) {
    const std::string& name = entry.key();
    CAPTURE(name);
    const bool bias = name.ends_with(".bias");
    const GgufTensor& tensor = file.tensor(gguf_name(name));
    const index_t rows = bias ? tensor.count() : tensor.rows();
    const auto values = entry.value().get<std::vector<float>>();
    CHECK(gguf_parameter(file, config, name, bias ? 0 : rows, bias ? rows : tensor.cols()) == values);
    std::vector<float> stored(values.size());
    file.dequantize(tensor, 0, tensor.rows(), stored);
    CHECK(stored != values);
    const index_t cols = bias ? 1 : tensor.cols();
    CHECK(gguf_row_order(config, name, values, cols) == stored);
    CHECK(hugging_face_row_order(config, name, stored, cols) == values);
  }
}

TEST_CASE("names of parameters") {
  CHECK(gguf_name("model.embed_tokens.weight") == "token_embd.weight");
  CHECK(gguf_name("lm_head.weight") == "output.weight");
  CHECK(gguf_name("model.layers.12.mlp.up_proj.weight") == "blk.12.ffn_up.weight");
  CHECK(gguf_name("model.layers.0.self_attn.k_proj.bias") == "blk.0.attn_k.bias");
  for (const char* wrong :
       {"model.layers.3", "model.layers.", "model.layers.3.weight", "x", "model.layers.1.mlp.weight"})
    check_says(error_of([&] { gguf_name(wrong); }), std::string("no parameter \"") + wrong + "\"");
}

TEST_CASE("what a configuration leaves out, and other scalings") {
  const DecoderConfig plain = gguf_config(tiny().file());
  CHECK(plain.kv_heads == 2);
  CHECK(plain.head_size == 2);
  CHECK(plain.rope.base == 10000);
  CHECK(plain.tied_embeddings);
  CHECK_FALSE(plain.qkv_bias);
  const auto linear = gguf_config(
      tiny().text("llama.rope.scaling.type", "linear").real("llama.rope.scaling.factor", 4).file());
  CHECK(linear.rope.scaling == RopeScaling::linear);
  CHECK(linear.rope.factor == 4);
  CHECK(gguf_config(tiny().real("llama.rope.scale_linear", 2).file()).rope.factor == 2);
  CHECK(gguf_config(tiny().tensor("rope_freqs.weight", {1}, 1).file()).rope.scaling == RopeScaling::none);
}

TEST_CASE("models that the engine does not have are refused") {
  check_says(refused(tiny().text("general.architecture", "gemma3")),
             "the architecture is \"gemma3\", expected \"llama\" or \"qwen2\"");
  check_says(refused(tiny().text("general.type", "adapter")),
             "is of the type \"adapter\", expected \"model\"");
  check_says(refused(tiny().number("split.count", 3)), "is one of 3 files of a model");
  check_says(refused(tiny().number("llama.expert_count", 8)),
             "'llama.expert_count' is 8, expected a model without experts");
  check_says(refused(tiny().number("llama.attention.sliding_window", 4096)),
             "expected attention without a window");
  check_says(refused(tiny().text("llama.rope.scaling.type", "yarn")),
             "is 'yarn', expected 'none' or 'linear'");
  check_says(refused(tiny().text("llama.rope.scaling.type", "linear")),
             "'llama.rope.scaling.factor' is missing");
  check_says(refused(tiny().number("llama.attention.key_length", 4).number("llama.rope.dimension_count", 2)),
             "'llama.rope.dimension_count' is 2, expected all 4 columns of a head");
  check_says(refused(tiny().number("llama.attention.value_length", 4)), "is 4, expected 2, as for keys");
  check_says(refused(tiny().number("llama.attention.head_count", 0)), "\"num_attention_heads\" is 0");
  check_says(refused(tiny().number("llama.attention.head_count_kv", 3)), "not a multiple");
  check_says(refused(tiny().text("llama.block_count", "1")),
             "'llama.block_count' is of type string, expected an integer");
  check_says(refused(tiny().tensor("rope_freqs.weight", {1}, 3)), "are none of LLaMA-3's");
  check_says(refused(tiny().tensor("rope_freqs.weight", {1}, std::numeric_limits<float>::quiet_NaN())),
             "are none of LLaMA-3's");
  check_says(refused(tiny().tensor("rope_freqs.weight", {2}, 1)), "has shape [2], expected [1]");
  check_says(refused(tiny().real("llama.rope.scale_linear", 2).tensor("rope_freqs.weight", {1}, 1)),
             "one of the two");
  check_says(refused(GgufModel().text("general.architecture", "llama")), "'llama.context_length' is missing");
}

TEST_CASE("tensors that are missing, of another shape, not finite, or too many") {
  const GgufFile file = tiny()
                            .tensor("blk.0.ffn_up.weight", {4, 6}, std::numeric_limits<float>::infinity())
                            .tensor("blk.0.attn_sinks.weight", {4})
                            .tensor("more", {4})
                            .file();
  const DecoderConfig config = gguf_config(file);
  const auto error = [&](const char* name, index_t rows, index_t cols) {
    return error_of([&] { gguf_parameter(file, config, name, rows, cols); });
  };
  check_says(error("model.layers.0.mlp.up_proj.weight", 6, 4),
             "tensor 'blk.0.ffn_up.weight' has Inf at element 0");
  check_says(error("model.layers.0.mlp.up_proj.weight", 4, 6), "has shape [6, 4], expected [4, 6]");
  check_says(error("model.norm.weight", 0, 4), "tensor 'output_norm.weight' is missing");
  check_says(error_of([&] {
               unused_gguf_tensors(file, {"token_embd.weight", "blk.0.ffn_up.weight"});
             }),
             "tensor 'blk.0.attn_sinks.weight' has no place in a block");
  CHECK(unused_gguf_tensors(file, {"token_embd.weight", "blk.0.ffn_up.weight", "blk.0.attn_sinks.weight"})
            .text() == "not used: more");
}
