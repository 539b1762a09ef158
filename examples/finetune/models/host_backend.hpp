// HostBackend: what the program computes with on the CPU.
#pragma once

#include <string>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#if defined(FINETUNE_ONEDNN)
#include <sparsegrad/backend/cpu_onednn.hpp>
#endif
#include <sparsegrad/backend/cpu_report.hpp>
#include <sparsegrad/backend/fastest_of.hpp>

#include "models/layers/few_rows.hpp"
#include "models/layers/step_profile.hpp"

namespace sparsegrad::finetune {

/// Products of oneDNN where the program was built with it, of the BLAS or of Eigen. A context measures
/// nothing by itself: which products a run takes is decided once, for all its contexts
/// (training/products.hpp).
#if defined(FINETUNE_ONEDNN)
using HostProducts = backend::FastestOf<backend::CpuOneDnn, backend::CpuBlas, backend::Cpu>;
#else
using HostProducts = backend::FastestOf<backend::CpuBlas, backend::Cpu>;
#endif

/// HostProducts, but for products x W^T of a few rows, which are the program's own (few_rows_product). A
/// context with a StepProfile counts the primitives; without one they cost a look at a pointer more.
struct HostBackend : HostProducts {
  /// The products of one backend for all types.
  static backend::ProductChoice all_of(const std::string& name) { return {name, name, name}; }

  /// Takes the first backend's products where no others are named.
  class Context : public HostProducts::Context {
   public:
    explicit Context(int threads = 0, bool deterministic = false,
                     const backend::ProductChoice& choice = all_of(names().front()))
        : HostProducts::Context(threads, deterministic, choice) {}

    StepProfile* profile() const { return profile_; }
    /// Borrowed; null: none.
    void profile(StepProfile* profile) { profile_ = profile; }

   private:
    StepProfile* profile_ = nullptr;
  };

  template <class T>
  requires(all_multiply<T>) static void gemm(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha,
                                             ConstMatrixView<T> a, ConstMatrixView<T> b, compute_t<T> beta,
                                             MatrixView<T> c) {
    product<T>(ctx, op_a, op_b, a, b, c, [&] {
      if (is_few_rows(op_a, op_b, a)) return few_rows_product<T, T>(ctx, alpha, a, b, beta, c);
      HostProducts::gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, c);
    });
  }
  template <class T>
  requires(is_low_precision<T>&& all_multiply<T>) static void gemm_wide(Context& ctx, Op op_a, Op op_b,
                                                                        float alpha, ConstMatrixView<T> a,
                                                                        ConstMatrixView<T> b, float beta,
                                                                        MatrixView<float> s) {
    product<T>(ctx, op_a, op_b, a, b, s, [&] {
      if (is_few_rows(op_a, op_b, a)) return few_rows_product<T, float>(ctx, alpha, a, b, beta, s);
      HostProducts::gemm_wide<T>(ctx, op_a, op_b, alpha, a, b, beta, s);
    });
  }

  template <class T>
  static void zero(Context& ctx, T* p, index_t n) {
    counted(ctx, Work::memory, bytes_of<T>(n), [&] { HostProducts::zero<T>(ctx, p, n); });
  }
  template <class T>
  static void copy(Context& ctx, ConstMatrixView<T> a, MatrixView<T> b) {
    counted(ctx, Work::memory, 2 * bytes_of<T>(a.size()), [&] { HostProducts::copy<T>(ctx, a, b); });
  }
  template <class S>
  static void widen(Context& ctx, ConstMatrixView<S> a, MatrixView<float> b) {
    counted(ctx, Work::memory, bytes_of<S>(a.size()) + bytes_of<float>(a.size()),
            [&] { HostProducts::widen<S>(ctx, a, b); });
  }
  template <class S>
  static void round_to(Context& ctx, ConstMatrixView<float> a, MatrixView<S> b) {
    counted(ctx, Work::memory, bytes_of<S>(a.size()) + bytes_of<float>(a.size()),
            [&] { HostProducts::round_to<S>(ctx, a, b); });
  }
  template <class T>
  static void scale(Context& ctx, std::type_identity_t<T> alpha, MatrixView<T> a) {
    counted(ctx, Work::memory, 2 * bytes_of<T>(a.size()), [&] { HostProducts::scale<T>(ctx, alpha, a); });
  }
  template <class T>
  static void add(Context& ctx, std::type_identity_t<T> alpha, ConstMatrixView<T> a, MatrixView<T> b) {
    counted(ctx, Work::memory, 3 * bytes_of<T>(a.size()), [&] { HostProducts::add<T>(ctx, alpha, a, b); });
  }
  template <class T>
  static void transpose(Context& ctx, ConstMatrixView<T> a, MatrixView<T> b) {
    counted(ctx, Work::memory, 2 * bytes_of<T>(a.size()), [&] { HostProducts::transpose<T>(ctx, a, b); });
  }
  template <class T>
  static void add_to_rows(Context& ctx, const T* v, MatrixView<T> a) {
    counted(ctx, Work::column_sums, 2 * bytes_of<T>(a.size()),
            [&] { HostProducts::add_to_rows<T>(ctx, v, a); });
  }
  template <class T>
  static void column_sums(Context& ctx, ConstMatrixView<T> a, compute_t<T>* sums) {
    counted(ctx, Work::column_sums, bytes_of<T>(a.size()),
            [&] { HostProducts::column_sums<T>(ctx, a, sums); });
  }
  template <class T>
  static void hadamard(Context& ctx, const T* signs, bool inverse, TransformSide side, MatrixView<T> a) {
    counted(ctx, Work::rotation, 2 * bytes_of<T>(a.size()),
            [&] { HostProducts::hadamard<T>(ctx, signs, inverse, side, a); });
  }
  template <class T>
  static index_t first_nonfinite(Context& ctx, ConstMatrixView<T> a) {
    return counted(ctx, Work::selection, bytes_of<T>(a.size()),
                   [&] { return HostProducts::first_nonfinite<T>(ctx, a); });
  }
  template <class T>
  static void top_k(Context& ctx, const T* x, index_t n, index_t k, stored_index_t* index, T* value) {
    counted(ctx, Work::selection, bytes_of<T>(n + k) + bytes_of<stored_index_t>(k),
            [&] { HostProducts::top_k<T>(ctx, x, n, k, index, value); });
  }
  template <class T>
  static void adam(Context& ctx, const AdamCoefficients& c, const T* g, const stored_index_t* entry,
                   index_t k, T* m, T* v, std::int32_t* count, T* d) {
    if (StepProfile* const profile = ctx.profile()) profile->begin_update();
    counted(ctx, Work::sparse_adam, bytes_of<T>(6 * k) + bytes_of<stored_index_t>(k),
            [&] { HostProducts::adam<T>(ctx, c, g, entry, k, m, v, count, d); });
  }
  template <class = void>
  static index_t locate_entries(Context& ctx, const stored_index_t* index, index_t k,
                                const stored_index_t* held, index_t n, stored_index_t* place,
                                stored_index_t* added) {
    return counted(ctx, Work::sparse_adam, bytes_of<stored_index_t>(2 * k + n),
                   [&] { return HostProducts::locate_entries(ctx, index, k, held, n, place, added); });
  }
  template <class T>
  static void insert_entries(Context& ctx, const stored_index_t* index, const stored_index_t* place,
                             const stored_index_t* added, index_t q, stored_index_t* held, index_t n, T* m,
                             T* v, std::int32_t* count) {
    counted(ctx, Work::sparse_adam, 2 * bytes_of<T>(2 * n) + 2 * bytes_of<stored_index_t>(n),
            [&] { HostProducts::insert_entries<T>(ctx, index, place, added, q, held, n, m, v, count); });
  }
  template <class T>
  static void gather(Context& ctx, const T* x, const stored_index_t* index, index_t k, T* value) {
    counted(ctx, Work::memory, 2 * bytes_of<T>(k) + bytes_of<stored_index_t>(k),
            [&] { HostProducts::gather<T>(ctx, x, index, k, value); });
  }
  template <class T>
  static void scatter(Context& ctx, const T* value, const stored_index_t* index, index_t k, T* x) {
    counted(ctx, Work::memory, 2 * bytes_of<T>(k) + bytes_of<stored_index_t>(k),
            [&] { HostProducts::scatter<T>(ctx, value, index, k, x); });
  }
  template <class T>
  static void scatter_add(Context& ctx, const stored_index_t* row, const stored_index_t* col, const T* value,
                          index_t k, MatrixView<T> m) {
    counted(ctx, Work::weight_update, 3 * bytes_of<T>(k) + 2 * bytes_of<stored_index_t>(k),
            [&] { HostProducts::scatter_add<T>(ctx, row, col, value, k, m); });
  }
  template <class T>
  static void expand_rows(Context& ctx, const stored_index_t* row, const stored_index_t* col, const T* value,
                          index_t k, ConstMatrixView<T> f, MatrixView<T> m) {
    const auto need = [&] {
      return StepProfile::Need{
          2 * static_cast<double>(k) * static_cast<double>(f.cols),
          bytes_of<T>(std::min(f.size(), k * f.cols) + 2 * std::min(m.size(), k * m.cols))};
    };
    profiled(ctx, Work::weight_update, need,
             [&] { HostProducts::expand_rows<T>(ctx, row, col, value, k, f, m); });
  }
  template <class T>
  static void gather_rows(Context& ctx, ConstMatrixView<T> f, const stored_index_t* list, index_t q,
                          MatrixView<T> p) {
    counted(ctx, Work::weight_update, 2 * bytes_of<T>(q * f.cols),
            [&] { HostProducts::gather_rows<T>(ctx, f, list, q, p); });
  }
  template <class T>
  static void add_columns(Context& ctx, ConstMatrixView<T> p, const stored_index_t* list, MatrixView<T> m) {
    counted(ctx, Work::weight_update, bytes_of<T>(p.size() + 2 * p.size()),
            [&] { HostProducts::add_columns<T>(ctx, p, list, m); });
  }
  template <class = void>
  static index_t group_support(Context& ctx, const stored_index_t* index, index_t k, index_t rows,
                               index_t cols, bool columns, stored_index_t* group, stored_index_t* other,
                               stored_index_t* order, stored_index_t* list) {
    return counted(ctx, Work::weight_update, bytes_of<stored_index_t>(4 * k), [&] {
      return HostProducts::group_support(ctx, index, k, rows, cols, columns, group, other, order, list);
    });
  }

 private:
  /// Work of `bytes`; zeros and copies for the weights' update are part of it.
  template <class F>
  static auto counted(Context& ctx, Work kind, double bytes, F&& f) {
    const StepProfile* const profile = ctx.profile();
    if (profile != nullptr && profile->updating() && kind == Work::memory) kind = Work::weight_update;
    return profiled_bytes(ctx, kind, bytes, f);
  }

  template <class T>
  static bool is_few_rows(Op op_a, Op op_b, MatrixView<const T> a) {
    return op_a == Op::none && op_b == Op::transpose && a.rows <= few_rows;
  }

  template <class T, class Out, class F>
  static void product(Context& ctx, Op op_a, Op op_b, MatrixView<const T> a, MatrixView<const T> b,
                      MatrixView<Out> c, F&& f) {
    const StepProfile* const profile = ctx.profile();
    if (profile == nullptr) return f();
    const index_t depth = op_a == Op::none ? a.cols : a.rows;
    const auto need = [&] {
      return StepProfile::Need{2 * static_cast<double>(c.size()) * static_cast<double>(depth),
                               bytes_of<T>(a.size() + b.size()) + bytes_of<Out>(c.size()),
                               is_low_precision<T>};
    };
    profiled(ctx, profile->product_kind(op_a, op_b, b.data, c.data), need, f);
  }
};

}  // namespace sparsegrad::finetune
