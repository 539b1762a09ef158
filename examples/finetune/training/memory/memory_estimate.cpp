#include "training/memory/memory_estimate.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>
#include "models/decoder/decoder_names.hpp"
#include "models/host_backend.hpp"
#include "models/mlp/frozen_weight.hpp"
#include "training/causal_parts.hpp"
#include "training/mlp/sparse_setup.hpp"

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
  const index_t most = largest_rank(rule, extent);
  const auto* hosvd = std::get_if<SideRecipe::Hosvd>(&rule.choice());
  if (hosvd == nullptr) return {most, most};
  const Truncation::Choice& truncation = hosvd->truncation.choice();
  const bool known = std::holds_alternative<Truncation::Full>(truncation) ||
                     std::holds_alternative<Truncation::Rank>(truncation);
  return {known ? most : 1, most};
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
  index_t kept = 0;  ///< entries that a step changes
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
  cost.kept = kept;
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

/// Trained matrices of one kind, which are of one shape.
struct MatrixGroup {
  std::string kind;
  index_t out = 0;
  index_t in = 0;
  index_t count = 0;

  index_t entries() const { return out * in; }
};

/// Elements that a matrix's gradient takes (CoreGradient) in steps whose micro-batches have `tokens` tokens.
index_t gradient_elements(const TrainOptions& options, const MatrixGroup& group, index_t tokens) {
  const SideRecipes rules = options.sparse.sides.rules(group.kind);
  const auto shape = [](const SideRecipe& rule, index_t extent) {
    const bool identity = std::holds_alternative<SideRecipe::Identity>(rule.choice());
    const bool hadamard = std::holds_alternative<SideRecipe::Hadamard>(rule.choice());
    const SideKind kind = identity ? SideKind::identity : hadamard ? SideKind::hadamard : SideKind::factor;
    return SideShape{kind, extent, rank_of(rule, extent).most};
  };
  const SideShape out = shape(rules.out, group.out);
  const SideShape in = shape(rules.in, group.in);
  const Plan plan =
      parse_plan(options.sparse.plan).value_or(choose_plan(out, in, {tokens, options.accumulation}));
  const index_t rows = plan.out == SideOrder::project_first ? out.rank : group.out;
  const index_t cols = plan.in == SideOrder::project_first ? in.rank : group.in;
  return std::max(rows * cols, out.rank * in.rank);
}

/// What updates take that are kept beside a matrix (AccumulatedUpdate), after `steps` steps of the same basis (0: not
/// known): entries with their places, or all numbers of the core where that is less; with refreshes those of earlier
/// bases, at most a matrix.
Range update_bytes(const SparseOptions& options, const MatrixGroup& group, const MatrixCost& cost,
                   index_t steps) {
  const auto of = [&](index_t core, index_t entries) {
    return std::min(number * core, (number + place) * std::min(entries, core));
  };
  const index_t times = steps > 0 ? std::min(steps, cost.core.most) : cost.core.most;
  Range bytes{of(cost.core.least, cost.kept), of(cost.core.most, times * cost.kept)};
  if (options.needs_gradients() && options.refresh_every > 0 && (steps == 0 || steps > options.refresh_every))
    bytes.most += number * group.entries();
  return bytes;
}

/// Puts into `estimate`, whose training has weights, activations, and gradients and optimizer of `dense` numbers, what the
/// run type does to the matrices. `tokens` of a micro-batch say how gradients are summed (0: not known). `beside`: sparse
/// updates are kept beside matrices that stay as they are, for `steps` steps.
void add_matrices(MemoryEstimate& estimate, const TrainOptions& options,
                  const std::vector<MatrixGroup>& groups, index_t dense, index_t tokens = 0,
                  bool beside = false, index_t steps = 0) {
  MemoryParts& training = estimate.training;
  index_t matrices = 0;
  index_t largest = 0;
  for (const MatrixGroup& group : groups) {
    matrices += group.count * group.entries();
    largest = std::max(largest, group.entries());
  }
  const index_t gradients_of_each = options.keeps_sums_aside() ? 2 : 1;
  if (options.keeps_sums_aside()) training.gradients += number * dense;
  if (options.run_type == RunType::ft || options.run_type == RunType::meprop) {
    training.gradients += gradients_of_each * number * matrices;
    training.optimizer += 2 * number * matrices;
  }
  const auto certain = [](const MemoryParts& p) { return p.weights + p.gradients + p.optimizer; };
  estimate.least = certain(training);
  if (!options.steps_sparsely()) return;

  const SparseOptions& sparse = options.sparse;
  Range gradients;
  Range optimizer;
  Range basis;
  Range updates;
  index_t sums = 0;
  index_t fit = 0;
  index_t least_core = 0;
  index_t least_cores = 0;
  index_t summed = 0;
  for (const MatrixGroup& group : groups) {
    const MatrixCost cost = cost_of(sparse, group.kind, group.out, group.in);
    const index_t bases = sparse.scope == BasisScope::kind ? 1 : group.count;
    gradients += group.count * cost.gradient;
    gradients += cost.update;
    optimizer += group.count * cost.optimizer;
    basis += bases * cost.basis;
    sums += bases * cost.sums;
    fit = std::max(fit, cost.fit);
    if (beside) updates += group.count * update_bytes(sparse, group, cost, steps);
    least_core = std::max(least_core, cost.core.least);
    least_cores += group.count * cost.core.least;
    summed += group.count * gradient_elements(options, group, std::max<index_t>(tokens, 1));
  }
  const index_t shared = options.shares_gradient_memory() ? largest : 0;
  // Later bases are fitted to whole gradients.
  const bool knows_sums = tokens > 0 && !(sparse.needs_gradients() && sparse.refresh_every > 0);
  const Range cores{gradients_of_each * least_cores, gradients_of_each * (knows_sums ? summed : matrices)};
  // Shared memory holds one core, and whole gradients where later ones are collected.
  const index_t one_core = sparse.needs_gradients() && sparse.refresh_every > 0 ? shared : least_core;
  const Range whole = shared > 0 ? Range{number * one_core, number * shared} : number * cores;

  if (sparse.needs_gradients()) {
    MemoryParts& phase1 = estimate.phase1;
    phase1 = training;
    phase1.gradients += number * (options.phase1_takes_turns() ? largest : gradients_of_each * matrices);
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
  estimate.least = std::max(estimate.least, certain(training) + whole.least + gradients.least +
                                                optimizer.least + basis.least + updates.least);
  training.weights += updates.most;
  training.gradients += whole.most + gradients.most;
  training.optimizer += optimizer.most;
  training.basis = basis.most;
  // Products on the way to the core and back; or, larger, a matrix with its update and the copy of 16 bits.
  training.activations += 2 * number * largest;
  if (sparse.needs_gradients() && sparse.refresh_every > 0) {
    training.collection = sums;
    training.basis *= 2;  // the new ones are made before the old ones go
    training.activations += fit;
  }
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
  const index_t rank = options.run_type == RunType::lora ? options.lora.rank : 0;
  const index_t adapters = 2 * c.layers * rank * (c.hidden + c.intermediate);

  index_t dense = mlp_biases + head + adapters;
  if (options.trained == TrainedParameters::all) dense += embeddings + attention;

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
  add_matrices(estimate, options,
               {{"up", c.intermediate, c.hidden, c.layers}, {"down", c.hidden, c.intermediate, c.layers}},
               dense);
  return estimate;
}

MemoryEstimate estimate_memory(const DecoderConfig& c, const TrainOptions& options, index_t tokens,
                               const PackedMatrices& packed, index_t steps) {
  const index_t stored = options.dtype == NumberType::float32 ? number : 2;
  const TrainedParts parts = trained_parts(options, c);
  index_t all = c.vocab_size * c.hidden * (c.tied_embeddings ? 1 : 2) + (2 * c.layers + 1) * c.hidden;
  if (c.qkv_bias) all += c.layers * (c.q_cols() + 2 * c.kv_cols());
  if (c.o_bias) all += c.layers * c.hidden;
  index_t dense = parts.dense ? 0 : all;
  const auto blocks = static_cast<index_t>(parts.matrices.blocks.size());
  const index_t rank = parts.mlp.lora_rank;
  index_t adapters = 0;
  std::vector<MatrixGroup> groups;
  for (const MatrixKind kind : all_matrix_kinds) {
    const MatrixExtents extents = matrix_extents(c, kind);
    const auto& kinds = parts.matrices.kinds;
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) continue;
    adapters += blocks * rank * (extents.out + extents.in);
    groups.push_back({std::string(to_string(kind)), extents.out, extents.in, blocks});
  }
  dense += adapters;

  // Blocks under the lowest trained one keep nothing.
  const index_t first = parts.dense && blocks > 0 ? parts.matrices.blocks.front() : 0;
  const index_t qkv = c.q_cols() + 2 * c.kv_cols();
  const bool recomputes = options.causal && options.causal->recompute;
  const index_t whole_block = 2 * c.hidden + qkv + c.q_cols() + 2 * c.intermediate;
  const index_t a_block = recomputes ? c.hidden : whole_block;
  index_t in_flight = 9 * c.hidden + 2 * c.intermediate + qkv + c.q_cols() + rank;
  if (recomputes) in_flight += whole_block;
  const index_t statistics = (recomputes ? 1 : c.layers - first) * (c.heads + 2);
  const index_t saved = (recomputes ? 1 : blocks) * static_cast<index_t>(groups.size()) * rank;

  // Of the logits a chunk of rows is there at a time (DecoderModel), in low precision with its gradient.
  const index_t chunk = std::min(std::max<index_t>((index_t{1} << 23) / c.vocab_size, 16), tokens);
  const index_t logits = chunk * c.vocab_size * (stored < number ? number + stored : number);

  MemoryEstimate estimate;
  MemoryParts& training = estimate.training;
  std::vector<ParameterShape> shapes = decoder_shapes(c, parts.matrices, rank);
  keep_packed(shapes, parts, packed);
  index_t unpacked = 0;
  bool beside = false;
  for (const ParameterShape& shape : shapes) {
    if (shape.packed != nullptr) {
      const PackedMatrix& w = *shape.packed;
      training.weights += static_cast<index_t>(w.bytes().size());
      beside = beside || shape.kind == ParameterKind::mlp_matrix;
      const auto threads = static_cast<index_t>(std::max(options.threads, 1));
      unpacked = std::max(unpacked, stored == number
                                        ? FrozenWeight<float, HostBackend>::scratch_bytes(w, threads)
                                        : FrozenWeight<bfloat16, HostBackend>::scratch_bytes(w, threads));
      continue;
    }
    const bool copied = stored < number && shape.is_factor();
    training.weights += (copied ? number + stored : number) * shape.rows * shape.cols;
  }
  training.gradients = number * dense;
  training.optimizer = 2 * number * dense;
  training.activations =
      tokens * (stored * ((c.layers - first) * a_block + in_flight + saved) + number * statistics) + logits +
      unpacked;
  add_matrices(estimate, options, groups, dense, tokens, beside && parts.mlp.sparsely, steps);
  return estimate;
}

nlohmann::json to_json(const MemoryEstimate& estimate) {
  const bool two = estimate.phase1.sum() > 0;
  return {{"phase1", two ? to_json(estimate.phase1) : nlohmann::json()},
          {"training", to_json(estimate.training)},
          {"least_bytes", estimate.least},
          {"most_bytes", estimate.largest().sum()}};
}

void require_memory(const MemoryEstimate& estimate, index_t available, bool all_of_it) {
  const MemoryParts& p = estimate.largest();
  const bool fits = estimate.least <= available;
  if (available <= 0 || (fits && (!all_of_it || p.sum() <= available))) return;
  throw ModelError(fmt::format(
      "this run needs at least {:.0f} MiB of memory, and up to {:.0f} (weights {:.0f}, gradients {:.0f}, "
      "optimizer "
      "{:.0f}, activations {:.0f}, bases and what they are fitted from {:.0f}{}); {:.0f} MiB are available. "
      "A smaller model or --batch-size, --run-type lora or sparse --phase1-fixed-matrices, trained matrices "
      "alone "
      "(--train-parameters), or --base file need less{}",
      mib(estimate.least), mib(p.sum()), mib(p.weights), mib(p.gradients), mib(p.optimizer),
      mib(p.activations), mib(p.basis + p.collection), &p == &estimate.phase1 ? ", in phase 1" : "",
      mib(available), fits ? "; --ignore-memory goes on all the same" : ""));
}

}  // namespace sparsegrad::finetune
