// Whose products a run takes: --products, what is measured, what a resume keeps.
#include "run_result.hpp"

using namespace sparsegrad;
using namespace sparsegrad::glue::test;

namespace {

namespace fs = std::filesystem;

const std::string most = " --run-type ft --max-steps 4 --checkpoint-every 2 --products ";

std::string products_of(const fs::path& output) {
  return json_of(output / "run.json")["versions"]["products"]["float"];
}

void check_contains(const std::string& text, const std::string& part) {
  CHECK_MESSAGE(text.find(part) != std::string::npos, text);
}

}  // namespace

TEST_CASE("--products: the named library multiplies; auto takes one of them and says the rates") {
  const fs::path output = fresh_folder("named");
  const Finished eigen = run(train_words(output / "eigen", most + "eigen"));
  REQUIRE_MESSAGE(eigen.status == 0, eigen.err);
  check_contains(eigen.out, "products: eigen, as asked for\n");
  CHECK(products_of(output / "eigen") == "cpu");
  const Finished blas = run(train_words(output / "blas", most + "blas"));
  CHECK(products_of(output / "blas") == "cpu_blas");
  // They round differently, or nothing was chosen.
  CHECK(content(output / "eigen/model/model.safetensors") !=
        content(output / "blas/model/model.safetensors"));

  const Finished fastest = run(train_words(output / "auto", most + "auto"));
  REQUIRE_MESSAGE(fastest.status == 0, fastest.err);
  check_contains(fastest.out, "; GFLOP/s a thread: ");
  check_contains(fastest.out, "blas ");
  const Finished fixed = run(train_words(output / "deterministic", most + "auto --deterministic"));
  REQUIRE_MESSAGE(fixed.status == 0, fixed.err);
  check_contains(fixed.out, ", because of --deterministic\n");

  const Finished unknown = run(train_words(output / "unknown", most + "mkl"));
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
    REQUIRE(run(train_words(folder, most + had)).status == 0);
    // As an interrupted run's log, which `auto` wrote.
    nlohmann::json log = json_of(folder / "run.json");
    log["finished"] = false;
    write_file(folder / "run.json", log.dump());
    const Finished again = run(train_words(folder, most + "auto --resume"));
    REQUIRE_MESSAGE(again.status == 0, again.err);
    check_contains(again.out, std::string("products: ") + had + ", as the run had before\n");
    CHECK(json_of(folder / "run.json")["versions"]["products"] == log["versions"]["products"]);

    log["versions"]["products"]["float"] = "cpu_of_tomorrow";
    write_file(folder / "run.json", log.dump());
    const Finished absent = run(train_words(folder, most + "auto --resume"));
    CHECK(absent.status == 1);
    check_contains(absent.err,
                   "the run multiplied with cpu_of_tomorrow, which this program was built without");
    CHECK(run(train_words(folder, most + "blas --resume")).status == 0);
  }
}
