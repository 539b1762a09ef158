# Target `single_header`: the library for the host as one file, <build>/single_include/sparsegrad/sparsegrad.hpp.
set(sparsegrad_single_include "${PROJECT_BINARY_DIR}/single_include")
file(GLOB_RECURSE sparsegrad_single_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/sparsegrad/*.hpp")
add_custom_command(OUTPUT "${sparsegrad_single_include}/sparsegrad/sparsegrad.hpp"
  COMMAND Python3::Interpreter "${PROJECT_SOURCE_DIR}/scripts/single_header.py" "${PROJECT_SOURCE_DIR}/include"
    "${sparsegrad_single_include}/sparsegrad/sparsegrad.hpp"
  DEPENDS "${PROJECT_SOURCE_DIR}/scripts/single_header.py" ${sparsegrad_single_sources}
  VERBATIM)
add_custom_target(single_header DEPENDS "${sparsegrad_single_include}/sparsegrad/sparsegrad.hpp")
