# The consumers' programs: the core alone, README's program, and one with every component.
set(sources "${CMAKE_CURRENT_LIST_DIR}")
set(quickstart "${SPARSEGRAD_ROOT}/examples/01_quickstart.cpp")

# What the library asks of a user's compiler: nothing but C++20.
foreach(target core cpu blas io sparsegrad)
  foreach(property INTERFACE_COMPILE_OPTIONS INTERFACE_COMPILE_DEFINITIONS INTERFACE_LINK_OPTIONS)
    get_target_property(value sparsegrad::${target} ${property})
    if(value)
      message(FATAL_ERROR "sparsegrad::${target} has ${property} ${value}")
    endif()
  endforeach()
endforeach()

enable_testing()
function(add_program name source)
  add_executable(${name} "${source}")
  target_link_libraries(${name} PRIVATE ${ARGN})
  add_test(NAME ${name} COMMAND ${name})
endfunction()

add_program(core_only "${sources}/core_only.cpp" sparsegrad::core)
add_program(all_components "${sources}/all_components.cpp" sparsegrad::cpu sparsegrad::blas sparsegrad::io)
if(EXISTS "${quickstart}")
  add_program(quickstart "${quickstart}" sparsegrad::sparsegrad)
endif()
