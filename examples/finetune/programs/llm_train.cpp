#include "programs/llm_train_impl.hpp"
#include "training/adapter_start.hpp"
#include "training/output/output_folder.hpp"
#include "training/products.hpp"

namespace sparsegrad::finetune {

int run_llm_train(const TrainOptions& options) {
  options.check();
  if (options.data.empty()) throw ValueError("--data FILE is missing: questions and answers to train on");
  TrainOptions chosen = options.causal.value().start.empty() ? options : options_of_start(options);
  if (chosen.device == Device::cuda) return run_llm_train_on_cuda(chosen);
  const Products products =
      choose_products(options, options.output.empty() ? "" : OutputFolder::log_in(options.output));
  chosen.product_choice = products.choice;
  chosen.dtype = products.dtype;
  return chosen.dtype == NumberType::bfloat16 ? run_llm_train_on<bfloat16, HostBackend>(chosen, products.text)
                                              : run_llm_train_on<float, HostBackend>(chosen, products.text);
}

}  // namespace sparsegrad::finetune
