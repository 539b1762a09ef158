// Options without effect: refused or told of, by the tables of programs/option_effects.
#include <doctest/doctest.h>

#include <functional>

#include <nlohmann/json.hpp>

#include "files.hpp"
#include "programs/option_effects.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

std::vector<std::string> told(const std::set<std::string>& given, const TrainOptions& options) {
  return check_effects(given, option_effects(options));
}

}  // namespace

TEST_CASE("options of other run types, of the other device and of models that are not saved are told of") {
  const std::vector<std::string> sparse{"--basis-scope",
                                        "--width-side",
                                        "--other-side",
                                        "--out-side",
                                        "--in-side",
                                        "--phase1-steps",
                                        "--phase1-fixed-matrices",
                                        "--normalize",
                                        "--keep-phase1",
                                        "--refresh-every",
                                        "--refresh-window",
                                        "--moments",
                                        "--transposed-basis",
                                        "--rotated-bias",
                                        "--frozen-layernorm",
                                        "--signed-selection"};
  const std::vector<std::string> entries{
      "--n-params",           "--share", "--adam", "--plan", "--state-capacity", "--state-overflow",
      "--own-gradient-memory"};
  const std::vector<std::string> lora{"--lora-rank", "--lora-scale", "--lora-init"};
  for (const RunType type :
       {RunType::ft, RunType::sparse, RunType::topk, RunType::lora, RunType::meprop, RunType::frozen_mlp}) {
    TrainOptions options;
    options.run_type = type;
    options.preset = "best";
    const std::string name(to_string(type));
    CAPTURE(name);
    const auto check = [&](const std::vector<std::string>& group, bool effective, const std::string& needed) {
      for (const std::string& option : group) {
        CAPTURE(option);
        const std::vector<std::string> warnings = told({option, "--epochs", "--seed"}, options);
        CHECK(warnings == (effective ? std::vector<std::string>{}
                                     : std::vector<std::string>{option + " has no effect with --run-type " +
                                                                name + ": it needs " + needed}));
      }
    };
    check(lora, type == RunType::lora, "--run-type lora");
    check({"--meprop-share"}, type == RunType::meprop, "--run-type meprop");
    check(sparse, type == RunType::sparse, "--run-type sparse");
    check(entries, type == RunType::sparse || type == RunType::topk, "--run-type sparse or topk");
    check({"--preset"}, type == RunType::sparse || type == RunType::topk,
          "--run-type sparse or topk for best");
    check({"--sparse-learning-rate"}, type != RunType::lora && type != RunType::frozen_mlp,
          "a run type that trains the MLP matrices");
    CHECK(told({}, options).empty());
    // paper has rates for every run type of an encoder, none for a language model.
    options.preset = "paper";
    CHECK(told({"--preset"}, options).empty());
    if (type == RunType::frozen_mlp) continue;
    options.causal.emplace();
    check({"--preset"}, type == RunType::sparse || type == RunType::topk,
          "--run-type sparse or topk for paper");
  }
  TrainOptions of_llm;
  of_llm.causal.emplace();
  of_llm.run_type = RunType::frozen_mlp;
  CHECK(
      told({"--sparse-learning-rate"}, of_llm) ==
      std::vector<std::string>{"--sparse-learning-rate has no effect with --run-type frozen: it needs a run "
                               "type that trains the chosen matrices"});
  TrainOptions options;
  CHECK(told({"--threads", "--deterministic", "--save-dtype", "--preset", "--profile"}, options).empty());
  options.save = false;
  options.device = Device::cuda;
  CHECK(told({"--profile"}, options) ==
        std::vector<std::string>{"--profile has no effect with --device cuda: it needs --device cpu"});
  CHECK(told({"--threads", "--deterministic", "--save-dtype"}, options) ==
        std::vector<std::string>{"--save-dtype has no effect with --no-save: it needs models that are saved",
                                 "--threads has no effect with --device cuda: it needs --device cpu",
                                 "--deterministic has no effect with --device cuda: it needs --device cpu"});
  options.threads = 1000;  // which a GPU has no use for
  CHECK(check_threads(options, 2).empty());
  options.sparse.sides = {"hadamard", "identity", "", ""};
  CHECK(told({"--phase1-steps"}, options) ==
        std::vector<std::string>{
            "--phase1-steps has no effect with sides that are fitted to no gradients: it needs a "
            "side of full, a rank or an energy share"});

  EvaluateCommand evaluate;
  CHECK(check_effects({"--dev-limit"}, option_effects(evaluate)).empty());
  check_says(check_effects({"--train-limit"}, option_effects(evaluate)).at(0),
             "--train-limit has no effect with --split dev: it needs --split train");
  evaluate.split = "train";
  CHECK(check_effects({"--train-limit"}, option_effects(evaluate)).empty());
  check_says(check_effects({"--dev-limit"}, option_effects(evaluate)).at(0), "with --split train");
  CHECK(check_effects({"--phase1-fixed-matrices", "--seed"}, option_effects(InspectCommand{})).size() == 1);
}

TEST_CASE("options that no run of the same type would have are refused") {
  TrainOptions options;
  SparseOptions& s = options.sparse;
  const auto refused = [&](const char* option, const char* message) {
    const std::string error = error_of([&] { told({option}, options); });
    check_says(error, std::string(option) + " has no effect with " + message);
    check_says(error, "Leave it out");
    CHECK(told({"--seed"}, options).empty());
  };
  CHECK(told({"--refresh-window", "--moments", "--state-overflow", "--width-side", "--out-side"}, options)
            .empty());
  s.refresh_window = 5;
  refused("--refresh-window", "--refresh-every 0: it needs --refresh-every above 0");
  s.moments = MomentsPolicy::transport;
  refused("--moments", "--refresh-every 0");
  s.refresh_every = 10;
  CHECK(told({"--refresh-window", "--moments"}, options).empty());
  s.state_capacity = 0;
  refused("--state-overflow", "--state-capacity 0");
  options.run_type = RunType::topk;
  refused("--state-overflow", "--state-capacity 0");
  options.run_type = RunType::sparse;
  s.sides.out = "8";
  CHECK(told({"--width-side", "--other-side"}, options).empty());
  s.sides.in = "identity";
  refused("--width-side", "--out-side and --in-side");
  refused("--other-side", "--out-side and --in-side");
}

TEST_CASE("ranks above their side's extent are refused where they were given") {
  ModelConfig model;
  model.hidden = 32;
  model.intermediate = 64;
  TrainOptions options;
  const auto check = [&](const char* option, const SideOptions& sides) {
    options.sparse.sides = sides;
    check_ranks({option}, options, rank_limits(model));
  };
  for (const char* fits : {"32", "random:32:7", "random", "full", "0.95", "hadamard", "identity"}) {
    check("--width-side", {fits, "full", "", ""});
    check("--other-side", {"full", fits, "", ""});
  }
  for (const char* most : {"64", "random:64"}) {
    check("--other-side", {"full", most, "", ""});
    check("--out-side", {"full", "full", most, ""});
    check("--in-side", {"full", "full", "", most});
    check("--other-side", {most, "full", "", ""});  // the width's rank is a preset's
    check_says(error_of([&] {
                 check("--width-side", {most, "full", "", ""});
               }),
               "--width-side is " + std::string(most) + ", expected a rank of at most 32, the model's width");
  }
  check_says(error_of([&] {
               check("--other-side", {"full", "65", "", ""});
             }),
             "--other-side is 65, expected a rank of at most 64, the matrices' inner side");
  check_says(error_of([&] { check("--out-side", {"full", "full", "65", ""}); }), "--out-side is 65");
  check_says(error_of([&] {
               check("--in-side", {"full", "full", "", "random:65"});
             }),
             "--in-side is random:65");
  options.lora.rank = 33;
  check("--lora-rank", {});  // of no effect in this run type, which is told elsewhere
  options.run_type = RunType::lora;
  check("--width-side", {"64", "full", "", ""});
  check_says(error_of([&] { check("--lora-rank", {}); }),
             "--lora-rank is 33, expected a rank of at most 32, the lesser side of the matrices");
  options.lora.rank = 32;
  check("--lora-rank", {});
}

TEST_CASE("entries of all of a matrix are the most that a step can change") {
  TrainOptions options;
  options.sparse.n_params = 768 * 3072;
  options.check();
  options.sparse.n_params += 1;
  check_says(error_of([&] { options.check(); }),
             "--n-params is 2359297, expected at most 2359296, all entries of a matrix of 768 x 3072");
}

TEST_CASE("options that differ are told by their names, with both values") {
  const auto of = [](const std::function<void(TrainOptions&)>& change) {
    TrainOptions options;
    change(options);
    return to_json(options);
  };
  const nlohmann::json run = of([](TrainOptions& o) { o.run_type = RunType::lora; });
  CHECK(differences(run, run).empty());
  CHECK(differences(run, of([](TrainOptions& o) {
                      o.run_type = RunType::lora;
                      o.lora.rank = 9;
                      o.seed = 1;
                      o.save = false;
                    })) ==
        "--lora-rank is 9, the run had 7; save (--no-save) is false, the run had true; --seed is 1, the run "
        "had 42");
  check_says(differences(run, of([](TrainOptions& o) { o.run_type = RunType::ft; })),
             "--lora-rank is nothing, the run had 7");
  const nlohmann::json sparse = of([](TrainOptions&) {});
  check_says(differences(sparse, of([](TrainOptions& o) { o.sparse.sides.width = "8"; })),
             "the in side of up matrices is \"8\", the run had \"full\"");
  check_says(differences(sparse, of([](TrainOptions& o) { o.sparse.refresh_every = 5; })),
             "--refresh-every is 5, the run had 0");
  // What a state compares beside the options.
  CHECK(differences({{"options", sparse}, {"examples", {1, 2}}},
                    {{"options", sparse}, {"examples", {1, 3}}}) == "examples/1 is 3, the run had 2");
  CHECK(!differences(nlohmann::json(3), {{"options", sparse}}).empty());
}

TEST_CASE("a decay that would turn weights' signs is refused for every run type, and TF32 on a CPU") {
  for (const RunType type :
       {RunType::ft, RunType::sparse, RunType::topk, RunType::lora, RunType::meprop, RunType::frozen_mlp}) {
    TrainOptions options;
    options.run_type = type;
    options.learning_rate = 0.5;
    options.weight_decay = 2;
    options.check();
    options.weight_decay = 2.5;
    check_says(error_of([&] { options.check(); }),
               "--weight-decay is 2.5, expected at most 2: times the learning rate 0.5 it is more than 1");
    options.weight_decay = 2;
    options.sparse_learning_rate = 0.75;
    if (type == RunType::lora || type == RunType::frozen_mlp) {
      options.check();
    } else {
      check_says(error_of([&] { options.check(); }), "times the learning rate 0.75");
    }
  }
  TrainOptions options;
  // Ten times as much, Adam's rate in its first step, is finite in float.
  options.learning_rate = 1e37;
  options.weight_decay = 0;
  options.check();
  options.learning_rate = 1e300;
  check_says(error_of([&] { options.check(); }),
             "--learning-rate is 1e+300, expected a finite number from 0 to 1e37");
  options.learning_rate = 1e-3;
  options.sparse_learning_rate = 1.1e37;
  check_says(error_of([&] { options.check(); }),
             "--sparse-learning-rate is 1.1e+37, expected a finite number");
  options = TrainOptions();
  options.tf32 = true;
  check_says(error_of([&] { options.check(); }), "--tf32 is given, expected it with --device cuda alone");
  options.device = Device::cuda;
  options.check();
}

TEST_CASE("more threads than the process has processors are told of, with both numbers") {
  TrainOptions options;
  for (const int threads : {0, 1, 2}) {
    options.threads = threads;
    CHECK(check_threads(options, 2).empty());
  }
  options.threads = 3;
  CHECK(check_threads(options, 2) ==
        "--threads is 3, which wait for one another: by affinity and quotas this process has 2 processors, "
        "which --threads 0 takes");
  check_says(check_threads(options, 1), "this process has 1 processor, which");
}
