#include <sparsegrad/extras/mpi_reduce.hpp>

#include <span>
#include <vector>

// One process, as without mpirun.
int main() {
  MPI_Init(nullptr, nullptr);
  bool right = false;
  {
    sparsegrad::MpiCommunicator comm(MPI_COMM_WORLD);
    std::vector<float> x = {1, 2};
    comm.sum(std::span(x));
    right = comm.size() == 1 && x == std::vector<float>{1, 2};
  }
  MPI_Finalize();
  return right ? 0 : 1;
}
