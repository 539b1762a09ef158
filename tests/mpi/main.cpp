// Main of a test program that mpirun starts several times: doctest between MPI_Init and MPI_Finalize.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <mpi.h>

int main(int argc, char** argv) {
  int given = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &given);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);  // MPICH's MPI_Test asks it
  const int failed = doctest::Context(argc, argv).run();
  if (failed != 0) MPI_Abort(MPI_COMM_WORLD, failed);  // the others may wait for this one
  MPI_Finalize();
}
