// SPDX-License-Identifier: Apache-2.0
// Weights in few bytes, losslessly, in standard safetensors files.
#pragma once

#include <moptcore/pack/encoding.hpp>
#include <moptcore/pack/file.hpp>
