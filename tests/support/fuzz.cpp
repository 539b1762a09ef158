#include "support/fuzz.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

namespace sparsegrad::fuzz {

namespace {

using Json = nlohmann::json;
using Random = std::minstd_rand;

std::size_t below(Random& random, std::size_t n) {
  return n == 0 ? 0 : random() % n;
}

/// Pointers to `json` and all that it holds.
void collect(Json& json, std::vector<Json*>& all) {
  all.push_back(&json);
  if (all.size() > 4000 || !json.is_structured()) return;
  for (Json& child : json)
    collect(child, all);
}

Json odd_value(Random& random) {
  static const std::vector<Json> values = [] {
    std::vector<Json> made{nullptr,
                           true,
                           false,
                           0,
                           1,
                           -1,
                           2,
                           3,
                           127,
                           255,
                           256,
                           65536,
                           2147483647,
                           2147483648,
                           -2147483649,
                           4294967296,
                           0.5,
                           -0.0,
                           1e300,
                           -1e300,
                           1e-310,
                           0.999999999999,
                           "",
                           "a",
                           "#",
                           " ",
                           "\n",
                           "[UNK]",
                           "\xC3\xA9",
                           "\xEF\xBB\xBF",
                           std::string(300, 'x')};
    made.push_back(std::int64_t{9223372036854775807});
    made.push_back(std::int64_t{-9223372036854775807 - 1});
    made.push_back(std::uint64_t{9223372036854775808ULL});
    made.push_back(std::uint64_t{18446744073709551615ULL});
    made.push_back(Json::array());
    made.push_back(Json::object());
    made.push_back(Json::array({0}));
    made.push_back(Json{{"a", nullptr}});
    return made;
  }();
  return values[below(random, values.size())];
}

/// Changes one value: its type, its number, its place, its key.
void change(Json& root, Random& random) {
  std::vector<Json*> all;
  collect(root, all);
  Json& at = *all[below(random, all.size())];
  const std::size_t what = below(random, 6);
  if (what == 0 && at.is_number()) {
    at = at.get<double>() < 0 ? Json(-1) : Json(at.get<double>() * 2 + 1);
  } else if (what == 1 && at.is_structured() && !at.empty()) {
    auto child = at.begin();
    std::advance(child, static_cast<std::ptrdiff_t>(below(random, at.size())));
    at.erase(child);
  } else if (what == 2) {
    Json copy = *all[below(random, all.size())];
    if (at.is_array()) {
      at.push_back(std::move(copy));
    } else {
      at = std::move(copy);
    }
  } else if (what == 3 && at.is_object() && !at.empty()) {
    auto child = at.begin();
    std::advance(child, static_cast<std::ptrdiff_t>(below(random, at.size())));
    Json value = *child;
    at[child.key() + "x"] = std::move(value);
  } else if (what == 4 && at.is_object() && !at.empty()) {
    auto child = at.begin();
    std::advance(child, static_cast<std::ptrdiff_t>(below(random, at.size())));
    child.value() = odd_value(random);
  } else {
    at = odd_value(random);
  }
}

/// `text` with a stretch of it written many times, or a value wrapped in many brackets.
std::string stretched(std::string_view text, std::size_t most, Random& random) {
  std::string out(text);
  const std::size_t from = below(random, text.size());
  const std::string part(text.substr(from, 1 + below(random, std::min<std::size_t>(64, text.size() - from))));
  const std::size_t room = most > out.size() ? most - out.size() : 0;
  const std::size_t times = below(random, room / part.size() + 1);
  std::string many;
  for (std::size_t i = 0; i < times; ++i)
    many += part;
  out.insert(from, many);
  return out;
}

}  // namespace

std::string mutated_text(std::string text, std::size_t most, unsigned seed) {
  Random random(seed);
  if (!text.empty() && below(random, 64) == 0) return stretched(text, most, random);
  const std::size_t size = text.size();
  text.resize(std::max(most, size));
  text.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(text.data()), size, text.size()));
  return text;
}

std::string mutated_json(std::string text, std::size_t most, unsigned seed) {
  Random random(seed);
  if (below(random, 2) == 0 && text.size() < 20000) {
    nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_discarded()) {
      change(json, random);
      std::string changed = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      if (changed.size() <= most) return changed;
    }
  }
  return mutated_text(std::move(text), most, seed / 2 + 1);
}

std::size_t mutate_section(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed,
                           std::string (*mutated)(std::string text, std::size_t most, unsigned seed)) {
  Random random(seed);
  std::string input(text_of(data, size));
  if (below(random, 8) != 0) {
    const auto count = 1 + static_cast<std::size_t>(std::count(input.begin(), input.end(), '\x1E'));
    const std::string_view part = sections(input, count)[below(random, count)];
    const auto at = static_cast<std::size_t>(part.data() - input.data());
    input = input.substr(0, at) +
            mutated(std::string(part), max_size - (size - part.size()), static_cast<unsigned>(random())) +
            input.substr(at + part.size());
  } else {
    input = mutated_text(std::move(input), max_size, static_cast<unsigned>(random()));
  }
  if (input.size() > max_size) input.resize(max_size);
  std::memcpy(data, input.data(), input.size());
  return input.size();
}

std::size_t mutate_first_json(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  const std::string_view input = text_of(data, size);
  const std::size_t end = std::min(input.find('\x1E'), size);
  const std::string out = mutated_json(std::string(input.substr(0, end)), max_size - (size - end), seed) +
                          std::string(input.substr(end));
  if (out.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, out.data(), out.size());
  return out.size();
}

std::size_t mutate_safetensors(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  Random random(seed);
  std::uint64_t length = 0;
  if (size >= 8) std::memcpy(&length, data, 8);
  if (size < 8 || length > size - 8 || max_size < 16 || below(random, 16) == 0)
    return LLVMFuzzerMutate(data, size, max_size);
  std::string header(text_of(data + 8, length));
  std::string body(text_of(data + 8 + length, size - 8 - length));
  if (below(random, 3) == 0 && !body.empty()) {
    body = mutated_text(std::move(body), max_size - 8 - header.size(), static_cast<unsigned>(random()));
  } else {
    header = mutated_json(std::move(header), max_size - 8 - std::min(body.size(), max_size - 8),
                          static_cast<unsigned>(random()));
  }
  if (below(random, 2) == 0) {
    nlohmann::json json = nlohmann::json::parse(header, nullptr, false);
    if (json.is_object()) {
      std::uint64_t end = 0;
      for (auto& [name, entry] : json.items()) {
        if (name == "__metadata__" || !entry.is_object()) continue;
        const std::string type = entry.contains("dtype") && entry["dtype"].is_string()
                                     ? entry["dtype"].get<std::string>()
                                     : std::string("F32");
        std::uint64_t bytes = type.ends_with("64")   ? 8
                              : type.ends_with("32") ? 4
                              : type.ends_with("16") ? 2
                                                     : 1;
        if (entry.contains("shape") && entry["shape"].is_array()) {
          for (const auto& extent : entry["shape"])
            if (extent.is_number_unsigned())
              bytes *= std::min<std::uint64_t>(extent.get<std::uint64_t>(), 4096);
        }
        if (bytes > max_size) bytes = 0;
        entry["data_offsets"] = {end, end + bytes};
        end += bytes;
      }
      header = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      if (end <= max_size) body.resize(end);
    }
  }
  length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  file += header + body;
  if (file.size() > max_size) file.resize(max_size);
  std::memcpy(data, file.data(), file.size());
  return file.size();
}

}  // namespace sparsegrad::fuzz
