// Writing a model folder.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <sparsegrad/core/float_bits.hpp>
#include <sparsegrad/io/safetensors.hpp>

namespace sparsegrad::finetune {

/// Makes the folder unless it is there. Throws ModelError.
void make_model_folder(const std::filesystem::path& path);

/// Copies those of the files that `from` has; nothing where both are one folder. Each is written aside and renamed.
/// Throws IoError.
void copy_files(const std::filesystem::path& from, const std::filesystem::path& to,
                std::span<const char* const> names);

/// Writes a file aside and renames it. Throws IoError.
void write_text(const std::filesystem::path& file, const std::string& text);

namespace detail {

/// Throws ModelError: `count` values of a tensor, up to `largest`, have no room in this type.
[[noreturn]] void refuse_narrowing(const std::string& tensor, index_t count, double largest, io::DType type);

}  // namespace detail

/// Tensors of numbers in C, written as F32, BF16 or F16, one in memory at a time.
template <class C>
class TensorsToWrite {
 public:
  explicit TensorsToWrite(io::DType dtype) : dtype_(dtype) { writer_.metadata("format", "pt"); }

  /// One whose values `make` gives when it is written.
  void add(const std::string& name, const std::vector<index_t>& shape, std::function<std::vector<C>()> make) {
    if (dtype_ == io::DType::bf16) return add_as<bfloat16>(name, shape, std::move(make));
    if (dtype_ == io::DType::f16) return add_as<float16>(name, shape, std::move(make));
    add_as<float>(name, shape, std::move(make));
  }
  /// Throws IoError, and ModelError where a finite value has no room in the type.
  void write(const std::filesystem::path& file) const { writer_.write(file.string()); }

 private:
  template <class X>
  void add_as(const std::string& name, const std::vector<index_t>& shape,
              std::function<std::vector<C>()> make) {
    if constexpr (std::is_same_v<X, C>) {
      writer_.add_made<X>(name, shape, std::move(make));
    } else {
      writer_.add_made<X>(name, shape, [make = std::move(make), name, type = dtype_] {
        const std::vector<C> values = make();
        std::vector<X> narrow(values.begin(), values.end());
        index_t lost = 0;
        double largest = 0;
        for (std::size_t i = 0; i < values.size(); ++i) {
          if (is_finite(static_cast<float>(narrow[i])) || !is_finite(values[i])) continue;
          ++lost;
          largest = std::max(largest, std::abs(static_cast<double>(values[i])));
        }
        if (lost > 0) detail::refuse_narrowing(name, lost, largest, type);
        return narrow;
      });
    }
  }

  io::DType dtype_;
  io::SafetensorsWriter writer_;
};

}  // namespace sparsegrad::finetune
