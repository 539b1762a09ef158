// The library for engines in C (C11), and for all that can call C. Links with the component `c`.
//
//     sparsegrad_group_options options;
//     sparsegrad_group_options_init(&options);
//     options.density = 0.012;
//     options.warmup_steps = 10;
//     sparsegrad_group_create(context, &options, &group);
//     sparsegrad_group_add_weight(group, sparsegrad_weight_f32(W, out, in), "up", &w);
//     for (;;) {
//       backprop(W, dW);                                        // the engine's own
//       sparsegrad_group_set_gradient(group, w, sparsegrad_const_f32(dW, out, in));
//       sparsegrad_group_step(group, &step, &report);           // collects, fits, then trains W
//     }
//
// Rules that hold for all of it:
//
// - A function that can fail returns a sparsegrad_status; the text of this thread's last failure is
//   sparsegrad_last_error(). A call that failed has changed nothing, unless its description says
//   otherwise, and has not written its results. No C++ exception leaves the library.
// - Handles are made by a `create` (or a call that returns one) and freed by their `destroy`, in any
//   order: what a handle needs lives as long as it. `destroy` takes NULL.
// - Memory of matrices and biases is the caller's, is read and written in place, and must live, where
//   it is, as long as the handle that was given it.
// - Structs of options begin with their size. Fill them by their `_init` function, then change
//   members. A NULL in place of options stands for the defaults.
// - One call at a time on a context and what was made with it, a second thread being refused where it
//   is seen; several contexts may work side by side.
// - A forked child makes a context of its own, and with it all else. With a handle of its parent's
//   every call is SPARSEGRAD_ERROR_STATE there, and `destroy` frees nothing.
/// @file
/// The C interface.
#ifndef SPARSEGRAD_C_SPARSEGRAD_H
#define SPARSEGRAD_C_SPARSEGRAD_H

#include <stddef.h>
#include <stdint.h>

/// Marks a function that the library exports.
#if defined(__GNUC__)
#define SPARSEGRAD_C_API __attribute__((visibility("default")))
#else
#define SPARSEGRAD_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

// ---- errors ----------------------------------------------------------------------------------------------

/// What a call came to: one of the values below.
typedef int32_t sparsegrad_status;
/// Values of a sparsegrad_status.
enum {
  SPARSEGRAD_OK = 0,                ///< success
  SPARSEGRAD_ERROR_SHAPE = 1,       ///< extents that do not fit together
  SPARSEGRAD_ERROR_VALUE = 2,       ///< an argument outside its range
  SPARSEGRAD_ERROR_NON_FINITE = 3,  ///< NaN or Inf where finite numbers are required
  SPARSEGRAD_ERROR_STATE = 4,       ///< a call in the wrong order
  SPARSEGRAD_ERROR_CAPACITY = 5,  ///< a compact optimizer state that is full, under SPARSEGRAD_OVERFLOW_ERROR
  SPARSEGRAD_ERROR_IO = 6,        ///< a file or saved state that cannot be read or written
  SPARSEGRAD_ERROR_MEMORY = 7,    ///< no memory left; the call may be half done
  SPARSEGRAD_ERROR_INTERNAL = 8   ///< anything else: a fault of the library or of a callback
};

/// Text of the last call of this thread that failed: what was found and what was expected, with the
/// weight's number and kind where there is one. "" before the first. Valid until the thread's next
/// failure.
SPARSEGRAD_C_API const char* sparsegrad_last_error(void);
/// "ok", "shape", "value", ...; "unknown" for any other number.
SPARSEGRAD_C_API const char* sparsegrad_status_name(sparsegrad_status status);
/// The library's version, as "0.1.0".
SPARSEGRAD_C_API const char* sparsegrad_version(void);

// ---- matrices --------------------------------------------------------------------------------------------

/// Type of a matrix's elements: one of the values below.
typedef int32_t sparsegrad_dtype;
/// Values of a sparsegrad_dtype.
enum {
  SPARSEGRAD_FLOAT32 = 0,   ///< float
  SPARSEGRAD_BFLOAT16 = 1,  ///< the upper half of a float, in 16 bits
  SPARSEGRAD_FLOAT16 = 2    ///< IEEE half; gradients alone
};

/// A row-major matrix of the caller's: element (i, j) is data[i * stride + j].
typedef struct sparsegrad_matrix {
  void* data;              ///< element (0, 0), aligned for its type
  int64_t rows;            ///< number of rows
  int64_t cols;            ///< number of columns
  int64_t stride;          ///< elements from one row to the next; 0: cols
  sparsegrad_dtype dtype;  ///< type of the elements
} sparsegrad_matrix;

/// The same of elements that are only read.
typedef struct sparsegrad_const_matrix {
  const void* data;        ///< element (0, 0), aligned for its type
  int64_t rows;            ///< number of rows
  int64_t cols;            ///< number of columns
  int64_t stride;          ///< elements from one row to the next; 0: cols
  sparsegrad_dtype dtype;  ///< type of the elements
} sparsegrad_const_matrix;

/// Which way a weight W with y = x W^T is stored.
enum {
  SPARSEGRAD_OUT_IN = 0,  ///< W [out, in]
  SPARSEGRAD_IN_OUT = 1   ///< its transpose [in, out]; gradients are read in the same layout
};

/// A weight that is trained: the matrix, and the float master of one in bfloat16, to which updates
/// go (W is then the rounded master).
typedef struct sparsegrad_weight {
  sparsegrad_matrix matrix;  ///< W
  int32_t layout;            ///< SPARSEGRAD_OUT_IN or SPARSEGRAD_IN_OUT
  float* master;             ///< of W's shape and layout; NULL for a W in float
  int64_t master_stride;     ///< elements from one row of the master to the next; 0: W's columns
} sparsegrad_weight;

/// No matrix, where one may be left out.
static inline sparsegrad_matrix sparsegrad_no_matrix(void) {
  const sparsegrad_matrix none = {NULL, 0, 0, 0, SPARSEGRAD_FLOAT32};
  return none;
}
/// A float matrix without gaps between its rows.
static inline sparsegrad_matrix sparsegrad_f32(float* data, int64_t rows, int64_t cols) {
  const sparsegrad_matrix matrix = {data, rows, cols, 0, SPARSEGRAD_FLOAT32};
  return matrix;
}
/// The same of elements that are only read.
static inline sparsegrad_const_matrix sparsegrad_const_f32(const float* data, int64_t rows, int64_t cols) {
  const sparsegrad_const_matrix matrix = {data, rows, cols, 0, SPARSEGRAD_FLOAT32};
  return matrix;
}
/// A bfloat16 matrix without gaps between its rows.
static inline sparsegrad_matrix sparsegrad_bf16(uint16_t* data, int64_t rows, int64_t cols) {
  const sparsegrad_matrix matrix = {data, rows, cols, 0, SPARSEGRAD_BFLOAT16};
  return matrix;
}
/// The same of elements that are only read.
static inline sparsegrad_const_matrix sparsegrad_const_bf16(const uint16_t* data, int64_t rows,
                                                            int64_t cols) {
  const sparsegrad_const_matrix matrix = {data, rows, cols, 0, SPARSEGRAD_BFLOAT16};
  return matrix;
}
/// A float weight W [out, in].
static inline sparsegrad_weight sparsegrad_weight_f32(float* data, int64_t out, int64_t in) {
  const sparsegrad_weight weight = {sparsegrad_f32(data, out, in), SPARSEGRAD_OUT_IN, NULL, 0};
  return weight;
}
/// A bfloat16 weight W [out, in] with its master.
static inline sparsegrad_weight sparsegrad_weight_bf16(uint16_t* data, float* master, int64_t out,
                                                       int64_t in) {
  const sparsegrad_weight weight = {sparsegrad_bf16(data, out, in), SPARSEGRAD_OUT_IN, master, 0};
  return weight;
}

// ---- contexts --------------------------------------------------------------------------------------------

/// Which library takes the products: one of the values below.
typedef int32_t sparsegrad_backend;
/// Values of a sparsegrad_backend.
enum {
  SPARSEGRAD_BACKEND_DEFAULT = 0,  ///< the first that is compiled in: oneDNN, BLAS, Eigen
  SPARSEGRAD_BACKEND_EIGEN = 1,    ///< Eigen, as backend::Cpu
  SPARSEGRAD_BACKEND_BLAS = 2,     ///< CBLAS and LAPACKE, as backend::CpuBlas
  SPARSEGRAD_BACKEND_ONEDNN = 3    ///< oneDNN, CBLAS and LAPACKE, as backend::CpuOneDnn
};

/// 1 where this library was compiled with the backend, else 0.
SPARSEGRAD_C_API int32_t sparsegrad_backend_available(sparsegrad_backend backend);

/// One task of an executor: run it as task(argument, number, worker).
typedef void (*sparsegrad_task)(void* argument, int64_t number, int32_t worker);

/// The caller's own threads, in place of the library's. With OpenMP `run` is
///
///     static void run(void* user, int64_t count, sparsegrad_task task, void* argument) {
///     #pragma omp parallel for schedule(dynamic)
///       for (int64_t i = 0; i < count; ++i) task(argument, i, omp_get_thread_num());
///     }
///
/// and `concurrency` is omp_get_max_threads().
typedef struct sparsegrad_executor {
  /// Calls task(argument, i, worker) once for each i in [0, count), 0 <= worker < concurrency, no
  /// worker number used by two threads at once; returns when all calls have ended. Tasks do not
  /// throw. NULL: the library's own threads.
  void (*run)(void* user, int64_t count, sparsegrad_task task, void* argument);
  int32_t concurrency;  ///< largest number of tasks that run at the same time, at least 1
  void* user;           ///< handed to `run`
} sparsegrad_executor;

/// Options of a context.
typedef struct sparsegrad_context_options {
  size_t struct_size;            ///< set by sparsegrad_context_options_init
  sparsegrad_backend backend;    ///< which library takes the products
  int32_t threads;               ///< of the library's own; 0: as many as the process may keep busy
  int32_t deterministic;         ///< not 0: the same bits for any number of threads
  sparsegrad_executor executor;  ///< where `run` is set, in place of own threads; `threads` is then 0
} sparsegrad_context_options;

/// Threads and temporary memory; what computes is made with one.
typedef struct sparsegrad_context sparsegrad_context;

/// Fills the options with their defaults.
SPARSEGRAD_C_API void sparsegrad_context_options_init(sparsegrad_context_options* options);
/// Makes a context. SPARSEGRAD_ERROR_VALUE for a backend that is not compiled in, and for numbers out
/// of range.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_context_create(const sparsegrad_context_options* options,
                                                             sparsegrad_context** context);
/// Frees a context once nothing made with it is left.
SPARSEGRAD_C_API void sparsegrad_context_destroy(sparsegrad_context* context);
/// The backend that a context has, never SPARSEGRAD_BACKEND_DEFAULT, and its number of threads; either
/// pointer may be NULL.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_context_describe(const sparsegrad_context* context,
                                                               sparsegrad_backend* backend, int32_t* threads);

// ---- bases -----------------------------------------------------------------------------------------------

/// How one side of a basis is made.
enum {
  SPARSEGRAD_HOSVD = 0,     ///< leading singular vectors of the gradients: `rank` or `energy` says how many
  SPARSEGRAD_IDENTITY = 1,  ///< no rotation
  SPARSEGRAD_RANDOM = 2,    ///< `rank` random orthonormal vectors by `seed`
  SPARSEGRAD_HADAMARD = 3   ///< randomised Hadamard transform by `seed`
};

/// Recipe of one side of a basis. All 0: a full HOSVD side, as in the paper.
typedef struct sparsegrad_side {
  int32_t recipe;  ///< SPARSEGRAD_HOSVD, SPARSEGRAD_IDENTITY, ...
  int64_t rank;    ///< of HOSVD and random sides; 0: full; above the extent: the extent
  double energy;   ///< of a HOSVD side, in place of a rank: fraction in (0, 1] that is kept; 0: not used
  uint64_t seed;   ///< of random and Hadamard sides
} sparsegrad_side;

/// The two factors of a Tucker basis, gradient G [out, in] to core V^T G U [rows, cols]. Cannot change.
typedef struct sparsegrad_basis sparsegrad_basis;

/// What a basis is.
typedef struct sparsegrad_basis_info {
  int64_t out_extent;      ///< rows of a gradient
  int64_t in_extent;       ///< columns of a gradient
  int64_t rows;            ///< rows of a core
  int64_t cols;            ///< columns of a core
  int64_t bytes;           ///< of memory held
  int64_t gradients;       ///< number of gradients that it was fitted to; 0: none
  double total_energy;     ///< sum of squares of those gradients
  double out_kept_energy;  ///< fraction of it in the span of the out side's vectors; NaN where unknown
  double in_kept_energy;   ///< the same of the in side
} sparsegrad_basis_info;

/// Fractions of a gradient's sum of squares, each in [0, 1].
typedef struct sparsegrad_energy {
  double raw_top_k;    ///< in the k largest entries of G
  double basis_top_k;  ///< in the k largest entries of its core
  double kept_block;   ///< in all entries of its core
} sparsegrad_energy;

/// The two sides of a gradient.
enum {
  SPARSEGRAD_SIDE_OUT = 0,  ///< its rows
  SPARSEGRAD_SIDE_IN = 1    ///< its columns
};

/// Fits a basis for gradients [out, in] to `count` of them (float, bfloat16 or half), or makes one of
/// recipes that need none (`gradients` may be NULL then). SPARSEGRAD_ERROR_STATE where HOSVD sides are
/// asked for without gradients.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_basis_fit(sparsegrad_context* context, int64_t out, int64_t in,
                                                        const sparsegrad_const_matrix* gradients,
                                                        int64_t count, sparsegrad_side out_side,
                                                        sparsegrad_side in_side, sparsegrad_basis** basis);
/// Copies factors V [out, rows] and U [in, cols] in float, with orthonormal columns.
/// SPARSEGRAD_ERROR_VALUE, stating the defect, where they are not so to `tolerance` (0: 1e-4).
SPARSEGRAD_C_API sparsegrad_status sparsegrad_basis_from_factors(sparsegrad_context* context,
                                                                 sparsegrad_const_matrix v,
                                                                 sparsegrad_const_matrix u, double tolerance,
                                                                 sparsegrad_basis** basis);
/// Frees the handle; groups that use the basis keep it.
SPARSEGRAD_C_API void sparsegrad_basis_destroy(sparsegrad_basis* basis);
/// What the basis is.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_basis_describe(const sparsegrad_basis* basis,
                                                             sparsegrad_basis_info* info);
/// Writes a side's vectors as the columns of `factor`, float [extent, rank], whatever the recipe.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_basis_factor(const sparsegrad_basis* basis, int32_t side,
                                                           sparsegrad_matrix factor);
/// Energies of a fitted side's singular vectors, descending. `count` receives how many there are (0 for
/// a side that was not fitted), `energies` the first `capacity` of them; it may be NULL with capacity 0.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_basis_spectrum(const sparsegrad_basis* basis, int32_t side,
                                                             double* energies, int64_t capacity,
                                                             int64_t* count);
/// How much of a float gradient's energy its k largest entries hold, as it is and in the basis.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_basis_energy(const sparsegrad_basis* basis,
                                                           sparsegrad_const_matrix gradient, int64_t k,
                                                           sparsegrad_energy* energy);
/// core = V^T G U: a gradient [out, in] (float, bfloat16 or half) as its core, float [rows, cols].
SPARSEGRAD_C_API sparsegrad_status sparsegrad_basis_project(const sparsegrad_basis* basis,
                                                            sparsegrad_const_matrix gradient,
                                                            sparsegrad_matrix core);
/// G = V core U^T: a float core [rows, cols] as a gradient, float [out, in].
SPARSEGRAD_C_API sparsegrad_status sparsegrad_basis_expand(const sparsegrad_basis* basis,
                                                           sparsegrad_const_matrix core,
                                                           sparsegrad_matrix gradient);

// ---- entries of one core ---------------------------------------------------------------------------------
// The parts of a group's step, for checks and experiments: select entries, step, expand the update.

/// The k largest entries of a core (float, bfloat16 or half) by absolute value, ties by lowest position:
/// `positions` (row * cols + column) rise strictly. Both arrays have room for min(k, rows * cols) entries,
/// which is what `count` receives. SPARSEGRAD_ERROR_NON_FINITE where NaN or Inf is among them.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_top_k(sparsegrad_context* context, sparsegrad_const_matrix core,
                                                    int64_t k, int32_t* positions, float* values,
                                                    int64_t* count);

// ---- layers ----------------------------------------------------------------------------------------------

/// A linear layer y = x W^T + b on the caller's W and b, that forms the core of its weight gradient
/// from tokens.
typedef struct sparsegrad_layer sparsegrad_layer;

/// Options of a layer.
typedef struct sparsegrad_layer_options {
  size_t struct_size;     ///< set by sparsegrad_layer_options_init
  int64_t tokens;         ///< of one micro-batch, about: for the choice of the order of products
  int64_t micro_batches;  ///< before one step, about
} sparsegrad_layer_options;

/// What a backward pass needs of its forward pass: filled by sparsegrad_layer_forward.
typedef struct sparsegrad_saved_input {
  sparsegrad_const_matrix input;  ///< x, or x U in the memory `keep`; must live until the backward pass
  int32_t projected;              ///< whether it is x U
  uint64_t basis;                 ///< of which basis U is
} sparsegrad_saved_input;

/// What becomes of what stood in dX.
enum {
  SPARSEGRAD_OVERWRITE = 0,  ///< dX = dY W
  SPARSEGRAD_ADD = 1         ///< dX += dY W
};

/// Fills the options with their defaults.
SPARSEGRAD_C_API void sparsegrad_layer_options_init(sparsegrad_layer_options* options);
/// Makes a layer over a weight and a bias [out] of the weight's type (NULL: none), both borrowed. The
/// bias is read by forward alone: the caller trains it with `db` of backward.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_layer_create(sparsegrad_context* context,
                                                           sparsegrad_weight weight, const void* bias,
                                                           const sparsegrad_layer_options* options,
                                                           sparsegrad_layer** layer);
/// Frees the handle; a group that has the layer keeps it.
SPARSEGRAD_C_API void sparsegrad_layer_destroy(sparsegrad_layer* layer);
/// Columns of the memory `keep` that forward wants for x U; 0 where x itself is kept.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_layer_kept_cols(const sparsegrad_layer* layer, int64_t* cols);
/// y = x W^T + b, x [tokens, in], y [tokens, out], of the weight's type. `keep` [tokens, kept_cols]
/// receives x U where it is given; x need not live until backward then. `saved` may be NULL where no
/// backward follows.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_layer_forward(sparsegrad_layer* layer,
                                                            sparsegrad_const_matrix x, sparsegrad_matrix y,
                                                            sparsegrad_matrix keep,
                                                            sparsegrad_saved_input* saved);
/// dX = dY W, or dX += dY W, by `mode` (left out where dX is no matrix), db += column sums of dY (left
/// out where NULL), and the layer's gradient += that of these tokens. Passes of a step add up.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_layer_backward(sparsegrad_layer* layer,
                                                             sparsegrad_const_matrix dy,
                                                             const sparsegrad_saved_input* saved,
                                                             sparsegrad_matrix dx, float* db, int32_t mode);
/// From now on weight and bias lie at another address, with the same extents, type and layout; the
/// numbers must be there.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_layer_rebind(sparsegrad_layer* layer, sparsegrad_weight weight,
                                                           const void* bias);

// ---- groups ----------------------------------------------------------------------------------------------

/// What Adam means for entries that are not in every gradient (AdamSemantics).
enum {
  SPARSEGRAD_ADAM_TORCH = 0,           ///< only kept entries move, as torch.optim.SparseAdam
  SPARSEGRAD_ADAM_PER_ENTRY_STEP = 1,  ///< the same, each entry with a step count of its own
  SPARSEGRAD_ADAM_DENSE_CORE = 2       ///< all moments move; with all entries kept: torch.optim.AdamW
};
/// What becomes of new entries when a compact optimizer state is full.
enum {
  SPARSEGRAD_OVERFLOW_EVICT_SMALLEST = 0,  ///< the entries with the smallest moments are forgotten
  SPARSEGRAD_OVERFLOW_GO_DENSE = 1,        ///< the state becomes dense, for good
  SPARSEGRAD_OVERFLOW_ERROR = 2            ///< SPARSEGRAD_ERROR_CAPACITY
};
/// What becomes of NaN and Inf in a gradient.
enum {
  SPARSEGRAD_NON_FINITE_RAISE = 0,  ///< SPARSEGRAD_ERROR_NON_FINITE; nothing has changed
  SPARSEGRAD_NON_FINITE_SKIP = 1    ///< the step is left out, and reported
};
/// Which weights share a basis.
enum {
  SPARSEGRAD_SCOPE_KIND = 0,   ///< all of one kind, as in the paper
  SPARSEGRAD_SCOPE_WEIGHT = 1  ///< each its own
};
/// What becomes of the optimizer's state when a basis changes.
enum {
  SPARSEGRAD_MOMENTS_RESET = 0,     ///< it is emptied
  SPARSEGRAD_MOMENTS_TRANSPORT = 1  ///< it is carried over
};

/// Options of a group.
typedef struct sparsegrad_group_options {
  size_t struct_size;             ///< set by sparsegrad_group_options_init
  sparsegrad_dtype weight_dtype;  ///< of its weights: SPARSEGRAD_FLOAT32 or SPARSEGRAD_BFLOAT16
  double density;                 ///< part of a weight's out x in entries that a step keeps
  int64_t entries;                ///< where not 0: kept entries of each weight, in place of the density
  int64_t warmup_steps;           ///< first steps, which collect gradients for the bases; 0: no basis
  int32_t scope;                  ///< SPARSEGRAD_SCOPE_KIND or SPARSEGRAD_SCOPE_WEIGHT
  sparsegrad_side out_side;       ///< recipe of the out side
  sparsegrad_side in_side;        ///< recipe of the in side
  /// May change the recipes for one kind: called once for each basis to come, with the two above to
  /// begin with. NULL: they hold for all kinds.
  void (*sides)(void* user, const char* kind, sparsegrad_side* out_side, sparsegrad_side* in_side);
  void* sides_user;          ///< handed to `sides`
  int32_t normalize;         ///< not 0: every gradient enters the bases with norm 1
  int64_t gram_limit_bytes;  ///< most bytes for the sums of one side; a larger side is sketched
  double beta1;              ///< Adam's decay of the first moments
  double beta2;              ///< Adam's decay of the second moments
  double eps;                ///< Adam's epsilon
  int32_t semantics;         ///< SPARSEGRAD_ADAM_TORCH, ...
  int32_t overflow;          ///< SPARSEGRAD_OVERFLOW_EVICT_SMALLEST, ...
  double capacity_factor;    ///< this many times the kept entries have moments; 0: all entries
  int32_t non_finite;        ///< SPARSEGRAD_NON_FINITE_RAISE or SPARSEGRAD_NON_FINITE_SKIP
} sparsegrad_group_options;

/// Numbers of one step.
typedef struct sparsegrad_step_options {
  size_t struct_size;    ///< set by sparsegrad_step_options_init
  double learning_rate;  ///< >= 0
  double weight_decay;   ///< decoupled: W shrinks by learning_rate * weight_decay
  double grad_scale;     ///< the gradients are multiplied by it first: clipping, loss scale
  int32_t want_norm;     ///< not 0: the report has the norm, for one more pass over each core
} sparsegrad_step_options;

/// What a step did.
typedef struct sparsegrad_step_report {
  int64_t kept;              ///< entries of all sparse gradients
  double norm;               ///< of all cores before grad_scale, where wanted; else NaN
  int64_t without_gradient;  ///< weights that had none: nothing of theirs has changed
  int64_t became_dense;      ///< optimizer states that went dense in this step
  int64_t evicted;           ///< entries that optimizer states have forgotten to make room
  int32_t warming_up;        ///< whether it was a step of the warm-up: no weight has changed
  int32_t skipped;           ///< whether it met NaN or Inf, and no weight has changed
} sparsegrad_step_report;

/// Bytes by purpose.
typedef struct sparsegrad_memory {
  int64_t gradients;         ///< gradient memory
  int64_t sparse_gradients;  ///< kept entries and updates
  int64_t optimizer;         ///< the optimizers' states
  int64_t bases;             ///< bases, each counted once
  int64_t collection;        ///< sums from which bases are fitted
  int64_t scratch;           ///< the context's temporary memory
  int64_t total;             ///< all of it
} sparsegrad_memory;

/// Where a group stands.
typedef struct sparsegrad_group_info {
  int64_t size;        ///< number of weights and layers
  int32_t warming_up;  ///< whether the next step is one of the warm-up
  int32_t collecting;  ///< whether gradients are collected for bases
} sparsegrad_group_info;

/// One weight of a group.
typedef struct sparsegrad_weight_info {
  int64_t out_extent;       ///< rows of its gradient
  int64_t in_extent;        ///< columns of its gradient
  int64_t core_rows;        ///< rows of its core
  int64_t core_cols;        ///< columns of its core
  int64_t kept;             ///< entries that a step keeps
  int64_t steps;            ///< steps that its optimizer has taken
  int64_t optimizer_bytes;  ///< of the optimizer's state; 0 before there is one
} sparsegrad_weight_info;

/// The optimizer of many weight matrices: finds their bases, keeps the entries that matter, takes
/// sparse steps.
typedef struct sparsegrad_group sparsegrad_group;
/// A copy of all that a group needs, beside weights and options, to go on as if it had not stopped.
typedef struct sparsegrad_state sparsegrad_state;

/// Fills the options with their defaults: float weights, density 0.012, no warm-up, full HOSVD sides.
SPARSEGRAD_C_API void sparsegrad_group_options_init(sparsegrad_group_options* options);
/// Fills the numbers of a step: learning rate 1e-4, no decay, scale 1.
SPARSEGRAD_C_API void sparsegrad_step_options_init(sparsegrad_step_options* options);
/// Makes an empty group. `options` are copied; `sides` and what it needs must live until the bases are
/// fitted.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_create(sparsegrad_context* context,
                                                           const sparsegrad_group_options* options,
                                                           sparsegrad_group** group);
/// Frees the group. Weights stay as they are.
SPARSEGRAD_C_API void sparsegrad_group_destroy(sparsegrad_group* group);
/// Adds a weight whose gradient the caller computes; `index` receives its number. `kind` names the
/// weights that share a basis, which must have the same extents; NULL: no name. A bfloat16 weight
/// becomes its rounded master.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_add_weight(sparsegrad_group* group,
                                                               sparsegrad_weight weight, const char* kind,
                                                               int64_t* index);
/// Adds a layer, of the same context and weight type, which makes its gradient itself.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_add_layer(sparsegrad_group* group,
                                                              sparsegrad_layer* layer, const char* kind,
                                                              int64_t* index);
/// Takes weight or layer `index` out; those behind it move up by one number.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_remove(sparsegrad_group* group, int64_t index);
/// From now on weight `index`, of sparsegrad_group_add_weight, lies at another address, with the same
/// extents, type and layout; the numbers must be there.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_rebind(sparsegrad_group* group, int64_t index,
                                                           sparsegrad_weight weight);
/// The gradient of a weight in this step, of its shape and layout, in float, bfloat16 or half: borrowed
/// until the step, not copied: each weight's in memory of its own. A second one in a step replaces
/// the first.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_set_gradient(sparsegrad_group* group, int64_t index,
                                                                 sparsegrad_const_matrix gradient);
/// Forgets the gradients of this step.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_clear(sparsegrad_group* group);
/// Sum of squares of all cores before grad_scale, to clip over these and all other parameters:
/// grad_scale = min(1, max_norm / sqrt(sum + that of the others)). Between gradients and step.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_squared_norm(sparsegrad_group* group, double* sum);
/// The step of all weights. During the warm-up it collects, and its last step fits the bases; then
/// entries are selected, checked, and moments and weights move. After a failure the gradients are kept
/// until sparsegrad_group_clear. `report` may be NULL.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_step(sparsegrad_group* group,
                                                         const sparsegrad_step_options* options,
                                                         sparsegrad_step_report* report);
/// Collects from now on: steps train, and their gradients also enter the sums for new bases.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_collect(sparsegrad_group* group);
/// Ends a collection without new bases.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_stop_collecting(sparsegrad_group* group);
/// Fits and sets the bases from what was collected, between steps.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_refresh(sparsegrad_group* group, int32_t moments);
/// The basis of a weight, as a new handle.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_basis(sparsegrad_group* group, int64_t index,
                                                          sparsegrad_basis** basis);
/// Sets the basis of a weight, of the same backend; NULL: none.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_set_basis(sparsegrad_group* group, int64_t index,
                                                              const sparsegrad_basis* basis, int32_t moments);
/// Takes the memory of later steps with up to `max_tokens` tokens in a layer's pass: they then allocate
/// nothing.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_reserve(sparsegrad_group* group, int64_t max_tokens);
/// Memory that group and context hold.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_memory(const sparsegrad_group* group,
                                                           sparsegrad_memory* memory);
/// Where the group stands.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_describe(const sparsegrad_group* group,
                                                             sparsegrad_group_info* info);
/// What it knows of one weight.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_describe_weight(const sparsegrad_group* group,
                                                                    int64_t index,
                                                                    sparsegrad_weight_info* info);

/// Saves bases, plans and optimizer states in memory, between steps and after the warm-up. Weights are
/// the caller's to save. The bytes are those of sparsegrad_group_save_file.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_save(const sparsegrad_group* group,
                                                         sparsegrad_state** state);
/// Restores a group with the same options and weights, which goes on with the same bits.
/// SPARSEGRAD_ERROR_IO, saying what differs, for another; it is then as it was.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_restore(sparsegrad_group* group, const void* data,
                                                            size_t size);
/// Saves the same in a safetensors file, which is written aside and renamed.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_save_file(const sparsegrad_group* group,
                                                              const char* path);
/// Restores from a file.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_group_load_file(sparsegrad_group* group, const char* path);
/// The saved bytes, valid until the state is destroyed; NULL for NULL.
SPARSEGRAD_C_API const void* sparsegrad_state_data(const sparsegrad_state* state);
/// Their number; 0 for NULL.
SPARSEGRAD_C_API size_t sparsegrad_state_size(const sparsegrad_state* state);
/// Frees a saved state.
SPARSEGRAD_C_API void sparsegrad_state_destroy(sparsegrad_state* state);

// ---- Adam by itself --------------------------------------------------------------------------------------

/// Options of an Adam.
typedef struct sparsegrad_adam_options {
  size_t struct_size;  ///< set by sparsegrad_adam_options_init
  double beta1;        ///< decay of the first moments
  double beta2;        ///< decay of the second moments
  double eps;          ///< Adam's epsilon
  int32_t semantics;   ///< SPARSEGRAD_ADAM_TORCH, ...
  int32_t overflow;    ///< SPARSEGRAD_OVERFLOW_EVICT_SMALLEST, ...
  int64_t capacity;    ///< this many entries have moments; 0: all
} sparsegrad_adam_options;

/// What an Adam holds.
typedef struct sparsegrad_adam_info {
  int64_t rows;     ///< rows of its core
  int64_t cols;     ///< columns of its core
  int64_t steps;    ///< steps taken
  int64_t entries;  ///< entries that have moments
  int64_t bytes;    ///< of its state
} sparsegrad_adam_info;

/// Adam on chosen entries of one core.
typedef struct sparsegrad_adam sparsegrad_adam;

/// Fills the options with their defaults: 0.9, 0.999, 1e-8, moments for all entries.
SPARSEGRAD_C_API void sparsegrad_adam_options_init(sparsegrad_adam_options* options);
/// Makes an Adam for a float core [rows, cols]. SPARSEGRAD_ERROR_SHAPE unless both are positive.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_adam_create(sparsegrad_context* context, int64_t rows,
                                                          int64_t cols,
                                                          const sparsegrad_adam_options* options,
                                                          sparsegrad_adam** adam);
/// Frees the handle.
SPARSEGRAD_C_API void sparsegrad_adam_destroy(sparsegrad_adam* adam);
/// What it holds.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_adam_describe(const sparsegrad_adam* adam,
                                                            sparsegrad_adam_info* info);
/// One step with `count` entries of a gradient's core, at strictly rising positions. `update`, float [rows,
/// cols], is overwritten: what is to be added to the core's entries, 0 for those that do not move. Of the
/// options learning_rate and grad_scale are used; a weight_decay other than 0 is refused, since it acts on
/// the weight.
SPARSEGRAD_C_API sparsegrad_status sparsegrad_adam_step(sparsegrad_adam* adam, const int32_t* positions,
                                                        const float* values, int64_t count,
                                                        const sparsegrad_step_options* options,
                                                        sparsegrad_matrix update);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // SPARSEGRAD_C_SPARSEGRAD_H
