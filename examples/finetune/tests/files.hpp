#pragma once

// Files for the tests of readers: temporary ones, and goldens.

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace sparsegrad::finetune::test {

/// An empty folder of the test's own.
inline std::filesystem::path fresh_folder(std::string_view name) {
  const std::filesystem::path folder = std::filesystem::path(SPARSEGRAD_TEST_OUTPUT_DIR) / name;
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

/// Writes `content` byte by byte, with the folders above it.
inline std::filesystem::path write_file(const std::filesystem::path& file, std::string_view content) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream stream(file, std::ios::binary);
  stream.write(content.data(), static_cast<std::streamsize>(content.size()));
  REQUIRE(stream.good());
  return file;
}

inline nlohmann::json read_golden(std::string_view name) {
  const std::filesystem::path file = std::filesystem::path(SPARSEGRAD_TEST_DIR) / "golden" / "glue" / name;
  std::ifstream stream(file);
  REQUIRE_MESSAGE(stream.good(), "missing golden " << file.string());
  return nlohmann::json::parse(stream);
}

/// The text of the exception that `call` throws; the test fails when it throws none.
template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  FAIL("expected an exception");
  return {};
}

/// Checks that an error says `part`.
inline void check_says(const std::string& error, std::string_view part) {
  CHECK_MESSAGE(error.find(part) != std::string::npos,
                "\"" << error << "\" does not say \"" << std::string(part) << "\"");
}

}  // namespace sparsegrad::finetune::test
