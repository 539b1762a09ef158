# cmake -DNM=<nm> -DOBJECT=<file> -P check_symbols.cmake: the object takes `step` of both groups from elsewhere.
execute_process(COMMAND "${NM}" -C "${OBJECT}" OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
foreach(type "float" "bfloat16")
  string(REGEX MATCHALL "[^\n]*SparseGradGroup<[a-z0-9_:]*${type}, [^\n]*>::step\\([^\n]*" found "${symbols}")
  string(REGEX MATCHALL "[^\n]* [WVt] [^\n]*" defined "${found}")
  if(NOT found OR defined)
    message(FATAL_ERROR "SparseGradGroup<${type}>::step, expected as undefined: '${found}'")
  endif()
endforeach()
