# Finds CBLAS and LAPACKE as one imported target, CBLASLAPACKE::CBLASLAPACKE.
#
# OpenBLAS comes first, and of its builds the one with OpenMP, so that one pool of threads serves the whole
# program. Any other pair is chosen by setting the cache variables
#   CBLASLAPACKE_CBLAS_INCLUDE_DIR    folder of cblas.h
#   CBLASLAPACKE_LAPACKE_INCLUDE_DIR  folder of lapacke.h
#   CBLASLAPACKE_BLAS_LIBRARY         library with cblas_*
#   CBLASLAPACKE_LAPACKE_LIBRARY      library with LAPACKE_*; may be the same one
# Debian: libopenblas-openmp-dev and liblapacke-dev.

set(_cblaslapacke_suffixes openblas-openmp openblas openblas-pthread)

find_path(CBLASLAPACKE_CBLAS_INCLUDE_DIR cblas.h PATH_SUFFIXES ${_cblaslapacke_suffixes})
find_path(CBLASLAPACKE_LAPACKE_INCLUDE_DIR lapacke.h PATH_SUFFIXES ${_cblaslapacke_suffixes})
find_library(CBLASLAPACKE_BLAS_LIBRARY NAMES openblas PATH_SUFFIXES ${_cblaslapacke_suffixes})
find_library(CBLASLAPACKE_BLAS_LIBRARY NAMES cblas blas PATH_SUFFIXES ${_cblaslapacke_suffixes})
# OpenBLAS as its authors build it has LAPACKE inside; distributions split it off.
find_library(CBLASLAPACKE_LAPACKE_LIBRARY NAMES lapacke openblas PATH_SUFFIXES ${_cblaslapacke_suffixes})
unset(_cblaslapacke_suffixes)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CBLASLAPACKE
  REQUIRED_VARS CBLASLAPACKE_BLAS_LIBRARY CBLASLAPACKE_LAPACKE_LIBRARY
    CBLASLAPACKE_CBLAS_INCLUDE_DIR CBLASLAPACKE_LAPACKE_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install a CBLAS and LAPACKE (Debian: libopenblas-openmp-dev liblapacke-dev)")
mark_as_advanced(CBLASLAPACKE_BLAS_LIBRARY CBLASLAPACKE_LAPACKE_LIBRARY
  CBLASLAPACKE_CBLAS_INCLUDE_DIR CBLASLAPACKE_LAPACKE_INCLUDE_DIR)

if(CBLASLAPACKE_FOUND AND NOT TARGET CBLASLAPACKE::CBLASLAPACKE)
  add_library(CBLASLAPACKE::CBLASLAPACKE INTERFACE IMPORTED)
  # LAPACKE first: it refers to the BLAS library's symbols.
  set(_cblaslapacke_libraries "${CBLASLAPACKE_LAPACKE_LIBRARY}" "${CBLASLAPACKE_BLAS_LIBRARY}")
  list(REMOVE_DUPLICATES _cblaslapacke_libraries)
  set(_cblaslapacke_includes "${CBLASLAPACKE_CBLAS_INCLUDE_DIR}" "${CBLASLAPACKE_LAPACKE_INCLUDE_DIR}")
  list(REMOVE_DUPLICATES _cblaslapacke_includes)
  set_target_properties(CBLASLAPACKE::CBLASLAPACKE PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_cblaslapacke_includes}"
    INTERFACE_LINK_LIBRARIES "${_cblaslapacke_libraries}")
  unset(_cblaslapacke_libraries)
  unset(_cblaslapacke_includes)
endif()
