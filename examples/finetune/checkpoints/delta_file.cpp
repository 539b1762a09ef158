#include "checkpoints/delta_file.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>

#include <Eigen/Core>
#include <nlohmann/json.hpp>
#include <sparsegrad/core/float_bits.hpp>
#include <sparsegrad/io/safetensors.hpp>

#include "models/model_error.hpp"

namespace sparsegrad::finetune {

namespace {

using nlohmann::json;

constexpr const char *positions_mark = ".positions", *values_mark = ".values", *a_mark = ".lora_A",
                     *b_mark = ".lora_B";

std::string hexadecimal_of(std::uint64_t x) {
  char text[16];
  const auto [end, error] = std::to_chars(text, text + sizeof text, x, 16);
  const std::string digits(text, end);
  return std::string(16 - digits.size(), '0') + digits;
}

std::optional<std::uint64_t> number_of(const json& text) {
  if (!text.is_string()) return std::nullopt;
  const auto& digits = text.get_ref<const std::string&>();
  std::uint64_t x = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), x, 16);
  if (digits.size() != 16 || error != std::errc() || end != digits.data() + digits.size())
    return std::nullopt;
  return x;
}

std::vector<index_t> own_shape(const ParameterShape& p) {
  return p.is_vector() ? std::vector<index_t>{p.cols} : std::vector<index_t>{p.rows, p.cols};
}

void add_positions(io::SafetensorsWriter& writer, const std::string& name,
                   const std::vector<std::int64_t>& positions) {
  const auto count = static_cast<index_t>(positions.size());
  const std::string key = name + positions_mark;
  if (positions.back() <= std::numeric_limits<std::int32_t>::max())
    writer.add(key, {count}, std::vector<std::int32_t>(positions.begin(), positions.end()));
  else
    writer.add(key, {count}, std::span<const std::int64_t>(positions));
}

/// The tensors of a delta, each looked at once.
class Reader {
 public:
  Reader(const io::SafetensorsFile& file, Delta& delta) : file_(file), delta_(delta) {}

  void read(const ParameterShape& p) {
    const bool whole = file_.contains(p.name);
    const bool some = file_.contains(p.name + positions_mark) || file_.contains(p.name + values_mark);
    const bool factors = file_.contains(p.name + a_mark) || file_.contains(p.name + b_mark);
    if (whole + some + factors == 0) return;
    if (whole + some + factors > 1) throw file_.error(p.name, "is there in two forms, expected one");
    ParameterDelta& delta = delta_.parameters[p.name];
    if (whole) delta.values = values(p.name, own_shape(p));
    if (some) read_positions(p, delta);
    if (factors) {
      const io::Tensor a = file_.find(p.name + a_mark);
      delta.rank = a.shape.empty() ? 0 : a.shape[0];
      if (delta.rank < 1) throw file_.error(p.name + a_mark, "has no rows, expected the rank");
      delta.a = values(p.name + a_mark, {delta.rank, p.cols});
      delta.b = values(p.name + b_mark, {p.rows, delta.rank});
    }
  }
  /// How many tensors were read.
  std::size_t count() const { return count_; }

 private:
  std::vector<float> values(const std::string& name, const std::vector<index_t>& shape) {
    (void)file_.find(name, shape);
    std::vector<float> values = file_.read<float>(name);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!is_finite(values[i]))
        throw file_.error(name, std::string("has ") + (is_nan(values[i]) ? "NaN" : "Inf") + " at element " +
                                    std::to_string(i) + ", expected finite numbers");
    }
    ++count_;
    return values;
  }
  void read_positions(const ParameterShape& p, ParameterDelta& delta) {
    const std::string name = p.name + positions_mark;
    const io::Tensor tensor = file_.find(name);
    if (tensor.dtype == io::DType::i32) {
      const auto narrow = file_.read<std::int32_t>(name);
      delta.positions.assign(narrow.begin(), narrow.end());
    } else {
      delta.positions = file_.read<std::int64_t>(name);
    }
    ++count_;
    std::int64_t last = -1;
    for (const std::int64_t position : delta.positions) {
      if (position <= last || position >= p.rows * p.cols) {
        throw file_.error(name, "has the position " + std::to_string(position) + " behind " +
                                    std::to_string(last) + ", expected ascending ones below " +
                                    std::to_string(p.rows * p.cols));
      }
      last = position;
    }
    delta.values = values(p.name + values_mark, {static_cast<index_t>(delta.positions.size())});
  }

  const io::SafetensorsFile& file_;
  Delta& delta_;
  std::size_t count_ = 0;
};

}  // namespace

std::uint64_t weights_hash(std::span<const float> values) {
  std::uint64_t hash = values.size();
  for (const float& value : values)
    hash = (std::rotl(hash, 5) ^ std::bit_cast<std::uint32_t>(value)) * 0x9E3779B97F4A7C15U;
  return hash ^ hash >> 32U;
}

void write_delta(const std::filesystem::path& file, const Delta& delta,
                 std::span<const ParameterShape> shapes) {
  io::SafetensorsWriter writer;
  for (const ParameterShape& p : shapes) {
    const auto found = delta.parameters.find(p.name);
    if (found == delta.parameters.end()) continue;
    const ParameterDelta& d = found->second;
    if (d.rank > 0) {
      writer.add(p.name + a_mark, {d.rank, p.cols}, std::span<const float>(d.a));
      writer.add(p.name + b_mark, {p.rows, d.rank}, std::span<const float>(d.b));
    } else if (!d.positions.empty()) {
      add_positions(writer, p.name, d.positions);
      writer.add(p.name + values_mark, {static_cast<index_t>(d.values.size())},
                 std::span<const float>(d.values));
    } else {
      writer.add(p.name, own_shape(p), std::span<const float>(d.values));
    }
  }
  json base = json::object();
  for (const auto& [name, hash] : delta.base)
    base[name] = hexadecimal_of(hash);
  writer.metadata("format", delta_format);
  writer.metadata("base", base.dump());
  writer.write(file.string());
}

bool is_delta(const std::filesystem::path& file) {
  if (file.extension() != ".safetensors") return false;
  const io::SafetensorsFile opened(file.string());
  const auto found = opened.metadata().find("format");
  return found != opened.metadata().end() && found->second.starts_with("sparsegrad delta");
}

Delta read_delta(const std::filesystem::path& path, std::span<const ParameterShape> shapes) {
  const io::SafetensorsFile file(path.string());
  const std::string& format = file.metadata("format");
  if (format != delta_format) {
    throw ModelError(path.string() + ": the format is \"" + format + "\", expected \"" + delta_format +
                     "\"; it was written by another version of the program");
  }
  const json base = json::parse(file.metadata("base"), nullptr, false);
  Delta delta;
  Reader reader(file, delta);
  for (const ParameterShape& p : shapes) {
    const json hash = base.is_object() && base.contains(p.name) ? base[p.name] : json();
    const auto number = number_of(hash);
    if (!number) {
      throw ModelError(path.string() + ": has no hash of the base's \"" + p.name +
                       "\": the delta is of a model of other extents");
    }
    delta.base[p.name] = *number;
    reader.read(p);
  }
  if (base.size() != shapes.size()) {
    throw ModelError(path.string() + ": is of a base of " + std::to_string(base.size()) +
                     " parameters, the model has " + std::to_string(shapes.size()));
  }
  if (reader.count() != file.names().size())
    throw ModelError(path.string() + ": " + std::to_string(file.names().size() - reader.count()) +
                     " of its tensors are of no parameter of the model, or incomplete");
  if (delta.parameters.empty())
    throw ModelError(path.string() + ": changes nothing, expected a changed parameter");
  return delta;
}

void apply_delta(const Delta& delta, std::string_view parameter, std::span<float> values,
                 const std::string& source) {
  const auto hash = delta.base.find(parameter);
  if (hash == delta.base.end() || hash->second != weights_hash(values)) {
    throw ModelError(source + ": \"" + std::string(parameter) +
                     "\" of the model is not that of the delta's base; expected as --model the one that the "
                     "run began from, in the numbers that it had then");
  }
  const auto found = delta.parameters.find(parameter);
  if (found == delta.parameters.end()) return;
  const ParameterDelta& d = found->second;
  if (d.rank > 0) {
    using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const auto rows = static_cast<index_t>(d.b.size()) / d.rank;
    const auto cols = static_cast<index_t>(d.a.size()) / d.rank;
    Eigen::Map<RowMajor>(values.data(), rows, cols).noalias() +=
        Eigen::Map<const RowMajor>(d.b.data(), rows, d.rank) *
        Eigen::Map<const RowMajor>(d.a.data(), d.rank, cols);
  } else if (!d.positions.empty()) {
    for (std::size_t i = 0; i < d.positions.size(); ++i)
      values[static_cast<std::size_t>(d.positions[i])] = d.values[i];
  } else {
    std::copy(d.values.begin(), d.values.end(), values.begin());
  }
}

}  // namespace sparsegrad::finetune
