#include "training/products.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "checkpoints/config_file.hpp"

namespace sparsegrad::glue {

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

/// The fastest, and what was measured of all.
Products measured() {
  const CpuReport report = HostBackend::report();
  std::string rates;
  for (const auto& r : report.rates) {
    rates += fmt::format("{}{} {:.0f}", rates.empty() ? "" : ", ", library_of(r.backend), r.of_float * 1e-9);
    if (r.of_bfloat16 > 0) rates += fmt::format(" (bfloat16 {:.0f})", r.of_bfloat16 * 1e-9);
  }
  return {report.fastest,
          fmt::format("products: {}; GFLOP/s a thread: {}; {} allows {:.0f} in float\n{}",
                      text_of(report.fastest), rates, report.instruction_set, report.peak * 1e-9,
                      report.advice.empty() ? "" : "          " + report.advice + "\n")};
}

/// The products of the run in `log_path`; false where its log names none.
bool recorded(const std::filesystem::path& log_path, backend::ProductChoice& choice) {
  if (log_path.empty() || !exists(log_path)) return false;
  const nlohmann::json log = read_json(log_path);
  const nlohmann::json::json_pointer place("/versions/products");
  if (!log.is_object() || !log.contains(place) || !log[place].is_object()) return false;
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

}  // namespace

std::vector<std::string> product_names() {
  std::vector<std::string> names;
  for (const std::string& backend : HostBackend::names())
    names.push_back(library_of(backend));
  return names;
}

Products choose_products(const TrainOptions& options, const std::filesystem::path& log_path) {
  const auto named = [](const backend::ProductChoice& choice, const char* why) {
    return Products{choice, fmt::format("products: {}, {}\n", text_of(choice), why)};
  };
  if (options.products != "auto") {
    const std::vector<std::string> names = product_names();
    const auto at = std::find(names.begin(), names.end(), options.products);
    if (at == names.end()) {
      throw ValueError(fmt::format("--products is '{}', expected one of: auto, {}", options.products,
                                   fmt::join(names, ", ")));
    }
    const auto number = static_cast<std::size_t>(at - names.begin());
    return named(HostBackend::all_of(HostBackend::names()[number]), "as asked for");
  }
  backend::ProductChoice choice;
  if (options.resume && recorded(log_path, choice)) return named(choice, "as the run had before");
  if (options.deterministic)
    return named(HostBackend::all_of(HostBackend::names().front()), "because of --deterministic");
  return measured();
}

nlohmann::json to_json(const backend::ProductChoice& choice) {
  return {
      {"float", choice.of_float}, {"double", choice.of_double}, {"low_precision", choice.of_low_precision}};
}

}  // namespace sparsegrad::glue
