# Install rules. Nothing in the package depends on the machine's architecture, hence share/.
include(CMakePackageConfigHelpers)
set(sparsegrad_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/sparsegrad")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/sparsegrad" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  FILES_MATCHING PATTERN "*.hpp" PATTERN "*.cuh" PATTERN "*.h")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/sparsegrad")

# One export file a component: loading a component must not ask for another's dependency.
set(sparsegrad_components core cpu blas onednn io)
if(SPARSEGRAD_CUDA)
  list(APPEND sparsegrad_components cuda)
endif()
foreach(component IN LISTS sparsegrad_components)
  set_target_properties(sparsegrad_${component} PROPERTIES EXPORT_NAME ${component})
  install(TARGETS sparsegrad_${component} EXPORT sparsegrad-${component})
  install(EXPORT sparsegrad-${component} NAMESPACE sparsegrad:: DESTINATION "${sparsegrad_package_dir}"
    FILE sparsegrad-${component}.cmake)
endforeach()

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/sparsegrad-config.cmake.in"
  "${PROJECT_BINARY_DIR}/cmake/sparsegrad-config.cmake" INSTALL_DESTINATION "${sparsegrad_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/cmake/sparsegrad-config-version.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  "${PROJECT_BINARY_DIR}/cmake/sparsegrad-config.cmake"
  "${PROJECT_BINARY_DIR}/cmake/sparsegrad-config-version.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindCBLASLAPACKE.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindOneDNN.cmake"
  DESTINATION "${sparsegrad_package_dir}")
