// What TensorBoard shows of a folder of event files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "training/output/event_file.hpp"

namespace sparsegrad::finetune::test {

/// A field of a message in Protocol Buffers' wire format.
struct WireField {
  std::uint64_t number = 0;
  std::uint64_t value = 0;  ///< of a varint
  std::string_view bytes;   ///< of a field with a length
};

inline std::uint64_t take_varint(std::string_view& rest) {
  std::uint64_t value = 0;
  for (int shift = 0; !rest.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(rest.front());
    rest.remove_prefix(1);
    value |= std::uint64_t{byte & 0x7FU} << shift;
    if (byte < 0x80) break;
  }
  return value;
}

inline std::vector<WireField> fields_of(std::string_view message) {
  std::vector<WireField> fields;
  while (!message.empty()) {
    const std::uint64_t key = take_varint(message);
    WireField field{key >> 3, 0, {}};
    switch (key & 7) {
      case 0:
        field.value = take_varint(message);
        break;
      case 1:
        message.remove_prefix(8);
        break;
      case 5:
        message.remove_prefix(4);
        break;
      default: {
        const std::uint64_t length = take_varint(message);
        field.bytes = message.substr(0, length);
        message.remove_prefix(length);
      }
    }
    fields.push_back(field);
  }
  return fields;
}

/// The events of a file, up to a torn record.
inline std::vector<std::string> events_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::string> events;
  for (std::size_t at = 0; at + 16 <= bytes.size();) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    if (length > bytes.size() - at - 16) break;
    events.push_back(bytes.substr(at + 12, length));
    at += 16 + length;
  }
  return events;
}

/// {tag: steps of its values}. Files in the order of their names; a SessionLog START, but for the first, drops what was
/// said of its step and later ones (_CheckForRestartAndMaybePurge in TensorBoard's plugin_event_accumulator.py).
inline std::map<std::string, std::vector<std::int64_t>> shown_steps(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::map<std::string, std::vector<std::int64_t>> shown;
  bool started = false;
  for (const auto& file : files) {
    for (const std::string& event : events_of(file)) {
      std::int64_t step = 0;
      for (const WireField& field : fields_of(event)) {
        if (field.number == 2) step = static_cast<std::int64_t>(field.value);
        if (field.number == 7) {
          const std::vector<WireField> log = fields_of(field.bytes);
          if (log.empty() || log[0].number != 1 || log[0].value != 1) continue;
          for (auto& [tag, steps] : shown)
            if (started) std::erase_if(steps, [&](std::int64_t s) { return s >= step; });
          started = true;
        }
        if (field.number != 5) continue;
        for (const WireField& value : fields_of(field.bytes))
          shown[std::string(fields_of(value.bytes).at(0).bytes)].push_back(step);
      }
    }
  }
  return shown;
}

}  // namespace sparsegrad::finetune::test
