// backend::FastestOf: the products of whichever host backend is the fastest on this machine.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "host/kernels.hpp"
#include "host/product_rates.hpp"
#include "product_choice.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend {

namespace detail {

/// The candidate's context that all others' contexts are a base of.
template <class First, class... Rest>
struct MostDerived {
  using type = First;
};
template <class First, class Second, class... Rest>
struct MostDerived<First, Second, Rest...>
    : MostDerived<std::conditional_t<std::is_base_of_v<First, Second>, Second, First>, Rest...> {};

}  // namespace detail

/// A host backend that takes its dense products from the fastest of `Candidates`, the eigenproblem
/// from the first one, and all else from the kernels that they share.
///
///     #include <sparsegrad/backend/fastest_of.hpp>
///     using Fastest = backend::FastestOf<backend::CpuBlas, backend::Cpu>;
///     Fastest::Context ctx;                              // measures, some tens of milliseconds
///     std::puts(ctx.products().of_float.c_str());        // "cpu_blas"
///     Fastest::Context same(0, false, ctx.products());   // measures nothing
///
/// Two runs of a program may choose differently where two candidates are about equally fast, and
/// then differ by rounding: a program that promises equal results keeps the choice of the first run
/// and hands it to the next one. The order counts: a candidate takes the place of one before it only
/// if it is over 5 % faster, by the geometric mean of its rates for products of 256 and of 14 rows
/// with a matrix of 256 x 256. So one that is a little faster for a few tokens does not win over one
/// that is much faster for many, and the other way round.
template <Backend... Candidates>
struct FastestOf : host::Kernels {
  static_assert(sizeof...(Candidates) > 0, "FastestOf needs a backend to choose from");

  /// Whether every candidate has products of T.
  template <class T>
  static constexpr bool all_multiply = is_compute_type<T> || (LowPrecisionBackend<Candidates, T> && ...);

  static constexpr const char* name() { return "cpu_fastest"; }
  /// The candidates' names.
  static std::vector<std::string> names() { return {Candidates::name()...}; }
  /// Rates of all candidates, in their order. Some 20 ms each, up to 150 ms where the library behind
  /// one has no kernels for this processor.
  static std::vector<host::ProductRates> rates() { return {host::product_rates<Candidates>()...}; }
  /// The fastest of each type. Rates of few rows count where all candidates have them.
  static ProductChoice fastest(const std::vector<host::ProductRates>& rates) {
    using Rate = double host::ProductRates::*;
    const auto best = [&](Rate large, Rate few) {
      const bool both = std::all_of(rates.begin(), rates.end(), [&](const auto& r) { return r.*few > 0; });
      const auto mean = [&](const host::ProductRates& r) {
        return both ? std::sqrt(r.*large * (r.*few)) : r.*large;
      };
      std::size_t chosen = 0;
      for (std::size_t i = 1; i < rates.size(); ++i)
        if (mean(rates[i]) > 1.05 * mean(rates[chosen])) chosen = i;
      return rates[chosen].backend;
    };
    return {best(&host::ProductRates::of_float, &host::ProductRates::few_of_float),
            best(&host::ProductRates::of_double, &host::ProductRates::few_of_double),
            best(&host::ProductRates::of_bfloat16, &host::ProductRates::few_of_bfloat16)};
  }

  /// What the candidates' contexts are, and the choice.
  class Context : public detail::MostDerived<typename Candidates::Context...>::type {
    using Base = typename detail::MostDerived<typename Candidates::Context...>::type;

   public:
    /// Measures the candidates, see HostContext for the rest.
    explicit Context(int threads = 0, bool deterministic = false)
        : Context(threads, deterministic, fastest(rates())) {}
    /// Takes the products of these candidates. Throws ValueError where a name is none's.
    Context(int threads, bool deterministic, const ProductChoice& choice)
        : Base(threads, deterministic), choice_(choice), numbers_(numbers_of(choice)) {}
    /// On a borrowed executor; measures the candidates on the calling thread.
    explicit Context(host::Executor& executor, bool deterministic = false)
        : Context(executor, deterministic, fastest(rates())) {}
    /// On a borrowed executor with the products of these candidates. Throws ValueError where a name
    /// is none's.
    Context(host::Executor& executor, bool deterministic, const ProductChoice& choice)
        : Base(executor, deterministic), choice_(choice), numbers_(numbers_of(choice)) {}

    /// Whose products it takes.
    const ProductChoice& products() const { return choice_; }

    /// Whether the chosen products of S = bfloat16 or float16 are the processor's own.
    template <class S>
    bool multiplies() const {
      return product_speedup<S>() > 1;
    }
    /// About how many times the rate of float products the chosen ones of T have, as far as their
    /// backend's context knows.
    template <class T>
    double product_speedup() const {
      double speedup = 1;
      const auto of = [&]<class B>() {
        using Own = typename B::Context;
        if constexpr (requires(const Own& own) { own.template product_speedup<T>(); })
          speedup = static_cast<const Own&>(*this).template product_speedup<T>();
      };
      with_number(number<T>(), of, std::index_sequence_for<Candidates...>());
      return speedup;
    }

   private:
    friend struct FastestOf;

    template <class T>
    std::size_t number() const {
      return is_low_precision<T> ? numbers_[2] : std::is_same_v<T, double> ? numbers_[1] : numbers_[0];
    }
    static std::array<std::size_t, 3> numbers_of(const ProductChoice& choice) {
      return {number_of(choice.of_float), number_of(choice.of_double), number_of(choice.of_low_precision)};
    }

    ProductChoice choice_;
    std::array<std::size_t, 3> numbers_;
  };

  template <class T>
  static index_t scratch_bound(const Context& ctx, index_t n) {
    index_t most = 0;
    ((most = (std::max)(most, Candidates::template scratch_bound<T>(ctx, n))), ...);
    return most;
  }
  template <class T>
  requires(all_multiply<T>) static void gemm(Context& ctx, Op op_a, Op op_b, compute_t<T> alpha,
                                             ConstMatrixView<T> a, ConstMatrixView<T> b, compute_t<T> beta,
                                             MatrixView<T> c) {
    with<T>(ctx, [&]<class B>() { B::template gemm<T>(ctx, op_a, op_b, alpha, a, b, beta, c); });
  }
  template <class T>
  requires(is_low_precision<T>&& all_multiply<T>) static void gemm_wide(Context& ctx, Op op_a, Op op_b,
                                                                        float alpha, ConstMatrixView<T> a,
                                                                        ConstMatrixView<T> b, float beta,
                                                                        MatrixView<float> s) {
    with<T>(ctx, [&]<class B>() { B::template gemm_wide<T>(ctx, op_a, op_b, alpha, a, b, beta, s); });
  }
  template <class T>
  static void gemm_batched(Context& ctx, Op op_a, Op op_b, std::type_identity_t<T> alpha,
                           std::span<const MatrixView<const T>> as, std::span<const MatrixView<const T>> bs,
                           std::type_identity_t<T> beta, std::span<const MatrixView<T>> cs) {
    with<T>(ctx, [&]<class B>() { B::template gemm_batched<T>(ctx, op_a, op_b, alpha, as, bs, beta, cs); });
  }
  template <class T>
  static void gram(Context& ctx, Op op, ConstMatrixView<T> a, double weight, MatrixView<double> g) {
    with<T>(ctx, [&]<class B>() { B::template gram<T>(ctx, op, a, weight, g); });
  }
  /// The first candidate's: rates of products say little of it.
  template <class = void>
  static void eigh(Context& ctx, MatrixView<double> a, double* w) {
    First::eigh(ctx, a, w);
  }

 private:
  using First = std::tuple_element_t<0, std::tuple<Candidates...>>;

  /// Place of the candidate of that name. Throws ValueError.
  static std::size_t number_of(const std::string& name) {
    const std::vector<std::string> all = names();
    std::string list;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i] == name) return i;
      list += (i == 0 ? "" : ", ") + all[i];
    }
    throw ValueError("the products are those of \"" + name + "\", expected one of: " + list);
  }

  /// Calls f with the candidate whose products of T the context takes.
  template <class T, class F>
  static void with(Context& ctx, F&& f) {
    with_number(ctx.template number<T>(), f, std::index_sequence_for<Candidates...>());
  }
  template <class F, std::size_t... Places>
  static void with_number(std::size_t number, F& f, std::index_sequence<Places...>) {
    ((number == Places ? f.template operator()<Candidates>() : void()), ...);
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend
