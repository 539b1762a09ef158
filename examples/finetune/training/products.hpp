// Which of the linked libraries multiplies in a run on the CPU.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "models/host_backend.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

struct Products {
  backend::ProductChoice choice;
  NumberType dtype = NumberType::float32;
  std::string text;  ///< which, at what rate, and what to do about slow ones: lines for the log
  std::string note;  ///< what one who asked for 16 bits should know of their products; or nothing
};

/// The names that `--products` knows beside auto, in the order in which they are preferred.
std::vector<std::string> product_names();

/// What `options.products` names. "auto" is, in this order: those that the run in `log_path` had, with --resume; the first
/// of product_names with --deterministic; the fastest ones, measured. Throws ValueError for a name that this program does
/// not have. The type of numbers is `options.dtype`, or with `choose_dtype` that of the run in `log_path` with --resume,
/// else bfloat16 where the chosen products of it are at least a fifth faster than those of float.
Products choose_products(const TrainOptions& options, const std::filesystem::path& log_path = {});

}  // namespace sparsegrad::finetune
