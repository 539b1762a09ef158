// GroupHandle: a group of one backend and type behind the C interface.
#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/io/group_file.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include "basis_handle.hpp"
#include "conversions.hpp"
#include "handles.hpp"
#include "layer_handle.hpp"
#include "machine.hpp"

namespace sparsegrad::c {

template <class T, class B>
class GroupHandle final : public AnyGroup {
 public:
  using Group = SparseGradGroup<T, B>;

  GroupHandle(std::shared_ptr<Machine<B>> machine, const sparsegrad_group_options& options)
      : machine_(std::move(machine)), recipe_(basis_recipe(options)), group_(group_options(options)) {}

  std::int64_t add_weight(const sparsegrad_weight& weight, const char* kind) override {
    const TrainedWeight<T> w = trained_weight<T>(weight);
    const WeightOptions<float> options{.layout = w.layout};
    members_.reserve(members_.size() + 1);
    index_t index = 0;
    if constexpr (is_low_precision<T>) {
      index = group_.add_weight(ctx(), w.weight, w.master, name(kind), options);
    } else {
      index = group_.add_weight(ctx(), w.weight, name(kind), options);
    }
    members_.push_back({nullptr, w.layout});
    return index;
  }

  std::int64_t add_layer(const std::shared_ptr<AnyLayer>& layer, const char* kind) override {
    const auto own = std::dynamic_pointer_cast<LayerHandle<T, B>>(layer);
    if (own == nullptr || own->machine() != machine_) {
      throw ValueError("the layer was made with another context or is of another type, expected one of " +
                       dtype_text(dtype_of<T>) + " made with the group's context");
    }
    members_.reserve(members_.size() + 1);
    const index_t index = group_.add(ctx(), own->layer(), name(kind));
    members_.push_back({own, own->layer().options().layout});
    return index;
  }

  void remove(std::int64_t index) override {
    group_.remove(ctx(), index);
    members_.erase(members_.begin() + index);
  }

  void rebind(std::int64_t index, const sparsegrad_weight& weight) override {
    (void)group_.source(index);  // refuses a number that no weight has
    const TrainedWeight<T> moved = trained_weight<T>(weight);
    if (moved.layout != members_[static_cast<std::size_t>(index)].layout)
      throw ValueError("layout is " + std::to_string(weight.layout) + ", expected that of before");
    if constexpr (is_low_precision<T>) {
      group_.rebind(index, moved.weight, moved.master);
    } else {
      group_.rebind(index, moved.weight);
    }
  }

  void set_gradient(std::int64_t index, const sparsegrad_const_matrix& gradient) override {
    with_matrix("the gradient", gradient, [&](auto dw) { group_.set_gradient(index, dw); });
  }
  void clear() override { group_.clear(ctx()); }
  double squared_norm() override { return group_.squared_norm(ctx()); }

  sparsegrad_step_report step(const sparsegrad_step_options& options) override {
    const GroupStep step{.learning_rate = options.learning_rate,
                         .weight_decay = options.weight_decay,
                         .grad_scale = options.grad_scale};
    double norm = std::numeric_limits<double>::quiet_NaN();
    if (options.want_norm != 0) {
      (void)require_decay<float>(step);  // before the gradients are finished
      norm = std::sqrt(group_.squared_norm(ctx()));
    }
    const GroupReport report = group_.step(ctx(), step);
    return {.kept = report.kept,
            .norm = norm,
            .without_gradient = report.without_gradient,
            .became_dense = report.became_dense,
            .evicted = report.evicted,
            .warming_up = report.warming_up ? 1 : 0,
            .skipped = report.skipped ? 1 : 0};
  }

  void collect() override { group_.collect(ctx(), recipe_); }
  void stop_collecting() override { group_.stop_collecting(ctx()); }
  void refresh(std::int32_t moments) override { (void)group_.refresh(ctx(), moments_policy(moments)); }

  std::shared_ptr<AnyBasis> basis(std::int64_t index) override {
    return std::make_shared<BasisHandle<B>>(machine_, group_.basis(index));
  }
  void set_basis(std::int64_t index, const std::shared_ptr<AnyBasis>& basis, std::int32_t moments) override {
    const MomentsPolicy policy = moments_policy(moments);
    if (basis == nullptr) {
      (void)group_.set_basis(ctx(), index, nullptr, policy);
      return;
    }
    const auto own = std::dynamic_pointer_cast<BasisHandle<B>>(basis);
    if (own == nullptr) {
      throw ValueError(std::string("the basis was made with another backend, expected one of ") + B::name());
    }
    (void)group_.set_basis(ctx(), index, own->basis(), policy);
  }
  void reserve(std::int64_t max_tokens) override { group_.reserve(ctx(), max_tokens); }

  sparsegrad_memory memory() override {
    const GroupMemory memory = group_.memory(ctx());
    return {.gradients = memory.gradients,
            .sparse_gradients = memory.sparse_gradients,
            .optimizer = memory.optimizer,
            .bases = memory.bases,
            .collection = memory.collection,
            .scratch = memory.scratch,
            .total = memory.total()};
  }
  sparsegrad_group_info describe() override {
    return {group_.size(), group_.warming_up() ? 1 : 0, group_.collecting() ? 1 : 0};
  }
  sparsegrad_weight_info describe_weight(std::int64_t index) override {
    sparsegrad_weight_info info{};
    const auto& source = group_.source(index);
    info.out_extent = source.out_extent();
    info.in_extent = source.in_extent();
    info.core_rows = group_.basis(index)->rows();
    info.core_cols = group_.basis(index)->cols();
    info.kept = group_.kept(index);
    try {
      info.steps = group_.optimizer(index).steps();
      info.optimizer_bytes = group_.optimizer(index).bytes();
    } catch (const StateError&) {  // it waits for its basis
    }
    return info;
  }

  std::vector<std::byte> save() override {
    io::SafetensorsWriter writer;
    io::put(ctx(), writer, "", group_);
    return writer.bytes();
  }
  void restore(std::vector<std::byte> bytes) override {
    const io::SafetensorsFile file(io::FileBytes::from(std::move(bytes)), "the saved state");
    io::get(ctx(), file, "", group_);
  }
  void save_file(const char* path) override { io::save(ctx(), path, group_); }
  void load_file(const char* path) override { io::load(ctx(), path, group_); }

 private:
  /// What the group refers to.
  struct Member {
    std::shared_ptr<LayerHandle<T, B>> layer;  ///< null for a weight of add_weight
    WeightLayout layout;
  };

  static std::string name(const char* kind) { return kind == nullptr ? std::string() : std::string(kind); }
  typename B::Context& ctx() { return machine_->ctx; }

  std::shared_ptr<Machine<B>> machine_;
  BasisRecipe recipe_;
  std::vector<Member> members_;  // outlive the group
  Group group_;
};

}  // namespace sparsegrad::c
