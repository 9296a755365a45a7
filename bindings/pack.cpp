// SPDX-License-Identifier: Apache-2.0
#include <moptcore/pack/pack.hpp>

#include <pybind11/stl.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "array.hpp"
#include "module.hpp"

namespace moptcore::bindings {

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

// What the system refuses is an OSError with its number and path, as of open().
template <class F>
auto with_os_errors(const std::string& path, F&& f) {
  try {
    return f();
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
  }
  throw py::error_already_set();
}

std::string path_of(const py::object& path) {
  return py::bytes(py::module_::import("os").attr("fsencode")(path));
}

std::span<const std::uint8_t> bytes_of(const py::buffer_info& info, const char* where) {
  check<DTypeError>(
      info.itemsize == 1 && info.ndim <= 1 && (info.ndim == 0 || info.strides[0] == 1), where,
      "data must be bytes without gaps");
  return {static_cast<const std::uint8_t*>(info.ptr), static_cast<std::size_t>(info.size)};
}

enum class Framework : std::uint8_t { numpy, torch };

Framework framework_from(const std::string& text, const char* where) {
  if (text == "numpy") return Framework::numpy;
  if (text == "torch") return Framework::torch;
  throw Error(error_text(where, "framework must be numpy or torch", '\'' + text + '\''));
}

// A result of any dtype: bfloat16 is filled as words, which no framework minds.
class Result {
 public:
  Result(DType dtype, const Shape& shape, const char* where)
      : dtype_(dtype),
        words_(dtype == DType::bfloat16 ? DType::uint16 : dtype, shape, py::none(), where) {}

  [[nodiscard]] MutableAnyView view() const {
    return MutableAnyView(words_.view().data(), dtype_, words_.view().shape());
  }

  [[nodiscard]] py::object take(Framework framework) {
    py::object array = words_.take();
    const bool bfloat = dtype_ == DType::bfloat16;
    if (framework == Framework::numpy) {
      if (!bfloat) return array;
      return array.attr("view")(py::module_::import("ml_dtypes").attr("bfloat16"));
    }
    const py::module_ torch = py::module_::import("torch");
    if (!bfloat) return torch.attr("from_numpy")(array);
    return torch.attr("from_numpy")(array.attr("view")("int16"))
        .attr("view")(torch.attr("bfloat16"));
  }

 private:
  DType dtype_;
  Output words_;
};

py::bytes encode(const Array& array, const std::string& encoding) {
  const pack::Encoding wanted = pack::parse_encoding(encoding);
  std::vector<std::uint8_t> bytes;
  {
    const py::gil_scoped_release release;
    bytes = pack::encode(array.view(), wanted);
  }
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

py::object decode(const py::buffer& data, const py::object& out, const std::string& framework) {
  constexpr auto where = "pack.decode";
  const Framework kind = framework_from(framework, where);
  const py::buffer_info info = data.request();
  const auto bytes = bytes_of(info, where);
  const pack::Description header = [&] {
    const py::gil_scoped_release release;
    return pack::describe_header(bytes);
  }();
  if (!out.is_none()) {
    const Output target(header.dtype, header.shape, out, where);
    const py::gil_scoped_release release;
    pack::decode(bytes, target.view());
    return out;
  }
  Result result(header.dtype, header.shape, where);
  {
    const py::gil_scoped_release release;
    pack::decode(bytes, result.view());
  }
  return result.take(kind);
}

py::tuple tuple_of(const Shape& shape) {
  py::tuple extents(shape.size());
  for (int axis = 0; axis < shape.rank(); ++axis) {
    extents[static_cast<std::size_t>(axis)] = shape[axis];
  }
  return extents;
}

py::list list_of(const std::vector<pack::Stream>& streams) {
  constexpr const char* kCoders[] = {"plain", "zstd", "rans", "fill"};
  py::list list;
  for (const pack::Stream& stream : streams) {
    list.append(py::dict("name"_a = stream.name,
                         "coder"_a = kCoders[static_cast<int>(stream.coder)],
                         "bits"_a = stream.bits, "symbols"_a = stream.symbols,
                         "offset"_a = stream.offset, "size"_a = stream.size));
  }
  return list;
}

py::dict describe(const py::buffer& data) {
  const py::buffer_info info = data.request();
  const auto bytes = bytes_of(info, "pack.describe");
  const pack::Description description = [&] {
    const py::gil_scoped_release release;
    return pack::describe(bytes);
  }();
  return py::dict(
      "dtype"_a = std::string(name(description.dtype)), "shape"_a = tuple_of(description.shape),
      "encoding"_a = description.encoding, "dense_bytes"_a = description.dense_bytes,
      "packed_bytes"_a = description.packed_bytes, "streams"_a = list_of(description.streams));
}

double entropy_bound(const Array& array) {
  const py::gil_scoped_release release;
  return pack::entropy_bound(array.view());
}

std::string text_of(py::handle text, const char* rule) {
  check<DTypeError>(PyUnicode_Check(text.ptr()) != 0, "pack.save", rule,
                    Py_TYPE(text.ptr())->tp_name);
  Py_ssize_t size = 0;
  const char* bytes = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (bytes == nullptr) {
    PyErr_Clear();
    throw Error(error_text("pack.save", std::string(rule) + " of whole characters",
                           py::repr(text).cast<std::string>()));
  }
  return {bytes, static_cast<std::size_t>(size)};
}

// The errors of an array that cannot be read, with the name that it has here.
Array array_of(py::handle source, const std::string& name) {
  static constexpr std::string_view kUnnamed = "[core.asarray] ";
  const auto named = [&name](const std::exception& error) {
    std::string_view text = error.what();
    if (text.starts_with(kUnnamed)) text.remove_prefix(kUnnamed.size());
    return "[pack.save] arrays['" + name + "']: " + std::string(text);
  };
  try {
    return Array(source);
  } catch (const DTypeError& error) {
    throw DTypeError(named(error));
  } catch (const UnsupportedError& error) {
    throw UnsupportedError(named(error));
  }
}

std::int64_t save(const py::object& path, const py::object& arrays, const py::object& encoding,
                  const py::object& metadata) {
  constexpr auto where = "pack.save";
  const std::string file = path_of(path);
  check<DTypeError>(py::hasattr(arrays, "items"), where, "arrays must map names to arrays",
                    Py_TYPE(arrays.ptr())->tp_name);
  // A list of our own: the caller's may change while the GIL is released.
  const py::list items(arrays.attr("items")());
  const bool one_for_all = PyUnicode_Check(encoding.ptr()) != 0;
  check<DTypeError>(one_for_all || py::isinstance<py::dict>(encoding), where,
                    "encoding must be a name or a dict of them", Py_TYPE(encoding.ptr())->tp_name);
  std::vector<Array> held;
  held.reserve(items.size());
  std::vector<pack::Named> tensors;
  std::size_t named = 0;
  for (const py::handle item : items) {
    const py::tuple pair(py::reinterpret_borrow<py::object>(item));
    const std::string key = text_of(pair[0], "every name in arrays must be str");
    check<DTypeError>(Array::accepts(pair[1]), where, "arrays['" + key + "'] must be an array",
                      Py_TYPE(py::object(pair[1]).ptr())->tp_name);
    held.push_back(array_of(pair[1], key));
    pack::Encoding wanted;
    if (one_for_all) {
      wanted = pack::parse_encoding(encoding.cast<std::string>());
    } else if (encoding.contains(pair[0])) {
      wanted = pack::parse_encoding(
          text_of(encoding[py::object(pair[0])], "every encoding must be str"));
      ++named;
    }
    tensors.push_back({key, held.back().view(), wanted});
  }
  if (!one_for_all && named != py::len(encoding)) {
    for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(encoding)) {
      check(arrays.contains(key), where, "every name in encoding must be one of arrays",
            py::repr(key).cast<std::string>());
    }
  }
  pack::Metadata texts;
  if (!metadata.is_none()) {
    for (const auto& [key, value] : py::dict(metadata)) {
      texts[text_of(key, "every key of metadata must be str")] =
          text_of(value, "every value of metadata must be str");
    }
  }
  return with_os_errors(file, [&] {
    const py::gil_scoped_release release;
    return pack::save(file, tensors, texts);
  });
}

pack::Reader open(const std::string& file) {
  return with_os_errors(file, [&] {
    const py::gil_scoped_release release;
    return pack::Reader(file);
  });
}

py::dict load(const py::object& path, const std::string& framework) {
  constexpr auto where = "pack.load";
  const Framework kind = framework_from(framework, where);
  const std::string file = path_of(path);
  const pack::Reader reader = open(file);
  py::dict arrays;
  for (std::size_t i = 0; i < reader.entries().size(); ++i) {
    const pack::Entry& entry = reader.entries()[i];
    Result result(entry.dtype, entry.shape, where);
    with_os_errors(file, [&] {
      const py::gil_scoped_release release;
      reader.read(i, result.view());
    });
    arrays[py::str(entry.name)] = result.take(kind);
  }
  return arrays;
}

py::dict read_metadata(const py::object& path) {
  const pack::Reader reader = open(path_of(path));
  return py::cast(reader.metadata());
}

py::tuple contents(const py::object& path) {
  const std::string file = path_of(path);
  const pack::Reader reader = open(file);
  py::list rows;
  for (std::size_t i = 0; i < reader.entries().size(); ++i) {
    const pack::Entry& entry = reader.entries()[i];
    Result result(entry.dtype, entry.shape, "pack.inspect");
    pack::Description description;
    const double bound = with_os_errors(file, [&] {
      const py::gil_scoped_release release;
      reader.read(i, result.view());
      description = reader.describe(i);
      return pack::entropy_bound(result.view());
    });
    rows.append(py::dict("name"_a = entry.name, "dtype"_a = std::string(name(entry.dtype)),
                         "shape"_a = tuple_of(entry.shape), "encoding"_a = description.encoding,
                         "dense_bytes"_a = entry.dense_bytes, "packed_bytes"_a = entry.packed_bytes,
                         "entropy_bytes"_a = bound, "streams"_a = list_of(description.streams)));
  }
  return py::make_tuple(rows, reader.size(), py::cast(reader.metadata()));
}

}  // namespace

void bind_pack(py::module_ m) {
  m.doc() = "Weights in few bytes, losslessly, in standard safetensors files.";
  m.def("encode", &encode, "array"_a, "encoding"_a = "auto",
        "The array in few bytes, from which decode makes the same bits again.\n\n"
        "encoding is \"auto\" (the smallest) or names joined by +: of a layout (dense, bitmap,\n"
        "csr, nm, or n:m such as 2:4), of values (raw, codebook, grid, int2, int3, int4, int8)\n"
        "and of a coder (plain, zstd, rans; the best where none is named). Raises Error where\n"
        "the array does not fit; where it fits but would grow, it is stored dense and raw.");
  m.def("decode", &decode, "data"_a, "out"_a = py::none(), py::kw_only(), "framework"_a = "numpy",
        "The array that encode encoded, as a NumPy array, a PyTorch tensor (framework=\"torch\")\n"
        "or in out. Raises FormatError for bytes that encode does not make.");
  m.def("describe", &describe, "data"_a,
        "What the bytes of encode hold: dtype, shape, encoding, dense_bytes, packed_bytes and\n"
        "streams, each with name, coder, bits of a symbol, symbols, offset and size in bytes.");
  m.def("entropy_bound", &entropy_bound, "array"_a,
        "Bytes that no order-0 code of the elements goes below, its table included: with K\n"
        "distinct elements of w bytes and the entropy H of one in bits, n H / 8 + K w, or the\n"
        "dense size if that is less. Codes that see more than single elements may.");
  m.def("save", &save, "path"_a, "arrays"_a, "encoding"_a = "auto", "metadata"_a = py::none(),
        "Writes a mapping of names to arrays as a safetensors file; returns its bytes.\n\n"
        "encoding is one for all (see encode) or a dict for some by name, the others \"auto\".\n"
        "metadata is a dict of str. Arrays that do not shrink stay as they are under their name;\n"
        "the file is never larger than the plain safetensors file of the same arrays and\n"
        "metadata. It replaces path at once. Raises Error, OSError.");
  m.def("load", &load, "path"_a, py::kw_only(), "framework"_a = "numpy",
        "The arrays of a safetensors file, packed or plain, by name; the same bits that were\n"
        "saved. NumPy arrays (bfloat16 of ml_dtypes), or with framework=\"torch\" tensors.\n"
        "Raises FormatError for anything else, UnsupportedError for 8-bit and 4-bit floats.");
  m.def("read_metadata", &read_metadata, "path"_a, "The metadata that save was given.");
  m.def("_contents", &contents, "path"_a, "What inspect makes its report of.");
}

}  // namespace moptcore::bindings
