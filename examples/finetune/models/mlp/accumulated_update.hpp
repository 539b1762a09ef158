// What training has added to a matrix that itself stays as it is.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <sparsegrad/default_cost_model.hpp>
#include <sparsegrad/sparse_gradient.hpp>
#include <sparsegrad/tucker_basis.hpp>
#include <sparsegrad/weight_update.hpp>

namespace sparsegrad::finetune {

/// The sum of a matrix's updates, each in the basis that it was made in, on a host:
///
///     W' = keep W + sum over bases of V D U^T    W [out, in], D [r, c]
///
/// D is sparse, 8 bytes an entry, until it is smaller in dense form. Another basis begins another term; where the terms of
/// earlier ones with their bases would take more memory than a dense matrix [out, in], they become one.
template <class C, class Backend>
class AccumulatedUpdate {
 public:
  using Context = typename Backend::Context;
  using Basis = TuckerBasis<C, Backend>;
  using BasisPointer = std::shared_ptr<const Basis>;
  using Core = SparseGradient<C, Backend>;

  /// D in its basis.
  struct Term {
    BasisPointer basis;
    Core core;
  };

  /// Of a matrix [out, in]. `rotations` is the precision of the products with the bases in passes.
  AccumulatedUpdate(index_t out, index_t in, RotationPrecision rotations)
      : out_(out), in_(in), rotations_(rotations) {}

  index_t rows() const { return out_; }
  index_t cols() const { return in_; }
  /// Whether W' is W.
  bool empty() const { return terms_.empty() && keep_ == 1; }
  /// The factor of W, of weight decay.
  double keep() const { return keep_; }
  /// In the order in which their bases came, the present one last.
  const std::vector<Term>& terms() const { return terms_; }
  /// Bytes of the cores, and of bases that no optimizer has any more.
  index_t bytes() const {
    index_t sum = 0;
    for (const Term& term : terms_)
      sum += term.core.bytes() + (&term != &terms_.back() ? term.basis->bytes() : 0);
    return sum;
  }

  /// W' <- (1 - decay) W' + V D U^T: ApplyUpdate.
  void add(Context& ctx, const BasisPointer& basis, const Core& d, double decay) {
    if (decay != 0) {
      keep_ *= 1 - decay;
      for (Term& term : terms_)
        Backend::template scale<C>(ctx, static_cast<C>(1 - decay),
                                   MatrixView<C>(term.core.values(), 1, term.core.count()));
    }
    if (d.count() == 0) return;
    if (terms_.empty() || terms_.back().basis != basis) begin_term(ctx, basis);
    add_to(ctx, d, terms_.back().core);
  }

  /// w <- keep w + the terms: w is W' where it was W. `exact`: with products in full precision.
  void apply(Context& ctx, MatrixView<C> w, bool exact = false) const {
    if (keep_ != 1) Backend::template scale<C>(ctx, static_cast<C>(keep_), w);
    const RotationPrecision rotations = exact ? RotationPrecision::full : rotations_;
    for (const Term& term : terms_)
      expand(ctx, term, rotations, w);
  }

  /// Scratch memory that `apply` takes when a term in this basis has all of its entries.
  index_t scratch_bytes(const Context& ctx, const Basis& basis) const {
    return add_expanded_scratch<C, Backend>(ctx, basis, basis.rows() * basis.cols(), rotations_);
  }

  /// Becomes what `keep` and `terms` of another were. Throws ShapeError for a term of other extents.
  void restore(double keep, std::vector<Term> terms) {
    for (const Term& term : terms) {
      require_shape("update", term.basis->out_extent(), term.basis->in_extent(), out_, in_, "out x in");
      require_shape("core", term.core.rows(), term.core.cols(), term.basis->rows(), term.basis->cols(),
                    "rows x cols of its basis");
    }
    keep_ = keep;
    terms_ = std::move(terms);
  }

 private:
  static constexpr index_t entry_bytes = static_cast<index_t>(sizeof(C) + sizeof(stored_index_t));

  void expand(Context& ctx, const Term& term, RotationPrecision rotations, MatrixView<C> w) const {
    add_expanded<C, Backend>(ctx, *term.basis, term.core, WeightLayout::out_in, w,
                             default_cost_model<C, Backend>(ctx, rotations), rotations);
  }

  /// A term of no entries; those before it become one dense matrix where that is smaller.
  void begin_term(Context& ctx, const BasisPointer& basis) {
    index_t before = 0;
    for (const Term& term : terms_)
      before += term.core.bytes() + term.basis->bytes();
    if (before > out_ * in_ * static_cast<index_t>(sizeof(C))) {
      Term sum{Basis::identity(out_, in_), dense_core(ctx, out_, in_)};
      for (const Term& term : terms_)
        expand(ctx, term, RotationPrecision::full, sum.core.matrix());
      terms_.clear();
      terms_.push_back(std::move(sum));
    }
    terms_.push_back({basis, Core(ctx, basis->rows(), basis->cols(), 0)});
  }
  static Core dense_core(Context& ctx, index_t rows, index_t cols) {
    Core core(ctx, rows, cols, rows * cols);
    core.set_count(rows * cols);
    return core;
  }

  static void add_to(Context& ctx, const Core& d, Core& sum) {
    if (!sum.dense() && !d.dense() && add_known(d, sum)) return;
    if (!sum.dense() && (d.dense() || !grow(ctx, d, sum))) {
      Core all = dense_core(ctx, sum.rows(), sum.cols());
      for (index_t e = 0; e < sum.count(); ++e)
        all.values()[sum.indices()[e]] = sum.values()[e];
      sum = std::move(all);
    } else if (!sum.dense()) {
      return;
    }
    if (d.dense()) return Backend::template add<C>(ctx, C(1), d.matrix(), sum.matrix());
    for (index_t e = 0; e < d.count(); ++e)
      sum.values()[d.indices()[e]] += d.values()[e];
  }
  /// Adds entries that are all there already. False, and nothing has changed, where one is not.
  static bool add_known(const Core& d, Core& sum) {
    const stored_index_t* const known = sum.indices();
    if (!std::includes(known, known + sum.count(), d.indices(), d.indices() + d.count())) return false;
    index_t at = 0;
    for (index_t e = 0; e < d.count(); ++e) {
      while (known[at] != d.indices()[e])
        ++at;
      sum.values()[at] += d.values()[e];
    }
    return true;
  }
  /// Makes `sum` the sum of both. False, and nothing has changed, where it is smaller in dense form.
  static bool grow(Context& ctx, const Core& d, Core& sum) {
    std::vector<stored_index_t> index;
    std::vector<C> values;
    const auto most = static_cast<std::size_t>(sum.count() + d.count());
    index.reserve(most);
    values.reserve(most);
    index_t at = 0;
    const auto take = [&](stored_index_t position, C value) {
      index.push_back(position);
      values.push_back(value);
    };
    for (index_t e = 0; e < d.count(); ++e) {
      const stored_index_t position = d.indices()[e];
      for (; at < sum.count() && sum.indices()[at] < position; ++at)
        take(sum.indices()[at], sum.values()[at]);
      const bool both = at < sum.count() && sum.indices()[at] == position;
      take(position, d.values()[e] + (both ? sum.values()[at] : C(0)));
      at += both ? 1 : 0;
    }
    for (; at < sum.count(); ++at)
      take(sum.indices()[at], sum.values()[at]);
    const auto count = static_cast<index_t>(index.size());
    if (count * entry_bytes >= sum.size() * static_cast<index_t>(sizeof(C))) return false;
    Core grown(ctx, sum.rows(), sum.cols(), count);
    grown.assign(ctx, index, values);
    sum = std::move(grown);
    return true;
  }

  index_t out_, in_;
  RotationPrecision rotations_;
  double keep_ = 1;
  std::vector<Term> terms_;
};

}  // namespace sparsegrad::finetune
