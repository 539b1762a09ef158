// BasisCollection: the gradients of a group's layers, summed by the basis that they are to share,
// and the fit.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "group_options.hpp"
#include "hosvd_accumulator.hpp"
#include "tucker_basis.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Collects the gradients of several layers and fits their bases: one accumulator for each basis to
/// come.
///
/// Under BasisScope::kind all layers of one kind share it, under BasisScope::layer each has its
/// own.
///
///     BasisCollection<float, B> collection(ctx, layers, recipe);
///     collection.sums(i)->add(ctx, {dW, out, in});                // any number of gradients
///     collection.fit(ctx);
///     collection.basis(i);
template <class C, Backend B>
class BasisCollection {
 public:
  /// The backend's context.
  using Context = typename B::Context;
  /// What a basis is fitted from.
  using Accumulator = HosvdAccumulator<C, B>;
  /// The bases of the core.
  using Basis = TuckerBasis<C, B>;

  /// What a collection asks of one layer.
  struct Layer {
    /// Name of the kind of layer, whose members may share a basis.
    std::string kind;
    /// Rows of its gradients.
    index_t out = 0;
    /// Columns of its gradients.
    index_t in = 0;
  };

  /// Throws ShapeError when weights of one kind differ in extents under BasisScope::kind; what
  /// recipe.sides throws.
  BasisCollection(Context& ctx, std::span<const Layer> layers, const BasisRecipe& recipe) {
    require_recipe(recipe);
    std::map<std::string, Entry*> of_kind;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const Layer& layer = layers[i];
      Entry*& entry = of_kind[recipe.scope == BasisScope::kind ? layer.kind : std::to_string(i)];
      if (entry == nullptr) {
        entries_.push_back(make(ctx, layer, recipe));
        entry = entries_.back().get();
      } else if (entry->layer.out != layer.out || entry->layer.in != layer.in) {
        throw ShapeError("a weight of kind '" + layer.kind + "' is " + shape_text(layer.out, layer.in) +
                         ", another " + shape_text(entry->layer.out, entry->layer.in) +
                         "; weights of one kind share a basis and must have the same extents");
      }
      of_.push_back(entry);
    }
  }

  /// That of a group's members. Throws StateError when one whose gradients are needed can form
  /// none.
  template <class Members>
  static BasisCollection of(Context& ctx, const Members& members, const BasisRecipe& recipe) {
    std::vector<Layer> layers;
    for (const auto& m : members)
      layers.push_back({m.kind, m.source->out_extent(), m.source->in_extent()});
    BasisCollection collection(ctx, layers, recipe);
    for (const auto& m : members)
      if (collection.sums(m.number) != nullptr) m.source->require_weight_gradient("collect");
    return collection;
  }

  /// Sums of layer i's gradients; null where its recipe needs none.
  Accumulator* sums(index_t i) { return entry(i).needs_gradients() ? entry(i).sums.get() : nullptr; }
  /// Whether any recipe needs gradients.
  bool needs_gradients() const {
    for (const auto& entry : entries_)
      if (entry->needs_gradients()) return true;
    return false;
  }

  /// Sums over processes that have each collected gradients of their own (HosvdAccumulator::reduce).
  template <class F>
  void reduce(Context& ctx, F&& sum) {
    for (auto& entry : entries_)
      if (entry->needs_gradients()) entry->sums->reduce(ctx, sum);
  }
  /// Fits every basis. Throws StateError when gradients were needed and none came, or when a part of
  /// them is to be kept and all were 0; what TuckerBasis::fit throws.
  void fit(Context& ctx) {
    for (auto& entry : entries_) {
      if (entry->needs_gradients() && entry->sums->count() == 0) {
        throw StateError("the basis of kind '" + entry->layer.kind + "', " +
                         shape_text(entry->layer.out, entry->layer.in) +
                         ", needs gradients, and none was collected: none came, or all held NaN or Inf");
      }
      entry->basis = Basis::fit(ctx, *entry->sums, entry->sides.out, entry->sides.in);
      if (entry->needs_gradients() && entry->sums->total_energy() == 0 && entry->cuts()) {
        throw StateError("the basis of kind '" + entry->layer.kind + "', " +
                         shape_text(entry->layer.out, entry->layer.in) + ", cannot be cut to " +
                         shape_text(entry->basis->rows(), entry->basis->cols()) + ": all " +
                         std::to_string(entry->sums->count()) +
                         " gradients that were collected are 0; full or random sides need none");
      }
    }
  }
  /// The fitted basis of layer i: one object for the layers that share it.
  const std::shared_ptr<const Basis>& basis(index_t i) const {
    return of_[static_cast<std::size_t>(i)]->basis;
  }

  /// Bytes of backend memory held.
  index_t bytes() const {
    index_t sum = 0;
    for (const auto& entry : entries_)
      sum += entry->sums->bytes();
    return sum;
  }

 private:
  struct Entry {
    Layer layer;
    SideRecipes sides;
    std::unique_ptr<Accumulator> sums;
    std::shared_ptr<const Basis> basis;

    bool needs_gradients() const { return sides.out.needs_gradients() || sides.in.needs_gradients(); }
    /// Whether the basis leaves out vectors of a side that is computed from gradients.
    bool cuts() const {
      return (sides.out.needs_gradients() && basis->rows() < layer.out) ||
             (sides.in.needs_gradients() && basis->cols() < layer.in);
    }
  };

  static std::unique_ptr<Entry> make(Context& ctx, const Layer& layer, const BasisRecipe& recipe) {
    auto entry = std::make_unique<Entry>();
    entry->layer = layer;
    entry->sides = recipe.sides(layer.kind);
    HosvdOptions options;
    options.out_side = entry->sides.out.needs_gradients();
    options.in_side = entry->sides.in.needs_gradients();
    options.normalize = recipe.normalize;
    options.gram_limit_bytes = recipe.gram_limit_bytes;
    entry->sums = std::make_unique<Accumulator>(ctx, layer.out, layer.in, options);
    return entry;
  }
  Entry& entry(index_t i) { return *of_[static_cast<std::size_t>(i)]; }

  std::vector<std::unique_ptr<Entry>> entries_;
  std::vector<Entry*> of_;  ///< by layer
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
