// What the library's headers include of other libraries.
#include <cblas.h>
#include <lapacke.h>

#include <Eigen/Dense>
#include <nlohmann/json.hpp>
#if __has_include(<oneapi/dnnl/dnnl.hpp>)
#include <oneapi/dnnl/dnnl.hpp>
#endif
#if __has_include(<mpi.h>)
#include <mpi.h>
#endif
