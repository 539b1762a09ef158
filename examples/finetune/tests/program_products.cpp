// Whose products a run takes: --products, what is measured, what a resume keeps.
#include "run_result.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

/// The usual words with other products than the tests' usual ones.
std::string words(const fs::path& output, const std::string& products) {
  std::string all = train_words(output, " --run-type ft --max-steps 4 --checkpoint-every 2");
  return all.replace(all.find("--products blas"), std::string("--products blas").size(),
                     "--products " + products);
}

std::string products_of(const fs::path& output) {
  return json_of(output / "run.json")["versions"]["products"]["float"];
}

void check_contains(const std::string& text, const std::string& part) {
  CHECK_MESSAGE(text.find(part) != std::string::npos, text);
}

}  // namespace

TEST_CASE("--products: the named library multiplies; auto takes one of them and says the rates") {
  const fs::path output = fresh_folder("named");
  const Finished eigen = run(words(output / "eigen", "eigen"));
  REQUIRE_MESSAGE(eigen.status == 0, eigen.err);
  check_contains(eigen.out, "products: eigen, as asked for\n");
  CHECK(products_of(output / "eigen") == "cpu");
  const Finished blas = run(words(output / "blas", "blas"));
  CHECK(products_of(output / "blas") == "cpu_blas");
  // They round differently, or nothing was chosen.
  CHECK(content(output / "eigen/model/model.safetensors") !=
        content(output / "blas/model/model.safetensors"));

  const Finished fastest = run(words(output / "auto", "auto"));
  REQUIRE_MESSAGE(fastest.status == 0, fastest.err);
  check_contains(fastest.out, "; GFLOP/s a thread: ");
  check_contains(fastest.out, "blas ");
  const Finished fixed = run(words(output / "deterministic", "auto --deterministic"));
  REQUIRE_MESSAGE(fixed.status == 0, fixed.err);
  check_contains(fixed.out, ", because of --deterministic\n");

  const Finished unknown = run(words(output / "unknown", "mkl"));
  CHECK(unknown.status == 1);
  check_contains(unknown.err, "--products is 'mkl', expected one of: auto, ");
  check_contains(run("evaluate --task cola --products mkl --model " + tiny().string()).err,
                 "--products is 'mkl'");
}

TEST_CASE("--resume: the products of the run before, unless others are named") {
  const fs::path output = fresh_folder("resumed");
  for (const char* had : {"eigen", "blas"}) {
    CAPTURE(had);
    const fs::path folder = output / had;
    REQUIRE(run(words(folder, had)).status == 0);
    // As an interrupted run's log, which `auto` wrote.
    nlohmann::json log = json_of(folder / "run.json");
    log["finished"] = false;
    write_file(folder / "run.json", log.dump());
    const Finished again = run(words(folder, "auto --resume"));
    REQUIRE_MESSAGE(again.status == 0, again.err);
    check_contains(again.out, std::string("products: ") + had + ", as the run had before\n");
    CHECK(json_of(folder / "run.json")["versions"]["products"] == log["versions"]["products"]);

    log["versions"]["products"]["float"] = "cpu_of_tomorrow";
    write_file(folder / "run.json", log.dump());
    const Finished absent = run(words(folder, "auto --resume"));
    CHECK(absent.status == 1);
    check_contains(absent.err,
                   "the run multiplied with cpu_of_tomorrow, which this program was built without");
    CHECK(run(words(folder, "blas --resume")).status == 0);
  }
}

TEST_CASE("--dtype auto: a type is chosen and told; a resume keeps it") {
  const fs::path output = fresh_folder("type");
  const Finished first = run(words(output, "blas --dtype auto"));
  REQUIRE_MESSAGE(first.status == 0, first.err);
  // The BLAS converts: its products in 16 bits are never a fifth faster than those in float.
  check_contains(first.out, "in float, because of --dtype auto\n");
  nlohmann::json log = json_of(output / "run.json");
  CHECK(log["options"]["dtype"] == "float");

  REQUIRE(run(words(output, "blas --dtype bf16 --overwrite")).status == 0);
  log = json_of(output / "run.json");
  CHECK(log["options"]["dtype"] == "bf16");
  log["finished"] = false;
  write_file(output / "run.json", log.dump());
  const Finished again = run(words(output, "blas --dtype auto --resume"));
  REQUIRE_MESSAGE(again.status == 0, again.err);
  CHECK(json_of(output / "run.json")["options"]["dtype"] == "bf16");

  check_contains(run("evaluate --task cola --dtype double --model " + tiny().string()).err,
                 "is 'double', expected one of: auto, bf16, float, fp16");
}
