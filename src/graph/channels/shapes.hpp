// SPDX-License-Identifier: Apache-2.0
// What is known of shapes and of the small integers that they are computed from.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <moptcore/graph/model.hpp>

#include "graph/channels/coupling.hpp"

namespace moptcore::inline v0::graph::channels {

/// Of every value of the main graph whose type the model states.
[[nodiscard]] std::map<std::string, const ValueType*, std::less<>> types_of(const Model& model);

/// infer_types, where inputs that have a default have no other value.
void infer_with_constants(Model& model);

/// The elements of a vector or scalar of int32 or int64; none for other tensors.
[[nodiscard]] std::optional<std::vector<std::int64_t>> integers_of(const Tensor& tensor);

/// The value of a Constant node; none for kinds that are no tensor.
[[nodiscard]] std::optional<Tensor> constant_of(const Node& node);

/// The value of a ConstantOfShape of that shape, of at most `most` bytes.
[[nodiscard]] std::optional<Tensor> filled_of(const Node& node, const Tensor& shape,
                                              std::int64_t most);

/// The elements that the first output of a node has, where the node moves extents about.
[[nodiscard]] std::optional<std::vector<Element>> shape_elements(const Coupling& all,
                                                                 const Walk& walk);

}  // namespace moptcore::inline v0::graph::channels
