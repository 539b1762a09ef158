// For compare.py: reads files as the program does and says what it found, a JSON object for each line of the input:
//   tokenizer FOLDER TEXT_FILE     {"ids": [...]}, the text's with special tokens
//   safetensors FILE               {"tensors": {"name": ["F32", [2, 3], "bytes in hex"]}, "metadata": {...}}
// or {"error": "..."}.
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>

#include <nlohmann/json.hpp>
#include <sparsegrad/io/safetensors.hpp>

#include "tokenizers/tokenizer.hpp"

using nlohmann::json;
using namespace sparsegrad;

namespace {

json read_tokenizer(const std::string& folder, const std::string& text_file) {
  std::ifstream file(text_file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto tokenizer = finetune::load_tokenizer(folder);
  try {
    return {{"ids", tokenizer->encode(text, std::nullopt, 100000).ids}};
  } catch (const finetune::TokenizerError& error) {
    return {{"text_error", error.what()}};
  }
}

json read_safetensors(const std::string& path) {
  const io::SafetensorsFile file(path);
  json tensors = json::object();
  for (const std::string& name : file.names()) {
    const io::Tensor tensor = file.find(name);
    std::string hex;
    for (const std::byte b : tensor.bytes) {
      hex += "0123456789abcdef"[static_cast<unsigned>(b) >> 4];
      hex += "0123456789abcdef"[static_cast<unsigned>(b) & 15U];
    }
    tensors[name] = {io::info(tensor.dtype).name, tensor.shape, hex};
  }
  return {{"tensors", tensors}, {"metadata", file.metadata()}};
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string kind, first, second;
    words >> kind >> first >> second;
    json found;
    try {
      found = kind == "tokenizer" ? read_tokenizer(first, second) : read_safetensors(first);
    } catch (const std::exception& error) {
      found = {{"error", error.what()}};
    }
    std::cout << found.dump(-1, ' ', true, json::error_handler_t::replace) << std::endl;
  }
}
