// The training loop on a language model: resumes bit by bit, weights of micro-batches, evaluation, generation.
#include <cmath>
#include <functional>
#include <memory>

#include <sparsegrad/core/error.hpp>

#include "support/causal_run.hpp"
#include "support/tiny_gguf.hpp"
#include "training/causal_parts.hpp"
#include "training/causal_run_data.hpp"
#include "training/causal_source.hpp"
#include "training/choice_scores.hpp"
#include "training/generation.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

using Run = CausalTestRun<float, HostBackend>;

const CausalSource& source() {
  return causal_test_source();
}

TrainOptions options_of(RunType type) {
  return causal_options(type);
}

}  // namespace

TEST_CASE("a run that is ended and resumed has the bits of one that was not, whatever its type") {
  for (const RunType type : {RunType::ft, RunType::sparse, RunType::topk, RunType::lora, RunType::meprop}) {
    CAPTURE(std::string(to_string(type)));
    const TrainOptions options = options_of(type);
    Run whole(options);
    whole.trainer->run();
    REQUIRE(whole.trainer->steps_done() == 8);

    const fs::path state = fresh_folder("causal_state") / "state.safetensors";
    {
      Run first(options);
      TrainHooks hooks;
      hooks.interrupted = [&] { return first.trainer->steps_done() >= 3; };
      first.trainer->run(hooks);
      REQUIRE(first.trainer->report().interrupted);
      first.trainer->save_state(state);
    }
    Run second(options);
    CHECK(second.trainer->restore_state(state).empty());
    CHECK(second.trainer->steps_done() == 3);
    second.trainer->run();
    CHECK(second.trainer->state_hash() == whole.trainer->state_hash());
    CHECK(second.trainer->report().evaluations.back().loss ==
          whole.trainer->report().evaluations.back().loss);

    TrainOptions others = options;
    others.causal->blocks = "1,3";
    Run third(others);
    check_says(error_of([&] { third.trainer->restore_state(state); }),
               "--blocks is \"1,3\", the run had \"0,2\"");
  }
}

TEST_CASE("a run that computes its activations again has the bits of one that keeps them, in less memory") {
  for (const RunType type : {RunType::ft, RunType::sparse, RunType::topk, RunType::lora, RunType::meprop}) {
    for (const bool low : {false, true}) {
      CAPTURE(std::string(to_string(type)));
      CAPTURE(low);
      TrainOptions options = options_of(type);
      options.max_steps = 6;
      // Kept in projected form where one side is of low rank; one gradient memory for all in steps of one micro-batch.
      options.accumulation = low ? 1 : 2;
      if (low) options.sparse.sides = {"identity", "identity", "", "4"};
      Run keeps(options);
      keeps.trainer->run();
      options.causal->recompute = true;
      Run again(options);
      again.trainer->run();
      REQUIRE(again.trainer->steps_done() == 6);
      CHECK(again.trainer->state_hash() == keeps.trainer->state_hash());
      CHECK(again.model.memory().activations < keeps.model.memory().activations);
    }
  }
}

TEST_CASE("a run on a quantised base resumes bit by bit, and on the same base alone") {
  const std::string bytes = tiny_gguf().bytes();
  const fs::path file = write_file(fresh_folder("causal_gguf") / "tiny.gguf", bytes);
  TrainOptions options = options_of(RunType::lora);
  options.causal->base = Base::in_file;
  const CausalSource base(file);
  Run whole(options, base);
  whole.trainer->run();
  const fs::path state = fresh_folder("causal_base_state") / "state.safetensors";
  {
    Run first(options, base);
    TrainHooks hooks;
    hooks.interrupted = [&] { return first.trainer->steps_done() >= 3; };
    first.trainer->run(hooks);
    first.trainer->save_state(state);
  }
  Run second(options, base);
  CHECK(second.trainer->restore_state(state).empty());
  second.trainer->run();
  CHECK(second.trainer->state_hash() == whole.trainer->state_hash());

  // Another number in a block.
  std::string changed = bytes;
  const std::size_t at = bytes.size() - 40;
  changed[at] = static_cast<char>(changed[at] ^ 1);
  const CausalSource other(write_file(file.parent_path() / "other.gguf", changed));
  Run third(options, other);
  check_says(error_of([&] { third.trainer->restore_state(state); }), "base_hash is ");
  options.causal->base = Base::in_float;
  Run fourth(options, base);
  check_says(error_of([&] { fourth.trainer->restore_state(state); }), "base");
}

TEST_CASE("updates beside a quantised base: the losses and weights of a float base, and exact resume") {
  const CausalSource base(
      write_file(fresh_folder("causal_beside") / "tiny.gguf", tiny_gguf("llama", true).bytes()));
  struct Variant {
    std::string name;
    std::function<void(TrainOptions&)> set;
    double of_matrices = 1;  ///< the update's memory is below this share of the matrices in float
  };
  const auto sides = [](const char* width, const char* other) {
    return [=](TrainOptions& o) {
      o.sparse.sides.width = width;
      o.sparse.sides.other = other;
    };
  };
  const std::vector<Variant> variants{
      {"one side", sides("8", "identity"), 0.6},
      {"two sides", sides("8", "6"), 0.3},
      {"full sides", sides("full", "full")},
      {"random and Hadamard", sides("random:8", "hadamard")},
      {"topk", [](TrainOptions& o) { o.run_type = RunType::topk; }},
      {"refreshes, moments moved, decay",
       [](TrainOptions& o) {
         o.sparse.sides.width = "8";
         o.sparse.sides.other = "identity";
         o.sparse.refresh_every = 3;
         o.sparse.moments = MomentsPolicy::transport;
         o.weight_decay = 0.1;
       },
       2},
      {"dense core, clipped, a basis a matrix",
       [](TrainOptions& o) {
         o.sparse.adam = AdamSemantics::dense_core;
         o.sparse.scope = BasisScope::layer;
         o.clip_norm = 0.5;
       }},
      {"single micro-batches", [](TrainOptions& o) { o.accumulation = 1; }},
  };
  for (const Variant& variant : variants) {
    CAPTURE(variant.name);
    TrainOptions options = options_of(RunType::sparse);
    options.sparse.refresh_every = 0;
    options.sparse.phase1_fixed_matrices = true;
    variant.set(options);
    options.apply_run_type();
    Run floats(options, base);
    floats.trainer->run();
    options.causal->base = Base::in_file;
    Run packed(options, base);
    packed.trainer->run();
    const TrainReport& found = packed.trainer->report();
    const TrainReport& wanted = floats.trainer->report();
    REQUIRE(found.steps.size() == wanted.steps.size());
    for (std::size_t i = 0; i < found.steps.size(); ++i)
      CHECK(found.steps[i].loss == doctest::Approx(wanted.steps[i].loss).epsilon(1e-5));
    CHECK(found.evaluations.back().loss == doctest::Approx(wanted.evaluations.back().loss).epsilon(1e-5));
    CHECK(wanted.evaluations.back().loss < wanted.steps.front().loss - 0.05);

    index_t update_bytes = 0;
    index_t matrix_bytes = 0;
    double change = 0;
    for (index_t i = 0; i < static_cast<index_t>(packed.model.mlp().size()); ++i) {
      const std::string name = packed.model.mlp_name(i);
      const auto& p = packed.model.parameters().at(name);
      REQUIRE(p.packed != nullptr);
      REQUIRE(p.weight.empty());
      const std::vector<float> before = packed.model.values_of(p);
      const std::vector<float> after = packed.model.merged(p).value();
      const std::vector<float> other = floats.model.values_of(floats.model.parameters().at(name));
      double off = 0;
      for (std::size_t e = 0; e < after.size(); ++e) {
        off = std::max(off, std::abs(static_cast<double>(after[e]) - static_cast<double>(other[e])));
        change = std::max(change, std::abs(static_cast<double>(after[e]) - static_cast<double>(before[e])));
      }
      CHECK(off < 2e-5);
      update_bytes += packed.model.mlp_update(i)->bytes();
      matrix_bytes += 4 * p.size();
    }
    CHECK(change > 1e-3);
    CHECK(static_cast<double>(update_bytes) <= variant.of_matrices * static_cast<double>(matrix_bytes));

    const fs::path state = fresh_folder("causal_beside_state") / "state.safetensors";
    {
      Run first(options, base);
      TrainHooks hooks;
      hooks.interrupted = [&] { return first.trainer->steps_done() >= 5; };
      first.trainer->run(hooks);
      REQUIRE(first.trainer->steps_done() < 8);
      first.trainer->save_state(state);
    }
    Run second(options, base);
    CHECK(second.trainer->restore_state(state).empty());
    second.trainer->run();
    CHECK(second.trainer->state_hash() == packed.trainer->state_hash());
    CHECK(second.trainer->report().evaluations.back().loss == found.evaluations.back().loss);
  }
  TrainOptions options = options_of(RunType::sparse);
  options.causal->base = Base::in_file;
  check_says(error_of([&] { Run run(options, base); }), "--phase1-fixed-matrices is false, expected true");
}

TEST_CASE("phase 1 with fixed matrices has one gradient in memory at a time") {
  const auto most = [](bool turns) {
    TrainOptions options = options_of(RunType::sparse);
    options.sparse.phase1_fixed_matrices = true;
    options.sparse.share_gradient_memory = turns;
    Run run(options);
    REQUIRE(run.trainer->collect_bases());
    return run.trainer->report().phase1.memory.parts.gradients;
  };
  index_t largest = 0;
  index_t all = 0;
  Run run(options_of(RunType::sparse));
  for (const auto& layer : run.model.mlp()) {
    const index_t bytes = 4 * layer.out_extent() * layer.in_extent();
    largest = std::max(largest, bytes);
    all += bytes;
  }
  CHECK(most(true) == largest);
  CHECK(most(false) == all);
}

TEST_CASE("a step's loss and gradients do not depend on how its examples are put into micro-batches") {
  const auto after_steps = [](index_t batch, index_t accumulation, index_t tokens = 0) {
    TrainOptions options = options_of(RunType::ft);
    options.batch_size = batch;
    options.accumulation = accumulation;
    options.tokens_per_batch = tokens;
    Run run(options);
    std::vector<double> result;
    for (int i = 0; i < 3; ++i)
      run.trainer->step();
    for (const StepRecord& record : run.trainer->report().steps)
      result.push_back(record.loss);
    return result;
  };
  const std::vector<double> one = after_steps(6, 1);
  const std::vector<double> three = after_steps(2, 3);
  const std::vector<double> by_tokens = after_steps(2, 3, 70);
  for (std::size_t i = 0; i < one.size(); ++i) {
    CHECK(three[i] == doctest::Approx(one[i]).epsilon(1e-5));
    CHECK(by_tokens[i] == doctest::Approx(one[i]).epsilon(1e-5));
  }
}

TEST_CASE("micro-batches are filled by tokens, in the order of the examples") {
  TrainOptions options = options_of(RunType::ft);
  const std::vector<index_t> rows{30, 10, 20, 61, 5, 64};
  const std::vector<index_t> step{0, 1, 2, 3, 4};
  const auto rows_of = [&](index_t i) { return rows[static_cast<std::size_t>(i)]; };
  const auto sizes = [&](index_t tokens) {
    options.tokens_per_batch = tokens;
    return micro_batches(options, step, rows_of);
  };
  CHECK(sizes(0) == std::vector<std::size_t>{3, 2});
  CHECK(sizes(61) == std::vector<std::size_t>{3, 1, 1});
  CHECK(sizes(66) == std::vector<std::size_t>{3, 2});
  CHECK(sizes(1000) == std::vector<std::size_t>{5});
  check_says(error_of([&] { sizes(60); }),
             "--tokens-per-batch is 60, expected at least the 61 tokens of the longest example");

  // Processes get micro-batches of few rows, or of equal numbers of examples.
  options.processes = 2;
  CHECK(sizes(1000) == std::vector<std::size_t>{3, 2});  // 60 and 66 rows
  options.processes = 3;
  CHECK(sizes(66) == std::vector<std::size_t>{3, 1, 1});
  options.processes = 5;
  CHECK(sizes(1000) == std::vector<std::size_t>{3, 1, 1});  // no fewer than the longest example's
  options.accumulation = 1;
  CHECK(sizes(0) == std::vector<std::size_t>{1, 1, 1, 1, 1});
  options.processes = 2;
  options.accumulation = 2;
  CHECK(sizes(0) == std::vector<std::size_t>{3, 2});
  options.processes = 1;

  options.tokens_per_batch = 70;
  options.shuffle = false;
  options.epochs = 1;
  options.max_steps = 0;
  const BatchExtents extents = measure_batches(options, 6, rows_of);
  CHECK(extents.max_tokens == 66);  // 30 10 20, 61 5, 64
  CHECK(extents.max_examples == 3);
  CHECK(extents.mean_batches == 3);
  CHECK(extents.mean_tokens == 63);
}

TEST_CASE("the loss of an evaluation is the mean over targets, whatever the batches") {
  Run run(options_of(RunType::ft));
  EvaluateOptions options;
  options.max_sequences = 1;
  const Evaluation single = evaluate_model<float, HostBackend>(run.ctx, run.model, run.held, options);
  const Evaluation all = evaluate_model<float, HostBackend>(run.ctx, run.model, run.held);
  CHECK(single.loss == doctest::Approx(all.loss).epsilon(1e-6));
  double sum = 0;
  double squares = 0;
  std::vector<double> losses;
  for (index_t i = 0; i < run.held.size(); ++i) {
    Batch batch;
    run.held.add_to(batch, i);
    const auto result = run.model.forward(run.ctx, batch);
    CHECK(result.counted == run.held.counted(i));
    losses.push_back(result.loss * static_cast<double>(result.counted));
    sum += losses.back();
  }
  const double mean = sum / static_cast<double>(run.held.counted());
  CHECK(all.loss == doctest::Approx(mean).epsilon(1e-6));
  for (index_t i = 0; i < run.held.size(); ++i) {
    const double off = losses[static_cast<std::size_t>(i)] - static_cast<double>(run.held.counted(i)) * mean;
    squares += off * off;
  }
  CHECK(all.metrics[0].value == doctest::Approx(std::exp(mean)).epsilon(1e-5));
  CHECK(all.metrics[1].value ==
        doctest::Approx(std::sqrt(squares * 7 / 6) / static_cast<double>(run.held.counted())).epsilon(1e-4));
}

TEST_CASE("greedy text is that of whole passes, and ends at its end tokens and limits") {
  Run run(options_of(RunType::ft));
  std::vector<std::int32_t> ids = source().encode("<|im_start|>user\n1+2?<|im_end|>\n");
  GenerationLimits limits;
  limits.max_new_tokens = 6;
  const std::vector<std::int32_t> made = generate<float, HostBackend>(run.ctx, run.model, ids, {}, limits);
  REQUIRE(made.size() == 6);
  for (const std::int32_t token : made) {
    Batch batch;
    batch.add_sequence(ids);
    const std::vector<float> logits = run.model.logits(run.ctx, batch);
    const std::span<const float> last = std::span(logits).last(tiny_decoder_tokens);
    CHECK(choose_token(last, {}, 0) == token);
    ids.push_back(token);
  }
  limits.end_ids = {made[2]};
  std::size_t first = 0;
  while (made[first] != made[2])
    ++first;
  const std::vector<std::int32_t> ended =
      generate<float, HostBackend>(run.ctx, run.model, std::span(ids).first(ids.size() - 6), {}, limits);
  CHECK(ended == std::vector<std::int32_t>(made.begin(), made.begin() + static_cast<std::ptrdiff_t>(first)));
  const std::vector<std::int32_t> full(192, 5);
  check_says(error_of([&] { generate<float, HostBackend>(run.ctx, run.model, full, {}, limits); }),
             "the prompt has 192 tokens, which leaves none");
}

TEST_CASE("a choice's score is the log likelihood of its answer, whatever the choices share") {
  Run run(options_of(RunType::ft));
  const TextEncoder encode = [](std::string_view text) { return source().encode(text); };
  const auto answers_of = [&](const std::vector<std::pair<std::string, std::string>>& pairs) {
    std::vector<Conversation> conversations;
    for (const auto& [question, answer] : pairs)
      conversations.push_back({{Role::user, question}, {Role::assistant, answer}});
    // Of a template that begins with nothing of its own, so that questions may share nothing.
    return CausalDataset("choices", conversations, ChatTemplate("plain", {"", "<|im_end|>"}), encode, 64);
  };
  // Answers that begin alike, one that is the beginning of another, and questions that share nothing.
  for (const auto& pairs : {std::vector<std::pair<std::string, std::string>>{
                                {"1+2?", "three"}, {"1+2?", "thre"}, {"1+2?", "four or so"}, {"1+2?", "3"}},
                            {{"a", "us"}, {"bbbb", "us"}}}) {
    const CausalDataset answers = answers_of(pairs);
    const std::vector<ChoiceScore> scores = score_choices<float, HostBackend>(run.ctx, run.model, answers);
    REQUIRE(scores.size() == pairs.size());
    for (index_t i = 0; i < answers.size(); ++i) {
      Batch batch;
      answers.add_to(batch, i);
      const auto whole = run.model.forward(run.ctx, batch);
      const ChoiceScore& score = scores[static_cast<std::size_t>(i)];
      CHECK(score.tokens == whole.counted);
      CHECK(score.per_token() == doctest::Approx(-whole.loss).epsilon(1e-5));
    }
  }
  // The token that ends the answer counts.
  CHECK(score_choices<float, HostBackend>(run.ctx, run.model, answers_of({{"a", "b"}}))[0].tokens == 2);

  ChoiceAccuracy accuracy;
  const std::vector<ChoiceScore> scores{{-4, 4}, {-3, 1}, {-3, 1}};
  accuracy.add(scores, 1);
  accuracy.add(scores, 0);
  accuracy.add(scores, 2);
  CHECK(accuracy.right == 1);
  CHECK(accuracy.right_per_token == 1);
  CHECK(accuracy.share(1) == doctest::Approx(1.0 / 3));
  CHECK(accuracy.standard_error(1) == doctest::Approx(std::sqrt(2.0 / 9 / 2)));
}

TEST_CASE("draws follow the probabilities, and top-p cuts the rest off") {
  const std::vector<float> logits{0, std::log(2.0F), std::log(5.0F), -30};
  SamplingOptions options;
  CHECK(choose_token(logits, options, 0) == 2);
  options.temperature = 1;
  std::vector<int> count(4);
  for (std::uint64_t step = 0; step < 8000; ++step)
    ++count[static_cast<std::size_t>(choose_token(logits, options, step))];
  CHECK(count[0] == doctest::Approx(1000).epsilon(0.15));
  CHECK(count[1] == doctest::Approx(2000).epsilon(0.1));
  CHECK(count[2] == doctest::Approx(5000).epsilon(0.1));
  options.top_p = 0.8;
  for (std::uint64_t step = 0; step < 200; ++step)
    CHECK(choose_token(logits, options, step) != 0);
  const std::vector<float> broken(3, std::nanf(""));
  check_says(error_of([&] { choose_token(broken, options, 0); }), "no finite maximum");
}

TEST_CASE("the number that an answer ends with") {
  CHECK(final_number("24 clips.\n#### 1,072") == "1072");
  CHECK(final_number("so it is 3 or -7.") == "-7");
  CHECK(final_number("#### $2.50") == "2.5");
  CHECK(final_number("He has 5.") == "5");
  CHECK(final_number("none").empty());
}

TEST_CASE("matrices and blocks by their names") {
  CHECK(parse_blocks("every-third", 30) == std::vector<index_t>{0, 3, 6, 9, 12, 15, 18, 21, 24, 27});
  CHECK(parse_blocks("3,0", 4) == std::vector<index_t>{0, 3});
  CHECK(parse_matrices("down,q") == std::vector<MatrixKind>{MatrixKind::q, MatrixKind::down});
  CHECK(parse_matrices("all").size() == 7);
  for (const char* text : {"", "0,", "-1", "4", "1,1", "x", "0 1"})
    check_says(error_of([&] { parse_blocks(text, 4); }), "--blocks is '");
  for (const char* text : {"", "up,", "gate,gate", "mlp"})
    check_says(error_of([&] { parse_matrices(text); }), "--matrices is '");
}
