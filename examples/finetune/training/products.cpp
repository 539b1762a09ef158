#include "training/products.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "checkpoints/config_file.hpp"

namespace sparsegrad::finetune {

namespace {

/// What people call the library, and the backend of its products.
constexpr std::array<std::pair<std::string_view, std::string_view>, 3> libraries{
    {{"onednn", "cpu_onednn"}, {"blas", "cpu_blas"}, {"eigen", "cpu"}}};

std::string library_of(const std::string& backend) {
  for (const auto& [library, name] : libraries)
    if (name == backend) return std::string(library);
  return backend;
}

/// "onednn", or "onednn, of double blas".
std::string text_of(const backend::ProductChoice& choice) {
  std::string text = library_of(choice.of_float);
  if (choice.of_double != choice.of_float) text += ", of double " + library_of(choice.of_double);
  if (choice.of_low_precision != choice.of_float)
    text += ", of 16 bits " + library_of(choice.of_low_precision);
  return text;
}

/// What was measured, as a line, and what to do about slow products.
std::string text_of(const CpuReport& report) {
  std::string rates;
  for (const auto& r : report.rates) {
    rates += fmt::format("{}{} {:.0f}", rates.empty() ? "" : ", ", library_of(r.backend), r.of_float * 1e-9);
    if (r.of_bfloat16 > 0) rates += fmt::format(" (bfloat16 {:.0f})", r.of_bfloat16 * 1e-9);
  }
  return fmt::format("products: {}; GFLOP/s a thread: {}; {} allows {:.0f} in float\n{}",
                     text_of(report.fastest), rates, report.instruction_set, report.peak * 1e-9,
                     report.advice.empty() ? "" : "          " + report.advice + "\n");
}

/// Whether products of 16 bits are worth having: a fifth faster than those of float.
bool multiplies_16_bits(const CpuReport& report, const backend::ProductChoice& choice) {
  double of_float = 0;
  double of_bfloat16 = 0;
  for (const auto& r : report.rates) {
    if (r.backend == choice.of_float) of_float = r.of_float;
    if (r.backend == choice.of_low_precision) of_bfloat16 = r.of_bfloat16;
  }
  return of_bfloat16 > 1.2 * of_float;
}

/// The log of the run that `options` go on with; null where there is none.
nlohmann::json log_before(const TrainOptions& options, const std::filesystem::path& log_path) {
  if (!options.resume || log_path.empty() || !exists(log_path)) return {};
  nlohmann::json log = read_json(log_path);
  return log.is_object() ? log : nlohmann::json();
}

/// The products that the run of `log` had; false where it names none.
bool recorded(const nlohmann::json& log, const std::filesystem::path& log_path,
              backend::ProductChoice& choice) {
  const nlohmann::json::json_pointer place("/versions/products");
  if (!log.contains(place) || !log[place].is_object()) return false;
  const nlohmann::json& had = log[place];
  for (const auto& [key, name] :
       {std::pair("float", &choice.of_float), std::pair("double", &choice.of_double),
        std::pair("low_precision", &choice.of_low_precision)}) {
    if (!had.contains(key) || !had[key].is_string()) return false;
    *name = had[key].get<std::string>();
    const std::vector<std::string> all = HostBackend::names();
    if (std::find(all.begin(), all.end(), *name) == all.end()) {
      throw ValueError(fmt::format(
          "{}: the run multiplied with {}, which this program was built without; say with which it goes "
          "on: --products {}",
          log_path.string(), library_of(*name), fmt::join(product_names(), " or ")));
    }
  }
  return true;
}

/// The type of numbers that it had; false where it names none.
bool recorded(const nlohmann::json& log, NumberType& dtype) {
  const nlohmann::json::json_pointer place("/options/dtype");
  if (!log.contains(place)) return false;
  for (const NumberType type : {NumberType::float32, NumberType::bfloat16}) {
    if (log[place] != to_string(type)) continue;
    dtype = type;
    return true;
  }
  return false;
}

}  // namespace

std::vector<std::string> product_names() {
  std::vector<std::string> names;
  for (const std::string& backend : HostBackend::names())
    names.push_back(library_of(backend));
  return names;
}

Products choose_products(const TrainOptions& options, const std::filesystem::path& log_path) {
  const nlohmann::json before = log_before(options, log_path);
  Products products;
  backend::ProductChoice& choice = products.choice;
  std::string why;
  if (options.products != "auto") {
    const std::vector<std::string> names = product_names();
    const auto at = std::find(names.begin(), names.end(), options.products);
    if (at == names.end()) {
      throw ValueError(fmt::format("--products is '{}', expected one of: auto, {}", options.products,
                                   fmt::join(names, ", ")));
    }
    choice = HostBackend::all_of(HostBackend::names()[static_cast<std::size_t>(at - names.begin())]);
    why = "as asked for";
  } else if (recorded(before, log_path, choice)) {
    why = "as the run had before";
  } else if (options.deterministic) {
    choice = HostBackend::all_of(HostBackend::names().front());
    why = "because of --deterministic";
  }
  if (!why.empty()) products.text = fmt::format("products: {}, {}\n", text_of(choice), why);
  bool chooses = options.choose_dtype;
  products.dtype = options.dtype;
  if (chooses) chooses = !recorded(before, products.dtype);
  if (!why.empty() && !chooses && products.dtype == NumberType::float32) return products;
  const CpuReport report = cpu_report_of<HostProducts>();
  if (why.empty()) {
    choice = report.fastest;
    products.text = text_of(report);
  }
  const bool faster_in_16_bits = multiplies_16_bits(report, choice);
  if (chooses) {
    products.dtype = faster_in_16_bits ? NumberType::bfloat16 : NumberType::float32;
    products.text += fmt::format("          in {}, because of --dtype auto\n", to_string(products.dtype));
  } else if (products.dtype != NumberType::float32 && !faster_in_16_bits) {
    products.note =
        "numbers of 16 bits are multiplied in float, with blocks converted on the way: a step takes about as "
        "long as with --dtype float";
    products.text += fmt::format("          {}\n", products.note);
  }
  return products;
}

}  // namespace sparsegrad::finetune
