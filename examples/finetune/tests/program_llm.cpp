// sparsegrad-llm as its users run it: a small model from training to generation, exports, and bad input.
#include <cmath>

#include "program.hpp"
#include "support/tiny_decoder.hpp"
#include "support/tiny_gguf.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

const fs::path& model() {
  static const fs::path path = make_tiny_decoder(fresh_folder("llm_tiny"));
  return path;
}
const fs::path& sums() {
  static const fs::path path = write_sums(fresh_folder("llm_data") / "sums.jsonl");
  return path;
}

std::string llm_train_words(const fs::path& output, const std::string& more) {
  return "train --model " + model().string() + " --data " + sums().string() + " --output " + output.string() +
         " --threads 1 --products blas --max-length 64 --held-out 0.2 --batch-size 4 --accumulation 2 "
         "--max-steps 12 "
         "--epochs 10 --learning-rate 3e-3 --log-every 1 " +
         more;
}

/// The number behind a word of what the program printed.
double number_after(const std::string& text, const std::string& word) {
  const std::size_t at = text.find(word);
  REQUIRE_MESSAGE(at != std::string::npos, text << " does not say " << word);
  return std::stod(text.substr(at + word.size()));
}

std::string evaluate_words(const fs::path& folder, const std::string& more = "") {
  return "evaluate --model " + folder.string() + " --data " + sums().string() +
         " --threads 1 --products blas --max-length 64 --quiet " + more;
}

}  // namespace

TEST_CASE("help explains, and bad command lines end with status 2") {
  const Finished help = llm("train --help");
  CHECK(help.status == 0);
  for (const char* text : {"--run-type", "--matrices", "--blocks", "every-third", "--chat-template", "130"})
    check_says(help.out, text);
  CHECK(llm("--version").status == 0);
  CHECK(llm("").status == 2);
  CHECK(llm("train --nonsense 3").status == 2);
  CHECK(llm("train --model m --data d --output o --share 2").status == 2);
}

TEST_CASE("every run type trains, evaluates, saves a model, and what it saved has the loss of its log") {
  for (const std::string type : {"ft", "sparse", "lora", "topk", "meprop", "frozen"}) {
    CAPTURE(type);
    const fs::path output = fresh_folder("llm_" + type);
    std::string more = "--run-type " + type + " --matrices up,down,q --blocks 0,3";
    if (type == "sparse") more += " --width-side 8 --phase1-steps 2";
    if (type == "lora") more += " --lora-scale 1 --lora-rank 4";
    const Finished run = llm(llm_train_words(output, more));
    REQUIRE_MESSAGE(run.status == 0, run.err);
    const nlohmann::json log = json_of(output / "run.json");
    CHECK(log["format"] == "sparsegrad-llm run 1");
    CHECK(log["finished"] == true);
    CHECK(log["steps_done"] == 12);
    CHECK(log["data"]["chat_template"] == "chatml");
    CHECK(log["data"]["held_out"]["examples"] == 12);
    CHECK(log["evaluations"].front()["step"] == 0);
    const double before = log["evaluations"].front()["loss"];
    const double after = log["evaluations"].back()["loss"];
    if (type == "frozen") {
      CHECK(after == before);
      CHECK(log["trained"]["dense_parameters"] == 0);
    } else {
      CHECK(after < before - 0.05);
    }
    CHECK(log["evaluations"].back()["metrics"]["perplexity"].get<double>() ==
          doctest::Approx(std::exp(after)));
    CHECK(log["memory"]["sum_of_parts_bytes"].get<double>() <
          1.05 * log["memory_estimate"]["most_bytes"].get<double>() +
              log["memory"]["parts_bytes"]["program"].get<double>());

    // The best model, read again, on the examples that were held out: the loss of the log.
    if (type == "frozen") continue;
    const std::string again =
        " --held-out 0.2 --max-steps 1 --run-type frozen --no-save --output " + (output / "again").string();
    const Finished second =
        llm("train --model " + (output / "model").string() + " --data " + sums().string() +
            " --threads 1 --products blas --max-length 64 --batch-size 4" + again);
    REQUIRE_MESSAGE(second.status == 0, second.err);
    const nlohmann::json evaluations = json_of(output / "again" / "run.json")["evaluations"];
    const std::size_t best = [&] {
      std::size_t number = 0;
      while (log["evaluations"][number]["step"] != log["best"]["step"])
        ++number;
      return number;
    }();
    CHECK(evaluations.front()["loss"].get<double>() ==
          doctest::Approx(log["evaluations"][best]["loss"].get<double>()).epsilon(1e-5));
  }
}

/// `base` as its files have it, beside the same weights in float.
void check_base_in_file(const fs::path& base, const std::vector<std::string>& types) {
  const auto words = [&](const std::string& name, const std::string& more) {
    return llm_train_words(fresh_folder(name), "--model " + base.string() + " --dtype float " + more);
  };
  const auto log_of = [&](const std::string& name, const std::string& more) {
    const Finished run = llm(words(name, more));
    REQUIRE_MESSAGE(run.status == 0, run.err);
    return json_of(fs::path(SPARSEGRAD_TEST_OUTPUT_DIR) / name / "run.json");
  };
  for (const std::string& type : types) {
    CAPTURE(type);
    std::string more = "--run-type " + type + " --blocks all";
    if (type == "lora") more += " --matrices all --lora-rank 4 --lora-scale 1";
    if (type == "sparse") more += " --width-side 8 --phase1-steps 2";
    const nlohmann::json floats = log_of("llm_base_float", more);
    const nlohmann::json packed = log_of("llm_base_file", more + " --base file");
    CHECK(packed["options"]["base"] == "file");
    CHECK(packed["trained"] == floats["trained"]);
    REQUIRE(packed["evaluations"].size() == floats["evaluations"].size());
    for (std::size_t i = 0; i < packed["evaluations"].size(); ++i)
      CHECK(packed["evaluations"][i]["loss"].get<double>() ==
            doctest::Approx(floats["evaluations"][i]["loss"].get<double>()).epsilon(1e-5));
    CHECK(packed["memory_estimate"]["training"]["weights"] <
          floats["memory_estimate"]["training"]["weights"]);
    const double weights = packed["memory"]["parts_bytes"]["weights"];
    const double estimated = packed["memory_estimate"]["training"]["weights"];
    if (type == "topk")  // of all entries that the steps may choose
      CHECK(weights <= estimated);
    else
      CHECK(weights == doctest::Approx(estimated).epsilon(0.05));
    CHECK(packed["memory"]["sum_of_parts_bytes"].get<double>() <
          1.05 * packed["memory_estimate"]["most_bytes"].get<double>() +
              packed["memory"]["parts_bytes"]["program"].get<double>());
    // The saved folder has all weights, those of the file too.
    const fs::path saved = fs::path(SPARSEGRAD_TEST_OUTPUT_DIR) / "llm_base_file" / "model";
    const fs::path other = fs::path(SPARSEGRAD_TEST_OUTPUT_DIR) / "llm_base_float" / "model";
    CHECK(number_after(llm(evaluate_words(saved)).out, "loss ") ==
          doctest::Approx(number_after(llm(evaluate_words(other)).out, "loss ")).epsilon(1e-5));
  }
}

TEST_CASE("a base as its file has it trains as in float, with less memory") {
  const fs::path gguf = write_file(fresh_folder("llm_gguf") / "tiny.gguf", tiny_gguf().bytes());
  check_base_in_file(gguf, {"lora", "ft", "sparse", "frozen", "topk", "meprop"});
  for (const std::string type : {"bf16", "fp16"}) {
    CAPTURE(type);
    const fs::path folder = fresh_folder("llm_base_" + type);
    const Finished written = llm("export --format merged --model " + gguf.string() + " --output " +
                                 folder.string() + " --save-dtype " + type);
    REQUIRE_MESSAGE(written.status == 0, written.err);
    check_base_in_file(folder, {"lora", "sparse"});
  }
  const std::string off =
      llm(llm_train_words(fresh_folder("llm_base_off"),
                          "--model " + gguf.string() +
                              " --dtype float --base file --run-type sparse --phase1-fixed-matrices=false"))
          .err;
  check_says(off, "--phase1-fixed-matrices is false, expected true with --base file");

  // Evaluation and generation.
  const std::string with = " --base file --dtype float";
  CHECK(number_after(llm(evaluate_words(gguf, with)).out, "loss ") ==
        doctest::Approx(number_after(llm(evaluate_words(gguf, "--dtype float")).out, "loss ")).epsilon(1e-5));
  const std::string ask = "generate --model " + gguf.string() +
                          " --prompt 1+2? --max-new-tokens 6 --threads 1 --products blas --quiet";
  const Finished answer = llm(ask + with);
  REQUIRE_MESSAGE(answer.status == 0, answer.err);
  CHECK(answer.out == llm(ask + " --dtype float").out);
  CHECK(number_after(llm(evaluate_words(model(), with)).out, "loss ") ==
        doctest::Approx(number_after(llm(evaluate_words(model(), "--dtype float")).out, "loss "))
            .epsilon(1e-5));

  // The memory that there is, and the one that is not.
  const std::string inspected =
      llm("inspect --model " + gguf.string() + " --base file --run-type sparse").out;
  check_says(inspected, "memory of phase 1");
  check_says(inspected, "MiB are free");
  const std::string much = "--run-type lora --lora-rank 100000 --blocks all --no-save --max-steps 1 ";
#if !defined(__SANITIZE_ADDRESS__)
  const Finished refused = run_command(
      "'" + program("sparsegrad-llm").string() + "' " +
          llm_train_words(fresh_folder("llm_memory"), "--model " + gguf.string() + " --dtype float " + much),
      "ulimit -v 600000; OPENBLAS_NUM_THREADS=1 ");
  CHECK(refused.status == 1);
  check_says(refused.err, "this run needs at least");
#endif
}

TEST_CASE("evaluate, generate and export agree on one model") {
  const Finished first = llm(evaluate_words(model(), "--exact-match 3 --max-new-tokens 8"));
  REQUIRE_MESSAGE(first.status == 0, first.err);
  const double loss = number_after(first.out, "loss ");
  CHECK(number_after(first.out, "perplexity ") == doctest::Approx(std::exp(loss)).epsilon(1e-5));
  CHECK(number_after(first.out, "loss_standard_error ") > 0);
  check_says(first.out, "of 3, the last number of a greedy answer");

  const fs::path exported = fresh_folder("llm_export");
  REQUIRE(llm("export --model " + model().string() + " --output " + exported.string()).status == 0);
  CHECK(content(exported / "model.safetensors") == content(model() / "model.safetensors"));
  CHECK(content(exported / "tokenizer.json") == content(model() / "tokenizer.json"));
  const Finished second = llm(evaluate_words(exported));
  CHECK(number_after(second.out, "loss ") == loss);
  check_says(llm("export --format onnx --model " + model().string() + " --output " + exported.string()).err,
             "--format is 'onnx', expected merged, gguf, peft, gguf-lora or delta");

  const std::string ask = "generate --threads 1 --products blas --quiet --max-new-tokens 12 --model " +
                          model().string() + " --prompt 1+1? ";
  const Finished greedy = llm(ask);
  REQUIRE_MESSAGE(greedy.status == 0, greedy.err);
  CHECK(greedy.out == llm(ask).out);
  const Finished drawn = llm(ask + "--temperature 2 --seed 1");
  CHECK(drawn.out == llm(ask + "--temperature 2 --seed 1").out);
  CHECK(drawn.out != llm(ask + "--temperature 2 --seed 2").out);
  // Of the likeliest token alone nothing is left to draw.
  CHECK(llm(ask + "--temperature 2 --top-p 1e-6").out == greedy.out);
  CHECK(llm(ask + "--temperature -1").status == 1);
  const Finished raw = llm(ask + "--raw");
  CHECK(raw.status == 0);

  const Finished inspected = llm("inspect --model " + model().string());
  CHECK(inspected.status == 0);
  for (const char* text :
       {"4 blocks of width 32", "chat template: chatml", "blocks 0, 3", "up 48 x 32", "memory of"})
    check_says(inspected.out, text);
}

TEST_CASE("the loss on other files is told with each evaluation, and chooses nothing") {
  const fs::path other = write_file(fresh_folder("llm_also") / "words.jsonl",
                                    "{\"prompt\": \"a?\", \"response\": \"bus\"}\n"
                                    "{\"prompt\": \"b?\", \"response\": \"us us\"}\n");
  const fs::path output = fresh_folder("llm_also_run");
  const std::string also =
      "--evaluate-also words=" + other.string() + " --evaluate-also same=" + sums().string();
  const Finished run = llm(llm_train_words(output, "--run-type ft --eval-every 4 " + also));
  REQUIRE_MESSAGE(run.status == 0, run.err);
  const nlohmann::json log = json_of(output / "run.json");
  CHECK(log["options"]["evaluate_also"].size() == 2);
  CHECK(log["data"]["also"]["words"]["examples"] == 2);
  CHECK(log["data"]["train"]["examples"] == 48);
  const nlohmann::json first = log["evaluations"].front()["metrics"];
  const auto evaluated = [&](const fs::path& folder, const fs::path& file) {
    const Finished finished = llm(evaluate_words(folder, "--data " + file.string()));
    REQUIRE_MESSAGE(finished.status == 0, finished.err);
    return number_after(finished.out, "loss ");
  };
  CHECK(first["loss_words"].get<double>() == doctest::Approx(evaluated(model(), other)).epsilon(1e-5));
  CHECK(first["loss_same"].get<double>() == doctest::Approx(evaluated(model(), sums())).epsilon(1e-5));
  CHECK(first["loss_standard_error_words"].get<double>() > 0);
  const nlohmann::json& words = log["forgetting"]["words"];
  CHECK(words["before"] == first["loss_words"]);
  CHECK(words["last"] == log["evaluations"].back()["metrics"]["loss_words"]);
  CHECK(words["best"].get<double>() == doctest::Approx(evaluated(output / "model", other)).epsilon(1e-5));
  CHECK(log["forgetting"]["same"]["best"].get<double>() < log["forgetting"]["same"]["before"].get<double>());
  check_says(run.out, "loss on words: ");

  // A run without them has the same model.
  const fs::path alone = fresh_folder("llm_also_alone");
  REQUIRE(llm(llm_train_words(alone, "--run-type ft --eval-every 4")).status == 0);
  CHECK(content(alone / "model" / "model.safetensors") == content(output / "model" / "model.safetensors"));
  CHECK(!json_of(alone / "run.json").contains("forgetting"));

  for (const auto& [text, message] :
       {std::pair("words", "--evaluate-also is 'words', expected NAME=FILE"),
        std::pair("=x", "--evaluate-also is '=x', expected NAME=FILE"),
        std::pair("a/b=x", "expected NAME=FILE with a name of letters, digits, _ and -"),
        std::pair("a=x --evaluate-also a=y", "--evaluate-also names 'a' twice"),
        std::pair("a=none.jsonl", "none.jsonl")}) {
    const Finished refused = llm(llm_train_words(output, std::string("--evaluate-also ") + text));
    CHECK(refused.status == 1);
    check_says(refused.err, message);
  }
}

TEST_CASE("multiple choice: the likeliest answer is compared with the right one") {
  std::string text;
  for (int i = 0; i < 12; ++i) {
    const std::string letter(1, static_cast<char>('a' + i));
    text +=
        nlohmann::json{{"question", letter + "?"},
                       {"choices", {{"text", {letter, "us", "no " + letter}}, {"label", {"A", "B", "C"}}}},
                       {"answerKey", "A"}}
            .dump() +
        "\n";
  }
  const fs::path data = write_file(fresh_folder("llm_choices") / "choices.jsonl", text);
  const std::string file = "--data " + data.string() + " ";
  const Finished before = llm(evaluate_words(model(), file + "--choices 100"));
  REQUIRE_MESSAGE(before.status == 0, before.err);
  check_says(before.out, "of 12 questions, by the log likelihood of the whole answer)");
  check_says(before.out, "of 12 questions, by its mean a token)");
  check_says(llm(evaluate_words(model(), file + "--choices 5")).out, "of 5 questions");
  // Trained on the right choices, the model chooses them.
  const fs::path output = fresh_folder("llm_choices_run");
  const Finished run =
      llm(llm_train_words(output, file + "--validation " + data.string() +
                                      " --run-type ft --matrices all --blocks all --max-steps 30 "
                                      "--epochs 30"));
  REQUIRE_MESSAGE(run.status == 0, run.err);
  const Finished after = llm(evaluate_words(output / "model", file + "--choices 100"));
  CHECK(number_after(after.out, "choice_accuracy ") > number_after(before.out, "choice_accuracy "));
  CHECK(number_after(after.out, "choice_accuracy ") > 0.8);

  const auto refused = [&](const std::string& more, const std::string& message) {
    const Finished finished = llm(evaluate_words(model(), more));
    CHECK(finished.status == 1);
    check_says(finished.err, message);
  };
  refused("--choices 5", "--choices is 5, expected records of multiple choice");
  refused("--choices 5", "are: question, answer");
  refused(file + "--choices -1", "--choices is -1, expected a number of questions, 0 for none");
  refused("--batch-size 0", "--batch-size is 0, expected at least 1 example");
}

TEST_CASE("what is wrong with a model is told with its cure") {
  const auto refused = [&](const fs::path& folder, const std::string& message, const std::string& more = "") {
    const Finished finished = llm(evaluate_words(folder, more));
    CHECK(finished.status == 1);
    check_says(finished.err, message);
  };
  const fs::path bare = make_tiny_decoder(fresh_folder("llm_bare"), tiny_decoder_tokens, "");
  refused(bare, "the model's chat template is missing");
  CHECK(llm(evaluate_words(bare, "--chat-template plain")).status == 0);
  refused(bare, "whose token '<|start_header_id|>' the model's tokenizer does not have",
          "--chat-template llama3");
  refused(bare, "--chat-template is 'x', expected one of: chatml", "--chat-template x");
  const fs::path other = make_tiny_decoder(fresh_folder("llm_other"), tiny_decoder_tokens, "{{ odd }}");
  refused(other, "the model's chat template is not known. Give the one");
  const fs::path small = make_tiny_decoder(fresh_folder("llm_small"), tiny_decoder_tokens - 2);
  refused(small, "the tokenizer is another model's");
  refused(fresh_folder("llm_empty"), "config.json");
  refused(fresh_folder("llm_none") / "none", "there is no such file or folder");

  const fs::path foreign = make_tiny_decoder(fresh_folder("llm_foreign"));
  nlohmann::json config = json_of(foreign / "config.json");
  config["model_type"] = "gpt2";
  write_file(foreign / "config.json", config.dump());
  refused(foreign, "gpt2");
  const fs::path torn = make_tiny_decoder(fresh_folder("llm_torn"));
  const std::string weights = content(torn / "model.safetensors");
  write_file(torn / "model.safetensors", weights.substr(0, weights.size() / 2));
  refused(torn, "model.safetensors");
  write_file(torn / "half.gguf", "GGUF\x03");
  refused(torn / "half.gguf", "half.gguf");
  write_file(torn / "no.gguf", "something else");
  refused(torn / "no.gguf", "expected a GGUF file, which begins with the letters GGUF");
}

TEST_CASE("what is wrong with data and choices is told with its cure") {
  const fs::path output = fresh_folder("llm_refused");
  const auto refused = [&](const std::string& more, const std::string& message) {
    const Finished finished = llm(llm_train_words(output, more));
    CHECK(finished.status == 1);
    check_says(finished.err, message);
  };
  refused("--matrices up,side",
          "--matrices is 'up,side', expected all, or some of q, k, v, o, gate, up and down");
  refused("--matrices up,up", "expected 'up' once");
  refused(
      "--blocks 0,4",
      "--blocks is '0,4', expected every-third, every-second, all, or numbers of the model's blocks, 0 to 3");
  refused("--max-length 500", "--max-length is 500, expected at most the model's 192 positions");
  refused("--max-length 8", "no example has an answer within --max-length 8 tokens");
  refused("--tokens-per-batch 9", "--tokens-per-batch is 9, expected at least the ");
  refused("--tokens-per-batch -1", "--tokens-per-batch is -1, expected a number of tokens, 0 for");
  refused("--held-out 0", "leaves 60 to train on and 0 to evaluate on");
  refused("--fields question", "expected the names of the question's and the answer's field");
  refused("--fields question,reply", "sums.jsonl:1: the record has no field \"reply\"");
  const fs::path data = fresh_folder("llm_bad_data") / "cut.jsonl";
  const std::string text = content(sums());
  write_file(data, text.substr(0, text.size() - 10));
  refused("--data " + data.string(), "cut.jsonl:60: expected a JSON object on this line");
  write_file(data, "\x1F\x8B");
  refused("--data " + data.string(), "gunzip");
}

TEST_CASE("examples that are too long are cut, and counted in log and text") {
  const fs::path output = fresh_folder("llm_long");
  const Finished finished =
      llm(llm_train_words(output, "--run-type ft --max-length 25 --max-steps 1 --no-save"));
  REQUIRE_MESSAGE(finished.status == 0, finished.err);
  const nlohmann::json log = json_of(output / "run.json");
  const nlohmann::json& train = log["data"]["train"];
  CHECK(train["cut"].get<int>() > 0);
  CHECK(train["longest"] == 25);
  check_says(finished.out, " cut to it");
}
