#include "data/delimited_text.hpp"

#include <algorithm>
#include <utility>

namespace sparsegrad::finetune {
namespace {

constexpr std::size_t none = std::string_view::npos;

/// The closing quote of a field that `text` begins with; none where there is none. Sets `doubled` where the field
/// has a quote within.
std::size_t closing_quote(std::string_view text, bool& doubled) {
  for (std::size_t at = text.find('"', 1); at != none; at = text.find('"', at + 2)) {
    if (at + 1 == text.size() || text[at + 1] != '"') return at;
    doubled = true;
  }
  return none;
}

/// Whether a CR stands there that no LF follows.
bool has_lone_cr(std::string_view text) {
  for (std::size_t at = text.find('\r'); at != none; at = text.find('\r', at + 1)) {
    if (!text.substr(at + 1).starts_with('\n')) return true;
  }
  return false;
}

/// Whether all lines have as many separators as the first, at least one.
bool is_even(std::string_view text, char separator) {
  std::ptrdiff_t expected = -1;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    const std::ptrdiff_t count = std::count(line.begin(), line.end(), separator);
    if (count == 0 || (expected >= 0 && count != expected)) return false;
    expected = count;
    text.remove_prefix(std::min(line.size() + 1, text.size()));
  }
  return true;
}

}  // namespace

std::string_view name_of_separator(char separator) {
  return separator == '\t' ? "tab" : separator == ',' ? "comma" : "semicolon";
}

bool looks_quoted(std::string_view text, char separator) {
  const std::string_view all = text;
  bool any = false;
  bool doubled = false;
  bool lone_cr = false;
  bool breaks = false;  // a quoted field holds a separator or a line end
  bool first_row = true;
  bool first_row_quoted = true;
  while (!text.empty()) {
    std::size_t end = 0;
    if (text.front() == '"') {
      const std::size_t close = closing_quote(text, doubled);
      if (close == none) return false;
      any = true;
      const char both[] = {separator, '\n'};
      breaks = breaks || text.substr(0, close).find_first_of(std::string_view(both, 2)) != none;
      lone_cr = lone_cr || has_lone_cr(text.substr(0, close));
      end = close + 1;
      if (text.substr(end).starts_with("\r\n")) ++end;
      if (end < text.size() && text[end] != separator && text[end] != '\n') return false;
    } else {
      const char stops[] = {separator, '\n', '"'};
      end = std::min(text.find_first_of(std::string_view(stops, 3)), text.size());
      if (end < text.size() && text[end] == '"') return false;
      if (first_row) first_row_quoted = false;
    }
    if (end < text.size() && text[end] == '\n') first_row = false;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  if (!any || first_row_quoted) return any;
  // Rows that are equally long without quoting would not be so by chance if quotes held their separators.
  return breaks ? !is_even(all, separator) : doubled || lone_cr;
}

DelimitedText::DelimitedText(std::string_view text, Delimiting form, std::filesystem::path file)
    : file_(std::move(file)), form_(form), rest_(text) {}

bool DelimitedText::next(std::vector<std::string>& fields) {
  if (rest_.empty()) return false;
  line_ = next_line_;
  fields.clear();
  if (form_.quoted) {
    next_quoted(fields);
    return true;
  }
  const std::size_t end = std::min(rest_.find('\n'), rest_.size());
  std::string_view row = rest_.substr(0, end);
  rest_.remove_prefix(std::min(end + 1, rest_.size()));
  ++next_line_;
  if (row.ends_with('\r')) row.remove_suffix(1);
  for (std::size_t start = 0;;) {
    const std::size_t at = std::min(row.find(form_.separator, start), row.size());
    fields.emplace_back(row.substr(start, at - start));
    if (at == row.size()) break;
    start = at + 1;
  }
  return true;
}

void DelimitedText::next_quoted(std::vector<std::string>& fields) {
  for (;;) {
    std::string& field = fields.emplace_back();
    std::size_t end = 0;
    if (rest_.starts_with('"')) {
      bool doubled = false;
      const std::size_t close = closing_quote(rest_, doubled);
      if (close == none) fail("expected a closing quote, found none for the field that starts with one here");
      const std::string_view inside = rest_.substr(1, close - 1);
      next_line_ += static_cast<std::size_t>(std::count(inside.begin(), inside.end(), '\n'));
      for (std::size_t i = 0; i < inside.size(); ++i) {
        field.push_back(inside[i]);
        if (inside[i] == '"') ++i;  // the second one of two
      }
      end = close + 1;
      if (rest_.substr(end).starts_with("\r\n")) ++end;
      if (end < rest_.size() && rest_[end] != form_.separator && rest_[end] != '\n') {
        fail("expected a " + std::string(name_of_separator(form_.separator)) +
             " or the end of the line after a closing quote, found more text");
      }
    } else {
      const char stops[] = {form_.separator, '\n'};
      end = std::min(rest_.find_first_of(std::string_view(stops, 2)), rest_.size());
      std::string_view plain = rest_.substr(0, end);
      const bool at_line_end = end == rest_.size() || rest_[end] == '\n';
      if (at_line_end && plain.ends_with('\r')) plain.remove_suffix(1);
      field = plain;
    }
    const bool more = end < rest_.size() && rest_[end] == form_.separator;
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    if (more && rest_.empty()) fields.emplace_back();  // the text ends with a separator
    if (!more || rest_.empty()) break;
  }
  ++next_line_;
}

void DelimitedText::fail(std::string_view what) const {
  throw DataError(place() + ": " + std::string(what));
}

}  // namespace sparsegrad::finetune
