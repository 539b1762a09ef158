// What the processes of a run must agree on.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <sparsegrad/extras/communicator.hpp>

namespace sparsegrad::finetune {

/// Throws CommunicationError on all ranks, with the lowest rank that differs, unless every rank gives what rank 0 gives.
/// `what` names the exchange, and `cure` says what to do.
void require_same_on_all(Communicator& processes, const std::string& what, const nlohmann::json& own,
                         const std::string& cure);

/// What every rank gives, on all ranks.
std::vector<nlohmann::json> values_of_all(Communicator& processes, const nlohmann::json& own,
                                          const std::string& what);

/// What rank 0 gives, on all ranks.
nlohmann::json value_of_first(Communicator& processes, const nlohmann::json& own, const std::string& what);

}  // namespace sparsegrad::finetune
