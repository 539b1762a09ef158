#include "data/text_file.hpp"

#include <algorithm>
#include <fstream>

#include <fmt/format.h>

#include "tokenizers/open_file.hpp"
#include "tokenizers/utf8.hpp"

namespace sparsegrad::finetune {
namespace {

/// What a file is by its first bytes, where that is no UTF-8, with the cure.
std::string other_encoding(std::string_view text) {
  using namespace std::string_view_literals;
  if (text.starts_with("\xFF\xFE"sv) || text.starts_with("\xFE\xFF"sv))
    return "UTF-16 (by its byte order mark). Convert it: iconv -f UTF-16 -t UTF-8";
  if (text.starts_with("\x1F\x8B"sv)) return "a gzip file. Unpack it: gunzip";
  if (text.starts_with("PK\x03\x04"sv)) return "a zip archive. Unpack it: unzip";
  if (text.starts_with("PAR1"sv))
    return fmt::format("a Parquet file. Write it as JSON lines: {} FILE.parquet FILE.jsonl",
                       parquet_to_json_lines);
  return {};
}

/// The line of a byte, from 1, and its place in the line, from 0.
std::pair<std::size_t, std::size_t> place_of(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, byte);
  const std::size_t line = static_cast<std::size_t>(std::count(before.begin(), before.end(), '\n')) + 1;
  const std::size_t end = before.rfind('\n');
  return {line, end == std::string_view::npos ? byte : byte - end - 1};
}

}  // namespace

std::string read_text(const std::filesystem::path& file) {
  if (std::error_code none; std::filesystem::is_directory(file, none))
    throw DataError(file.string() + ": expected a file, found a folder");
  if (std::error_code none; std::filesystem::is_fifo(file, none)) {
    throw DataError(file.string() +
                    ": expected a regular file, found a pipe; write what comes through it to a file");
  }
  std::ifstream stream = open_file<DataError>(file, std::ios::ate);
  const std::streamoff size = stream.tellg();
  if (size < 0) throw DataError(file.string() + ": cannot be read");
  std::string text(static_cast<std::size_t>(size), '\0');
  stream.seekg(0);
  stream.read(text.data(), size);
  if (stream.gcount() != size) {
    throw DataError(
        fmt::format("{}: cannot be read: {} of {} bytes came", file.string(), stream.gcount(), size));
  }
  if (const std::string other = other_encoding(text); !other.empty())
    throw DataError(fmt::format("{}: expected text in UTF-8, found {}", file.string(), other));
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  while (text.ends_with('\n') || text.ends_with('\r'))
    text.pop_back();  // blank lines at the end are no rows
  if (text.find('\n') == std::string::npos) std::replace(text.begin(), text.end(), '\r', '\n');
  if (text.empty()) throw DataError(file.string() + ": expected rows, found an empty file");
  if (const std::size_t at = text.find('\0'); at != std::string::npos) {
    const auto [line, byte] = place_of(text, at);
    throw DataError(fmt::format("{}:{}: expected text, found a NUL byte at byte {} of the line",
                                file.string(), line, byte));
  }
  if (const auto at = find_invalid_utf8(text)) {
    const auto [line, byte] = place_of(text, *at);
    throw DataError(fmt::format(
        "{}:{}: expected UTF-8, found an invalid byte at byte {} of the line. If the file is Latin-1 or "
        "Windows-1252: iconv -f WINDOWS-1252 -t UTF-8",
        file.string(), line, byte));
  }
  return text;
}

std::string plain_name(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c == '-' || c == '_' || c == '.' || c == ' ') continue;
    out.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
  }
  return out;
}

}  // namespace sparsegrad::finetune
