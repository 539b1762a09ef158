// Reading the parts of a state file, each checked as it comes.
#pragma once

#include <limits>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/config.hpp"
#include "../core/float_bits.hpp"
#include "safetensors.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::io::detail {

/// "FILE: 'PREFIX'", or "FILE" for an object that has the file to itself: how messages about it begin.
inline std::string about(const SafetensorsFile& file, const std::string& prefix) {
  return prefix.empty() ? file.path() : file.path() + ": '" + prefix + "'";
}

/// The same where the object is not there.
inline std::string nothing_there(const SafetensorsFile& file, const std::string& prefix) {
  return file.path() +
         (prefix.empty() ? ": has no metadata 'type'" : ": holds nothing under '" + prefix + "'");
}

inline void require_type(const SafetensorsFile& file, const std::string& prefix, const char* expected) {
  const auto at = file.metadata().find(prefix + "type");
  if (at == file.metadata().end()) {
    throw IoError(nothing_there(file, prefix) + ", expected a " + expected);
  }
  if (at->second != expected) {
    throw IoError(about(file, prefix) + " is a '" + at->second + "', expected a '" + expected + "'");
  }
}

/// A one-dimensional tensor of `count` elements of type X.
template <class X>
std::vector<X> read_list(const SafetensorsFile& file, const std::string& name, index_t count) {
  const std::vector<index_t> shape{count};
  (void)file.find(name, shape);
  return file.read<X>(name);
}
/// A one-dimensional tensor of any length.
template <class X>
std::vector<X> read_list(const SafetensorsFile& file, const std::string& name) {
  const Tensor tensor = file.find(name);
  if (tensor.shape.size() != 1) {
    throw file.error(name, "has shape " + shape_list_text(tensor.shape) + ", expected one extent");
  }
  return file.read<X>(name);
}

template <class X>
void require_finite(const SafetensorsFile& file, const std::string& name, const std::vector<X>& values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!is_finite(values[i])) {
      throw file.error(name, "has " + std::string(is_nan(values[i]) ? "NaN" : "Inf") + " at element " +
                                 std::to_string(i) + ", expected finite numbers");
    }
  }
}

/// [rows, cols] of a core with 32-bit positions.
inline void require_core(const SafetensorsFile& file, const std::string& name, index_t rows, index_t cols) {
  const index_t limit = (std::numeric_limits<stored_index_t>::max)();
  if (rows < 0 || cols < 0 || rows > limit || cols > limit || (rows > 0 && cols > limit / rows)) {
    throw file.error(
        name, "says " + shape_text(rows, cols) + ", expected extents >= 0 whose product is below 2^31");
  }
}

inline void require_positions(const SafetensorsFile& file, const std::string& name,
                              const std::vector<stored_index_t>& index, index_t size) {
  for (std::size_t e = 0; e < index.size(); ++e) {
    if (index[e] < 0 || index[e] >= size || (e > 0 && index[e] <= index[e - 1])) {
      throw file.error(name, "has position " + std::to_string(index[e]) + " at element " + std::to_string(e) +
                                 ", expected strictly rising positions in [0, " + std::to_string(size) + ")");
    }
  }
}

/// Runs f; what it refuses becomes an IoError of this file.
template <class F>
auto as_io_error(const SafetensorsFile& file, const std::string& prefix, F&& f) {
  try {
    return f();
  } catch (const IoError&) {
    throw;
  } catch (const Error& error) {
    throw IoError(about(file, prefix) + ": " + error.what());
  } catch (const std::bad_alloc&) {
    throw IoError(about(file, prefix) + " needs more memory than there is");
  }
}

/// The value named `text` of an enumeration whose values are 0 .. last.
template <class Enum>
Enum enum_from_text(const SafetensorsFile& file, const std::string& key, Enum last) {
  const std::string& text = file.metadata(key);
  std::string all;
  for (int i = 0; i <= static_cast<int>(last); ++i) {
    if (text == to_string(static_cast<Enum>(i))) return static_cast<Enum>(i);
    all += (i > 0 ? ", " : "") + std::string(to_string(static_cast<Enum>(i)));
  }
  throw IoError(file.path() + ": metadata '" + key + "' is '" + text + "', expected one of " + all);
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::io::detail
