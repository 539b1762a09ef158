// The commands on the CPU in bfloat16.
#include "programs/evaluate_command_impl.hpp"
#include "programs/train_command_impl.hpp"
#include "training/session_impl.hpp"

namespace sparsegrad::finetune {

template int run_train_on<bfloat16, HostBackend>(const TrainOptions&, const std::string&,
                                                 const RunProcesses&);
template int run_evaluate_on<bfloat16, HostBackend>(const EvaluateCommand&);

}  // namespace sparsegrad::finetune
