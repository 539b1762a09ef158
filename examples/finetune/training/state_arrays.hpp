// Arrays of a run's state: hashes of them, and their way to a file and back.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/io/safetensors.hpp>

#include "models/layers/host_view.hpp"
#include "models/layers/random.hpp"
#include "training/optimizer/adamw.hpp"

namespace sparsegrad::finetune {

/// FNV-1a over words, then bytes.
class Hash {
 public:
  void add(const void* data, std::size_t bytes) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (; bytes >= 8; bytes -= 8, p += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, p, 8);
      mix(word);
    }
    for (; bytes > 0; --bytes, ++p)
      mix(*p);
  }
  template <class V>
  void add_value(V value) {
    add(&value, sizeof value);
  }
  std::uint64_t value() const { return value_; }

 private:
  void mix(std::uint64_t word) { value_ = mix_bits(value_ ^ word) * 0x100000001B3ULL; }
  std::uint64_t value_ = 0xCBF29CE484222325ULL;
};

namespace detail {

template <class Backend, class V>
void add_array(typename Backend::Context& ctx, Hash& hash, const V* p, std::size_t n) {
  visit_on_host<Backend>(ctx, p, n, [&](const auto* host) { hash.add(host, n * sizeof *host); });
}

template <class Backend>
void add_matrix(typename Backend::Context& ctx, Hash& hash, MatrixView<const float> m) {
  add_array<Backend>(ctx, hash, m.data, static_cast<std::size_t>(m.size()));
}

template <class Backend>
void put_array(typename Backend::Context& ctx, io::SafetensorsWriter& writer, const std::string& name,
               MatrixView<const float> values) {
  if constexpr (ThrustBackend<Backend>) {
    std::vector<float> copy(static_cast<std::size_t>(values.size()));
    if (!copy.empty()) Backend::template download<float>(ctx, values.data, copy.data(), values.size());
    writer.add(name, {values.size()}, std::move(copy));
  } else {
    writer.add(name, {values.size()},
               std::span<const float>(values.data, static_cast<std::size_t>(values.size())));
  }
}

template <class Backend>
void get_array(typename Backend::Context& ctx, const io::SafetensorsFile& file, const std::string& name,
               MatrixView<float> values) {
  const std::array<index_t, 1> shape{values.size()};
  (void)file.find(name, shape);
  const std::vector<float> read = file.read<float>(name);
  if (!read.empty()) Backend::template upload<float>(ctx, read.data(), values.data, values.size());
}

/// Throws IoError unless the file's array of this name has these bits.
template <class Backend, class V>
void require_same(typename Backend::Context& ctx, const io::SafetensorsFile& file, const std::string& name,
                  const V* p, std::size_t n) {
  visit_on_host<Backend>(ctx, p, n, [&](const auto* values) {
    const std::span<const std::byte> written = file.find(name).bytes;
    if (written.size() != n * sizeof *values || std::memcmp(written.data(), values, written.size()) != 0)
      throw file.error(name, "is not what was written to it");
  });
}

template <class Backend>
void require_same_matrix(typename Backend::Context& ctx, const io::SafetensorsFile& file,
                         const std::string& name, MatrixView<const float> m) {
  require_same<Backend>(ctx, file, name, m.data, static_cast<std::size_t>(m.size()));
}

// The same of an AdamW's state; its count of steps goes another way.

template <class T, class Backend>
void add_adam(typename Backend::Context& ctx, Hash& hash, AdamW<T, Backend>& adam) {
  hash.add_value(adam.steps());
  add_matrix<Backend>(ctx, hash, adam.first_moments());
  add_matrix<Backend>(ctx, hash, adam.second_moments());
}

template <class T, class Backend>
void put_adam(typename Backend::Context& ctx, io::SafetensorsWriter& writer, const std::string& prefix,
              AdamW<T, Backend>& adam) {
  put_array<Backend>(ctx, writer, prefix + "m", adam.first_moments());
  put_array<Backend>(ctx, writer, prefix + "v", adam.second_moments());
}

template <class T, class Backend>
void require_same_adam(typename Backend::Context& ctx, const io::SafetensorsFile& file,
                       const std::string& prefix, AdamW<T, Backend>& adam) {
  require_same_matrix<Backend>(ctx, file, prefix + "m", adam.first_moments());
  require_same_matrix<Backend>(ctx, file, prefix + "v", adam.second_moments());
}

template <class T, class Backend>
void get_adam(typename Backend::Context& ctx, const io::SafetensorsFile& file, const std::string& prefix,
              AdamW<T, Backend>& adam, index_t steps) {
  get_array<Backend>(ctx, file, prefix + "m", adam.first_moments());
  get_array<Backend>(ctx, file, prefix + "v", adam.second_moments());
  adam.set_steps(steps);
}

}  // namespace detail

}  // namespace sparsegrad::finetune
