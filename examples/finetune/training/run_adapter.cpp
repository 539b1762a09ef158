#include "training/run_adapter.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <variant>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sparsegrad/io/side_recipe_text.hpp>

#include "checkpoints/config_file.hpp"
#include "checkpoints/gguf_model.hpp"
#include "checkpoints/low_rank.hpp"
#include "training/causal_parts.hpp"
#include "training/causal_source.hpp"
#include "training/output/output_folder.hpp"
#include "training/output/run_log.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* merged_cure = "take --format merged";

/// A finished run's log.
struct Log {
  std::string path;
  json content;
  const json& options() const { return content.at("options"); }
  ModelError error(const std::string& what) const { return ModelError(path + ": " + what); }
};

Log read_log(const fs::path& model) {
  fs::path folder = fs::absolute(model).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  const fs::path file = OutputFolder::log_in(folder.parent_path());
  if (!fs::exists(file)) {
    throw ModelError(
        file.string() +
        ": there is no such file; an adapter is made of a run's model, --model OUT/model, beside the "
        "run's log OUT/run.json");
  }
  Log log{file.string(), read_json(file)};
  if (!log.content.is_object() || log.content.value("format", json()) != llm_run_log_format) {
    throw log.error(
        fmt::format("expected the log of a run of sparsegrad-llm, \"format\": \"{}\"", llm_run_log_format));
  }
  if (log.content.value("finished", json()) != true) {
    throw log.error(fmt::format("the run is not finished (step {} of {}); train with --resume ends it",
                                log.content.value("steps_done", 0), log.content.value("steps_planned", 0)));
  }
  return log;
}

/// The rank of a side, nothing where it is full or left to the gradients.
std::optional<index_t> fixed_rank(const SideRecipe& side) {
  if (const auto* random = std::get_if<SideRecipe::Random>(&side.choice()))
    return random->rank > 0 ? std::optional(random->rank) : std::nullopt;
  if (const auto* hosvd = std::get_if<SideRecipe::Hosvd>(&side.choice()))
    if (const auto* rank = std::get_if<Truncation::Rank>(&hosvd->truncation.choice())) return rank->rank;
  return std::nullopt;
}

/// The rank that the run gave its updates.
index_t rank_of(const Log& log) {
  const json& options = log.options();
  const std::string type = options.at("run_type");
  if (type == "lora") return options.at("lora").at("rank");
  if (type != "sparse") {
    throw log.error(
        fmt::format("the run is of type {}, whose updates have no low rank; expected lora, or sparse with a "
                    "side of a fixed rank; {}",
                    type, merged_cure));
  }
  const json& sparse = options.at("sparse");
  index_t rank = 0;
  for (const char* kind : {"up", "down"}) {
    const std::string out = sparse.at(kind).at("out");
    const std::string in = sparse.at(kind).at("in");
    const std::optional<index_t> of_out = fixed_rank(parse_side_recipe(out));
    const std::optional<index_t> of_in = fixed_rank(parse_side_recipe(in));
    if (!of_out && !of_in) {
      throw log.error(fmt::format(
          "the bases of the run have the sides \"{}\" (out) and \"{}\" (in), expected one of a fixed "
          "rank: the updates are of full rank; {}",
          out, in, merged_cure));
    }
    constexpr index_t none = std::numeric_limits<index_t>::max();
    rank = std::max(rank, std::min(of_out.value_or(none), of_in.value_or(none)));
  }
  // Each basis leaves columns of its own.
  return rank * (1 + log.content.value("refreshes", index_t{0}));
}

/// A model's parameters, one by one.
class Parameters {
 public:
  explicit Parameters(const CausalSource& source) : source_(source) {
    if (!source.is_gguf()) weights_.emplace(source.path());
  }
  std::vector<float> values(const ParameterShape& p) const {
    if (source_.is_gguf())
      return gguf_parameter(*source_.gguf(), source_.config(), p.name, p.is_vector() ? 0 : p.rows, p.cols);
    const std::string name = decoder_tensor(*weights_, p.name);
    (void)weights_->find(name,
                         p.is_vector() ? std::vector<index_t>{p.cols} : std::vector<index_t>{p.rows, p.cols});
    return weights_->read_as<float>(name);
  }

 private:
  const CausalSource& source_;
  std::optional<ModelWeights> weights_;
};

void require_same_extents(const CausalSource& trained, const CausalSource& base) {
  const auto extents = [](const DecoderConfig& c) {
    return fmt::format(
        "{} blocks of width {} and {}, {} heads and {} of keys and values of {}, {} tokens, {} head",
        c.layers, c.hidden, c.intermediate, c.heads, c.kv_heads, c.head_size, c.vocab_size,
        c.tied_embeddings ? "tied" : "own");
  };
  const std::string of_base = extents(base.config());
  const std::string of_trained = extents(trained.config());
  if (of_base == of_trained) return;
  throw ModelError(fmt::format(
      "{}: the model has {}, but the run's model {}: expected as --base-model the one that the run "
      "began from",
      base.path().string(), of_base, of_trained));
}

double norm(std::span<const float> values) {
  double sum = 0;
  for (const float x : values)
    sum += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(sum);
}

/// values [rows, cols] with zeros around them, [to_rows, to_cols].
std::vector<float> padded(std::span<const float> values, index_t rows, index_t cols, index_t to_rows,
                          index_t to_cols) {
  std::vector<float> result(static_cast<std::size_t>(to_rows * to_cols));
  for (index_t i = 0; i < rows; ++i)
    std::copy_n(values.begin() + i * cols, cols, result.begin() + i * to_cols);
  return result;
}

}  // namespace

RunAdapter run_adapter(const fs::path& model, const fs::path& base) {
  const Log log = read_log(model);
  const json& options = log.options();
  RunAdapter result;
  result.base = base.empty() ? fs::path(options.at("model").get<std::string>()) : base;
  Adapter& adapter = result.adapter;
  adapter.rank = rank_of(log);
  if (options.contains("save_dtype")) {
    throw log.error(
        fmt::format("the run saved its model as {}, which rounds the updates away; expected float, which "
                    "train has without --save-dtype; or {}",
                    options.at("save_dtype").get<std::string>(), merged_cure));
  }
  if (!fs::exists(result.base)) {
    throw ModelError(result.base.string() +
                     ": there is no such model, which the run began from; say with --base-model "
                     "where it is");
  }
  const CausalSource trained(model);
  const CausalSource original(result.base);
  require_same_extents(trained, original);
  result.config = original.config();
  const MatrixChoice choice{parse_blocks(options.at("blocks").get<std::string>(), result.config.layers),
                            parse_matrices(options.at("matrices").get<std::string>())};

  const Parameters after(trained);
  const Parameters before(original);
  const double rounding =
      4 * std::sqrt(log.content.value("steps_done", 0.0) + 1) * std::exp2(-24.0);  // rms, of steps in float
  const auto shapes = decoder_shapes(result.config, {}, 0);
  const auto shape_of = [&](const std::string& name) -> const ParameterShape& {
    return *std::find_if(shapes.begin(), shapes.end(), [&](const auto& p) { return p.name == name; });
  };
  std::vector<std::string> chosen;
  for (const index_t block : choice.blocks)
    for (const MatrixKind kind : choice.kinds)
      chosen.push_back(matrix_name(block, kind));
  for (const ParameterShape& p : shapes) {
    if (std::find(chosen.begin(), chosen.end(), p.name) != chosen.end()) continue;
    if (after.values(p) == before.values(p)) continue;
    throw ModelError(
        fmt::format("{}: \"{}\" is not the base's ({}) and is none of the matrices that the run trained: the "
                    "base is another "
                    "one than the run began from (--base-model), or all parameters trained; an adapter holds "
                    "matrices alone, {}",
                    model.string(), p.name, result.base.string(), merged_cure));
  }
  double change = 0;
  for (const index_t block : choice.blocks) {
    for (const MatrixKind kind : choice.kinds) {
      const ParameterShape& p = shape_of(matrix_name(block, kind));
      const std::vector<float> now = after.values(p);
      const std::vector<float> then = before.values(p);
      std::vector<double> delta(now.size());
      for (std::size_t i = 0; i < now.size(); ++i)
        delta[i] = static_cast<double>(now[i]) - static_cast<double>(then[i]);
      const index_t rank = std::min({adapter.rank, p.rows, p.cols});
      const LowRankFactors factors = low_rank_factors(delta, p.rows, p.cols, rank);
      const double size = norm(now);
      if (factors.residual > rounding * size) {
        throw ModelError(fmt::format(
            "{}: \"{}\" less the base's is not of rank {}: what is left beside it has the norm {:.3g}, "
            "expected "
            "at most {:.3g}, rounding in {} steps. Weight decay, a phase 1 that is kept and another base "
            "({}) do that; {}",
            model.string(), p.name, rank, factors.residual, rounding * size,
            log.content.value("steps_done", 0), result.base.string(), merged_cure));
      }
      result.rounding = std::max(result.rounding, size > 0 ? factors.residual / size : 0);
      change += norm(factors.a);
      adapter.matrices.push_back({block,
                                  kind,
                                  {p.rows, p.cols},
                                  padded(factors.a, rank, p.cols, adapter.rank, p.cols),
                                  padded(factors.b, p.rows, rank, p.rows, adapter.rank)});
    }
  }
  if (change == 0) {
    throw ModelError(model.string() +
                     ": the model is the base as it was, its best step is the first: there is "
                     "nothing to write");
  }
  return result;
}

}  // namespace sparsegrad::finetune
