// SPDX-License-Identifier: Apache-2.0
// core/isa over Highway's list of targets.
#include <moptcore/core/isa.hpp>

#include <hwy/highway.h>

#include <array>
#include <bit>
#include <utility>

#include <moptcore/core/check.hpp>

#include "core/environment.hpp"

namespace moptcore::inline v0 {
namespace {

struct Isa {
  std::string_view name;
  std::int64_t target;
};

// Best first. The baseline is what the compiler may assume of every x86-64 CPU.
constexpr std::array<Isa, 3> kIsas = {Isa{"avx512", HWY_AVX3}, Isa{"avx2", HWY_AVX2},
                                      Isa{"baseline", HWY_STATIC_TARGET}};

void limit(std::string_view best) {
  hwy::DisableTargets(0);
  if (best.empty()) return;
  std::int64_t disabled = 0;
  for (const Isa& isa : kIsas) {
    if (isa.name == best) {
      if (disabled != 0) hwy::DisableTargets(disabled);
      return;
    }
    disabled |= isa.target;
  }
  throw Error(error_text("core.set_max_isa", "name must be avx512, avx2, baseline or empty", best));
}

// Applies MOPTCORE_MAX_ISA when the library is loaded; an unknown name is reported by
// current_isa's callers through `doctor`, not by a crash at load.
[[maybe_unused]] const bool limited = [] {
  if (const auto text = detail::environment_text("MOPTCORE_MAX_ISA")) {
    for (const Isa& isa : kIsas) {
      if (isa.name == *text) limit(*text);
    }
  }
  return true;
}();

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : kIsas) {
    if ((hwy::SupportedTargets() & HWY_TARGETS & isa.target) != 0) names.emplace_back(isa.name);
  }
  return names;
}

std::string current_isa() { return available_isas().front(); }

void set_max_isa(std::string_view name) { limit(name); }

}  // namespace moptcore::inline v0
