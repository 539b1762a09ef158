// What a resume reads beside arrays: the records in a run's state, and the log of the run before.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>
#include <sparsegrad/core/error.hpp>
#include <sparsegrad/core/float_bits.hpp>

#include "checkpoints/config_file.hpp"
#include "tokenizers/tokenizer.hpp"
#include "training/output/output_file.hpp"
#include "training/output/train_output.hpp"

namespace sparsegrad::finetune::detail {
nlohmann::json records_json(const TrainReport& report);
void read_records(const nlohmann::json& j, TrainReport& report);
nlohmann::json parse_state(const std::string& text);
}  // namespace sparsegrad::finetune::detail

using nlohmann::json;
using namespace sparsegrad;
using namespace sparsegrad::finetune;

namespace {

json records() {
  TrainReport report;
  StepRecord step;
  step.step = 1;
  report.steps.push_back(step);
  EvaluationRecord evaluation;
  evaluation.metrics.push_back({"accuracy", 0.5, true});
  report.evaluations.push_back(evaluation);
  report.best = 0;
  return finetune::detail::records_json(report);
}

/// The text of the IoError with which the records are refused once `at` is `value`.
std::string refusal(const char* at, const json& value) {
  json changed = records();
  changed.at(json::json_pointer(at)) = value;
  TrainReport report;
  try {
    finetune::detail::read_records(changed, report);
  } catch (const IoError& error) {
    return error.what();
  }
  return "taken";
}

}  // namespace

TEST_CASE("records of a state: numbers are whole and in range before they are converted") {
  for (const char* at : {"/steps/0/0", "/steps/0/7", "/phase1/0", "/memory/3", "/memory/7", "/steps_done",
                         "/tokens", "/refreshes", "/skipped_steps", "/best"}) {
    CAPTURE(std::string(at));
    for (const json& wrong :
         {json(1e300), json(0.5), json(-1), json(18446744073709551615ULL), json("1"), json()}) {
      if (std::string(at) == "/best" && wrong.is_null()) continue;  // none
      CHECK(refusal(at, wrong).starts_with("the metadata have " + wrong.dump() +
                                           ", expected a whole number from 0"));
    }
  }
  CHECK(refusal("/best", 1) == "the metadata have 1, expected a whole number from 0 to 0");
  CHECK(refusal("/tokens", 7) == "taken");
}

TEST_CASE("records of a state: what is no list is not taken for an empty one") {
  for (const char* at : {"/steps", "/evaluations", "/evaluations/0/3", "/phase1/3"}) {
    CAPTURE(std::string(at));
    for (const json& wrong : {json(), json::object(), json(5), json("a")})
      CHECK(refusal(at, wrong) == "the metadata have " + wrong.dump() + ", expected a list");
    CHECK(refusal(at, json::array()) == (std::string(at) == "/evaluations"
                                             ? "the metadata have 0, expected a whole number from 0 to -1"
                                             : "taken"));
  }
}

TEST_CASE("records of a state: a loss that is not finite is null in the file and comes back as NaN") {
  TrainReport report;
  report.steps.emplace_back().loss = std::nan("");
  report.evaluations.emplace_back().metrics.push_back({"pearson", std::nan(""), false});
  report.phase1.losses = {std::nan("")};
  TrainReport again;
  finetune::detail::read_records(json::parse(finetune::detail::records_json(report).dump()), again);
  CHECK(is_nan(again.steps.at(0).loss));
  CHECK(is_nan(again.evaluations.at(0).metrics.at(0).value));
  CHECK(is_nan(again.phase1.losses.at(0)));
}

TEST_CASE("a log that a resume finds: no object is refused by name, what is not finished is replaced") {
  const std::filesystem::path log = std::filesystem::path(SPARSEGRAD_TEST_OUTPUT_DIR) / "run.json";
  write_file(log, "[1]");
  CHECK_THROWS_WITH_AS(
      (void)is_finished(log, TrainOptions()),
      (log.string() + ": expected the log of a run, an object, found array; choose another --output").c_str(),
      ValueError);
  for (const char* text : {"{}", R"({"finished": 1})", R"({"finished": "yes"})", R"({"finished": false})"}) {
    write_file(log, text);
    CHECK_FALSE(is_finished(log, TrainOptions()));
  }
  write_file(log, R"({"finished": true, "options": 3})");
  CHECK_THROWS_AS((void)is_finished(log, TrainOptions()), ValueError);
}

TEST_CASE("JSON that nests deep is refused where it is read: printing it would overrun the stack") {
  const std::filesystem::path folder = SPARSEGRAD_TEST_OUTPUT_DIR;
  constexpr std::size_t depth = 200000;
  const std::string deep = std::string(depth, '[') + std::string(depth, ']');
  write_file(folder / "config.json", R"({"vocab_size": )" + deep + "}");
  CHECK_THROWS_AS(read_encoder_config(folder / "config.json"), ModelError);
  write_file(folder / "tokenizer.json", R"({"model": {"type": "WordPiece", "vocab": {"a": )" + deep + "}}}");
  CHECK_THROWS_AS(load_tokenizer(folder), TokenizerError);
  CHECK_THROWS_AS(finetune::detail::parse_state(deep), IoError);
  CHECK(finetune::detail::parse_state("[[1]]") == json::parse("[[1]]"));
}
