// The program in bfloat16 on the CPU: losses and metrics beside float's, resumed runs, what is saved, what is refused.
#include <cmath>

#include "run_result.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

void check_contains(const std::string& text, const std::string& part) {
  CHECK_MESSAGE(text.find(part) != std::string::npos, text);
}

}  // namespace

TEST_CASE("train --dtype bf16: the losses of run types and presets are near float's") {
  for (const char* options :
       {"--run-type ft --learning-rate 1e-3", "--run-type lora --learning-rate 1e-3",
        "--run-type sparse --preset best --learning-rate 1e-3 --phase1-steps 3 --width-side 8",
        "--run-type sparse --preset paper --learning-rate 1e-3 --phase1-steps 3 --n-params 200",
        "--run-type topk --learning-rate 1e-3 --share 0.05 --clip-norm 0.5"}) {
    CAPTURE(options);
    const std::string more =
        std::string(options) + " --max-steps 8 --epochs 10 --batch-size 16 --log-every 1 --no-save";
    std::vector<double> losses[2];
    double seen[2] = {};
    for (const bool low : {false, true}) {
      const fs::path output = fresh_folder(low ? "bf16" : "float");
      const Finished trained = run(train_words(output, more + (low ? " --dtype bf16" : "")));
      REQUIRE_MESSAGE(trained.status == 0, trained.err);
      CHECK((trained.out.find("multiplied in float") != std::string::npos) == low);
      const nlohmann::json log = json_of(output / "run.json");
      CHECK(log["options"]["dtype"] == (low ? "bf16" : "float"));
      CHECK(log["options"]["device"] == "cpu");
      for (const nlohmann::json& step : log["steps"])
        losses[low].push_back(step["loss"]);
      losses[low].push_back(log["evaluations"].back()["loss"]);
      const nlohmann::json& estimate = log["memory_estimate"]["training"];
      seen[low] = estimate["activations"];
    }
    REQUIRE(losses[0].size() == 9);
    REQUIRE(losses[1].size() == 9);
    for (std::size_t i = 0; i < losses[0].size(); ++i)
      CHECK_MESSAGE(std::abs(losses[1][i] - losses[0][i]) <= 16 * 0x1p-8 * losses[0][i],
                    "loss " << i << ": " << losses[1][i] << ", in float " << losses[0][i]);
    CHECK(losses[0] != losses[1]);
    CHECK(seen[1] < seen[0]);
  }
}

TEST_CASE("evaluate --dtype bf16: the model that was saved, near float's metrics and logits") {
  const fs::path output = fresh_folder("saved");
  const Finished trained =
      run(train_words(output, "--run-type ft --learning-rate 1e-3 --max-steps 12 --dtype bf16 --threads 2"));
  REQUIRE_MESSAGE(trained.status == 0, trained.err);
  const fs::path model = output / "model";
  CHECK(json_of(model / "config.json")["torch_dtype"] == "float32");
  double best = 0;
  const nlohmann::json log = json_of(output / "run.json");
  for (const nlohmann::json& evaluation : log["evaluations"])
    if (evaluation["best"] == true) best = evaluation["loss"];

  std::vector<double> logits[2];
  std::string text[2];
  for (const bool low : {false, true}) {
    const fs::path predictions = output / "predictions.tsv";
    const Finished evaluated =
        run("evaluate --task cola --max-length 32 --threads 1 --products blas --dev-limit 64 --model " +
            model.string() + " --predictions " + predictions.string() + (low ? " --dtype bf16" : ""));
    REQUIRE_MESSAGE(evaluated.status == 0, evaluated.err);
    text[low] = evaluated.out;
    std::istringstream lines(content(predictions));
    std::string line;
    while (std::getline(lines, line)) {
      std::istringstream words(line);
      double first = 0;
      double second = 0;
      REQUIRE((words >> first >> second));
      logits[low].push_back(first);
      logits[low].push_back(second);
    }
  }
  REQUIRE(logits[0].size() == 128);
  REQUIRE(logits[1].size() == 128);
  CHECK(logits[0] != logits[1]);
  double most = 1;
  double worst = 0;
  for (std::size_t i = 0; i < logits[0].size(); ++i) {
    most = std::max(most, std::abs(logits[0][i]));
    worst = std::max(worst, std::abs(logits[0][i] - logits[1][i]));
  }
  CHECK(worst <= 16 * 0x1p-8 * most);
  // What the run itself measured, in bf16, is what evaluate measures in it.
  const std::string at = "loss ";
  const std::size_t place = text[1].find(at);
  REQUIRE(place != std::string::npos);
  CHECK(std::stod(text[1].substr(place + at.size())) == doctest::Approx(best).epsilon(1e-3));
}

TEST_CASE("train --dtype bf16 --save-dtype bf16: the file's numbers and config.json have that type") {
  const fs::path output = fresh_folder("saved_bf16");
  const Finished trained =
      run(train_words(output, "--run-type lora --max-steps 2 --dtype bf16 --save-dtype bf16"));
  REQUIRE_MESSAGE(trained.status == 0, trained.err);
  CHECK(json_of(output / "model" / "config.json")["torch_dtype"] == "bfloat16");
  CHECK(content(output / "model" / "model.safetensors").find("\"BF16\"") != std::string::npos);
  CHECK(run("evaluate --task cola --max-length 32 --threads 1 --products blas --dev-limit 16 --dtype bf16 "
            "--model " +
            (output / "model").string())
            .status == 0);
}

TEST_CASE("16 bits where there are none are refused") {
  for (const std::string& command :
       {train_words(fresh_folder("refused"), ""), "evaluate --task cola --model " + tiny().string() + " "}) {
    const Finished half = run(command + "--dtype fp16");
    CHECK(half.status == 1);
    check_contains(half.err, "--dtype is fp16, expected float or bf16 with --device cpu");
  }
  const Finished inspected = run("inspect --task cola --model " + tiny().string() + " --output " +
                                 fresh_folder("inspected").string() + " --dtype bf16");
  CHECK(inspected.status == 1);
  check_contains(inspected.err, "--dtype is bf16, expected float");
}
