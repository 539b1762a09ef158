// The parts of exported adapters: factors of low rank, GGUF files written and read again, rows as GGUF files order them.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "checkpoints/gguf_file.hpp"
#include "checkpoints/gguf_model.hpp"
#include "checkpoints/gguf_writer.hpp"
#include "checkpoints/low_rank.hpp"
#include "checkpoints/written_folder.hpp"
#include "files.hpp"
#include "models/layers/random.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

TEST_CASE("a matrix of rank 3 has factors of rank 3, of which none of rank 2, and zeros beyond its rank") {
  for (const auto& [out, in] : {std::pair<index_t, index_t>{20, 13}, {9, 30}}) {
    std::vector<double> matrix(static_cast<std::size_t>(out * in));
    for (index_t i = 0; i < out; ++i)
      for (index_t j = 0; j < in; ++j)
        for (std::uint64_t r = 0; r < 3; ++r)
          matrix[static_cast<std::size_t>(i * in + j)] += std::pow(10.0, -static_cast<double>(r)) *
                                                          normal_at(r, static_cast<std::uint64_t>(i)) *
                                                          normal_at(r + 10, static_cast<std::uint64_t>(j));
    double norm = 0;
    for (const double x : matrix)
      norm += x * x;
    norm = std::sqrt(norm);
    CHECK(low_rank_factors(matrix, out, in, 3).residual < 1e-6 * norm);
    CHECK(low_rank_factors(matrix, out, in, 2).residual > 1e-4 * norm);
    const LowRankFactors more = low_rank_factors(matrix, out, in, 5);
    CHECK(more.residual < 1e-6 * norm);
    CHECK(more.a.size() == static_cast<std::size_t>(5 * in));
    CHECK(more.b.size() == static_cast<std::size_t>(5 * out));
    CHECK(low_rank_factors(std::vector<double>(matrix.size()), out, in, 2).a ==
          std::vector<float>(static_cast<std::size_t>(2 * in)));
    CHECK_THROWS_AS(low_rank_factors(matrix, out, in + 1, 2), ShapeError);
    CHECK_THROWS_AS(low_rank_factors(matrix, out, in, 0), ShapeError);
    CHECK_THROWS_AS(low_rank_factors(matrix, out, in, 14), ShapeError);
  }
}

TEST_CASE("numbers that have no room in 16 bits are counted and refused, and leave no file") {
  const auto folder = fresh_folder("narrow");
  const auto write = [&](io::DType type, const std::vector<float>& values) {
    TensorsToWrite<float> tensors(type);
    tensors.add("small", {2}, [] { return std::vector<float>{65504, -1}; });
    tensors.add("large", {static_cast<index_t>(values.size())}, [&] { return values; });
    tensors.write(folder / "x.safetensors");
  };
  const std::vector<float> values{1, 7e4F, -9e4F, 65519};
  check_says(error_of([&] { write(io::DType::f16, values); }),
             "the tensor \"large\" has numbers without room in F16, whose largest is 65504: 2 of them, up to "
             "90000; BF16");
  check_says(error_of([&] { write(io::DType::bf16, {3.4e38F}); }), "1 of them, up to 3.39");
  CHECK(std::filesystem::is_empty(folder));
  write(io::DType::bf16, values);
  write(io::DType::f16, {65519});
  CHECK(std::filesystem::exists(folder / "x.safetensors"));
}

TEST_CASE("what the GGUF writer writes, the reader reads") {
  const auto path = fresh_folder("gguf_writer") / "x.gguf";
  const std::vector<float> values{1, 2, 3, 4.5F, -5, 0.25F};
  GgufWriter writer;
  writer.text("general.architecture", "llama");
  writer.integer("a.number", 7);
  writer.real("a.scale", 0.5F);
  writer.tensor("first", {2, 3}, values, io::DType::f32);
  writer.tensor("second", {3, 2}, values, io::DType::f16);
  writer.tensor("third", {6}, values, io::DType::bf16);
  const std::vector<float> row(64, 2);
  writer.tensor("fourth", {2, 32}, row, gguf_type("Q8_0"));
  writer.truth("a.truth", true);
  writer.texts("some.texts", std::vector<std::string>{"x", "", "yz"});
  writer.reals("some.reals", std::vector<float>{0.5F, -1});
  writer.integers("some.integers", std::vector<std::int32_t>{-3, 4});
  check_says(error_of([&] { writer.text("a.scale", "x"); }), "metadata 'a.scale' stands already");
  check_says(error_of([&] { writer.tensor("first", {6}, values, io::DType::f32); }),
             "tensor 'first' stands already");
  check_says(error_of([&] {
               writer.tensor("fifth", {4, 2}, values, io::DType::f32);
             }),
             "tensor 'fifth' has 6 values, expected 8 of shape [4, 2]");
  check_says(error_of([&] { writer.tensor("fifth", {6}, values, io::DType::f64); }),
             "expected the type F32, F16 or BF16");
  check_says(error_of([&] {
               writer.tensor("fifth", {3, 2}, values, gguf_type("Q8_0"));
             }),
             "expected rows of whole blocks of 32 for Q8_0");
  check_says(error_of([&] { writer.tensor("fifth", {1}, std::vector<float>{1e6F}, io::DType::f16); }),
             "tensor 'fifth': the value 1000000.000000 has no room in F16, whose largest is 65504");
  std::vector<float> block(32, 1);
  block[3] = -3e7F;
  check_says(error_of([&] {
               writer.tensor("fifth", {1, 32}, block, gguf_type("Q8_0"));
             }),
             "tensor 'fifth': the value -30000000.000000 has no room in Q8_0, whose largest is 8319008");
  writer.write(path);

  const GgufFile file(path.string());
  CHECK(file.at<bool>("a.truth"));
  CHECK(file.at<std::vector<std::string_view>>("some.texts") == std::vector<std::string_view>{"x", "", "yz"});
  CHECK(file.at<std::vector<double>>("some.reals") == std::vector<double>{0.5, -1});
  CHECK(file.at<std::vector<std::int64_t>>("some.integers") == std::vector<std::int64_t>{-3, 4});
  // A second file with the first one's metadata and blocks.
  GgufWriter copy;
  for (const std::string& key : file.keys())
    copy.value(key, file.value_bytes(key));
  for (const GgufTensor& tensor : file.tensors())
    copy.tensor(tensor.name, tensor.shape, *tensor.type, file.blocks(tensor));
  copy.write(path.parent_path() / "copy.gguf");
  const GgufFile second((path.parent_path() / "copy.gguf").string());
  for (const std::string& key : file.keys())
    CHECK(second.text_of(key) == file.text_of(key));
  for (const GgufTensor& tensor : file.tensors())
    CHECK(second.blocks(second.tensor(tensor.name, tensor.shape)) == file.blocks(tensor));
  CHECK(file.version() == 3);
  CHECK(file.keys() == std::vector<std::string>{"a.number", "a.scale", "a.truth", "general.architecture",
                                                "some.integers", "some.reals", "some.texts"});
  CHECK(file.at<std::string_view>("general.architecture") == "llama");
  CHECK(file.at<std::int64_t>("a.number") == 7);
  CHECK(file.at<double>("a.scale") == 0.5);
  REQUIRE(file.tensors().size() == 4);
  CHECK(file.tensor("first").type->name == "F32");
  CHECK(file.tensor("second").type->name == "F16");
  CHECK(file.tensor("third").type->name == "BF16");
  CHECK(file.tensor("first").shape == std::vector<index_t>{2, 3});
  CHECK(file.tensor("second").shape == std::vector<index_t>{3, 2});
  for (const GgufTensor& tensor : file.tensors()) {
    std::vector<float> read(static_cast<std::size_t>(tensor.count()));
    file.dequantize(tensor, 0, tensor.rows(), read);
    if (tensor.name != "fourth") CHECK(read == values);
    for (std::size_t i = 0; tensor.name == "fourth" && i < read.size(); ++i)
      CHECK(read[i] == doctest::Approx(2).epsilon(1e-3));
  }
}

TEST_CASE("the order of rows in a GGUF file is what reading one undoes") {
  const auto golden = std::filesystem::path(SPARSEGRAD_TEST_DIR) / "golden" / "gguf";
  for (const char* family : {"llama", "qwen2"}) {
    CAPTURE(family);
    const GgufFile file((golden / (std::string(family) + ".gguf")).string());
    const DecoderConfig config = gguf_config(file);
    for (const char* matrix : {"q", "k", "v"}) {
      const std::string name = "model.layers.0.self_attn." + std::string(matrix) + "_proj.weight";
      const GgufTensor& tensor = file.tensor(gguf_name(name));
      std::vector<float> stored(static_cast<std::size_t>(tensor.count()));
      file.dequantize(tensor, 0, tensor.rows(), stored);
      const auto values = gguf_parameter(file, config, name, tensor.rows(), tensor.cols());
      CHECK(gguf_row_order(config, name, values, tensor.cols()) == stored);
      CHECK((values == stored) == (family == std::string("qwen2") || matrix == std::string("v")));
    }
  }
  // Of heads of 8, where the order is not its own inverse: first of one half, first of the other, ...
  DecoderConfig config;
  config.head_size = 8;
  std::vector<float> rows(16);
  for (std::size_t i = 0; i < rows.size(); ++i)
    rows[i] = static_cast<float>(i);
  CHECK(gguf_row_order(config, "model.layers.0.self_attn.k_proj.weight", rows, 1) ==
        std::vector<float>{0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15});
}
