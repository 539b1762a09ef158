// GGUF files: values of every type equal bit by bit to the package `gguf`'s (golden/gguf), and what is refused.
#include "checkpoints/gguf_file.hpp"

#include <doctest/doctest.h>

#include <bit>
#include <cstring>
#include <functional>

#include <sparsegrad/core/error.hpp>

#include "files.hpp"
#include "gguf_bytes.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using test::check_says;
using test::error_of;
using Bytes = test::GgufBytes;

namespace {

const std::filesystem::path golden = std::filesystem::path(SPARSEGRAD_TEST_DIR) / "golden" / "gguf";

std::vector<std::byte> from_hex(const std::string& text) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < text.size(); i += 2)
    bytes.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

GgufFile open(const std::string& text) {
  return test::gguf_from(text);
}
std::string refused(const Bytes& bytes) {
  const std::string error = error_of([&] { open(bytes.text); });
  check_says(error, "x.gguf: ");
  return error;
}
std::string entry_refused(const std::function<void(Bytes&)>& value) {
  Bytes bytes;
  bytes.head(0, 1).string("key");
  value(bytes);
  return refused(bytes);
}

}  // namespace

TEST_CASE("blocks of every type have the values of the package gguf, bit by bit") {
  std::ifstream stream(golden / "blocks.json");
  const auto cases = nlohmann::json::parse(stream);
  CHECK(cases.size() == 11);
  for (const auto& one : cases) {
    const GgufType* type = find_gguf_type(one.at("id").get<std::uint32_t>());
    REQUIRE(type != nullptr);
    CAPTURE(type->name);
    CHECK(type->name == one.at("type").get<std::string>());
    const std::vector<std::byte> blocks = from_hex(one.at("bytes"));
    const auto bits = one.at("bits").get<std::vector<std::string>>();
    std::vector<float> values(bits.size());
    dequantize_blocks(*type, blocks, values);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < bits.size(); ++i)
      wrong += bits_of(values[i]) != std::stoul(bits[i], nullptr, 16);
    CHECK(wrong == 0);
  }
}

TEST_CASE("values become the blocks of the package gguf, bit by bit") {
  std::ifstream stream(golden / "quantised.json");
  const auto golden_blocks = nlohmann::json::parse(stream);
  std::vector<float> values;
  for (const auto& bits : golden_blocks.at("bits"))
    values.push_back(
        std::bit_cast<float>(static_cast<std::uint32_t>(std::stoul(bits.get<std::string>(), nullptr, 16))));
  for (const char* name : {"F32", "F16", "BF16", "Q8_0"}) {
    CAPTURE(name);
    const GgufType& type = gguf_type(name);
    const std::vector<std::byte> wanted = from_hex(golden_blocks.at(name));
    std::vector<std::byte> blocks(wanted.size());
    quantize_blocks(type, values, blocks);
    CHECK(blocks == wanted);
  }
  std::vector<std::byte> blocks(34);
  std::vector<float> large(32, 1e30F);
  check_says(error_of([&] { quantize_blocks(gguf_type("Q8_0"), large, blocks); }), "has no room in Q8_0");
  blocks.resize(64);
  check_says(error_of([&] { quantize_blocks(gguf_type("F16"), large, blocks); }), "has no room in F16");
  check_says(error_of([&] { quantize_blocks(gguf_type("Q8_0"), large, blocks); }),
             "64 bytes of Q8_0 for 32 values");
  blocks.resize(18);
  check_says(error_of([&] { quantize_blocks(gguf_type("Q4_0"), large, blocks); }), "Q4_0 cannot be written");
}

TEST_CASE("sizes of blocks and types without values are refused") {
  std::vector<float> values(32);
  const std::vector<std::byte> bytes(20);
  check_says(error_of([&] { dequantize_blocks(*find_gguf_type(2), bytes, values); }),
             "20 bytes of Q4_0 for 32 values, expected blocks of 32 values in 18 bytes");
  values.resize(31);
  CHECK_THROWS_AS(dequantize_blocks(*find_gguf_type(3), bytes, values), ShapeError);
  values.resize(5);
  check_says(
      error_of([&] { dequantize_blocks(*find_gguf_type(26), bytes, values); }),
      "type I32 cannot be read, expected one of F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, "
      "BF16");
  CHECK(find_gguf_type(4) == nullptr);
}

TEST_CASE("a file of the package's writer") {
  const GgufFile file((golden / "tiny.gguf").string());
  CHECK(file.version() == 3);
  CHECK(file.at<std::string_view>("general.architecture") == "llama");
  CHECK(file.at<std::int64_t>("test.uint8") == 200);
  CHECK(file.at<std::int64_t>("test.int8") == -100);
  CHECK(file.at<std::int64_t>("test.uint16") == 60000);
  CHECK(file.at<std::int64_t>("test.int16") == -30000);
  CHECK(file.at<std::int64_t>("test.uint32") == 4000000000);
  CHECK(file.at<std::int64_t>("test.int32") == -2000000000);
  CHECK(file.at<std::int64_t>("test.uint64") == std::int64_t{1} << 40);
  CHECK(file.at<std::int64_t>("test.int64") == -(std::int64_t{1} << 40));
  CHECK(file.at<double>("test.float32") == static_cast<double>(0.1F));
  CHECK(file.at<double>("test.float64") == 0.1);
  CHECK(file.at<double>("test.int8") == -100.0);
  CHECK(file.at<bool>("test.bool"));
  CHECK(file.at<std::string_view>("test.string") == "Grüße, 世界 🙂");
  CHECK(file.at<std::vector<std::string_view>>("test.strings") ==
        std::vector<std::string_view>{"a", "", "ĠĠ"});
  CHECK(file.at<std::vector<std::int64_t>>("test.integers") == std::vector<std::int64_t>{1, -2, 3});
  CHECK(file.at<std::vector<double>>("test.floats") == std::vector<double>{0.5, -1.5});
  CHECK(file.at<std::vector<bool>>("test.bools") == std::vector<bool>{true, false});
  CHECK_FALSE(file.get<double>("absent").has_value());
  CHECK(file.text_of("test.integers") == "int32[3]: 1, -2, 3");
  CHECK(file.text_of("test.strings") == "string[3]: 'a', '', 'ĠĠ'");
  CHECK(file.text_of("test.bool") == "true");
  CHECK(file.text_of("test.float32") == "0.1");
  CHECK(file.keys().front() == "general.alignment");

  check_says(error_of([&] { file.at<double>("absent"); }), "metadata 'absent' is missing (the file has ");
  check_says(error_of([&] { file.at<std::int64_t>("test.float32"); }),
             "metadata 'test.float32' is of type float32, expected an integer in [-2^63, 2^63)");
  check_says(error_of([&] { file.at<bool>("test.uint8"); }),
             "'test.uint8' is of type uint8, expected a bool");
  check_says(error_of([&] { file.at<std::vector<double>>("test.int8"); }),
             "is of type int8, expected an array, each element a number");
  check_says(error_of([&] { file.at<std::string_view>("test.strings"); }),
             "is an array of string, expected a string");

  REQUIRE(file.tensors().size() == 3);
  const GgufTensor& f32 = file.tensor("f32");
  CHECK(f32.shape == std::vector<index_t>{2, 3});
  std::vector<float> row(3);
  file.dequantize(f32, 1, 2, row);
  CHECK(row == std::vector<float>{3, 4, 5});
  std::vector<float> four(4);
  file.dequantize(file.tensor("f16"), 0, 1, four);
  CHECK(four == std::vector<float>{0, 0.25, 0.5, 0.75});
  const GgufTensor& q8 = file.tensor("q8_0");
  std::vector<float> all(192);
  file.dequantize(q8, 0, 3, all);
  std::vector<float> last(64);
  file.dequantize(q8, 2, 3, last);
  CHECK(std::equal(last.begin(), last.end(), all.begin() + 128));
  CHECK(all[0] < -95.9F);

  check_says(error_of([&] { file.tensor("q4_0"); }), "tensor 'q4_0' is missing (the file has 3 others)");
  check_says(error_of([&] {
               file.tensor("f32", std::vector<index_t>{3, 2});
             }),
             "tensor 'f32' has shape [2, 3], expected [3, 2]");
  CHECK_THROWS_AS(file.dequantize(f32, 1, 3, last), ShapeError);
  CHECK_THROWS_AS(file.dequantize(f32, 0, 2, row), ShapeError);
}

TEST_CASE("a file cut short anywhere is refused") {
  std::ifstream stream(golden / "tiny.gguf", std::ios::binary);
  std::string whole{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  {  // without the padding after the last tensor
    const GgufFile file = open(whole);
    const std::span<const std::byte> last = file.tensors().back().bytes;
    const auto at = whole.find({reinterpret_cast<const char*>(last.data()), last.size()});
    REQUIRE(at != std::string::npos);
    whole.resize(at + last.size());
  }
  CHECK(open(whole).tensors().size() == 3);
  for (std::size_t size = 0; size < whole.size(); ++size)
    CHECK_THROWS_AS(open(whole.substr(0, size)), IoError);
}

TEST_CASE("what is no GGUF file, or of another version or order of bytes, is refused by name") {
  check_says(refused({""}), "is empty, expected a GGUF file");
  check_says(refused({"<html>"}), "begins with the bytes 3c 68 74 6d, expected 47 47 55 46 (\"GGUF\")");
  check_says(refused({"version https://git-lfs.github.com/spec/v1\noid"}), "is a pointer of Git LFS (");
  check_says(refused({"tjgg...."}), "is of a format before GGUF (GGML)");
  check_says(refused({"GGUF"}), "has 4 bytes, expected at least 24");
  check_says(refused(Bytes().head(0, 0, 0x03000000)), "is big-endian, expected little-endian");
  check_says(refused(Bytes().head(0, 0, 1)), "has version 1 of GGUF, expected 2 or 3");
  check_says(refused(Bytes().head(0, 0, 4)), "has version 4 of GGUF");
  CHECK(open(Bytes().head(0, 0, 2).text).version() == 2);
}

TEST_CASE("malformed metadata") {
  check_says(refused(Bytes().head(0, 1)),
             "has 1 metadata entries, which need at least 13 bytes each, but only 0");
  check_says(refused(Bytes().head(0, ~std::uint64_t{0}).zeros(40)),
             "has 18446744073709551615 metadata entries");
  check_says(refused(Bytes().head(0, 1).u64(~std::uint64_t{0}).zeros(9)),
             "the length of the key of metadata entry 1 is 18446744073709551615 at byte 24, but only 9 bytes "
             "follow");
  check_says(refused(Bytes().head(0, 1).string("a\xFFz").u32(0).number<std::uint8_t>(1)),
             "the key of metadata entry 1 is not UTF-8: its byte 1 of 3");
  check_says(refused(Bytes().head(0, 2).string("a").u32(0).zeros(1).string("a").u32(0).zeros(1)),
             "metadata 'a' stands twice");
  check_says(entry_refused([](Bytes& b) { b.u32(13).u32(0); }),
             "metadata 'key' has the type 13, expected one of uint8 (0)");
  check_says(entry_refused([](Bytes& b) { b.u32(9).u32(77).u64(0); }),
             "has elements of type 77, expected one of");
  check_says(entry_refused([](Bytes& b) { b.u32(9).u32(9).u64(1).u32(0).u64(0); }), "is an array of arrays");
  check_says(entry_refused([](Bytes& b) { b.u32(9).u32(12).u64(std::uint64_t{1} << 61).zeros(8); }),
             "is an array of 2305843009213693952 elements of float64, but only 8 bytes follow");
  check_says(entry_refused([](Bytes& b) { b.u32(9).u32(8).u64(2).string("abcd").zeros(7); }),
             "within the length of element 1");
  check_says(entry_refused([](Bytes& b) { b.u32(10).u32(1); }), "ends at byte 43, within metadata 'key'");
  check_says(entry_refused([](Bytes& b) { b.u32(7).number<std::uint8_t>(2); }),
             "is a bool of value 2, expected 0 or 1");
  check_says(entry_refused([](Bytes& b) { b.u32(8).string("\xC3"); }),
             "metadata 'key' is not UTF-8: its byte 0 of 1");
  const auto alignment = [](std::uint32_t value) {
    return Bytes().head(0, 1).string("general.alignment").u32(4).u32(value);
  };
  check_says(refused(alignment(0)), "'general.alignment' is 0, expected a power of two");
  check_says(refused(alignment(48)), "'general.alignment' is 48, expected a power of two");
  check_says(refused(Bytes().head(0, 1).string("general.alignment").u32(8).string("32")),
             "'general.alignment' is of type string, expected uint32");
  const GgufFile large = open(Bytes().head(0, 1).string("n").u32(10).u64(~std::uint64_t{0}).text);
  check_says(error_of([&] { large.at<std::int64_t>("n"); }),
             "is 18446744073709551615, expected an integer in");
  CHECK(large.at<double>("n") == 0x1p64);
}

TEST_CASE("malformed tensors") {
  const auto one = [](std::vector<std::uint64_t> extents, std::uint32_t type, std::uint64_t offset) {
    return Bytes().head(1, 0).tensor("t", std::move(extents), type, offset).pad(32).zeros(64);
  };
  CHECK(open(one({16}, 0, 0).text).tensor("t").rows() == 1);
  CHECK(open(one({}, 0, 32).text).tensor("t").count() == 1);
  CHECK(open(one({2, 2, 2, 2}, 0, 0).text).tensor("t").rows() == 8);
  check_says(refused(Bytes().head(1, 0)), "has 1 tensors, which need at least 24 bytes each");
  check_says(refused(one({1, 1, 1, 1, 1}, 0, 0)), "tensor 't' has 5 extents, expected at most 4");
  check_says(refused(one({0}, 0, 0)), "has the extent 0, expected extents from 1 on");
  check_says(refused(one({std::uint64_t{1} << 40, std::uint64_t{1} << 40}, 0, 0)),
             "whose product is at most 2^59");
  check_says(refused(one({~std::uint64_t{0}}, 0, 0)), "has the extent 18446744073709551615");
  check_says(refused(one({16}, 4, 0)),
             "tensor 't' has the type 4, expected one of F32 (0), F16 (1), Q4_0 (2)");
  check_says(refused(one({33}, 2, 0)), "of type Q4_0 has rows of 33 elements, expected a multiple of 32");
  check_says(refused(one({16}, 0, 8)),
             "begins at byte 8 of the data, expected a multiple of the alignment 32");
  check_says(refused(one({16}, 0, 32)),
             "has 64 bytes from byte 32 of the data on, but the file has 64 bytes of data");
  check_says(refused(one({16}, 0, ~std::uint64_t{31})),
             "but the file has 64 bytes of data (file truncated?)");
  check_says(refused(one({17}, 0, 0)), "has 68 bytes from byte 0");
  const auto two = [](std::string_view second, std::uint64_t offset) {
    return Bytes().head(2, 0).tensor("t", {9}, 0, 32).tensor(second, {9}, 0, offset).pad(32).zeros(160);
  };
  check_says(refused(two("t", 0)), "tensor 't' stands twice");
  check_says(refused(two("u", 0)), "tensor 't' overlaps tensor 'u'");
  check_says(refused(two("u", 32)), "overlaps tensor");
  CHECK(open(two("u", 96).text).tensors().size() == 2);
  const GgufFile listed = open(one({4}, 26, 0).text);  // a type without values may be listed
  std::vector<float> values(4);
  check_says(error_of([&] { listed.dequantize(listed.tensor("t"), 0, 1, values); }),
             "tensor 't' has the type I32, expected one of F32, F16");
}
