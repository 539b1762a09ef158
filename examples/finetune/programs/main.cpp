#include "programs/commands.hpp"

int main(int argc, char** argv) {
  return sparsegrad::glue::run_program(argc, argv);
}
