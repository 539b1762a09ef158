// Heads: what config.json says of the outputs, and how they serve a task. Saved configurations.
#include <algorithm>
#include <functional>

#include <sparsegrad/io/safetensors.hpp>

#include "data/glue.hpp"
#include "program.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
using nlohmann::json;

namespace {

namespace fs = std::filesystem;
using Blas = HostBackend;
using Names = std::vector<std::string>;
using Rows = std::vector<index_t>;

json id2label(const Names& names) {
  json field = json::object();
  for (std::size_t i = 0; i < names.size(); ++i)
    field[std::to_string(i)] = names[i];
  return field;
}

json label2id(const Names& names) {
  json field = json::object();
  for (std::size_t i = 0; i < names.size(); ++i)
    field[names[i]] = i;
  return field;
}

HeadLabels labels_of(const json& fields) {
  return parse_head_labels(fields, "config.json");
}

std::string labels_error(const json& fields) {
  return error_of([&] { labels_of(fields); });
}

/// The configuration that a run on the task asks for.
ModelConfig of_task(std::string_view name, ModelConfig config = {}) {
  const Task& task = find_task(name);
  config.num_labels = task.num_labels;
  config.label_names.assign(task.class_names.begin(), task.class_names.end());
  config.problem = task.regression ? ProblemType::regression : ProblemType::classification;
  return config;
}

HeadMatch match(const json& fields, index_t outputs, std::string_view task) {
  return match_head(labels_of(fields), outputs, of_task(task));
}

/// A tiny model of the family with other fields in config.json (null removes one) and other tensors.
fs::path altered(const std::string& folder, ModelFamily family, const json& fields,
                 const std::function<std::vector<float>(const std::string&, std::vector<index_t>&,
                                                        std::vector<float>)>& change) {
  static const fs::path roberta = make_tiny_roberta(fresh_folder("tiny_roberta"));
  const fs::path source = family == ModelFamily::roberta ? roberta : tiny();
  const fs::path path = fresh_folder(folder);
  fs::copy(source, path, fs::copy_options::recursive);
  json config = json_of(source / "config.json");
  config.merge_patch(fields);
  write_file(path / "config.json", config.dump());
  const io::SafetensorsFile file((source / "model.safetensors").string());
  io::SafetensorsWriter writer;
  for (const std::string& name : file.names()) {
    std::vector<index_t> shape = file.find(name).shape;
    std::vector<float> values = change(name, shape, file.read<float>(name));
    if (!values.empty()) writer.add(name, shape, values);
  }
  writer.write((path / "model.safetensors").string());
  return path;
}

const std::string& output_of(ModelFamily family) {
  static const std::string names[] = {"classifier", "classifier.out_proj"};
  return names[family == ModelFamily::roberta ? 1 : 0];
}

/// A head of so many outputs: row i of the weight is i + 1, i + 1.25, ..., entry i of the bias 10 (i + 1).
auto head_of(ModelFamily family, const Rows& order) {
  const std::string output = output_of(family);
  return [output, order](const std::string& name, std::vector<index_t>& shape, std::vector<float> values) {
    if (!name.starts_with(output + ".")) return values;
    const bool bias = name.ends_with("bias");
    const index_t width = bias ? 1 : shape[1];
    shape[0] = static_cast<index_t>(order.size());
    values.clear();
    for (const index_t row : order) {
      for (index_t j = 0; j < width; ++j)
        values.push_back(bias ? 10 * static_cast<float>(row + 1)
                              : static_cast<float>(row + 1) + 0.25F * static_cast<float>(j));
    }
    return values;
  };
}

/// Loaded for a task.
struct Loaded {
  Blas::Context ctx{1};
  ModelDirectory directory;
  std::unique_ptr<EncoderModel<float, Blas>> model;
  LoadReport report;

  Loaded(const fs::path& path, std::string_view task) : directory(open_model_directory(path)) {
    directory.config = of_task(task, directory.config);
    model = std::make_unique<EncoderModel<float, Blas>>(ctx, directory.config);
    report = load_weights(directory, *model, 3);
  }
  std::vector<float> values(const std::string& name) const {
    return model->values(std::as_const(*model).parameters().at(name).weight);
  }
};

}  // namespace

TEST_CASE("every task has a name for each class, in the order of its labels") {
  for (const Task& task : all_tasks()) {
    CAPTURE(task.name);
    CHECK(static_cast<int>(task.class_names.size()) == (task.regression ? 0 : task.num_labels));
    if (!task.label_names.empty()) CHECK(task.label_names == task.class_names);
  }
  CHECK(find_task("sst2").class_names == std::vector<std::string_view>{"negative", "positive"});
  CHECK(find_task("wnli").class_names == std::vector<std::string_view>{"not_entailment", "entailment"});
}

TEST_CASE("labels: id2label, label2id, a count, and what they contradict") {
  const Names names{"b", "a", "c"};
  CHECK(labels_of(json::object()).count == 0);
  CHECK(labels_of({{"id2label", json::object()}, {"label2id", nullptr}}).count == 0);
  CHECK(labels_of({{"id2label", id2label(names)}}).names == names);
  CHECK(labels_of({{"label2id", label2id(names)}}).names == names);
  CHECK(labels_of({{"label2id", {{"x", "1"}, {"y", "0"}}}}).names == Names{"y", "x"});
  CHECK(labels_of({{"id2label", id2label(names)}, {"label2id", label2id(names)}}).names == names);
  // Further names and other spellings of the same ones.
  json more = label2id({"B", "A", "C"});
  more["beta"] = 0;
  CHECK(labels_of({{"id2label", id2label(names)}, {"label2id", more}}).names == names);
  CHECK(labels_of({{"num_labels", 5}}).count == 5);
  CHECK(labels_of({{"_num_labels", 4}}).count == 4);
  // What only numbers the outputs is no name, and gives way to what is.
  const Names numbers{"LABEL_0", "LABEL_1", "LABEL_2"};
  CHECK(labels_of({{"id2label", id2label(numbers)}}).count == 3);
  CHECK(labels_of({{"id2label", id2label(numbers)}}).names.empty());
  CHECK(labels_of({{"id2label", {{"0", 0}, {"1", 1}}}}).count == 2);
  CHECK(labels_of({{"id2label", id2label(numbers)}, {"label2id", label2id(names)}}).names == names);
  CHECK(labels_of({{"id2label", id2label(names)}, {"label2id", label2id({"LABEL_0", "LABEL_1"})}}).names ==
        names);
  CHECK(labels_of({{"id2label", id2label({"LABEL_0", "LABEL_1"})}, {"num_labels", 3}}).count == 3);

  // A name of several outputs: label2id, which transformers makes from id2label, has room for one of them.
  const json twice = id2label({"no", "yes", "NO"});
  for (const json& of_name : {json{{"no", 2}, {"yes", 1}}, json{{"no", 0}, {"yes", 1}}})
    CHECK(labels_of({{"id2label", twice}, {"label2id", of_name}}).names == Names{"no", "yes", "NO"});
  check_says(labels_error({{"id2label", twice}, {"label2id", {{"no", 1}, {"yes", 1}}}}),
             "contradict each other");
  check_says(labels_error({{"id2label", twice}, {"label2id", {{"no", 3}, {"yes", 1}}}}),
             "contradict each other");

  const std::string both =
      labels_error({{"id2label", id2label(names)}, {"label2id", label2id({"a", "b", "c"})}});
  check_says(both, "config.json: \"id2label\" is {\"0\":\"b\"");
  check_says(both, "\"label2id\" {\"a\":0");
  check_says(labels_error({{"id2label", id2label({"LABEL_0"})}, {"label2id", label2id(names)}}),
             "contradict each other");
  check_says(labels_error({{"id2label", id2label(names)}, {"num_labels", 2}}),
             "\"num_labels\" is 2 and \"id2label\" names 3 outputs (b, a, c)");
  check_says(labels_error({{"label2id", {{"x", 1}, {"y", 1}}}}), "from 0 to 1, once each");
  check_says(labels_error({{"label2id", {{"x", 0}, {"y", 2}}}}), "from 0 to 1, once each");
  check_says(labels_error({{"label2id", {{"x", 0.5}}}}), "0.5 for \"x\"");
  check_says(labels_error({{"label2id", {{"x", -1}}}}), "-1 for \"x\"");
  check_says(labels_error({{"label2id", {1, 2}}}), "expected an object");
  check_says(labels_error({{"id2label", {"a", "b"}}}), "expected an object");
  check_says(labels_error({{"id2label", {{"0", "a"}, {"2", "b"}}}}), "no name for label 1");
  check_says(labels_error({{"id2label", {{"0", nullptr}}}}), "no name for label 0");
  check_says(labels_error({{"num_labels", 0}}), "\"num_labels\" is 0");
  check_says(labels_error({{"num_labels", "3"}}), "\"num_labels\"");
  check_says(labels_error({{"problem_type", "ranking"}}), "\"problem_type\" is \"ranking\"");
  check_says(labels_error({{"problem_type", 3}}), "\"problem_type\" is 3");
}

TEST_CASE("heads: the same names in any spelling and order, numbers, and others") {
  // roberta-large-mnli.
  HeadMatch found = match({{"id2label", id2label({"CONTRADICTION", "NEUTRAL", "ENTAILMENT"})}}, 3, "mnli");
  CHECK(found.usable);
  CHECK(found.rows == Rows{2, 1, 0});
  CHECK(found.found == "3 outputs (CONTRADICTION, NEUTRAL, ENTAILMENT)");
  CHECK(found.wanted == "3 outputs (entailment, neutral, contradiction)");
  found = match({{"id2label", id2label({"contradiction", "entailment", "neutral"})}}, 3, "mnli-mm");
  CHECK(found.rows == Rows{1, 2, 0});
  for (const Names& names : {Names{"not entailment", "Entailment"}, Names{"NOT-ENTAILMENT", "ENTAILMENT"},
                             Names{"not_entailment", "entailment"}, Names{"NotEntailment", "entailment"}}) {
    CAPTURE(names[0]);
    CHECK(match({{"id2label", id2label(names)}}, 2, "rte").rows == Rows{1, 0});
    CHECK(match({{"id2label", id2label(names)}}, 2, "qnli").rows == Rows{1, 0});
    CHECK(match({{"id2label", id2label(names)}}, 2, "wnli").rows.empty());
    CHECK(match({{"id2label", id2label(names)}}, 2, "wnli").usable);
  }
  for (const Task& task : all_tasks()) {
    if (task.regression) continue;
    CAPTURE(task.name);
    Names names(task.class_names.begin(), task.class_names.end());
    const auto outputs = static_cast<index_t>(names.size());
    CHECK(match({{"id2label", id2label(names)}}, outputs, task.name).usable);
    CHECK(match({{"id2label", id2label(names)}}, outputs, task.name).rows.empty());
    std::reverse(names.begin(), names.end());
    for (std::string& name : names) {
      for (char& c : name)
        c = c == '_' ? ' ' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    }
    Rows reversed;
    for (index_t i = outputs - 1; i >= 0; --i)
      reversed.push_back(i);
    CHECK(match({{"id2label", id2label(names)}}, outputs, task.name).rows == reversed);
    CHECK(match(json::object(), outputs, task.name).usable);
  }
  // Numbers are classes by number.
  CHECK(match({{"id2label", id2label({"LABEL_0", "LABEL_1"})}}, 2, "rte").rows.empty());
  CHECK(match({{"id2label", id2label({"1", "0"})}}, 2, "rte").rows == Rows{1, 0});
  CHECK(match({{"id2label", id2label({"label-2", "LABEL_0", "label 1"})}}, 3, "mnli").rows == Rows{1, 2, 0});
  CHECK_FALSE(match({{"id2label", id2label({"1", "1"})}}, 2, "rte").usable);
  CHECK_FALSE(match({{"id2label", id2label({"1", "2"})}}, 2, "rte").usable);

  // Another task's.
  found = match({{"id2label", id2label({"NEGATIVE", "POSITIVE"})}}, 2, "rte");
  CHECK_FALSE(found.usable);
  CHECK(found.only_names);
  CHECK_FALSE(match({{"id2label", id2label({"positive", "positive"})}}, 2, "sst2").usable);
  found = match({{"id2label", id2label({"entailment", "neutral", "contradiction"})}}, 3, "rte");
  CHECK_FALSE(found.usable);
  CHECK_FALSE(found.only_names);
  Names many;
  for (int i = 0; i < 28; ++i)
    many.push_back("feeling" + std::to_string(i));
  CHECK(match({{"id2label", id2label(many)}}, 28, "rte").found.ends_with("feeling11, and 16 more)"));

  // One score, and what is none.
  const Names score{"similarity"};
  CHECK(match({{"id2label", id2label(score)}}, 1, "stsb").usable);
  CHECK(match({{"num_labels", 1}}, 1, "stsb").usable);
  CHECK(match({{"num_labels", 1}, {"problem_type", "regression"}}, 1, "stsb").usable);
  CHECK_FALSE(match({{"num_labels", 1}, {"problem_type", "single_label_classification"}}, 1, "stsb").usable);
  CHECK_FALSE(match({{"num_labels", 1}}, 1, "rte").usable);
  CHECK_FALSE(match({{"num_labels", 2}}, 2, "stsb").usable);
  found =
      match({{"id2label", id2label({"t0", "t1"})}, {"problem_type", "multi_label_classification"}}, 2, "rte");
  CHECK_FALSE(found.usable);
  CHECK(found.found == "2 outputs (multi-label classification: t0, t1)");
  CHECK_FALSE(match({{"num_labels", 3}, {"problem_type", "regression"}}, 3, "mnli").usable);
  for (const char* use : {"BertForMultipleChoice", "RobertaForTokenClassification"}) {
    found = match({{"architectures", {use}}}, 1, "stsb");
    CHECK_FALSE(found.usable);
    check_says(found.found, use);
  }
  CHECK(match({{"architectures", {"BertForSequenceClassification"}}}, 1, "stsb").usable);
  // Cross-encoders, as Sentence Transformers writes them.
  const char* sigmoid = "torch.nn.modules.activation.Sigmoid";
  const char* identity = "torch.nn.modules.linear.Identity";
  const char* old_field = "sbert_ce_default_activation_function";
  CHECK_FALSE(match({{"num_labels", 1}, {old_field, sigmoid}}, 1, "stsb").usable);
  CHECK(match({{"num_labels", 1}, {old_field, identity}}, 1, "stsb").usable);
  CHECK(match({{"num_labels", 2}, {old_field, sigmoid}}, 2, "rte").usable);
  CHECK_FALSE(
      match({{"num_labels", 1}, {"sentence_transformers", {{"activation_fn", sigmoid}}}}, 1, "stsb").usable);
}

TEST_CASE("a head in another order is loaded in the task's, bit for bit") {
  for (const ModelFamily family : {ModelFamily::bert, ModelFamily::roberta}) {
    CAPTURE(to_string(family));
    const Names theirs{"CONTRADICTION", "ENTAILMENT", "NEUTRAL"};
    const std::string output = output_of(family);
    // Row i of this head stands for class order[i] of the task.
    const Rows order{2, 0, 1};
    const json fields{{"id2label", id2label(theirs)}, {"label2id", label2id(theirs)}};
    const fs::path path = altered("reordered", family, fields, head_of(family, order));
    const Loaded loaded(path, "mnli");
    CHECK(loaded.report.head.rows == Rows{1, 2, 0});
    CHECK(loaded.report.initialized.empty());
    CHECK(loaded.report.unused.empty());
    check_says(loaded.report.text(), "head in the task's order: the file's has 3 outputs (CONTRADICTION");
    const fs::path straight =
        altered("straight", family, {{"id2label", nullptr}, {"label2id", nullptr}, {"num_labels", 3}},
                head_of(family, {0, 1, 2}));
    const Loaded same(straight, "mnli");
    CHECK(same.report.text() == "");
    check_says(same.report.head_text(),
               "no names for its outputs: taken for 3 outputs (entailment, neutral, c");
    for (const char* part : {".weight", ".bias"})
      CHECK(loaded.values(output + part) == same.values(output + part));
    CHECK(loaded.values(output + ".bias") == std::vector<float>{10, 20, 30});

    // Saved: the task's names in the task's order, which load as they are.
    const fs::path saved = fresh_folder("reordered_saved");
    save_model(saved, loaded.directory, *loaded.model);
    const json config = json_of(saved / "config.json");
    CHECK(config["id2label"] == id2label({"entailment", "neutral", "contradiction"}));
    CHECK(config["label2id"] == label2id({"entailment", "neutral", "contradiction"}));
    const Loaded again(saved, "mnli");
    CHECK(again.report.text() == "");
    CHECK(again.report.head_text() == "the file's");
    CHECK(again.values(output + ".weight") == loaded.values(output + ".weight"));
  }
}

TEST_CASE("another task's head: a new one, and the layer before it is kept; wrong numbers of outputs") {
  for (const ModelFamily family : {ModelFamily::bert, ModelFamily::roberta}) {
    CAPTURE(to_string(family));
    const bool roberta = family == ModelFamily::roberta;
    const std::string output = output_of(family);
    const std::string before = roberta ? "classifier.dense.weight" : "bert.pooler.dense.weight";
    const Names theirs{"entailment", "neutral", "contradiction"};
    const fs::path path =
        altered("foreign", family, {{"id2label", id2label(theirs)}, {"label2id", label2id(theirs)}},
                head_of(family, {0, 1, 2}));
    const io::SafetensorsFile file((path / "model.safetensors").string());
    for (const char* task : {"rte", "mrpc", "stsb"}) {
      CAPTURE(task);
      const Loaded loaded(path, task);
      CHECK(loaded.report.initialized == std::vector<std::string>{output + ".weight", output + ".bias"});
      CHECK(loaded.report.unused.size() == 2);
      check_says(loaded.report.head_text(), "new: the file's has 3 outputs (entailment, neutral, contradic");
      CHECK(loaded.values(before) == file.read<float>(before));
      const std::vector<float> weight = loaded.values(output + ".weight");
      const float largest = *std::max_element(weight.begin(), weight.end());
      CHECK(largest > 0);
      CHECK(largest < 0.2F);  // a draw of standard deviation 0.02, no row of the file
      CHECK(loaded.values(output + ".bias") ==
            std::vector<float>(static_cast<std::size_t>(find_task(task).num_labels), 0.0F));
    }
    // config.json and the tensors disagree.
    const auto three_rows = [&](const json& fields) {
      const fs::path folder = altered("rows", family, fields, head_of(family, {0, 1, 2}));
      return error_of([&] { const Loaded loaded(folder, "rte"); });
    };
    check_says(three_rows({{"id2label", {{"0", "no"}, {"1", "yes"}}}, {"label2id", nullptr}}),
               "\"" + output + ".weight\" has 3 rows, one an output, and config.json speaks of 2");
    check_says(three_rows({{"id2label", nullptr}, {"label2id", nullptr}, {"num_labels", 2}}), "speaks of 2");
    // Nothing said: as many as there are.
    const fs::path silent =
        altered("silent", family, {{"id2label", nullptr}, {"label2id", nullptr}}, head_of(family, {0, 1, 2}));
    CHECK(Loaded(silent, "mnli").report.text() == "");
    CHECK_FALSE(Loaded(silent, "rte").report.head.usable);
    // No head: nothing to compare.
    const fs::path bare = altered("bare", family, {{"id2label", id2label({"no", "yes", "may"})}},
                                  [&](const std::string& name, std::vector<index_t>&, std::vector<float> x) {
                                    return name.starts_with(output + ".") ? std::vector<float>() : x;
                                  });
    CHECK(Loaded(bare, "rte").report.head_text() == "new: the file has none");
  }
}

TEST_CASE("a saved config.json says what is true of the new folder") {
  const json old{
      {"dtype", "bfloat16"},
      {"torch_dtype", "float16"},
      {"transformers_version", "5.0.0"},
      {"architectures", {"BertForMaskedLM"}},
      {"id2label", id2label({"NEGATIVE", "POSITIVE"})},
      {"label2id", label2id({"NEGATIVE", "POSITIVE"})},
      {"num_labels", 2},
      {"_num_labels", 2},
      {"problem_type", nullptr},
      {"finetuning_task", "sst2"},
      {"auto_map", {{"AutoConfig", "configuration_own.OwnConfig"}}},
      {"configuration_files", {"config.4.0.0.json"}},
      {"quantization_config", nullptr},
      {"pruned_heads", json::object()},
      {"is_decoder", false},
      {"add_cross_attention", false},
      {"use_cache", true},
      {"classifier_dropout", nullptr},
      {"gradient_checkpointing", false},
      {"attn_implementation", "flash_attention_2"},
      {"_attn_implementation", "flash_attention_2"},
      {"_attn_implementation_autoset", true},
      {"_name_or_path", "elsewhere"},
      {"_commit_hash", "0123"},
      {"sbert_ce_default_activation_function", "torch.nn.modules.activation.Sigmoid"},
      {"sentence_transformers", {{"activation_fn", "torch.nn.modules.activation.Sigmoid"}, {"version", "5"}}},
      {"tie_word_embeddings", true},
      {"bos_token_id", 0},
      {"my_own_field", {{"a", {1, 2}}}}};
  for (const ModelFamily family : {ModelFamily::bert, ModelFamily::roberta}) {
    CAPTURE(to_string(family));
    json original = json_of(altered("keys", family, old, head_of(family, {0, 1})) / "config.json");
    original["classifier_dropout"] = nullptr;  // merge_patch takes it for a removal
    original["id2label"] = id2label({"NEGATIVE", "POSITIVE"});
    const ModelConfig config = of_task("rte", parse_model_config(original, "config.json"));
    const json saved = to_json(config, original, io::DType::f16);
    for (const char* gone : {"transformers_version", "num_labels", "_num_labels", "finetuning_task",
                             "auto_map", "configuration_files", "attn_implementation", "_attn_implementation",
                             "_attn_implementation_autoset", "_name_or_path", "_commit_hash"}) {
      CHECK_MESSAGE(!saved.contains(gone), gone << " is kept");
    }
    for (const char* kept :
         {"pruned_heads", "is_decoder", "add_cross_attention", "use_cache", "classifier_dropout",
          "gradient_checkpointing", "tie_word_embeddings", "bos_token_id", "my_own_field"}) {
      REQUIRE_MESSAGE(saved.contains(kept), kept << " is gone");
      CHECK_MESSAGE(saved[kept] == original[kept], kept << " is " << saved[kept].dump());
    }
    CHECK(saved["dtype"] == "float16");
    CHECK(saved["torch_dtype"] == "float16");
    CHECK(saved["architectures"] ==
          json::array({family == ModelFamily::roberta ? "RobertaForSequenceClassification"
                                                      : "BertForSequenceClassification"}));
    CHECK(saved["id2label"] == id2label({"entailment", "not_entailment"}));
    CHECK(saved["label2id"] == label2id({"entailment", "not_entailment"}));
    CHECK(saved["problem_type"] == "single_label_classification");
    CHECK(saved["sbert_ce_default_activation_function"] == "torch.nn.modules.linear.Identity");
    CHECK(saved["sentence_transformers"] ==
          json{{"activation_fn", "torch.nn.modules.linear.Identity"}, {"version", "5"}});
    CHECK(to_json(parse_model_config(saved, "saved"), saved, io::DType::f16) == saved);

    // torch_dtype, which all versions read, and the newer key where the source has it.
    for (const auto& [dtype, name] :
         {std::pair{io::DType::f32, "float32"}, {io::DType::bf16, "bfloat16"}, {io::DType::f16, "float16"}}) {
      json source = original;
      source.erase("torch_dtype");
      CHECK(to_json(config, source, dtype)["dtype"] == name);
      CHECK(to_json(config, source, dtype)["torch_dtype"] == name);
      source.erase("dtype");
      CHECK(to_json(config, source, dtype)["torch_dtype"] == name);
      CHECK_FALSE(to_json(config, source, dtype).contains("dtype"));
    }
    // A head of its own dropout keeps it; one that was not told apart is not written.
    ModelConfig dropping = config;
    dropping.classifier_dropout = 0.3;
    CHECK(to_json(dropping, original)["classifier_dropout"] == 0.3);
    json silent = original;
    silent.erase("classifier_dropout");
    CHECK_FALSE(to_json(config, silent).contains("classifier_dropout"));

    ModelConfig score = of_task("stsb", config);
    CHECK(to_json(score, original)["id2label"] == id2label({"LABEL_0"}));
    CHECK(to_json(score, original)["problem_type"] == "regression");
  }
}

TEST_CASE("configurations that change what the encoder computes are refused by the field's name") {
  for (const ModelFamily family : {ModelFamily::bert, ModelFamily::roberta}) {
    CAPTURE(to_string(family));
    const json good =
        json_of(altered("fields", family, json::object(), head_of(family, {0, 1})) / "config.json");
    const auto with = [&](const char* key, const json& value) {
      json j = good;
      j[key] = value;
      return j;
    };
    for (const auto& [name, setting] : std::vector<std::pair<const char*, json>>{
             {"is_decoder", true},
             {"add_cross_attention", true},
             {"pruned_heads", {{"0", {1}}}},
             {"per_layer_config", {{"0", {{"intermediate_size", 8}}}}},
             {"quantization_config", {{"quant_method", "bitsandbytes"}}},
             {"compression_config", {{"format", "pack"}}},
             {"auto_map", {{"AutoModelForSequenceClassification", "modeling_own.Own"}}}}) {
      const char* key = name;
      const json& value = setting;
      CAPTURE(key);
      const std::string error = error_of([&] { parse_encoder_config(with(key, value), "config.json"); });
      check_says(error, std::string("config.json: the field \"") + key + "\"");
    }
    for (const auto& [name, setting] :
         std::vector<std::pair<const char*, json>>{{"is_decoder", nullptr},
                                                   {"pruned_heads", json::object()},
                                                   {"quantization_config", nullptr},
                                                   {"auto_map", {{"AutoConfig", "own.Own"}}}}) {
      const char* key = name;
      const json& value = setting;
      CAPTURE(key);
      CHECK(parse_encoder_config(with(key, value), "config.json").layers == 2);
    }
    json dropping = with("classifier_dropout", 0.25);
    dropping["hidden_dropout_prob"] = 0.5;
    CHECK(parse_encoder_config(dropping, "config.json").classifier_dropout == 0.25);
    dropping["classifier_dropout"] = nullptr;  // as that of hidden layers
    CHECK(parse_encoder_config(dropping, "config.json").classifier_dropout == 0.5);
    // Another head is no reason to refuse the encoder.
    json multi = with("problem_type", "multi_label_classification");
    CHECK(parse_encoder_config(multi, "config.json").layers == 2);
    check_says(error_of([&] { parse_model_config(multi, "config.json"); }), "multi-label classification");
  }
}
