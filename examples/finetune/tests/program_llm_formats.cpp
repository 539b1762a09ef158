// sparsegrad-llm's other forms of a model: GGUF files out, deltas of runs, adapters in.
#include <cmath>

#include <sparsegrad/io/safetensors.hpp>

#include "checkpoints/gguf_file.hpp"
#include "program.hpp"
#include "support/tiny_decoder.hpp"
#include "support/tiny_gguf.hpp"
#include "tokenizers/sentencepiece.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

const fs::path& base() {
  static const fs::path path = make_tiny_decoder(fresh_folder("formats_base"));
  return path;
}
const fs::path& base_gguf() {
  static const fs::path path = write_file(fresh_folder("formats_gguf") / "tiny.gguf", tiny_gguf().bytes());
  return path;
}
const fs::path& sums() {
  static const fs::path path = write_sums(fresh_folder("formats_data") / "sums.jsonl");
  return path;
}

/// A run of six steps on k, up and down of blocks 0 and 2.
fs::path run_of(const std::string& name, const std::string& more, const fs::path& model = base()) {
  const fs::path output = fresh_folder("formats_" + name);
  const Finished run =
      llm("train --model " + model.string() + " --data " + sums().string() + " --output " + output.string() +
          " --threads 1 --products blas --dtype float --max-length 64 --held-out 0.2 --max-steps 6 "
          "--epochs 10 --learning-rate 3e-3 --quiet " +
          more);
  REQUIRE_MESSAGE(run.status == 0, run.err);
  return output;
}
constexpr const char* matrices = "--matrices k,up,down --blocks 0,2 ";

const fs::path& lora_run() {
  static const fs::path path =
      run_of("lora", std::string(matrices) + "--run-type lora --lora-rank 4 --lora-scale 2");
  return path;
}

std::string export_words(const std::string& format, const fs::path& model, const fs::path& output) {
  return "export --format " + format + " --model " + model.string() + " --output " + output.string() + " ";
}

void done(const std::string& words) {
  const Finished finished = llm(words);
  REQUIRE_MESSAGE(finished.status == 0, finished.err);
}
void refused(const std::string& words, const std::string& message) {
  const Finished finished = llm(words);
  CHECK(finished.status == 1);
  check_says(finished.err, message);
}

double loss_of(const fs::path& model, const std::string& more = "") {
  const Finished finished = llm("evaluate --model " + model.string() + " --data " + sums().string() +
                                " --threads 1 --products blas --dtype float --max-length 64 --quiet " + more);
  REQUIRE_MESSAGE(finished.status == 0, finished.err);
  const std::size_t at = finished.out.find("loss ");
  REQUIRE(at != std::string::npos);
  return std::stod(finished.out.substr(at + 5));
}

/// The largest difference of two folders' weights.
double difference(const fs::path& one, const fs::path& other) {
  const io::SafetensorsFile a((one / "model.safetensors").string());
  const io::SafetensorsFile b((other / "model.safetensors").string());
  REQUIRE(a.names() == b.names());
  double most = 0;
  for (const std::string& name : a.names()) {
    const std::vector<float> x = a.read_as<float>(name);
    const std::vector<float> y = b.read_as<float>(name);
    REQUIRE(x.size() == y.size());
    for (std::size_t i = 0; i < x.size(); ++i)
      most = std::max(most, std::abs(static_cast<double>(x[i]) - static_cast<double>(y[i])));
  }
  return most;
}

}  // namespace

TEST_CASE("a folder becomes a GGUF file of every type, which has its losses") {
  const double loss = loss_of(base());
  const fs::path folder = fresh_folder("formats_out");
  struct Case {
    std::string type, name;
    double slack;
  };
  for (const Case& c : {Case{"float", "F32", 1e-6}, Case{"fp16", "F16", 1e-3}, Case{"bf16", "BF16", 1e-2},
                        Case{"q8_0", "Q8_0", 3e-2}}) {
    const std::string& type = c.type;
    const std::string& name = c.name;
    CAPTURE(c.type);
    const fs::path file = folder / (type + ".gguf");
    done(export_words("gguf", base(), file) + "--save-dtype " + type);
    CHECK(loss_of(file) == doctest::Approx(loss).epsilon(c.slack));
    const GgufFile read(file.string());
    CHECK(read.tensor("blk.1.attn_q.weight").type->name == name);
    CHECK(read.tensor("blk.1.attn_norm.weight").type->name == "F32");
    // Rows of 48 are no whole blocks of 32.
    CHECK(read.tensor("blk.1.ffn_down.weight").type->name == (name == "Q8_0" ? "F16" : name));
    CHECK(read.at<std::string_view>("tokenizer.chat_template") == tiny_chat_template);
  }
  // Back again, with nothing lost.
  const fs::path back = fresh_folder("formats_back");
  done(export_words("merged", folder / "float.gguf", back));
  CHECK(difference(base(), back) == 0);
  CHECK(loss_of(back) == loss);
}

TEST_CASE("a GGUF file becomes one of another type; what is of that type is copied") {
  const double loss = loss_of(base_gguf());
  const fs::path folder = fresh_folder("formats_again");
  done(export_words("gguf", base_gguf(), folder / "f32.gguf"));
  CHECK(loss_of(folder / "f32.gguf") == doctest::Approx(loss).epsilon(1e-6));
  done(export_words("gguf", base_gguf(), folder / "q8.gguf") + "--save-dtype q8_0");
  CHECK(loss_of(folder / "q8.gguf") == doctest::Approx(loss).epsilon(3e-2));
  const GgufFile before(base_gguf().string());
  const GgufFile after((folder / "q8.gguf").string());
  CHECK(after.at<std::int64_t>("general.file_type") == 7);
  CHECK(after.at<std::vector<std::string_view>>("tokenizer.ggml.tokens") ==
        before.at<std::vector<std::string_view>>("tokenizer.ggml.tokens"));
  for (const char* name : {"blk.0.attn_k.weight", "blk.0.ffn_down.weight", "token_embd.weight"})
    CHECK(after.blocks(after.tensor(name)) == before.blocks(before.tensor(name)));
}

TEST_CASE("a SentencePiece tokenizer goes into a GGUF file and out of it") {
  if (!has_sentencepiece()) return;
  const fs::path golden = fs::path(SPARSEGRAD_TEST_DIR) / "golden" / "causal" / "sentencepiece";
  const fs::path folder = make_tiny_decoder(fresh_folder("formats_pieces"), 341);
  fs::remove(folder / "tokenizer.json");
  for (const char* name : {"tokenizer.model", "tokenizer_config.json"})
    fs::copy_file(golden / name, folder / name, fs::copy_options::overwrite_existing);
  const std::string plain = "--chat-template plain";
  const double loss = loss_of(folder, plain);
  const fs::path file = fresh_folder("formats_pieces_gguf") / "x.gguf";
  done(export_words("gguf", folder, file));
  CHECK(loss_of(file, plain) == doctest::Approx(loss).epsilon(1e-6));
  const fs::path run = run_of("pieces_run", "--run-type frozen --chat-template plain", file);
  CHECK(loss_of(run / "model", plain) == doctest::Approx(loss).epsilon(1e-6));
  CHECK(difference(folder, run / "model") == 0);
}

TEST_CASE("a delta and its base are the run's model again, whatever the run type") {
  struct Case {
    std::string name, more, form;
    double slack;
  };
  for (const Case& c :
       {Case{"topk", "--run-type topk --share 0.05", "7 by their entries", 0},
        Case{"ft", "--run-type ft", " 6 whole", 0},
        Case{"all", "--run-type ft --train-parameters all --matrices all --blocks all", " whole", 0},
        Case{"low", "--run-type lora --lora-rank 2 --lora-scale 1", "6 by factors", 1e-6},
        Case{"side", "--run-type sparse --width-side 3 --other-side identity --phase1-steps 2 --share 1",
             "6 by factors", 1e-6}}) {
    CAPTURE(c.name);
    const fs::path run = run_of(c.name, (c.name == "all" ? "" : matrices) + c.more);
    const fs::path delta = run / "delta.safetensors";
    const Finished written = llm(export_words("delta", run / "model", delta));
    REQUIRE_MESSAGE(written.status == 0, written.err);
    if (c.name != "topk") check_says(written.out, c.form);
    const fs::path merged = run / "merged";
    done(export_words("merged", base(), merged) + "--adapter " + delta.string());
    CHECK(difference(run / "model", merged) <= c.slack);
    CHECK(difference(base(), merged) > 1e-4);
    CHECK(loss_of(base(), "--adapter " + delta.string()) ==
          doctest::Approx(loss_of(run / "model")).epsilon(1e-5));
    if (c.name == "topk" || c.name == "low")
      CHECK(fs::file_size(delta) < fs::file_size(run / "model" / "model.safetensors") / 3);
  }
}

TEST_CASE("deltas of other bases, and what they are not for, are refused") {
  const fs::path delta = fresh_folder("formats_delta") / "delta.safetensors";
  done(export_words("delta", lora_run() / "model", delta));
  const std::string put = "--adapter " + delta.string();
  const fs::path other = make_tiny_decoder(fresh_folder("formats_other"), tiny_decoder_tokens + 1);
  refused(export_words("merged", other, fresh_folder("formats_none")) + put,
          "is not that of the delta's base");
  // The same extents; one norm differs, which the run did not train.
  const fs::path near = fresh_folder("formats_near");
  fs::copy(base(), near, fs::copy_options::recursive);
  const io::SafetensorsFile whole((base() / "model.safetensors").string());
  io::SafetensorsWriter writer;
  for (const std::string& tensor : whole.names()) {
    std::vector<float> values = whole.read_as<float>(tensor);
    if (tensor == "model.norm.weight") values[0] *= 1.01F;
    writer.add(tensor, whole.find(tensor).shape, std::move(values));
  }
  writer.write((near / "model.safetensors").string());
  refused(export_words("merged", near, fresh_folder("formats_none")) + put,
          "\"model.norm.weight\" of the model is not that of the delta's base");
  refused("train --adapter " + delta.string() + " --model " + base().string() + " --data " + sums().string() +
              " --output " + fresh_folder("formats_none").string(),
          "is a delta, expected a LoRA as --adapter of a run; export --format merged");
  refused(export_words("delta", base(), delta), "adapters and deltas are made of a run's model");
  refused(export_words("delta", base(), delta) + "--base-model " + base().string(),
          "the model is the base as it was");
  refused(export_words("delta", lora_run() / "model", delta.parent_path()),
          "is a folder, expected as --output");
  refused(export_words("delta", lora_run() / "model", "x.bin"), "expected as --output of delta a file");
  refused(export_words("delta", lora_run() / "model", delta) + "--save-dtype bf16", "expected float");
  refused(export_words("peft", lora_run() / "model", fresh_folder("formats_none") / "x") + put,
          "--adapter is put on whole weights");
  refused(export_words("merged", base(), fresh_folder("formats_none") / "x") + "--save-dtype q8_0",
          "--format gguf has q8_0");
  refused(export_words("gguf", base(), fresh_folder("formats_none") / "x") + "--save-dtype q4_0",
          "--save-dtype is 'q4_0', expected bf16, float, fp16 or q8_0");
}

TEST_CASE(
    "an adapter on its base is the run's model, from a peft folder and a GGUF file, on folder and GGUF") {
  const fs::path folder = lora_run() / "peft";
  const fs::path file = lora_run() / "adapter.gguf";
  done(export_words("peft", lora_run() / "model", folder));
  done(export_words("gguf-lora", lora_run() / "model", file));
  const double loss = loss_of(lora_run() / "model");
  CHECK(std::abs(loss - loss_of(base())) > 1e-3);
  for (const fs::path& adapter : {folder, file}) {
    CAPTURE(adapter.string());
    const std::string put = "--adapter " + adapter.string();
    CHECK(loss_of(base(), put) == doctest::Approx(loss).epsilon(1e-5));
    done(export_words("merged", base(), lora_run() / "merged") + put);
    CHECK(difference(lora_run() / "model", lora_run() / "merged") < 1e-6);
    done(export_words("gguf", base(), lora_run() / "merged.gguf") + put);
    CHECK(loss_of(lora_run() / "merged.gguf") == doctest::Approx(loss).epsilon(1e-5));
    const std::string ask =
        "generate --threads 1 --products blas --dtype float --quiet --max-new-tokens 8 --prompt 1+1? ";
    CHECK(llm(ask + "--model " + base().string() + " " + put).out ==
          llm(ask + "--model " + (lora_run() / "model").string()).out);
  }
}

TEST_CASE("a run goes on from an adapter as it was left") {
  const fs::path folder = lora_run() / "start";
  done(export_words("peft", lora_run() / "model", folder));
  const double loss = loss_of(lora_run() / "model");
  const fs::path run = run_of("on", "--adapter " + folder.string());
  const nlohmann::json log = json_of(run / "run.json");
  CHECK(log["options"]["run_type"] == "lora");
  CHECK(log["options"]["adapter"] == folder.string());
  CHECK(log["options"]["blocks"] == "0,2");
  CHECK(log["options"]["matrices"] == "k,up,down");
  CHECK(log["options"]["lora"]["rank"] == 4);
  CHECK(log["evaluations"].back()["loss"].get<double>() < log["evaluations"].front()["loss"].get<double>());
  // Its adapter is beside the base, and not beside the model that it began with.
  done(export_words("peft", run / "model", run / "peft"));
  CHECK(loss_of(base(), "--adapter " + (run / "peft").string()) ==
        doctest::Approx(loss_of(run / "model")).epsilon(1e-5));
  // No step is taken: the model of the first evaluation is that of the adapter.
  const fs::path still = run_of("still", "--learning-rate 0 --adapter " + folder.string());
  done(export_words("merged", base(), still / "merged") + "--adapter " + folder.string());
  CHECK(difference(still / "model", still / "merged") < 1e-6);
  CHECK(loss_of(still / "model") == doctest::Approx(loss).epsilon(1e-5));

  const std::string words = "train --model " + base().string() + " --data " + sums().string() + " --output " +
                            fresh_folder("formats_none").string() + " --adapter " + folder.string();
  refused(words + " --run-type sparse", "--adapter begins runs of type lora, found --run-type sparse");
  const Finished given = llm(words + " --lora-rank 3");
  CHECK(given.status == 2);
  check_says(given.err, "--lora-rank is given, expected it without --adapter");
  refused(
      "evaluate --model " + base().string() + " --data " + sums().string() + " --adapter " + base().string(),
      "it is a whole model, give it as --model");
}

TEST_CASE("an adapter beside a quantised base starts a run there") {
  const fs::path first =
      run_of("packed", std::string(matrices) + "--run-type lora --lora-rank 3 --lora-scale 1 --base file",
             base_gguf());
  const fs::path adapter = first / "adapter.gguf";
  done(export_words("gguf-lora", first / "model", adapter));
  const fs::path second = run_of("packed_on", "--base file --adapter " + adapter.string(), base_gguf());
  const double before = json_of(second / "run.json")["evaluations"].front()["loss"];
  const nlohmann::json log = json_of(first / "run.json");
  double best = 0;
  for (const nlohmann::json& evaluation : log["evaluations"])
    if (evaluation["step"] == log["best"]["step"]) best = evaluation["loss"];
  CHECK(before == doctest::Approx(best).epsilon(1e-5));
}
