#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "models/decoder/decoder_config.hpp"

namespace sparsegrad::finetune {

/// What is put on a model's weights as they are read: an adapter, or a delta.
class WeightChange {
 public:
  WeightChange() = default;
  WeightChange(const WeightChange&) = delete;
  WeightChange& operator=(const WeightChange&) = delete;
  virtual ~WeightChange() = default;

  /// For people: "LoRA of rank 8 beside 20 matrices".
  virtual std::string text() const = 0;
  /// Whether this parameter becomes another one.
  virtual bool changes(std::string_view parameter) const = 0;
  /// Whether `apply` is to see this parameter: those that change, and those by which the model is known.
  virtual bool reads(std::string_view parameter) const { return changes(parameter); }
  /// Makes the values of the model's parameter [rows, cols], or [cols], the changed ones. Throws ModelError where they
  /// are not those that the change was made for.
  virtual void apply(std::string_view parameter, std::span<float> values) const = 0;
};

/// Reads an adapter (read_adapter), or a delta (read_delta), whichever is there. Throws ModelError or IoError.
std::unique_ptr<WeightChange> read_weight_change(const std::filesystem::path& path,
                                                 const DecoderConfig& config);

}  // namespace sparsegrad::finetune
