#include "training/options.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sparsegrad/core/float_bits.hpp>
#include <sparsegrad/io/side_recipe_text.hpp>

namespace sparsegrad::finetune {

std::string_view to_string(RunType type) {
  switch (type) {
    case RunType::ft:
      return "ft";
    case RunType::sparse:
      return "sparse";
    case RunType::topk:
      return "topk";
    case RunType::lora:
      return "lora";
    case RunType::meprop:
      return "meprop";
    case RunType::frozen_mlp:
      return "frozen-mlp";
  }
  return "?";
}

std::string_view to_string(Base base) {
  return base == Base::in_float ? "float" : "file";
}

std::string_view to_string(TrainedParameters which) {
  return which == TrainedParameters::all ? "all" : "mlp";
}

std::string_view to_string(Device device) {
  return device == Device::cpu ? "cpu" : "cuda";
}

std::string_view to_string(NumberType type) {
  if (type == NumberType::float32) return "float";
  return type == NumberType::bfloat16 ? "bf16" : "fp16";
}

io::DType file_type(NumberType type) {
  if (type == NumberType::float32) return io::DType::f32;
  return type == NumberType::bfloat16 ? io::DType::bf16 : io::DType::f16;
}

std::string_view to_string(Schedule schedule) {
  return schedule == Schedule::constant ? "constant" : "linear";
}

SideRecipes SideOptions::rules(const std::string& kind) const {
  const SideRecipe width_rule = parse_side_recipe(width);
  const SideRecipe other_rule = parse_side_recipe(other);
  SideRecipes rules;
  const bool to_width = kind == "down" || kind == "o";
  rules.out = to_width ? width_rule : other_rule;
  rules.in = to_width ? other_rule : width_rule;
  if (!out.empty()) rules.out = parse_side_recipe(out);
  if (!in.empty()) rules.in = parse_side_recipe(in);
  return rules;
}

bool SparseOptions::needs_gradients() const {
  for (const char* kind : {"up", "down"}) {
    const SideRecipes rules = sides.rules(kind);
    if (rules.out.needs_gradients() || rules.in.needs_gradients()) return true;
  }
  return false;
}

index_t kept_entries(const SparseOptions& options, index_t matrix_entries) {
  const auto entries =
      static_cast<index_t>(std::llround(options.share_kept() * static_cast<double>(matrix_entries)));
  return std::clamp<index_t>(entries, 1, matrix_entries);
}

std::optional<Plan> parse_plan(const std::string& text) {
  const auto project = SideOrder::project_first;
  const auto multiply = SideOrder::multiply_first;
  if (text == "auto") return std::nullopt;
  if (text == "multiply_first") return Plan{multiply, multiply};
  if (text == "project_first") return Plan{project, project};
  if (text == "out_first") return Plan{project, multiply};
  if (text == "in_first") return Plan{multiply, project};
  throw ValueError("--plan is '" + text +
                   "', expected auto, multiply_first, project_first, out_first or in_first");
}

void TrainOptions::check() const {
  const auto require = [](bool good, const char* name, const auto& value, const char* expected) {
    if (!good) throw ValueError(fmt::format("{} is {}, expected {}", name, value, expected));
  };
  const auto finite_from_zero = [](double x) { return sparsegrad::is_finite(x) && x >= 0; };
  check_device();
  require(sparsegrad::is_finite(epochs) && epochs > 0, "--epochs", epochs, "a number above 0");
  require(max_steps >= 0, "--max-steps", max_steps, "a number of steps, 0 for no limit");
  require(batch_size >= 1, "--batch-size", batch_size, "at least 1 example");
  require(batch_size <= std::numeric_limits<index_t>::max() / 2, "--batch-size", batch_size,
          "less than 2^62 examples");
  require(accumulation >= 1, "--accumulation", accumulation, "at least 1 micro-batch");
  require(accumulation <= std::numeric_limits<index_t>::max() / 2 / batch_size, "--accumulation",
          accumulation, "fewer micro-batches: a step has less than 2^62 examples");
  require(tokens_per_batch >= 0, "--tokens-per-batch", tokens_per_batch,
          "a number of tokens, 0 for micro-batches of --batch-size examples");
  // Beyond, Adam's rate with its correction of bias, ten times as large in the first step, is Inf in float.
  const auto is_rate = [&](double x) { return finite_from_zero(x) && x <= 1e37; };
  require(is_rate(learning_rate), "--learning-rate", learning_rate, "a finite number from 0 to 1e37");
  require(is_rate(rate_of_mlp()), "--sparse-learning-rate", rate_of_mlp(), "a finite number from 0 to 1e37");
  require(finite_from_zero(weight_decay), "--weight-decay", weight_decay, "a finite number from 0");
  const double largest_rate = trains_matrices() ? std::max(learning_rate, rate_of_mlp()) : learning_rate;
  // As the library's step has it; above, AdamW would turn the signs of weights.
  if (weight_decay * largest_rate > 1) {
    throw ValueError(fmt::format(
        "--weight-decay is {}, expected at most {}: times the learning rate {} it is more than 1, and would "
        "turn the signs of weights",
        weight_decay, 1 / largest_rate, largest_rate));
  }
  require(finite_from_zero(clip_norm), "--clip-norm", clip_norm, "a finite number from 0 (0: off)");
  require(finite_from_zero(warmup), "--warmup", warmup, "steps, or a share below 1");
  require(!dropout || (*dropout >= 0 && *dropout < 1), "--dropout", dropout.value_or(0),
          "a probability from 0 to below 1");
  require(max_length >= 3, "--max-length", max_length, "at least 3 tokens");
  require(eval_every >= 0, "--eval-every", eval_every, "a number of steps, 0 for the ends of epochs alone");
  require(sparsegrad::is_finite(process_timeout) && process_timeout >= 1e-3 && process_timeout <= 1e9,
          "--process-timeout", process_timeout, "a number of seconds from 0.001 to 1e9");
  require(wire != NumberType::float16, "--wire", to_string(wire), "float or bf16");
  if (wire != NumberType::float32 && deterministic) {
    throw ValueError(
        "--wire is bf16, expected float with --deterministic, whose sums over processes have the bits of one "
        "process's");
  }
  require(patience >= 0, "--patience", patience, "a number of evaluations, 0 for no early stopping");
  require(log_every >= 1, "--log-every", log_every, "at least 1 step");
  require(checkpoint_every >= 0, "--checkpoint-every", checkpoint_every,
          "a number of steps, 0 for none but at an interrupt");
  require(threads >= 0, "--threads", threads, "a number of threads, 0 for all");
  require(train_limit >= 0, "--train-limit", train_limit, "a number of examples, 0 for all");
  require(held_out >= 0 && held_out < 1, "--held-out", held_out, "a share from 0 to below 1");
  require(dev_limit >= 0, "--dev-limit", dev_limit, "a number of examples, 0 for all");
  require(lora.rank >= 1, "--lora-rank", lora.rank, "at least 1");
  require(finite_from_zero(lora.scale), "--lora-scale", lora.scale, "a finite number from 0 (0: 1 / rank)");
  require(meprop_share > 0 && meprop_share <= 1, "--meprop-share", meprop_share,
          "a share above 0 and at most 1");
  if (!steps_sparsely()) return;
  require(sparse.n_params >= 1, "--n-params", sparse.n_params, "at least 1 entry");
  require(sparse.share > 0 || sparse.n_params <= reference_matrix_entries, "--n-params", sparse.n_params,
          "at most 2359296, all entries of a matrix of 768 x 3072");
  require(sparse.share >= 0 && sparse.share <= 1, "--share", sparse.share, "a share above 0 and at most 1");
  require(sparse.refresh_every >= 0, "--refresh-every", sparse.refresh_every,
          "a number of steps, 0 for never");
  require(sparse.refresh_window >= 1, "--refresh-window", sparse.refresh_window, "at least 1 step");
  require(sparse.refresh_every == 0 || sparse.refresh_window <= sparse.refresh_every, "--refresh-window",
          sparse.refresh_window, "at most --refresh-every");
  require(
      !causal || causal->base != Base::in_file || sparse.phase1_fixed_matrices || !sparse.needs_gradients(),
      "--phase1-fixed-matrices", "false",
      "true with --base file: a phase 1 that trains the matrices needs them in float, which --base "
      "float "
      "has");
  require(sparse.phase1_steps >= 1, "--phase1-steps", sparse.phase1_steps, "at least 1 step");
  require(finite_from_zero(sparse.state_capacity), "--state-capacity", sparse.state_capacity,
          "a factor from 1, or 0 for a dense state");
  require(sparse.state_capacity == 0 || sparse.state_capacity >= 1, "--state-capacity", sparse.state_capacity,
          "a factor from 1, or 0 for a dense state");
  require(!sparse.defects.transposed_basis || sparse.refresh_every == 0, "--refresh-every",
          sparse.refresh_every, "0 with --transposed-basis, as in the reference's code");
  for (const char* kind : {"up", "down"}) {
    const SideRecipes rules = sparse.sides.rules(kind);
    const auto full = [&](bool wanted, const char* name, const SideRecipe& rule) {
      if (wanted && to_string(rule) != "full")
        throw ValueError(fmt::format("{} needs the full rank there, found {}", name, to_string(rule)));
    };
    full(sparse.defects.transposed_basis, "--transposed-basis: the input side", rules.in);
    full(sparse.defects.rotated_bias, "--rotated-bias: the output side", rules.out);
  }
  parse_plan(sparse.plan);
}

void TrainOptions::check_device() const {
  if (device == Device::cuda && choose_dtype)
    throw ValueError("--dtype is auto, expected float, bf16 or fp16 with --device cuda");
  if (device == Device::cuda && products != "auto")
    throw ValueError(fmt::format("--products is {}, expected auto with --device cuda", products));
  if (device == Device::cuda && causal && causal->base == Base::in_file) {
    throw ValueError(
        "--base is file, expected float with --device cuda: what stays in the file is unpacked on the CPU "
        "alone");
  }
  if (device == Device::cpu && tf32)
    throw ValueError("--tf32 is given, expected it with --device cuda alone: a CPU has no TF32 products");
  if (device == Device::cpu && dtype == NumberType::float16) {
    throw ValueError(
        fmt::format("--dtype is {}, expected float or bf16 with --device cpu; fp16 is computed on a GPU "
                    "alone (--device cuda)",
                    to_string(dtype)));
  }
}

void TrainOptions::apply_run_type() {
  if (run_type == RunType::topk) sparse.sides = {"identity", "identity", "", ""};
  if (run_type != RunType::sparse) sparse.defects = {};
}

nlohmann::json to_json(const TrainOptions& options) {
  TrainOptions o = options;
  o.processes = 1;  // a run may go on in another number
  nlohmann::json json{{"task", o.task},
                      {"run_type", to_string(o.run_type)},
                      {"model", o.model.string()},
                      {"data", o.data.string()},
                      {"output", o.output.string()},
                      {"preset", o.preset},
                      {"epochs", o.epochs},
                      {"max_steps", o.max_steps},
                      {"batch_size", o.batch_size},
                      {"accumulation", o.accumulation},
                      {"learning_rate", o.learning_rate},
                      {"sparse_learning_rate", o.rate_of_mlp()},
                      {"weight_decay", o.weight_decay},
                      {"clip_norm", o.clip_norm},
                      {"schedule", to_string(o.schedule)},
                      {"warmup", o.warmup},
                      {"seed", o.seed},
                      {"dropout", o.dropout ? nlohmann::json(*o.dropout) : nlohmann::json()},
                      {"shuffle", o.shuffle},
                      {"max_length", o.max_length},
                      {"padding", to_string(o.padding)},
                      {"eval_every", o.eval_every},
                      {"patience", o.patience},
                      {"log_every", o.log_every},
                      {"checkpoint_every", o.checkpoint_every},
                      {"device", to_string(o.device)},
                      {"tf32", o.tf32},
                      {"dtype", to_string(o.dtype)},
                      {"products", o.products},
                      {"threads", o.threads},
                      {"deterministic", o.deterministic},
                      {"train_limit", o.train_limit},
                      {"dev_limit", o.dev_limit},
                      {"save", o.save}};
  json["trained"] = to_string(o.trained);
  if (o.causal) {
    const CausalOptions& c = *o.causal;
    for (const char* name : {"task", "preset", "trained", "padding", "dropout"})
      json.erase(name);
    json["matrices"] = c.matrices;
    json["blocks"] = c.blocks;
    json["chat_template"] = c.chat_template;
    if (c.chat_date != default_chat_date) json["chat_date"] = c.chat_date;
    json["fields"] = c.fields;
    json["all_paths"] = c.all_paths;
    json["validation"] = c.validation.string();
    json["split_seed"] = c.split_seed;
    json["base"] = to_string(c.base);
    if (c.recompute) json["recompute"] = true;
    if (o.tokens_per_batch > 0) json["tokens_per_batch"] = o.tokens_per_batch;
    if (!c.evaluate_also.empty()) json["evaluate_also"] = c.evaluate_also;
    if (!c.start.empty()) json["adapter"] = c.start.string();
    if (o.trained == TrainedParameters::all) json["train_parameters"] = to_string(o.trained);
  }
  if (o.save_dtype != NumberType::float32) json["save_dtype"] = to_string(o.save_dtype);
  if (o.wire != NumberType::float32) json["wire"] = to_string(o.wire);
  if (o.held_out > 0) json["held_out"] = o.held_out;
  if (o.run_type == RunType::lora) {
    json["lora"] = {{"rank", o.lora.rank},
                    {"scale", o.lora.scale},
                    {"init", o.lora.init == LoraInit::kaiming ? "kaiming" : "gaussian"}};
  }
  if (o.run_type == RunType::meprop) json["meprop_share"] = o.meprop_share;
  if (!o.steps_sparsely()) return json;
  const SparseOptions& s = o.sparse;
  const SideRecipes up = s.sides.rules("up");
  const SideRecipes down = s.sides.rules("down");
  json["sparse"] = {{"n_params", s.share > 0 ? nlohmann::json() : nlohmann::json(s.n_params)},
                    {"share", s.share_kept()},
                    {"basis_scope", s.scope == BasisScope::kind ? "kind" : "layer"},
                    {"up", {{"out", to_string(up.out)}, {"in", to_string(up.in)}}},
                    {"down", {{"out", to_string(down.out)}, {"in", to_string(down.in)}}},
                    {"refresh_every", s.refresh_every},
                    {"refresh_window", s.refresh_window},
                    {"phase1_steps", s.needs_gradients() ? s.phase1_steps : 0},
                    {"keep_phase1", s.keep_phase1},
                    {"phase1_fixed_matrices", s.phase1_fixed_matrices},
                    {"normalize", s.normalize},
                    {"adam", sparsegrad::to_string(s.adam)},
                    {"plan", s.plan},
                    {"state_capacity", s.state_capacity},
                    {"state_overflow", sparsegrad::to_string(s.overflow)},
                    {"share_gradient_memory", o.shares_gradient_memory()},
                    {"moments", s.moments == MomentsPolicy::reset ? "reset" : "transport"}};
  const ReferenceDefects& d = s.defects;
  if (d.any()) {
    json["sparse"]["defects"] = {{"transposed_basis", d.transposed_basis},
                                 {"rotated_bias", d.rotated_bias},
                                 {"frozen_layer_norm", d.frozen_layer_norm},
                                 {"signed_selection", d.signed_selection}};
  }
  return json;
}

std::string differences(const nlohmann::json& run, const nlohmann::json& given,
                        const std::string& had_words) {
  const bool of_a_state = given.contains("options");
  const auto name_of = [&](std::string path) {
    if (path.starts_with('/')) path.erase(0, 1);
    constexpr std::string_view options = "options/";
    if (of_a_state && !path.starts_with(options)) return path;
    if (of_a_state) path.erase(0, options.size());
    for (const auto& [field, option] :
         {std::pair("trained", "--train-parameters"), std::pair("lora/rank", "--lora-rank"),
          std::pair("lora/scale", "--lora-scale"), std::pair("lora/init", "--lora-init"),
          std::pair("shuffle", "shuffle (--no-shuffle)"), std::pair("save", "save (--no-save)")})
      if (path == field) return std::string(option);
    for (const char* side : {"/out", "/in"}) {
      const std::string_view sides = "sparse/";
      if (!path.starts_with(sides) || !path.ends_with(side)) continue;
      return fmt::format("the {} side of {} matrices", side + 1,
                         path.substr(sides.size(), path.rfind('/') - sides.size()));
    }
    for (const std::string_view part : {"sparse/defects/", "sparse/"})
      if (path.starts_with(part)) path.erase(0, part.size());
    if (path.find('/') != std::string::npos && !path.starts_with("evaluate_also/")) return path;
    path = "--" + path.substr(0, path.find('/'));
    std::replace(path.begin(), path.end(), '_', '-');
    return path;
  };
  const nlohmann::json had = run.flatten();
  const nlohmann::json has = given.flatten();
  const auto text_of = [](const nlohmann::json& values, const std::string& path) {
    constexpr auto replace = nlohmann::json::error_handler_t::replace;
    return values.contains(path) ? values[path].dump(-1, ' ', false, replace) : std::string("nothing");
  };
  std::map<std::string, std::pair<std::string, std::string>>
      found;  // by the path, so that their order is fixed
  for (const nlohmann::json* values : {&had, &has}) {
    for (const auto& [path, value] : values->items()) {
      const std::string before = text_of(had, path);
      const std::string now = text_of(has, path);
      if (before != now) found[path] = {before, now};
    }
  }
  std::string text;
  for (const auto& [path, values] : found)
    text += fmt::format("{}{} is {}, {} {}", text.empty() ? "" : "; ", name_of(path), values.second,
                        had_words, values.first);
  return text;
}

nlohmann::json to_json(const backend::ProductChoice& choice) {
  return {
      {"float", choice.of_float}, {"double", choice.of_double}, {"low_precision", choice.of_low_precision}};
}

}  // namespace sparsegrad::finetune
