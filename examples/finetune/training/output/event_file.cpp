#include "training/output/event_file.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <fstream>

#include <fmt/format.h>
#include <sparsegrad/core/error.hpp>

#include "training/output/output_file.hpp"

namespace sparsegrad::finetune {

namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

template <class V>
void put_little_endian(std::string& out, V value) {
  static_assert(std::endian::native == std::endian::little, "the file's numbers are little-endian");
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Protocol buffers' wire format: a key of field number and wire type before each value.
enum WireType : unsigned { varint = 0, fixed64 = 1, length_delimited = 2, fixed32 = 5 };

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7)
    out += static_cast<char>((value & 0x7F) | 0x80);
  out += static_cast<char>(value);
}
void put_key(std::string& out, unsigned field, WireType type) {
  put_varint(out, (field << 3) | type);
}
void put_text(std::string& out, unsigned field, std::string_view text) {
  put_key(out, field, length_delimited);
  put_varint(out, text.size());
  out += text;
}

/// Event.wall_time = 1.
std::string event_start() {
  std::string event;
  put_key(event, 1, fixed64);
  put_little_endian(event, seconds_now());
  return event;
}

/// Event.step = 2.
void put_step(std::string& event, std::int64_t step) {
  put_key(event, 2, varint);
  put_varint(event, static_cast<std::uint64_t>(step));
}

constexpr std::string_view file_prefix = "events.out.tfevents.";

/// The latest second in a name of an event file of `folder`; 0 where there is none.
std::int64_t last_second(const std::filesystem::path& folder) {
  constexpr std::int64_t year_9999 =
      253402300799;  // what is beyond is no second, and would leave no number after it
  std::int64_t last = 0;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(file_prefix)) continue;
    std::int64_t second = 0;
    std::from_chars(name.data() + file_prefix.size(), name.data() + name.size(), second);
    if (second <= year_9999) last = std::max(last, second);
  }
  return last;
}

/// TFRecord's: checksums of checksums go bad, so they are rotated and shifted.
std::uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xA282EAD8U;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> made{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit)
        c = (c >> 1) ^ ((c & 1) != 0 ? 0x82F63B78U : 0U);
      made[i] = c;
    }
    return made;
  }();
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char byte : bytes)
    crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(byte)) & 0xFFU];
  return ~crc;
}

EventFile::EventFile(const std::filesystem::path& folder, std::int64_t first_step) {
  make_folder(folder);
  // Readers go by the names' order: the clock may have been set back since the last file.
  const auto second = std::max(static_cast<std::int64_t>(seconds_now()), last_second(folder) + 1);
  path_ = folder / fmt::format("{}{}.sparsegrad", file_prefix, second);
  std::string event = event_start();
  put_text(event, 3, "brain.Event:2");
  append(event);
  // TensorBoard takes the first START of a run for its begin and every later one for a restart, so each file has one.
  event = event_start();
  put_step(event, first_step);
  put_text(event, 7, std::string_view("\x08\x01", 2));  // SessionLog.status = 1, START
  append(event);
}

void EventFile::add(std::int64_t step, const Scalars& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    put_text(value, 1, tag);
    put_key(value, 2, fixed32);
    put_little_endian(value, static_cast<float>(number));
    put_text(summary, 1, value);
  }
  std::string event = event_start();
  put_step(event, step);
  put_text(event, 5, summary);
  append(event);
}

void EventFile::append(std::string_view event) {
  std::string length;
  put_little_endian(length, static_cast<std::uint64_t>(event.size()));
  std::string record = length;
  put_little_endian(record, masked_crc(length));
  record += event;
  put_little_endian(record, masked_crc(event));
  std::ofstream file(path_, std::ios::binary | std::ios::app);
  file.write(record.data(), static_cast<std::streamsize>(record.size()));
  file.flush();
  if (!file) throw IoError(fmt::format("{}: {}", path_.string(), std::strerror(errno)));
}

}  // namespace sparsegrad::finetune
