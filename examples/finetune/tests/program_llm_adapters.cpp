// sparsegrad-llm export of a run's adapter: the files of peft and llama.cpp, and the runs that have none.
#include <cmath>

#include <sparsegrad/io/safetensors.hpp>

#include "checkpoints/gguf_file.hpp"
#include "checkpoints/gguf_model.hpp"
#include "models/decoder/decoder_names.hpp"
#include "program.hpp"
#include "support/tiny_decoder.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

const fs::path& base() {
  static const fs::path path = make_tiny_decoder(fresh_folder("adapter_base"));
  return path;
}

/// A run of six steps on k, up and down of blocks 0 and 2.
fs::path run_of(const std::string& name, const std::string& more) {
  static const fs::path sums = write_sums(fresh_folder("adapter_data") / "sums.jsonl");
  const fs::path output = fresh_folder("adapter_" + name);
  const Finished run =
      llm("train --model " + base().string() + " --data " + sums.string() + " --output " + output.string() +
          " --threads 1 --products blas --max-length 64 --held-out 0.2 --max-steps 6 --epochs 10 "
          "--learning-rate 3e-3 --matrices k,up,down --blocks 0,2 --quiet " +
          more);
  REQUIRE_MESSAGE(run.status == 0, run.err);
  return output;
}

const fs::path& lora_run() {
  static const fs::path path = run_of("lora", "--run-type lora --lora-rank 4 --lora-scale 2");
  return path;
}

std::string export_words(const std::string& format, const fs::path& run, const fs::path& output) {
  return "export --format " + format + " --model " + (run / "model").string() + " --output " +
         output.string() + " ";
}

std::vector<float> values_of(const fs::path& folder, const std::string& name) {
  return io::SafetensorsFile((folder / "model.safetensors").string()).read_as<float>(name);
}

/// Largest |W + B A - W'| over the largest |W' - W|.
double error_of_sum(const std::vector<float>& before, const std::vector<float>& after,
                    const std::vector<float>& a, const std::vector<float>& b, MatrixExtents extents,
                    index_t rank) {
  double worst = 0;
  double change = 0;
  for (index_t i = 0; i < extents.out; ++i) {
    for (index_t j = 0; j < extents.in; ++j) {
      const auto at = static_cast<std::size_t>(i * extents.in + j);
      double sum = static_cast<double>(before[at]);
      for (index_t r = 0; r < rank; ++r)
        sum += static_cast<double>(b[static_cast<std::size_t>(i * rank + r)]) *
               static_cast<double>(a[static_cast<std::size_t>(r * extents.in + j)]);
      worst = std::max(worst, std::abs(sum - static_cast<double>(after[at])));
      change = std::max(change, std::abs(static_cast<double>(after[at]) - static_cast<double>(before[at])));
    }
  }
  REQUIRE(change > 0);
  return worst / change;
}

}  // namespace

TEST_CASE("the adapter of a run of low rank is what it changed, in peft's form and llama.cpp's") {
  const DecoderConfig config = open_decoder_folder(base()).config;
  struct Case {
    const char* name;
    fs::path run;
    index_t rank;
  };
  for (const Case& c :
       {Case{"lora", lora_run(), 4},
        Case{"one side",
             run_of("side",
                    "--run-type sparse --width-side 5 --other-side identity --phase1-steps 2 --share 1"),
             5},
        Case{"two sides",
             run_of("sides", "--run-type sparse --width-side 9 --other-side 6 --phase1-steps 2 --share 0.3"),
             6},
        Case{"two bases",
             run_of("bases",
                    "--run-type sparse --width-side 4 --phase1-steps 2 --share 0.3 --refresh-every 4"),
             8}}) {
    CAPTURE(c.name);
    const fs::path folder = c.run / "adapter";
    const fs::path gguf = c.run / "adapter.gguf";
    const Finished as_peft = llm(export_words("peft", c.run, folder));
    REQUIRE_MESSAGE(as_peft.status == 0, as_peft.err);
    check_says(as_peft.out, "adapter: rank " + std::to_string(c.rank) + " beside 6 matrices of");
    const Finished as_gguf = llm(export_words("gguf-lora", c.run, gguf));
    REQUIRE_MESSAGE(as_gguf.status == 0, as_gguf.err);

    const nlohmann::json json = json_of(folder / "adapter_config.json");
    CHECK(json["peft_type"] == "LORA");
    CHECK(json["r"] == c.rank);
    CHECK(json["lora_alpha"] == c.rank);
    CHECK(json["base_model_name_or_path"] == base().string());
    CHECK(json["target_modules"] == nlohmann::json{"k_proj", "up_proj", "down_proj"});
    CHECK(json["layers_to_transform"] == nlohmann::json{0, 2});
    const GgufFile file(gguf.string());
    CHECK(file.at<std::string_view>("general.architecture") == "llama");
    CHECK(file.at<std::string_view>("general.type") == "adapter");
    CHECK(file.at<std::string_view>("adapter.type") == "lora");
    CHECK(file.at<double>("adapter.lora.alpha") == static_cast<double>(c.rank));
    CHECK(file.tensors().size() == 12);

    const io::SafetensorsFile tensors((folder / "adapter_model.safetensors").string());
    CHECK(tensors.names().size() == 12);
    for (const index_t block : {0, 2}) {
      for (const MatrixKind kind : {MatrixKind::k, MatrixKind::up, MatrixKind::down}) {
        const std::string name = matrix_name(block, kind);
        CAPTURE(name);
        const MatrixExtents extents = matrix_extents(config, kind);
        const std::string module = "base_model.model." + name.substr(0, name.rfind('.'));
        const auto read = [&](const std::string& key, std::vector<index_t> shape) {
          (void)tensors.find(key, shape);
          return tensors.read_as<float>(key);
        };
        const std::vector<float> a = read(module + ".lora_A.weight", {c.rank, extents.in});
        const std::vector<float> b = read(module + ".lora_B.weight", {extents.out, c.rank});
        CHECK(error_of_sum(values_of(base(), name), values_of(c.run / "model", name), a, b, extents, c.rank) <
              1e-4);

        const auto of_gguf = [&](const std::string& suffix, std::vector<index_t> shape) {
          const GgufTensor& tensor = file.tensor(gguf_name(name) + suffix, shape);
          std::vector<float> values(static_cast<std::size_t>(tensor.count()));
          file.dequantize(tensor, 0, tensor.rows(), values);
          return values;
        };
        CHECK(of_gguf(".lora_a", {c.rank, extents.in}) == a);
        const std::vector<float> stored = of_gguf(".lora_b", {extents.out, c.rank});
        CHECK(stored == gguf_row_order(config, name, b, c.rank));
        CHECK((stored == b) == (kind != MatrixKind::k));
      }
    }
  }
  CHECK(llm(export_words("peft", lora_run(), lora_run() / "half") + "--save-dtype bf16").status == 0);
  CHECK(io::SafetensorsFile((lora_run() / "half" / "adapter_model.safetensors").string())
            .find("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight")
            .dtype == io::DType::bf16);
}

TEST_CASE("runs that are no LoRA are refused with the way out") {
  const auto refused = [](const fs::path& run, const std::string& message, const std::string& more = "") {
    for (const std::string format : {"peft", "gguf-lora"}) {
      const Finished finished = llm(export_words(format, run, run / ("none_" + format)) + more);
      CHECK(finished.status == 1);
      check_says(finished.err, message);
      CHECK(!fs::exists(run / ("none_" + format)));
    }
  };
  for (const std::string type : {"ft", "topk", "meprop", "frozen"})
    refused(run_of("of_" + type, "--run-type " + type), "whose updates have no low rank");
  refused(
      run_of("full", "--run-type sparse --preset paper --phase1-steps 2"),
      "the bases of the run have the sides \"full\" (out) and \"full\" (in), expected one of a fixed rank");
  refused(run_of("kept",
                 "--run-type sparse --width-side 5 --phase1-steps 3 --keep-phase1 "
                 "--phase1-fixed-matrices=false"),
          "less the base's is not of rank 5");
  refused(run_of("bf16", "--run-type lora --save-dtype bf16"), "saved its model as bf16");
  refused(run_of("all", "--run-type lora --train-parameters all"),
          "is none of the matrices that the run trained");
  refused(base().parent_path(), "there is no such file; adapters and deltas are made of a run's model");

  const fs::path other = make_tiny_decoder(fresh_folder("adapter_other"), tiny_decoder_tokens + 1);
  refused(lora_run(), "expected as --base-model the one that the run began from",
          "--base-model " + other.string());
  refused(lora_run(), "there is no such model, which the run began from",
          "--base-model " + (other / "x").string());
  // The same extents and other weights, in a matrix that the run trained and in one that it did not.
  for (const auto& [name, message] : {std::pair("model.layers.2.mlp.down_proj.weight", "is not of rank 4"),
                                      std::pair("model.layers.1.mlp.down_proj.weight",
                                                "the base is another one than the run began from")}) {
    const fs::path near = fresh_folder("adapter_near");
    fs::copy(base(), near, fs::copy_options::recursive);
    const io::SafetensorsFile whole((base() / "model.safetensors").string());
    io::SafetensorsWriter writer;
    for (const std::string& tensor : whole.names()) {
      std::vector<float> values = whole.read_as<float>(tensor);
      if (tensor == name)
        for (std::size_t i = 0; i < values.size(); ++i)
          values[i] *= 1 + 1e-4F * static_cast<float>(i % 7);
      writer.add(tensor, whole.find(tensor).shape, std::move(values));
    }
    writer.write((near / "model.safetensors").string());
    refused(lora_run(), message, "--base-model " + near.string());
  }

  const fs::path log = lora_run() / "run.json";
  const nlohmann::json whole = json_of(log);
  nlohmann::json cut = whole;
  cut["finished"] = false;
  write_file(log, cut.dump());
  refused(lora_run(), "the run is not finished (step 6 of 6)");
  cut["format"] = "sparsegrad-glue run 1";
  write_file(log, cut.dump());
  refused(lora_run(), "expected the log of a run of sparsegrad-llm");
  write_file(log, whole.dump());
}

TEST_CASE("an adapter as --model is refused with the options that take it") {
  for (const auto& [format, name, what] : {std::tuple("peft", "as_model", "an adapter of peft"),
                                           std::tuple("gguf-lora", "as_model.gguf", "a LoRA in GGUF"),
                                           std::tuple("delta", "as_model.safetensors", "a delta")}) {
    CAPTURE(format);
    const fs::path adapter = lora_run() / name;
    const Finished written = llm(export_words(format, lora_run(), adapter));
    REQUIRE_MESSAGE(written.status == 0, written.err);
    for (const std::string command : {"generate --prompt 1", "inspect", "export --output none"}) {
      const Finished refused = llm(command + " --model " + adapter.string());
      CHECK(refused.status == 1);
      check_says(refused.err, adapter.string() + ": is " + what +
                                  ", expected a model: give the one that it was made for as --model and this "
                                  "one as --adapter");
      check_says(refused.err, "export --model BASE --adapter '" + adapter.string() + "' --output FOLDER");
    }
  }
}

TEST_CASE("outputs that do not fit the format are refused") {
  check_says(llm(export_words("gguf-lora", lora_run(), lora_run())).err, "is a folder, expected as --output");
  check_says(llm(export_words("peft", lora_run(), lora_run() / "run.json")).err,
             "is a file, expected as --output of peft");
  check_says(llm(export_words("peft", lora_run(), base())).err, "--output is the base model");
  check_says(llm(export_words("merged", lora_run(), base())).err, "--output is the base model");
  check_says(
      llm(export_words("merged", lora_run(), lora_run() / "m") + "--base-model " + base().string()).err,
      "--base-model is for adapters and deltas");
  check_says(llm(export_words("onnx", lora_run(), lora_run() / "m")).err,
             "--format is 'onnx', expected merged, gguf, peft, gguf-lora or delta");
}
