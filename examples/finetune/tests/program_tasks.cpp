// All nine tasks through the program, on files of GLUE's layout with sentences of the test's own.
#include <algorithm>
#include <map>
#include <sstream>

#include <sparsegrad/io/safetensors.hpp>

#include "program.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune::test;
using namespace std::string_literals;

namespace {

namespace fs = std::filesystem;

const std::vector<std::string> sentences{
    "the cat slept on the mat", "a dog ran after the ball", "she reads old books",  "rain fell all night",
    "he never drinks tea",      "the bus was late again",   "they sang in a choir", "nobody saw the comet"};

/// How a task's files are laid out: the header ("" for none), and a row of two sentences and a label.
struct Layout {
  std::string train_header, dev_header, test_header;
  /// {a}, {b}, {label}, {i} are put in.
  std::string train_row, dev_row, test_row;
  std::vector<std::string> labels;
  std::vector<std::string> dev_files{"dev.tsv"};
  std::vector<std::string> test_files{"test.tsv"};
};

const std::map<std::string, std::pair<std::string, Layout>>& layouts() {
  const std::string index_pair = "index\tsentence1\tsentence2";
  static const std::map<std::string, std::pair<std::string, Layout>> all{
      {"cola",
       {"CoLA",
        {"", "", "index\tsentence", "s1\t{label}\t\t{a}", "s1\t{label}\t*\t{a}", "{i}\t{a}", {"0", "1"}}}},
      {"sst2",
       {"SST-2",
        {"sentence\tlabel",
         "sentence\tlabel",
         "index\tsentence",
         "{a}\t{label}",
         "{a}\t{label}",
         "{i}\t{a}",
         {"0", "1"}}}},
      {"mrpc",
       {"MRPC",
        {"Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
         "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
         "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
         "{label}\t10\t11\t{a}\t{b}",
         "{label}\t10\t11\t{a}\t{b}",
         "{i}\t10\t11\t{a}\t{b}",
         {"0", "1"}}}},
      {"stsb",
       {"STS-B",
        {"index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
         "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
         "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
         "{i}\tg\tf\ty\t7\tn\tm\t{a}\t{b}\t{label}",
         "{i}\tg\tf\ty\t7\tn\tm\t{a}\t{b}\t{label}",
         "{i}\tg\tf\ty\t7\tn\tm\t{a}\t{b}",
         {"0.5", "4.250", "2.8"}}}},
      {"qqp",
       {"QQP",
        {"id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
         "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
         "id\tquestion1\tquestion2",
         "{i}\t1\t2\t{a}\t{b}\t{label}",
         "{i}\t1\t2\t{a}\t{b}\t{label}",
         "{i}\t{a}\t{b}",
         {"0", "1"}}}},
      {"mnli",
       {"MNLI",
        {"index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
         "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
         "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
         "sentence2_parse\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
         "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
         "sentence2_parse\tsentence1\tsentence2",
         "{i}\t1\t2\tg\t(x)\t(y)\t(x)\t(y)\t{a}\t{b}\t{label}\t{label}",
         "{i}\t1\t2\tg\t(x)\t(y)\t(x)\t(y)\t{a}\t{b}\tneutral\tneutral\tneutral\tneutral\tneutral\t{label}",
         "{i}\t1\t2\tg\t(x)\t(y)\t(x)\t(y)\t{a}\t{b}",
         {"entailment", "neutral", "contradiction"},
         {"dev_matched.tsv", "dev_mismatched.tsv"},
         {"test_matched.tsv", "test_mismatched.tsv"}}}},
      {"qnli",
       {"QNLI",
        {"index\tquestion\tsentence\tlabel",
         "index\tquestion\tsentence\tlabel",
         "index\tquestion\tsentence",
         "{i}\t{a}\t{b}\t{label}",
         "{i}\t{a}\t{b}\t{label}",
         "{i}\t{a}\t{b}",
         {"entailment", "not_entailment"}}}},
      {"rte",
       {"RTE",
        {index_pair + "\tlabel",
         index_pair + "\tlabel",
         index_pair,
         "{i}\t{a}\t{b}\t{label}",
         "{i}\t{a}\t{b}\t{label}",
         "{i}\t{a}\t{b}",
         {"entailment", "not_entailment"}}}},
      {"wnli",
       {"WNLI",
        {index_pair + "\tlabel",
         index_pair + "\tlabel",
         index_pair,
         "{i}\t{a}\t{b}\t{label}",
         "{i}\t{a}\t{b}\t{label}",
         "{i}\t{a}\t{b}",
         {"0", "1"}}}},
  };
  return all;
}

std::string table(const std::string& header, const std::string& row, const std::vector<std::string>& labels,
                  std::size_t first, std::size_t count) {
  std::string text = header.empty() ? "" : header + "\n";
  for (std::size_t i = 0; i < count; ++i) {
    std::string line = row;
    const std::size_t n = first + i;
    for (const auto& [name, value] :
         {std::pair<std::string, std::string>{"{a}", sentences[n % sentences.size()]},
          {"{b}", sentences[(n * 3 + 1) % sentences.size()]},
          {"{label}", labels[n % labels.size()]},
          {"{i}", std::to_string(i)}}) {
      for (std::size_t at = line.find(name); at != std::string::npos; at = line.find(name))
        line.replace(at, name.size(), value);
    }
    text += line + "\n";
  }
  return text;
}

constexpr std::size_t dev_rows = 6;

/// Writes a task's folder; the sentences of dev and test are the same.
void write_task(const fs::path& data, const std::string& task) {
  const auto& [folder, layout] = layouts().at(task);
  write_file(data / folder / "train.tsv", table(layout.train_header, layout.train_row, layout.labels, 0, 16));
  for (std::size_t i = 0; i < layout.dev_files.size(); ++i) {
    const std::size_t first = 3 + 2 * i;  // matched and mismatched differ
    write_file(data / folder / layout.dev_files[i],
               table(layout.dev_header, layout.dev_row, layout.labels, first, dev_rows));
    write_file(data / folder / layout.test_files[i],
               table(layout.test_header, layout.test_row, layout.labels, first, dev_rows));
  }
}

std::vector<std::vector<std::string>> read_rows(const std::string& text) {
  std::vector<std::vector<std::string>> rows;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    std::vector<std::string> row;
    std::istringstream fields(line);
    for (std::string field; std::getline(fields, field, '\t');)
      row.push_back(field);
    rows.push_back(row);
  }
  return rows;
}

/// The tiny BERT without a head, as models come before they are trained on a task.
const fs::path& headless() {
  static const fs::path path = [] {
    fs::path folder = fresh_folder("headless");
    fs::copy(tiny(), folder, fs::copy_options::recursive);
    const io::SafetensorsFile file((tiny() / "model.safetensors").string());
    io::SafetensorsWriter writer;
    for (const std::string& name : file.names()) {
      if (!name.starts_with("classifier.")) writer.add(name, file.find(name).shape, file.read<float>(name));
    }
    writer.write((folder / "model.safetensors").string());
    return folder;
  }();
  return path;
}

std::string train_task(const std::string& task, const fs::path& data, const fs::path& output,
                       const std::string& more) {
  return "train --task " + task + " --data " + data.string() + " --model " + headless().string() +
         " --output " + output.string() + " --max-length 32 --batch-size 8 --threads 1 --products blas " +
         more;
}

}  // namespace

TEST_CASE("nine tasks: train, then predictions of dev and test, and a submission") {
  const fs::path data = fresh_folder("glue");
  for (const auto& [task, unused] : layouts())
    write_task(data, task);
  for (const auto& entry : layouts()) {
    const std::string& task = entry.first;
    CAPTURE(task);
    const Layout& layout = entry.second.second;
    const fs::path output = fresh_folder("nine");
    const Finished train =
        run(train_task(task, data, output, "--run-type ft --max-steps 3 --learning-rate 1e-3"));
    REQUIRE_MESSAGE(train.status == 0, train.err);
    const nlohmann::json log = json_of(output / "run.json");
    CHECK(log["data"]["train"]["examples"] == 16);
    CHECK(log["data"]["dev"]["examples"] == dev_rows);
    CHECK(log["best"]["defined"].is_boolean());

    const bool two = layout.test_files.size() == 2;
    for (const std::string& name :
         two ? std::vector<std::string>{"mnli", "mnli-mm"} : std::vector<std::string>{task}) {
      CAPTURE(name);
      const std::string words = "evaluate --threads 1 --products blas --max-length 32 --task " + name +
                                " --data " + data.string() + " --model " + (output / "model").string();
      const Finished dev = run(words + " --predictions " + (output / "dev.tsv").string());
      REQUIRE_MESSAGE(dev.status == 0, dev.err);
      const Finished test = run(words + " --split test --predictions " + (output / "test.tsv").string() +
                                " --submission " + (output / "submission.tsv").string());
      REQUIRE_MESSAGE(test.status == 0, test.err);
      const auto on_dev = read_rows(content(output / "dev.tsv"));
      const auto on_test = read_rows(content(output / "test.tsv"));
      const auto submitted = read_rows(content(output / "submission.tsv"));
      REQUIRE(on_dev.size() == dev_rows);
      REQUIRE(on_test.size() == dev_rows);
      REQUIRE(submitted.size() == dev_rows + 1);
      CHECK(submitted[0] == std::vector<std::string>{"index", "prediction"});
      for (std::size_t i = 0; i < dev_rows; ++i) {
        const std::vector<std::string> logits(on_dev[i].begin(), on_dev[i].end() - 1);
        // The test files' columns hold the same sentences.
        CHECK(on_test[i] == logits);  // and no label
        REQUIRE(submitted[i + 1].size() == 2);
        CHECK(submitted[i + 1][0] == std::to_string(i));
        const std::string& prediction = submitted[i + 1][1];
        if (task == "stsb") {
          CHECK(std::stod(prediction) ==
                doctest::Approx(std::clamp(std::stod(logits[0]), 0.0, 5.0)).epsilon(1e-3).scale(1));
          CHECK(prediction.size() == 5);
          continue;
        }
        REQUIRE(logits.size() == layout.labels.size());
        const auto largest = std::max_element(logits.begin(), logits.end(), [](const auto& x, const auto& y) {
          return std::stod(x) < std::stod(y);
        });
        CHECK(prediction == layout.labels[static_cast<std::size_t>(largest - logits.begin())]);
      }
    }
  }
}

TEST_CASE("MNLI is evaluated on both dev sets where both are there") {
  const fs::path data = fresh_folder("both");
  write_task(data, "mnli");
  const fs::path output = fresh_folder("mnli");
  const std::string words =
      train_task("MNLI", data, output, "--run-type ft --max-steps 4 --eval-every 2 --learning-rate 1e-3 ");
  const Finished train = run(words);
  REQUIRE_MESSAGE(train.status == 0, train.err);
  check_says(train.out, "6 of the second dev set");
  check_says(train.out, "accuracy_mm");
  const nlohmann::json log = json_of(output / "run.json");
  CHECK(log["best"]["metric"] == "accuracy");
  CHECK(log["data"]["second_dev"]["examples"] == dev_rows);
  const auto metric_of = [&](const std::string& task) {
    const Finished evaluated = run("evaluate --threads 1 --products blas --max-length 32 --task " + task +
                                   " --data " + data.string() + " --model " + (output / "model").string());
    REQUIRE_MESSAGE(evaluated.status == 0, evaluated.err);
    const std::size_t at = evaluated.out.find("accuracy ");
    REQUIRE(at != std::string::npos);
    return std::stod(evaluated.out.substr(at + 9));
  };
  for (const nlohmann::json& evaluation : log["evaluations"]) {
    if (evaluation["step"] != log["best"]["step"]) continue;
    CHECK(evaluation["metrics"]["accuracy"].get<double>() ==
          doctest::Approx(metric_of("mnli")).epsilon(1e-5));
    CHECK(evaluation["metrics"]["accuracy_mm"].get<double>() ==
          doctest::Approx(metric_of("mnli-mm")).epsilon(1e-5));
  }
  fs::remove(data / "MNLI" / "dev_mismatched.tsv");
  REQUIRE(run(words + "--no-save --overwrite").status == 0);
  const nlohmann::json alone = json_of(output / "run.json");
  CHECK_FALSE(alone["evaluations"][0]["metrics"].contains("accuracy_mm"));
  CHECK_FALSE(alone["data"].contains("second_dev"));
}

TEST_CASE("a model of MNLI takes GLUE's diagnostic set") {
  const fs::path data = fresh_folder("diagnostic_data");
  write_task(data, "mnli");
  write_file(data / "diagnostic" / "diagnostic.tsv",
             "index\tsentence1\tsentence2\n0\tthe cat slept\ta dog ran\n1\tshe reads\tshe never reads\n");
  std::string full =
      "Lexical Semantics\tPredicate-Argument "
      "Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel\n";
  for (const char* label : {"entailment", "neutral", "contradiction", "neutral"})
    full += "\t\tNegation\t\tArtificial\tthe cat slept\ta dog ran\t"s + label + "\n";
  write_file(data / "diagnostic" / "diagnostic-full.tsv", full);
  const fs::path output = fresh_folder("diagnostic");
  const Finished train =
      run(train_task("mnli", data, output, "--run-type ft --max-steps 3 --learning-rate 1e-3"));
  REQUIRE_MESSAGE(train.status == 0, train.err);

  const std::string words = "evaluate --threads 1 --products blas --max-length 32 --task ax --data " +
                            data.string() + " --model " + (output / "model").string();
  const Finished test = run(words + " --split test --submission " + (output / "AX.tsv").string());
  REQUIRE_MESSAGE(test.status == 0, test.err);
  const auto submitted = read_rows(content(output / "AX.tsv"));
  REQUIRE(submitted.size() == 3);
  const std::vector<std::string> names{"entailment", "neutral", "contradiction"};
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(submitted[i + 1][0] == std::to_string(i));
    CHECK(std::count(names.begin(), names.end(), submitted[i + 1][1]) == 1);
  }
  // One prediction for equal pairs: a correlation that is not defined, and the share of the predicted class.
  const Finished dev = run(words);
  REQUIRE_MESSAGE(dev.status == 0, dev.err);
  check_says(dev.out, "4 examples of dev");
  check_says(dev.out, "matthews_correlation 0.000000 (undefined)");
  check_says(dev.out, submitted[1][1] == "neutral" ? "accuracy 0.500000" : "accuracy 0.250000");

  const Finished refused = run(train_task("ax", data, fresh_folder("diagnostic_train"), "--max-steps 1"));
  CHECK(refused.status == 1);
  check_says(refused.err, "task ax: has no train split: train on mnli, and evaluate that model");
}

TEST_CASE(
    "what datasets writes: CSV trains as TSV does, rows without a label are told, indices are submitted") {
  const fs::path tsv = fresh_folder("as_tsv");
  const fs::path csv = fresh_folder("as_csv");
  write_task(tsv, "mnli");
  const Layout& layout = layouts().at("mnli").second;
  const auto number = [&](const std::string& label) {
    return std::to_string(std::find(layout.labels.begin(), layout.labels.end(), label) -
                          layout.labels.begin());
  };
  for (const auto& [from, to] :
       {std::pair("train.tsv", "train.csv"), {"dev_matched.tsv", "validation_matched.csv"}}) {
    std::string text = "premise,hypothesis,label,idx\n";
    auto rows = read_rows(content(tsv / "MNLI" / from));
    for (std::size_t i = 1; i < rows.size(); ++i)
      text += "\"" + rows[i][8] + "\"," + rows[i][9] + "," + number(rows[i].back()) + "," +
              std::to_string(i) + "\n";
    if (to == "train.csv"s) text += "a pair,with no label,-1,99\n";
    write_file(csv / "MNLI" / to, text);
  }
  write_file(csv / "MNLI" / "test_matched.csv", "premise,hypothesis,label,idx\na,\"b, c\",-1,5\nd,e,-1,2\n");

  fs::remove(tsv / "MNLI" / "dev_mismatched.tsv");
  nlohmann::json logs[2];
  for (const fs::path& data : {tsv, csv}) {
    const fs::path output = fresh_folder("written");
    const Finished train =
        run(train_task("mnli", data, output, "--run-type ft --max-steps 2 --learning-rate 1e-3"));
    REQUIRE_MESSAGE(train.status == 0, train.err);
    logs[data == csv] = json_of(output / "run.json");
    if (data == csv) check_says(train.out, "1 rows without a label left out");
  }
  CHECK(logs[0]["evaluations"][0]["loss"] == logs[1]["evaluations"][0]["loss"]);
  CHECK(logs[0]["data"]["train"]["unlabelled_rows"] == 0);
  CHECK(logs[1]["data"]["train"]["unlabelled_rows"] == 1);
  CHECK(logs[1]["data"]["train"]["examples"] == 16);

  const fs::path output = SPARSEGRAD_TEST_OUTPUT_DIR "/written";
  const Finished test = run(
      "evaluate --threads 1 --products blas --max-length 32 --task mnli --split test --data " + csv.string() +
      " --model " + (output / "model").string() + " --submission " + (output / "MNLI-m.tsv").string());
  REQUIRE_MESSAGE(test.status == 0, test.err);
  const auto submitted = read_rows(content(output / "MNLI-m.tsv"));
  REQUIRE(submitted.size() == 3);
  CHECK(submitted[1][0] == "5");
  CHECK(submitted[2][0] == "2");
}

TEST_CASE("a BERT of one token type takes pairs, whose types are all 0") {
  const fs::path model = fresh_folder("one_type");
  fs::copy(headless(), model, fs::copy_options::recursive);
  const io::SafetensorsFile file((headless() / "model.safetensors").string());
  io::SafetensorsWriter writer;
  for (const std::string& name : file.names()) {
    auto shape = file.find(name).shape;
    auto values = file.read<float>(name);
    if (name.ends_with("token_type_embeddings.weight")) {
      shape.at(0) = 1;
      values.resize(static_cast<std::size_t>(shape.at(1)));
    }
    writer.add(name, shape, values);
  }
  writer.write((model / "model.safetensors").string());
  nlohmann::json config = json_of(model / "config.json");
  config["type_vocab_size"] = 1;
  write_file(model / "config.json", config.dump());
  const fs::path data = fresh_folder("one_type_data");
  write_task(data, "mrpc");
  write_task(data, "cola");
  const fs::path output = fresh_folder("one_type_output");
  const auto notes_of = [&](const std::string& task) {
    const Finished train =
        run("train --task " + task + " --data " + data.string() + " --model " + model.string() +
            " --output " + output.string() +
            " --max-length 32 --batch-size 8 --threads 1 --run-type ft --max-steps 1 --no-save --overwrite");
    REQUIRE_MESSAGE(train.status == 0, train.err);
    return json_of(output / "run.json")["tokenizer"]["notes"].dump();
  };
  check_says(notes_of("mrpc"), "the model knows one token type: the second sentence of a pair has it too");
  CHECK(notes_of("cola").find("token type") == std::string::npos);
}

TEST_CASE("data of a train split alone: trained on with --held-out, and evaluated") {
  const fs::path folder = fresh_folder("train_alone");
  std::string rows = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n";
  for (std::size_t i = 0; i < 32; ++i) {
    rows += std::to_string(i) + "\t1\t2\t\"" + sentences[i % sentences.size()] + "\"\t" +
            sentences[(i + i / 8) % sentences.size()] + "\t" + std::to_string(i % 2) + "\n";
  }
  write_file(folder / "QQP" / "quora_duplicate_questions.tsv", rows);
  const std::string words =
      " --task qqp --data '" + folder.string() + "' --threads 1 --products blas --max-length 32 ";
  const std::string train = "train --run-type ft --max-steps 1 --quiet --model '" + tiny().string() +
                            "' --output '" + (folder / "run").string() + "'" + words;
  const Finished without = run(train);
  CHECK(without.status == 1);
  check_says(without.err, "expected dev.tsv in");
  check_says(without.err, "Or evaluate on a part of the training set: --held-out 0.1");
  const Finished trained = run(train + "--held-out 0.25");
  REQUIRE_MESSAGE(trained.status == 0, trained.err);
  const std::string evaluate = "evaluate --model '" + (folder / "run" / "model").string() + "'" + words;
  const Finished evaluated = run(evaluate + "--split train");
  CHECK_MESSAGE(evaluated.status == 0, evaluated.err);
  check_says(evaluated.out, "32 examples of train");
  check_says(evaluated.out, "f1 ");
  const Finished dev = run(evaluate);
  CHECK(dev.status == 1);
  check_says(dev.err, "expected dev.tsv in");
  CHECK(dev.err.find("--held-out") == std::string::npos);
}

TEST_CASE("rows that are left out are counted, and another task's folder is refused") {
  const fs::path data = fresh_folder("skipped");
  write_task(data, "qqp");
  write_task(data, "qnli");
  std::ofstream(data / "QQP" / "train.tsv", std::ios::app) << "99\t1\t2\tcut off\n98\t1\n";
  const fs::path output = fresh_folder("qqp");
  const Finished train = run(train_task("qqp", data, output, "--run-type ft --max-steps 1 --no-save"));
  REQUIRE_MESSAGE(train.status == 0, train.err);
  check_says(train.out, "2 malformed rows left out");
  const nlohmann::json log = json_of(output / "run.json");
  CHECK(log["data"]["train"]["skipped_rows"] == 2);
  CHECK(log["data"]["train"]["examples"] == 16);
  CHECK(log["data"]["dev"]["skipped_rows"] == 0);

  const Finished other = run(train_task("rte", data / "QNLI", output, "--max-steps 1 --no-save --overwrite"));
  CHECK(other.status == 1);
  check_says(other.err, "to be the folder of task qnli");
}

TEST_CASE("a RoBERTa is trained, saved and evaluated: LoRA merged, the MLPs alone, sparse") {
  const fs::path model = make_tiny_roberta(fresh_folder("roberta"));
  for (const char* type : {"lora --lora-rank 4", "ft --train-parameters mlp",
                           "sparse --preset best --phase1-steps 2 --width-side 8"}) {
    CAPTURE(type);
    const fs::path output = fresh_folder("roberta_run");
    const std::string common =
        " --task cola --threads 1 --products blas --max-length 48 --dev-limit 64 --model ";
    const Finished train =
        run("train" + common + model.string() + " --output " + output.string() +
            " --train-limit 128 --batch-size 8 --max-steps 12 --eval-every 12 --learning-rate 3e-3 "
            "--run-type " +
            type);
    REQUIRE_MESSAGE(train.status == 0, train.err);
    const nlohmann::json log = json_of(output / "run.json");
    const double loss = log["evaluations"][0]["loss"];
    const Finished evaluated = run("evaluate" + common + (output / "model").string());
    REQUIRE_MESSAGE(evaluated.status == 0, evaluated.err);
    const std::size_t at = evaluated.out.find("loss ");
    REQUIRE(at != std::string::npos);
    CHECK(std::stod(evaluated.out.substr(at + 5)) == doctest::Approx(loss).epsilon(1e-4));

    const io::SafetensorsFile before((model / "model.safetensors").string());
    const io::SafetensorsFile after((output / "model" / "model.safetensors").string());
    CHECK(before.names().size() == after.names().size());
    const auto changed = [&](const std::string& name) {
      return before.read<float>(name) != after.read<float>(name);
    };
    CHECK(changed("roberta.encoder.layer.1.intermediate.dense.weight"));
    CHECK(changed("classifier.out_proj.weight"));
    const bool all = std::string(type).find("mlp") == std::string::npos;
    CHECK(changed("roberta.encoder.layer.0.attention.self.query.weight") == all);
  }
}
