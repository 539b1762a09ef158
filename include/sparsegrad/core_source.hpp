// CoreSource: what a group asks of whatever makes a matrix's core gradient.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "core/lifetime.hpp"
#include "gradient_memory.hpp"
#include "hosvd_accumulator.hpp"
#include "plan.hpp"
#include "sparse_gradient.hpp"
#include "tucker_basis.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

namespace detail {

/// Throws ValueError unless max_tokens >= 0 tokens of `width` elements, some arrays of them, have
/// sizes that can be counted.
inline void require_tokens(index_t max_tokens, index_t width) {
  const index_t most = ((std::numeric_limits<index_t>::max)() >> 8) / std::max<index_t>(width, 1);
  if (max_tokens >= 0 && max_tokens <= most) return;
  throw ValueError("max_tokens is " + std::to_string(max_tokens) +
                   ", expected 0 <= max_tokens <= " + std::to_string(most));
}

/// Throws ShapeError unless a matrix of these extents has elements, and of less than 2^63 bytes.
inline void require_extents(index_t out, index_t in) {
  if (out <= 0 || in <= 0)
    throw ShapeError("weight is " + shape_text(out, in) + ", expected positive extents");
  if (in > ((std::numeric_limits<index_t>::max)() >> 4) / out)
    throw ShapeError("weight is " + shape_text(out, in) + ", expected a matrix of less than 2^63 bytes");
}

}  // namespace detail

/// The products that a source still has to take for its core, V^T S U with dense factors and nothing
/// else: for whoever takes those of many matrices together (BatchedProjection).
template <class C, Backend B>
struct PendingCore {
  /// Of the sides that the plan leaves to the end.
  PendingCore(const TuckerBasis<C, B>& basis_, const CostModel& model_, const Plan& plan)
      : basis(&basis_),
        model(&model_),
        out(plan.out == SideOrder::multiply_first && basis_.out().rotates()),
        in(plan.in == SideOrder::multiply_first && basis_.in().rotates()) {}

  const TuckerBasis<C, B>* basis;  ///< V and U
  const CostModel* model;          ///< chooses the side that is first
  bool out;                        ///< whether S is to be multiplied by V^T
  bool in;                         ///< whether S is to be multiplied by U
  MatrixView<const C> sum;         ///< S, or its transpose where `turned`
  bool turned = false;             ///< whether the rows of `sum` are those of the in side
  bool ready = false;              ///< whether the gradient is complete, and its core not made
  MatrixView<C> core;              ///< memory for the core
  /// Elements where S stands, if the core's memory is the same: with one product alone the core must
  /// then be made elsewhere. Else 0.
  index_t in_place = 0;

  /// Whether there are products, and of dense factors alone.
  bool possible() const {
    return (out || in) && (!out || basis->out().has_factor()) && (!in || basis->in().has_factor());
  }
};

/// Makes the core gradient G~ = V^T dW U [r, c] of one weight matrix, in one optimizer step after
/// another.
///
/// CoreGradient makes it from tokens, GivenGradient from a dW that the engine has computed. A class
/// of one's own joins a group as they do (SparseGradGroup::add). One step: the gradient arrives;
/// while bases are collected `add_to` is called; then `core` (or `own_core`); then `clear`.
template <class C, Backend B>
class CoreSource {
 public:
  /// The backend's context.
  using Context = typename B::Context;
  /// The bases of the core.
  using Basis = TuckerBasis<C, B>;
  /// How a basis is held.
  using BasisPointer = std::shared_ptr<const Basis>;
  /// What a basis is fitted from.
  using Accumulator = HosvdAccumulator<C, B>;

  virtual ~CoreSource() = default;

  /// What messages call the matrix, "layer 3 ('up')" or "weight 3 ('up')" in a group; empty: nothing.
  const std::string& name() const { return name_; }
  /// Sets that name.
  void set_name(std::string name) { name_ = std::move(name); }

  /// Expires when the source is destroyed, for whoever refers to it.
  std::weak_ptr<const void> life() const { return lifetime_.watch(); }

  /// Extents of dW.
  virtual index_t out_extent() const = 0;
  /// Columns of dW.
  virtual index_t in_extent() const = 0;
  /// Never null.
  virtual const BasisPointer& basis() const = 0;
  /// The order of the products.
  virtual Plan plan() const = 0;

  /// Sets the basis, null for none, and chooses the plan anew, or takes the given one (a
  /// checkpoint's). Throws ShapeError when the basis's extents are not the matrix's, ValueError when
  /// its rank is 0 on a side, StateError while a gradient is held. Nothing has changed then.
  virtual void set_basis(Context& ctx, BasisPointer basis, std::optional<Plan> plan = {}) = 0;

  /// Throws StateError when the source belongs to its present basis and takes no other.
  virtual void require_new_basis(const char*) const {}

  /// Whether there is a gradient since the last `clear`.
  virtual bool accumulating() const = 0;
  /// Whether that gradient is complete: the core was asked for.
  virtual bool finished() const = 0;
  /// Throws ShapeError or ValueError, as set_basis does, for a basis that the matrix cannot have.
  void require_basis(const Basis& basis) const {
    require_shape("basis", basis.out_extent(), basis.in_extent(), out_extent(), in_extent(),
                  "out x in of the weight");
    if (basis.rows() > 0 && basis.cols() > 0) return;
    throw ValueError("the basis has rank " + std::to_string(basis.rows()) + " on the out side and " +
                     std::to_string(basis.cols()) +
                     " on the in side, expected at least 1: its core is empty");
  }
  /// Throws StateError, naming the caller, while a gradient is held.
  void require_idle(const char* call) const {
    if (accumulating()) {
      throw StateError(std::string(call) + ": a gradient is being accumulated; call clear first");
    }
  }

  /// While on, dW itself is wanted, by `add_to` or `weight_gradient`. Throws StateError while a
  /// gradient is held.
  virtual void form_weight_gradient(Context& ctx, bool on) = 0;
  /// Whether dW itself is formed.
  virtual bool forms_weight_gradient() const = 0;
  /// Throws StateError when dW can never be formed.
  virtual void require_weight_gradient(const char*) const {}

  /// Adds dW to the sums from which a basis is fitted. Under NonFinite::raise one with NaN or Inf
  /// throws NonFiniteError, otherwise it is not added. Throws StateError when dW is not there any
  /// more.
  virtual void add_to(Context& ctx, Accumulator& sums, NonFinite policy) = 0;
  /// dW [out, in], contiguous, to be changed in place (an all-reduce, say); the core is then made
  /// from it.
  virtual MatrixView<C> weight_gradient(Context& ctx) = 0;

  /// G~ [r, c], contiguous; 0 without a gradient. Further calls return the same view until `clear`.
  virtual MatrixView<const C> core(Context& ctx) = 0;
  /// The same in memory of this object's own, to be changed in place.
  virtual MatrixView<C> own_core(Context& ctx) = 0;

  /// The products between gradient and core, where they can be taken together with other sources';
  /// empty: the source takes them itself, in `core`. Whoever takes them calls begin_core before and
  /// take_core after it; a new gradient may only begin after `clear`.
  virtual std::optional<PendingCore<C, B>> pending_core() { return {}; }
  /// The source holds neither gradient nor core until take_core. Returns what is to be held as long
  /// as another's core stands in the memory of S.
  virtual std::shared_ptr<int> begin_core() { return nullptr; }
  /// The core stands here until `clear`, in memory that is lent for so long.
  virtual void take_core(MatrixView<C>, const std::shared_ptr<int>&) {}

  /// Whether the source computes chosen entries alone, and no core: `select` then writes them to
  /// `s`, empty at first, with strictly rising positions. They are `element_count()`.
  virtual bool selects() const { return false; }
  /// Writes the entries that the source computes to `s`.
  virtual void select(Context&, SparseGradient<C, B>&) {}

  /// dW [out, in] itself where it stands in memory, also after `core`; else empty.
  virtual MatrixView<const C> standing_gradient() const { return {}; }
  /// Where a borrowed dW begins that is still to be read; else null.
  virtual const void* unread_gradient() const { return nullptr; }

  /// Forgets the gradient.
  virtual void clear() = 0;

  /// Uses `memory` for its gradient, where it can take turns in one, in place of memory of its own;
  /// null: its own again. Throws StateError while a gradient is held, or when the memory must grow
  /// in another's turn.
  virtual void share_memory(Context&, std::shared_ptr<GradientMemory<C, B>>) {}

  /// After this no call of a step with up to `max_tokens` tokens allocates. Throws ValueError when
  /// max_tokens < 0, or so many tokens have more than 2^63 bytes.
  virtual void reserve(Context& ctx, index_t max_tokens) = 0;
  /// Bytes owned. The basis is shared and not counted.
  virtual index_t bytes() const = 0;
  /// Elements of gradient memory that the present plan needs.
  virtual index_t element_count() const = 0;

 private:
  std::string name_;
  Lifetime lifetime_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
