#include "programs/energy_survey.hpp"

#include <algorithm>
#include <cmath>
#include <memory>

#include <fmt/format.h>

namespace sparsegrad::finetune {

namespace {

using Backend = HostBackend;
using Accumulator = HosvdAccumulator<float, Backend>;
using Basis = TuckerBasis<float, Backend>;
using Side = Basis::Side;
using Accumulators = std::vector<std::shared_ptr<Accumulator>>;

Accumulators make_accumulators(GlueContext& ctx, Model& model, bool normalize) {
  Accumulators all;
  HosvdOptions options;
  options.normalize = normalize;
  for (Model::MlpLayer& layer : model.mlp())
    all.push_back(std::make_shared<Accumulator>(ctx, layer.out_extent(), layer.in_extent(), options));
  return all;
}

/// From now on the layers form whole gradients.
void form_gradients(GlueContext& ctx, Model& model) {
  for (Model::MlpLayer& layer : model.mlp())
    layer.gradient().form_weight_gradient(ctx, true);
}

void add_gradients(GlueContext& ctx, Model& model, Accumulators& all) {
  for (std::size_t i = 0; i < all.size(); ++i)
    model.mlp()[i].gradient().add_to(ctx, *all[i], NonFinite::raise);
}

Picture picture_of(std::string name, MatrixView<const float> g, index_t most) {
  Picture picture;
  picture.name = std::move(name);
  picture.rows = std::min(g.rows, most);
  picture.cols = std::min(g.cols, most);
  for (index_t i = 0; i < picture.rows; ++i) {
    for (index_t j = 0; j < picture.cols; ++j) {
      const index_t row_end = g.rows * (i + 1) / picture.rows;
      const index_t col_end = g.cols * (j + 1) / picture.cols;
      double squares = 0;
      index_t count = 0;
      for (index_t r = g.rows * i / picture.rows; r < row_end; ++r) {
        for (index_t c = g.cols * j / picture.cols; c < col_end; ++c) {
          squares += static_cast<double>(g(r, c)) * static_cast<double>(g(r, c));
          ++count;
        }
      }
      picture.values.push_back(
          static_cast<float>(std::sqrt(squares / static_cast<double>(std::max<index_t>(count, 1)))));
    }
  }
  return picture;
}

/// The basis of `basis` on the side of the model's width, nothing on the other.
Basis::Pointer width_only(GlueContext& ctx, const Basis& basis, std::string_view kind) {
  if (kind == "up") return Basis::from_sides(Side::identity(basis.out_extent()), basis.in().clone(ctx));
  return Basis::from_sides(basis.out().clone(ctx), Side::identity(basis.in_extent()));
}

class Measurement {
 public:
  Measurement(GlueContext& ctx, Model& model, const SurveyOptions& options, Survey& survey)
      : ctx_(ctx), model_(model), options_(options), survey_(survey) {}

  void add_space(std::string key, std::string name) {
    survey_.spaces.push_back({std::move(key), std::move(name), {}});
  }

  /// The next matrix's share in the space of this name.
  void record(std::string_view key, double share) {
    for (SpaceShares& space : survey_.spaces) {
      if (space.key == key) space.shares.push_back(share);
    }
  }

  void measure(std::string_view key, const Basis& basis, index_t number) {
    const MatrixView<float> g = gradient(number);
    record(key, basis.energy(ctx_, g, survey_.kept).basis_top_k);
    if (!drawn(number)) return;
    std::vector<float> memory(static_cast<std::size_t>(basis.rows() * basis.cols()));
    const MatrixView<float> core(memory.data(), basis.rows(), basis.cols());
    basis.project(ctx_, g, core);
    draw(number, key, core);
  }

  void measure_raw(index_t number) {
    const MatrixView<float> g = gradient(number);
    record("raw", Basis::identity(g.rows, g.cols)->energy(ctx_, g, survey_.kept).raw_top_k);
    if (drawn(number)) draw(number, "raw", g);
  }

 private:
  MatrixView<float> gradient(index_t number) {
    return model_.mlp()[static_cast<std::size_t>(number)].core(ctx_);
  }
  bool drawn(index_t number) const { return number / 2 == options_.drawn_layer; }
  void draw(index_t number, std::string_view key, MatrixView<const float> values) {
    survey_.pictures.push_back(picture_of(fmt::format("layer{}_{}_{}", number / 2, mlp_kind(number), key),
                                          values, options_.picture));
  }

  GlueContext& ctx_;
  Model& model_;
  const SurveyOptions& options_;
  Survey& survey_;
};

}  // namespace

double Survey::mean(const SpaceShares& space, std::string_view kind) {
  double sum = 0;
  index_t count = 0;
  for (std::size_t i = 0; i < space.shares.size(); ++i) {
    if (mlp_kind(static_cast<index_t>(i)) != kind) continue;
    sum += space.shares[i];
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : 0;
}

Survey survey_energy(GlueContext& ctx, Model& model, Trainer& trainer, const SurveyOptions& options) {
  Survey survey;
  survey.at_step = options.at_step;
  survey.kept = kept_entries(options.sparse, model.config().hidden * model.config().intermediate);
  survey.fitted_steps = options.fit_steps;
  // A second fit half way, where the steps suffice.
  const index_t half = (options.fit_steps + options.at_step) / 2;
  if (half - options.fit_steps >= options.fit_steps && options.at_step > half) survey.refit_step = half;

  Accumulators first = make_accumulators(ctx, model, options.sparse.normalize);
  Accumulators second;
  form_gradients(ctx, model);
  for (index_t step = 1; step < options.at_step; ++step) {
    if (options.progress) options.progress("gradients", step, options.at_step);
    const bool in_first = step <= options.fit_steps;
    const bool in_second =
        survey.refit_step > 0 && step > survey.refit_step - options.fit_steps && step <= survey.refit_step;
    if (in_second && second.empty()) second = make_accumulators(ctx, model, options.sparse.normalize);
    trainer.step([&] {
      if (in_first || in_second) add_gradients(ctx, model, in_first ? first : second);
    });
    if (options.interrupted && options.interrupted()) {
      survey.interrupted = true;
      return survey;
    }
  }

  Measurement measurement(ctx, model, options, survey);
  measurement.add_space("raw", "raw dW");
  measurement.add_space("reference", "the reference code's rotation (U^T for U), a kind");
  measurement.add_space("hosvd_kind", fmt::format("HOSVD a kind, steps 1-{} (the paper)", options.fit_steps));
  measurement.add_space("hosvd_layer", fmt::format("HOSVD a layer, steps 1-{}", options.fit_steps));
  if (survey.refit_step > 0) {
    measurement.add_space("hosvd_layer_refit",
                          fmt::format("HOSVD a layer, steps {}-{}", survey.refit_step - options.fit_steps + 1,
                                      survey.refit_step));
  }
  measurement.add_space("width_layer", "width side only, a layer");
  measurement.add_space("random", "random orthogonal");
  measurement.add_space("hadamard", "randomised block Hadamard");

  trainer.step([&] {
    const auto count = static_cast<index_t>(model.mlp().size());
    for (const char* kind : {"up", "down"}) {
      const index_t offset = std::string_view(kind) == "up" ? 0 : 1;
      const Accumulator& model_of_kind = *first[static_cast<std::size_t>(offset)];
      Accumulator together(ctx, model_of_kind.out_extent(), model_of_kind.in_extent(),
                           model_of_kind.options());
      for (index_t i = offset; i < count; i += 2)
        together.merge(ctx, *first[static_cast<std::size_t>(i)]);
      const Basis::Pointer shared = Basis::fit(ctx, together, SideRecipe::hosvd(), SideRecipe::hosvd());
      const Basis::Pointer reference = shared->with_transposed_input(ctx);
      const Basis::Pointer random = Basis::from_recipes(ctx, together.out_extent(), together.in_extent(),
                                                        SideRecipe::random(), SideRecipe::random());
      const Basis::Pointer hadamard = Basis::from_recipes(ctx, together.out_extent(), together.in_extent(),
                                                          SideRecipe::hadamard(), SideRecipe::hadamard());
      for (index_t i = offset; i < count; i += 2) {
        if (options.progress) options.progress("bases", i, count);
        const Accumulator& own = *first[static_cast<std::size_t>(i)];
        measurement.measure_raw(i);
        measurement.measure("reference", *reference, i);
        measurement.measure("hosvd_kind", *shared, i);
        const Basis::Pointer by_layer = Basis::fit(ctx, own, SideRecipe::hosvd(), SideRecipe::hosvd());
        measurement.measure("hosvd_layer", *by_layer, i);
        if (survey.refit_step > 0) {
          measurement.measure("hosvd_layer_refit",
                              *Basis::fit(ctx, *second[static_cast<std::size_t>(i)], SideRecipe::hosvd(),
                                          SideRecipe::hosvd()),
                              i);
        }
        measurement.measure("width_layer", *width_only(ctx, *by_layer, kind), i);
        measurement.measure("random", *random, i);
        measurement.measure("hadamard", *hadamard, i);
      }
    }
  });
  // Recorded all up matrices first: back to the order of the model.
  for (SpaceShares& space : survey.spaces) {
    const std::size_t half_count = space.shares.size() / 2;
    std::vector<double> ordered;
    for (std::size_t i = 0; i < half_count; ++i) {
      ordered.push_back(space.shares[i]);
      ordered.push_back(space.shares[half_count + i]);
    }
    space.shares = std::move(ordered);
  }
  return survey;
}

std::string table_text(const Survey& survey) {
  std::size_t width = 0;
  for (const SpaceShares& space : survey.spaces)
    width = std::max(width, space.name.size());
  const std::size_t layers = survey.spaces.empty() ? 0 : survey.spaces.front().shares.size() / 2;
  std::string text = fmt::format("{:<{}}  up mean  down mean ", "space", width);
  for (const char* kind : {"up", "down"}) {
    for (std::size_t l = 0; l < layers; ++l)
      text += fmt::format(" {:>7}", fmt::format("{} {}", kind, l));
  }
  text += "\n";
  for (const SpaceShares& space : survey.spaces) {
    text += fmt::format("{:<{}}  {:>7.3f}  {:>9.3f} ", space.name, width, Survey::mean(space, "up"),
                        Survey::mean(space, "down"));
    for (const std::size_t offset : {std::size_t{0}, std::size_t{1}}) {
      for (std::size_t l = 0; l < layers; ++l)
        text += fmt::format(" {:>7.3f}", space.shares[2 * l + offset]);
    }
    text += "\n";
  }
  return text;
}

nlohmann::json to_json(const Survey& survey) {
  nlohmann::json json{{"kept_entries", survey.kept},
                      {"fitted_steps", survey.fitted_steps},
                      {"refit_step", survey.refit_step},
                      {"measured_step", survey.at_step}};
  json["spaces"] = nlohmann::json::array();
  for (const SpaceShares& space : survey.spaces) {
    nlohmann::json up = nlohmann::json::array();
    nlohmann::json down = nlohmann::json::array();
    for (std::size_t i = 0; i < space.shares.size(); ++i)
      (i % 2 == 0 ? up : down).push_back(space.shares[i]);
    json["spaces"].push_back(
        {{"key", space.key},
         {"name", space.name},
         {"mean", {{"up", Survey::mean(space, "up")}, {"down", Survey::mean(space, "down")}}},
         {"up", up},
         {"down", down}});
  }
  json["pictures"] = nlohmann::json::array();
  for (const Picture& picture : survey.pictures)
    json["pictures"].push_back({{"name", picture.name}, {"file", picture.name + ".npy"}});
  return json;
}

}  // namespace sparsegrad::finetune
