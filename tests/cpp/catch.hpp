// SPDX-License-Identifier: Apache-2.0
// Catch2, version 2 or 3: tests use only what both have.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#define CATCH_VERSION_3 1
#else
#include <catch2/catch.hpp>
#endif
