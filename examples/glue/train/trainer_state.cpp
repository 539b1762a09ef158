// Exact resume: the trainer's whole state as a file.
#include <algorithm>
#include <array>
#include <bit>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sparsegrad/io/state_file.hpp>

#include "train/trainer.hpp"

namespace sparsegrad::glue {

namespace {

using nlohmann::json;

constexpr const char* file_type = "sparsegrad-glue state 1";

json records_json(const TrainReport& report) {
  json steps = json::array();
  for (const StepRecord& r : report.steps) {
    steps.push_back({r.step, r.epoch, r.loss, r.mean_loss, r.learning_rate, r.sparse_learning_rate,
                     r.examples, r.tokens, r.seconds, r.kept});
  }
  json evaluations = json::array();
  for (const EvaluationRecord& r : report.evaluations) {
    json metrics = json::array();
    for (const Metric& m : r.metrics)
      metrics.push_back({m.name, m.value, m.defined});
    evaluations.push_back({r.step, r.epoch, r.loss, metrics, r.seconds, r.best});
  }
  const PhaseOneRecord& p = report.phase1;
  return {{"steps", steps},
          {"evaluations", evaluations},
          {"best", report.best ? json(*report.best) : json()},
          {"phase1", {p.steps, p.seconds, p.fit_seconds, p.losses}},
          {"steps_done", report.steps_done},
          {"tokens", report.tokens},
          {"refreshes", report.refreshes},
          {"refresh_seconds", report.refresh_seconds},
          {"training_seconds", report.training_seconds},
          {"evaluation_seconds", report.evaluation_seconds}};
}

void read_records(const json& j, TrainReport& report) {
  report.steps.clear();
  for (const json& r : j.at("steps")) {
    StepRecord record;
    record.step = r.at(0);
    record.epoch = r.at(1);
    record.loss = r.at(2);
    record.mean_loss = r.at(3);
    record.learning_rate = r.at(4);
    record.sparse_learning_rate = r.at(5);
    record.examples = r.at(6);
    record.tokens = r.at(7);
    record.seconds = r.at(8);
    record.kept = r.at(9);
    report.steps.push_back(record);
  }
  report.evaluations.clear();
  for (const json& r : j.at("evaluations")) {
    EvaluationRecord record;
    record.step = r.at(0);
    record.epoch = r.at(1);
    record.loss = r.at(2);
    for (const json& m : r.at(3))
      record.metrics.push_back({m.at(0), m.at(1), m.at(2)});
    record.seconds = r.at(4);
    record.best = r.at(5);
    report.evaluations.push_back(std::move(record));
  }
  report.best.reset();
  if (!j.at("best").is_null()) report.best = j.at("best").get<std::size_t>();
  if (report.best && *report.best >= report.evaluations.size())
    throw IoError(
        fmt::format("the best evaluation is number {} of {}", *report.best, report.evaluations.size()));
  const json& p = j.at("phase1");
  report.phase1.steps = p.at(0);
  report.phase1.seconds = p.at(1);
  report.phase1.fit_seconds = p.at(2);
  report.phase1.losses = p.at(3).get<std::vector<double>>();
  report.steps_done = j.at("steps_done");
  report.tokens = j.at("tokens");
  report.refreshes = j.at("refreshes");
  report.refresh_seconds = j.at("refresh_seconds");
  report.training_seconds = j.at("training_seconds");
  report.evaluation_seconds = j.at("evaluation_seconds");
}

void put_array(io::SafetensorsWriter& writer, const std::string& name, MatrixView<const float> values) {
  writer.add(name, {values.size()},
             std::span<const float>(values.data, static_cast<std::size_t>(values.size())));
}

void get_array(const io::SafetensorsFile& file, const std::string& name, MatrixView<float> values) {
  const std::array<index_t, 1> shape{values.size()};
  (void)file.find(name, shape);
  const std::vector<float> read = file.read<float>(name);
  std::copy(read.begin(), read.end(), values.data);
}

}  // namespace

json Trainer::fingerprint() const {
  json options = to_json(options_);
  for (const char* name : {"output", "model", "data", "save", "threads", "checkpoint_every"})
    options.erase(name);
  return {{"options", options},
          {"examples", {train_.size(), train_.tokens(), dev_.size(), dev_.tokens()}},
          {"parameters", model_.parameters().count()}};
}

void Trainer::save_state(const std::filesystem::path& path) {
  if (group_ && group_->collecting())
    throw StateError("the state cannot be saved while gradients are collected for a refresh");
  io::SafetensorsWriter writer;
  put_array(writer, "weights", std::as_const(model_.parameters()).weights());
  json adam_steps = json::array();
  const auto put_adam = [&](const std::string& prefix, AdamW<float, Backend>& adam) {
    put_array(writer, prefix + "m", adam.first_moments());
    put_array(writer, prefix + "v", adam.second_moments());
    adam_steps.push_back(adam.steps());
  };
  put_adam("dense.", *dense_);
  for (std::size_t i = 0; i < mlp_dense_.size(); ++i)
    put_adam(fmt::format("mlp.{}.", i), *mlp_dense_[i]);
  json basis_of = json::array();
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
  const json state{{"fingerprint", fingerprint()},
                   {"adam_steps", adam_steps},
                   {"basis_of", basis_of},
                   {"sampler", {sampler_.position().epoch, sampler_.position().next}},
                   {"pass", pass_},
                   {"loss_since_record", loss_since_record_},
                   {"steps_since_record", steps_since_record_},
                   {"since_best", since_best_},
                   {"report", records_json(report_)},
                   {"hash", fmt::format("{:016x}", checkpoint_hash())}};
  writer.metadata("type", file_type);
  writer.metadata("state", state.dump());
  // The last whole file stays until the new one is whole: whatever happens in between, one of the two is there.
  std::filesystem::path before = path;
  before += ".previous";
  std::error_code missing;
  std::filesystem::rename(path, before, missing);
  writer.write(path.string());
}

void Trainer::read_state(const std::filesystem::path& path) {
  const io::SafetensorsFile file(path.string());
  if (const auto type = file.metadata().find("type");
      type == file.metadata().end() || type->second != file_type)
    throw IoError(path.string() + ": is no state of a run, expected type '" + file_type + "'");
  json state;
  try {
    state = json::parse(file.metadata("state"));
    const json expected = fingerprint();
    const json& found = state.at("fingerprint");
    if (found != expected) {
      const json differences = json::diff(found, expected);
      const json::json_pointer where(differences.at(0).at("path").get<std::string>());
      const auto value = [&](const json& j) {
        return j.contains(where) ? j.at(where).dump() : std::string("nothing");
      };
      throw ValueError(
          fmt::format("{}: the run had {} {}, this one has {}; resume with the same options and data, or "
                      "choose another --output",
                      path.string(), where.to_string().substr(1), value(found), value(expected)));
    }
    get_array(file, "weights", model_.parameters().weights());
    const json& steps = state.at("adam_steps");
    const auto get_adam = [&](const std::string& prefix, AdamW<float, Backend>& adam, std::size_t number) {
      get_array(file, prefix + "m", adam.first_moments());
      get_array(file, prefix + "v", adam.second_moments());
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
    loss_since_record_ = state.at("loss_since_record");
    steps_since_record_ = state.at("steps_since_record");
    since_best_ = state.at("since_best");
    read_records(state.at("report"), report_);
    if (state.at("hash") != fmt::format("{:016x}", checkpoint_hash()))
      throw IoError("its contents do not have the hash that was written with them");
  } catch (const json::exception& error) {
    throw IoError(path.string() + ": the metadata are malformed: " + error.what());
  } catch (const IoError& error) {
    const std::string text = error.what();
    throw IoError(text.starts_with(path.string()) ? text : path.string() + ": " + text);
  }
  resumed_ = true;
}

std::string Trainer::restore_state(const std::filesystem::path& path) {
  std::filesystem::path before = path;
  before += ".previous";
  std::string trouble;
  for (const std::filesystem::path& file : {path, before}) {
    if (!std::filesystem::exists(file)) continue;
    try {
      read_state(file);
      return trouble;
    } catch (const IoError& error) {
      trouble += (trouble.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  if (trouble.empty()) throw IoError(path.string() + ": there is no state to resume from");
  throw IoError(trouble);
}

std::uint64_t Trainer::checkpoint_hash() const {
  std::uint64_t hash = state_hash();
  if (!group_) return hash;
  for (index_t i = 0; i < group_->size(); ++i) {
    for (const auto* side : {&group_->layer(i).basis()->out(), &group_->layer(i).basis()->in()}) {
      if (!side->has_factor()) continue;
      const MatrixView<const float> factor = side->factor();
      for (index_t e = 0; e < factor.size(); ++e)
        hash = mix_bits(hash ^ std::bit_cast<std::uint32_t>(factor.data[e]));
    }
  }
  return hash;
}

}  // namespace sparsegrad::glue
