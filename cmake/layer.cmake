# sala_layer(NAME KNOWS layer... USES external... SOURCES file... TESTS file...)
#
# One layer of ARCHITECTURE.md: the static library sala_NAME, and for each NAME_test.cc a program with its tests
# registered in ctest. KNOWS are the layers whose headers it may include, USES are external targets.
#
# With SALA_UNITY, headers (json.hpp, CLI.hpp: seconds a file) are read and their templates made once for eight files, which
# therefore share what their unnamed namespaces name. ONE_BY_ONE: kernels, which are most of what they compile.
function(sala_layer name)
  cmake_parse_arguments(LAYER "ONE_BY_ONE" "" "KNOWS;USES;SOURCES;TESTS" ${ARGN})
  add_library(sala_${name} STATIC ${LAYER_SOURCES})
  if(NOT LAYER_ONE_BY_ONE)
    set_target_properties(sala_${name} PROPERTIES UNITY_BUILD ${SALA_UNITY})
  endif()
  target_include_directories(sala_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  list(TRANSFORM LAYER_KNOWS PREPEND sala_)
  target_link_libraries(sala_${name} PUBLIC ${LAYER_KNOWS} ${LAYER_USES})
  if(SALA_TESTS)
    foreach(file IN LISTS LAYER_TESTS)
      sala_test(${file} sala_${name})
    endforeach()
  endif()
endfunction()

# sala_test(FILE library...): one GoogleTest program, named after its file; its tests begin with the first library's layer,
# e.g. engine.Sampler.IsGreedyAtZero.
function(sala_test file)
  get_filename_component(program ${file} NAME_WE)
  add_executable(${program} ${file})
  target_link_libraries(${program} PRIVATE ${ARGN} GTest::gtest_main)
  target_compile_options(${program} PRIVATE $<IF:$<CONFIG:Release>,-O1,-O0>)  # the libraries do the work
  target_compile_definitions(${program} PRIVATE SALA_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  string(REPLACE "sala_" "" layer ${ARGV1})
  gtest_discover_tests(${program} TEST_PREFIX ${layer}. DISCOVERY_TIMEOUT 60
    PROPERTIES LABELS unit TIMEOUT 1200)
endfunction()
