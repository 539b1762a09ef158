// Where the energy of gradients lies, in which basis.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "training/trainer.hpp"

namespace sparsegrad::finetune {

struct SurveyOptions {
  index_t fit_steps = 11;  ///< steps whose gradients the bases are fitted to
  index_t at_step = 50;    ///< whose gradients are measured
  SparseOptions sparse;    ///< n_params, share, normalize
  index_t drawn_layer = 0;
  index_t picture = 256;  ///< most rows and columns of a picture
  std::function<void(std::string_view what, index_t done, index_t total)> progress;
  std::function<bool()> interrupted;
};

/// One way to look at a gradient, with the share of energy that its k largest entries hold for each MLP matrix.
struct SpaceShares {
  std::string key;   ///< "hosvd_layer"
  std::string name;  ///< for people
  std::vector<double> shares;
};

/// Magnitudes of a gradient's entries, root mean squares of blocks where it is larger than a picture.
struct Picture {
  std::string name;  ///< "layer3_up_raw"
  index_t rows = 0;
  index_t cols = 0;
  std::vector<float> values;
};

struct Survey {
  index_t kept = 0;  ///< k
  index_t fitted_steps = 0;
  index_t refit_step = 0;  ///< 0: there was no room for a second fit
  index_t at_step = 0;
  std::vector<SpaceShares> spaces;
  std::vector<Picture> pictures;
  bool interrupted = false;

  /// Mean of a space over the matrices of a kind.
  static double mean(const SpaceShares& space, std::string_view kind);
};

/// Trains with `trainer` (run type ft) up to `at_step`, fits bases to the gradients of the first steps, and measures the
/// gradients of a later one.
Survey survey_energy(GlueContext& ctx, Model& model, Trainer& trainer, const SurveyOptions& options);

/// An aligned table: a row a space, columns for the means and for each matrix.
std::string table_text(const Survey& survey);
nlohmann::json to_json(const Survey& survey);

}  // namespace sparsegrad::finetune
