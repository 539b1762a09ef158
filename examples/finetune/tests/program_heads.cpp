// Models whose config.json gives the outputs another order or another meaning, through the program.
#include <functional>

#include <sparsegrad/io/safetensors.hpp>

#include "program.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune::test;
using nlohmann::json;

namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

/// The tiny BERT with outputs of these names and a head that answers by its bias alone.
fs::path answering(const std::string& folder, const Names& names, const std::vector<float>& bias,
                   const json& more = json::object()) {
  const fs::path path = fresh_folder(folder);
  fs::copy(tiny(), path, fs::copy_options::recursive);
  json config = json_of(tiny() / "config.json");
  config["id2label"] = json::object();
  config["label2id"] = json::object();
  for (std::size_t i = 0; i < names.size(); ++i) {
    config["id2label"][std::to_string(i)] = names[i];
    config["label2id"][names[i]] = i;
  }
  config.erase("problem_type");
  config.update(more);
  write_file(path / "config.json", config.dump());
  const io::SafetensorsFile file((tiny() / "model.safetensors").string());
  io::SafetensorsWriter writer;
  const auto outputs = static_cast<index_t>(bias.size());
  for (const std::string& name : file.names()) {
    std::vector<index_t> shape = file.find(name).shape;
    std::vector<float> values = file.read<float>(name);
    if (name == "classifier.weight") {
      shape[0] = outputs;
      values.assign(static_cast<std::size_t>(outputs * shape[1]), 0.0F);
    }
    if (name == "classifier.bias") {
      shape[0] = outputs;
      values = bias;
    }
    writer.add(name, shape, values);
  }
  writer.write((path / "model.safetensors").string());
  return path;
}

/// MNLI's columns, all rows of one label, and RTE's, MRPC's and STS-B's.
const fs::path& data() {
  static const fs::path path = [] {
    fs::path folder = fresh_folder("heads_data");
    std::string head =
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
        "sentence1_parse\tsentence2_parse\tsentence1\tsentence2";
    std::string dev = head + "\tlabel1\tgold_label\n";
    std::string test = head + "\n";
    std::string rte = "index\tsentence1\tsentence2\tlabel\n";
    std::string mrpc = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n";
    std::string stsb =
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n";
    for (int i = 0; i < 8; ++i) {
      const std::string row = std::to_string(i) + "\t1\t2\tg\tx\ty\tx\ty\tthe dog ran\tnobody ran";
      dev += row + "\tcontradiction\tcontradiction\n";
      test += row + "\n";
      rte += std::to_string(i) + "\tthe dog ran\tnobody ran\tnot_entailment\n";
      mrpc += std::to_string(i % 2) + "\t1\t2\tthe dog ran\tnobody ran\n";
      stsb +=
          std::to_string(i) + "\tg\tf\ty\t7\tn\tm\tthe dog ran\tnobody ran\t" + std::to_string(i % 5) + "\n";
    }
    write_file(folder / "MNLI" / "train.tsv", dev);
    write_file(folder / "MNLI" / "dev_matched.tsv", dev);
    write_file(folder / "MNLI" / "test_matched.tsv", test);
    for (const char* split : {"train.tsv", "dev.tsv"}) {
      write_file(folder / "RTE" / split, rte);
      write_file(folder / "MRPC" / split, mrpc);
      write_file(folder / "STS-B" / split, stsb);
    }
    return folder;
  }();
  return path;
}

std::string words(const std::string& command, const std::string& task, const fs::path& model,
                  const std::string& more = "") {
  return command + " --threads 1 --products blas --max-length 32 --task " + task + " --data " +
         data().string() + " --model " + model.string() + " " + more;
}

Finished train(const std::string& task, const fs::path& model, const fs::path& output,
               const std::string& more = "") {
  return run(words("train", task, model,
                   "--run-type ft --max-steps 2 --batch-size 4 --output " + output.string() + " " + more));
}

json names_in(const fs::path& folder) {
  return json_of(folder / "config.json")["id2label"];
}

}  // namespace

TEST_CASE("outputs in the file's order are evaluated, submitted and trained in the task's") {
  const fs::path mnli =
      answering("mnli_reversed", {"CONTRADICTION", "NEUTRAL", "ENTAILMENT"}, {5.0F, 1.0F, 0.0F});
  Finished done = run(words("evaluate", "mnli", mnli));
  REQUIRE_MESSAGE(done.status == 0, done.err);
  check_says(done.out, "accuracy 1.000000");
  check_says(done.out, "head: in the task's order");
  // Without names the order is the task's, which is said.
  done = run(
      words("evaluate", "mnli", answering("mnli_nameless", {"LABEL_0", "LABEL_1", "LABEL_2"}, {0, 0, 5})));
  check_says(done.out,
             "head: the file's, which has no names for its outputs: taken for 3 outputs (entailment,");
  check_says(done.out, "accuracy 1.000000");
  const fs::path folder = fresh_folder("answers");
  done = run(words("evaluate", "mnli", mnli,
                   "--split test --predictions " + (folder / "logits.tsv").string() + " --submission " +
                       (folder / "submission.tsv").string()));
  REQUIRE_MESSAGE(done.status == 0, done.err);
  CHECK(content(folder / "submission.tsv").starts_with("index\tprediction\n0\tcontradiction\n"));
  CHECK(content(folder / "logits.tsv").starts_with("0\t1\t5\t"));

  done = run(words("evaluate", "rte", answering("rte_swapped", {"not entailment", "ENTAILMENT"}, {5, 0})));
  REQUIRE_MESSAGE(done.status == 0, done.err);
  check_says(done.out, "accuracy 1.000000");

  // The head goes on as it is, and goes out under the task's names.
  const fs::path output = fresh_folder("mnli_trained");
  done = train("mnli", mnli, output, "--learning-rate 1e-6");
  REQUIRE_MESSAGE(done.status == 0, done.err);
  check_says(done.out, "head in the task's order: the file's has 3 outputs (CONTRADICTION, NEUTRAL, ENTAIL");
  const json log = json_of(output / "run.json");
  CHECK(log["model"]["head"].get<std::string>().starts_with("in the task's order"));
  CHECK(log["evaluations"][0]["metrics"]["accuracy"] == 1.0);
  CHECK(names_in(output / "model") == json{{"0", "entailment"}, {"1", "neutral"}, {"2", "contradiction"}});
  done = run(words("evaluate", "mnli", output / "model"));
  check_says(done.out, "accuracy 1.000000");
  const io::SafetensorsFile saved((output / "model" / "model.safetensors").string());
  CHECK(saved.read<float>("classifier.bias")[2] == doctest::Approx(5).epsilon(1e-3));

  // An interrupted run's state holds that order too.
  const fs::path resumed = fresh_folder("mnli_resumed");
  const std::string steps = "--learning-rate 1e-6 --max-steps 4 --checkpoint-every 1 ";
  REQUIRE(train("mnli", mnli, resumed, steps).status == 0);
  const std::string once = content(resumed / "model" / "model.safetensors");
  fs::remove_all(resumed);
  const pid_t child =
      start(words("train", "mnli", mnli,
                  "--quiet --run-type ft --batch-size 4 --output " + resumed.string() + " " + steps));
  while (!has_ended(child) && !fs::exists(resumed / "checkpoint" / "state.safetensors"))
    usleep(200);
  kill(child, SIGTERM);
  wait_for(child);
  done = train("mnli", mnli, resumed, steps + "--resume");
  REQUIRE_MESSAGE(done.status == 0, done.err);
  CHECK(content(resumed / "model" / "model.safetensors") == once);
}

TEST_CASE("a head for something else: train makes a new one and says so, evaluate refuses with both lists") {
  const Names three{"entailment", "neutral", "contradiction"};
  const fs::path mnli = answering("from_mnli", three, {5, 0, 0});
  const std::vector<std::pair<fs::path, std::string>> models{
      {mnli, "3 outputs (entailment, neutral, contradiction)"},
      {answering("from_sst2", {"NEGATIVE", "POSITIVE"}, {0, 0}), "2 outputs (NEGATIVE, POSITIVE)"},
      {answering("from_stsb", {"LABEL_0"}, {0}), "1 output"},
      {answering("from_tags", {"t0", "t1"}, {0, 0}, {{"problem_type", "multi_label_classification"}}),
       "2 outputs (multi-label classification: t0, t1)"}};
  const std::string wanted = "2 outputs (entailment, not_entailment)";
  for (const auto& [model, outputs] : models) {
    const std::string& has = outputs;
    CAPTURE(has);
    const fs::path output = fresh_folder("new_head");
    Finished done = train("rte", model, output);
    REQUIRE_MESSAGE(done.status == 0, done.err);
    check_says(done.out, "head new: the file's has " + has + ", the task asks for " + wanted);
    const json log = json_of(output / "run.json");
    check_says(log["model"]["head"], has);
    CHECK(log["model"]["initialized"] == json{"classifier.weight", "classifier.bias"});
    CHECK(names_in(output / "model") == json{{"0", "entailment"}, {"1", "not_entailment"}});
    CHECK(json_of(output / "model" / "config.json")["problem_type"] == "single_label_classification");
    done = run(words("evaluate", "rte", output / "model"));
    CHECK_MESSAGE(done.status == 0, done.err);

    done = run(words("evaluate", "rte", model));
    CHECK(done.status == 1);
    check_says(done.err, "the model's head has " + has + ", task rte asks for " + wanted);
    check_says(done.err, "Train it on the task first");
    CHECK((done.err.find("\"id2label\"") != std::string::npos) == (has == "2 outputs (NEGATIVE, POSITIVE)"));
  }
  for (const char* task : {"mrpc", "stsb"}) {
    CAPTURE(task);
    const fs::path output = fresh_folder("from_mnli_to");
    const Finished done = train(task, mnli, output);
    REQUIRE_MESSAGE(done.status == 0, done.err);
    check_says(done.out, "head new");
    CHECK_MESSAGE(run(words("evaluate", task, output / "model")).status == 0, task);
    CHECK(run(words("evaluate", task, mnli)).status == 1);
  }
  // paper's presets read config.json by themselves.
  const Finished paper = run(words(
      "train", "rte", models.back().first,
      "--preset paper --run-type ft --max-steps 1 --no-save --output " + fresh_folder("paper").string()));
  CHECK_MESSAGE(paper.status == 0, paper.err);
}

TEST_CASE("config.json and tensors that contradict each other, and a model without its pooler, are refused") {
  const fs::path wrong = answering("wrong_rows", {"entailment", "not_entailment"}, {0, 0, 0});
  for (const char* command : {"evaluate", "train"}) {
    const std::string more =
        std::string(command) == "train" ? "--output " + fresh_folder("wrong_rows_out").string() : "";
    const Finished done = run(words(command, "rte", wrong, more));
    CHECK(done.status == 1);
    check_says(done.err, "\"classifier.weight\" has 3 rows, one an output, and config.json speaks of 2");
  }
  const fs::path no_pooler = answering("no_pooler", {"entailment", "not_entailment"}, {0, 0});
  const io::SafetensorsFile file((tiny() / "model.safetensors").string());
  io::SafetensorsWriter writer;
  for (const std::string& name : file.names())
    if (!name.starts_with("bert.pooler.")) writer.add(name, file.find(name).shape, file.read<float>(name));
  writer.write((no_pooler / "model.safetensors").string());
  const Finished done = run(words("evaluate", "rte", no_pooler));
  CHECK(done.status == 1);
  check_says(done.err, "has no \"bert.pooler.dense.weight\"");
}

TEST_CASE("more layers than config.json says are refused; other tensors that are not used are told") {
  const fs::path model = answering("more_tensors", {"entailment", "not_entailment"}, {0, 0});
  const auto write_with = [&](const std::string& extra) {
    const io::SafetensorsFile file((tiny() / "model.safetensors").string());
    io::SafetensorsWriter writer;
    for (const std::string& name : file.names())
      writer.add(name, file.find(name).shape, file.read<float>(name));
    writer.add(extra, {1}, std::vector<float>{1});
    writer.write((model / "model.safetensors").string());
  };
  const std::string output = "--output " + fresh_folder("more_tensors_out").string();
  for (const char* name : {"bert.encoder.layer.2.output.dense.bias", "module.encoder.layer.2.x"}) {
    write_with(name);
    for (const Finished& done :
         {run(words("evaluate", "rte", model)), run(words("train", "rte", model, output))}) {
      CHECK(done.status == 1);
      check_says(done.err, "\"" + std::string(name) +
                               "\" makes 3 layers, and \"num_hidden_layers\" of config.json is 2: correct");
    }
  }
  write_with("cls.predictions.bias");
  write_file(model / "model.safetensors.index.json", "{}");
  const std::string note =
      "not used: cls.predictions.bias, the shards of model.safetensors.index.json (model.safetensors goes "
      "first)";
  const Finished evaluated = run(words("evaluate", "rte", model));
  CHECK_MESSAGE(evaluated.status == 0, evaluated.err);
  check_says(evaluated.out, note);
  CHECK(run(words("evaluate", "rte", model, "--quiet")).out.find("not used") == std::string::npos);
  check_says(run(words("train", "rte", model, output + " --run-type ft --max-steps 1 --no-save")).out, note);
}

TEST_CASE("a saved config.json says the type of its tensors") {
  const fs::path model =
      answering("bf16_source", {"LABEL_0", "LABEL_1"}, {0, 0}, {{"dtype", "bfloat16"}, {"use_cache", true}});
  json config = json_of(model / "config.json");
  config.erase("torch_dtype");
  write_file(model / "config.json", config.dump());
  for (const auto& [option, dtype] :
       {std::pair{"", "float32"}, {"--save-dtype bf16", "bfloat16"}, {"--save-dtype fp16", "float16"}}) {
    const std::string name = dtype;
    CAPTURE(name);
    const fs::path output = fresh_folder("save_dtype");
    const Finished done = train("rte", model, output, option);
    REQUIRE_MESSAGE(done.status == 0, done.err);
    config = json_of(output / "model" / "config.json");
    CHECK(config["dtype"] == name);
    CHECK(config["torch_dtype"] == name);
    CHECK(config["use_cache"] == true);
    const io::SafetensorsFile file((output / "model" / "model.safetensors").string());
    CHECK(io::info(file.find("classifier.bias").dtype).name == (name == "float32"   ? "F32"
                                                                : name == "float16" ? "F16"
                                                                                    : "BF16"));
  }
}
