# Libraries that come from the system's packages. Where one is missing, MOPTCORE_FETCH gets the
# pinned version from its repository and builds it as part of moptcore.
include(FetchContent)
option(MOPTCORE_FETCH "Download libraries that the system lacks" ON)

# moptcore_dependency(<package> <target> <repository> <commit> <Debian package> [<version>]
#                     [OPTIONS <name>=<value>...] [SOURCE_SUBDIR <folder>])
# Sets <package>_FETCHED.
function(moptcore_dependency package target repository commit debian)
  cmake_parse_arguments(arg "" "SOURCE_SUBDIR" "OPTIONS" ${ARGN})
  set(${package}_FETCHED OFF PARENT_SCOPE)
  find_package(${package} ${arg_UNPARSED_ARGUMENTS} CONFIG QUIET)
  if(${package}_FOUND OR TARGET ${target})
    return()
  endif()
  set(advice "Install it (Debian: apt install ${debian})")
  if(NOT MOPTCORE_FETCH)
    message(FATAL_ERROR "${package} ${arg_UNPARSED_ARGUMENTS} was not found. ${advice} or set "
      "MOPTCORE_FETCH=ON.")
  endif()
  message(STATUS "${package} was not found; getting it from ${repository}. ${advice} to avoid that.")
  foreach(option IN LISTS arg_OPTIONS)
    string(REGEX MATCH "^([^=]+)=(.*)$" _ "${option}")
    set(${CMAKE_MATCH_1} "${CMAKE_MATCH_2}" CACHE INTERNAL "for ${package}")
  endforeach()
  set(CMAKE_POLICY_VERSION_MINIMUM 3.5)
  set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)
  set(BUILD_SHARED_LIBS OFF)
  FetchContent_Declare(${package} GIT_REPOSITORY ${repository} GIT_TAG ${commit}
    SOURCE_SUBDIR "${arg_SOURCE_SUBDIR}" SYSTEM EXCLUDE_FROM_ALL)
  FetchContent_MakeAvailable(${package})
  set(${package}_FETCHED ON PARENT_SCOPE)
endfunction()

function(moptcore_need_highway)
  moptcore_dependency(hwy hwy::hwy https://github.com/google/highway
    58746ca5b9f9444a2a3549704602ecc6239f8f41 libhwy-dev 1.0.3
    OPTIONS HWY_ENABLE_CONTRIB=OFF HWY_ENABLE_EXAMPLES=OFF HWY_ENABLE_TESTS=OFF
      HWY_ENABLE_INSTALL=OFF BUILD_TESTING=OFF)
  if(hwy_FETCHED)
    add_library(hwy::hwy ALIAS hwy)
    # It becomes part of our package: who links a static moptcore links this too.
    if(MOPTCORE_INSTALL)
      install(TARGETS hwy EXPORT moptcore-targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT moptcore)
    endif()
  endif()
  set(hwy_FETCHED ${hwy_FETCHED} PARENT_SCOPE)
endfunction()

# Sets moptcore_zstd to the static library where there is one, so that a wheel needs nothing that a
# machine may lack. Debian's is no position-independent code: a shared moptcore takes the shared one.
function(moptcore_need_zstd)
  moptcore_dependency(zstd zstd::libzstd_static https://github.com/facebook/zstd
    794ea1b0afca0f020f4e57b6732332231fb23c70 libzstd-dev
    OPTIONS ZSTD_BUILD_PROGRAMS=OFF ZSTD_BUILD_SHARED=OFF ZSTD_BUILD_TESTS=OFF
      ZSTD_LEGACY_SUPPORT=OFF
    SOURCE_SUBDIR build/cmake)
  if(zstd_FETCHED)
    add_library(zstd::libzstd_static ALIAS libzstd_static)
    if(MOPTCORE_INSTALL)
      install(TARGETS libzstd_static EXPORT moptcore-targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT moptcore)
    endif()
  endif()
  set(zstd_FETCHED ${zstd_FETCHED} PARENT_SCOPE)
  if(TARGET zstd::libzstd_static AND NOT (BUILD_SHARED_LIBS AND TARGET zstd::libzstd_shared))
    set(moptcore_zstd zstd::libzstd_static PARENT_SCOPE)
  else()
    set(moptcore_zstd zstd::libzstd_shared PARENT_SCOPE)
  endif()
endfunction()

# Only headers, and only ours to see: none of Eigen's own CMake code is run, which would test and
# install it.
function(moptcore_need_eigen)
  moptcore_dependency(Eigen3 Eigen3::Eigen https://gitlab.com/libeigen/eigen
    3147391d946bb4b6c68edd901f2add6ac1f31f8c libeigen3-dev 3.4
    SOURCE_SUBDIR no-build)
  if(Eigen3_FETCHED)
    FetchContent_GetProperties(Eigen3 SOURCE_DIR eigen_headers)
    add_library(Eigen3::Eigen INTERFACE IMPORTED GLOBAL)
    set_target_properties(Eigen3::Eigen PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${eigen_headers})
  endif()
endfunction()

# Only headers; Debian's package of them has no CMake code.
function(moptcore_need_protozero)
  find_path(moptcore_protozero protozero/varint.hpp)
  mark_as_advanced(moptcore_protozero)
  if(moptcore_protozero AND NOT TARGET protozero::protozero)
    add_library(protozero::protozero INTERFACE IMPORTED GLOBAL)
    set_target_properties(protozero::protozero PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES ${moptcore_protozero})
  endif()
  moptcore_dependency(protozero protozero::protozero https://github.com/mapbox/protozero
    f379578a3f7c8162aac0ac31c2696de09a5b5f93 libprotozero-dev
    SOURCE_SUBDIR no-build)
  if(protozero_FETCHED)
    FetchContent_GetProperties(protozero SOURCE_DIR protozero_sources)
    add_library(protozero::protozero INTERFACE IMPORTED GLOBAL)
    set_target_properties(protozero::protozero PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES ${protozero_sources}/include)
  endif()
endfunction()

function(moptcore_need_catch)
  moptcore_dependency(Catch2 Catch2::Catch2 https://github.com/catchorg/Catch2
    182c910b4b63ff587a3440e08f84f70497e49a81 catch2)
endfunction()

function(moptcore_need_benchmark)
  moptcore_dependency(benchmark benchmark::benchmark_main https://github.com/google/benchmark
    d572f4777349d43653b21d6c2fc63020ab326db2 libbenchmark-dev
    OPTIONS BENCHMARK_ENABLE_TESTING=OFF BENCHMARK_ENABLE_INSTALL=OFF BENCHMARK_ENABLE_WERROR=OFF)
endfunction()
