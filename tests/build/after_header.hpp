// What a header must not have brought in.
#if defined(SPARSEGRAD_TEST_WITHOUT_eigen) && defined(EIGEN_WORLD_VERSION)
#error "this header reaches Eigen: only backend/cpu.hpp and what names the default backend may"
#endif
#if defined(SPARSEGRAD_TEST_WITHOUT_json) && defined(NLOHMANN_JSON_VERSION_MAJOR)
#error "this header reaches nlohmann_json: only io/ may"
#endif
#if defined(SPARSEGRAD_TEST_WITHOUT_blas) && (defined(LAPACK_ROW_MAJOR) || defined(CBLAS_INDEX))
#error "this header reaches CBLAS or LAPACKE: only backend/cpu_blas* and backend/cpu_onednn* may"
#endif
#if defined(SPARSEGRAD_TEST_WITHOUT_onednn) && defined(DNNL_VERSION_MAJOR)
#error "this header reaches oneDNN: only backend/cpu_onednn* may"
#endif
#if defined(SPARSEGRAD_TEST_WITHOUT_mpi) && defined(MPI_VERSION)
#error "this header reaches MPI: only extras/mpi_* may"
#endif
