// Main of a test program that mpirun starts several times: doctest between MPI_Init and MPI_Finalize.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <mpi.h>

int main(int argc, char** argv) {
  int given = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &given);
  const int failed = doctest::Context(argc, argv).run();
  if (failed != 0) MPI_Abort(MPI_COMM_WORLD, failed);  // the others may wait for this one
  MPI_Finalize();
}
