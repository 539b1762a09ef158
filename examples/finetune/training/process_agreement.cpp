#include "training/process_agreement.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <fmt/format.h>

#include "training/options.hpp"

namespace sparsegrad::finetune {

namespace {

std::string text_of(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

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
    throw CommunicationError(
        fmt::format("rank {}: {}; {}", r, differences(json_of(all[0]), json_of(all[r]), "rank 0 has"), cure));
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
