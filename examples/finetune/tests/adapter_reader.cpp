// Adapters that were trained elsewhere: peft's folder has peft's logits (golden/decoder_tiny/llama/peft), GGUF files are
// read as they are written, and what is no plain LoRA is refused.
#include "checkpoints/adapter_reader.hpp"

#include <cmath>

#include <sparsegrad/io/safetensors.hpp>

#include "checkpoints/config_file.hpp"
#include "checkpoints/gguf_writer.hpp"
#include "checkpoints/weight_change.hpp"
#include "decoder_support.hpp"
#include "files.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path model_folder = decoder_goldens() / "llama";
const fs::path peft_folder = model_folder / "peft";

DecoderConfig config() {
  return open_decoder_folder(model_folder).config;
}

/// A copy of peft's folder with another field.
fs::path with_field(const std::string& key, const json& value) {
  const fs::path folder = fresh_folder("adapter_field");
  fs::copy(peft_folder, folder, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  json fields = read_json(folder / "adapter_config.json");
  fields[key] = value;
  write_file(folder / "adapter_config.json", fields.dump());
  return folder;
}

/// A copy of peft's folder whose tensors `edit` renames or leaves out (an empty name).
template <class Edit>
fs::path with_tensors(Edit edit) {
  const fs::path folder = with_field("r", 3);
  const io::SafetensorsFile file((peft_folder / "adapter_model.safetensors").string());
  io::SafetensorsWriter writer;
  for (const std::string& name : file.names()) {
    const std::string other = edit(name);
    if (!other.empty()) writer.add(other, file.find(name).shape, file.read<float>(name));
  }
  writer.write((folder / "adapter_model.safetensors").string());
  return folder;
}

std::string refused(const fs::path& path) {
  return error_of([&] { (void)read_adapter(path, config()); });
}

double largest_difference(const std::vector<float>& found, const json& rows) {
  double worst = 0;
  std::size_t at = 0;
  for (const json& row : rows)
    for (const json& logit : row)
      worst = std::max(worst, std::abs(static_cast<double>(found[at++]) - logit.get<double>()));
  return worst;
}

}  // namespace

TEST_CASE("peft's folder, merged into the weights, has peft's logits") {
  HostBackend::Context ctx(2);
  const json golden = read_json(model_folder / "golden.json");
  const DecoderFolder folder = open_decoder_folder(model_folder);
  DecoderModel<float, HostBackend> model(ctx, folder.config,
                                         {.mlp = {.matrices = false}, .dense = {}, .matrices = {}});
  load_weights(folder, model, 1);
  const Batch batch = decoder_batch(golden["batches"][0]);
  const auto change = read_weight_change(peft_folder, folder.config);
  CHECK(change->text() == "LoRA of rank 3 beside 4 matrices");
  int changed = 0;
  for (auto& p : model.parameters().all()) {
    std::vector<float> values = model.values(p.weight);
    if (!change->changes(p.name)) continue;
    change->apply(p.name, values);
    model.set_values(p.weight, values);
    ++changed;
  }
  CHECK(changed == 4);
  CHECK(largest_difference(model.logits(ctx, batch), golden["lora"]["logits"]) < 1e-4);
}

TEST_CASE("scales, ranks and blocks of peft's, and GGUF files, are the same adapter") {
  const Adapter adapter = read_adapter(peft_folder, config());
  CHECK(adapter.rank == 3);
  CHECK(adapter.scale == 2);
  REQUIRE(adapter.matrices.size() == 4);
  CHECK(read_adapter(peft_folder / "adapter_model.safetensors", config()).matrices.size() == 4);
  CHECK(read_adapter(with_field("use_rslora", true), config()).scale == doctest::Approx(6 / std::sqrt(3.0)));
  const Adapter own = read_adapter(with_field("alpha_pattern", {{"mlp.up_proj", 3}}), config());
  for (std::size_t i = 0; i < 4; ++i) {
    const bool up = adapter.matrices[i].kind == MatrixKind::up;
    const double factor = (up ? 1.0 : 2.0) / own.scale;
    for (std::size_t j = 0; j < adapter.matrices[i].b.size(); ++j)
      CHECK(own.matrices[i].b[j] ==
            doctest::Approx(factor * static_cast<double>(adapter.matrices[i].b[j])).epsilon(1e-6));
  }
  const fs::path gguf = fresh_folder("adapter_gguf") / "adapter.gguf";
  write_gguf_adapter(gguf, adapter, config(), io::DType::f32);
  const Adapter again = read_adapter(gguf, config());
  CHECK(again.rank == 3);
  CHECK(again.scale == 2);
  REQUIRE(again.matrices.size() == 4);
  const fs::path peft = fresh_folder("adapter_peft");
  write_peft_adapter(peft, adapter, "llama", io::DType::f32);
  const Adapter third = read_adapter(peft, config());
  CHECK(third.scale == 2);
  for (std::size_t i = 0; i < 4; ++i) {
    for (const Adapter* other : {&again, &third}) {
      CHECK(other->matrices[i].kind == adapter.matrices[i].kind);
      CHECK(other->matrices[i].a == adapter.matrices[i].a);
      CHECK(other->matrices[i].b == adapter.matrices[i].b);
    }
  }
}

TEST_CASE("matrices that an adapter leaves out, or of a lower rank, are filled with zeros") {
  // up_proj of block 0 in place of block 1's: q, v and down of block 0 and up of block 1 have none.
  const fs::path folder = with_tensors([](std::string name) {
    const std::size_t at = name.find("layers.1.mlp.up_proj");
    if (at != std::string::npos) name[at + 7] = '0';
    return name;
  });
  const Adapter adapter = read_adapter(folder, config());
  REQUIRE(adapter.matrices.size() == 8);
  for (const AdapterMatrix& m : adapter.matrices) {
    const bool has = (m.block == 0) == (m.kind == MatrixKind::up);
    CHECK((m.b != std::vector<float>(m.b.size())) == has);
    CHECK((m.a != std::vector<float>(m.a.size())) == has);
  }
}

TEST_CASE("what is no plain LoRA is refused with what was found") {
  check_says(refused(with_field("peft_type", "LOHA")), "\"peft_type\" is \"LOHA\", expected \"LORA\"");
  check_says(refused(with_field("use_dora", true)), "\"use_dora\" is true");
  check_says(refused(with_field("modules_to_save", {"lm_head"})), "\"modules_to_save\"");
  check_says(refused(with_field("bias", "all")), "\"bias\"");
  check_says(refused(with_field("lora_bias", true)), "\"lora_bias\"");
  check_says(refused(with_field("fan_in_fan_out", true)), "\"fan_in_fan_out\"");
  check_says(refused(with_field("init_lora_weights", "pissa")),
             "which changes the model's own weights first");
  check_says(refused(with_field("rank_pattern", json::object()).parent_path()), "has no adapter_config.json");
  check_says(refused(with_field("r", 5)), "is of rank 3, expected the rank in");
  check_says(refused(with_field("rank_pattern", {{"mlp.up_proj", 4}})), ": 4");
  check_says(refused(with_field("alpha_pattern", {{"^x.*", 3}})), "the regular expression \"^x.*\"");
  check_says(refused(with_field("lora_alpha", 0)), "\"lora_alpha\" is 0");
  check_says(refused(model_folder), "but config.json: it is a whole model, give it as --model");
  check_says(refused(peft_folder / "none"), "there is no such adapter");
  const std::string known = "expected lora_A and lora_B beside q, k, v, o, gate, up and down";
  const auto renamed = [](const std::string& from, const std::string& to) {
    return with_tensors([&](std::string name) {
      const std::size_t at = name.find(from);
      return at == std::string::npos ? name : name.replace(at, from.size(), to);
    });
  };
  check_says(refused(renamed("up_proj.lora_A.weight", "up_proj.lora_magnitude_vector")), known);
  check_says(refused(renamed("layers.1.mlp.up_proj", "layers.2.mlp.up_proj")), known);
  check_says(refused(renamed("model.layers.1.mlp.up_proj", "lm_head")), known);
  check_says(
      refused(renamed("base_model.model.model.layers.1.self_attn.v_proj", "model.layers.1.self_attn.q_proj")),
      "has two of it, expected one");
  check_says(refused(renamed("mlp.up_proj.lora_A", "mlp.gate_proj.lora_A")), "without its lora_");
  check_says(refused(renamed("q_proj", "k_proj")), "the adapter is another model's");

  const fs::path pickled = with_field("r", 3);
  fs::rename(pickled / "adapter_model.safetensors", pickled / "adapter_model.bin");
  check_says(refused(pickled), "safe_serialization=True");

  const fs::path gguf = fresh_folder("adapter_odd") / "x.gguf";
  const auto written = [&](const char* type, const char* architecture, const char* tensor) {
    GgufWriter writer;
    writer.text("general.type", type);
    writer.text("adapter.type", "lora");
    writer.text("general.architecture", architecture);
    writer.real("adapter.lora.alpha", 4);
    writer.tensor(tensor, {3, 24}, std::vector<float>(72), io::DType::f32);
    writer.write(gguf);
    return refused(gguf);
  };
  check_says(written("model", "llama", "x"), "a GGUF file of a whole model is given as --model");
  check_says(written("adapter", "qwen2", "x"), "'general.architecture' is 'qwen2', expected 'llama'");
  check_says(written("adapter", "llama", "output.weight.lora_a"), known);
  check_says(written("adapter", "llama", "blk.0.ffn_up.weight.lora_a"), "without its lora_B");
}
