#include "training/memory/memory_estimate.hpp"

#include <algorithm>

#include <fmt/format.h>
#include "models/host_backend.hpp"

namespace sparsegrad::finetune {

namespace {

constexpr auto number = static_cast<index_t>(sizeof(float));
constexpr auto place = static_cast<index_t>(sizeof(stored_index_t));

/// A number of bytes that is known only to lie between two.
struct Range {
  index_t least = 0;
  index_t most = 0;

  Range& operator+=(const Range& other) {
    least += other.least;
    most += other.most;
    return *this;
  }
};

Range operator*(index_t factor, const Range& r) {
  return {factor * r.least, factor * r.most};
}

/// How many vectors a side of this extent keeps.
Range rank_of(const SideRecipe& rule, index_t extent) {
  if (const auto* random = std::get_if<SideRecipe::Random>(&rule.choice())) {
    const index_t rank = random->rank == 0 ? extent : std::min(random->rank, extent);
    return {rank, rank};
  }
  const auto* hosvd = std::get_if<SideRecipe::Hosvd>(&rule.choice());
  if (hosvd == nullptr) return {extent, extent};
  const Truncation::Choice& truncation = hosvd->truncation.choice();
  if (std::holds_alternative<Truncation::Full>(truncation)) return {extent, extent};
  if (const auto* fixed = std::get_if<Truncation::Rank>(&truncation)) {
    const index_t rank = std::min(fixed->rank, extent);
    return {rank, rank};
  }
  return {1, extent};
}

Range bytes_of_side(const SideRecipe& rule, index_t extent) {
  if (std::holds_alternative<SideRecipe::Identity>(rule.choice())) return {};
  if (std::holds_alternative<SideRecipe::Hadamard>(rule.choice())) return {number * extent, number * extent};
  return extent * number * rank_of(rule, extent);
}

/// The sums from which a side is fitted (HosvdAccumulator).
index_t collection_of_side(const SideRecipe& rule, index_t extent) {
  if (!rule.needs_gradients()) return 0;
  HosvdOptions options;
  options.in_side = false;
  return HosvdAccumulator<float, HostBackend>::bytes_for(extent, 0, options);
}

/// What a sparsely stepped matrix takes besides its gradient.
struct MatrixCost {
  Range core;        ///< entries
  Range optimizer;   ///< SparseAdam's state
  Range gradient;    ///< the kept entries
  Range update;      ///< shared by the matrices of a kind
  Range basis;       ///< shared under BasisScope::kind
  index_t sums = 0;  ///< as the basis
  index_t fit = 0;   ///< working memory of the fit
};

index_t entries_bytes(index_t kept, index_t core) {
  return kept * (number + (kept < core ? place : 0));
}

MatrixCost cost_of(const SparseOptions& options, const std::string& kind, index_t out, index_t in) {
  const SideRecipes rules = options.sides.rules(kind);
  const Range rows = rank_of(rules.out, out);
  const Range cols = rank_of(rules.in, in);
  MatrixCost cost;
  cost.core = {rows.least * cols.least, rows.most * cols.most};
  index_t kept = kept_entries(options, out * in);
  if (options.defects.signed_selection) kept = std::min(3 * kept, out * in);
  const auto optimizer = [&](index_t core, bool most) {
    SparseAdamOptions adam;
    adam.semantics = options.adam;
    const index_t k = std::min(kept, core);
    const double room = options.state_capacity * static_cast<double>(k);
    adam.capacity = room < static_cast<double>(core) ? static_cast<index_t>(room) : 0;
    const index_t counts = options.adam == AdamSemantics::per_entry_step ? place : 0;
    const bool compact = SparseAdam<float, HostBackend>::starts_compact(core, 1, adam);
    if (!compact || (most && options.overflow == Overflow::go_dense)) return core * (2 * number + counts);
    return adam.capacity * (2 * number + place + counts);
  };
  cost.optimizer = {optimizer(cost.core.least, false), optimizer(cost.core.most, true)};
  const auto gradient = [&](index_t core) { return entries_bytes(std::min(kept, core), core); };
  cost.gradient = {gradient(cost.core.least), gradient(cost.core.most)};
  // Under dense_core every entry with a moment changes in every step.
  cost.update = options.adam == AdamSemantics::dense_core ? number * cost.core : cost.gradient;
  cost.update.least = std::min(cost.update.least, cost.gradient.least);
  cost.basis = bytes_of_side(rules.out, out);
  cost.basis += bytes_of_side(rules.in, in);
  cost.sums = collection_of_side(rules.out, out) + collection_of_side(rules.in, in);
  // A side's sums are copied, and its vectors computed beside the copy.
  cost.fit = 2 * std::max(collection_of_side(rules.out, out), collection_of_side(rules.in, in));
  return cost;
}

double mib(index_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

}  // namespace

MemoryEstimate estimate_memory(const ModelConfig& c, const TrainOptions& options, index_t tokens) {
  const index_t stored = options.dtype == NumberType::float32 ? number : 2;  // of activations, and of copies
  const index_t matrix = c.hidden * c.intermediate;
  const index_t matrices = 2 * c.layers * matrix;
  const index_t mlp_biases = c.layers * (c.intermediate + c.hidden);
  const index_t head = c.hidden * c.hidden + c.hidden + c.num_labels * (c.hidden + 1);
  const index_t embeddings = (c.vocab_size + c.max_positions + c.type_vocab_size + 2) * c.hidden;
  const index_t attention = c.layers * (4 * c.hidden * c.hidden + 4 * c.hidden + 4 * c.hidden);
  const bool lora = options.run_type == RunType::lora;
  const index_t rank = lora ? options.lora.rank : 0;
  const index_t adapters = 2 * c.layers * rank * (c.hidden + c.intermediate);

  index_t dense = mlp_biases + head + adapters;
  if (options.trained == TrainedParameters::all) dense += embeddings + attention;
  const bool dense_mlp = options.run_type == RunType::ft || options.run_type == RunType::meprop;

  const index_t a_layer = 8 * c.hidden + 2 * c.intermediate + 2 * rank;
  const index_t statistics = c.layers * (c.heads + 2);
  const index_t in_flight = 9 * c.hidden + c.intermediate + rank;

  MemoryEstimate estimate;
  MemoryParts& training = estimate.training;
  training.weights = number * (matrices + mlp_biases + head + embeddings + attention + adapters);
  if (stored < number)
    training.weights += stored * (matrices + head + adapters + c.layers * 4 * c.hidden * c.hidden);
  training.gradients = number * dense;
  training.optimizer = 2 * number * dense;
  training.activations = tokens * (stored * (c.layers * a_layer + in_flight) + number * statistics);
  if (dense_mlp) {
    training.gradients += number * matrices;
    training.optimizer += 2 * number * matrices;
  }
  const auto certain = [](const MemoryParts& p) { return p.weights + p.gradients + p.optimizer; };
  estimate.least = certain(training);
  if (!options.steps_sparsely()) return estimate;

  const SparseOptions& sparse = options.sparse;
  const MatrixCost up = cost_of(sparse, "up", c.intermediate, c.hidden);
  const MatrixCost down = cost_of(sparse, "down", c.hidden, c.intermediate);
  const index_t bases = sparse.scope == BasisScope::kind ? 1 : c.layers;
  Range gradients;
  Range optimizer;
  Range basis;
  for (const MatrixCost& cost : {up, down}) {
    gradients += c.layers * cost.gradient;
    gradients += cost.update;
    optimizer += c.layers * cost.optimizer;
    basis += bases * cost.basis;
  }
  const index_t sums = bases * (up.sums + down.sums);
  const index_t fit = std::max(up.fit, down.fit);
  const index_t shared = options.shares_gradient_memory() ? matrix : 0;
  const Range cores{c.layers * (up.core.least + down.core.least), matrices};
  // Shared memory holds one core, and whole gradients where later ones are collected.
  const index_t one_core = sparse.needs_gradients() && sparse.refresh_every > 0
                               ? shared
                               : std::max(up.core.least, down.core.least);
  const Range whole = shared > 0 ? Range{number * one_core, number * shared} : number * cores;

  if (sparse.needs_gradients()) {
    MemoryParts& phase1 = estimate.phase1;
    phase1 = training;
    phase1.gradients += number * (shared > 0 ? shared : matrices);
    phase1.collection = sums;
    MemoryParts end = phase1;  // the dense optimizer of the matrices is gone when the bases are fitted
    end.activations += fit;
    end.basis = basis.most;
    if (sparse.phase1_fixed_matrices) {
      if (!sparse.keep_phase1) phase1.weights += number * dense;
    } else {
      phase1.optimizer += 2 * number * matrices;
    }
    estimate.least = certain(phase1) + phase1.collection;
    if (end.sum() > phase1.sum()) phase1 = end;
  }
  estimate.least = std::max(
      estimate.least, certain(training) + whole.least + gradients.least + optimizer.least + basis.least);
  training.gradients += whole.most + gradients.most;
  training.optimizer += optimizer.most;
  training.basis = basis.most;
  // Products on the way to the core and back.
  training.activations += 2 * number * matrix;
  if (sparse.needs_gradients() && sparse.refresh_every > 0) {
    training.collection = sums;
    training.basis *= 2;  // the new ones are made before the old ones go
    training.activations += fit;
  }
  return estimate;
}

nlohmann::json to_json(const MemoryEstimate& estimate) {
  const bool two = estimate.phase1.sum() > 0;
  return {{"phase1", two ? to_json(estimate.phase1) : nlohmann::json()},
          {"training", to_json(estimate.training)},
          {"least_bytes", estimate.least},
          {"most_bytes", estimate.largest().sum()}};
}

void require_memory(const MemoryEstimate& estimate, index_t available) {
  if (available <= 0 || estimate.least <= available) return;
  const MemoryParts& p = estimate.largest();
  throw ModelError(fmt::format(
      "this run needs at least {:.0f} MiB of memory, and up to {:.0f} (weights {:.0f}, gradients {:.0f}, "
      "optimizer "
      "{:.0f}, activations {:.0f}, bases and what they are fitted from {:.0f}{}); {:.0f} MiB are available. "
      "A smaller "
      "model, --run-type sparse --phase1-fixed-matrices or lora, or --train-parameters mlp need less",
      mib(estimate.least), mib(p.sum()), mib(p.weights), mib(p.gradients), mib(p.optimizer),
      mib(p.activations), mib(p.basis + p.collection), &p == &estimate.phase1 ? ", in phase 1" : "",
      mib(available)));
}

}  // namespace sparsegrad::finetune
