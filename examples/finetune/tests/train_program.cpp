// The program as its users run it: exit statuses, messages, files.
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <sstream>
#include <thread>

#include <sparsegrad/backend/cpu.hpp>

#include "program.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

std::size_t lines_of(const std::string& text) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

TEST_CASE("help explains, and bad command lines end with status 2") {
  const Finished help = run("train --help");
  CHECK(help.status == 0);
  for (const char* text : {"--run-type", "--n-params", "--preset", "paper", "Exit status", "130", "=32"})
    check_says(help.out, text);
  CHECK(run("--version").status == 0);
  CHECK(run("").status == 2);
  CHECK(run("train").status == 2);
  const Finished unknown = run("train --nonsense 3");
  CHECK(unknown.status == 2);
  const Finished type = run("train --model x --output y --run-type lora-x");
  CHECK(type.status == 2);
  check_says(type.err, "expected one of: frozen-mlp, ft, lora, meprop, sparse, topk");
  const Finished preset = run("train --model x --output y --preset nothing");
  CHECK(preset.status == 2);
  check_says(preset.err, "expected one of: paper, best, none");
}

TEST_CASE("values that are empty, or that their option's type does not have, are refused by name") {
  const auto refused = [](const std::vector<std::string>& words, const char* message) {
    std::vector<std::string> all{"train", "--model", "m", "--output", "o"};
    all.insert(all.end(), words.begin(), words.end());
    const Finished finished = run_words(all);
    CHECK(finished.status == 2);
    check_says(finished.err, message);
  };
  refused({"--batch-size=", "4"}, "--batch-size is empty");
  refused({"--output=", "--quiet"}, "--output is empty");
  refused({"--options", ""}, "--options is empty");
  refused({"--model", ""}, "--model is empty");
  refused({"--data", ""}, "--data is empty");
  refused({"--seed", "-1"}, "--seed: is -1, expected a whole number from 0 to 18446744073709551615");
  refused({"--seed", "18446744073709551616"}, "--seed: is 18446744073709551616, expected a whole number");
  refused({"--refresh-window", "99999999999999999999"},
          "--refresh-window: is 99999999999999999999, expected a whole number from -9223372036854775808");
  refused({"--lr", "1e-400"}, "--learning-rate: is 1e-400, which is 0");
  refused({"--threads", "99999999999"},
          "--threads: is 99999999999, expected a whole number from 0 to 2147483647");
  refused({"--threads", "99999999999999999999"},
          "--threads: is 99999999999999999999, expected a whole number from");
  for (const char* text : {"0x10", "1e3", "0b1", "0o17", "12x", "1_000", "2.0", "-"})
    refused({"--max-steps", text},
            ("--max-steps: is " + std::string(text) + ", expected a whole number in decimal").c_str());
  for (const char* text : {"0x1p-3", "one", "1e-3x"})
    refused({"--lr", text},
            ("--learning-rate: is " + std::string(text) + ", expected a decimal number").c_str());
  for (const char* share : {"0", "1e-400", "-0", "nan", "1.5"})
    refused({"--share", share}, "expected a share above 0 and at most 1");
  refused({"--share", "0.5", "--n-params", "3"}, "--n-params excludes --share");
}

TEST_CASE("numbers with leading zeros are decimal, in options files too") {
  const fs::path output = fresh_folder("decimal");
  write_file(output / "options.json", R"({"seed": "010", "max-steps": "+02", "log-every": "-0"})");
  const Finished train = run(train_words(output / "run",
                                         "--run-type ft --no-save --quiet --batch-size 0016 "
                                         "--learning-rate 01e-3 --log-every 01 --options '" +
                                             (output / "options.json").string() + "'"));
  REQUIRE_MESSAGE(train.status == 0, train.err);
  const nlohmann::json options = json_of(output / "run" / "run.json")["options"];
  CHECK(options["seed"] == 10);
  CHECK(options["max_steps"] == 2);
  CHECK(options["batch_size"] == 16);
  CHECK(options["learning_rate"] == 1e-3);
}

TEST_CASE("options without effect are told of, or refused, wherever they were given") {
  const fs::path output = fresh_folder("effects");
  write_file(output / "options.json", R"({"lora-init": "gaussian"})");
  const std::string words = train_words(output / "run", "--max-steps 1 --no-save --overwrite --quiet ");
  const Finished told = run(words + "--run-type ft --preset paper --lora_rank 4 --wire bf16 --options '" +
                            (output / "options.json").string() + "'");
  REQUIRE_MESSAGE(told.status == 0, told.err);
  // And nothing of what the preset put in.
  CHECK(told.err ==
        "warning: --lora-rank has no effect with --run-type ft: it needs --run-type lora\n"
        "warning: --lora-init has no effect with --run-type ft: it needs --run-type lora\n"
        "warning: --wire has no effect with one process: it needs several (mpirun)\n");
  const auto fails = [&](const std::string& more, const char* message) {
    const Finished finished = run(words + more);
    CHECK(finished.status == 1);
    check_says(finished.err, message);
  };
  const int processors = backend::Cpu::Context(0).threads();
  const std::string all = std::to_string(processors);
  const std::string more = std::to_string(processors + 1);
  CHECK(run(words + "--run-type frozen-mlp --threads " + all).err.empty());
  const Finished crowded = run(words + "--run-type frozen-mlp --threads " + more);
  CHECK(crowded.status == 0);
  CHECK(crowded.out.empty());
  CHECK_MESSAGE(crowded.err.starts_with("warning: --threads is " + more + ", which wait for one another"),
                crowded.err);
  CHECK(crowded.err.find('\n') == crowded.err.size() - 1);
  fails("--refresh-window 5", "--refresh-window has no effect with --refresh-every 0");
  fails("--tf32", "--tf32 is given, expected it with --device cuda alone");
  fails("--width-side 33", "--width-side is 33, expected a rank of at most 32, the model's width");
  fails("--weight-decay 2 --lr 0.6", "--weight-decay is 2, expected at most 1.66");
  check_says(run("evaluate --train-limit 3 --model /no/such").err,
             "warning: --train-limit has no effect with --split dev");
  check_says(run("evaluate --tf32 --model '" + tiny().string() + "'").err, "--tf32 is given");
  check_says(run("inspect --phase1-fixed-matrices --model /no/such --output '" + output.string() + "'").err,
             "warning: --phase1-fixed-matrices has no effect with inspect");
}

TEST_CASE("errors say what was expected and found, with status 1") {
  const fs::path output = fresh_folder("errors");
  const auto fails = [&](const std::string& words, const char* message) {
    const Finished finished = run(words);
    CHECK(finished.status == 1);
    check_says(finished.err, message);
  };
  fails("train --task nosuch --model '" + tiny().string() + "' --output '" + output.string() + "'", "nosuch");
  fails("train --task cola --model /no/such/model --output '" + output.string() + "'", "/no/such/model");
  fails(train_words(output, "--data /no/such/data"), "/no/such/data");
  fails("train --task sst2 --model '" + tiny().string() + "' --output '" + output.string() + "'",
        "SPARSEGRAD_GLUE_DIR");
  fails(train_words(output, "--batch-size 0"), "--batch-size is 0");
  fails(
      train_words(output, "--run-type ft --learning-rate 1e30 --max-steps 1 --no-save"),
      "sparsegrad-glue: the model's loss after step 1 is not finite, expected a finite number: training with "
      "--learning-rate 1e+30 diverged");
  fails(train_words(output, "--batch-size 4611686018427387904"), "expected less than 2^62 examples");
  fails("evaluate --batch-size 0 --model '" + tiny().string() + "'", "--batch-size is 0");
  fails(train_words(output, "--run-type sparse --max-steps 2 --refresh-every 50 --refresh-window 50"),
        "--refresh-window is 50, expected at most the run's 2 steps");
  fails(train_words(output, "--width-side 12x"), "side recipe \"12x\"");
  fails(train_words("/dev/full", ""), "/dev/full");
  fails(train_words(output, "--max-length 4096"), "at most the model's 128 positions");
}

TEST_CASE("train, then evaluate with predictions") {
  const fs::path output = fresh_folder("train");
  const Finished train = run(train_words(output,
                                         "--run_type sparse --preset none --max-steps 12 --eval-every 6 "
                                         "--log-every 1 --learning_rate 1e-3 --phase1-steps 3"));
  CHECK_MESSAGE(train.status == 0, train.err);
  check_says(train.out, "built-in set of acceptability judgements");
  CHECK(train.err.empty());
  const nlohmann::json log = json_of(output / "run.json");
  CHECK(log["finished"] == true);
  CHECK(log["interrupted"] == false);
  CHECK(log["steps"].size() == 12);
  CHECK(log["evaluations"].size() == 3);  // two by the number of steps, one at the end of the epoch
  CHECK(log["options"]["learning_rate"] == 1e-3);
  CHECK(log["options"]["sparse"]["n_params"] == 28000);
  CHECK(log["data"]["source"] == "builtin");
  CHECK(log["data"]["train"]["examples"] == 256);
  CHECK(log["versions"].contains("sparsegrad"));
  CHECK(log["trained"]["sparse_parameters"] == 4 * 32 * 64);
  CHECK_FALSE(fs::exists(output / "run.json.partial"));

  const fs::path predictions = output / "predictions.tsv";
  const std::string evaluate = "evaluate --task cola --model '" + (output / "model").string() +
                               "' --threads 1 --products blas --max-length 32 --dev-limit 64 --predictions ";
  const Finished evaluated = run(evaluate + "'" + predictions.string() + "'");
  CHECK_MESSAGE(evaluated.status == 0, evaluated.err);
  check_says(evaluated.out, "matthews_correlation");
  CHECK(lines_of(content(predictions)) == 64);
  // The model kept is the best one.
  std::ostringstream best;
  best.precision(6);
  best << std::fixed << log["best"]["value"].get<double>();
  check_says(evaluated.out, "matthews_correlation " + best.str());
  CHECK(run(evaluate + "/dev/full").status == 1);
  CHECK(run("evaluate --split train --train-limit 16 --task cola --model '" + (output / "model").string() +
            "' --max-length 32")
            .status == 0);
}

TEST_CASE("batches may be larger than the data") {
  const std::string most = " --batch-size 2305843009213693952 ";
  const fs::path output = fresh_folder("large_batch");
  const Finished train = run(train_words(output, "--run-type ft --max-steps 1" + most));
  REQUIRE_MESSAGE(train.status == 0, train.err);
  const Finished evaluated =
      run("evaluate --dev-limit 16 --max-length 32 --threads 1 --products blas --model '" +
          (output / "model").string() + "'" + most);
  CHECK_MESSAGE(evaluated.status == 0, evaluated.err);
}

TEST_CASE("evaluate replaces no file that it reads") {
  const fs::path output = fresh_folder("replaced");
  const fs::path model = output / "model";
  fs::copy(tiny(), model, fs::copy_options::recursive);
  fs::create_directory(output / "CoLA");
  const fs::path dev = output / "CoLA" / "dev.tsv";
  std::ofstream(dev) << "x\t1\t\tthe dog ran\nx\t0\t*\tran dog the\n";
  fs::create_symlink(dev, output / "link.tsv");
  const std::string words = "evaluate --max-length 32 --threads 1 --products blas --model '" +
                            model.string() + "' --data '" + output.string() + "' ";
  const auto refused = [&](const std::string& more, const char* message) {
    const Finished finished = run(words + more);
    CHECK(finished.status == 1);
    check_says(finished.err, message);
  };
  const std::string out = "'" + (output / "out.tsv").string() + "'";
  refused("--predictions " + out + " --submission " + out, "--predictions and --submission are both");
  for (const fs::path& file : {dev, output / "link.tsv", model / "vocab.txt", model / "model.safetensors",
                               model / ".." / "model" / "config.json"}) {
    const std::string before = content(file);
    refused("--predictions '" + file.string() + "'", "--predictions is ");
    refused("--submission '" + file.string() + "'", "a file of the model or the data");
    CHECK(content(file) == before);
  }
  const Finished good = run(words + "--predictions " + out);
  CHECK_MESSAGE(good.status == 0, good.err);
  CHECK(run(words + "--predictions " + out).status == 0);  // once more
}

TEST_CASE("a vocabulary that does not fit is warned of; files and unknown tokens are in the log") {
  const fs::path model = fresh_folder("misfit_model");
  fs::copy(tiny(), model, fs::copy_options::recursive);
  std::string vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n";
  for (std::size_t i = 4; i < lines_of(content(model / "vocab.txt")); ++i)
    vocab += "qqq" + std::to_string(i) + "\n";
  std::ofstream(model / "vocab.txt", std::ios::binary) << vocab;
  std::ofstream(model / "special_tokens_map.json") << R"({"pad_token": "[PAD]"})";
  const fs::path output = fresh_folder("misfit");
  const std::string words =
      " --model '" + model.string() + "' --task cola --threads 1 --products blas --max-length 32 ";
  const Finished train =
      run("train --run-type ft --max-steps 1 --train-limit 16 --dev-limit 16 --no-save --output '" +
          output.string() + "'" + words);
  CHECK_MESSAGE(train.status == 0, train.err);
  check_says(train.err, "train: 100.0 % of the text is the unknown token");
  check_says(train.err, "dev: 100.0 % of the text is the unknown token");
  check_says(train.out, "unknown tokens: train 100.00 %, dev 100.00 %");
  check_says(train.out, "tokenizer: WordPiece of vocab.txt, special_tokens_map.json");
  const nlohmann::json log = json_of(output / "run.json");
  CHECK(log["data"]["train"]["unknown_share"] == 1.0);
  CHECK(log["data"]["dev"]["unknown_tokens"].get<int>() > 16);
  CHECK(log["tokenizer"]["files"] == nlohmann::json{"vocab.txt", "special_tokens_map.json"});
  CHECK(log["tokenizer"]["notes"].empty());
  check_says(run("evaluate --dev-limit 16" + words).err, "100.0 % of the text is the unknown token");
}

TEST_CASE("a preset yields to explicit options") {
  const fs::path output = fresh_folder("preset");
  const Finished train =
      run(train_words(output, "--preset paper --phase1-steps 2 --max-steps 2 --no-save --quiet"));
  CHECK_MESSAGE(train.status == 0, train.err);
  CHECK(train.out.empty());
  const nlohmann::json log = json_of(output / "run.json");
  CHECK(log["phase1"]["steps"] == 2);
  CHECK(log["options"]["sparse"]["basis_scope"] == "kind");
  CHECK_FALSE(fs::exists(output / "model"));
}

TEST_CASE("run type sparse has a preset of its own; entries are given in one way") {
  const fs::path output = fresh_folder("default_preset");
  const auto options_of = [&](const std::string& words) {
    const Finished train =
        run(train_words(output, "--max-steps 1 --phase1-steps 1 --no-save --overwrite --quiet " + words));
    CHECK_MESSAGE(train.status == 0, train.err);
    return json_of(output / "run.json")["options"];
  };
  const nlohmann::json given = options_of("--run-type sparse");
  CHECK(given["preset"] == "best");
  CHECK(given["sparse"]["basis_scope"] == "layer");
  CHECK(given["sparse"]["share"] == 1.0);
  CHECK(given["sparse"]["n_params"].is_null());
  const nlohmann::json entries = options_of("--run-type sparse --n-params 30000");
  CHECK(entries["sparse"]["n_params"] == 30000);
  CHECK(entries["sparse"]["adam"] == "dense_core");
  CHECK(options_of("--run-type sparse --preset paper --share 0.5")["sparse"]["share"] == 0.5);
  CHECK(options_of("--run-type sparse --preset none")["sparse"]["basis_scope"] == "kind");
  CHECK(options_of("--run-type ft")["preset"] == "");
}

TEST_CASE("options from a file yield to the command line; a bad file is refused") {
  const fs::path output = fresh_folder("options_file");
  const auto write = [&](const std::string& text) { std::ofstream(output / "options.json") << text; };
  const std::string words = train_words(output / "run", "--options '" + (output / "options.json").string() +
                                                            "' --max-steps 2 --no-save --overwrite --quiet");
  write(R"({"learning_rate": 0.002, "max-steps": 9, "no-shuffle": true, "run-type": "ft"})");
  const Finished good = run(words);
  CHECK_MESSAGE(good.status == 0, good.err);
  const nlohmann::json log = json_of(output / "run" / "run.json");
  CHECK(log["options"]["learning_rate"] == 0.002);
  CHECK(log["options"]["max_steps"] == 2);
  CHECK(log["options"]["shuffle"] == false);
  CHECK(log["options"]["run_type"] == "ft");
  CHECK_FALSE(fs::is_empty(output / "run" / "tensorboard"));
  for (const auto& [text, message] :
       {std::pair<const char*, const char*>{R"({"learning": 1})", "'learning' is 1"},
        {R"({"lr": [1]})", "'lr' is [1]"},
        {R"({"lr": 1, "lr": 2})", "'lr' and 'lr' are the same option"},
        {R"({"lr": 1, "learning-rate": 2})", "'lr' and 'learning-rate' are the same option"},
        {R"({"max_steps": 1, "max-steps": 2})", "'max_steps' and 'max-steps' are the same option"},
        {R"({"share": 0.5, "n-params": 2})", "'share' and 'n-params' are the same option"},
        {R"({"help": true})", "'help' is true"},
        {R"({"options": "x"})", "'options' is \"x\""},
        {R"({"data": ""})", "'data' is \"\""},
        {R"({"optimize": true})", "tools/glue_optimize.py"},
        {R"({"seed": -1})", "--seed: is -1"},
        {"[1]", "expected an object"},
        {"{", "options.json"}}) {
    write(text);
    const Finished bad = run(words);
    CHECK(bad.status == 2);
    check_says(bad.err, message);
  }
  // The command line's way to say it has precedence over the file's.
  write(R"({"share": 0.5, "run-type": "topk"})");
  const Finished entries = run(words + " --n-params 30000");
  CHECK_MESSAGE(entries.status == 0, entries.err);
  CHECK(json_of(output / "run" / "run.json")["options"]["sparse"]["n_params"] == 30000);
  check_says(run(train_words(output / "run", "--options '" + output.string() + "'")).err,
             output.string() + ": is a folder, expected a JSON file");
}

TEST_CASE("a part of the training set may take dev's place") {
  const fs::path output = fresh_folder("held_out");
  const Finished train =
      run(train_words(output, "--held-out 0.25 --dev-limit 0 --max-steps 2 --no-save --run-type ft"));
  CHECK_MESSAGE(train.status == 0, train.err);
  const nlohmann::json data = json_of(output / "run.json")["data"];
  const index_t held = data["dev"]["examples"];
  CHECK(held > 40);
  CHECK(held < 90);
  CHECK(held + data["train"]["examples"].get<index_t>() == 256);
  const Finished none = run(train_words(output, "--held-out 0.000001 --overwrite"));
  CHECK(none.status == 1);
  check_says(none.err, "0 to evaluate on");
}

TEST_CASE("the reference's spellings, its protocol, and the paper's rates") {
  const fs::path output = fresh_folder("protocol");
  const Finished replicate =
      run("train --task cola --run_type sparse --model_path '" + tiny().string() + "' --output '" +
          output.string() +
          "' --optimize False --n_params 280000 --protocol reference --phase1_steps 2 "
          "--train-limit 64 --dev-limit 20 --max-steps 2 --threads 1 --no-save --quiet");
  CHECK_MESSAGE(replicate.status == 0, replicate.err);
  const nlohmann::json options = json_of(output / "run.json")["options"];
  CHECK(options["epochs"] == 20);
  CHECK(options["patience"] == 5);
  CHECK(options["eval_every"] == 50);
  CHECK(options["padding"] == "max_length");
  CHECK(options["sparse"]["n_params"] == 280000);
  CHECK(options["sparse"]["phase1_steps"] == 2);
  CHECK(options["sparse"]["keep_phase1"] == true);
  for (const char* defect : {"transposed_basis", "rotated_bias", "frozen_layer_norm", "signed_selection"})
    CHECK(options["sparse"]["defects"][defect] == true);
  const Finished paper =
      run(train_words(output, "--preset paper --run-type ft --max-steps 1 --no-save --overwrite --quiet"));
  CHECK_MESSAGE(paper.status == 0, paper.err);
  const nlohmann::json rates = json_of(output / "run.json")["options"];
  CHECK(rates["learning_rate"] == 1.01e-5);
  CHECK(rates["batch_size"] == 16);
}

TEST_CASE("the reference's ways to ask for a search are answered with the tool that does it") {
  const fs::path output = fresh_folder("search");
  for (const char* words : {"--optimize True", "--optimize=true", "--optimize", "-optimize"}) {
    CAPTURE(words);
    const Finished search = run(train_words(output, std::string("--run-type ft --max-steps 1 ") + words));
    CHECK(search.status == 2);
    check_says(search.err, "tools/glue_optimize.py");
    CHECK_FALSE(fs::exists(output / "run.json"));
  }
}

TEST_CASE("the tool's search runs, goes on, and says what is missing") {
  const fs::path output = fresh_folder("tool_search");
  const fs::path root = fs::path(SPARSEGRAD_TEST_DIR) / "../../..";
  const fs::path own = root / ".venv/bin/python";
  const std::string tool = "'" + (fs::exists(own) ? own.string() : "python3") + "' -B '" +
                           (root / "examples/finetune/tools/glue_optimize.py").string() + "'";
  std::string words = train_words(output, "--max-steps 4 --run-type ft");
  words.replace(0, std::string("train ").size(), "");
  words.replace(words.find("--output " + output.string()), ("--output " + output.string()).size(), "");
  const auto search = [&](const std::string& more) {
    return run_command(tool + " --program '" + program().string() + "' --output '" + output.string() +
                       "' --trials 2 --rates=1e-4,1e-3 -- " + words + more);
  };
  const Finished first = search("");
  if (first.status == 3) {
    check_says(first.err, "optuna is missing");
    MESSAGE("skipped: optuna is missing, the search was not run");
    return;
  }
  CHECK_MESSAGE(first.status == 0, first.err);
  check_says(first.out, "best of 2 trials");
  const nlohmann::json best = json_of(output / "best.json");
  CHECK(best["learning-rate"].get<double>() >= 1e-4);
  CHECK(best["learning-rate"].get<double>() <= 1e-3);
  CHECK(json_of(output / "trials" / "0" / "run.json")["options"]["held_out"] == 0.1);
  // Nothing is left to do; with other options it is another search.
  const Finished again = search("");
  CHECK(again.status == 0);
  check_says(again.out, "best of 2 trials");
  const Finished other = search(" --seed 5");
  CHECK(other.status == 1);
  check_says(other.err, "a search with other options is there");
}

TEST_CASE("an interrupt leaves a log and a checkpoint that can be evaluated") {
  const fs::path output = fresh_folder("interrupt");
  const pid_t child = start(train_words(output, "--epochs 100000 --eval-every 3 --phase1-steps 2 --quiet"));
  bool evaluated = false;
  for (int i = 0; i < 600 && !evaluated; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    evaluated = fs::exists(output / "run.json") &&
                !json_of(output / "run.json").value("evaluations", nlohmann::json::array()).empty();
  }
  CHECK(evaluated);
  kill(child, SIGINT);
  CHECK(wait_for(child) == 130);
  const nlohmann::json log = json_of(output / "run.json");
  CHECK(log["interrupted"] == true);
  CHECK(log["finished"] == false);
  CHECK(log["steps_done"] > 0);
  for (const char* folder : {"model", "checkpoint"}) {
    CHECK(
        run("evaluate --task cola --model '" + (output / folder).string() + "' --max-length 32 --dev-limit 8")
            .status == 0);
  }
}

TEST_CASE("the parts of memory add up to the process's peak") {
  finetune::test::TinyBert extents;
  extents.layers = 4;
  extents.hidden = 256;
  extents.intermediate = 1024;
  const fs::path model = make_tiny_bert(fresh_folder("middle"), extents);
  for (const char* type : {"ft", "sparse --basis-scope layer", "sparse --width-side 16 --other-side identity",
                           "frozen-mlp", "ft --dtype bf16"}) {
    const fs::path output = fresh_folder("memory");
    const Finished train =
        run("train --task cola --model '" + model.string() + "' --output '" + output.string() +
            "' --threads 1 --max-length 32 --train-limit 256 --dev-limit 32 --max-steps 4 "
            "--phase1-steps 2 --no-save --run-type " +
            type);
    REQUIRE_MESSAGE(train.status == 0, train.err);
    const nlohmann::json memory = json_of(output / "run.json")["memory"];
    const auto peak = memory["process_peak_bytes"].get<double>();
    const auto sum = memory["sum_of_parts_bytes"].get<double>();
    CAPTURE(memory.dump());
    CHECK(sum > 0.9 * peak);
    CHECK(sum < 1.1 * peak);
  }
}

TEST_CASE("one process at a time in a folder; a new run clears what an old one left") {
  const fs::path output = fresh_folder("folder");
  // Half-done files of writers that were killed, and a user's own file.
  write_file(output / "checkpoint" / "state.safetensors.tmp-1-0", "x");
  write_file(output / "model" / "model.safetensors.tmp-12-3", "x");
  write_file(output / "run.json.partial", "x");
  const pid_t child =
      start(train_words(output, "--epochs 100000 --checkpoint-every 3 --run-type ft --quiet"));
  for (int i = 0; i < 600 && !fs::exists(output / "checkpoint" / "state.safetensors"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  CHECK_FALSE(fs::exists(output / "checkpoint" / "state.safetensors.tmp-1-0"));
  CHECK_FALSE(fs::exists(output / "model" / "model.safetensors.tmp-12-3"));
  // The running process writes a file by this name at every epoch's end: only the old one's text must be gone.
  CHECK(content(output / "run.json.partial") != "x");
  for (const char* more : {"", "--resume"}) {
    const Finished second = run(train_words(output, std::string("--max-steps 1 --run-type ft ") + more));
    CHECK(second.status == 1);
    check_says(second.err, "another process is running in this folder");
  }
  const Finished inspect =
      run("inspect --model '" + tiny().string() + "' --output '" + output.string() + "'");
  CHECK(inspect.status == 1);
  check_says(inspect.err, "another process is running in this folder");
  kill(child, SIGKILL);
  CHECK(wait_for(child) == 128 + SIGKILL);

  write_file(output / "model" / "notes.txt", "mine");
  write_file(output / "tensorboard" / "events.out.tfevents.1.sparsegrad", "old");
  const std::string anew = "--max-steps 1 --run-type ft --no-save --quiet ";
  const Finished refused = run(train_words(output, anew));
  CHECK(refused.status == 1);
  check_says(refused.err, "holds the checkpoint of another run");
  // Killed between the two renames of a checkpoint, the run has left the one before it alone.
  CHECK((fs::exists(output / "checkpoint" / "state.safetensors") ||
         fs::exists(output / "checkpoint" / "state.safetensors.previous")));
  const Finished fresh = run(train_words(output, anew + "--overwrite"));
  CHECK_MESSAGE(fresh.status == 0, fresh.err);
  CHECK_FALSE(fs::exists(output / "checkpoint"));
  CHECK_FALSE(fs::exists(output / "model" / "model.safetensors"));
  CHECK(content(output / "model" / "notes.txt") == "mine");
  CHECK(std::distance(fs::directory_iterator(output / "tensorboard"), fs::directory_iterator()) == 1);
  CHECK(content(output / "tensorboard" / "events.out.tfevents.1.sparsegrad") != "old");

  // What is not a run's is left alone, and what a run reads is not written to.
  const fs::path other = fresh_folder("others");
  write_file(other / "model" / "config.json", "mine");
  CHECK(run(train_words(other, "--max-steps 1 --run-type ft --no-save --quiet")).status == 0);
  CHECK(content(other / "model" / "config.json") == "mine");
  const fs::path again = fresh_folder("again");
  CHECK(run(train_words(again, "--max-steps 1 --run-type ft --quiet")).status == 0);
  const Finished own = run("train --task cola --max-length 32 --model " + (again / "model").string() +
                           " --output " + again.string());
  CHECK(own.status == 1);
  check_says(own.err, "which a run in --output");
  CHECK(fs::exists(again / "model" / "model.safetensors"));
}

TEST_CASE("a task's other spellings are the same options, with every preset") {
  const fs::path output = fresh_folder("spelling");
  const std::string rest =
      " --model " + tiny().string() + " --output " + output.string() +
      " --max-length 32 --train-limit 64 --dev-limit 16 --max-steps 1 --no-save --run-type ft "
      "--quiet --threads 1 ";
  for (const char* preset : {"--preset paper", "--protocol reference"}) {
    const Finished first = run("train --task CoLA --overwrite" + rest + preset);
    CHECK_MESSAGE(first.status == 0, first.err);
    CHECK(json_of(output / "run.json")["options"]["task"] == "cola");
    const Finished again = run("train --task cola --resume" + rest + preset);
    CHECK_MESSAGE(again.status == 0, again.err);
    check_says(again.out, "finished already");
  }
}

TEST_CASE("what the reference calls meprop is topk with AdamW's moments") {
  const fs::path output = fresh_folder("reference_meprop");
  for (const char* type : {"meprop", "topk"}) {
    const Finished run_of = run(train_words(
        output, std::string("--protocol reference --max-steps 2 --no-save --overwrite --run_type ") + type));
    CHECK_MESSAGE(run_of.status == 0, run_of.err);
    CHECK((run_of.err.find("run type topk is taken") != std::string::npos) ==
          (std::string(type) == "meprop"));
    const nlohmann::json options = json_of(output / "run.json")["options"];
    CHECK(options["run_type"] == "topk");
    CHECK(options["sparse"]["adam"] == "dense_core");
  }
  const Finished given = run(train_words(
      output,
      "--protocol reference --run-type topk --adam torch --max-steps 1 --no-save --overwrite --quiet"));
  CHECK(given.status == 0);
  CHECK(json_of(output / "run.json")["options"]["sparse"]["adam"] == "torch");
}

TEST_CASE("LoRA's rank under the paper's preset goes by the model's width") {
  const fs::path output = fresh_folder("rank");
  const auto rank_of = [&](const std::string& more) {
    const Finished train = run(train_words(
        output, "--preset paper --run-type lora --max-steps 1 --no-save --overwrite --quiet " + more));
    CHECK_MESSAGE(train.status == 0, train.err);
    return json_of(output / "run.json")["options"]["lora"]["rank"].get<int>();
  };
  CHECK(rank_of("") == 7);
  CHECK(rank_of("--lora-rank 3") == 3);
  finetune::test::TinyBert wide;
  wide.layers = 1;
  wide.hidden = 1024;
  wide.intermediate = 16;
  const fs::path model = make_tiny_bert(fresh_folder("wide"), wide);
  CHECK(rank_of("--model " + model.string()) == 10);
}

TEST_CASE("memory is refused before it is taken, with what is needed") {
  const fs::path output = fresh_folder("refused");
  finetune::test::TinyBert extents;
  extents.layers = 8;
  extents.hidden = 512;
  extents.intermediate = 2048;
  const fs::path model = make_tiny_bert(fresh_folder("large"), extents);
  // 8 layers hold 16 matrices of 4 MiB: weights 90 MiB, dense moments 2 x 64 MiB in phase 1.
  const std::string words =
      "train --task cola --max-length 16 --train-limit 32 --dev-limit 8 --batch-size 4 --max-steps 1 "
      "--phase1-steps 1 --threads 1 --no-save --run-type sparse --preset paper --model " +
      model.string() + " --output " + output.string();
#if defined(__SANITIZE_ADDRESS__)
  MESSAGE("skipped: the address sanitizer needs more address space than any limit leaves");
  return;
#endif
  const Finished refused = run(words, "ulimit -v 700000; OPENBLAS_NUM_THREADS=1 ");
  CHECK(refused.status == 1);
  check_says(refused.err, "this run needs at least");
  check_says(refused.err, "in phase 1");
  CHECK_FALSE(fs::exists(output / "run.json"));
  const Finished allowed = run(words);
  CHECK_MESSAGE(allowed.status == 0, allowed.err);
  const nlohmann::json estimate = json_of(output / "run.json")["memory_estimate"];
  CHECK(estimate["phase1"]["optimizer"] > (2 * 64) << 20);
  CHECK(estimate["most_bytes"] > estimate["least_bytes"]);
}

TEST_CASE("inspect writes a table and the data of its plots") {
  const fs::path output = fresh_folder("inspect");
  const Finished done =
      run("inspect --task cola --model '" + tiny().string() + "' --output '" + output.string() +
          "' --threads 1 --max-length 32 --train-limit 256 --dev-limit 8 --at-step 12 --phase1-steps 3");
  CHECK_MESSAGE(done.status == 0, done.err);
  const nlohmann::json json = json_of(output / "inspect.json");
  check_says(done.out, "plot_inspect.py");
  CHECK(json["spaces"].size() == 8);
  for (const nlohmann::json& space : json["spaces"]) {
    check_says(done.out, space["name"].get<std::string>());
    CHECK(space["up"].size() == 2);
    for (const nlohmann::json& share : space["down"]) {
      CHECK(share > 0.0);
      CHECK(share <= 1.0);
    }
  }
  for (const nlohmann::json& picture : json["pictures"])
    CHECK(fs::file_size(output / picture["file"].get<std::string>()) == 128 + 4 * 32 * 64);
  const Finished refused = run("inspect --task cola --model '" + tiny().string() + "' --output '" +
                               output.string() + "' --max-length 32 --at-step 5");
  CHECK(refused.status == 1);
  check_says(refused.err, "--at-step is 5");
}

TEST_CASE("paths may have any letters") {
  // Marks of URLs, shells, formats, JSON and of this program's own options; letters that are not ASCII, and a byte that is no
  // letter at all.
  const fs::path root = fresh_folder("paths");
  const fs::path data = root / "data";
  std::string rows;
  for (int i = 0; i < 32; ++i)
    rows += "s\t" + std::to_string(i % 2) + "\t\tThe cat sat " + std::to_string(i) + ".\n";
  for (const std::string& name : {std::string("a b"), std::string("50%20x"), std::string("lr?a#b&c;d"),
                                  std::string("\"q\" 'r' `s` $HOME \\n"), std::string("{}{0}[a,b]"),
                                  std::string("new\nline"), std::string("-x"), std::string("--optimize"),
                                  std::string("ünï 漢字"), std::string("\xff\xfe"), std::string(200, 'x')}) {
    CAPTURE(name);
    const fs::path folder = root / name;
    fs::create_directories(folder);
    fs::copy(tiny(), folder / "m", fs::copy_options::recursive);
    for (const char* file : {"train.tsv", "dev.tsv"})
      write_file(folder / "CoLA" / file, rows);
    const std::string at = folder.string();
    std::vector<std::string> words{"train",
                                   "--task",
                                   "cola",
                                   "--threads",
                                   "1",
                                   "--max-length",
                                   "32",
                                   "--batch-size",
                                   "8",
                                   "--epochs",
                                   "1",
                                   "--run-type",
                                   "ft",
                                   "--model=" + at + "/m",
                                   "--data",
                                   at,
                                   "--output",
                                   at + "/out_1",
                                   "--eval-every",
                                   "2"};
    const Finished train = run_words(words);
    REQUIRE_MESSAGE(train.status == 0, train.err);
    CHECK(json_of(folder / "out_1" / "run.json")["finished"] == true);
    CHECK(fs::exists(folder / "out_1" / "model" / "model.safetensors"));
    words.emplace_back("--resume");
    const Finished again = run_words(words);
    CHECK_MESSAGE(again.status == 0, again.err);
    check_says(again.out, "finished already");
    const Finished evaluated =
        run_words({"evaluate", "--task", "cola", "--max-length", "32", "--model", at + "/out_1/model",
                   "--data", at, "--predictions", at + "/p", "--quiet"});
    CHECK_MESSAGE(evaluated.status == 0, evaluated.err);
    CHECK(lines_of(content(folder / "p")) == 32);
    // An error's message has the path as it is.
    check_says(run_words({"train", "--model", at + "/none", "--output", at + "/o"}).err, at + "/none");
  }
  // Nothing went elsewhere.
  CHECK(std::distance(fs::directory_iterator(root), fs::directory_iterator()) == 11);

  // A relative name that begins with "-" is given with "=".
  fs::remove_all("-x");
  const Finished dash =
      run_words({"train", "--model", tiny().string(), "--output=-x", "--max-steps", "1", "--max-length", "32",
                 "--run-type", "ft", "--no-save", "--train-limit", "8", "--dev-limit", "8"});
  CHECK_MESSAGE(dash.status == 0, dash.err);
  CHECK(fs::exists("-x/run.json"));

  // Names at and above the file system's limit.
  const fs::path longest = root / std::string(255, 'y');
  const Finished predictions =
      run_words({"evaluate", "--task", "cola", "--max-length", "32", "--model",
                 (root / "a b" / "out_1" / "model").string(), "--data", (root / "a b").string(),
                 "--predictions", longest.string(), "--quiet"});
  CHECK_MESSAGE(predictions.status == 0, predictions.err);
  CHECK(lines_of(content(longest)) == 32);
  const Finished beyond =
      run_words({"train", "--model", tiny().string(), "--output", (root / std::string(256, 'z')).string()});
  CHECK(beyond.status == 1);
  check_says(beyond.err, "File name too long");
}
