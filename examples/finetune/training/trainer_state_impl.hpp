// Exact resume: the trainer's whole state as a file. Definitions of BasicTrainer, for the files that instantiate it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sparsegrad/io/state_file.hpp>

#include "checkpoints/state_files.hpp"
#include "training/trainer.hpp"

namespace sparsegrad::finetune {

namespace detail {

nlohmann::json records_json(const TrainReport& report);
void read_records(const nlohmann::json& j, TrainReport& report);
/// The JSON in the metadata. Throws nlohmann's exception, or IoError where it nests deep, which copying and
/// printing it would pay for with the stack.
nlohmann::json parse_state(const std::string& text);

/// A whole number of the metadata from `low` to `high`; the library's own conversions cut what does not fit. Throws IoError.
inline index_t state_integer(const nlohmann::json& j, index_t low = 0, index_t high = index_t{1} << 53) {
  if (j.is_number_integer() && (!j.is_number_unsigned() || std::in_range<index_t>(j.get<std::uint64_t>()))) {
    const auto value = j.get<index_t>();
    if (value >= low && value <= high) return value;
  }
  throw IoError(
      fmt::format("the metadata have {}, expected a whole number from {} to {}", j.dump(), low, high));
}

}  // namespace detail

template <class Model>
const nlohmann::json& BasicTrainer<Model>::fingerprint() const {
  if (fingerprint_ != nullptr) return *fingerprint_;
  nlohmann::json options = to_json(options_);
  for (const char* name : {"output", "model", "data", "save", "save_dtype", "threads", "device",
                           "checkpoint_every", "recompute"})
    options.erase(name);
  nlohmann::json made{{"options", options}, {"parameters", model_.parameters().count()}};
  data_.describe(model_, made);
  fingerprint_ = std::make_shared<const nlohmann::json>(std::move(made));
  return *fingerprint_;
}

template <class Model>
void BasicTrainer<Model>::save_state(const std::filesystem::path& path) {
  if (mlp_->collecting())
    throw StateError("the state cannot be saved while gradients are collected for a refresh");
  check_last_step(true);
  io::SafetensorsWriter writer;
  detail::put_array<Backend>(ctx_, writer, "weights", std::as_const(model_.parameters()).weights());
  detail::put_adam<T, Backend>(ctx_, writer, "dense.", *dense_);
  nlohmann::json of_mlp{{"adam_steps", nlohmann::json::array({dense_->steps()})}};
  mlp_->save(ctx_, writer, of_mlp);
  const nlohmann::json state{{"fingerprint", fingerprint()},
                             {"adam_steps", of_mlp["adam_steps"]},
                             {"sampler", {sampler_.position().epoch, sampler_.position().next}},
                             {"pass", pass_},
                             {"loss_scale", {loss_scale_.scale, loss_scale_.whole_steps}},
                             {"loss_since_record", loss_since_record_},
                             {"steps_since_record", steps_since_record_},
                             {"since_best", since_best_},
                             {"report", detail::records_json(report_)},
                             {"hash", fmt::format("{:016x}", checkpoint_hash())}};
  writer.metadata("type", std::string(data_.state_type()));
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

template <class Model>
void BasicTrainer<Model>::check_written(const std::filesystem::path& path) {
  const io::SafetensorsFile file(path.string());
  detail::require_same_matrix<Backend>(ctx_, file, "weights", std::as_const(model_.parameters()).weights());
  detail::require_same_adam<T, Backend>(ctx_, file, "dense.", *dense_);
  mlp_->check_written(ctx_, file);
}

template <class Model>
void BasicTrainer<Model>::read_state(const std::filesystem::path& path) {
  const io::SafetensorsFile file(path.string());
  if (const auto type = file.metadata().find("type");
      type == file.metadata().end() || type->second != data_.state_type())
    throw IoError(path.string() + ": is no state of a run, expected type '" +
                  std::string(data_.state_type()) + "'");
  nlohmann::json state;
  try {
    state = detail::parse_state(file.metadata("state"));
    const nlohmann::json& expected = fingerprint();
    const nlohmann::json& found = state.at("fingerprint");
    if (const std::string other = differences(found, expected); !other.empty()) {
      throw ValueError(fmt::format(
          "{}: {}; resume with the same options and data, or choose another --output", path.string(), other));
    }
    detail::get_array<Backend>(ctx_, file, "weights", model_.parameters().weights());
    model_.parameters().round(ctx_, model_.parameters().weights());
    detail::get_adam<T, Backend>(ctx_, file, "dense.", *dense_,
                                 detail::state_integer(state.at("adam_steps").at(0)));
    mlp_->restore(ctx_, file, state);
    sampler_.seek({detail::state_integer(state.at("sampler").at(0)),
                   detail::state_integer(state.at("sampler").at(1), 0, sampler_.size())});
    pass_ = state.at("pass");
    loss_scale_ = {state.at("loss_scale").at(0), detail::state_integer(state.at("loss_scale").at(1))};
    loss_since_record_ = state.at("loss_since_record");
    steps_since_record_ = detail::state_integer(state.at("steps_since_record"));
    since_best_ = detail::state_integer(state.at("since_best"));
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

template <class Model>
std::string BasicTrainer<Model>::restore_state(const std::filesystem::path& path) {
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
  throw IoError(
      trouble +
      "; there is no whole state to go on from: put a copy back, or start anew without --resume and "
      "with --overwrite, which removes what is left of this run");
}

template <class Model>
std::uint64_t BasicTrainer<Model>::checkpoint_hash() const {
  return mlp_->hash_of_bases(ctx_, state_hash());
}

}  // namespace sparsegrad::finetune
