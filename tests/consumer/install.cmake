# cmake -D build=<build folder> -D prefix=<folder> -P install.cmake
# Installs anew, so that a file which is no longer installed is missed by those who need it.
file(REMOVE_RECURSE ${prefix})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${build} --prefix ${prefix} --component moptcore
  COMMAND_ERROR_IS_FATAL ANY)
