// SPDX-License-Identifier: Apache-2.0
// Errors of operators that say at which node they occurred.
#pragma once

#include <string>

#include <moptcore/core/check.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph {

/// The text of an error with the node's name, or its first output where it has none, behind it. A
/// text that names a node of a subgraph already stays as it is, and that of a node without a name
/// which is alone: the operator says it all.
[[nodiscard]] inline std::string naming(const Node& node, bool is_alone, const Error& error) {
  std::string text = error.what();
  if (is_alone && node.name.empty()) return text;
  if (text.ends_with("')") && text.find(" (node '") != std::string::npos) return text;
  const std::string& name =
      !node.name.empty() || node.outputs.empty() ? node.name : node.outputs[0];
  return text + " (node '" + name + "')";
}

/// Calls f(); its errors name the node and keep their type.
template <class F>
void with_name(const Node& node, bool is_alone, F&& f) {
  try {
    f();
  } catch (const DTypeError& error) {
    throw DTypeError(naming(node, is_alone, error));
  } catch (const NonFiniteError& error) {
    throw NonFiniteError(naming(node, is_alone, error));
  } catch (const UnsupportedError& error) {
    throw UnsupportedError(naming(node, is_alone, error));
  } catch (const FormatError& error) {
    throw FormatError(naming(node, is_alone, error));
  } catch (const Error& error) {
    throw Error(naming(node, is_alone, error));
  }
}

}  // namespace moptcore::inline v0::graph
