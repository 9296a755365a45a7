# moptcore::xtensor and moptcore::eigen: headers whose functions return containers of those
# libraries. Each is there, and exported in a file of its own, where its library was found; a
# stranger without the library still finds the rest of the package.
function(moptcore_door door package target)
  find_package(${package} CONFIG QUIET)
  if(NOT ${package}_FOUND)
    return()
  endif()
  add_library(moptcore_${door} INTERFACE)
  add_library(moptcore::${door} ALIAS moptcore_${door})
  set_target_properties(moptcore_${door} PROPERTIES EXPORT_NAME ${door})
  target_link_libraries(moptcore_${door} INTERFACE moptcore ${target})
  if(MOPTCORE_INSTALL)
    install(TARGETS moptcore_${door} EXPORT moptcore-${door}-targets COMPONENT moptcore)
    install(EXPORT moptcore-${door}-targets NAMESPACE moptcore::
      DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/moptcore COMPONENT moptcore)
  endif()
endfunction()

moptcore_door(xtensor xtensor xtensor)
moptcore_door(eigen Eigen3 Eigen3::Eigen)
