// Reading single fields of a config.json, and what every written one has in common.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>
#include <sparsegrad/io/dtype.hpp>

namespace sparsegrad::finetune::fields {

using nlohmann::json;

/// Throws ModelError: "source: text".
[[noreturn]] void fail(std::string_view source, const std::string& text);

/// Null where there is no such field, or where it is null.
const json* find(const json& j, const char* key);

/// The field's value. Throws ModelError naming source and field where it has another type, or is missing without an
/// `otherwise`. Integers are at most 2^31 - 1 in absolute value.
index_t integer(const json& j, const char* key, std::string_view source);
index_t integer_or(const json& j, const char* key, index_t otherwise, std::string_view source);
double number_or(const json& j, const char* key, double otherwise, std::string_view source);
std::string text_or(const json& j, const char* key, const char* otherwise, std::string_view source);
bool flag_or(const json& j, const char* key, bool otherwise, std::string_view source);

/// Throws ModelError where the field is there with another text than `supported`.
void require_text(const json& j, const char* key, const char* supported, std::string_view source);

/// Throws ModelError with the cure where the field says something: is neither null, false, {} nor [].
void refuse_field(const json& j, const char* key, const char* cure, std::string_view source);
/// The same for code of the model's own ("auto_map"), unless it is `what`.
void refuse_own_code(const json& j, const char* what, std::string_view source);

/// The fields of the file that the model came from which are true of every folder made from it.
json inherited(const json& original);
/// "float32", "bfloat16" or "float16".
const char* dtype_name(io::DType dtype);

}  // namespace sparsegrad::finetune::fields
