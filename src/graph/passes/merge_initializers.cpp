// SPDX-License-Identifier: Apache-2.0
#include <moptcore/graph/passes/merge_initializers.hpp>

#include <algorithm>
#include <cstring>
#include <map>

#include "graph/passes/editor.hpp"

namespace moptcore::inline v0::graph {
namespace {

std::uint64_t digest(const Tensor& tensor) {
  // FNV-1a over words: only candidates for a comparison of all bytes.
  std::uint64_t hash = 1469598103934665603ULL ^ static_cast<std::uint64_t>(tensor.type());
  const auto* bytes = static_cast<const unsigned char*>(tensor.raw());
  const auto count = static_cast<std::size_t>(tensor.bytes());
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + i, 8);
    hash = (hash ^ word) * 1099511628211ULL;
    hash ^= hash >> 29;
  }
  for (; i < count; ++i) hash = (hash ^ bytes[i]) * 1099511628211ULL;
  return hash;
}

bool equal(const Tensor& a, const Tensor& b) {
  if (a.type() != b.type() || !(a.shape() == b.shape())) return false;
  if (a.raw() == b.raw() || a.bytes() == 0) return true;
  return std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.bytes())) == 0;
}

}  // namespace

PassReport merge_initializers(Model& model, const PassOptions& options) {
  return run_pass(model, "merge_initializers", options, {}, [](GraphEditor& editor) {
    std::map<std::uint64_t, std::vector<std::string>> groups;
    for (const auto& [name, tensor] : editor.graph().initializers) {
      if (tensor.type() == ElementType::string || editor.constant(name) == nullptr) continue;
      if (editor.uses(name) == 0) continue;
      std::vector<std::string>& group = groups[digest(tensor)];
      const auto same = std::ranges::find_if(group, [&](const std::string& other) {
        return equal(tensor, editor.graph().initializers.at(other));
      });
      if (same == group.end()) group.push_back(name);
      else if (editor.replace(name, *same)) editor.count();
    }
  });
}

}  // namespace moptcore::inline v0::graph
