// The commands on language models on a GPU in bfloat16 and half.
#include "programs/cuda/run_device.cuh"

#include "checkpoints/decoder_folder_impl.hpp"
#include "programs/llm_evaluate_impl.hpp"
#include "programs/llm_generate_impl.hpp"
#include "programs/llm_train_impl.hpp"
#include "training/causal_run_data_impl.hpp"
#include "training/causal_session_impl.hpp"
#include "training/causal_source_impl.hpp"
#include "training/choice_scores_impl.hpp"
#include "training/generation_impl.hpp"
#include "training/trainer_impl.hpp"
#include "training/trainer_state_impl.hpp"

namespace sparsegrad::finetune {

template class CausalRunData<bfloat16, backend::Cuda>;
template class BasicTrainer<DecoderModel<bfloat16, backend::Cuda>>;
template int run_llm_train_on<bfloat16, backend::Cuda>(const TrainOptions&, const std::string&,
                                                       const RunProcesses&);
template int run_llm_evaluate_on<bfloat16, backend::Cuda>(const LlmEvaluateCommand&);
template int run_generate_on<bfloat16, backend::Cuda>(const GenerateCommand&);
template class CausalRunData<float16, backend::Cuda>;
template class BasicTrainer<DecoderModel<float16, backend::Cuda>>;
template int run_llm_train_on<float16, backend::Cuda>(const TrainOptions&, const std::string&,
                                                      const RunProcesses&);
template int run_llm_evaluate_on<float16, backend::Cuda>(const LlmEvaluateCommand&);
template int run_generate_on<float16, backend::Cuda>(const GenerateCommand&);

}  // namespace sparsegrad::finetune
