// BasisHandle: a basis of one backend behind the C interface.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <sparsegrad/tucker_basis.hpp>

#include "conversions.hpp"
#include "handles.hpp"
#include "machine.hpp"

namespace sparsegrad::c {

/// A gradient or a core in float: where it stands, or widened.
template <class B>
class FloatMatrix {
 public:
  FloatMatrix(typename B::Context& ctx, const char* what, const sparsegrad_const_matrix& matrix) {
    with_matrix(what, matrix, [&](auto given) {
      if constexpr (std::is_same_v<decltype(given), MatrixView<const float>>) {
        view_ = given;
      } else {
        memory_.resize(static_cast<std::size_t>(given.size()));
        const MatrixView<float> wide(memory_.data(), given.rows, given.cols);
        using S = std::remove_cvref_t<decltype(given(0, 0))>;
        if (!given.empty()) B::template widen<S>(ctx, given, wide);
        view_ = wide;
      }
    });
  }
  MatrixView<const float> view() const { return view_; }

 private:
  std::vector<float> memory_;
  MatrixView<const float> view_;
};

template <class B>
class BasisHandle final : public AnyBasis {
 public:
  using Basis = TuckerBasis<float, B>;

  BasisHandle(std::shared_ptr<Machine<B>> machine, std::shared_ptr<const Basis> basis)
      : machine_(std::move(machine)), basis_(std::move(basis)) {}

  const std::shared_ptr<const Basis>& basis() const { return basis_; }

  sparsegrad_basis_info describe() const override {
    const BasisReport& report = basis_->report();
    return {.out_extent = basis_->out_extent(),
            .in_extent = basis_->in_extent(),
            .rows = basis_->rows(),
            .cols = basis_->cols(),
            .bytes = basis_->bytes(),
            .gradients = report.gradients,
            .total_energy = report.total_energy,
            .out_kept_energy = report.out.kept_energy,
            .in_kept_energy = report.in.kept_energy};
  }

  void factor(std::int32_t side, const sparsegrad_matrix& factor) override {
    require_choice("side", side, 2);
    const auto& of = side == SPARSEGRAD_SIDE_OUT ? basis_->out() : basis_->in();
    const MatrixView<float> to = view<float>("the factor", factor);
    require_shape("the factor", to.rows, to.cols, of.extent(), of.rank(), "extent x rank of the side");
    if (to.empty()) return;
    auto& ctx = machine_->ctx;
    if (of.has_factor()) return B::template transpose<float>(ctx, of.factor(), to);
    auto frame = ctx.frame();
    const MatrixView<float> unit = frame.template matrix<float>(of.extent(), of.extent());
    for (index_t i = 0; i < unit.rows; ++i)
      for (index_t j = 0; j < unit.cols; ++j)
        unit(i, j) = i == j ? 1.0F : 0.0F;
    of.project_columns(ctx, unit, to);
  }

  const std::vector<double>& spectrum(std::int32_t side) const override {
    require_choice("side", side, 2);
    const BasisReport& report = basis_->report();
    return side == SPARSEGRAD_SIDE_OUT ? report.out.spectrum : report.in.spectrum;
  }

  sparsegrad_energy energy(const sparsegrad_const_matrix& gradient, std::int64_t k) override {
    const FloatMatrix<B> g(machine_->ctx, "the gradient", gradient);
    const EnergyFractions found = basis_->energy(machine_->ctx, g.view(), k);
    return {found.raw_top_k, found.basis_top_k, found.kept_block};
  }

  void project(const sparsegrad_const_matrix& gradient, const sparsegrad_matrix& core) override {
    const FloatMatrix<B> g(machine_->ctx, "the gradient", gradient);
    basis_->project(machine_->ctx, g.view(), view<float>("the core", core));
  }

  void expand(const sparsegrad_const_matrix& core, const sparsegrad_matrix& gradient) override {
    basis_->expand(machine_->ctx, view<const float>("the core", core), 0.0F,
                   view<float>("the gradient", gradient));
  }

 private:
  std::shared_ptr<Machine<B>> machine_;
  std::shared_ptr<const Basis> basis_;
};

}  // namespace sparsegrad::c
