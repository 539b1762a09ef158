#include "training/process_agreement.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <fmt/format.h>

namespace sparsegrad::finetune {

namespace {

std::string text_of(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

JsonDifference first_difference(const nlohmann::json& found, const nlohmann::json& expected) {
  const nlohmann::json differences = nlohmann::json::diff(found, expected);
  const nlohmann::json::json_pointer where(differences.at(0).at("path").get<std::string>());
  const auto value = [&](const nlohmann::json& j) {
    return j.contains(where) ? text_of(j.at(where)) : std::string("nothing");
  };
  return {where.to_string().substr(where.empty() ? 0 : 1), value(found), value(expected)};
}

void require_same_on_all(Communicator& processes, const std::string& what, const nlohmann::json& own,
                         const std::string& cure) {
  const std::string text = text_of(own);
  const auto all = processes.gather(std::as_bytes(std::span(text)), what);
  for (std::size_t r = 1; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    const auto json_of = [&](const std::vector<std::byte>& bytes) {
      const auto* first = reinterpret_cast<const char*>(bytes.data());
      return nlohmann::json::parse(first, first + bytes.size());
    };
    const JsonDifference difference = first_difference(json_of(all[r]), json_of(all[0]));
    throw CommunicationError(fmt::format("{} of rank {}: {} is {}, expected rank 0's {}; {}", what, r,
                                         difference.where, difference.found, difference.expected, cure));
  }
}

nlohmann::json value_of_first(Communicator& processes, const nlohmann::json& own, const std::string& what) {
  std::string text = text_of(own);
  std::uint64_t length = text.size();
  processes.broadcast(std::as_writable_bytes(std::span(&length, 1)), 0, what);
  text.resize(static_cast<std::size_t>(length));
  processes.broadcast(std::as_writable_bytes(std::span(text)), 0, what);
  return nlohmann::json::parse(text);
}

}  // namespace sparsegrad::finetune
