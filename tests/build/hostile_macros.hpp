// Macros that system headers and other libraries define. The names of Eigen, json and LAPACKE are not the
// library's to answer for, so what a header under test may include of them comes first.
#if defined(SPARSEGRAD_TEST_WITH_eigen)
#include <Eigen/Dense>
#endif
#if defined(SPARSEGRAD_TEST_WITH_json)
#include <nlohmann/json.hpp>
#endif
#if defined(SPARSEGRAD_TEST_WITH_blas)
#include <cblas.h>
#include <lapacke.h>
#endif

#undef I
#define I hostile macro  // <complex.h>
#undef B0
#define B0 hostile macro  // <termios.h>
#undef small
#define small hostile macro  // Windows' rpcndr.h
#define near hostile macro   // Windows' minwindef.h
#define far hostile macro
#define interface hostile macro
#define ERROR hostile macro
#define IN hostile macro
#define OUT hostile macro
#define None hostile macro  // X11
#define Bool hostile macro
#define Status hostile macro
#define Always hostile macro
#define True hostile macro
#define False hostile macro
#define CHECK hostile macro  // test and logging libraries
#define REQUIRE hostile macro
#define ASSERT hostile macro
#define THROW hostile macro
#define STRINGIFY hostile macro
#define DEBUG hostile macro
