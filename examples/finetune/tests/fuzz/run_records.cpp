// libFuzzer target: any JSON as the records of a run's state is read, or refused by an exception of which the state's
// reader makes an IoError; what was read is written so that it reads equal.
#include <cstddef>
#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>
#include <sparsegrad/core/error.hpp>

#include "support/fuzz.hpp"
#include "training/trainer.hpp"

namespace sparsegrad::finetune::detail {
nlohmann::json records_json(const TrainReport& report);
void read_records(const nlohmann::json& j, TrainReport& report);
nlohmann::json parse_state(const std::string& text);
}  // namespace sparsegrad::finetune::detail

namespace fuzz = sparsegrad::fuzz;
using namespace sparsegrad::finetune;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::MemoryBound bound(size, 1000);
  try {
    TrainReport report;
    const auto json = detail::parse_state(std::string(fuzz::text_of(data, size)));
    detail::read_records(json, report);
    const nlohmann::json written = detail::records_json(report);
    TrainReport again;
    detail::read_records(written, again);
    fuzz::require(detail::records_json(again).dump() == written.dump(), "what is written reads otherwise");
    for (const auto& [key, value] : written.items())
      fuzz::require(!json.contains(key) || json.at(key) == value || json.at(key).is_structured(),
                    "\"" + key + "\" is " + json.at(key).dump() + " and taken for " + value.dump());
  } catch (const nlohmann::json::exception& error) {
    fuzz::refused(error);
  } catch (const sparsegrad::IoError& error) {
    fuzz::refused(error);
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_section(data, size, max_size, seed, fuzz::mutated_json);
}
