// Deltas: the three forms of a changed parameter, written, read and applied; files that are none are refused.
#include "checkpoints/delta_file.hpp"

#include <limits>

#include <doctest/doctest.h>
#include <sparsegrad/io/safetensors.hpp>

#include "files.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

const std::vector<ParameterShape> shapes{
    {"a.weight", 2, 3}, {"b.weight", 2, 2}, {"c.norm.weight", 1, 2}, {"d.weight", 1, 2}};
const std::vector<std::vector<float>> base{{1, 2, 3, 4, 5, 6}, {1, 2, 3, 4}, {7, 8}, {9, 10}};

Delta small() {
  Delta delta;
  for (std::size_t i = 0; i < shapes.size(); ++i)
    delta.base[shapes[i].name] = weights_hash(base[i]);
  ParameterDelta& entries = delta.parameters["a.weight"];
  entries.positions = {1, 5};
  entries.values = {-2, 0.1F};
  ParameterDelta& factors = delta.parameters["b.weight"];
  factors.rank = 1;
  factors.a = {1, 2};
  factors.b = {10, 100};
  delta.parameters["c.norm.weight"].values = {0, -0.5F};
  return delta;
}

/// The tensors of `small`'s file with one of them another one.
std::string refused(const std::string& name, const std::vector<index_t>& shape, std::vector<float> values) {
  const fs::path folder = fresh_folder("delta_odd");
  write_delta(folder / "whole.safetensors", small(), shapes);
  const io::SafetensorsFile whole((folder / "whole.safetensors").string());
  io::SafetensorsWriter writer;
  for (const auto& [key, value] : whole.metadata())
    writer.metadata(key, value);
  for (const std::string& tensor : whole.names()) {
    if (tensor == name) continue;
    const io::Tensor found = whole.find(tensor);
    writer.add(tensor, found.dtype, found.shape, found.bytes);
  }
  const bool positions = name.ends_with(".positions");
  if (positions) writer.add(name, shape, std::vector<std::int32_t>(values.begin(), values.end()));
  if (!positions && !shape.empty()) writer.add(name, shape, std::move(values));
  writer.write((folder / "odd.safetensors").string());
  return error_of([&] { (void)read_delta(folder / "odd.safetensors", shapes); });
}

}  // namespace

TEST_CASE("a delta gives what the run had, in each form, bit by bit") {
  const fs::path file = fresh_folder("delta") / "delta.safetensors";
  write_delta(file, small(), shapes);
  CHECK(is_delta(file));
  const Delta read = read_delta(file, shapes);
  CHECK(read.parameters.size() == 3);
  const std::vector<std::vector<float>> wanted{
      {1, -2, 3, 4, 5, 0.1F}, {11, 22, 103, 204}, {0, -0.5F}, {9, 10}};
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    std::vector<float> values = base[i];
    apply_delta(read, shapes[i].name, values, "delta");
    CHECK(values == wanted[i]);
  }
}

TEST_CASE("another base is refused, also in what did not change") {
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    std::vector<float> other = base[i];
    other.back() += 1;
    check_says(error_of([&] { apply_delta(small(), shapes[i].name, other, "delta.safetensors"); }),
               "delta.safetensors: \"" + shapes[i].name + "\" of the model is not that of the delta's base");
  }
  const std::vector<float> one{1, 2};
  CHECK(weights_hash(one) != weights_hash(std::vector<float>{2, 1}));
  CHECK(weights_hash(one) != weights_hash(std::vector<float>{1, 2, 0}));
  CHECK(weights_hash(std::vector<float>{0}) != weights_hash(std::vector<float>{-0.0F}));
}

TEST_CASE("files that are no deltas of the model are refused with file and tensor") {
  check_says(refused("a.weight.positions", {2}, {1, 6}),
             "has the position 6 behind 1, expected ascending ones below 6");
  check_says(refused("a.weight.positions", {2}, {1, 1}), "has the position 1 behind 1");
  check_says(refused("a.weight.positions", {2}, {-1, 1}), "has the position -1");
  check_says(refused("a.weight.values", {1}, {3}), "has shape [1], expected [2]");
  check_says(refused("a.weight.values", {}, {}), "'a.weight.values' is missing");
  check_says(refused("a.weight", {2, 3}, {1, 2, 3, 4, 5, 6}), "is there in two forms");
  check_says(refused("b.weight.lora_B", {2, 2}, {1, 2, 3, 4}), "has shape [2, 2], expected [2, 1]");
  check_says(refused("b.weight.lora_A", {0, 2}, {}), "has no rows, expected the rank");
  check_says(refused("c.norm.weight", {2}, {1, std::numeric_limits<float>::infinity()}),
             "has Inf at element 1");
  check_says(refused("e.weight", {2}, {1, 2}), "1 of its tensors are of no parameter of the model");
  const fs::path file = fresh_folder("delta_bad") / "x.safetensors";
  io::SafetensorsWriter writer;
  writer.metadata("format", "sparsegrad delta 2");
  writer.write(file.string());
  CHECK(is_delta(file));
  check_says(error_of([&] { (void)read_delta(file, shapes); }), "was written by another version");
  write_delta(file, small(), shapes);
  const std::vector<ParameterShape> more{{"a.weight", 2, 3}, {"x.weight", 1, 2}};
  check_says(error_of([&] { (void)read_delta(file, more); }), "has no hash of the base's \"x.weight\"");
  const std::vector<ParameterShape> fewer(shapes.begin(), shapes.end() - 1);
  check_says(error_of([&] { (void)read_delta(file, fewer); }),
             "is of a base of 4 parameters, the model has 3");
}
