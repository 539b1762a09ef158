#include "data/records.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "data/text_file.hpp"

namespace sparsegrad::finetune {
namespace {

/// The only column that goes by one of the names; -1 when there is none.
int find_column(const std::vector<std::string>& names, const std::vector<std::string_view>& accepted,
                std::string& ambiguous) {
  int found = -1;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string plain = plain_name(names[i]);
    const bool one_of = std::any_of(accepted.begin(), accepted.end(),
                                    [&](std::string_view name) { return plain_name(name) == plain; });
    if (!one_of) continue;
    if (found >= 0 && ambiguous.empty()) {
      ambiguous =
          fmt::format("columns {} ({}) and {} ({})", found + 1,
                      in_quotes({names[static_cast<std::size_t>(found)]}), i + 1, in_quotes({names[i]}));
    }
    if (found < 0) found = static_cast<int>(i);
  }
  return found;
}

std::string with_others(const std::vector<std::string_view>& names) {
  std::string out(names.front());
  for (std::size_t i = 1; i < names.size(); ++i)
    out += fmt::format("{}{}", i == 1 ? " (or " : ", ", names[i]);
  return names.size() > 1 ? out + ")" : out;
}

}  // namespace

std::optional<ColumnPlaces> find_columns(const std::vector<std::string>& names, const RecordFormat& format,
                                         std::string& ambiguous) {
  ColumnPlaces places;
  std::string twice;
  places.a = find_column(names, format.names.a, twice);
  if (!format.names.b.empty()) places.b = find_column(names, format.names.b, twice);
  if (format.labelled) places.label = find_column(names, format.names.label, twice);
  if (!format.labelled) places.index = find_column(names, format.names.index, twice);
  const bool all =
      places.a >= 0 && (format.names.b.empty() || places.b >= 0) && (!format.labelled || places.label >= 0);
  if (!all) return std::nullopt;
  ambiguous = twice;
  return places;
}

std::string expected_columns(const RecordFormat& format) {
  std::vector<std::string> parts{with_others(format.names.a)};
  if (!format.names.b.empty()) parts.push_back(with_others(format.names.b));
  if (format.labelled) parts.push_back(with_others(format.names.label));
  std::string out = parts.front();
  for (std::size_t i = 1; i < parts.size(); ++i)
    out += (i + 1 == parts.size() ? " and " : ", ") + parts[i];
  return out;
}

std::string in_quotes(const std::vector<std::string>& names) {
  constexpr std::size_t most_names = 16;
  constexpr std::size_t most_bytes = 40;
  std::string out;
  for (std::size_t i = 0; i < std::min(names.size(), most_names); ++i) {
    std::size_t end = std::min(names[i].size(), most_bytes);
    while (end < names[i].size() && (static_cast<unsigned char>(names[i][end]) & 0xC0) == 0x80)
      --end;  // not within a character
    out += fmt::format("{}\"{}{}\"", i == 0 ? "" : ", ", names[i].substr(0, end),
                       end < names[i].size() ? "..." : "");
  }
  if (names.size() > most_names) out += fmt::format(" and {} more", names.size() - most_names);
  return out;
}

std::unique_ptr<RecordReader> open_records(const std::filesystem::path& file, const RecordFormat& format) {
  const std::string ending = plain_name(file.extension().string());
  const bool json = ending == "json" || ending == "jsonl";
  return (json ? open_json : open_table)(file, read_text(file), format);
}

}  // namespace sparsegrad::finetune
