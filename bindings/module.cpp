// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

#include "array.hpp"
#include "misfit.hpp"
#include "module.hpp"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of moptcore.";
  moptcore::bindings::bind_core(m);
  moptcore::bindings::bind_cluster(m.def_submodule("cluster"));
  moptcore::bindings::bind_prune(m.def_submodule("prune"));
  const auto quant = m.def_submodule("quant");
  moptcore::bindings::bind_quant(quant);
  moptcore::bindings::bind_quant_learned(quant);
  moptcore::bindings::bind_quant_weights(quant);
  moptcore::bindings::bind_distill(m.def_submodule("distill"));
  moptcore::bindings::bind_pack(m.def_submodule("pack"));
  const auto graph = m.def_submodule("graph");
  moptcore::bindings::bind_graph(graph);
  moptcore::bindings::bind_graph_passes(graph);
  moptcore::bindings::bind_graph_channels(graph);
  moptcore::bindings::word_misfits(m);
}
