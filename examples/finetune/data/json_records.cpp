#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "data/records.hpp"

namespace sparsegrad::glue {
namespace {

class JsonRecords final : public RecordReader {
 public:
  JsonRecords(std::filesystem::path file, std::string text, const RecordFormat& format)
      : file_(std::move(file)), text_(std::move(text)), format_(format), rest_(text_) {
    const std::size_t start = text_.find_first_not_of(" \t\r\n");
    if (start != std::string::npos && text_[start] == '[') {
      array_ = parse(rest_, 2);
      is_array_ = true;
    }
  }

  bool next(Record& record) override {
    nlohmann::json object;
    if (!next_object(object)) return false;
    if (!object.is_object()) {
      fail(fmt::format("expected a JSON object, found {}: {}", object.type_name(),
                       in_quotes({object.dump()})));
    }
    if (keys_.empty()) find_keys(object);
    record.a = text_of(object, keys_[0]);
    if (!keys_[1].empty()) record.b = text_of(object, keys_[1]);
    if (!keys_[2].empty()) record.label = value_of(object, keys_[2]);
    if (!keys_[3].empty()) record.index = value_of(object, keys_[3]);
    return true;
  }

  [[noreturn]] void fail(std::string_view what) const override {
    throw DataError(fmt::format("{}:{}: {}{}", file_.string(),
                                is_array_ ? 1 : std::max<std::size_t>(line_, 1),
                                is_array_ ? fmt::format("element {}: ", line_) : "", what));
  }

 private:
  static constexpr int most_nested = 256;

  /// Parses JSON that does not nest deep; keys at `depth` (an object's in the rows is 1) must not be repeated.
  nlohmann::json parse(std::string_view text, int depth) {
    std::set<std::string> seen;
    std::string twice;
    const auto watch = [&](int at, nlohmann::json::parse_event_t event, nlohmann::json& value) {
      using event_t = nlohmann::json::parse_event_t;
      // Printing a value takes a stack that grows with its depth.
      if (at > most_nested)
        fail(fmt::format("expected values nested at most {} deep, found deeper ones", most_nested));
      if (event == event_t::object_start && at == depth - 1) seen.clear();
      if (event == event_t::key && at == depth && !seen.insert(value.get<std::string>()).second)
        twice = value.get<std::string>();
      return true;
    };
    try {
      nlohmann::json out = nlohmann::json::parse(text, watch);
      if (!twice.empty()) fail("expected each key once, found " + in_quotes({twice}) + " twice");
      return out;
    } catch (const nlohmann::json::exception& error) {
      fail(fmt::format("expected JSON, an object a line: {}", error.what()));
    }
  }

  bool next_object(nlohmann::json& object) {
    ++line_;
    if (is_array_) {
      if (line_ > array_.size()) return false;
      object = std::move(array_[line_ - 1]);
      return true;
    }
    for (;; ++line_) {
      if (rest_.empty()) return false;
      const std::string_view line = rest_.substr(0, rest_.find('\n'));
      rest_.remove_prefix(std::min(line.size() + 1, rest_.size()));
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;  // blank lines are no rows
      object = parse(line, 1);
      return true;
    }
  }

  void find_keys(const nlohmann::json& object) {
    std::vector<std::string> names;
    for (const auto& entry : object.items())
      names.push_back(entry.key());
    std::string ambiguous;
    const std::optional<ColumnPlaces> places = find_columns(names, format_, ambiguous);
    if (!places) fail("expected the keys " + expected_columns(format_) + ", found " + in_quotes(names));
    if (!ambiguous.empty()) {
      fail("expected one key each of " + expected_columns(format_) + ", found " + ambiguous +
           ": leave one of them");
    }
    for (const int place : {places->a, places->b, places->label, places->index})
      keys_.push_back(place < 0 ? "" : names[static_cast<std::size_t>(place)]);
  }

  const nlohmann::json& at(const nlohmann::json& object, const std::string& key) const {
    const auto found = object.find(key);
    if (found == object.end())
      fail("expected the key " + in_quotes({key}) + " as in the first row, found none");
    return *found;
  }

  std::string text_of(const nlohmann::json& object, const std::string& key) const {
    const nlohmann::json& value = at(object, key);
    if (!value.is_string())
      fail(fmt::format("expected text as {}, found {}", in_quotes({key}), in_quotes({value.dump()})));
    auto text = value.get<std::string>();
    if (text.find('\0') != std::string::npos)
      fail(fmt::format("expected text as {}, found a NUL character in it", in_quotes({key})));
    return text;
  }

  /// A label or an index: text, or a number as it is written.
  std::string value_of(const nlohmann::json& object, const std::string& key) const {
    const nlohmann::json& value = at(object, key);
    return value.is_string() ? value.get<std::string>() : value.dump();
  }

  std::filesystem::path file_;
  std::string text_;
  RecordFormat format_;
  std::string_view rest_;
  nlohmann::json array_;
  bool is_array_ = false;
  std::size_t line_ = 0;           ///< from 1; of an array, the element
  std::vector<std::string> keys_;  ///< of a, b, label, index; "": not asked for
};

}  // namespace

std::unique_ptr<RecordReader> open_json(const std::filesystem::path& file, std::string text,
                                        const RecordFormat& format) {
  return std::make_unique<JsonRecords>(file, std::move(text), format);
}

}  // namespace sparsegrad::glue
