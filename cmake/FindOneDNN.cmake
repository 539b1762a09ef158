# Finds oneDNN, version 2 or 3, as the imported target OneDNN::OneDNN.
#
# Not by oneDNN's own package file: Debian's asks for OpenCL, of which nothing is used here, and stops CMake where
# that is not installed. Another oneDNN is chosen by CMAKE_PREFIX_PATH or by setting the cache variables
#   OneDNN_INCLUDE_DIR  folder with oneapi/dnnl/dnnl.hpp
#   OneDNN_LIBRARY      libdnnl
# Debian: libdnnl-dev.

find_path(OneDNN_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
find_library(OneDNN_LIBRARY NAMES dnnl)

set(OneDNN_VERSION "")
set(_onednn_header "${OneDNN_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h")
if(OneDNN_INCLUDE_DIR AND EXISTS "${_onednn_header}")
  file(READ "${_onednn_header}" _onednn_text)
  if(_onednn_text MATCHES
      "DNNL_VERSION_MAJOR +([0-9]+).*DNNL_VERSION_MINOR +([0-9]+).*DNNL_VERSION_PATCH +([0-9]+)")
    set(OneDNN_VERSION "${CMAKE_MATCH_1}.${CMAKE_MATCH_2}.${CMAKE_MATCH_3}")
  endif()
  unset(_onednn_text)
endif()
unset(_onednn_header)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OneDNN
  REQUIRED_VARS OneDNN_LIBRARY OneDNN_INCLUDE_DIR
  VERSION_VAR OneDNN_VERSION
  REASON_FAILURE_MESSAGE "install oneDNN (Debian: libdnnl-dev)")
mark_as_advanced(OneDNN_LIBRARY OneDNN_INCLUDE_DIR)

if(OneDNN_FOUND AND NOT TARGET OneDNN::OneDNN)
  add_library(OneDNN::OneDNN INTERFACE IMPORTED)
  set_target_properties(OneDNN::OneDNN PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${OneDNN_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "${OneDNN_LIBRARY}")
endif()
