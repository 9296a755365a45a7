# What a stranger's find_package(moptcore) finds: targets, headers, licence.
set(moptcore_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/moptcore)

# A component of its own: the wheel installs the component "python" only.
install(TARGETS moptcore moptcore_headers EXPORT moptcore-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT moptcore
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT moptcore
    NAMELINK_COMPONENT moptcore
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT moptcore)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/moptcore ${CMAKE_CURRENT_BINARY_DIR}/include/moptcore
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT moptcore FILES_MATCHING PATTERN "*.hpp")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/THIRD-PARTY.md
  DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT moptcore)
install(EXPORT moptcore-targets NAMESPACE moptcore::
  DESTINATION ${moptcore_package_dir} COMPONENT moptcore)

get_target_property(moptcore_type moptcore TYPE)
string(COMPARE EQUAL ${moptcore_type} SHARED_LIBRARY moptcore_shared)
configure_package_config_file(moptcore-config.cmake.in moptcore-config.cmake
  INSTALL_DESTINATION ${moptcore_package_dir}
  PATH_VARS CMAKE_INSTALL_LIBDIR
  NO_SET_AND_CHECK_MACRO)
# 0.x promises nothing between minors; see CHANGELOG.
write_basic_package_version_file(moptcore-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/moptcore-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/moptcore-config-version.cmake
  DESTINATION ${moptcore_package_dir} COMPONENT moptcore)
