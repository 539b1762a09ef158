// sparsegrad-llm as its users run it: a small model from training to generation, exports, and bad input.
#include <signal.h>
#include <sys/stat.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include <sparsegrad/backend/cpu.hpp>

#include "run_result.hpp"
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
  const std::string commands = "expected a command first, one of train, evaluate, generate, export, inspect";
  check_says(llm("").err, commands);
  for (const std::string word : {"bogus", "--model"}) {
    const Finished finished = llm(word + " m");
    CHECK(finished.status == 2);
    check_says(finished.err, "sparsegrad-llm: found '" + word + "', " + commands);
  }
  const Finished glue = run("bogus");
  CHECK(glue.status == 2);
  check_says(glue.err,
             "sparsegrad-glue: found 'bogus', expected a command first, one of train, evaluate, inspect");
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
    CHECK(log["trained"]["sparse_entries_a_step"] == log["steps"].back()["kept_entries"]);
    if (type == "sparse") check_says(run.out, ", 2048 of 8192 chosen entries a step by SparseAdam");
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
  const fs::path large = make_tiny_decoder(fresh_folder("llm_large"));
  nlohmann::json config = json_of(large / "config.json");
  config["intermediate_size"] = 100000000;
  write_file(large / "config.json", config.dump());
  const Finished refused = llm(llm_train_words(fresh_folder("llm_memory"), "--model " + large.string()));
  CHECK(refused.status == 1);
  check_says(refused.err, "this run needs at least");
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
  CHECK(llm(evaluate_words(model())).out.starts_with("loss "));
  CHECK(greedy.err.empty());

  // How an answer ends where that is not as usual.
  const std::string loud = "generate --threads 1 --products blas --model ";
  check_says(llm(loud + model().string() + " --prompt 1+1? --max-new-tokens 2").err,
             "note: the answer was cut after --max-new-tokens 2");
  check_says(llm(loud + model().string() + " --prompt 1+1? --max-new-tokens 500").err,
             "note: the answer was cut at the last of the model's 192 positions");
  const fs::path mute = make_tiny_decoder(fresh_folder("llm_mute"));
  nlohmann::json config = json_of(mute / "config.json");
  config["eos_token_id"] = nlohmann::json::array();
  for (int id = 0; id < tiny_decoder_tokens; ++id)
    config["eos_token_id"].push_back(id);
  write_file(mute / "config.json", config.dump());
  const Finished empty = llm(loud + mute.string() + " --prompt 1+1?");
  CHECK(empty.status == 0);
  CHECK(empty.out == "\n");
  check_says(empty.err,
             "note: the answer is empty: the first token that the model chose is one that ends an answer");
  CHECK(llm(loud + mute.string() + " --quiet --prompt 1+1?").err.empty());
  const Finished silent = llm(loud + model().string() + " </dev/null");
  CHECK(silent.status == 1);
  check_says(silent.err,
             "standard input has no line with a text, expected a prompt on each, or --prompt TEXT");
  CHECK(llm(loud + model().string() + " --prompt ''").status == 2);

  // What was given is named, without the template's text around it.
  check_says(llm(loud + model().string() + " --prompt \"$(printf 'ab\\377c')\"").err,
             "--prompt is not UTF-8: its byte 3 of 4 is 0xFF");
  check_says(llm(loud + model().string() + " --prompt a --system \"$(printf '\\377')\"").err,
             "--system is not UTF-8: its byte 1 of 1 is 0xFF");
  const Finished lines = llm(loud + model().string(), "printf 'a\\n\\nb\\377\\n' | ");
  CHECK(lines.status == 1);
  check_says(lines.err, "line 3 of standard input is not UTF-8: its byte 2 of 2 is 0xFF");

  // Options without effect.
  check_says(llm(ask + "--raw --system S").err,
             "--system has no effect with --raw: it needs a chat template");
  check_says(llm(ask + "--top-p 0.5").err, "--top-p has no effect with --temperature 0");
  check_says(llm(evaluate_words(model(), "--max-new-tokens 8")).err,
             "--max-new-tokens has no effect with --exact-match 0");
  const fs::path words = fresh_folder("llm_words") / "words.jsonl";
  const std::string in_words = "{\"question\": \"1+1?\", \"answer\": \"two\"}\n";
  const std::string compare =
      "evaluate --quiet --threads 1 --products blas --exact-match 2 --max-new-tokens 2 --model " +
      model().string() + " --data " + words.string();
  write_file(words, in_words);
  check_says(llm(compare).err,
             "exact_match is left out: it compares numbers, and none of the first 1 answers");
  write_file(words, in_words + "{\"question\": \"1+1?\", \"answer\": \"2\"}\n");
  check_says(llm(compare).out, "1 questions counted as wrong, whose right answer has no number");

  const fs::path quiet = fresh_folder("llm_quiet");
  const Finished trained = llm(llm_train_words(quiet / "run", "--quiet --run-type ft --max-steps 2"));
  const Finished written =
      llm("export --quiet --model " + model().string() + " --output " + (quiet / "export").string());
  for (const Finished* finished : {&trained, &written}) {
    CHECK(finished->status == 0);
    CHECK(finished->out.empty());
    CHECK(finished->err.empty());
  }

  const Finished inspected = llm("inspect --model " + model().string());
  CHECK(inspected.status == 0);
  for (const char* text : {"4 blocks of width 32", "chat template: chatml", "blocks 0, 3", "up 48 x 32",
                           "memory of", "weights: 38 tensors, all there, of their shapes and finite"})
    check_says(inspected.out, text);
  check_says(inspected.out, "batches of 768 tokens");  // of 192 positions, fewer than the default length
  CHECK(llm("evaluate --quiet --model " + model().string() + " --data " + sums().string()).status == 0);
  // A command line of train is one of inspect.
  const Finished pasted = llm("inspect" + llm_train_words(fresh_folder("llm_pasted"), "").substr(5));
  CHECK_MESSAGE(pasted.status == 0, pasted.err);
}

TEST_CASE("too many threads, and a date that the chat template does not take, are told of") {
  const std::string ask = "generate --threads 1 --products blas --quiet --max-new-tokens 2 --model " +
                          model().string() + " --prompt 1+1? ";
  const std::string more = std::to_string(backend::Cpu::Context(0).threads() + 1);
  check_says(llm(ask + "--threads " + more).err, "warning: --threads is " + more + ", which wait");
  const std::string unused = "warning: --chat-date has no effect with the chat template ";
  const std::string date = "--chat-date '1 Jan 2030'";
  CHECK(llm(ask + date).err == unused + "chatml: it needs llama3.1\n");
  CHECK(llm(ask + date + " --chat-template plain").err == unused + "plain: it needs llama3.1\n");
  CHECK(llm(evaluate_words(model(), date)).err == unused + "chatml: it needs llama3.1\n");
  check_says(llm("inspect --model " + model().string() + " " + date).err, unused + "chatml");
  const Finished trained =
      llm(llm_train_words(fresh_folder("llm_date"), "--quiet --no-save --run-type frozen " + date));
  CHECK(trained.err == unused + "chatml: it needs llama3.1\n");
  const std::string raw = llm(ask + "--raw " + date).err;
  CHECK(raw == "warning: --chat-date has no effect with --raw: it needs a chat template\n");
  const fs::path dated = make_tiny_decoder(
      fresh_folder("llm_dated"), tiny_decoder_tokens,
      "<|start_header_id|><|eot_id|>Cutting Knowledge Date: December 2023\\n\"Today Date: \" + date_string");
  const Finished told = llm("inspect --model " + dated.string() + " " + date);
  check_says(told.out, "Today Date: 1 Jan 2030");
  CHECK(told.err.empty());
}

TEST_CASE("inspect looks through a model's weights as a run would, and tells all that is wrong") {
  const auto inspected = [](const fs::path& folder, const std::string& message) {
    const Finished finished = llm("inspect --model " + folder.string());
    CHECK(finished.status == 1);
    check_says(finished.err, message);
    return finished.err;
  };
  const auto with = [](const char* field, const nlohmann::json& value) {
    const fs::path folder = make_tiny_decoder(fresh_folder("llm_wrong"));
    nlohmann::json config = json_of(folder / "config.json");
    config[field] = value;
    write_file(folder / "config.json", config.dump());
    return folder;
  };
  const std::string missing = inspected(
      with("num_hidden_layers", 6), "18 of the 56 tensors that the configuration asks for cannot be taken:");
  check_says(missing, "the tensor \"model.layers.4.input_layernorm.weight\" is missing");
  check_says(missing, "and 8 more");
  inspected(with("intermediate_size", 40), "12 of the 38 tensors");
  inspected(with("num_hidden_layers", 3), "and \"num_hidden_layers\" of config.json is 3");
  inspected(with("tie_word_embeddings", false), "set \"tie_word_embeddings\" to true in config.json");
  const fs::path folder = make_tiny_decoder(fresh_folder("llm_nan"));
  std::string weights = content(folder / "model.safetensors");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(weights.data() + weights.size() - sizeof nan, &nan, sizeof nan);
  write_file(folder / "model.safetensors", weights);
  inspected(folder, "has NaN at element");
  std::string gguf = tiny_gguf().bytes();
  for (const char* name : {"blk.3.ffn_down", "blk.1.attn_k"})
    gguf[gguf.find(name) + 4] = '9';
  inspected(write_file(fresh_folder("llm_half") / "half.gguf", gguf), "2 of the 38 tensors");
}

TEST_CASE("a run that is interrupted goes on from its checkpoint with the same bits") {
  for (const std::string type :
       {"sparse --width-side 8 --phase1-steps 2 --refresh-every 7", "lora --dtype bf16"}) {
    CAPTURE(type);
    const std::string more =
        "--run-type " + type + " --max-steps 60 --epochs 60 --eval-every 9 --log-every 1";
    const fs::path whole = fresh_folder("llm_whole");
    const Finished run = llm(llm_train_words(whole, more));
    REQUIRE_MESSAGE(run.status == 0, run.err);
    const fs::path output = fresh_folder("llm_interrupted");
    const std::string words = llm_train_words(output, more);
    int status = 0;
    while (status != 130) {  // a run that ends sooner is done anew
      fs::remove_all(output);
      const pid_t child = start(words, "sparsegrad-llm");
      const auto evaluated = [&] {
        return fs::exists(output / "run.json") &&
               json_of(output / "run.json").value("evaluations", nlohmann::json::array()).size() > 1;
      };
      while (!evaluated() && !has_ended(child))
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      kill(child, SIGINT);
      status = wait_for(child);
    }
    CHECK(fs::exists(output / "checkpoint" / "state.safetensors"));
    const Finished other = llm(words + " --resume --learning-rate 1e-3 --train-parameters all");
    CHECK(other.status == 1);
    const Finished refused = llm(words + " --resume --learning-rate 1e-3 --seed 1");
    CHECK(refused.status == 1);
    check_says(refused.err, "--learning-rate is 0.001, the run had 0.003; --seed is 1, the run had 42");
    check_says(llm(words).err, "holds the checkpoint of another run");
    const Finished resumed = llm(words + " --resume");
    REQUIRE_MESSAGE(resumed.status == 0, resumed.err);
    Result found = result_of(output);
    std::erase_if(found.files, [](const std::string& name) { return name.starts_with("checkpoint/"); });
    check_same(found, result_of(whole));
    const Finished finished = llm(words + " --resume --matrices up");
    CHECK(finished.status == 1);
    check_says(finished.err, "is finished there: --matrices is \"up\", the run had \"up,down\"");
  }
  // Without --no-save's models nothing is kept, and that is told.
  const fs::path output = fresh_folder("llm_no_save");
  const pid_t child =
      start(llm_train_words(output, "--run-type ft --no-save --max-steps 100000 --epochs 100000"),
            "sparsegrad-llm");
  while (!fs::exists(output / "run.json") && !has_ended(child))
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  kill(child, SIGTERM);
  CHECK(wait_for(child) == 130);
  CHECK(!fs::exists(output / "checkpoint"));
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
        std::pair("standard_error=x",
                  "--evaluate-also names 'standard_error', expected a name that does not"),
        std::pair("standard_error_a=x", "--evaluate-also names 'standard_error_a', expected"),
        std::pair("a=none.jsonl", "none.jsonl")}) {
    const Finished refused = llm(llm_train_words(output, std::string("--overwrite --evaluate-also ") + text));
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
  refused(small, "ids up to 98 (\"us\"), the model's word embeddings only 97 rows");
  refused(small, "the tokenizer is another model's");
  refused(make_tiny_decoder(fresh_folder("llm_rows"), tiny_decoder_tokens + 513),
          "the model has 612 word embeddings, the tokenizer ids for 99 of them; expected at most 512 rows");
  // Rounded up: the rows without a token are never chosen.
  const fs::path padded = make_tiny_decoder(fresh_folder("llm_padded"), 128);
  check_says(
      llm("evaluate --model " + padded.string() + " --data " + sums().string() + " --max-length 64").err,
      "note: the model has 128 word embeddings, the tokenizer ids for 99 of them");
  const Finished drawn = llm("generate --model " + padded.string() +
                             " --threads 1 --prompt 1 --temperature 1000 --max-new-tokens 64");
  CHECK_MESSAGE(drawn.status == 0, drawn.err);
  const fs::path ends = make_tiny_decoder(fresh_folder("llm_ends"));
  nlohmann::json end = json_of(ends / "config.json");
  end["eos_token_id"] = 50256;
  write_file(ends / "config.json", end.dump());
  refused(ends, "\"eos_token_id\" of config.json is 50256, the tokenizer has ids up to 98");
  end["eos_token_id"] = 5;
  write_file(ends / "config.json", end.dump());
  check_says(llm("inspect --model " + ends.string()).out,
             "a text ends with 1 (\"<|im_end|>\") by the tokenizer's files, and with 5 by the model's");
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
  // Root may read every file; nobody opens a socket as one.
  const fs::path socket = torn / "socket.gguf";
  REQUIRE(::mknod(socket.c_str(), S_IFSOCK | 0600, 0) == 0);
  refused(socket, "socket.gguf: cannot be opened: No such device or address");
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) {
    const fs::path nested = make_tiny_decoder(fresh_folder("llm_nested"));
    fs::remove(nested / file);
    fs::create_directory(nested / file);
    refused(nested, std::string(file) + ": expected a file, found a folder");
  }
}

TEST_CASE("a model that training has broken is told of by step and rates, and no file is blamed") {
  const fs::path output = fresh_folder("llm_diverged");
  const Finished lora =
      llm(llm_train_words(output, "--run-type lora --learning-rate 1e30 --max-steps 1 --no-save"));
  CHECK(lora.status == 1);
  check_says(lora.err,
             "the model's loss after step 1 is not finite, expected a finite number: training with "
             "--learning-rate 1e+30 diverged; smaller rates");
  CHECK(lora.err.find("sums.jsonl") == std::string::npos);
  check_says(json_of(output / "run.json")["error"], "after step 1 is not finite");
  check_says(llm(llm_train_words(output,
                                 "--run-type topk --learning-rate 1e-3 --sparse-learning-rate 1e30 "
                                 "--max-steps 1 --no-save"))
                 .err,
             "training with --learning-rate 0.001 and --sparse-learning-rate 1e+30 diverged");
  // Before the model's files are read.
  check_says(llm(llm_train_words(output, "--learning-rate 1e300 --model none")).err,
             "--learning-rate is 1e+300, expected a finite number from 0 to 1e37");
}

TEST_CASE("the log of a finished run is not replaced by one with other options") {
  const fs::path output = fresh_folder("llm_log_alone");
  const auto words = [&](const std::string& more) {
    return llm_train_words(output, "--run-type frozen --no-save --max-steps 1 " + more);
  };
  REQUIRE(llm(words("")).status == 0);
  const std::string log = content(output / "run.json");
  const Finished other = llm(words("--seed 3"));
  CHECK(other.status == 1);
  check_says(other.err, "a run with other options is finished there: --seed is 3, the run had 42");
  CHECK(content(output / "run.json") == log);
  CHECK(llm(words("")).status == 0);
  CHECK(llm(words("--seed 3 --overwrite")).status == 0);
  CHECK(json_of(output / "run.json")["options"]["seed"] == 3);
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
  refused("--width-side 5000", "--width-side is 5000, expected a rank of at most 32, the model's width");
  refused("--other-side random:49", "--other-side is random:49, expected a rank of at most 48");
  refused("--run-type lora --lora-rank 33", "--lora-rank is 33, expected a rank of at most 32");
  refused("--run-type lora --matrices k --lora-rank 17", "--lora-rank is 17, expected a rank of at most 16");
  check_says(llm("inspect --model " + model().string() + " --in-side 49").err,
             "--in-side is 49, expected a rank of at most 48");
  refused(
      "--blocks 0,4",
      "--blocks is '0,4', expected every-third, every-second, all, or numbers of the model's blocks, 0 to 3");
  refused("--max-length 500", "--max-length is 500, expected at most the model's 192 positions");
  refused("--max-length 8", "none of the 48 training examples has an answer within --max-length 8 tokens");
  const fs::path wordy = fresh_folder("llm_bad_data") / "wordy.jsonl";
  const std::string question(40, '1');
  write_file(wordy, nlohmann::json{{"question", question}, {"answer", "1"}}.dump() + "\n" +
                        nlohmann::json{{"question", question + "?"}, {"answer", "2"}}.dump());
  refused("--max-length 30 --validation " + wordy.string(),
          "wordy.jsonl: none of the 2 held-out examples has an answer within --max-length 30 tokens");
  refused("--max-length 30 --evaluate-also w=" + wordy.string(), "wordy.jsonl: none of the 2 examples has");
  const Finished piped = llm(evaluate_words(model(), "--data /dev/stdin"), "cat " + sums().string() + " | ");
  CHECK(piped.status == 1);
  check_says(piped.err, "/dev/stdin: expected a regular file, found a pipe");
  CHECK(llm(evaluate_words(model(), "--data /dev/stdin <" + sums().string())).status == 0);
  refused("--tokens-per-batch 9", "--tokens-per-batch is 9, expected at least the ");
  refused("--tokens-per-batch -1", "--tokens-per-batch is -1, expected a number of tokens, 0 for");
  refused("--held-out 0", "leaves 60 to train on and 0 to evaluate on");
  refused("--fields question", "expected the names of the question's and the answer's field");
  refused("--fields question,question", "expected two fields, found 'question' twice");
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
