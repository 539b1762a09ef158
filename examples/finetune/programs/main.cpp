#include "programs/commands.hpp"

int main(int argc, char** argv) {
  return sparsegrad::finetune::run_program(argc, argv);
}
