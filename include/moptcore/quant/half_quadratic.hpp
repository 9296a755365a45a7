// SPDX-License-Identifier: Apache-2.0
// HQQ: grids of weights by a norm that forgives outliers, without data.
#pragma once

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/quant/reconstruct.hpp>

namespace moptcore::inline v0::quant {

struct HqqOptions {
  double norm = 0.7;          ///< p of the norm sum |e|^p, in (0, 1]
  double beta = 10.0;         ///< weight of the split at first, > 0
  double growth = 1.01;       ///< beta times this after each iteration, >= 1
  int iterations = 20;        ///< >= 0
  bool integer_zero = false;  ///< zero points are integers of the grid
};

/// HQQ (Badri and Shaji 2023): lowers sum |e|^p of each group, e = w / scale + zero - q in steps,
/// by turns of a shrinkage e' = sign(e) max(|e| - |e|^(p-1) / beta, 0) and of the mean of
/// q - w / scale + e' for the zero; symmetric grids keep zero 0 and fit the scale by least squares
/// instead. The best of all iterations is kept, the first being plain rounding. Measuring e in
/// steps makes the result independent of the unit of the weights, which the paper's code is not.
/// Writes q (loose dtype), and float32 `scale` and `zero_point`, [out] or, with groups,
/// [out, ceil(in / group_size)]: w ~ (q - zero_point) scale.
MOPTCORE_API void hqq(const AnyView& weights, const MutableAnyView& q, const MutableAnyView& scale,
                      const MutableAnyView& zero_point, const WeightGridOptions& grids,
                      const HqqOptions& options = {});

}  // namespace moptcore::inline v0::quant
