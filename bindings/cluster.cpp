// SPDX-License-Identifier: Apache-2.0
#include <moptcore/cluster/cluster.hpp>

#include <pybind11/stl.h>

#include <bit>
#include <optional>
#include <string>
#include <utility>

#include "array.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

using Whole = std::optional<std::int64_t>;

cluster::Init init_from(const std::string& text, const char* where, const char* argument) {
  if (text == "optimal") return cluster::Init::optimal;
  if (text == "linear") return cluster::Init::linear;
  if (text == "density") return cluster::Init::density;
  if (text == "random") return cluster::Init::random;
  if (text == "kmeans++") return cluster::Init::kmeans_plus_plus;
  throw Error(error_text(
      where, std::string(argument) + " must be optimal, linear, density, random or kmeans++",
      '\'' + text + '\''));
}

cluster::Compat compat_from(const std::optional<std::string>& text, const char* where) {
  if (!text) return cluster::Compat::none;
  if (*text == "tfmot") return cluster::Compat::tfmot;
  throw Error(error_text(where, "compat must be None or tfmot", '\'' + *text + '\''));
}

cluster::Reduction reduction_from(const std::string& text, const char* where) {
  if (text == "sum") return cluster::Reduction::sum;
  if (text == "mean") return cluster::Reduction::mean;
  throw Error(error_text(where, "reduction must be sum or mean", '\'' + text + '\''));
}

std::uint64_t seed_from(const py::int_& seed, const char* where) {
  const auto number = PyLong_AsUnsignedLongLong(seed.ptr());
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw Error(error_text(where, "seed must be in [0, 2**64)", py::str(seed).cast<std::string>()));
  }
  return number;
}

void check_clusters(std::int64_t k, const char* where) {
  check(k >= 1 && k <= cluster::kMaxClusters, where, "k must be in [1, 65536]", k);
}

// Centroids as an array of the kind and dtype of `like`.
py::object array_of(const cluster::Centroids& centroids, const Array& like, const py::object& out,
                    const char* where) {
  Output result(like, like.dtype(), centroids.shape(), out, where);
  centroids.store(result.view());
  return result.take();
}

py::object assign(const Array& weights, const Array& centroids, const Whole& axis,
                  const py::object& out, const Whole& group_size, bool preserve_zeros,
                  const std::optional<std::string>& compat) {
  constexpr auto where = "cluster.assign";
  const cluster::AssignOptions options{
      {axis, group_size}, preserve_zeros, compat_from(compat, where)};
  check(centroids.shape().rank() >= 1, where, "centroids must have 1 or 2 dimensions",
        centroids.shape());
  const std::int64_t k = centroids.shape().back();
  Output indices(weights, cluster::index_dtype(k), weights.shape(), out, where);
  {
    const py::gil_scoped_release release;
    cluster::assign(weights.view(), centroids.view(), indices.view(), options);
  }
  return indices.take();
}

py::object lookup(const Array& indices, const Array& centroids, const Whole& axis,
                  const py::object& out, const Whole& group_size) {
  Output result(indices, centroids.dtype(), indices.shape(), out, "cluster.lookup");
  {
    const py::gil_scoped_release release;
    cluster::lookup(indices.view(), centroids.view(), result.view(), {axis, group_size});
  }
  return result.take();
}

py::object centroid_gradient(const Array& gradient, const Array& indices, std::int64_t k,
                             const std::string& reduction, const Whole& axis,
                             const Whole& group_size, const py::object& out) {
  constexpr auto where = "cluster.centroid_gradient";
  const cluster::Reduction kind = reduction_from(reduction, where);
  const cluster::Sharing sharing{axis, group_size};
  check_clusters(k, where);
  const std::int64_t rows = cluster::codebook_count(indices.shape(), sharing, where);
  const Shape shape = axis || group_size ? Shape{rows, k} : Shape{k};
  Output result(gradient, gradient.dtype(), shape, out, where);
  {
    const py::gil_scoped_release release;
    cluster::centroid_gradient(gradient.view(), indices.view(), k, result.view(), kind, sharing);
  }
  return result.take();
}

py::object init_centroids(const Array& weights, std::int64_t k, const std::string& method,
                          const Whole& axis, const Whole& group_size, bool preserve_zeros,
                          const py::int_& seed, const std::optional<bool>& exact, double tolerance,
                          const std::optional<std::string>& compat) {
  constexpr auto where = "cluster.init_centroids";
  const cluster::KMeansOptions options{{axis, group_size},
                                       init_from(method, where, "method"),
                                       preserve_zeros,
                                       seed_from(seed, where),
                                       0,
                                       exact,
                                       tolerance,
                                       compat_from(compat, where)};
  cluster::Centroids centroids;
  {
    const py::gil_scoped_release release;
    centroids = cluster::init_centroids(weights.view(), k, options);
  }
  return array_of(centroids, weights, py::none(), where);
}

py::object lloyd(const Array& weights, const Array& centroids, const Whole& axis,
                 const Whole& group_size, bool preserve_zeros, std::int64_t max_iterations,
                 const py::object& out) {
  constexpr auto where = "cluster.lloyd";
  cluster::Centroids result;
  {
    const py::gil_scoped_release release;
    result = cluster::lloyd(weights.view(), centroids.view(),
                            {{axis, group_size}, preserve_zeros, max_iterations});
  }
  return array_of(result, weights, out, where);
}

struct Codebook {
  py::object centroids;
  py::object indices;
  Whole axis;
  Whole group_size;

  [[nodiscard]] std::int64_t k() const { return Array(centroids).shape().back(); }
  [[nodiscard]] py::tuple arguments() const {
    return py::make_tuple(centroids, indices, axis, group_size);
  }
};

Codebook make_codebook(const py::object& centroids, const py::object& indices, const Whole& axis,
                       const Whole& group_size) {
  constexpr auto where = "cluster.Codebook";
  const Array book(centroids);
  const std::int64_t rows =
      cluster::codebook_count(Array(indices).shape(), {axis, group_size}, where);
  if (axis || group_size) {
    check(book.view().rank() == 2 && book.shape()[0] == rows, where,
          "centroids must have shape (" + std::to_string(rows) + ", k)", book.shape());
  } else {
    check(book.view().rank() == 1, where, "centroids must have 1 dimension", book.shape());
  }
  check_clusters(book.shape().back(), where);
  return {centroids, indices, axis, group_size};
}

Codebook kmeans(const Array& weights, std::int64_t k, const std::string& init, const Whole& axis,
                const Whole& group_size, bool preserve_zeros, const py::int_& seed,
                std::int64_t max_iterations, const std::optional<bool>& exact, double tolerance,
                const std::optional<std::string>& compat) {
  constexpr auto where = "cluster.kmeans";
  const cluster::KMeansOptions options{{axis, group_size}, init_from(init, where, "init"),
                                       preserve_zeros,     seed_from(seed, where),
                                       max_iterations,     exact,
                                       tolerance,          compat_from(compat, where)};
  check_clusters(k, where);
  Output indices(weights, cluster::index_dtype(k), weights.shape(), py::none(), where);
  cluster::Centroids centroids;
  {
    const py::gil_scoped_release release;
    centroids = cluster::kmeans(weights.view(), k, indices.view(), options);
  }
  return {array_of(centroids, weights, py::none(), where), indices.take(), axis, group_size};
}

void bind_codebook(py::module_& m) {
  py::class_<Codebook>(
      m, "Codebook",
      "Centroids and, for each weight, the index of the one that stands for it.\n\n"
      "Without axis and group_size centroids are a vector (k,); else a matrix (groups, k), one\n"
      "row for each index along `axis` or each group_size consecutive ones, or without axis for\n"
      "each group_size consecutive elements in row-major order.")
      .def(py::init(&make_codebook), "centroids"_a, "indices"_a, "axis"_a = py::none(),
           "group_size"_a = py::none())
      .def_readonly("centroids", &Codebook::centroids,
                    "(k,) or (groups, k), of the weights' dtype.")
      .def_readonly("indices", &Codebook::indices,
                    "Of the weights' shape: uint8 for k <= 256, else uint16.")
      .def_readonly("axis", &Codebook::axis, "The axis whose indices have codebooks, or None.")
      .def_readonly("group_size", &Codebook::group_size, "How many share a codebook, or None.")
      .def_property_readonly("k", &Codebook::k, "Centroids of one codebook.")
      .def_property_readonly(
          "bits",
          [](const Codebook& c) { return std::bit_width(static_cast<std::uint64_t>(c.k() - 1)); },
          "Bits that an index needs.")
      .def(
          "lookup",
          [](const Codebook& c, const py::object& out) {
            return lookup(Array(c.indices), Array(c.centroids), c.axis, out, c.group_size);
          },
          "out"_a = py::none(), "The weights that the indices stand for.")
      .def("__repr__",
           [](const Codebook& c) {
             std::string text = "Codebook(centroids of shape ";
             text += py::repr(c.centroids.attr("shape")).cast<std::string>();
             text += ", indices of shape ";
             text += py::repr(c.indices.attr("shape")).cast<std::string>();
             if (c.axis) text += ", axis=" + std::to_string(*c.axis);
             if (c.group_size) text += ", group_size=" + std::to_string(*c.group_size);
             return text + ')';
           })
      .def("__reduce__", [](const py::object& self) {
        return py::make_tuple(py::type::of(self), self.cast<const Codebook&>().arguments());
      });
}

}  // namespace

void bind_cluster(py::module_ m) {
  m.doc() = "Weights that share few values: codebooks by k-means, and what is done with them.";
  bind_codebook(m);

  m.def("kmeans", &kmeans, "weights"_a, "k"_a, "init"_a = "optimal", "axis"_a = py::none(),
        "group_size"_a = py::none(), "preserve_zeros"_a = false, "seed"_a = 0,
        "max_iterations"_a = 300, py::kw_only(), "exact"_a = py::none(), "tolerance"_a = 1e-4,
        "compat"_a = py::none(),
        "The Codebook of at most k ascending centroids for the whole tensor, for each index along\n"
        "`axis`, or for each group (see Codebook); exactly its values where a group has no more\n"
        "than k. Rows with fewer centroids than others repeat their largest that is not the\n"
        "pinned zero.\n\n"
        "init='optimal' is the least sum of squared errors (Aggarwal, Schieber and Tokuyama,\n"
        "1994); exact=None takes all values of a group up to 2**21. Beyond that, and with\n"
        "exact=False, it is proved to be at most 1 + tolerance times the least, before centroids\n"
        "are rounded to the weights' dtype: values are counted in cells, those that may hold a\n"
        "border are divided, until a lower bound of the optimum is so near. 'linear', 'density',\n"
        "'random' and 'kmeans++' start Lloyd's iteration of at most max_iterations.\n"
        "preserve_zeros keeps one centroid for exact zeros only where there are any. "
        "compat='tfmot' gives the centroids of TFMOT\n"
        "0.8 in its order, without iteration ('linear', 'density', 'random' as after\n"
        "tf.random.set_seed(seed), and 'kmeans++', which TFMOT always seeds with 9).\n\n"
        "Raises NonFiniteError for NaN and infinity, Error for k outside [1, 65536].");
  m.def("init_centroids", &init_centroids, "weights"_a, "k"_a, "method"_a, "axis"_a = py::none(),
        "group_size"_a = py::none(), "preserve_zeros"_a = false, "seed"_a = 0, py::kw_only(),
        "exact"_a = py::none(), "tolerance"_a = 1e-4, "compat"_a = py::none(),
        "The centroids (k,) or (groups, k) that kmeans(init=method) starts from.");
  m.def("lloyd", &lloyd, "weights"_a, "centroids"_a, "axis"_a = py::none(),
        "group_size"_a = py::none(), "preserve_zeros"_a = false, "max_iterations"_a = 300,
        py::kw_only(), "out"_a = py::none(),
        "Moves centroids (k,) or (groups, k) to the means of their weights until nothing changes\n"
        "(Lloyd, 1982); the result is ascending, of the weights' dtype. Centroids without weights\n"
        "stay. preserve_zeros pins the first centroid equal to zero and leaves it the zeros only.");
  m.def("assign", &assign, "weights"_a, "centroids"_a, "axis"_a = py::none(), "out"_a = py::none(),
        py::kw_only(), "group_size"_a = py::none(), "preserve_zeros"_a = false,
        "compat"_a = py::none(),
        "The index of the nearest centroid, of equally near ones the lowest: uint8 for k <= 256,\n"
        "else uint16. Centroids (k,) or (groups, k) in any order. preserve_zeros gives zeros, and\n"
        "only them, to the first centroid equal to zero. compat='tfmot' compares distances\n"
        "rounded to float32. Raises NonFiniteError for NaN and infinity.");
  m.def("lookup", &lookup, "indices"_a, "centroids"_a, "axis"_a = py::none(), "out"_a = py::none(),
        py::kw_only(), "group_size"_a = py::none(),
        "centroids[indices] with the codebooks of kmeans(); indices of any integer dtype.\n"
        "Raises Error for an index out of range.");
  m.def("centroid_gradient", &centroid_gradient, "grad"_a, "indices"_a, "k"_a,
        "reduction"_a = "sum", "axis"_a = py::none(), "group_size"_a = py::none(), py::kw_only(),
        "out"_a = py::none(),
        "Sum or mean of the gradients of the weights of each of k centroids, (k,) or (groups, k),\n"
        "0 where it has none. Summed in double; the same bits at any number of threads.");
}

}  // namespace moptcore::bindings
