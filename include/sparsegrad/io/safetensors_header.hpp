// The header of a safetensors file: its strict reader, and its writer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../core/error.hpp"
#include "dtype.hpp"
#include "file_bytes.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::io::detail {

/// Longest header that is read or written, in bytes.
inline constexpr std::uint64_t header_limit = 100'000'000;

struct HeaderEntry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<index_t> shape;
  index_t begin = 0;  ///< offsets from the start of the data
  index_t end = 0;
};

struct Header {
  std::vector<HeaderEntry> entries;  ///< by rising begin
  std::map<std::string, std::size_t, std::less<>> index;
  std::map<std::string, std::string> metadata;
  std::size_t data_begin = 0;  ///< in the file
};

/// Takes the parser's events and allows only the structure of a header. Values of keys that are
/// unknown in a tensor's entry are passed over, down to the depth at which serde_json gives up; the
/// parser keeps no more than a bit for a level.
class HeaderHandler {
 public:
  explicit HeaderHandler(Header& header) : header_(header) {}
  const std::string& message() const { return message_; }

  bool null() {
    if (passed_over()) return true;
    if (state_ != State::metadata_start) return unexpected("null");
    state_ = State::top;  // as if there were none
    return true;
  }
  bool boolean(bool) { return passed_over() || unexpected("a truth value"); }
  bool number_integer(std::int64_t value) {
    if (passed_over()) return true;
    return in_numbers()
               ? reject(which() + " has " + std::to_string(value) + ", expected integers in [0, 2^63)")
               : unexpected("a number");
  }
  bool number_unsigned(std::uint64_t value) {
    if (passed_over()) return true;
    if (!in_numbers()) return unexpected("a number");
    if (value > static_cast<std::uint64_t>((std::numeric_limits<index_t>::max)())) {
      return reject(which() + " has " + std::to_string(value) + ", expected integers in [0, 2^63)");
    }
    std::vector<index_t>& numbers = state_ == State::shape ? entry_.shape : offsets_;
    if (numbers.size() >= (state_ == State::shape ? max_extents : 2)) {
      return reject(which() + " has more than " + (state_ == State::shape ? "64" : "2") + " numbers");
    }
    numbers.push_back(static_cast<index_t>(value));
    return true;
  }
  bool number_float(double, const std::string& text) {
    if (passed_over()) return true;
    return in_numbers() ? reject(which() + " has " + text + ", expected integers in [0, 2^63)")
                        : unexpected("a number");
  }
  bool string(std::string& value) {
    if (passed_over()) return true;
    if (state_ == State::metadata_value) {
      header_.metadata[key_] = value;
      state_ = State::metadata;
      return true;
    }
    if (state_ == State::dtype) {
      const std::optional<DType> dtype = dtype_from_name(value);
      if (!dtype) return reject(tensor() + " has dtype '" + shortened(value) + "', which is unknown");
      entry_.dtype = *dtype;
      state_ = State::entry;
      return true;
    }
    return unexpected("a text");
  }
  bool binary(nlohmann::json::binary_t&) { return unexpected("binary data"); }

  bool start_object(std::size_t) {
    if (state_ == State::other) return deeper();
    if (state_ == State::start) {
      state_ = State::top;
    } else if (state_ == State::metadata_start) {
      state_ = State::metadata;
    } else if (state_ == State::entry_start) {
      state_ = State::entry;
    } else {
      return unexpected("an object");
    }
    return true;
  }
  bool key(std::string& value) {
    if (state_ == State::other) return true;
    if (state_ == State::top) {
      key_ = value;
      if (value == "__metadata__") {
        if (has_metadata_) return reject("the key '__metadata__' stands twice");
        has_metadata_ = true;
        state_ = State::metadata_start;
        return true;
      }
      if (header_.index.count(value) != 0) return reject("tensor '" + shortened(value) + "' stands twice");
      header_.index.emplace(value, header_.entries.size());
      entry_ = {};
      entry_.name = value;
      offsets_.clear();
      seen_dtype_ = seen_shape_ = seen_offsets_ = false;
      state_ = State::entry_start;
      return true;
    }
    if (state_ == State::metadata) {
      if (header_.metadata.count(value) != 0) {
        return reject("the metadata's key '" + shortened(value) + "' stands twice");
      }
      key_ = value;
      state_ = State::metadata_value;
      return true;
    }
    const auto once = [&](bool& seen, State next) {
      if (seen) return reject(tensor() + " has the key '" + value + "' twice");
      seen = true;
      state_ = next;
      return true;
    };
    if (value == "dtype") return once(seen_dtype_, State::dtype);
    if (value == "shape") return once(seen_shape_, State::shape_start);
    if (value == "data_offsets") return once(seen_offsets_, State::offsets_start);
    state_ = State::other;  // whatever else a writer has to say of the tensor
    return true;
  }
  bool end_object() {
    if (state_ == State::other) return shallower();
    if (state_ == State::top) {
      state_ = State::end;
      return true;
    }
    if (state_ == State::metadata) {
      state_ = State::top;
      return true;
    }
    const char* missing = !seen_dtype_     ? "dtype"
                          : !seen_shape_   ? "shape"
                          : !seen_offsets_ ? "data_offsets"
                                           : nullptr;
    if (missing != nullptr) return reject(tensor() + " has no " + missing);
    if (offsets_.size() != 2) {
      return reject(tensor() + " has " + std::to_string(offsets_.size()) + " data_offsets, expected 2");
    }
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    header_.entries.push_back(std::move(entry_));
    entry_ = {};
    state_ = State::top;
    return true;
  }
  bool start_array(std::size_t) {
    if (state_ == State::other) return deeper();
    if (state_ == State::shape_start) {
      state_ = State::shape;
    } else if (state_ == State::offsets_start) {
      state_ = State::offsets;
    } else {
      return unexpected("an array");
    }
    return true;
  }
  bool end_array() {
    if (state_ == State::other) return shallower();
    state_ = State::entry;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
    // The library's own text, without its "[json.exception...]".
    const std::string text = error.what();
    const std::size_t begin = text.find("] ");
    return reject("is not valid JSON at its byte " + std::to_string(position) + ": " +
                  (begin == std::string::npos ? text : text.substr(begin + 2)));
  }

 private:
  enum class State {
    start,
    top,
    metadata_start,
    metadata,
    metadata_value,
    entry_start,
    entry,
    dtype,
    shape_start,
    shape,
    offsets_start,
    offsets,
    other,  ///< in the value of an unknown key of an entry
    end,
  };
  static constexpr std::size_t max_extents = 64;
  static constexpr int max_depth = 125;

  static std::string shortened(const std::string& text) {
    return text.size() <= 200 ? text : text.substr(0, 200) + "...";
  }
  std::string tensor() const { return "tensor '" + shortened(entry_.name) + "'"; }
  /// Whether a value belongs to an unknown key.
  bool passed_over() {
    if (state_ != State::other) return false;
    if (depth_ == 0) state_ = State::entry;
    return true;
  }
  bool deeper() {
    if (++depth_ <= max_depth) return true;
    return reject(tensor() + " has an unknown key whose value nests deeper than " +
                  std::to_string(max_depth) + " levels");
  }
  bool shallower() {
    if (--depth_ == 0) state_ = State::entry;
    return true;
  }
  bool in_numbers() const { return state_ == State::shape || state_ == State::offsets; }
  std::string which() const { return tensor() + (state_ == State::shape ? ": shape" : ": data_offsets"); }
  bool reject(std::string message) {
    if (message_.empty()) message_ = std::move(message);
    return false;
  }
  bool unexpected(const std::string& found) {
    switch (state_) {
      case State::start:
        return reject("is " + found + ", expected an object");
      case State::metadata_start:
        return reject("__metadata__ is " + found + ", expected an object of texts");
      case State::metadata_value:
        return reject("__metadata__: '" + shortened(key_) + "' is " + found + ", expected a text");
      case State::entry_start:
        return reject(tensor() + " is " + found + ", expected an object");
      case State::dtype:
        return reject(tensor() + ": dtype is " + found + ", expected a text");
      case State::shape_start:
        return reject(tensor() + ": shape is " + found + ", expected an array");
      case State::offsets_start:
        return reject(tensor() + ": data_offsets is " + found + ", expected an array");
      case State::shape:
      case State::offsets:
        return reject(which() + " holds " + found + ", expected integers in [0, 2^63)");
      default:
        return reject("has " + found + " at an unexpected place");
    }
  }

  Header& header_;
  State state_ = State::start;
  std::string key_;
  HeaderEntry entry_;
  std::vector<index_t> offsets_;
  int depth_ = 0;  ///< of an unknown key's value
  bool has_metadata_ = false;
  bool seen_dtype_ = false;
  bool seen_shape_ = false;
  bool seen_offsets_ = false;
  std::string message_;
};

/// Bytes of an array of this shape and type. Null where the product of the extents, 0 among them or
/// not, or the number of bits is 2^63 or more; -1 where the bits are no whole bytes.
inline std::optional<index_t> bytes_of(std::span<const index_t> shape, DType dtype) {
  const auto times = [](index_t a, index_t b) -> std::optional<index_t> {
    if (b > 0 && a > (std::numeric_limits<index_t>::max)() / b) return std::nullopt;
    return a * b;
  };
  std::optional<index_t> count = 1;
  for (const index_t extent : shape)
    if (!(count = times(*count, extent))) return std::nullopt;
  const std::optional<index_t> bits = times(*count, info(dtype).bits);
  if (bits && *bits % 8 != 0) return -1;
  return bits ? std::optional(*bits / 8) : std::nullopt;
}

/// Reads and checks a header (see SafetensorsFile).
inline Header parse_header(const FileBytes& file, const std::string& path) {
  const auto fail = [&](const std::string& what) { throw IoError(path + ": " + what); };
  constexpr std::size_t prefix = 8;
  const std::size_t file_size = file.bytes().size();
  if (file_size < prefix) {
    fail("has " + std::to_string(file_size) + " bytes, expected at least 8 (the header's length)");
  }
  std::uint64_t length = 0;
  file.copy(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > header_limit) {
    fail("the header's length is " + std::to_string(length) + ", expected at most " +
         std::to_string(header_limit));
  }
  if (length > file_size - prefix) {
    fail("the header's length is " + std::to_string(length) + ", but only " +
         std::to_string(file_size - prefix) + " bytes follow (file truncated?)");
  }
  std::string text(static_cast<std::size_t>(length), '\0');
  file.copy(prefix, std::as_writable_bytes(std::span(text)));
  if (text.empty() || text.front() != '{') fail("the header does not begin with '{'");
  if (const std::size_t nul = text.find('\0'); nul != std::string::npos) {  // the parser would end there
    fail("the header is not valid JSON at its byte " + std::to_string(nul + 1) + ": it is a NUL byte");
  }

  Header header;
  header.data_begin = prefix + static_cast<std::size_t>(length);
  HeaderHandler handler(header);
  if (!nlohmann::json::sax_parse(text, &handler)) {
    const std::string& message = handler.message();
    const bool about_header = message.rfind("tensor ", 0) != 0 && message.rfind("the ", 0) != 0;
    fail((about_header ? "the header " : "") + message);
  }

  const auto size = static_cast<index_t>(file_size - header.data_begin);
  for (const HeaderEntry& entry : header.entries) {
    const std::string tensor = "tensor '" + entry.name + "'";
    const std::string offsets =
        "data_offsets [" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) + "]";
    if (entry.begin > entry.end) fail(tensor + " has " + offsets + ", expected begin <= end");
    if (entry.end > size) {
      fail(tensor + " has " + offsets + ", but the file has " + std::to_string(size) +
           " bytes of data (file truncated?)");
    }
    const std::optional<index_t> bytes = bytes_of(entry.shape, entry.dtype);
    const std::string dtype(info(entry.dtype).name);
    if (!bytes) fail(tensor + " has a shape whose size in bytes exceeds 2^63");
    if (*bytes < 0) {
      fail(tensor + " has a shape whose elements of " + dtype + " (" +
           std::to_string(info(entry.dtype).bits) + " bits each) do not end at a whole byte");
    }
    if (*bytes != entry.end - entry.begin) {
      fail(tensor + " has " + std::to_string(entry.end - entry.begin) + " bytes of data, expected " +
           std::to_string(*bytes) + " for its shape and dtype " + dtype);
    }
  }

  std::sort(header.entries.begin(), header.entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  index_t covered = 0;
  for (std::size_t i = 0; i < header.entries.size(); ++i) {
    const HeaderEntry& entry = header.entries[i];
    if (entry.begin != covered) {
      fail("tensor '" + entry.name + "' begins at byte " + std::to_string(entry.begin) +
           " of the data, expected " + std::to_string(covered) + ": " +
           (entry.begin < covered ? "it overlaps tensor '" + header.entries[i - 1].name + "'"
                                  : "a hole is before it"));
    }
    covered = entry.end;
  }
  if (covered != size) {
    fail("the tensors end at byte " + std::to_string(covered) + " of the data, but the file has " +
         std::to_string(size) + " bytes of data");
  }
  for (std::size_t i = 0; i < header.entries.size(); ++i)
    header.index.find(header.entries[i].name)->second = i;
  return header;
}

/// The header's bytes, its length before it, padded with blanks to a multiple of 8.
inline std::string header_text(std::span<const HeaderEntry> entries,
                               const std::map<std::string, std::string>& metadata) {
  const auto quoted = [](const std::string& text, const std::string& what) {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      throw ValueError(what + " is not valid UTF-8, as a safetensors file wants it");
    }
  };
  std::string text = "{";
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (auto at = metadata.begin(); at != metadata.end(); ++at) {
      text += (at == metadata.begin() ? "" : ",") + quoted(at->first, "a key of the metadata") + ":" +
              quoted(at->second, "metadata '" + at->first + "'");
    }
    text += "}";
  }
  for (const HeaderEntry& entry : entries) {
    if (text.size() > 1) text += ",";
    text += quoted(entry.name, "the name of a tensor") + ":{\"dtype\":\"" +
            std::string(info(entry.dtype).name) + "\",\"shape\":[";
    for (std::size_t i = 0; i < entry.shape.size(); ++i) {
      if (i > 0) text += ",";
      text += std::to_string(entry.shape[i]);
    }
    text += "],\"data_offsets\":[" + std::to_string(entry.begin) + "," + std::to_string(entry.end) + "]}";
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > header_limit) {
    throw ValueError("the header of a safetensors file has " + std::to_string(text.size()) +
                     " bytes, expected at most " + std::to_string(header_limit));
  }
  const auto length = static_cast<std::uint64_t>(text.size());
  std::string prefix(8, '\0');
  std::memcpy(prefix.data(), &length, prefix.size());
  return prefix + text;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::io::detail
