# Finds NCCL, version 2, as the imported target NCCL::NCCL. Chosen by CMAKE_PREFIX_PATH, NCCL_ROOT, or by setting
#   NCCL_INCLUDE_DIR  folder with nccl.h
#   NCCL_LIBRARY      libnccl
# NVIDIA's packages: libnccl-dev; the wheel nvidia-nccl-cu12 has header and library too, in nvidia/nccl.

find_path(NCCL_INCLUDE_DIR nccl.h)
find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install NCCL (NVIDIA's libnccl-dev), or set NCCL_ROOT")
mark_as_advanced(NCCL_LIBRARY NCCL_INCLUDE_DIR)

if(NCCL_FOUND AND NOT TARGET NCCL::NCCL)
  add_library(NCCL::NCCL INTERFACE IMPORTED)
  set_target_properties(NCCL::NCCL PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${NCCL_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "${NCCL_LIBRARY}")
endif()
