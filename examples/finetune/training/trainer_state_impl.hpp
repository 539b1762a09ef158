// Exact resume: the trainer's whole state as a file. Definitions of BasicTrainer, for the files that instantiate it.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sparsegrad/io/state_file.hpp>

#include "models/layers/host_view.hpp"
#include "checkpoints/state_files.hpp"
#include "training/trainer.hpp"

namespace sparsegrad::glue {

namespace detail {

inline constexpr const char* state_file_type = "sparsegrad-glue state 1";
nlohmann::json records_json(const TrainReport& report);
void read_records(const nlohmann::json& j, TrainReport& report);

template <class Backend>
void put_array(typename Backend::Context& ctx, io::SafetensorsWriter& writer, const std::string& name,
               MatrixView<const float> values) {
  if constexpr (ThrustBackend<Backend>) {
    std::vector<float> copy(static_cast<std::size_t>(values.size()));
    if (!copy.empty()) Backend::template download<float>(ctx, values.data, copy.data(), values.size());
    writer.add(name, {values.size()}, std::move(copy));
  } else {
    writer.add(name, {values.size()},
               std::span<const float>(values.data, static_cast<std::size_t>(values.size())));
  }
}

template <class Backend>
void get_array(typename Backend::Context& ctx, const io::SafetensorsFile& file, const std::string& name,
               MatrixView<float> values) {
  const std::array<index_t, 1> shape{values.size()};
  (void)file.find(name, shape);
  const std::vector<float> read = file.read<float>(name);
  if (!read.empty()) Backend::template upload<float>(ctx, read.data(), values.data, values.size());
}

}  // namespace detail

template <class T, class Backend>
nlohmann::json BasicTrainer<T, Backend>::fingerprint() const {
  nlohmann::json options = to_json(options_);
  for (const char* name :
       {"output", "model", "data", "save", "save_dtype", "threads", "device", "checkpoint_every"})
    options.erase(name);
  const index_t second = second_dev_ == nullptr ? 0 : second_dev_->tokens();
  return {{"options", options},
          {"examples", {train_.size(), train_.tokens(), dev_.size(), dev_.tokens(), second}},
          {"parameters", model_.parameters().count()}};
}

template <class T, class Backend>
void BasicTrainer<T, Backend>::save_state(const std::filesystem::path& path) {
  if (group_ && group_->collecting())
    throw StateError("the state cannot be saved while gradients are collected for a refresh");
  io::SafetensorsWriter writer;
  detail::put_array<Backend>(ctx_, writer, "weights", std::as_const(model_.parameters()).weights());
  nlohmann::json adam_steps = nlohmann::json::array();
  const auto put_adam = [&](const std::string& prefix, AdamW<T, Backend>& adam) {
    detail::put_array<Backend>(ctx_, writer, prefix + "m", adam.first_moments());
    detail::put_array<Backend>(ctx_, writer, prefix + "v", adam.second_moments());
    adam_steps.push_back(adam.steps());
  };
  put_adam("dense.", *dense_);
  for (std::size_t i = 0; i < mlp_dense_.size(); ++i)
    put_adam(fmt::format("mlp.{}.", i), *mlp_dense_[i]);
  nlohmann::json basis_of = nlohmann::json::array();
  if (group_) {
    std::vector<const void*> bases;
    for (index_t i = 0; i < group_->size(); ++i) {
      const auto& basis = group_->layer(i).basis();
      auto at = std::find(bases.begin(), bases.end(), basis.get());
      if (at == bases.end()) {
        io::put<float, Backend>(ctx_, writer, fmt::format("basis.{}.", bases.size()), *basis);
        at = bases.insert(bases.end(), basis.get());
      }
      basis_of.push_back(at - bases.begin());
      io::put<float, Backend>(ctx_, writer, fmt::format("adam.{}.", i), group_->optimizer(i));
    }
  }
  const nlohmann::json state{{"fingerprint", fingerprint()},
                             {"adam_steps", adam_steps},
                             {"basis_of", basis_of},
                             {"sampler", {sampler_.position().epoch, sampler_.position().next}},
                             {"pass", pass_},
                             {"loss_scale", {loss_scale_.scale, loss_scale_.whole_steps}},
                             {"loss_since_record", loss_since_record_},
                             {"steps_since_record", steps_since_record_},
                             {"since_best", since_best_},
                             {"report", detail::records_json(report_)},
                             {"hash", fmt::format("{:016x}", checkpoint_hash())}};
  writer.metadata("type", detail::state_file_type);
  writer.metadata("state", state.dump());
  const std::filesystem::path aside = unchecked_state(path);
  writer.write(aside.string());
  check_written(aside);
  // Whatever happens in between, one of the two whole files is there.
  std::error_code missing;
  std::filesystem::rename(path, previous_state(path), missing);
  std::error_code error;
  std::filesystem::rename(aside, path, error);
  if (error) throw IoError(path.string() + ": cannot be replaced: " + error.message());
}

template <class T, class Backend>
void BasicTrainer<T, Backend>::check_written(const std::filesystem::path& path) {
  const io::SafetensorsFile file(path.string());
  const auto same = [&](const std::string& name, const auto* p, std::size_t n) {
    visit_on_host<Backend>(ctx_, p, n, [&](const auto* values) {
      const std::span<const std::byte> written = file.find(name).bytes;
      if (written.size() != n * sizeof *values || std::memcmp(written.data(), values, written.size()) != 0)
        throw file.error(name, "is not what was written to it");
    });
  };
  const auto same_matrix = [&](const std::string& name, MatrixView<const float> m) {
    same(name, m.data, static_cast<std::size_t>(m.size()));
  };
  same_matrix("weights", std::as_const(model_.parameters()).weights());
  const auto same_adam = [&](const std::string& prefix, AdamW<T, Backend>& adam) {
    same_matrix(prefix + "m", adam.first_moments());
    same_matrix(prefix + "v", adam.second_moments());
  };
  same_adam("dense.", *dense_);
  for (std::size_t i = 0; i < mlp_dense_.size(); ++i)
    same_adam(fmt::format("mlp.{}.", i), *mlp_dense_[i]);
  if (!group_) return;
  for (index_t i = 0; i < group_->size(); ++i) {
    group_->optimizer(i).visit_state([&](std::string_view name, const auto& view) {
      if (name != "step") same(fmt::format("adam.{}.{}", i, name), view.data(), view.size());
    });
  }
}

template <class T, class Backend>
void BasicTrainer<T, Backend>::read_state(const std::filesystem::path& path) {
  const io::SafetensorsFile file(path.string());
  if (const auto type = file.metadata().find("type");
      type == file.metadata().end() || type->second != detail::state_file_type)
    throw IoError(path.string() + ": is no state of a run, expected type '" + detail::state_file_type + "'");
  nlohmann::json state;
  try {
    state = nlohmann::json::parse(file.metadata("state"));
    const nlohmann::json expected = fingerprint();
    const nlohmann::json& found = state.at("fingerprint");
    if (found != expected) {
      const nlohmann::json differences = nlohmann::json::diff(found, expected);
      const nlohmann::json::json_pointer where(differences.at(0).at("path").get<std::string>());
      const auto value = [&](const nlohmann::json& j) {
        return j.contains(where) ? j.at(where).dump() : std::string("nothing");
      };
      throw ValueError(
          fmt::format("{}: the run had {} {}, this one has {}; resume with the same options and data, or "
                      "choose another --output",
                      path.string(), where.to_string().substr(1), value(found), value(expected)));
    }
    detail::get_array<Backend>(ctx_, file, "weights", model_.parameters().weights());
    model_.parameters().round(ctx_, model_.parameters().weights());
    const nlohmann::json& steps = state.at("adam_steps");
    const auto get_adam = [&](const std::string& prefix, AdamW<T, Backend>& adam, std::size_t number) {
      detail::get_array<Backend>(ctx_, file, prefix + "m", adam.first_moments());
      detail::get_array<Backend>(ctx_, file, prefix + "v", adam.second_moments());
      adam.set_steps(steps.at(number));
    };
    get_adam("dense.", *dense_, 0);
    for (std::size_t i = 0; i < mlp_dense_.size(); ++i)
      get_adam(fmt::format("mlp.{}.", i), *mlp_dense_[i], i + 1);
    if (group_) {
      std::vector<std::shared_ptr<const TuckerBasis<float, Backend>>> bases;
      for (index_t i = 0; i < group_->size(); ++i) {
        const std::size_t number = state.at("basis_of").at(static_cast<std::size_t>(i));
        if (number > bases.size())
          throw IoError(fmt::format("basis {} stands before basis {}", number, bases.size()));
        if (number == bases.size())
          bases.push_back(io::get_basis<float, Backend>(ctx_, file, fmt::format("basis.{}.", number)));
        group_->set_basis(ctx_, i, bases[number]);
        io::get<float, Backend>(ctx_, file, fmt::format("adam.{}.", i), group_->optimizer(i));
      }
    }
    sampler_.seek({state.at("sampler").at(0), state.at("sampler").at(1)});
    pass_ = state.at("pass");
    loss_scale_ = {state.at("loss_scale").at(0), state.at("loss_scale").at(1)};
    loss_since_record_ = state.at("loss_since_record");
    steps_since_record_ = state.at("steps_since_record");
    since_best_ = state.at("since_best");
    detail::read_records(state.at("report"), report_);
    if (state.at("hash") != fmt::format("{:016x}", checkpoint_hash()))
      throw IoError("its contents do not have the hash that was written with them");
  } catch (const nlohmann::json::exception& error) {
    throw IoError(path.string() + ": the metadata are malformed: " + error.what());
  } catch (const IoError& error) {
    const std::string text = error.what();
    throw IoError(text.starts_with(path.string()) ? text : path.string() + ": " + text);
  }
  resumed_ = true;
}

template <class T, class Backend>
std::string BasicTrainer<T, Backend>::restore_state(const std::filesystem::path& path) {
  const std::filesystem::path before = previous_state(path);
  std::string trouble;
  for (const std::filesystem::path& file : {path, before}) {
    if (!std::filesystem::exists(file)) continue;
    try {
      read_state(file);
      // Where it is, the next checkpoint would put the torn file in the good one's place.
      if (!trouble.empty()) std::filesystem::rename(path, torn_state(path));
      return trouble;
    } catch (const IoError& error) {
      trouble += (trouble.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  if (trouble.empty()) throw IoError(path.string() + ": there is no state to resume from");
  throw IoError(trouble);
}

template <class T, class Backend>
std::uint64_t BasicTrainer<T, Backend>::checkpoint_hash() const {
  std::uint64_t hash = state_hash();
  if (!group_) return hash;
  for (index_t i = 0; i < group_->size(); ++i) {
    for (const auto* side : {&group_->layer(i).basis()->out(), &group_->layer(i).basis()->in()}) {
      if (!side->has_factor()) continue;
      const MatrixView<const float> factor = side->factor();
      const auto n = static_cast<std::size_t>(factor.size());
      visit_on_host<Backend>(ctx_, factor.data, n, [&](const float* values) {
        for (std::size_t e = 0; e < n; ++e)
          hash = mix_bits(hash ^ std::bit_cast<std::uint32_t>(values[e]));
      });
    }
  }
  return hash;
}

}  // namespace sparsegrad::glue
