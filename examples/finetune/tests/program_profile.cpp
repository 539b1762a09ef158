// Where the time of steps goes: StepProfile by itself, and train --profile.
#include <functional>

#include "models/host_backend.hpp"
#include "run_result.hpp"
#include "support/tiny_decoder.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

/// Runs four steps without and with --profile: `train(folder, more words)`. The table has the rows of any model and
/// `rows`, their times are the whole of the steps, and the models are the same.
void check_profile(const fs::path& output, bool sparse, const std::vector<std::string>& rows,
                   const std::function<Finished(const fs::path&, const std::string&)>& train) {
  const Finished plain = train(output / "plain", " --overwrite");
  REQUIRE_MESSAGE(plain.status == 0, plain.err);
  CHECK(plain.out.find("profile: ") == std::string::npos);
  const Finished counted = train(output / "counted", " --overwrite --profile");
  REQUIRE_MESSAGE(counted.status == 0, counted.err);
  check_says(counted.out, "profile: 2 steps of ");
  check_says(counted.out, "| other |");
  CHECK(content(output / "plain/model/model.safetensors") ==
        content(output / "counted/model/model.safetensors"));
  CHECK_FALSE(json_of(output / "plain/run.json").contains("profile"));
  const nlohmann::json profile = json_of(output / "counted/run.json")["profile"];
  std::vector<std::string> expected{"products: forward",       "products: dX", "attention",
                                    "norm, residual, dropout", "activation",   "embeddings",
                                    "head and loss",           "AdamW"};
  expected.insert(expected.end(), rows.begin(), rows.end());
  for (const std::string& row : expected) {
    check_says(counted.out, "| " + row + " |");
    CHECK_MESSAGE(profile["work"].contains(row), row);
  }
  CHECK(profile["work"].contains("sparse Adam") == sparse);
  double seconds = profile["other_seconds"];
  CHECK(seconds >= 0);
  for (const auto& [name, work] : profile["work"].items()) {
    CHECK(work["limit"].get<double>() > 0);
    seconds += work["seconds"].get<double>();
  }
  CHECK(seconds == doctest::Approx(profile["seconds"].get<double>()));
}

}  // namespace

TEST_CASE("a profile tells products apart by what they multiply, and counts what is needed at least") {
  HostBackend::Context ctx(1);
  StepProfile profile({.memory = 1e9, .products = 1e9, .narrow_products = 2e9}, 1);
  std::vector<float> weight(6), x(6), y(4), other(9);
  profile.add_weights(weight.data(), weight.data() + weight.size());
  ctx.profile(&profile);
  const MatrixView<float> w(weight.data(), 2, 3), tokens(x.data(), 2, 3), out(y.data(), 2, 2);
  const MatrixView<float> d_weight(other.data(), 2, 3), square(other.data(), 3, 3);
  const auto all = [&] {
    HostBackend::gemm<float>(ctx, Op::none, Op::transpose, 1, tokens, w, 0, out);
    HostBackend::gemm<float>(ctx, Op::none, Op::none, 1, out, w, 0, tokens);
    HostBackend::gemm<float>(ctx, Op::transpose, Op::none, 1, out, tokens, 0, d_weight);
    HostBackend::gemm<float>(ctx, Op::none, Op::transpose, 1, tokens, square, 0, d_weight);
    HostBackend::gemm<float>(ctx, Op::transpose, Op::none, 1, out, d_weight, 0, w);
    HostBackend::zero<float>(ctx, y.data(), 4);
  };
  for (int step = 0; step < StepProfile::left_out + 2; ++step) {
    all();  // between steps nothing counts
    profile.begin_step();
    all();
    profile.end_step(5);
  }
  CHECK(profile.steps() == 2);
  CHECK(profile.tokens() == 10);
  for (const Work kind : {Work::forward, Work::input_gradient, Work::weight_gradient, Work::weight_update}) {
    CAPTURE(static_cast<int>(kind));
    CHECK(profile.entry(kind).calls == 2);
    CHECK(profile.entry(kind).flops == 2 * 24);
    CHECK(profile.entry(kind).bytes == 2 * 4 * (6 + 6 + 4));
    CHECK(profile.entry(kind).limit == doctest::Approx(2 * 64e-9));  // the bytes' time, which is longer
  }
  CHECK(profile.entry(Work::rotation).flops == 2 * 36);
  CHECK(profile.entry(Work::memory).bytes == 2 * 16);
  // What follows Adam belongs to the weights' update.
  profile.begin_step();
  profile.begin_update();
  HostBackend::zero<float>(ctx, y.data(), 4);
  HostBackend::gemm<float>(ctx, Op::none, Op::transpose, 1, tokens, square, 0, d_weight);
  profile.end_step(5);
  CHECK(profile.entry(Work::memory).calls == 2);
  CHECK(profile.entry(Work::rotation).calls == 2);
  CHECK(profile.entry(Work::weight_update).calls == 4);
}

TEST_CASE("work within the head is the head's, of whatever kind it is") {
  HostBackend::Context ctx(1);
  StepProfile profile({.memory = 1e9, .products = 1e9, .narrow_products = 2e9}, 1);
  std::vector<float> weight(6), x(6), y(4);
  profile.add_weights(weight.data(), weight.data() + weight.size());
  ctx.profile(&profile);
  const MatrixView<float> w(weight.data(), 2, 3), tokens(x.data(), 2, 3), out(y.data(), 2, 2);
  const auto forward = [&] { HostBackend::gemm<float>(ctx, Op::none, Op::transpose, 1, tokens, w, 0, out); };
  for (int step = 0; step <= StepProfile::left_out; ++step) {
    profile.begin_step();
    forward();
    {
      const HeadScope scope(ctx);
      forward();
      { const HeadScope within(ctx); }
      HostBackend::zero<float>(ctx, y.data(), 4);
    }
    forward();
    profile.end_step(2);
  }
  CHECK(profile.entry(Work::forward).calls == 2);
  CHECK(profile.entry(Work::head).calls == 2);
  CHECK(profile.entry(Work::head).flops == 24);
  CHECK(profile.entry(Work::memory).calls == 0);
}

TEST_CASE("train --profile: a table whose rows are the whole step, and the same numbers as without") {
  const fs::path output = fresh_folder("profile");
  for (const char* type : {"ft", "sparse --phase1-steps 2", "lora"}) {
    for (const char* dtype : {"float", "bf16"}) {
      CAPTURE(type);
      CAPTURE(dtype);
      const std::string words = std::string(" --run-type ") + type + " --max-steps 4 --dtype " + dtype;
      check_profile(
          output, std::string(type).starts_with("sparse"), {},
          [&](const fs::path& to, const std::string& more) { return run(train_words(to, words + more)); });
    }
  }
  const Finished few = run(train_words(output / "few", " --run-type ft --max-steps 2 --profile"));
  CHECK_MESSAGE(few.out.find("profile: no step beyond the first 2") != std::string::npos, few.out);
}

TEST_CASE("sparsegrad-llm train --profile: the same table, with what decoders have besides") {
  const fs::path output = fresh_folder("profile_llm");
  const std::string model = make_tiny_decoder(output / "tiny").string();
  const std::string data = write_sums(output / "sums.jsonl").string();
  for (const std::string type : {"ft", "sparse --phase1-steps 2 --width-side 8", "lora"}) {
    for (const char* dtype : {"float", "bf16"}) {
      CAPTURE(type);
      CAPTURE(dtype);
      const std::string words = "train --model " + model + " --data " + data + " --run-type " + type +
                                " --train-parameters all --threads 1 --products blas --max-length 64 "
                                "--held-out 0.2 --batch-size 4 --accumulation 1 "
                                "--max-steps 4 --epochs 10 --dtype " +
                                dtype;
      check_profile(output, type.starts_with("sparse"), {"RoPE"},
                    [&](const fs::path& to, const std::string& more) {
                      return llm(words + " --output " + to.string() + more);
                    });
      const nlohmann::json profile = json_of(output / "counted/run.json")["profile"];
      // RMSNorm and SwiGLU of each of four blocks, both ways; the last norm.
      CHECK(profile["work"]["norm, residual, dropout"]["calls"].get<double>() / 2 >= 4 * 4 + 2);
      CHECK(profile["work"]["activation"]["calls"].get<double>() / 2 >= 4 * 2);
      CHECK(profile["work"]["RoPE"]["calls"] == 2 * 4 * 2);
      CHECK(profile["work"]["attention"]["calls"] == 2 * 4 * 2);
      CHECK(profile["work"]["head and loss"]["flops"].get<double>() > 0);
    }
  }
}
