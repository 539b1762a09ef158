#include "sparsegrad/io/safetensors.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#endif

using namespace sparsegrad;
using namespace sparsegrad::io;

namespace {

const std::string folder = SPARSEGRAD_TEST_OUTPUT_DIR;

std::vector<std::byte> file_of(const std::string& header, std::size_t data_bytes) {
  std::vector<std::byte> bytes(8 + header.size() + data_bytes);
  const auto length = static_cast<std::uint64_t>(header.size());
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

template <class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

/// The message for a file of this header, without its name.
std::string refusal(const std::string& header, std::size_t data_bytes = 0) {
  const std::string text =
      message([&] { SafetensorsFile(FileBytes::from(file_of(header, data_bytes)), "f"); });
  return text.rfind("f: ", 0) == 0 ? text.substr(3) : text;
}

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}
std::size_t files_in(const std::string& path) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path), {}));
}
std::string fresh_folder(const char* name) {
  const std::string path = folder + "/" + name;
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  return path;
}

SafetensorsWriter sample() {
  SafetensorsWriter writer;
  writer.metadata("format", "pt");
  writer.metadata("say \"hi\"", "naïve\n\\");
  writer.add("bytes", {3}, std::vector<std::uint8_t>{1, 2, 255});
  writer.add("x", {2, 3}, std::vector<float>{1, 2, 3, 4, 5, -0.0F});
  writer.add("empty", {0, 7}, std::vector<double>{});
  writer.add("scalar", {}, std::vector<double>{0.1});
  writer.add("i", {1, 2}, std::vector<std::int32_t>{-5, 6});
  writer.add("j", {1}, std::vector<std::int64_t>{std::numeric_limits<std::int64_t>::min()});
  return writer;
}

const std::string x1 = R"("x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";

}  // namespace

TEST_CASE("safetensors: written and read back") {
  const std::string path = fresh_folder("round") + "/a.safetensors";
  sample().write(path);
  const SafetensorsFile file(path);
  CHECK(file.metadata().size() == 2);
  CHECK(file.metadata("format") == "pt");
  CHECK(file.metadata("say \"hi\"") == "naïve\n\\");
  // Wide elements first, then as added.
  CHECK(file.names() == std::vector<std::string>{"empty", "scalar", "j", "x", "i", "bytes"});
  const auto x = file.read<float>("x");
  CHECK(x == std::vector<float>{1, 2, 3, 4, 5, 0});
  CHECK(std::signbit(x[5]));
  CHECK(file.read<double>("scalar") == std::vector<double>{0.1});
  CHECK(file.read<double>("empty").empty());
  CHECK(file.read<std::int32_t>("i") == std::vector<std::int32_t>{-5, 6});
  CHECK(file.read<std::int64_t>("j")[0] == std::numeric_limits<std::int64_t>::min());
  CHECK(file.read<std::uint8_t>("bytes") == std::vector<std::uint8_t>{1, 2, 255});
  CHECK(file.read_as<double>("x")[3] == 4);
  CHECK(file.read_as<float>("scalar")[0] == 0.1F);
  CHECK(file.find("x").shape == std::vector<index_t>{2, 3});
  CHECK(file.find("scalar").shape.empty());
  CHECK(file.contains("i"));
  CHECK(!file.contains("I"));
  for (const std::string& name : file.names()) {
    const Tensor tensor = file.find(name);
    const auto offset = static_cast<index_t>(tensor.bytes.data() - file.find("empty").bytes.data());
    CHECK(offset * 8 % info(tensor.dtype).bits == 0);
  }
  // The same arrays, the same bytes.
  const auto bytes = sample().bytes();
  CHECK(read_text(path) == std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  // An object outlives its file's name.
  std::filesystem::remove(path);
  CHECK(file.read<float>("x") == x);
}

TEST_CASE("safetensors: headers are padded with blanks to a multiple of 8") {
  // Names of 8 lengths: all but one of the headers need blanks, of every number from 1 to 7.
  std::size_t blanks = 0;
  for (std::size_t length = 1; length <= 8; ++length) {
    SafetensorsWriter writer;
    writer.add(std::string(length, 'x'), {1}, std::vector<float>{1});
    const auto bytes = writer.bytes();
    std::uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    CHECK(header % 8 == 0);
    CHECK(bytes.size() == 8 + header + 4);
    const std::string text(reinterpret_cast<const char*>(bytes.data()) + 8, header);
    blanks += header - 1 - text.find_last_not_of(' ');
    CHECK(SafetensorsFile(FileBytes::from(bytes), "f").names().size() == 1);
  }
  CHECK(blanks == 0 + 1 + 2 + 3 + 4 + 5 + 6 + 7);
}

TEST_CASE("safetensors: readers say what does not fit") {
  const auto bytes = sample().bytes();
  const SafetensorsFile file(FileBytes::from(bytes), "dir/f");
  CHECK(message([&] { (void)file.find("y"); }) == "dir/f: tensor 'y' is missing (the file has 6 others)");
  CHECK(message([&] { (void)file.read<double>("x"); }) == "dir/f: tensor 'x' has dtype F32, expected F64");
  CHECK(message([&] { (void)file.read<float>("i"); }) == "dir/f: tensor 'i' has dtype I32, expected F32");
  CHECK(message([&] { (void)file.read_as<float>("i"); }) ==
        "dir/f: tensor 'i' has dtype I32, expected a floating-point type (F64, F32, F16, BF16)");
  const std::vector<index_t> shape{3, 2};
  CHECK(message([&] { (void)file.find("x", shape); }) ==
        "dir/f: tensor 'x' has shape [2, 3], expected [3, 2]");
  CHECK(message([&] { (void)file.metadata("missing"); }) == "dir/f: metadata has no 'missing'");
}

TEST_CASE("safetensors: a header may name the tensors in another order than their data's") {
  std::vector<std::byte> bytes = file_of(R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},)"
                                         R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                                         8);
  const float values[] = {1, 2};
  std::memcpy(bytes.data() + bytes.size() - 8, values, 8);
  const SafetensorsFile file(FileBytes::from(std::move(bytes)), "f");
  CHECK(file.read<float>("a") == std::vector<float>{1});
  CHECK(file.read<float>("b") == std::vector<float>{2});
}

TEST_CASE("safetensors: half and bfloat16") {
  const std::vector<std::uint16_t> half{0x3C00, 0xC000, 0x7BFF, 0x0400, 0x0001,
                                        0x83FF, 0x8000, 0x7C00, 0xFC00, 0x7E00};
  const std::vector<float> values{1,     -2,       65504,    0x1p-14F, 0x1p-24F, -1023 * 0x1p-24F,
                                  -0.0F, INFINITY, -INFINITY};
  SafetensorsWriter writer;
  writer.add("h", DType::f16, {10}, std::as_bytes(std::span<const std::uint16_t>(half)));
  const std::vector<std::uint16_t> brain{0x3F80, 0xC049, 0x0001, 0xFF80};
  writer.add("b", DType::bf16, {4}, std::as_bytes(std::span<const std::uint16_t>(brain)));
  const SafetensorsFile file(FileBytes::from(writer.bytes()), "f");
  const auto h = file.read_as<float>("h");
  for (std::size_t i = 0; i < values.size(); ++i) {
    CHECK(h[i] == values[i]);
    CHECK(std::signbit(h[i]) == std::signbit(values[i]));
  }
  CHECK(std::isnan(h[9]));
  CHECK(file.read_as<double>("b") ==
        std::vector<double>{1, -3.140625, static_cast<double>(0x1p-133F), -INFINITY});
}

TEST_CASE("safetensors: a long tensor is converted from block to block") {
  const std::string path = fresh_folder("long") + "/long.safetensors";
  std::vector<float> values(200000);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(i);
  SafetensorsWriter writer;
  writer.add("first", {3}, std::vector<double>{1, 2, 3});
  writer.add("long", {200000}, values);
  writer.write(path);
  CHECK(SafetensorsFile(path).read_as<double>("long") == std::vector<double>(values.begin(), values.end()));
}

TEST_CASE("safetensors: every rule of the header, broken once") {
  CHECK(refusal("{" + x1 + "}", 4) == "nothing was thrown");
  CHECK(refusal("{}") == "nothing was thrown");
  CHECK(refusal("{\"__metadata__\":{}}   ") == "nothing was thrown");

  const auto whole = [](std::size_t n) {
    return message([&] { SafetensorsFile(FileBytes::from(std::vector<std::byte>(n)), "f"); });
  };
  CHECK(whole(0) == "f: has 0 bytes, expected at least 8 (the header's length)");
  CHECK(whole(7) == "f: has 7 bytes, expected at least 8 (the header's length)");
  CHECK(whole(8) == "f: the header does not begin with '{'");
  const auto with_length = [](std::uint64_t length) {
    std::vector<std::byte> bytes = file_of("{}", 0);
    std::memcpy(bytes.data(), &length, 8);
    return message([&] { SafetensorsFile(FileBytes::from(bytes), "f"); });
  };
  CHECK(with_length(100'000'001) == "f: the header's length is 100000001, expected at most 100000000");
  CHECK(with_length(~std::uint64_t{0}) ==
        "f: the header's length is 18446744073709551615, expected at most 100000000");
  CHECK(with_length(3) == "f: the header's length is 3, but only 2 bytes follow (file truncated?)");
  CHECK(with_length(100'000'000) ==
        "f: the header's length is 100000000, but only 2 bytes follow (file truncated?)");

  // Not JSON, or other JSON.
  CHECK(refusal(" {}") == "the header does not begin with '{'");
  CHECK(refusal("[]") == "the header does not begin with '{'");
  CHECK(refusal("{").find("the header is not valid JSON at its byte 2: ") == 0);
  CHECK(refusal("{\"x\"}").find("the header is not valid JSON at its byte 5: ") == 0);
  CHECK(refusal("{} {}").find("the header is not valid JSON at its byte 4: ") == 0);
  CHECK(refusal("{\"\xff\":1}").find("the header is not valid JSON") == 0);
  CHECK(refusal(std::string("{}\0\0", 4)) == "the header is not valid JSON at its byte 3: it is a NUL byte");
  CHECK(refusal(std::string("{\"a\0b\":1}", 9)).find("the header is not valid JSON") == 0);
  CHECK(refusal("{\"x\":1}") == "tensor 'x' is a number, expected an object");
  CHECK(refusal("{\"x\":null}") == "tensor 'x' is null, expected an object");
  CHECK(refusal("{\"x\":[" + std::string(100000, '[')) == "tensor 'x' is an array, expected an object");
  CHECK(refusal("{\"x\":{\"dtype\":{\"a\":" + std::string(1000, '{')) ==
        "tensor 'x': dtype is an object, expected a text");

  // Keys.
  CHECK(refusal("{" + x1 + "," + x1 + "}", 8) == "tensor 'x' stands twice");
  CHECK(refusal(R"({"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4) ==
        "tensor 'x' has the key 'dtype' twice");
  CHECK(refusal(R"({"x":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", 4) ==
        "tensor 'x' has the key 'shape' twice");
  CHECK(refusal(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}})", 4) ==
        "tensor 'x' has the key 'data_offsets' twice");
  const auto with_more = [](const std::string& value) {
    return refusal(R"({"x":{"dtype":"F32","more":)" + value + R"(,"shape":[1],"data_offsets":[0,4]}})", 4);
  };
  for (const char* value : {"1", "-1", "1.5", "null", "true", "\"F16\"", "[]", "{}", "[[1,2],{}]",
                            R"({"dtype":"F16","shape":[2],"data_offsets":[0,[{"dtype":1}]]})"})
    CHECK(with_more(value) == "nothing was thrown");
  CHECK(refusal(R"({"x":{"a":{},"dtype":"F32","shape":[1],"a":[],"data_offsets":[0,4],"b":0}})", 4) ==
        "nothing was thrown");
  CHECK(with_more(std::string(125, '[') + std::string(125, ']')) == "nothing was thrown");
  CHECK(with_more(std::string(126, '[') + std::string(126, ']')) ==
        "tensor 'x' has an unknown key whose value nests deeper than 125 levels");
  CHECK(with_more("{\"dtype\":1") == "tensor 'x' has no shape");  // that of the inner object is not its own
  CHECK(with_more("1e999").find("the header is not valid JSON") == 0);
  CHECK(refusal(R"({"x":{"more":{"dtype":"F32"},"shape":[1],"data_offsets":[0,4]}})", 4) ==
        "tensor 'x' has no dtype");
  CHECK(refusal(R"({"x":{"shape":[1],"data_offsets":[0,4]}})", 4) == "tensor 'x' has no dtype");
  CHECK(refusal(R"({"x":{"dtype":"F32","data_offsets":[0,4]}})", 4) == "tensor 'x' has no shape");
  CHECK(refusal(R"({"x":{"dtype":"F32","shape":[1]}})", 4) == "tensor 'x' has no data_offsets");
  CHECK(refusal(R"({"__metadata__":{},"__metadata__":{}})") == "the key '__metadata__' stands twice");
  CHECK(refusal(R"({"__metadata__":{"a":"1","a":"2"}})") == "the metadata's key 'a' stands twice");
  CHECK(refusal("{\"__metadata__\":null," + x1 + "}", 4) == "nothing was thrown");
  CHECK(refusal(R"({"__metadata__":null,"__metadata__":null})") == "the key '__metadata__' stands twice");
  CHECK(refusal(R"({"__metadata__":{"a":null}})") == "the header __metadata__: 'a' is null, expected a text");
  CHECK(refusal(R"({"__metadata__":{"a":1}})") ==
        "the header __metadata__: 'a' is a number, expected a text");
  CHECK(refusal(R"({"__metadata__":{"a":{}}})") ==
        "the header __metadata__: 'a' is an object, expected a text");
  CHECK(refusal(R"({"__metadata__":"a"})") ==
        "the header __metadata__ is a text, expected an object of texts");

  // dtype and shape.
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets,
                         std::size_t data) {
    return refusal(
        R"({"x":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}", data);
  };
  CHECK(tensor("\"F33\"", "[1]", "[0,4]", 4) == "tensor 'x' has dtype 'F33', which is unknown");
  CHECK(tensor("\"f32\"", "[1]", "[0,4]", 4) == "tensor 'x' has dtype 'f32', which is unknown");
  CHECK(tensor("4", "[1]", "[0,4]", 4) == "tensor 'x': dtype is a number, expected a text");
  CHECK(tensor("\"F32\"", "1", "[0,4]", 4) == "tensor 'x': shape is a number, expected an array");
  CHECK(tensor("\"F32\"", "[-1]", "[0,4]", 4) == "tensor 'x': shape has -1, expected integers in [0, 2^63)");
  CHECK(tensor("\"F32\"", "[1.0]", "[0,4]", 4) ==
        "tensor 'x': shape has 1.0, expected integers in [0, 2^63)");
  CHECK(tensor("\"F32\"", "[9223372036854775808]", "[0,4]", 4) ==
        "tensor 'x': shape has 9223372036854775808, expected integers in [0, 2^63)");
  CHECK(tensor("\"F32\"", "[99999999999999999999]", "[0,4]", 4) ==
        "tensor 'x': shape has 99999999999999999999, expected integers in [0, 2^63)");
  CHECK(tensor("\"F32\"", "[\"1\"]", "[0,4]", 4) ==
        "tensor 'x': shape holds a text, expected integers in [0, 2^63)");
  CHECK(tensor("\"F32\"", "[[1]]", "[0,4]", 4) ==
        "tensor 'x': shape holds an array, expected integers in [0, 2^63)");
  CHECK(tensor("\"F32\"", "[true]", "[0,4]", 4) ==
        "tensor 'x': shape holds a truth value, expected integers in [0, 2^63)");
  CHECK(tensor("\"F32\"", "[4611686018427387904,4]", "[0,0]", 0) ==
        "tensor 'x' has a shape whose size in bytes exceeds 2^63");
  CHECK(tensor("\"F64\"", "[2305843009213693952]", "[0,0]", 0) ==
        "tensor 'x' has a shape whose size in bytes exceeds 2^63");
  CHECK(tensor("\"F32\"", "[2305843009213693952,2,0]", "[0,0]", 0) == "nothing was thrown");
  CHECK(tensor("\"F32\"", "[4611686018427387904,4,0]", "[0,0]", 0) ==
        "tensor 'x' has a shape whose size in bytes exceeds 2^63");
  std::string ones = "[1";
  for (int i = 0; i < 64; ++i)
    ones += ",1";
  CHECK(tensor("\"F32\"", ones + "]", "[0,4]", 4) == "tensor 'x': shape has more than 64 numbers");

  // Offsets.
  CHECK(tensor("\"F32\"", "[1]", "[0]", 4) == "tensor 'x' has 1 data_offsets, expected 2");
  CHECK(tensor("\"F32\"", "[1]", "[0,4,8]", 4) == "tensor 'x': data_offsets has more than 2 numbers");
  CHECK(tensor("\"F32\"", "[1]", "[-4,0]", 4) ==
        "tensor 'x': data_offsets has -4, expected integers in [0, 2^63)");
  CHECK(tensor("\"F32\"", "[1]", "[4,0]", 4) == "tensor 'x' has data_offsets [4, 0], expected begin <= end");
  CHECK(tensor("\"F32\"", "[2]", "[0,8]", 7) ==
        "tensor 'x' has data_offsets [0, 8], but the file has 7 bytes of data (file truncated?)");
  CHECK(tensor("\"F32\"", "[1]", "[9223372036854775803,9223372036854775807]", 4) ==
        "tensor 'x' has data_offsets [9223372036854775803, 9223372036854775807], but the file has 4 bytes of "
        "data (file "
        "truncated?)");
  CHECK(tensor("\"F32\"", "[2]", "[0,4]", 4) ==
        "tensor 'x' has 4 bytes of data, expected 8 for its shape and dtype F32");
  CHECK(tensor("\"BOOL\"", "[3]", "[0,4]", 4) ==
        "tensor 'x' has 4 bytes of data, expected 3 for its shape and dtype BOOL");

  // The whole.
  const std::string y = R"("y":{"dtype":"F32","shape":[1],"data_offsets":)";
  CHECK(refusal("{" + x1 + "," + y + "[4,8]}}", 8) == "nothing was thrown");
  CHECK(refusal("{" + x1 + "," + y + "[2,6]}}", 8) ==
        "tensor 'y' begins at byte 2 of the data, expected 4: it overlaps tensor 'x'");
  CHECK(refusal("{" + y + "[0,4]}," + x1 + "}", 8).find("expected 4: it overlaps tensor") !=
        std::string::npos);
  CHECK(refusal("{" + x1 + "," + y + "[5,9]}}", 9) ==
        "tensor 'y' begins at byte 5 of the data, expected 4: a hole is before it");
  CHECK(refusal("{" + y + "[4,8]}}", 8) ==
        "tensor 'y' begins at byte 4 of the data, expected 0: a hole is before it");
  CHECK(refusal("{" + x1 + "}", 5) ==
        "the tensors end at byte 4 of the data, but the file has 5 bytes of data");
  CHECK(refusal("{}", 1) == "the tensors end at byte 0 of the data, but the file has 1 bytes of data");
}

TEST_CASE("safetensors: every element type of the format") {
  const auto of = [](const std::string& dtype, const std::string& shape, std::size_t bytes) {
    const std::string size = std::to_string(bytes);
    return refusal(
        R"({"x":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":[0,)" + size + "]}}",
        bytes);
  };
  for (const auto& [dtype, bytes] : {std::pair{"F64", 32}, {"F32", 16},    {"F16", 8},
                                     {"BF16", 8},          {"I64", 32},    {"I32", 16},
                                     {"I16", 8},           {"I8", 4},      {"U64", 32},
                                     {"U32", 16},          {"U16", 8},     {"U8", 4},
                                     {"BOOL", 4},          {"C64", 32},    {"F8_E4M3", 4},
                                     {"F8_E5M2", 4},       {"F8_E8M0", 4}, {"F8_E4M3FNUZ", 4},
                                     {"F6_E2M3", 3},       {"F6_E3M2", 3}, {"F4", 2},
                                     {"F8_E5M2FNUZ", 4}}) {
    CAPTURE(dtype);
    CHECK(of(dtype, "[2,2]", static_cast<std::size_t>(bytes)) == "nothing was thrown");
    CHECK(of(dtype, "[2,2]", static_cast<std::size_t>(bytes) + 1).find("expected " + std::to_string(bytes)) !=
          std::string::npos);
    CHECK(of(dtype, "[0,3]", 0) == "nothing was thrown");
    CHECK(info(*dtype_from_name(dtype)).bits * 4 == bytes * 8);
  }
  for (const char* unknown : {"", "F6", "I4", "U4", "C128", "F8_E3M4", "F8_E4M3FN", "F4_E2M1", "bool"})
    CHECK(of(unknown, "[2,2]", 4) == "tensor 'x' has dtype '" + std::string(unknown) + "', which is unknown");
  CHECK(of("F4", "[3]", 2) ==
        "tensor 'x' has a shape whose elements of F4 (4 bits each) do not end at a whole byte");
  CHECK(of("F6_E3M2", "[]", 1) ==
        "tensor 'x' has a shape whose elements of F6_E3M2 (6 bits each) do not end at a whole byte");

  // Beside them the tensors that are used are read; to read one of them as numbers is refused.
  SafetensorsWriter writer;
  const std::vector<std::byte> three(3, std::byte{0x21});
  writer.add("f6", DType::f6_e2m3, {2, 2}, three);
  writer.add("f4", DType::f4, {6}, three);
  writer.add("x", {2}, std::vector<float>{1, 2});
  CHECK(message([&] { writer.add("odd", DType::f4, {5}, three); }) ==
        "tensor 'odd' has 3 bytes, expected whole bytes for shape [5] of F4");
  const SafetensorsFile file(FileBytes::from(writer.bytes()), "f");
  CHECK(file.names() == std::vector<std::string>{"x", "f6", "f4"});
  CHECK(file.find("f6").count() == 4);
  CHECK(file.find("f4").count() == 6);
  CHECK(file.read_as<float>("x") == std::vector<float>{1, 2});
  CHECK(message([&] { (void)file.read_as<float>("f4"); }) ==
        "f: tensor 'f4' has dtype F4, expected a floating-point type (F64, F32, F16, BF16)");
}

TEST_CASE("safetensors: every truncation of a file is refused") {
  const auto bytes = sample().bytes();
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    CAPTURE(n);
    const std::vector<std::byte> part(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n));
    CHECK_THROWS_AS(SafetensorsFile(FileBytes::from(part), "f"), IoError);
  }
}

TEST_CASE("safetensors: 20000 mutations load or are refused") {
  const auto valid = sample().bytes();
  std::uint64_t header_length = 0;
  std::memcpy(&header_length, valid.data(), 8);
  std::mt19937_64 random(1);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  const std::string alphabet = "{}[],:\"0123456789-.eE FIUBX\\";
  int loaded = 0;
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> bytes = valid;
    for (std::size_t change = 1 + below(3); change > 0; --change) {
      const std::size_t at = below(10) == 0 ? below(8) : 8 + below(static_cast<std::size_t>(header_length));
      if (at >= bytes.size()) continue;
      const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
      const auto letter = static_cast<std::byte>(alphabet[below(alphabet.size())]);
      switch (below(6)) {
        case 0:
          *place = static_cast<std::byte>(random());
          break;
        case 1:
          *place = letter;
          break;
        case 2:
          bytes.insert(place, letter);
          break;
        case 3:
          bytes.erase(place);
          break;
        case 4:
          bytes.resize(below(bytes.size() + 1));
          break;
        default: {  // a piece of it twice
          const std::vector<std::byte> piece(
              place,
              place + static_cast<std::ptrdiff_t>(below(std::min<std::size_t>(60, bytes.size() - at))));
          bytes.insert(
              bytes.begin() + static_cast<std::ptrdiff_t>(8 + below(bytes.size() > 8 ? bytes.size() - 8 : 1)),
              piece.begin(), piece.end());
        }
      }
      if (bytes.size() < 9) break;
    }
    // Half of them with the length put right, so that the JSON is what is wrong.
    if (round % 2 == 0 && bytes.size() > valid.size() - header_length) {
      const std::uint64_t length = bytes.size() - (valid.size() - header_length);
      std::memcpy(bytes.data(), &length, 8);
    }
    bytes.shrink_to_fit();
    try {
      const SafetensorsFile file(FileBytes::from(bytes), "f");
      ++loaded;
      for (const std::string& name : file.names()) {
        const Tensor tensor = file.find(name);
        unsigned sum = 0;
        for (const std::byte b : tensor.bytes)
          sum += static_cast<unsigned>(b);
        CHECK(sum <= 255 * tensor.bytes.size());
        index_t count = 1;
        for (const index_t extent : tensor.shape)
          count *= extent;
        CHECK(count == tensor.count());
      }
    } catch (const IoError& error) {
      ++refused;
      CHECK(std::string(error.what()).rfind("f: ", 0) == 0);
    }
  }
  CHECK(loaded > 100);
  CHECK(refused > 10000);
}

TEST_CASE("safetensors: the writer refuses what no reader would take") {
  SafetensorsWriter writer;
  writer.add("x", {1}, std::vector<float>{1});
  CHECK(message([&] { writer.add("x", {1}, std::vector<float>{1}); }) == "tensor 'x' is added twice");
  CHECK(message([&] { writer.add("__metadata__", {1}, std::vector<float>{1}); }) ==
        "a tensor cannot be named '__metadata__'");
  CHECK(message([&] { writer.add("y", {2}, std::vector<float>{1}); }) ==
        "tensor 'y' has 4 bytes, expected 8 for shape [2] of F32");
  CHECK(message([&] { writer.add("y", {-1}, std::vector<float>{1}); }) ==
        "tensor 'y' has shape [-1], expected extents >= 0 whose product is below 2^63");
  CHECK(message([&] {
          writer.add("y", {index_t{1} << 62, 4}, std::vector<float>{});
        }) ==
        "tensor 'y' has shape [4611686018427387904, 4], expected extents >= 0 whose product is below 2^63");
  writer.metadata("a", "b");
  CHECK(message([&] { writer.metadata("a", "c"); }) == "metadata 'a' is set twice");
  CHECK(SafetensorsFile(FileBytes::from(writer.bytes()), "f").names().size() == 1);
  writer.metadata("bad", "\xff");
  CHECK(message([&] { (void)writer.bytes(); }) ==
        "metadata 'bad' is not valid UTF-8, as a safetensors file wants it");
}

#if defined(__linux__)

TEST_CASE("safetensors: what cannot be opened") {
  const std::string here = fresh_folder("open");
  CHECK(message([&] { SafetensorsFile(here + "/none"); }) ==
        here + "/none: cannot be opened: No such file or directory");
  CHECK(message([] { SafetensorsFile(""); }) ==
        "a file without a name: cannot be opened: No such file or directory");
  CHECK(message([&] { SafetensorsFile{here}; }) == here + ": is not a regular file");
  CHECK(message([&] { SafetensorsFile("/dev/null"); }) == "/dev/null: is not a regular file");
  write_text(here + "/empty", "");
  CHECK(message([&] { SafetensorsFile(here + "/empty"); }) ==
        here + "/empty: has 0 bytes, expected at least 8 (the header's length)");
}

TEST_CASE("safetensors: a file that is shortened while it is read ends in a message") {
  const std::string path = fresh_folder("shortened") + "/a.safetensors";
  const std::vector<double> many(100000, 1.5);
  SafetensorsWriter writer;
  writer.add("first", {100000}, many);
  writer.add("last", {100000}, many);
  writer.write(path);
  const auto size = std::to_string(std::filesystem::file_size(path));
  const SafetensorsFile file(path);
  const FileBytes bytes = FileBytes::open(path);
  std::filesystem::resize_file(path, 900000);
  const std::string expected = path + ": ends at byte 900000 or before, but had " + size +
                               " bytes when it was opened: it was shortened while it was read";
  CHECK(file.read<double>("first") == many);
  CHECK(message([&] { (void)file.read<double>("last"); }) == expected);
  CHECK(message([&] { (void)file.read_as<float>("last"); }).find("it was shortened") != std::string::npos);
  std::filesystem::resize_file(path, 4);
  CHECK(message([&] { SafetensorsFile(bytes, "f"); }).find("it was shortened") != std::string::npos);
  std::filesystem::resize_file(path, 20);
  CHECK(message([&] { SafetensorsFile(bytes, "f"); }).find("it was shortened") != std::string::npos);
}

TEST_CASE("safetensors: an old file stays whole when the new one fails") {
  const std::string here = fresh_folder("old");
  const std::string path = here + "/a.safetensors";

  SUBCASE("replaced, with its permissions") {
    write_text(path, "old");
    std::filesystem::permissions(path, std::filesystem::perms(0640));
    sample().write(path);
    CHECK(SafetensorsFile(path).contains("x"));
    CHECK(std::filesystem::status(path).permissions() == std::filesystem::perms(0640));
    CHECK(files_in(here) == 1);
  }
  SUBCASE("through a symbolic link") {
    write_text(here + "/real", "old");
    std::filesystem::create_symlink("real", path);
    sample().write(path);
    CHECK(std::filesystem::is_symlink(path));
    CHECK(SafetensorsFile(here + "/real").contains("x"));
  }
  SUBCASE("through symbolic links to a file that is not there yet") {
    std::filesystem::create_directory(here + "/sub");
    std::filesystem::create_symlink("sub/link", path);
    std::filesystem::create_symlink("../real", here + "/sub/link");
    sample().write(path);
    CHECK(std::filesystem::is_symlink(path));
    CHECK(std::filesystem::is_symlink(here + "/sub/link"));
    CHECK(SafetensorsFile(here + "/real").contains("x"));
    std::filesystem::create_symlink("loop", here + "/loop");
    CHECK(message([&] { sample().write(here + "/loop"); }).find("symbolic links") != std::string::npos);
  }
  SUBCASE("a full device") {
    if (!std::filesystem::exists("/dev/full")) return;
    CHECK(message([&] { sample().write("/dev/full"); }) ==
          "/dev/full: cannot be written: No space left on device");
  }
  SUBCASE("no room for the file") {
    write_text(path, "old");
    // A limit on file sizes fails in the middle of the data, as a full disk does.
    SafetensorsWriter writer;
    writer.add("x", {100000}, std::vector<float>(100000, 1.0F));
    rlimit limit{};
    REQUIRE(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    const rlimit before = limit;
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    limit.rlim_cur = 65536;
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    const std::string text = message([&] { writer.write(path); });
    REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
    std::signal(SIGXFSZ, handler);
    CHECK(text == path + ": cannot be written: File too large");
    CHECK(read_text(path) == "old");
    CHECK(files_in(here) == 1);
  }
  SUBCASE("a folder that is not there, or not a folder, or the target itself one") {
    CHECK(message([&] { sample().write(here + "/no/a"); }).find("No such file or directory") !=
          std::string::npos);
    write_text(here + "/file", "");
    CHECK(message([&] { sample().write(here + "/file/a"); }).find("Not a directory") != std::string::npos);
    std::filesystem::create_directory(here + "/sub");
    CHECK(message([&] { sample().write(here + "/sub"); }) ==
          here + "/sub: cannot be written: Is a directory");
  }
  SUBCASE("a folder without permission") {
    if (::geteuid() == 0) return;  // permissions do not bind the superuser
    write_text(path, "old");
    std::filesystem::permissions(here, std::filesystem::perms(0500));
    const std::string text = message([&] { sample().write(path); });
    std::filesystem::permissions(here, std::filesystem::perms(0700));
    CHECK(text.find("Permission denied") != std::string::npos);
    CHECK(read_text(path) == "old");
  }
}

#endif

TEST_CASE(
    "arrays that are made when they are written: the same file, one at a time, and the old one when making "
    "fails") {
  const std::vector<float> a{1, 2, 3, 4, 5, 6};
  const std::vector<std::int64_t> b{7, 8};
  SafetensorsWriter given;
  given.add("a", {2, 3}, a);
  given.add("b", {2}, b);
  given.metadata("key", "text");
  SafetensorsWriter made;
  int calls = 0;
  made.add_made<float>("a", {2, 3}, [&] {
    ++calls;
    return a;
  });
  made.add_made<std::int64_t>("b", {2}, [&] { return b; });
  made.metadata("key", "text");
  CHECK(made.bytes() == given.bytes());
  CHECK(calls == 1);
  const std::string path = folder + "/made.safetensors";
  made.write(path);
  CHECK(calls == 2);
  CHECK(SafetensorsFile(path).read<float>("a") == a);

  const auto refuses = [&](std::function<std::vector<float>()> make) {
    SafetensorsWriter writer;
    writer.add_made<float>("c", {4}, std::move(make));
    const std::string text = message([&] { writer.write(path); });
    CHECK(SafetensorsFile(path).read<float>("a") == a);
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      CHECK(entry.path().string().find(".tmp-") == std::string::npos);
    return text;
  };
  CHECK(refuses([] { return std::vector<float>(3); }) ==
        "tensor 'c' has 12 bytes when it is written, expected 16 for shape [4] of F32");
  CHECK(refuses([]() -> std::vector<float> { throw ValueError("cannot be made"); }) == "cannot be made");
  CHECK_THROWS_AS(made.add_made<float>("d", {-1}, [&] { return a; }), ShapeError);
  CHECK_THROWS_AS(made.add_made<float>("a", {6}, [&] { return a; }), ValueError);
}
