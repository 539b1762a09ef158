# Install rules. Nothing in the package depends on the machine's architecture, hence share/.
include(CMakePackageConfigHelpers)
set(sparsegrad_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/sparsegrad")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/sparsegrad" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  FILES_MATCHING PATTERN "*.hpp" PATTERN "*.cuh" PATTERN "*.h")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/sparsegrad")

# One export file a component: loading a component must not ask for another's dependency.
set(sparsegrad_components core cpu blas onednn io mpi)
if(SPARSEGRAD_CUDA)
  list(APPEND sparsegrad_components cuda nccl)
endif()
foreach(component IN LISTS sparsegrad_components)
  set_target_properties(sparsegrad_${component} PROPERTIES EXPORT_NAME ${component})
  install(TARGETS sparsegrad_${component} EXPORT sparsegrad-${component})
  install(EXPORT sparsegrad-${component} NAMESPACE sparsegrad:: DESTINATION "${sparsegrad_package_dir}"
    FILE sparsegrad-${component}.cmake)
endforeach()

# The compiled libraries are installed where they were built: the headers alone serve those who did not build them.
set(sparsegrad_arch_independent ARCH_INDEPENDENT)
set(sparsegrad_libraries "")
if(SPARSEGRAD_C)
  list(APPEND sparsegrad_libraries c c_static)
endif()
if(SPARSEGRAD_COMPILED)
  list(APPEND sparsegrad_libraries compiled)
endif()
foreach(component IN LISTS sparsegrad_libraries)
  set(sparsegrad_arch_independent "")
  set_target_properties(sparsegrad_${component} PROPERTIES EXPORT_NAME ${component})
  install(TARGETS sparsegrad_${component} EXPORT sparsegrad-${component} OPTIONAL
    LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(EXPORT sparsegrad-${component} NAMESPACE sparsegrad:: DESTINATION "${sparsegrad_package_dir}"
    FILE sparsegrad-${component}.cmake)
endforeach()

# pkg-config: the headers, sparsegrad-cpp; the C interface, sparsegrad; the compiled classes, sparsegrad-compiled.
function(sparsegrad_install_pc name dir)
  configure_file("${PROJECT_SOURCE_DIR}/cmake/${name}.pc.in" "${PROJECT_BINARY_DIR}/cmake/${name}.pc" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/cmake/${name}.pc" DESTINATION "${dir}/pkgconfig")
endfunction()
foreach(dir lib data)
  string(TOUPPER "CMAKE_INSTALL_${dir}DIR" sparsegrad_pc_dir)
  file(RELATIVE_PATH sparsegrad_${dir}_pc_up "/${${sparsegrad_pc_dir}}/pkgconfig" "/")
  string(REGEX REPLACE "/$" "" sparsegrad_${dir}_pc_up "${sparsegrad_${dir}_pc_up}")
endforeach()
sparsegrad_install_pc(sparsegrad-cpp "${CMAKE_INSTALL_DATADIR}")
set(sparsegrad_pc_backends "")
if("onednn" IN_LIST SPARSEGRAD_BACKENDS)
  list(APPEND sparsegrad_pc_backends "${OneDNN_LIBRARY}")
endif()
if("blas" IN_LIST SPARSEGRAD_BACKENDS OR "onednn" IN_LIST SPARSEGRAD_BACKENDS)
  list(APPEND sparsegrad_pc_backends "${CBLASLAPACKE_LAPACKE_LIBRARY}" "${CBLASLAPACKE_BLAS_LIBRARY}")
endif()
string(REPLACE " " "\\ " sparsegrad_pc_backends "${sparsegrad_pc_backends}")
string(REPLACE ";" " " sparsegrad_pc_backends "${sparsegrad_pc_backends}")
if(SPARSEGRAD_C)
  sparsegrad_install_pc(sparsegrad "${CMAKE_INSTALL_LIBDIR}")
endif()
if(SPARSEGRAD_COMPILED)
  sparsegrad_install_pc(sparsegrad-compiled "${CMAKE_INSTALL_LIBDIR}")
endif()

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/sparsegrad-config.cmake.in"
  "${PROJECT_BINARY_DIR}/cmake/sparsegrad-config.cmake" INSTALL_DESTINATION "${sparsegrad_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/cmake/sparsegrad-config-version.cmake"
  COMPATIBILITY SameMinorVersion ${sparsegrad_arch_independent})
install(FILES
  "${PROJECT_BINARY_DIR}/cmake/sparsegrad-config.cmake"
  "${PROJECT_BINARY_DIR}/cmake/sparsegrad-config-version.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindCBLASLAPACKE.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindOneDNN.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindNCCL.cmake"
  DESTINATION "${sparsegrad_package_dir}")
