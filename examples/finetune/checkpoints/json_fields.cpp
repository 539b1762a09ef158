#include "checkpoints/json_fields.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <utility>

#include "models/model_error.hpp"

namespace sparsegrad::finetune::fields {

namespace {

/// null, false, {} and [].
bool says_nothing(const json& value) {
  return value.is_null() || value == false || (value.is_structured() && value.empty());
}

}  // namespace

void fail(std::string_view source, const std::string& text) {
  throw ModelError(std::string(source) + ": " + text);
}

const json* find(const json& j, const char* key) {
  const auto it = j.find(key);
  return it == j.end() || it->is_null() ? nullptr : &*it;
}

index_t integer(const json& j, const char* key, std::string_view source) {
  const json* value = find(j, key);
  if (value == nullptr) fail(source, std::string("the field \"") + key + "\" is missing");
  if (!value->is_number_integer()) {
    fail(source, std::string("the field \"") + key + "\" is " + value->dump() + ", expected an integer");
  }
  constexpr index_t largest = std::numeric_limits<std::int32_t>::max();
  const bool fits_index = !value->is_number_unsigned() ||
                          value->get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<index_t>::max()};
  if (!fits_index || value->get<index_t>() > largest || value->get<index_t>() < -largest) {
    fail(source, std::string("the field \"") + key + "\" is " + value->dump() + ", expected at most " +
                     std::to_string(largest) + " in absolute value");
  }
  return value->get<index_t>();
}

index_t integer_or(const json& j, const char* key, index_t otherwise, std::string_view source) {
  return find(j, key) == nullptr ? otherwise : integer(j, key, source);
}

double number_or(const json& j, const char* key, double otherwise, std::string_view source) {
  const json* value = find(j, key);
  if (value == nullptr) return otherwise;
  if (!value->is_number()) {
    fail(source, std::string("the field \"") + key + "\" is " + value->dump() + ", expected a number");
  }
  return value->get<double>();
}

std::string text_or(const json& j, const char* key, const char* otherwise, std::string_view source) {
  const json* value = find(j, key);
  if (value == nullptr) return otherwise;
  if (!value->is_string()) {
    fail(source, std::string("the field \"") + key + "\" is " + value->dump() + ", expected a string");
  }
  return value->get<std::string>();
}

bool flag_or(const json& j, const char* key, bool otherwise, std::string_view source) {
  const json* value = find(j, key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean())
    fail(source, std::string("the field \"") + key + "\" is " + value->dump() + ", expected true or false");
  return value->get<bool>();
}

void require_text(const json& j, const char* key, const char* supported, std::string_view source) {
  const std::string found = text_or(j, key, supported, source);
  if (found != supported) {
    fail(source, std::string("the field \"") + key + "\" is \"" + found + "\", the engine knows \"" +
                     supported + "\" only");
  }
}

void refuse_field(const json& j, const char* key, const char* cure, std::string_view source) {
  const json* value = find(j, key);
  if (value != nullptr && !says_nothing(*value))
    fail(source, std::string("the field \"") + key + "\" is " + value->dump() + "; " + cure);
}

void refuse_own_code(const json& j, const char* what, std::string_view source) {
  const json* code = find(j, "auto_map");
  if (code == nullptr || !code->is_object()) return;
  for (const auto& [name, where] : code->items()) {
    if (!name.starts_with("AutoModel")) continue;
    fail(source, "the field \"auto_map\" has " + where.dump() + " for " + name +
                     ": the model is computed by code of its own, which the engine does not have. If it is " +
                     what + ", remove the field");
  }
}

json inherited(const json& original) {
  json kept = json::object();
  if (!original.is_object()) return kept;
  constexpr std::string_view not_kept[] = {
      "num_labels",            // transformers counts id2label
      "transformers_version",  // which wrote the other file
      "finetuning_task",       // of the head that was there
      "auto_map",              // names files of code, which are not copied
      "configuration_files",   // names other files that transformers would read in place of this one
      "attn_implementation"};  // of the machine where the other file was written
  for (const auto& [name, value] : original.items()) {
    const bool is_private = name.starts_with('_');  // where the file lay, how it was loaded
    if (!is_private && std::find(std::begin(not_kept), std::end(not_kept), name) == std::end(not_kept))
      kept[name] = value;
  }
  return kept;
}

const char* dtype_name(io::DType dtype) {
  if (dtype == io::DType::bf16) return "bfloat16";
  return dtype == io::DType::f16 ? "float16" : "float32";
}

}  // namespace sparsegrad::finetune::fields
