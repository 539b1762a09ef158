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
  const std::vector<nlohmann::json> all = values_of_all(processes, own, what);
  for (std::size_t r = 1; r < all.size(); ++r) {
    if (text_of(all[r]) == text_of(all[0])) continue;
    throw CommunicationError(
        fmt::format("rank {}: {}; {}", r, differences(all[0], all[r], "rank 0 has"), cure));
  }
}

std::vector<nlohmann::json> values_of_all(Communicator& processes, const nlohmann::json& own,
                                          const std::string& what) {
  const std::string text = text_of(own);
  std::vector<nlohmann::json> all;
  for (const std::vector<std::byte>& bytes : processes.gather(std::as_bytes(std::span(text)), what)) {
    const auto* first = reinterpret_cast<const char*>(bytes.data());
    all.push_back(nlohmann::json::parse(first, first + bytes.size()));
  }
  return all;
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
