// The reader of safetensors files against the safetensors library: see make_safetensors_goldens.py.
#include "sparsegrad/io/safetensors.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

using namespace sparsegrad;
using namespace sparsegrad::io;

namespace {

std::vector<std::byte> from_hex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

/// What is refused though the library takes it: see SafetensorsFile.
bool is_stricter(const std::string& refusal) {
  static const char* const rules[] = {
      "twice",                                // keys, which the format forbids
      "does not begin with '{'",              // blanks before it, which the format forbids
      "shape has more than 64 numbers",       // as numpy and torch have it
      "expected integers in [0, 2^63)",       // extents up to 2^64 beside one of 0
      "exceeds 2^63",                         // and products of them
      "is an array, expected an object",      // an entry in serde's form of a list
      "dtype is an object, expected a text",  // serde's other form of an enumeration
  };
  return std::any_of(std::begin(rules), std::end(rules),
                     [&](const char* rule) { return refusal.find(rule) != std::string::npos; });
}

}  // namespace

TEST_CASE("safetensors: files are taken and refused as by the safetensors library") {
  const char* other = std::getenv("SPARSEGRAD_SAFETENSORS_VERDICTS");
  std::ifstream in(other != nullptr ? other : SPARSEGRAD_TEST_DIR "/golden/safetensors_verdicts.json");
  REQUIRE(in.good());
  const nlohmann::json verdicts = nlohmann::json::parse(in).at("files");
  int taken = 0;
  int refused = 0;
  int stricter = 0;
  for (const nlohmann::json& verdict : verdicts) {
    const std::vector<std::byte> bytes = from_hex(verdict.at("file").get<std::string>());
    const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    CAPTURE(text);
    try {
      const SafetensorsFile file(FileBytes::from(bytes), "f");
      ++taken;
      const bool agreed = verdict.contains("tensors");
      CHECK_MESSAGE(agreed, "refused by the library: " << verdict.value("refused", ""));
      if (!agreed) continue;
      const nlohmann::json& tensors = verdict.at("tensors");
      CHECK(file.names().size() == tensors.size());
      for (const auto& [name, expected] : tensors.items()) {
        const Tensor tensor = file.find(name);
        CHECK(info(tensor.dtype).name == expected[0].get<std::string>());
        std::vector<std::string> shape;
        for (const index_t extent : tensor.shape)
          shape.push_back(std::to_string(extent));
        CHECK(shape == expected[1].get<std::vector<std::string>>());
        const std::vector<std::byte> data = from_hex(expected[2].get<std::string>());
        CHECK(std::equal(tensor.bytes.begin(), tensor.bytes.end(), data.begin(), data.end()));
      }
      CHECK(nlohmann::json(file.metadata()) == verdict.at("metadata"));
    } catch (const IoError& error) {
      if (verdict.contains("refused")) {
        ++refused;
        continue;
      }
      ++stricter;
      CHECK_MESSAGE(is_stricter(error.what()), error.what());
    }
  }
  MESSAGE(verdicts.size() << " files: " << taken << " taken, " << refused << " refused, " << stricter
                          << " refused by a stricter rule");
  CHECK(taken > 100);
  CHECK(refused > 100);
}
