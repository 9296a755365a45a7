// SPDX-License-Identifier: Apache-2.0
#include <moptcore/core/copy.hpp>
#include <moptcore/prune/prune.hpp>

#include <pybind11/stl.h>

#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "array.hpp"
#include "constructed.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

using Scores = std::optional<Array>;

prune::NonFinite nonfinite_from(const std::string& text, const char* where) {
  if (text == "error") return prune::NonFinite::error;
  if (text == "prune_first") return prune::NonFinite::prune_first;
  if (text == "keep") return prune::NonFinite::keep;
  throw Error(
      error_text(where, "nonfinite must be error, prune_first or keep", '\'' + text + '\''));
}

prune::Compat compat_from(const std::optional<std::string>& text, const char* where) {
  if (!text) return prune::Compat::none;
  if (*text == "torch") return prune::Compat::torch;
  if (*text == "tfmot") return prune::Compat::tfmot;
  throw Error(error_text(where, "compat must be None, torch or tfmot", '\'' + *text + '\''));
}

prune::Pooling pooling_from(const std::string& text, const char* where) {
  if (text == "mean") return prune::Pooling::mean;
  if (text == "max") return prune::Pooling::max;
  throw Error(error_text(where, "pooling must be mean or max", '\'' + text + '\''));
}

std::optional<AnyView> view_of(const Scores& scores) {
  return scores ? std::optional<AnyView>(scores->view()) : std::nullopt;
}

// The mask to fill for a tensor of `shape`, of the kind of array that `like` is.
Output mask_output(const Array& like, const Shape& shape, bool packed, py::handle out,
                   const char* where) {
  if (!packed) return Output(like, DType::boolean, shape, out, where);
  return Output(like, DType::uint8, Shape{prune::packed_size(element_count(shape))}, out, where);
}

Shape shape_from(const py::object& shape, const char* where) {
  const py::tuple extents =
      PyLong_Check(shape.ptr()) != 0 ? py::make_tuple(shape) : py::tuple(shape);
  Shape result;
  for (const py::handle extent : extents) {
    const std::int64_t count = PyLong_AsLongLong(extent.ptr());
    if (count == -1 && PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      throw DTypeError(error_text(where, "shape must be whole numbers below 2**63",
                                  py::repr(shape).cast<std::string>()));
    }
    result.push_back(count);
  }
  for (const std::int64_t extent : result) {
    check(extent >= 0, where, "shape must not be negative", result);
  }
  return result;
}

py::object magnitude_mask(const Array& weights, double sparsity, const Scores& scores,
                          const std::string& nonfinite, const py::object& out, bool packed,
                          const std::optional<std::string>& compat) {
  constexpr auto where = "prune.magnitude_mask";
  const prune::MaskOptions options{view_of(scores), nonfinite_from(nonfinite, where),
                                   compat_from(compat, where)};
  Output mask = mask_output(weights, weights.shape(), packed, out, where);
  {
    const py::gil_scoped_release release;
    prune::magnitude_mask(weights.view(), sparsity, mask.view(), options);
  }
  return mask.take();
}

// A list or tuple of arrays, held so that nobody can take one away while the GIL is released.
py::tuple arrays_of(const py::object& list, const char* where, const char* argument) {
  check<DTypeError>(py::isinstance<py::list>(list) || py::isinstance<py::tuple>(list), where,
                    std::string(argument) + " must be a list or tuple of arrays",
                    py::str(py::type::of(list).attr("__name__")).cast<std::string>());
  const py::tuple arrays(list);
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    check<DTypeError>(Array::accepts(arrays[i]), where,
                      std::string(argument) + '[' + std::to_string(i) + "] must be an array",
                      Py_TYPE(arrays[i].ptr())->tp_name);
  }
  return arrays;
}

std::vector<AnyView> views_of(const std::vector<Array>& arrays) {
  std::vector<AnyView> views;
  for (const Array& array : arrays) views.push_back(array.view());
  return views;
}

// None, one number for all, or one for each of `count`.
std::vector<double> shares_of(const py::object& shares, std::size_t count, const char* where,
                              const char* argument) {
  if (shares.is_none()) return {};
  const auto number = [&](const py::object& share, const std::string& named) {
    const double value = PyFloat_AsDouble(share.ptr());
    if (value == -1.0 && PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      throw DTypeError(
          error_text(where, named + " must be a number", py::repr(share).cast<std::string>()));
    }
    return value;
  };
  if (!py::isinstance<py::list>(shares) && !py::isinstance<py::tuple>(shares)) {
    return {number(shares, argument)};
  }
  const py::tuple list(shares);
  check(list.size() == count, where,
        std::string(argument) + " must be one number or as many as weights (" +
            std::to_string(count) + ")",
        list.size());
  std::vector<double> values;
  for (std::size_t i = 0; i < count; ++i) {
    values.push_back(number(list[i], argument + ('[' + std::to_string(i) + ']')));
  }
  return values;
}

py::list global_mask(const py::object& weights, double sparsity, const py::object& scores,
                     const py::object& minimum, const py::object& maximum,
                     const std::string& nonfinite, const py::object& out, bool packed) {
  constexpr auto where = "prune.global_mask";
  const py::tuple weight_objects = arrays_of(weights, where, "weights");
  const auto weight_arrays = weight_objects.cast<std::vector<Array>>();
  const py::tuple score_objects =
      scores.is_none() ? py::tuple() : arrays_of(scores, where, "scores");
  const auto score_arrays = score_objects.cast<std::vector<Array>>();
  check(scores.is_none() || score_arrays.size() == weight_arrays.size(), where,
        "scores must be as many as weights (" + std::to_string(weight_arrays.size()) + ")",
        score_arrays.size());
  const py::tuple outs = out.is_none() ? py::tuple() : arrays_of(out, where, "out");
  check(out.is_none() || outs.size() == weight_arrays.size(), where,
        "out must be as many as weights (" + std::to_string(weight_arrays.size()) + ")",
        outs.size());
  std::vector<Output> outputs;
  std::vector<MutableAnyView> masks;
  for (std::size_t i = 0; i < weight_arrays.size(); ++i) {
    outputs.push_back(mask_output(weight_arrays[i], weight_arrays[i].shape(), packed,
                                  out.is_none() ? py::object(py::none()) : py::object(outs[i]),
                                  where));
    masks.push_back(outputs.back().view());
  }
  const std::vector<AnyView> weight_views = views_of(weight_arrays);
  const std::vector<AnyView> score_views = views_of(score_arrays);
  const std::vector<double> least = shares_of(minimum, weight_views.size(), where, "minimum");
  const std::vector<double> greatest = shares_of(maximum, weight_views.size(), where, "maximum");
  const prune::GlobalOptions options{score_views, nonfinite_from(nonfinite, where), least,
                                     greatest};
  {
    const py::gil_scoped_release release;
    prune::global_mask(weight_views, sparsity, masks, options);
  }
  py::list result;
  for (Output& output : outputs) result.append(output.take());
  return result;
}

py::object row_mask(const Array& weights, double sparsity, std::int64_t axis, const Scores& scores,
                    const std::string& nonfinite, const py::object& out, bool packed) {
  constexpr auto where = "prune.row_mask";
  const prune::RowOptions options{axis, view_of(scores), nonfinite_from(nonfinite, where)};
  Output mask = mask_output(weights, weights.shape(), packed, out, where);
  {
    const py::gil_scoped_release release;
    prune::row_mask(weights.view(), sparsity, mask.view(), options);
  }
  return mask.take();
}

py::object regrow(const Array& mask, const Array& weights, const Array& grad, double fraction,
                  const std::string& nonfinite, const py::object& out) {
  constexpr auto where = "prune.regrow";
  const prune::RegrowOptions options{nonfinite_from(nonfinite, where)};
  Output result(mask, mask.dtype(), mask.shape(), out, where);
  {
    const py::gil_scoped_release release;
    prune::regrow(mask.view(), weights.view(), grad.view(), fraction, result.view(), options);
  }
  return result.take();
}

// Scores of the shape of `weights`, filled by f(view of the scores).
template <class F>
py::object scored(const Array& weights, DType dtype, const Shape& shape, const py::object& out,
                  const char* where, F&& f) {
  Output scores(weights, dtype, shape, out, where);
  {
    const py::gil_scoped_release release;
    f(scores.view());
  }
  return scores.take();
}

py::object magnitude_score(const Array& weights, const py::object& out) {
  return scored(
      weights, prune::score_dtype(weights.dtype()), weights.shape(), out, "prune.magnitude_score",
      [&](const MutableAnyView& scores) { prune::magnitude_score(weights.view(), scores); });
}

py::object batch_norm_score(const Array& gamma, const py::object& out) {
  return scored(
      gamma, prune::score_dtype(gamma.dtype()), gamma.shape(), out, "prune.batch_norm_score",
      [&](const MutableAnyView& scores) { prune::batch_norm_score(gamma.view(), scores); });
}

py::object taylor_score(const Array& weights, const Array& grad, bool squared,
                        const py::object& out) {
  return scored(weights, prune::score_dtype(weights.dtype(), grad.dtype()), weights.shape(), out,
                "prune.taylor_score", [&](const MutableAnyView& scores) {
                  prune::taylor_score(weights.view(), grad.view(), scores, {squared});
                });
}

double snip_total(const Array& weights, const Array& grad) {
  const py::gil_scoped_release release;
  return prune::snip_total(weights.view(), grad.view());
}

py::object snip_score(const Array& weights, const Array& grad, std::optional<double> total,
                      const py::object& out) {
  return scored(weights, prune::score_dtype(weights.dtype(), grad.dtype()), weights.shape(), out,
                "prune.snip_score", [&](const MutableAnyView& scores) {
                  prune::snip_score(weights.view(), grad.view(), scores, {total});
                });
}

py::object movement_score(const Array& weights, const Array& grad, const py::object& out) {
  return scored(weights, prune::score_dtype(weights.dtype(), grad.dtype()), weights.shape(), out,
                "prune.movement_score", [&](const MutableAnyView& scores) {
                  if (out.is_none()) {
                    std::memset(
                        scores.data(), 0,
                        static_cast<std::size_t>(byte_count(scores.dtype(), scores.size())));
                  }
                  prune::movement_score(weights.view(), grad.view(), scores);
                });
}

py::object wanda_score(const Array& weights, const Array& input_norm, std::int64_t axis,
                       const py::object& out) {
  return scored(weights, prune::score_dtype(weights.dtype(), input_norm.dtype()), weights.shape(),
                out, "prune.wanda_score", [&](const MutableAnyView& scores) {
                  prune::wanda_score(weights.view(), input_norm.view(), scores, {axis});
                });
}

py::object obs_score(const Array& weights, const Array& diagonal, std::optional<std::int64_t> axis,
                     const py::object& out) {
  return scored(weights, prune::score_dtype(weights.dtype(), diagonal.dtype()), weights.shape(),
                out, "prune.obs_score", [&](const MutableAnyView& scores) {
                  prune::obs_score(weights.view(), diagonal.view(), scores, {axis});
                });
}

py::object obd_score(const Array& weights, const Array& diagonal, std::optional<std::int64_t> axis,
                     const py::object& out) {
  return scored(weights, prune::score_dtype(weights.dtype(), diagonal.dtype()), weights.shape(),
                out, "prune.obd_score", [&](const MutableAnyView& scores) {
                  prune::obd_score(weights.view(), diagonal.view(), scores, {axis});
                });
}

py::object lamp_score(const Array& weights, const py::object& out) {
  return scored(weights, prune::score_dtype(weights.dtype()), weights.shape(), out,
                "prune.lamp_score",
                [&](const MutableAnyView& scores) { prune::lamp_score(weights.view(), scores); });
}

py::object fpgm_score(const Array& weights, std::int64_t axis, const py::object& out) {
  constexpr auto where = "prune.fpgm_score";
  check(weights.view().rank() >= 1, where, "weights must have at least 1 dimension",
        weights.view().rank());
  const Shape slices{weights.shape()[normalize_axis(axis, weights.view().rank(), where)]};
  return scored(
      weights, prune::score_dtype(weights.dtype()), slices, out, where,
      [&](const MutableAnyView& scores) { prune::fpgm_score(weights.view(), scores, {axis}); });
}

py::object structured_mask(const Array& weights, double sparsity, std::int64_t axis, double ord,
                           bool expand, const Scores& scores, const std::string& nonfinite,
                           const py::object& out, bool packed) {
  constexpr auto where = "prune.structured_mask";
  const prune::StructuredOptions options{axis, ord, view_of(scores),
                                         nonfinite_from(nonfinite, where), expand};
  check(weights.view().rank() >= 1, where, "weights must have at least 1 dimension",
        weights.view().rank());
  const Shape units{weights.shape()[normalize_axis(axis, weights.view().rank(), where)]};
  Output mask = mask_output(weights, expand ? weights.shape() : units, packed, out, where);
  {
    const py::gil_scoped_release release;
    prune::structured_mask(weights.view(), sparsity, mask.view(), options);
  }
  return mask.take();
}

py::object block_mask(const Array& weights, double sparsity,
                      const std::pair<std::int64_t, std::int64_t>& block,
                      const std::string& pooling, const Scores& scores,
                      const std::string& nonfinite, const py::object& out, bool packed) {
  constexpr auto where = "prune.block_mask";
  const prune::BlockOptions options{block.first, block.second, pooling_from(pooling, where),
                                    view_of(scores), nonfinite_from(nonfinite, where)};
  Output mask = mask_output(weights, weights.shape(), packed, out, where);
  {
    const py::gil_scoped_release release;
    prune::block_mask(weights.view(), sparsity, mask.view(), options);
  }
  return mask.take();
}

py::object nm_mask(const Array& weights, std::int64_t n, std::int64_t m, std::int64_t axis,
                   const Scores& scores, const std::string& nonfinite, const py::object& out,
                   bool packed) {
  constexpr auto where = "prune.nm_mask";
  const prune::NmOptions options{axis, view_of(scores), nonfinite_from(nonfinite, where)};
  Output mask = mask_output(weights, weights.shape(), packed, out, where);
  {
    const py::gil_scoped_release release;
    prune::nm_mask(weights.view(), n, m, mask.view(), options);
  }
  return mask.take();
}

py::object random_mask(const py::object& shape, double sparsity, const py::int_& seed,
                       const py::object& out, bool packed) {
  constexpr auto where = "prune.random_mask";
  const Shape extents = shape_from(shape, where);
  const auto number = PyLong_AsUnsignedLongLong(seed.ptr());
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw Error(error_text(where, "seed must be in [0, 2**64)", py::str(seed).cast<std::string>()));
  }
  const DType dtype = packed ? DType::uint8 : DType::boolean;
  Output mask(dtype, packed ? Shape{prune::packed_size(element_count(extents))} : extents, out,
              where);
  {
    const py::gil_scoped_release release;
    prune::random_mask(extents, sparsity, number, mask.view());
  }
  return mask.take();
}

py::object apply_mask(const Array& weights, const Array& mask, const py::object& out) {
  constexpr auto where = "prune.apply_mask";
  Output result(weights, weights.dtype(), weights.shape(), out, where);
  {
    const py::gil_scoped_release release;
    prune::apply_mask(weights.view(), mask.view(), result.view());
  }
  return result.take();
}

py::object pack_mask(const Array& mask, const py::object& out) {
  Output packed = mask_output(mask, mask.shape(), true, out, "prune.pack_mask");
  {
    const py::gil_scoped_release release;
    prune::pack_mask(mask.view(), packed.view());
  }
  return packed.take();
}

py::object unpack_mask(const Array& packed, const py::object& shape, const py::object& out) {
  constexpr auto where = "prune.unpack_mask";
  const Shape extents = shape_from(shape, where);
  // Before the result is allocated, whose shape may be anything.
  prune::check_packed(packed.view(), extents, where);
  Output mask = mask_output(packed, extents, false, out, where);
  {
    const py::gil_scoped_release release;
    prune::unpack_mask(packed.view(), mask.view());
  }
  return mask.take();
}

py::tuple sparsegpt(const Array& weights, const Array& hessian, std::optional<double> sparsity,
                    std::optional<std::int64_t> n, std::optional<std::int64_t> m,
                    const std::optional<Array>& mask, std::int64_t block_size, double damping,
                    const py::object& out, bool packed) {
  constexpr auto where = "prune.sparsegpt";
  check(n.has_value() == m.has_value(), where, "n and m must be given together");
  prune::SparseGptOptions options;
  options.sparsity = sparsity;
  if (n) options.pattern = {*n, *m};
  options.mask = view_of(mask);
  options.block_size = block_size;
  options.damping = damping;
  Output result(weights, weights.dtype(), weights.shape(), out, where);
  Output kept = mask_output(weights, weights.shape(), packed, py::none(), where);
  {
    const py::gil_scoped_release release;
    prune::sparsegpt(weights.view(), hessian.view(), result.view(), kept.view(), options);
  }
  return py::make_tuple(result.take(), kept.take());
}

// A NumPy array with the sums of an InputNorm, or X^T X of an InputHessian.
py::object sums_of(const prune::InputNorm& self) {
  Output sums(DType::float64, Shape{self.features()}, py::none(), "prune.InputNorm");
  std::memcpy(sums.view().data(), self.sums().data(), self.sums().size_bytes());
  return sums.take();
}

py::object sums_of(const prune::InputHessian& self) {
  Output sums(DType::float64, Shape{self.features(), self.features()}, py::none(),
              "prune.InputHessian");
  self.hessian(sums.view());
  auto* values = static_cast<double*>(sums.view().data());
  for (std::int64_t i = 0; i < sums.view().size(); ++i) values[i] *= 0.5;
  return sums.take();
}

prune::InputNorm restored(const prune::InputNorm&, const AnyView& sums, std::int64_t count) {
  constexpr auto where = "prune.InputNorm.load_state_dict";
  check<FormatError>(sums.dtype() == DType::float64 && sums.rank() == 1 && sums.is_contiguous(),
                     where, "sums must be a vector of float64", sums.shape());
  const auto* values = static_cast<const double*>(sums.data());
  return prune::InputNorm::restore({values, static_cast<std::size_t>(sums.size())}, count);
}

prune::InputHessian restored(const prune::InputHessian&, const AnyView& sums, std::int64_t count) {
  return prune::InputHessian::restore(sums, count);
}

// What InputNorm and InputHessian share.
template <class Statistic>
void describe_statistic(py::class_<Statistic>& type, const char* kind) {
  const auto state_of = [kind](const Statistic& self) {
    return py::dict("kind"_a = kind, "sums"_a = sums_of(self), "count"_a = self.count());
  };
  const auto load = [kind](Statistic& self, const py::dict& state) {
    const std::string where = std::string("prune.") + kind + ".load_state_dict";
    for (const char* key : {"kind", "sums", "count"}) {
      check<FormatError>(state.contains(key), where, "state must have the keys kind, sums, count",
                         py::str(py::list(state)).cast<std::string>());
    }
    const auto found = py::str(state["kind"]).template cast<std::string>();
    check<FormatError>(found == kind, where, std::string("state must be of an ") + kind, found);
    check<FormatError>(PyLong_Check(py::object(state["count"]).ptr()) != 0, where,
                       "count must be a whole number",
                       py::repr(state["count"]).template cast<std::string>());
    const Array sums(state["sums"]);
    const Statistic loaded =
        restored(self, sums.view(), state["count"].template cast<std::int64_t>());
    check<FormatError>(loaded.features() == self.features(), where,
                       "sums must be those of " + std::to_string(self.features()) + " features",
                       loaded.features());
    self = loaded;
  };
  type.def(py::init<std::int64_t>(), "features"_a)
      .def(
          "update",
          [](Statistic& self, const Array& inputs, std::int64_t axis) {
            const py::gil_scoped_release release;
            self.update(inputs.view(), axis);
          },
          "inputs"_a, "axis"_a = -1,
          "Adds a batch with the features along `axis`. NaN and infinity raise NonFiniteError.")
      .def("merge", &Statistic::merge, "other"_a, "Adds what another one has seen.")
      .def_property_readonly("features", &Statistic::features)
      .def_property_readonly("count", &Statistic::count, "Samples seen.")
      .def("state_dict", state_of, "All of it, as a dict of a kind, sums and a count.")
      .def("load_state_dict", load, "state"_a, "Continues from what state_dict() gave.")
      .def(py::pickle([state_of](const Statistic& self)
                          -> py::tuple { return py::make_tuple(self.features(), state_of(self)); },
                      [load](const py::tuple& state) {
                        Statistic self(state[0].template cast<std::int64_t>());
                        load(self, state[1].template cast<py::dict>());
                        return self;
                      }));
}

void bind_statistics(py::module_& m) {
  using prune::InputHessian, prune::InputNorm;
  auto norm = py::class_<InputNorm>(
      m, "InputNorm",
      "The norm of each input feature of a layer, gathered batch by batch in float64: what\n"
      "wanda_score needs.");
  describe_statistic(norm, "InputNorm");
  norm.def(
      "norm",
      [](const InputNorm& self, const py::object& out) {
        Output result(DType::float64, Shape{self.features()}, out, "prune.InputNorm.norm");
        const std::vector<double> values = self.norm();
        copy_elements(values, result.view());
        return result.take();
      },
      "out"_a = py::none(), "Euclidean norm of each feature over all samples.");
  auto hessian = py::class_<InputHessian>(
      m, "InputHessian",
      "Sum of x x^T over the inputs of a layer, gathered batch by batch in float64: what\n"
      "sparsegpt and obs_score need.");
  describe_statistic(hessian, "InputHessian");
  hessian.def(
      "hessian",
      [](const InputHessian& self, const py::object& out) {
        Output result(DType::float64, Shape{self.features(), self.features()}, out,
                      "prune.InputHessian.hessian");
        {
          const py::gil_scoped_release release;
          self.hessian(result.view());
        }
        return result.take();
      },
      "out"_a = py::none(),
      "2 X^T X, the Hessian of one output's summed squared error; [features, features].");
  m.def("sparsegpt", &sparsegpt, "weights"_a, "hessian"_a, py::kw_only(), "sparsity"_a = py::none(),
        "n"_a = py::none(), "m"_a = py::none(), "mask"_a = py::none(), "block_size"_a = 128,
        "damping"_a = 0.01, "out"_a = py::none(), "packed"_a = false,
        "(new weights, mask) of a linear layer [outputs, inputs] such that its output changes\n"
        "little on inputs X with hessian = c X^T X. Prunes to a sparsity (exactly\n"
        "round(size * sparsity) zeros; rows may differ), to n of every m inputs, or what a given\n"
        "mask says, and lets the weights that stay make up for it. `damping` is the share of the\n"
        "mean diagonal added to the Hessian. Frantar and Alistarh, SparseGPT, ICML 2023.");
}

// What all schedules share in Python: options as properties and as a plain dict, and with that
// equality, repr, pickle and copy. `config` lists the options in the order of the constructor.
template <class Schedule, class Config>
void describe(py::class_<Schedule>& type, Config config) {
  type.def(
          "get_config", [config](const Schedule& s) { return config(s.options()); },
          "The options as a dict: type(schedule)(**schedule.get_config()) equals schedule.")
      .def_static(
          "from_config",
          [](const py::object& options) { return py::type::of<Schedule>()(**py::dict(options)); },
          "config"_a, "The schedule that get_config() described.")
      .def("__eq__",
           [](const Schedule& s, const py::object& other) {
             return py::isinstance<Schedule>(other) && s == other.cast<const Schedule&>();
           })
      .def("__hash__",
           [config](const py::object& s) {
             const py::dict options = config(s.cast<const Schedule&>().options());
             return py::hash(py::make_tuple(py::type::of(s), py::tuple(options.attr("values")())));
           })
      .def("__repr__",
           [config](const py::object& s) {
             const py::dict options = config(s.cast<const Schedule&>().options());
             std::string text = py::str(py::type::of(s).attr("__name__"));
             const char* between = "(";
             for (const auto& option : options) {
               text += between;
               text +=
                   std::string(py::str(option.first)) + '=' + std::string(py::repr(option.second));
               between = ", ";
             }
             return text + ')';
           })
      .def("__reduce__", [config](const py::object& s) {
        const py::dict options = config(s.cast<const Schedule&>().options());
        return py::make_tuple(py::type::of(s), py::tuple(options.attr("values")()));
      });
  const py::dict names = config(typename Schedule::Options{});
  for (const auto& [key, value] : names) {
    const std::string option = py::str(key);
    type.def_property_readonly(option.c_str(), [config, option](const Schedule& s) {
      return py::object(config(s.options())[option.c_str()]);
    });
  }
}

template <class Schedule, class Config>
void describe_pruning(py::class_<Schedule>& type, Config config) {
  type.def("sparsity", &Schedule::sparsity, "step"_a, "Share of zeros wanted at `step`.")
      .def("should_prune", &Schedule::should_prune, "step"_a,
           "True on begin_step, begin_step + frequency, ..., and always on end_step.");
  describe(type, config);
}

// A FunctionSchedule whose function is Python's, so that its options can be shown and compared.
class PythonSchedule {
 public:
  struct Options {
    py::object function = py::none();
    prune::Step begin_step = 0;
    prune::Step end_step = -1;
    prune::Step frequency = 100;

    bool operator==(const Options& other) const {
      return function.equal(other.function) && begin_step == other.begin_step &&
             end_step == other.end_step && frequency == other.frequency;
    }
  };

  explicit PythonSchedule(const Options& options)
      : options_(options),
        schedule_(
            {call(options.function), options.begin_step, options.end_step, options.frequency}) {}

  [[nodiscard]] double sparsity(prune::Step step) const { return schedule_.sparsity(step); }
  [[nodiscard]] bool should_prune(prune::Step step) const { return schedule_.should_prune(step); }
  [[nodiscard]] const Options& options() const noexcept { return options_; }
  bool operator==(const PythonSchedule& other) const { return options_ == other.options_; }

 private:
  static std::function<double(prune::Step)> call(const py::object& function) {
    constexpr auto where = "prune.FunctionSchedule";
    check<DTypeError>(PyCallable_Check(function.ptr()) != 0, where,
                      "function must be callable with a step",
                      py::repr(function).cast<std::string>());
    return [function](prune::Step step) {
      const py::object result = function(step);
      const double value = PyFloat_AsDouble(result.ptr());
      if (value == -1.0 && PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        throw DTypeError(error_text(where,
                                    "function must return a number at step " + std::to_string(step),
                                    py::repr(result).cast<std::string>()));
      }
      return value;
    };
  }

  Options options_;
  prune::FunctionSchedule schedule_;
};

void bind_function(py::module_& m) {
  using prune::Step;
  auto type = py::class_<PythonSchedule>(
      m, "FunctionSchedule",
      "The sparsity in [0, 1) that `function(step)` returns; anything else raises Error. Steps\n"
      "outside of begin_step to end_step count as the nearer of the two; with end_step=-1 masks\n"
      "are updated for ever. Pickles if the function does.");
  type.def(py::init([](const py::object& function, Step begin, Step end, Step frequency) {
             return PythonSchedule({function, begin, end, frequency});
           }),
           "function"_a, "begin_step"_a = 0, "end_step"_a = -1, "frequency"_a = 100);
  describe_pruning(type, [](const PythonSchedule::Options& o) {
    return py::dict("function"_a = o.function, "begin_step"_a = o.begin_step,
                    "end_step"_a = o.end_step, "frequency"_a = o.frequency);
  });
}

void bind_gradual_nm(py::module_& m) {
  using prune::GradualNM, prune::Step;
  auto type = py::class_<GradualNM>(
      m, "GradualNM",
      "From dense to n kept of every m: n + round((m - n) * (1 - t) ** power), t from 0 to 1.");
  type.def(py::init([](std::int64_t n, std::int64_t kept_of, Step begin, Step end, double power,
                       Step frequency) {
             return GradualNM({n, kept_of, begin, end, power, frequency});
           }),
           "n"_a, "m"_a, "begin_step"_a, "end_step"_a, "power"_a = 3.0, "frequency"_a = 100);
  type.def("kept", &GradualNM::kept, "step"_a, "The n for nm_mask(weights, n, m) at `step`.");
  describe_pruning(type, [](const GradualNM::Options& o) {
    return py::dict("n"_a = o.n, "m"_a = o.m, "begin_step"_a = o.begin_step,
                    "end_step"_a = o.end_step, "power"_a = o.power, "frequency"_a = o.frequency);
  });
}

void bind_regrowth(py::module_& m) {
  using prune::CosineRegrowth, prune::Step;
  auto type = py::class_<CosineRegrowth>(
      m, "CosineRegrowth",
      "The fraction for regrow(): initial_fraction * (1 + cos(pi t)) / 2, t from 0 to 1. Evci et\n"
      "al., Rigging the Lottery, ICML 2020.");
  type.def(py::init([](double fraction, Step begin, Step end, Step frequency) {
             return CosineRegrowth({fraction, begin, end, frequency});
           }),
           "initial_fraction"_a, "begin_step"_a, "end_step"_a, "frequency"_a = 100);
  type.def("fraction", &CosineRegrowth::fraction, "step"_a,
           "Share of the kept weights to exchange at `step`; 0 from end_step on.")
      .def("should_regrow", &CosineRegrowth::should_regrow, "step"_a,
           "True on begin_step, begin_step + frequency, ... before end_step.");
  describe(type, [](const CosineRegrowth::Options& o) {
    return py::dict("initial_fraction"_a = o.initial_fraction, "begin_step"_a = o.begin_step,
                    "end_step"_a = o.end_step, "frequency"_a = o.frequency);
  });
}

void bind_scores(py::module_& m) {
  m.def("magnitude_score", &magnitude_score, "weights"_a, "out"_a = py::none(), "|w|.");
  m.def("taylor_score", &taylor_score, "weights"_a, "grad"_a, py::kw_only(), "squared"_a = true,
        "out"_a = py::none(),
        "(w g)**2, or |w g| with squared=False: the first-order change of the loss when a weight\n"
        "becomes zero. Molchanov et al., CVPR 2019, equation 8.");
  m.def("snip_total", &snip_total, "weights"_a, "grad"_a,
        "Sum of |w g|, NaN left out. Add those of all layers for the total of a network.");
  m.def("snip_score", &snip_score, "weights"_a, "grad"_a, py::kw_only(), "total"_a = py::none(),
        "out"_a = py::none(),
        "|w g| / total: the connection sensitivity of Lee et al., SNIP, ICLR 2019, equation 6.\n"
        "The total is this layer's own by default; pass the network's for scores to compare.");
  m.def("movement_score", &movement_score, "weights"_a, "grad"_a, py::kw_only(),
        "out"_a = py::none(),
        "Adds -w g to `out` (zeros by default) and returns it. Call it at every step with the\n"
        "same out. Sanh et al., Movement Pruning, NeurIPS 2020.");
  m.def("wanda_score", &wanda_score, "weights"_a, "input_norm"_a, py::kw_only(), "axis"_a = 1,
        "out"_a = py::none(),
        "|w| times the norm of its input, one number for each place along `axis`. Rank them with\n"
        "row_mask. Sun et al., Wanda, ICLR 2024, equation 1.");
  m.def("obs_score", &obs_score, "weights"_a, "inverse_hessian_diagonal"_a, py::kw_only(),
        "axis"_a = py::none(), "out"_a = py::none(),
        "w**2 / (2 [H^-1]_qq), the loss that removing a weight costs when the others adapt. The\n"
        "diagonal has the shape of the weights, or is a vector along `axis`, and is > 0.\n"
        "Hassibi and Stork, Optimal Brain Surgeon, NIPS 1992, equation 5.");
  m.def(
      "obd_score", &obd_score, "weights"_a, "hessian_diagonal"_a, py::kw_only(),
      "axis"_a = py::none(), "out"_a = py::none(),
      "w**2 h / 2: the same while the others stay. LeCun et al., Optimal Brain Damage, NIPS 1989.");
  m.def(
      "lamp_score", &lamp_score, "weights"_a, "out"_a = py::none(),
      "w**2 over the sum of the squares of itself and all that outrank it in the tensor; of\n"
      "equal magnitudes the earlier outranks. For global_mask. Lee et al., ICLR 2021, equation 4.");
  m.def("fpgm_score", &fpgm_score, "weights"_a, "axis"_a = 0, "out"_a = py::none(),
        "One score for each slice along `axis`, for structured_mask: the sum of its Euclidean\n"
        "distances to all others. He et al., CVPR 2019, equation 4.");
  m.def("batch_norm_score", &batch_norm_score, "gamma"_a, "out"_a = py::none(),
        "|gamma| of a batch normalization, for structured_mask. Liu et al., Network Slimming,\n"
        "ICCV 2017.");
}

void bind_constant(py::module_& m) {
  using prune::ConstantSparsity, prune::Step;
  auto type =
      py::class_<ConstantSparsity>(m, "ConstantSparsity", "The same sparsity at every step.");
  type.def(py::init([](double target, Step begin, Step end, Step frequency) {
             return ConstantSparsity({target, begin, end, frequency});
           }),
           "target_sparsity"_a, "begin_step"_a, "end_step"_a = -1, "frequency"_a = 100);
  describe_pruning(type, [](const ConstantSparsity::Options& o) {
    return py::dict("target_sparsity"_a = o.target_sparsity, "begin_step"_a = o.begin_step,
                    "end_step"_a = o.end_step, "frequency"_a = o.frequency);
  });
}

void bind_polynomial(py::module_& m) {
  using prune::PolynomialDecay, prune::Step;
  auto type = py::class_<PolynomialDecay>(
      m, "PolynomialDecay", "final + (initial - final) * (1 - t) ** power, t from 0 to 1.");
  type.def(py::init([](double from, double to, Step begin, Step end, double power, Step frequency) {
             return PolynomialDecay({from, to, begin, end, power, frequency});
           }),
           "initial_sparsity"_a, "final_sparsity"_a, "begin_step"_a, "end_step"_a, "power"_a = 3.0,
           "frequency"_a = 100);
  describe_pruning(type, [](const PolynomialDecay::Options& o) {
    return py::dict("initial_sparsity"_a = o.initial_sparsity,
                    "final_sparsity"_a = o.final_sparsity, "begin_step"_a = o.begin_step,
                    "end_step"_a = o.end_step, "power"_a = o.power, "frequency"_a = o.frequency);
  });
}

template <class Decay>
void bind_decay(py::module_& m, const char* name, const char* doc) {
  using prune::Step;
  auto type = py::class_<Decay>(m, name, doc);
  type.def(py::init([](double from, double to, Step begin, Step end, Step frequency) {
             return Decay({from, to, begin, end, frequency});
           }),
           "initial_sparsity"_a, "final_sparsity"_a, "begin_step"_a, "end_step"_a,
           "frequency"_a = 100);
  describe_pruning(type, [](const typename Decay::Options& o) {
    return py::dict("initial_sparsity"_a = o.initial_sparsity,
                    "final_sparsity"_a = o.final_sparsity, "begin_step"_a = o.begin_step,
                    "end_step"_a = o.end_step, "frequency"_a = o.frequency);
  });
}

}  // namespace

void bind_prune(py::module_ m) {
  m.doc() = "Masks of exact sparsity, and schedules that say how sparse.";
  bind_constant(m);
  bind_polynomial(m);
  bind_decay<prune::LinearDecay>(m, "LinearDecay",
                                 "final + (initial - final) * (1 - t), t from 0 to 1.");
  bind_decay<prune::CosineDecay>(m, "CosineDecay",
                                 "final + (initial - final) * (1 + cos(pi t)) / 2, t from 0 to 1.");
  bind_function(m);
  bind_gradual_nm(m);
  bind_regrowth(m);
  bind_scores(m);
  bind_statistics(m);
  bind_decay<prune::ExponentialDecay>(
      m, "ExponentialDecay",
      "final + (initial - final) * (e^(-5t) - e^-5) / (1 - e^-5), t from 0 to 1.");

  m.def("magnitude_mask", &magnitude_mask, "weights"_a, "sparsity"_a, py::kw_only(),
        "scores"_a = py::none(), "nonfinite"_a = "error", "out"_a = py::none(), "packed"_a = false,
        "compat"_a = py::none(),
        "True where a weight is kept. round(n * sparsity) zeros, half to even, at the smallest\n"
        "magnitudes (or scores); of equal ones the first are kept. packed=True gives one bit a\n"
        "weight, little-endian, as uint8.");
  m.def(
      "global_mask", &global_mask, "weights"_a, "sparsity"_a, "scores"_a = py::none(),
      py::kw_only(), "minimum"_a = py::none(), "maximum"_a = py::none(), "nonfinite"_a = "error",
      "out"_a = py::none(), "packed"_a = false,
      "The masks of a list of tensors ranked together: round(total * sparsity) zeros.\n"
      "Mixed dtypes compare as float64. `minimum` and `maximum` bound the share of zeros of each\n"
      "tensor, one number for all or one for each; the total stays exact, and bounds that do\n"
      "not allow it raise Error.");
  m.def(
      "row_mask", &row_mask, "weights"_a, "sparsity"_a, "axis"_a = 0, py::kw_only(),
      "scores"_a = py::none(), "nonfinite"_a = "error", "out"_a = py::none(), "packed"_a = false,
      "round(n * sparsity) zeros in every slice of n weights along `axis`, each ranked by itself:\n"
      "axis 0 are the outputs of linear layers and convolutions.");
  m.def(
      "regrow", &regrow, "mask"_a, "weights"_a, "grad"_a, "fraction"_a, py::kw_only(),
      "nonfinite"_a = "error", "out"_a = py::none(),
      "A mask (bool or packed, as `mask` is) with round(kept * fraction) elements exchanged: the\n"
      "kept ones of smallest |w| dropped, then as many grown, of all not kept by now, where "
      "|grad|\n"
      "is largest. Of equal ones the first stay, or grow. Evci et al., Rigging the Lottery, ICML\n"
      "2020.");
  m.def("structured_mask", &structured_mask, "weights"_a, "sparsity"_a, "axis"_a = 0, "ord"_a = 2.0,
        "expand"_a = false, py::kw_only(), "scores"_a = py::none(), "nonfinite"_a = "error",
        "out"_a = py::none(), "packed"_a = false,
        "True for each slice along `axis` that is kept: those of the largest norm of order\n"
        "`ord` (> 0, inf for the largest magnitude), or of the largest of `scores`, one number\n"
        "for each slice. expand=True gives the shape of the weights.");
  m.def("block_mask", &block_mask, "weights"_a, "sparsity"_a, "block"_a, "pooling"_a = "mean",
        py::kw_only(), "scores"_a = py::none(), "nonfinite"_a = "error", "out"_a = py::none(),
        "packed"_a = false,
        "Keeps or prunes whole blocks of (rows, columns) of the last two axes, by the mean or\n"
        "max of their magnitudes (or scores). Smaller blocks at the ends count as one.");
  m.def("nm_mask", &nm_mask, "weights"_a, "n"_a, "m"_a, "axis"_a = -1, py::kw_only(),
        "scores"_a = py::none(), "nonfinite"_a = "error", "out"_a = py::none(), "packed"_a = false,
        "Keeps the n largest of every m consecutive weights along `axis`; an incomplete last\n"
        "group is kept.");
  m.def("random_mask", &random_mask, "shape"_a, "sparsity"_a, "seed"_a, py::kw_only(),
        "out"_a = py::none(), "packed"_a = false,
        "A NumPy mask with round(n * sparsity) zeros at places drawn from `seed`.");
  m.def("apply_mask", &apply_mask, "weights"_a, "mask"_a, "out"_a = py::none(),
        "The weights with +0 where the mask (bool or packed) is false, NaN included.\n"
        "out=weights works in place.");
  m.def("pack_mask", &pack_mask, "mask"_a, "out"_a = py::none(),
        "One bit a weight, little-endian: element i is bit i % 8 of byte i // 8.");
  m.def("unpack_mask", &unpack_mask, "packed"_a, "shape"_a, "out"_a = py::none(),
        "The bool mask of `shape` that pack_mask packed.");
  m.def(
      "count_zeros",
      [](const Array& array) {
        const py::gil_scoped_release release;
        return prune::count_zeros(array.view());
      },
      "array"_a, "Elements that equal zero; -0 does, NaN does not.");
  m.def(
      "sparsity",
      [](const Array& array) {
        const py::gil_scoped_release release;
        return prune::sparsity(array.view());
      },
      "array"_a, "Share of the elements that equal zero.");
}

}  // namespace moptcore::bindings
