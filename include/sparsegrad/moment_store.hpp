// MomentStore: one or two moments for each entry of a core, for all entries or only for those met
// so far.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "core/buffer.hpp"
#include "core/float_bits.hpp"
#include "core_optimizer.hpp"
#include "default_backend.hpp"
#include "moment_layout.hpp"
#include "moment_state.hpp"
#include "sparse_gradient.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Moments m, v and counts of the entries of a core [rows, cols], all 0 at first: the memory of an
/// optimizer on sparse gradients.
///
/// The store is compact (sorted positions beside the moments, with room for `capacity` entries) or
/// dense (an element for every entry of the core, no positions), whichever takes fewer bytes. Its
/// memory is taken in the constructor, temporary memory from the context. A step of an optimizer is
///
///     auto frame = ctx.frame();
///     auto places = store.require_room(ctx, frame, s);        // throws what the step must refuse
///     store.admit(ctx, frame, s, places, report);             // goes dense, or forgets entries
///     store.insert(ctx, s, places);                           // from here on nothing throws
///     const stored_index_t* place = store.places(s, places);  // S's entry e stands at place[e]; null: at e
///
///     core 1x6, capacity 3, S = {1, 4}, then {0, 4}: held positions {1, 4}, then {0, 1, 4}, places {0, 2}
///
/// Finding k entries among n held ones takes O(k log n), inserting O(n), evicting what top_k takes
/// on n.
template <class T, Backend B = DefaultBackend>
class MomentStore {
 public:
  /// The backend's context.
  using Context = typename B::Context;
  /// The sparse gradients that it takes.
  using Gradient = SparseGradient<T, B>;

  /// Where the entries of S stand once those that are new are inserted. Its memory is the frame's.
  struct Places {
    stored_index_t* place = nullptr;  ///< null: not looked for
    stored_index_t* added = nullptr;  ///< entries of S that are new
    /// Number of entries that were not in the state.
    index_t added_count = 0;
  };

  /// Throws ValueError unless capacity >= 0 and rows * cols < 2^31.
  MomentStore(Context& ctx, index_t rows, index_t cols, const MomentLayout& layout)
      : layout_(layout), rows_(rows), cols_(cols) {
    require_moment_extents(rows, cols, layout.capacity);
    compact_ = layout.template starts_compact<T>(rows, cols);
    const index_t n = compact_ ? layout.capacity : rows * cols;
    index_.resize(ctx, compact_ ? n : 0);
    m_.resize(ctx, n);
    v_.resize(ctx, layout.second ? n : 0);
    count_.resize(ctx, layout.counts ? n : 0);
  }

  /// Rows of the core.
  index_t rows() const { return rows_; }
  /// Columns of the core.
  index_t cols() const { return cols_; }
  /// The form of the moments.
  const MomentLayout& layout() const { return layout_; }
  /// Whether the state holds some entries only, at their positions.
  bool compact() const { return compact_; }
  /// Entries with moments: held ones when compact, rows * cols when dense.
  index_t size() const { return compact_ ? held_ : rows_ * cols_; }
  /// Entries that there is room for.
  index_t capacity() const { return compact_ ? layout_.capacity : rows_ * cols_; }
  /// Bytes of backend memory held.
  index_t bytes() const { return index_.bytes() + m_.bytes() + v_.bytes() + count_.bytes(); }

  /// Positions [size()], rising; null when dense.
  const stored_index_t* index() const { return compact_ ? index_.data() : nullptr; }
  /// The moments [size()], and the counts; v and count are null where the layout has none.
  T* m() { return m_.data(); }
  /// First moments, to read.
  const T* m() const { return m_.data(); }
  /// Second moments; null when there are none.
  T* v() { return v_.data(); }
  /// Second moments, to read; null when there are none.
  const T* v() const { return v_.data(); }
  /// Each entry's own steps; null when they are not counted.
  std::int32_t* count() { return count_.data(); }
  /// Each entry's own steps, to read; null when they are not counted.
  const std::int32_t* count() const { return count_.data(); }

  /// Bytes of scratch memory that steps with at most k entries take here.
  index_t scratch_bound(const Context& ctx, index_t k) const {
    const auto entries = [](index_t n, std::size_t bytes) { return n * static_cast<index_t>(bytes); };
    index_t bytes = entries(k, 2 * sizeof(stored_index_t));
    if (!compact_) return bytes;
    if (!layout_.second) bytes += entries(capacity(), sizeof(T));
    if (layout_.overflow == Overflow::evict_smallest) {
      bytes += entries(capacity(), 2 * sizeof(T) + 2 * sizeof(stored_index_t)) +
               B::template scratch_bound<T>(ctx, capacity());
    }
    return bytes;
  }

  /// Throws what the store has against S, and changes nothing: ShapeError; CapacityError when S
  /// alone exceeds the capacity, or under Overflow::error; NonFiniteError when entries must be
  /// evicted by moments that hold NaN or Inf. Returns the places of S where it had to look for
  /// them, else none.
  template <class Frame>
  Places require_room(Context& ctx, Frame& frame, const Gradient& s) const {
    require_shape("S", s.rows(), s.cols(), rows_, cols_, "rows x cols of the optimizer's core");
    if (!compact_ || layout_.overflow == Overflow::go_dense) return {};
    const std::string policy = to_string(layout_.overflow);
    if (s.count() > layout_.capacity) {
      throw CapacityError("S has " + std::to_string(s.count()) +
                          " entries, expected at most the state's capacity " +
                          std::to_string(layout_.capacity) + " (overflow policy " + policy + ")");
    }
    if (held_ + s.count() <= layout_.capacity) return {};
    const Places places = find(ctx, frame, s);
    const index_t added = places.added_count;
    if (held_ + added <= layout_.capacity) return places;
    if (layout_.overflow == Overflow::error) {
      throw CapacityError("the state holds " + std::to_string(held_) + " entries and S brings " +
                          std::to_string(added) + " new ones, expected at most the capacity " +
                          std::to_string(layout_.capacity) + " together (overflow policy " + policy + ")");
    }
    if (B::template first_nonfinite<T>(ctx, m_.matrix(1, held_)) >= 0) {
      throw NonFiniteError(
          "entries must be evicted by their moments, which hold NaN or Inf; expected finite numbers");
    }
    return places;
  }

  /// The same check alone.
  void check(Context& ctx, const Gradient& s) const {
    auto frame = ctx.frame();
    (void)require_room(ctx, frame, s);
  }

  /// Goes dense where `admit` would for this S, and says whether it did. Changes no moment.
  bool make_room(Context& ctx, const Gradient& s) {
    if (!compact_ || layout_.overflow != Overflow::go_dense) return false;
    if (held_ + s.count() <= layout_.capacity) return false;
    auto frame = ctx.frame();
    if (s.count() <= layout_.capacity && held_ + find(ctx, frame, s).added_count <= layout_.capacity)
      return false;
    make_dense(ctx);
    return true;
  }

  /// Makes room for S after require_room, by going dense or by forgetting entries, and finds the
  /// places of its entries. When memory is short, nothing has changed.
  template <class Frame>
  void admit(Context& ctx, Frame& frame, const Gradient& s, Places& places, StepReport& report) {
    if (!compact_) return;
    if (s.count() > layout_.capacity) {
      make_dense(ctx);
      report.went_dense = true;
      return;
    }
    if (places.place == nullptr) places = find(ctx, frame, s);
    const index_t excess = held_ + places.added_count - layout_.capacity;
    if (excess > 0 && layout_.overflow == Overflow::go_dense) {
      make_dense(ctx);
      report.went_dense = true;
    } else if (excess > 0) {
      evict(ctx, s, excess);  // takes more scratch memory than what follows: that cannot run out
      report.evicted = excess;
      places = find(ctx, frame, s, places);
    }
  }

  /// Entries that the store has once S is inserted.
  index_t size_with(const Places& places) const { return compact_ ? held_ + places.added_count : size(); }

  /// Inserts S's new entries, with moments of 0, after `admit`.
  void insert(Context& ctx, const Gradient& s, const Places& places) {
    if (!compact_ || places.added_count == 0) return;
    auto frame = ctx.frame();
    T* v = v_.data();
    // The primitive moves two arrays.
    if (!layout_.second) v = frame.template take<T>(layout_.capacity);
    B::template insert_entries<T>(ctx, s.indices(), places.place, places.added, places.added_count,
                                  index_.data(), held_, m_.data(), v, count_.data());
    held_ += places.added_count;
  }

  /// Where S's entries stand among the moments, null for places 0, 1, 2, ...
  const stored_index_t* places(const Gradient& s, const Places& places) const {
    return compact_ ? places.place : s.indices();
  }

  /// Every moment and count to 0; a compact store then holds no entry. A store that went dense
  /// stays dense.
  void clear(Context& ctx) {
    held_ = 0;
    zero(ctx, m_);
    zero(ctx, v_);
    zero(ctx, count_);
  }

  /// Goes dense, with every moment kept.
  void make_dense(Context& ctx) {
    if (!compact_) return;
    Buffer<T, B> m = spread(ctx, m_);
    Buffer<T, B> v = spread(ctx, v_);
    Buffer<std::int32_t, B> count = spread(ctx, count_);
    m_ = std::move(m);
    v_ = std::move(v);
    count_ = std::move(count);
    index_.release();
    compact_ = false;
    held_ = 0;
  }

  /// A copy in host memory, without the optimizer's type, options and steps. The arrays are "m"
  /// and, where there is one, "v".
  OptimizerState<T> state(Context& ctx) const {
    OptimizerState<T> s;
    s.rows = rows_;
    s.cols = cols_;
    s.capacity = layout_.capacity;
    s.compact = compact_;
    if (compact_) s.index = host<stored_index_t>(ctx, index_.data(), size());
    s.arrays.push_back({"m", host<T>(ctx, m_.data(), size())});
    if (layout_.second) s.arrays.push_back({"v", host<T>(ctx, v_.data(), size())});
    s.counted = layout_.counts;
    if (layout_.counts) s.count = host<std::int32_t>(ctx, count_.data(), size());
    return s;
  }

  /// Entries that this store, new and for another basis, keeps of the moments of `old`, for
  /// transport_moments: as many as it had, up to the capacity. Null: it is to be dense, as `old`
  /// already was under Overflow::go_dense.
  std::optional<index_t> room_for(const MomentStore& old) const {
    if (!compact_ || (!old.compact_ && layout_.overflow == Overflow::go_dense)) return std::nullopt;
    return (std::min)(layout_.capacity, old.size());
  }

  /// Takes the moments of a state over, bit by bit, and its form (compact or dense). Throws what
  /// require_moments throws, with nothing changed.
  void restore(Context& ctx, const OptimizerState<T>& s) {
    require_moments(s, rows_, cols_, layout_);
    if (s.compact != compact_) {
      MomentStore other(ctx, rows_, cols_, layout_);
      if (!s.compact) other.make_dense(ctx);
      *this = std::move(other);
    }
    clear(ctx);
    if (compact_) {
      held_ = static_cast<index_t>(s.index.size());
      upload<stored_index_t>(ctx, s.index, index_);
    }
    upload<T>(ctx, s.array("m"), m_);
    if (layout_.second) upload<T>(ctx, s.array("v"), v_);
    if (layout_.counts) upload<std::int32_t>(ctx, s.count, count_);
  }

 private:
  template <class Frame>
  Places find(Context& ctx, Frame& frame, const Gradient& s, Places places = {}) const {
    if (places.place == nullptr) {
      places.place = frame.template take<stored_index_t>(s.count());
      places.added = frame.template take<stored_index_t>(s.count());
    }
    places.added_count =
        B::locate_entries(ctx, s.indices(), s.count(), index_.data(), held_, places.place, places.added);
    return places;
  }

  /// Forgets `excess` entries that are not in S.
  void evict(Context& ctx, const Gradient& s, index_t excess) {
    auto frame = ctx.frame();
    const index_t n = held_;
    const index_t keep = n - excess;
    // Which held entries are not in S: those that are new to it.
    stored_index_t* place = frame.template take<stored_index_t>(n);
    stored_index_t* outside = frame.template take<stored_index_t>(n);
    T* rank = frame.template take<T>(n);
    T* moved = frame.template take<T>(n);
    const index_t candidates =
        B::locate_entries(ctx, index_.data(), n, s.indices(), s.count(), place, outside);
    // Inf, by its bits and by copies alone, ranks above every moment (they are finite, see
    // require_room) and so keeps the entries of S.
    const auto infinity = std::bit_cast<T>(FloatBits<T>::infinity);
    B::template upload<T>(ctx, &infinity, moved, 1);
    B::template zero<stored_index_t>(ctx, place, n);
    B::template gather<T>(ctx, moved, place, n, rank);
    B::template gather<T>(ctx, m_.data(), outside, candidates, moved);
    B::template scatter<T>(ctx, moved, outside, candidates, rank);
    stored_index_t* kept = place;
    B::template top_k<T>(ctx, rank, n, keep, kept, moved);

    pack<stored_index_t>(ctx, kept, keep, index_.data(), outside);
    pack<T>(ctx, kept, keep, m_.data(), moved);
    if (layout_.second) pack<T>(ctx, kept, keep, v_.data(), moved);
    if (layout_.counts) pack<std::int32_t>(ctx, kept, keep, count_.data(), outside);
    held_ = keep;
  }
  /// x[e] = x[kept[e]]
  template <class X>
  static void pack(Context& ctx, const stored_index_t* kept, index_t keep, X* x, X* between) {
    if (keep == 0) return;
    B::template gather<X>(ctx, x, kept, keep, between);
    B::template copy<X>(ctx, MatrixView<const X>(between, 1, keep), MatrixView<X>(x, 1, keep));
  }

  template <class X>
  static void zero(Context& ctx, Buffer<X, B>& x) {
    if (!x.empty()) B::template zero<X>(ctx, x.data(), x.size());
  }
  /// An array of the compact store with an element for every entry of the core.
  template <class X>
  Buffer<X, B> spread(Context& ctx, const Buffer<X, B>& x) const {
    Buffer<X, B> all(ctx, x.empty() ? 0 : rows_ * cols_);
    if (!x.empty() && held_ > 0) B::template scatter<X>(ctx, x.data(), index_.data(), held_, all.data());
    return all;
  }
  template <class X>
  static void upload(Context& ctx, const std::vector<X>& from, Buffer<X, B>& to) {
    if (!from.empty()) B::template upload<X>(ctx, from.data(), to.data(), static_cast<index_t>(from.size()));
  }
  template <class X>
  static std::vector<X> host(Context& ctx, const X* from, index_t n) {
    std::vector<X> to(static_cast<std::size_t>(n));
    if (n > 0) B::template download<X>(ctx, from, to.data(), n);
    return to;
  }

  MomentLayout layout_;
  index_t rows_ = 0;
  index_t cols_ = 0;
  bool compact_ = false;
  index_t held_ = 0;                 ///< entries of a compact store
  Buffer<stored_index_t, B> index_;  ///< positions of a compact store, rising
  Buffer<T, B> m_;
  Buffer<T, B> v_;
  Buffer<std::int32_t, B> count_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
