// BatchedProjection: the products that make the cores of many matrices, those of one shape in one
// call.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "core/buffer.hpp"
#include "core_source.hpp"
#include "product_batch.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Makes the cores V^T S U of many matrices on a BatchedBackend.
///
/// A product of BERT's matrices has too few tiles to fill a large GPU; several of them together do.
/// Where one side alone is left, a core cannot take its sum's place without a copy: it then stands in
/// a spare array, or in the memory of a sum whose core was made before it. Sums stay where they are,
/// so that a captured step finds them.
template <class C, Backend B>
class BatchedProjection {
 public:
  /// The backend's context.
  using Context = typename B::Context;

  /// Products with results of at most `batch_bytes` bytes are taken together.
  explicit BatchedProjection(index_t batch_bytes = detail::batch_bytes) : batch_bytes_(batch_bytes) {}

  /// Takes the cores that `sources` still have to make, where their products can be taken together.
  void run(Context& ctx, std::span<CoreSource<C, B>* const> sources) {
    const EndOfLoans end{*this};
    gather(sources, true);
    detail::for_each_shape(tasks_, [&](std::span<Task> tasks) {
      const PendingCore<C, B>& like = tasks.front().pending;
      if (like.out && like.in) {
        take_both_sides(ctx, tasks);
      } else if (like.in_place != 0) {
        ensure_spares(ctx, tasks);
        take_one_side(ctx, tasks);
      } else {
        detail::for_each_batch(tasks, together(tasks, like.core.size()), [&](std::span<Task> batch) {
          for (Task& task : batch)
            first_product(task, task.pending.core);
          begin(batch);
          run_first(ctx, batch.front());
          for (Task& task : batch)
            task.source->take_core(task.pending.core, nullptr);
        });
      }
    });
  }

  /// Takes the spare arrays that these sources will want, and gives others back.
  void reserve(Context& ctx, std::span<CoreSource<C, B>* const> sources) {
    gather(sources, false);
    std::erase_if(spares_, [&](const Spare& spare) {
      return spare.loan.use_count() == 1 && std::none_of(tasks_.begin(), tasks_.end(), [&](const Task& task) {
               return needs_spare(task.pending) && task.pending.in_place == spare.memory.size();
             });
    });
    detail::for_each_shape(tasks_, [&](std::span<Task> tasks) {
      if (needs_spare(tasks.front().pending)) ensure_spares(ctx, tasks);
    });
  }
  /// Bytes of scratch memory that `run` takes at most, with its primitives' own.
  index_t scratch_bytes(std::span<CoreSource<C, B>* const> sources) const {
    index_t sum = 0;
    index_t most = 0;
    for (const CoreSource<C, B>* source : sources) {
      const auto& basis = *source->basis();
      const index_t half =
          bytes_of((std::max)(basis.rows() * basis.in_extent(), basis.out_extent() * basis.cols()));
      sum += half;
      most = (std::max)(most, half);
    }
    return (std::min)(sum, (std::max)(most, batch_bytes_)) + index_t{4096};
  }
  /// Bytes of the spare arrays.
  index_t bytes() const {
    index_t sum = 0;
    for (const Spare& spare : spares_)
      sum += spare.memory.bytes();
    return sum;
  }

 private:
  struct Task {
    CoreSource<C, B>* source = nullptr;
    PendingCore<C, B> pending;
    bool columns_first = false;  ///< of both sides
    std::size_t number = 0;      ///< in the order of the sources
    std::shared_ptr<int> loan;   ///< of the sum's memory, from begin_core on

    /// Equal for products of one shape.
    auto shape() const {
      const auto& b = *pending.basis;
      return std::tuple(pending.in_place, pending.out, pending.in, pending.turned, columns_first,
                        b.out_extent(), b.in_extent(), b.rows(), b.cols(), pending.sum.stride);
    }
    bool operator<(const Task& other) const {
      return std::tuple_cat(shape(), std::tuple(number)) <
             std::tuple_cat(other.shape(), std::tuple(other.number));
    }
  };
  /// An array for a core, in use as long as somebody else holds the loan.
  struct Spare {
    Buffer<C, B> memory;
    std::shared_ptr<int> loan = std::make_shared<int>(0);
  };
  /// Where a core may stand.
  struct Place {
    C* data;
    std::shared_ptr<int> loan;
  };

  /// Forgets what keeps memory lent, in whatever way `run` ends.
  struct EndOfLoans {
    BatchedProjection& owner;
    ~EndOfLoans() {
      owner.tasks_.clear();
      owner.places_.clear();
      owner.place_size_ = 0;
    }
  };

  static index_t bytes_of(index_t elements) { return elements * static_cast<index_t>(sizeof(C)); }
  /// Products that are taken together, with results of `elements` elements each.
  index_t together(std::span<const Task> tasks, index_t elements) const {
    return detail::batch_size(static_cast<index_t>(tasks.size()), bytes_of(elements), batch_bytes_);
  }
  static bool needs_spare(const PendingCore<C, B>& p) { return p.in_place != 0 && !(p.out && p.in); }

  void gather(std::span<CoreSource<C, B>* const> sources, bool ready) {
    tasks_.clear();
    for (CoreSource<C, B>* source : sources) {
      const std::optional<PendingCore<C, B>> pending = source->pending_core();
      if (!pending || (ready && !pending->ready)) continue;
      const bool columns_first = pending->out && pending->in &&
                                 pending->model->projects_columns_first(shape_of(pending->basis->out()),
                                                                        shape_of(pending->basis->in()));
      tasks_.push_back({source, *pending, columns_first, tasks_.size(), nullptr});
    }
    std::sort(tasks_.begin(), tasks_.end());
  }
  /// Whether the product with S is that with U.
  static bool begins_with_columns(const Task& task) {
    return task.pending.out && task.pending.in ? task.columns_first : task.pending.in;
  }
  /// Y [out, c] = S U, or Y [r, in] = V^T S.
  void first_product(const Task& task, MatrixView<C> y) {
    const PendingCore<C, B>& p = task.pending;
    if (begins_with_columns(task)) {
      products_.add(p.sum, p.basis->in().factor(), y);
    } else {
      products_.add(p.basis->out().factor(), p.sum, y);
    }
  }
  void run_first(Context& ctx, const Task& like) {
    const Op op = like.pending.turned ? Op::transpose : Op::none;
    const bool columns = begins_with_columns(like);
    products_.run(ctx, columns ? op : Op::none, columns ? Op::transpose : op, C(0));
  }
  static void begin(std::span<Task> batch) {
    for (Task& task : batch)
      task.loan = task.source->begin_core();
  }

  /// Through halves in scratch memory; the core may then take the place of the sum.
  void take_both_sides(Context& ctx, std::span<Task> tasks) {
    const auto& basis = *tasks.front().pending.basis;
    const bool columns = tasks.front().columns_first;
    const index_t rows = columns ? basis.out_extent() : basis.rows();
    const index_t cols = columns ? basis.cols() : basis.in_extent();
    detail::for_each_batch(tasks, together(tasks, rows * cols), [&](std::span<Task> batch) {
      auto frame = ctx.frame();
      halves_.clear();
      for (const Task& task : batch) {
        halves_.push_back(frame.template matrix<C>(rows, cols));
        first_product(task, halves_.back());
      }
      begin(batch);
      run_first(ctx, batch.front());
      for (std::size_t t = 0; t < batch.size(); ++t) {
        const PendingCore<C, B>& p = batch[t].pending;
        const MatrixView<const C> first = halves_[t];
        if (columns) {
          products_.add(p.basis->out().factor(), first, p.core);
        } else {
          products_.add(first, p.basis->in().factor(), p.core);
        }
      }
      products_.run(ctx, Op::none, columns ? Op::none : Op::transpose, C(0));
      for (Task& task : batch)
        task.source->take_core(task.pending.core, nullptr);
    });
  }

  /// Each batch's cores stand where the sums of the batch before stood, those of the first in spare
  /// arrays. Without a spare array the sources make their cores themselves.
  void take_one_side(Context& ctx, std::span<Task> tasks) {
    if (const index_t size = tasks.front().pending.in_place; size != place_size_) {
      places_.clear();
      place_size_ = size;
      for (Spare& spare : spares_)
        if (spare.loan.use_count() == 1 && spare.memory.size() == size)
          places_.push_back({spare.memory.data(), spare.loan});
    }
    if (places_.empty()) return;
    detail::for_each_batch(tasks, static_cast<index_t>(places_.size()), [&](std::span<Task> batch) {
      const auto place_of = [&](std::size_t t) {
        const MatrixView<C>& own = batch[t].pending.core;
        return MatrixView<C>(places_[t].data, own.rows, own.cols);
      };
      for (std::size_t t = 0; t < batch.size(); ++t)
        first_product(batch[t], place_of(t));
      begin(batch);
      run_first(ctx, batch.front());
      for (std::size_t t = 0; t < batch.size(); ++t) {
        batch[t].source->take_core(place_of(t), places_[t].loan);
        places_[t] = {batch[t].pending.core.data, std::move(batch[t].loan)};
      }
    });
  }

  void ensure_spares(Context& ctx, std::span<const Task> tasks) {
    const index_t size = tasks.front().pending.in_place;
    auto missing = together(tasks, size);
    for (const Spare& spare : spares_)
      missing -= spare.memory.size() == size ? 1 : 0;
    for (; missing > 0; --missing) {
      Spare spare;
      spare.memory.resize(ctx, size);
      spares_.push_back(std::move(spare));
    }
  }

  index_t batch_bytes_;
  // Kept from step to step, so that a step takes no memory.
  std::vector<Task> tasks_;
  std::vector<MatrixView<C>> halves_;
  std::vector<Place> places_;  ///< for cores of one size that are still to be made
  index_t place_size_ = 0;     ///< elements of each
  std::vector<Spare> spares_;
  detail::ProductBatch<C, B> products_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
