#include "programs/train_command_impl.hpp"
#include "training/output/output_folder.hpp"
#include "training/products.hpp"

namespace sparsegrad::finetune {

// In cpu_bfloat16.cpp.
extern template int run_train_on<bfloat16, HostBackend>(const TrainOptions&, const std::string&);

int run_train(const TrainOptions& options) {
  if (options.device == Device::cuda) return run_train_on_cuda(options);
  options.check();
  TrainOptions chosen = options;
  const Products products =
      choose_products(options, options.output.empty() ? "" : OutputFolder::log_in(options.output));
  chosen.product_choice = products.choice;
  chosen.dtype = products.dtype;
  return chosen.dtype == NumberType::bfloat16 ? run_train_on<bfloat16, HostBackend>(chosen, products.text)
                                              : run_train_on<float, HostBackend>(chosen, products.text);
}

}  // namespace sparsegrad::finetune
