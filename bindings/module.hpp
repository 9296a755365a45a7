// SPDX-License-Identifier: Apache-2.0
// One function a word, each in the file of that name.
#pragma once

#include <pybind11/pybind11.h>

namespace moptcore::bindings {

void bind_core(pybind11::module_ m);
void bind_prune(pybind11::module_ m);
void bind_quant(pybind11::module_ m);
void bind_distill(pybind11::module_ m);

}  // namespace moptcore::bindings
