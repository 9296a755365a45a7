// SPDX-License-Identifier: Apache-2.0
// The version of the library. CMake and pyproject.toml read it from here.
#pragma once

#define MOPTCORE_VERSION_MAJOR 0
#define MOPTCORE_VERSION_MINOR 1
#define MOPTCORE_VERSION_PATCH 0
#define MOPTCORE_VERSION "0.1.0"
