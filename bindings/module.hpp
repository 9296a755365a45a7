// SPDX-License-Identifier: Apache-2.0
// One function a file, each named after its word; a large word has several.
#pragma once

#include <pybind11/pybind11.h>

namespace moptcore::bindings {

void bind_core(pybind11::module_ m);
void bind_cluster(pybind11::module_ m);
void bind_prune(pybind11::module_ m);
void bind_quant(pybind11::module_ m);
void bind_quant_learned(pybind11::module_ m);
void bind_quant_weights(pybind11::module_ m);
void bind_distill(pybind11::module_ m);
void bind_pack(pybind11::module_ m);
void bind_graph(pybind11::module_ m);
void bind_graph_channels(pybind11::module_ m);
void bind_graph_passes(pybind11::module_ m);

// The words of _runtime.
void bind_lowrank(pybind11::module_ m);
void bind_session(pybind11::module_ m);

/// For functions of _runtime, which links the library a second time: gives it the limit on threads
/// that the user set in _core.
void adopt_thread_limit();

}  // namespace moptcore::bindings
