#include "programs/llm_commands.hpp"

int main(int argc, char** argv) {
  return sparsegrad::finetune::run_llm_program(argc, argv);
}
