#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/decoder/decoder_names.hpp"

// A delta: what a run changed of its base, in one safetensors file. A parameter P that changed is in it in the smallest
// of three forms:
//
//     P.positions [k]  ascending, and P.values [k]       the entries that changed, as they became
//     P.lora_A [r, in] and P.lora_B [out, r]             W' = W + B A
//     P, its own shape                                   all entries, as they became
//
// Metadata: "format" is delta_format, "base" an object that has a hash of each of the base's parameters, by which
// another base is refused.

namespace sparsegrad::finetune {

inline constexpr const char* delta_format = "sparsegrad delta 1";

/// What became of one parameter; one of the three forms.
struct ParameterDelta {
  std::vector<std::int64_t> positions;
  std::vector<float> values;  ///< at the positions, or of all entries
  index_t rank = 0;
  std::vector<float> a;  ///< [rank, cols]
  std::vector<float> b;  ///< [rows, rank]
};

/// What a run changed.
struct Delta {
  std::map<std::string, ParameterDelta, std::less<>> parameters;  ///< those that changed
  std::map<std::string, std::uint64_t, std::less<>> base;  ///< weights_hash of all parameters of the base
};

/// A hash of a parameter's values, as float: 64 bits of their bits in order. It tells models apart that are not made to
/// be confused.
std::uint64_t weights_hash(std::span<const float> values);

/// Writes the file aside and renames it. Throws IoError.
void write_delta(const std::filesystem::path& file, const Delta& delta,
                 std::span<const ParameterShape> shapes);

/// Whether this is a file of a delta, of any version.
bool is_delta(const std::filesystem::path& file);
/// Reads a file for a model of these parameters. Throws ModelError or IoError naming the tensor: another version, a
/// parameter that the model does not have, or of another shape; positions that are out of range or not ascending; NaN
/// or Inf; a parameter of the model without a hash.
Delta read_delta(const std::filesystem::path& file, std::span<const ParameterShape> shapes);

/// The parameter as it became. `values`: those of the base. Throws ModelError beginning with `source` where they are
/// another base's.
void apply_delta(const Delta& delta, std::string_view parameter, std::span<float> values,
                 const std::string& source);

}  // namespace sparsegrad::finetune
