#include "checkpoints/adapter_files.hpp"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "checkpoints/gguf_model.hpp"
#include "checkpoints/gguf_writer.hpp"
#include "checkpoints/written_folder.hpp"

namespace sparsegrad::finetune {

namespace {

constexpr std::string_view weight_suffix = ".weight";

/// "model.layers.3.mlp.up_proj".
std::string module_name(const AdapterMatrix& m) {
  const std::string name = matrix_name(m.block, m.kind);
  return name.substr(0, name.size() - weight_suffix.size());
}

template <class X>
void add_once(std::vector<X>& list, const X& x) {
  if (std::find(list.begin(), list.end(), x) == list.end()) list.push_back(x);
}

}  // namespace

std::vector<float> zero_padded(std::span<const float> values, index_t rows, index_t cols, index_t to_rows,
                               index_t to_cols) {
  std::vector<float> result(static_cast<std::size_t>(to_rows * to_cols));
  for (index_t i = 0; i < rows; ++i)
    std::copy_n(values.begin() + i * cols, cols, result.begin() + i * to_cols);
  return result;
}

void write_peft_adapter(const std::filesystem::path& folder, const Adapter& adapter, const std::string& base,
                        io::DType type) {
  std::vector<std::string> modules;
  std::vector<index_t> blocks;
  TensorsToWrite<float> tensors(type);
  for (const AdapterMatrix& m : adapter.matrices) {
    const std::string module = module_name(m);
    add_once(modules, module.substr(module.rfind('.') + 1));
    add_once(blocks, m.block);
    const std::string key = "base_model.model." + module;
    tensors.add(key + ".lora_A.weight", {adapter.rank, m.extents.in}, [&m] { return m.a; });
    tensors.add(key + ".lora_B.weight", {m.extents.out, adapter.rank}, [&m] { return m.b; });
  }
  const nlohmann::json config{{"peft_type", "LORA"},
                              {"task_type", "CAUSAL_LM"},
                              {"base_model_name_or_path", base},
                              {"r", adapter.rank},
                              {"lora_alpha", adapter.scale * static_cast<double>(adapter.rank)},
                              {"lora_dropout", 0.0},
                              {"target_modules", modules},
                              {"layers_to_transform", blocks},
                              {"layers_pattern", "layers"},
                              {"bias", "none"},
                              {"fan_in_fan_out", false},
                              {"use_rslora", false},
                              {"inference_mode", true}};
  make_model_folder(folder);
  write_text(folder / "adapter_config.json", config.dump(2) + "\n");
  tensors.write(folder / "adapter_model.safetensors");
}

void write_gguf_adapter(const std::filesystem::path& file, const Adapter& adapter,
                        const DecoderConfig& config, io::DType type) {
  GgufWriter writer;
  writer.text("general.architecture", gguf_architecture(config));
  writer.text("general.type", "adapter");
  writer.text("adapter.type", "lora");
  writer.real("adapter.lora.alpha", static_cast<float>(adapter.scale * static_cast<double>(adapter.rank)));
  for (const AdapterMatrix& m : adapter.matrices) {
    const std::string parameter = matrix_name(m.block, m.kind);
    const std::string name = gguf_name(parameter);
    writer.tensor(name + ".lora_a", {adapter.rank, m.extents.in}, m.a, type);
    writer.tensor(name + ".lora_b", {m.extents.out, adapter.rank},
                  gguf_row_order(config, parameter, m.b, adapter.rank), type);
  }
  writer.write(file);
}

}  // namespace sparsegrad::finetune
