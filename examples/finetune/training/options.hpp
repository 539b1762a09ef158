// What a run is asked to do: the command line's options as values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>
#include <sparsegrad/io/dtype.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include <sparsegrad/backend/product_choice.hpp>

#include "data/chat_template.hpp"
#include "data/padding.hpp"
#include "models/mlp/lora.hpp"
#include "replication/defects.hpp"

namespace sparsegrad::finetune {

/// What is trained, and how.
enum class RunType {
  ft,          ///< full fine-tuning: AdamW on everything
  sparse,      ///< SparseGrad on the MLP matrices, AdamW on everything else
  topk,        ///< the largest entries of the gradient itself, no basis (what the reference calls meprop)
  lora,        ///< LoRA beside the MLP matrices, AdamW on it and everything else
  meprop,      ///< meProp (Sun et al., 2017): the largest entries of each row of the MLP's dY; AdamW
  frozen_mlp,  ///< control: the MLP matrices stay as they are, AdamW on everything else
};
std::string_view to_string(RunType type);

/// Which parameters beside the MLP matrices train.
enum class TrainedParameters {
  all,  ///< as the reference's code
  mlp,  ///< the biases of the MLPs and the head, as the paper's text
};
std::string_view to_string(TrainedParameters which);

/// Where a run computes.
enum class Device { cpu, cuda };
std::string_view to_string(Device device);

/// What activations and the operands of products are stored in, beside weights, moments and gradients of weights, which
/// are float's; and what a saved model holds.
enum class NumberType { float32, bfloat16, float16 };
std::string_view to_string(NumberType type);
io::DType file_type(NumberType type);

enum class Schedule { constant, linear };
std::string_view to_string(Schedule schedule);

/// Entries to keep are given for a matrix of BERT-base and scaled to the size of the layer.
inline constexpr index_t reference_matrix_entries = 768 * 3072;

/// Sides of the MLP matrices' bases. "Width" is the model's width: the input of an up matrix (intermediate.dense), the
/// output of a down matrix (output.dense); "other" is the side of the MLP's inner width.
struct SideOptions {
  std::string width = "full";
  std::string other = "full";
  std::string out;  ///< when given: the output side of every matrix, in place of the two above
  std::string in;   ///< the same for the input side

  /// The rules of a kind of matrices (matrix_kind). Throws ValueError for a text that names no rule.
  SideRecipes rules(const std::string& kind) const;
};

struct SparseOptions {
  index_t n_params = 28000;  ///< entries of a 768 x 3072 matrix, see reference_matrix_entries
  double share = 0;          ///< when positive: share of a matrix's entries, in place of n_params
  BasisScope scope = BasisScope::kind;
  SideOptions sides;
  index_t refresh_every = 0;   ///< steps; 0: never
  index_t refresh_window = 1;  ///< steps before a refresh whose gradients it is fitted to
  index_t phase1_steps = 11;
  bool keep_phase1 = false;
  bool phase1_fixed_matrices = false;  ///< in phase 1 all else trains, the MLP matrices only give gradients
  ReferenceDefects defects;
  bool normalize = false;
  AdamSemantics adam = AdamSemantics::torch;
  std::string plan = "auto";
  double state_capacity = 4;  ///< optimizer state for this many times the kept entries; 0: dense
  Overflow overflow = Overflow::go_dense;
  MomentsPolicy moments = MomentsPolicy::reset;

  /// One gradient memory for all MLP matrices, each selected as soon as its backward is done. Needs steps of one
  /// micro-batch and no clipping, and is left out elsewhere; and on a GPU, where all matrices take their step together.
  bool share_gradient_memory = true;

  /// The share of a matrix's entries that a step changes.
  double share_kept() const {
    return share > 0 ? share : static_cast<double>(n_params) / static_cast<double>(reference_matrix_entries);
  }
  /// Whether a rule needs gradients, and with it phase 1.
  bool needs_gradients() const;
};

struct LoraOptions {
  index_t rank = 7;
  double scale = 0;  ///< 0: 1 / rank, as the reference
  LoraInit init = LoraInit::kaiming;
};

/// What the weights of a language model that are not trained in place are kept as.
enum class Base {
  in_float,  ///< as the trained ones: float, beside a copy of 16 bits with such a --dtype
  in_file,   ///< in the blocks of the GGUF file, or the elements of the folder's, which are mapped
};
std::string_view to_string(Base base);

/// What a language model's run has beside the options of all runs.
struct CausalOptions {
  std::string matrices = "up,down";          ///< kinds, see parse_matrices
  std::string blocks = "every-third";        ///< see parse_blocks
  std::string chat_template;                 ///< a name of ChatTemplate; empty: the model's own
  std::string chat_date{default_chat_date};  ///< what LLaMA-3.1's template and its like give as today's date
  std::string fields;      ///< "QUESTION,ANSWER", the names of the data's fields; empty: told from the data
  bool all_paths = false;  ///< of OpenAssistant trees
  Base base = Base::in_float;
  bool recompute = false;                  ///< blocks keep their input alone, see DecoderModel::recompute
  std::filesystem::path validation;        ///< file that is evaluated on, in place of a part of the data
  std::vector<std::string> evaluate_also;  ///< "NAME=FILE": further files, which choose nothing
  std::uint64_t split_seed = 0;            ///< which part of the data that is
  std::filesystem::path change;  ///< an adapter or a delta that is put on the model's weights; empty: none
  std::filesystem::path start;   ///< an adapter that a run of type lora goes on from; empty: none
};

struct TrainOptions {
  std::string task = "cola";
  RunType run_type = RunType::sparse;
  TrainedParameters trained = TrainedParameters::all;
  std::filesystem::path model;
  std::filesystem::path data;
  std::filesystem::path output;
  std::string preset;
  bool reference_protocol = false;  ///< the reference's protocol and defects; see protocol_options
  std::filesystem::path options_file;

  double epochs = 3;
  index_t max_steps = 0;  ///< 0: no limit beside the epochs
  index_t batch_size = 32;
  index_t accumulation = 1;
  index_t tokens_per_batch = 0;  ///< when positive: tokens of a micro-batch, in place of batch_size examples
  double learning_rate = 3e-5;
  std::optional<double> sparse_learning_rate;  ///< not given: learning_rate
  double weight_decay = 0;
  double clip_norm = 0;  ///< 0: off
  Schedule schedule = Schedule::constant;
  double warmup = 0;  ///< steps, or below 1 a share of all steps
  std::uint64_t seed = 42;
  std::optional<double> dropout;
  bool shuffle = true;
  index_t max_length = 128;
  Padding padding = Padding::unpadded;
  bool evaluates_first = false;  ///< before the first step too
  index_t eval_every = 0;        ///< steps; 0: at the end of each epoch alone
  index_t patience = 0;          ///< evaluations without a better result; 0: never stops early
  index_t log_every = 10;
  index_t checkpoint_every = 0;  ///< steps; 0: only when interrupted
  bool resume = false;
  bool overwrite = false;  ///< replaces what another run left in `output`
  Device device = Device::cpu;
  NumberType dtype = NumberType::float32;  ///< half on a GPU alone
  bool choose_dtype = false;               ///< the run chooses `dtype`, see training/products.hpp
  std::string products = "auto";           ///< on the CPU: whose products, see training/products.hpp
  backend::ProductChoice product_choice;   ///< what that came to on this machine; empty: the first
  int threads = 0;
  int processes = 1;             ///< that share the examples of a step
  double process_timeout = 600;  ///< seconds that one waits for another
  NumberType wire =
      NumberType::float32;  ///< of the gradients that processes send each other: float's or bfloat16's
  bool tf32 = false;        ///< on a GPU: the layers' products on TF32 tensor cores
  bool deterministic = false;
  index_t train_limit = 0;
  double held_out = 0;  ///< share of the training examples that takes dev's place, and is not trained on
  index_t dev_limit = 0;
  bool save = true;
  NumberType save_dtype = NumberType::float32;
  bool quiet = false;
  bool ignore_memory =
      false;             ///< trains though an estimate is above the memory, or the disk's room, that is free
  bool profile = false;  ///< on the CPU: tells where the steps' time goes
  SparseOptions sparse;
  LoraOptions lora;
  double meprop_share = 0.05;           ///< of each row of dY
  std::optional<CausalOptions> causal;  ///< of a language model

  /// Whether the MLP matrices are stepped sparsely.
  bool steps_sparsely() const { return run_type == RunType::sparse || run_type == RunType::topk; }
  /// Whether the matrices have gradients of their own; adapters beside them are dense parameters.
  bool trains_matrices() const { return run_type != RunType::lora && run_type != RunType::frozen_mlp; }
  /// Puts in what the run type decides: no sides rotate under topk, and only sparse has the reference's defects.
  void apply_run_type();
  double rate_of_mlp() const { return sparse_learning_rate.value_or(learning_rate); }
  bool shares_gradient_memory() const {
    return steps_sparsely() && sparse.share_gradient_memory && accumulation == 1 && tokens_per_batch == 0 &&
           clip_norm == 0 && device == Device::cpu && processes == 1;
  }
  /// Whether each micro-batch's gradients are made for themselves and added in the order of the micro-batches, so that the
  /// sums have the same bits whichever process made which.
  bool adds_in_order() const {
    return deterministic && device == Device::cpu &&
           (processes > 1 || accumulation > 1 || tokens_per_batch > 0);
  }
  /// Whether sums stand beside the gradients of a micro-batch meanwhile.
  bool keeps_sums_aside() const {
    return adds_in_order() && (tokens_per_batch > 0 || accumulation > processes);
  }
  /// Whether one gradient memory serves all matrices in phase 1, each micro-batch's gradient being summed for itself:
  /// where the steps do that too, and where no step of phase 1 wants the matrices' gradients.
  bool phase1_takes_turns() const {
    const bool unused =
        sparse.phase1_fixed_matrices && (clip_norm == 0 || (causal && trained == TrainedParameters::mlp));
    return shares_gradient_memory() || (unused && steps_sparsely() && sparse.share_gradient_memory &&
                                        device == Device::cpu && !adds_in_order());
  }
  /// Throws ValueError naming the option, what it is and what was expected.
  void check() const;
  /// The part of `check` that all commands need.
  void check_device() const;
};

nlohmann::json to_json(const TrainOptions& options);

/// What is other in the options of a run, by its log or its state, and those that are given, both as to_json has them:
/// "--seed is 2, the run had 1; ...", `had_words` being those between. Names of other things than options stand as they are.
/// Empty where nothing is.
std::string differences(const nlohmann::json& run, const nlohmann::json& given,
                        const std::string& had_words = "the run had");
nlohmann::json to_json(const backend::ProductChoice& choice);

/// Entries that a matrix of this size keeps.
index_t kept_entries(const SparseOptions& options, index_t matrix_entries);

/// "auto" (nothing), "multiply_first", "project_first", "out_first", "in_first". Throws ValueError.
std::optional<Plan> parse_plan(const std::string& text);

}  // namespace sparsegrad::finetune
