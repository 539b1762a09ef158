#include <algorithm>
#include <array>
#include <initializer_list>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "data/records.hpp"

namespace sparsegrad::finetune {
namespace {

/// The keys of a value while it is parsed. The outermost object's have depth 1.
struct Keys {
  static constexpr int depths = 4;
  std::array<std::set<std::string>, depths> open;  ///< of the objects that are not at their end
  std::array<std::string, depths> twice;           ///< the first one at each depth that an object has twice
  std::vector<std::string> outer;                  ///< of the outermost object, in their order
  std::vector<std::string> inner;                  ///< of the first object in it, in their order
  bool inner_is_done = false;

  void watch(int depth, nlohmann::json::parse_event_t event, const nlohmann::json& value) {
    using event_t = nlohmann::json::parse_event_t;
    if (event == event_t::object_start && depth + 1 < depths)
      open[static_cast<std::size_t>(depth) + 1].clear();
    if (event == event_t::object_end && depth == 1) inner_is_done = true;
    if (event != event_t::key || depth >= depths) return;
    const auto at = static_cast<std::size_t>(depth);
    const auto& name = value.get_ref<const std::string&>();
    if (!open[at].insert(name).second && twice[at].empty()) twice[at] = name;
    if (depth == 1) outer.push_back(name);
    if (depth == 2 && !inner_is_done) inner.push_back(name);
  }
};

std::vector<std::string> names_in(const nlohmann::json& object) {
  std::vector<std::string> names;
  for (const auto& entry : object.items())
    names.push_back(entry.key());
  return names;
}

bool has_array(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_array();
}

class JsonRecords final : public RecordReader {
 public:
  JsonRecords(std::filesystem::path file, std::string text, const RecordFormat& format)
      : file_(std::move(file)), text_(std::move(text)), format_(format), rest_(text_) {
    const std::size_t start = text_.find_first_not_of(" \t\r\n");
    if (start == std::string::npos) return;
    first_line_ += static_cast<std::size_t>(
        std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(start), '\n'));
    if (text_[start] == '[') {
      rows_ = parse(rest_);
      require_once({2});
      in_one_value_ = true;
      unit_ = "element";
    } else if (text_[start] == '{' && is_only_value(start)) {
      read_table();
    }
  }

  bool next(Record& record) override {
    nlohmann::json object;
    if (!next_object(object)) return false;
    if (!object.is_object()) {
      fail(fmt::format("expected a JSON object, found {}: {}", object.type_name(),
                       in_quotes({object.dump()})));
    }
    if (keys_.empty()) find_keys(names_in(object));
    record.a = text_of(object, keys_[0]);
    if (!keys_[1].empty()) record.b = text_of(object, keys_[1]);
    if (!keys_[2].empty()) record.label = value_of(object, keys_[2]);
    if (!keys_[3].empty()) record.index = value_of(object, keys_[3]);
    return true;
  }

  [[noreturn]] void fail(std::string_view what) const override {
    throw DataError(fmt::format("{}: {}", place(), what));
  }

  std::string place() const override {
    if (!in_one_value_) return fmt::format("{}:{}", file_.string(), std::max<std::size_t>(line_, 1));
    const std::string file = fmt::format("{}:{}", file_.string(), first_line_);
    return unit_.empty() || line_ == 0 ? file : fmt::format("{}: {} {}", file, unit_, line_);
  }

 private:
  static constexpr int most_nested = 256;

  /// Parses JSON that does not nest deep.
  nlohmann::json parse(std::string_view text) {
    seen_ = {};
    try {
      return nlohmann::json::parse(
          text, [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
            // Printing a value takes a stack that grows with its depth.
            if (depth > most_nested)
              fail(fmt::format("expected values nested at most {} deep, found deeper ones", most_nested));
            seen_.watch(depth, event, value);
            return true;
          });
    } catch (const nlohmann::json::exception& error) {
      fail(fmt::format("expected JSON, an object a line: {}", error.what()));
    }
  }

  /// The objects at these depths of what was parsed last must not have a key twice.
  void require_once(std::initializer_list<std::size_t> depths) const {
    for (const std::size_t depth : depths) {
      const std::string& twice = seen_.twice.at(depth);
      if (!twice.empty()) fail("expected each key once, found " + in_quotes({twice}) + " twice");
    }
  }

  /// Whether the object that begins at `start` is all that the file has, and not a row among others.
  bool is_only_value(std::size_t start) const {
    const std::size_t end = std::min(text_.find('\n', start), text_.size());
    if (text_.find_first_not_of(" \t\r\n", end) == std::string::npos) return true;
    // An object of many lines, or rows of which the first ends here.
    const std::string_view text(text_);
    return !nlohmann::json::accept(text.substr(start, end - start)) && nlohmann::json::accept(text);
  }

  /// Reads a table that is one object, as pandas' to_json writes it by `orient`: by columns (also as lists), split,
  /// table, by index. An object that is none of these is a row.
  void read_table() {
    nlohmann::json table = parse(rest_);
    require_once({1});
    in_one_value_ = true;
    unit_ = "row";
    if (has_array(table, "columns") && has_array(table, "data")) {
      read_split(table);
    } else if (std::string ambiguous; find_columns(seen_.outer, format_, ambiguous)) {
      find_keys(seen_.outer);
      nlohmann::json& first = table[keys_[0]];
      if (first.is_object() || first.is_array()) {
        read_columns(table);
      } else {
        read_row(std::move(table));
      }
    } else if (has_array(table, "data")) {
      require_once({3});
      rows_ = std::move(table["data"]);
    } else if (!table.empty() && std::all_of(table.begin(), table.end(),
                                             [](const nlohmann::json& row) { return row.is_object(); })) {
      require_once({2});
      for (const std::string& key : seen_.outer)
        rows_.push_back(std::move(table[key]));
    } else {
      read_row(std::move(table));
    }
  }

  void read_row(nlohmann::json row) {
    unit_.clear();
    rows_.push_back(std::move(row));
  }

  /// {"columns": [names], "data": [[values], ...]}.
  void read_split(nlohmann::json& table) {
    std::vector<std::string> names;
    for (const nlohmann::json& name : table["columns"])
      names.push_back(name.is_string() ? name.get<std::string>() : name.dump());
    find_keys(names);
    for (nlohmann::json& values : table["data"]) {
      ++line_;
      if (!values.is_array() || values.size() != names.size()) {
        fail(fmt::format("expected a list of {} values, one of each column, found {}", names.size(),
                         in_quotes({values.dump()})));
      }
      nlohmann::json row = nlohmann::json::object();
      for (std::size_t i = 0; i < names.size(); ++i) {
        if (std::find(keys_.begin(), keys_.end(), names[i]) != keys_.end())
          row[names[i]] = std::move(values[i]);
      }
      rows_.push_back(std::move(row));
    }
    line_ = 0;
  }

  /// {name: {row: value, ...}, ...}, or with lists of values, of which the rows have the numbers.
  void read_columns(nlohmann::json& table) {
    const nlohmann::json::value_t kind = table[keys_[0]].type();
    const std::size_t count = table[keys_[0]].size();
    if (kind == nlohmann::json::value_t::object) require_once({2});
    rows_ = nlohmann::json(count, nlohmann::json::object());
    // The rows' names in the order of the file, which a parsed object does not keep: those of the first column there is.
    const std::vector<std::string> order = std::move(seen_.inner);
    for (const std::string& key : keys_) {
      if (key.empty()) continue;
      nlohmann::json& column = table[key];
      if (column.type() != kind || column.size() != count) {
        fail(fmt::format("expected the columns with the same rows each, found {} of {} and {} of {}", count,
                         in_quotes({keys_[0]}),
                         column.is_structured() ? std::to_string(column.size()) : "none", in_quotes({key})));
      }
      for (line_ = 1; line_ <= count; ++line_) {
        if (column.is_array()) {
          rows_[line_ - 1][key] = std::move(column[line_ - 1]);
          continue;
        }
        const std::string name = line_ <= order.size() ? order[line_ - 1] : "";
        const auto found = column.find(name);
        if (found == column.end())
          fail(fmt::format("expected all columns with the same rows, found no {} in {}", in_quotes({name}),
                           in_quotes({key})));
        rows_[line_ - 1][key] = std::move(*found);
      }
    }
    line_ = 0;
  }

  bool next_object(nlohmann::json& object) {
    ++line_;
    if (in_one_value_) {
      if (line_ > rows_.size()) return false;
      object = std::move(rows_[line_ - 1]);
      return true;
    }
    for (;; ++line_) {
      if (rest_.empty()) return false;
      const std::string_view line = rest_.substr(0, rest_.find('\n'));
      rest_.remove_prefix(std::min(line.size() + 1, rest_.size()));
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;  // blank lines are no rows
      object = parse(line);
      require_once({1});
      return true;
    }
  }

  void find_keys(const std::vector<std::string>& names) {
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
  Keys seen_;                      ///< of what was parsed last
  nlohmann::json rows_;            ///< of a file that is one value
  bool in_one_value_ = false;      ///< the rows are those of `rows_`, not a line each
  std::string unit_;               ///< what messages call a row of `rows_`
  std::size_t first_line_ = 1;     ///< of what is not blank
  std::size_t line_ = 0;           ///< from 1; or the row of `rows_`
  std::vector<std::string> keys_;  ///< of a, b, label, index; "": not asked for
};

}  // namespace

std::unique_ptr<RecordReader> open_json(const std::filesystem::path& file, std::string text,
                                        const RecordFormat& format) {
  return std::make_unique<JsonRecords>(file, std::move(text), format);
}

}  // namespace sparsegrad::finetune
