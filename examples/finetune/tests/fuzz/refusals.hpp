// What targets of files have in common.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>
#include <sparsegrad/core/error.hpp>

#include "models/model_error.hpp"
#include "support/fuzz.hpp"

namespace sparsegrad::finetune::test {

/// Reads `run`'s files, or refuses them as it should.
template <class Run>
void may_refuse(Run run) {
  try {
    run();
  } catch (const ModelError& error) {
    fuzz::refused(error);
  } catch (const IoError& error) {
    fuzz::refused(error);
  }
}

/// The number of a file is the number that was taken from it.
inline void check_number(const nlohmann::json& json, const char* key, std::int64_t taken) {
  const auto at = json.find(key);
  if (at != json.end() && at->is_number())
    fuzz::require(*at == taken,
                  std::string(key) + " is " + at->dump() + " and taken for " + std::to_string(taken));
}

}  // namespace sparsegrad::finetune::test
