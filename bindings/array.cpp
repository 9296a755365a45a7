// SPDX-License-Identifier: Apache-2.0
#include "array.hpp"

#include <pybind11/numpy.h>

#include <cstring>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <moptcore/core/pool.hpp>

#include "dlpack.hpp"

namespace moptcore::bindings {
namespace {

constexpr const char* kWhere = "core.asarray";

// From this size on results come from the pool; below it NumPy's own small blocks are faster.
constexpr std::int64_t kPooledBytes = std::int64_t{1} << 20;

std::string type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

// ---- What a type of arrays offers, looked up once per type -------------------------------------

struct TypeFacts {
  Kind kind = Kind::other;
  const dlpack::ExchangeApi* api = nullptr;
  bool has_dlpack = false;
};

bool module_is(py::handle type, std::string_view root) {
  const py::object module = py::getattr(type, "__module__", py::str(""));
  if (!py::isinstance<py::str>(module)) return false;
  const std::string text = module.cast<std::string>();
  return text == root || text.starts_with(std::string(root) + ".");
}

Kind kind_of_type(PyTypeObject* type) {
  const py::tuple bases = py::reinterpret_borrow<py::tuple>(type->tp_mro);
  for (const py::handle base : bases) {
    if (module_is(base, "torch")) return Kind::torch;
    if (module_is(base, "jax") || module_is(base, "jaxlib")) return Kind::jax;
    if (module_is(base, "tensorflow")) return Kind::tensorflow;
  }
  return Kind::other;
}

const dlpack::ExchangeApi* exchange_api_of(PyTypeObject* type) {
  const py::handle handle(reinterpret_cast<PyObject*>(type));
  if (!py::hasattr(handle, "__dlpack_c_exchange_api__")) return nullptr;
  const py::object capsule = handle.attr("__dlpack_c_exchange_api__");
  if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api") == 0) return nullptr;
  const auto* api = static_cast<const dlpack::ExchangeApi*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  while (api != nullptr && api->version.major != dlpack::kMajor) api = api->previous;
  return api;
}

const TypeFacts& facts_of(PyTypeObject* type) {
  // Guarded by the GIL. Types are kept alive, so that an address never names two of them.
  static auto& known = *new std::unordered_map<PyTypeObject*, TypeFacts>();
  if (const auto found = known.find(type); found != known.end()) return found->second;
  TypeFacts facts;
  facts.kind = kind_of_type(type);
  facts.api = exchange_api_of(type);
  facts.has_dlpack = py::hasattr(reinterpret_cast<PyObject*>(type), "__dlpack__");
  Py_INCREF(type);
  return known.emplace(type, facts).first->second;
}

// ---- dtypes ------------------------------------------------------------------------------------

[[noreturn]] void refuse_dtype(const std::string& got) {
  throw DTypeError(error_text(
      kWhere,
      "an array's dtype must be float64, float32, float16, bfloat16, int64, int32, int16, int8, "
      "uint64, uint32, uint16, uint8 or bool",
      got));
}

DType sized_integer(bool is_signed, std::size_t bytes) {
  constexpr DType kSigned[] = {DType::int8, DType::int16, DType::int32, DType::int64};
  constexpr DType kUnsigned[] = {DType::uint8, DType::uint16, DType::uint32, DType::uint64};
  const int index = bytes == 1 ? 0 : bytes == 2 ? 1 : bytes == 4 ? 2 : 3;
  return is_signed ? kSigned[index] : kUnsigned[index];
}

DType dtype_of_descr(const py::dtype& descr) {
  switch (descr.normalized_num()) {
    case py::detail::npy_api::NPY_BOOL_: return DType::boolean;
    case py::detail::npy_api::NPY_DOUBLE_: return DType::float64;
    case py::detail::npy_api::NPY_FLOAT_: return DType::float32;
    case 23: return DType::float16;  // NPY_HALF
    default: break;
  }
  const char kind = descr.kind();
  if (kind == 'i' || kind == 'u') {
    return sized_integer(kind == 'i', static_cast<std::size_t>(descr.itemsize()));
  }
  if (descr.attr("name").cast<std::string>() == "bfloat16") return DType::bfloat16;
  refuse_dtype(py::str(descr).cast<std::string>());
}

py::dtype descr_of_dtype(DType dtype) {
  if (dtype == DType::bfloat16) {
    return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
  }
  check<UnsupportedError>(!is_packed(dtype), kWhere, "NumPy has no packed dtype", name(dtype));
  static const py::handle cache[kDTypeCount] = {py::dtype("float64").release(),
                                                py::dtype("float32").release(),
                                                py::dtype("float16").release(),
                                                py::handle(),
                                                py::dtype("int64").release(),
                                                py::dtype("int32").release(),
                                                py::dtype("int16").release(),
                                                py::dtype("int8").release(),
                                                py::dtype("uint64").release(),
                                                py::dtype("uint32").release(),
                                                py::dtype("uint16").release(),
                                                py::dtype("uint8").release(),
                                                py::dtype("bool").release(),
                                                py::handle(),
                                                py::handle()};
  return py::reinterpret_borrow<py::dtype>(cache[static_cast<int>(dtype)]);
}

DType dtype_of_dlpack(const dlpack::DataType& type) {
  if (type.lanes == 1) {
    const bool sized = type.bits == 8 || type.bits == 16 || type.bits == 32 || type.bits == 64;
    switch (type.code) {
      case dlpack::kFloat:
        if (type.bits == 64) return DType::float64;
        if (type.bits == 32) return DType::float32;
        if (type.bits == 16) return DType::float16;
        break;
      case dlpack::kBfloat:
        if (type.bits == 16) return DType::bfloat16;
        break;
      case dlpack::kBool:
        if (type.bits == 8) return DType::boolean;
        break;
      case dlpack::kInt:
      case dlpack::kUInt:
        if (sized) return sized_integer(type.code == dlpack::kInt, type.bits / 8u);
        break;
      default: break;
    }
  }
  refuse_dtype("DLPack type code " + std::to_string(type.code) + " with " +
               std::to_string(type.bits) + " bits and " + std::to_string(type.lanes) + " lanes");
}

dlpack::DataType dlpack_of_dtype(DType dtype) {
  const auto bits = static_cast<std::uint8_t>(bit_width(dtype));
  switch (dtype) {
    case DType::float64:
    case DType::float32:
    case DType::float16: return {dlpack::kFloat, bits, 1};
    case DType::bfloat16: return {dlpack::kBfloat, bits, 1};
    case DType::boolean: return {dlpack::kBool, bits, 1};
    case DType::int64:
    case DType::int32:
    case DType::int16:
    case DType::int8:
    case DType::int4: return {dlpack::kInt, bits, 1};
    default: return {dlpack::kUInt, bits, 1};
  }
}

// ---- Views -------------------------------------------------------------------------------------

AnyView view_of_dlpack(const dlpack::Tensor& tensor) {
  const bool readable =
      tensor.device_type == dlpack::kCpu || tensor.device_type == dlpack::kCudaHost ||
      tensor.device_type == dlpack::kRocmHost || tensor.device_type == dlpack::kCudaManaged;
  check<UnsupportedError>(readable, kWhere,
                          "an array must lie in CPU memory (move it there, or use "
                          "moptcore.torch, which takes tensors on any device), DLPack device",
                          tensor.device_type);
  check<UnsupportedError>(tensor.ndim >= 0 && tensor.ndim <= kMaxRank, kWhere,
                          "a tensor must have at most 16 dimensions", tensor.ndim);
  check(tensor.ndim == 0 || tensor.shape != nullptr, kWhere, "a DLPack tensor must have a shape");
  const auto rank = static_cast<std::size_t>(tensor.ndim);
  const Shape shape(std::span<const std::int64_t>(tensor.shape, rank));
  const DType dtype = dtype_of_dlpack(tensor.dtype);
  auto* data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  check(tensor.data != nullptr || element_count(shape) == 0, kWhere,
        "a DLPack tensor with elements must have data, shape", shape);
  if (tensor.strides == nullptr) return AnyView(data, dtype, shape);
  return AnyView(data, dtype, shape, Shape(std::span<const std::int64_t>(tensor.strides, rank)));
}

// Offsets within the view must fit in a pointer difference, whatever strides a producer invents.
void check_extent(const AnyView& view) {
  if (view.empty()) return;
  std::int64_t reach = 0;
  for (int axis = 0; axis < view.rank(); ++axis) {
    std::int64_t step = 0;
    bool overflow = __builtin_mul_overflow(view.shape()[axis] - 1, view.strides()[axis], &step);
    overflow = overflow || step == std::numeric_limits<std::int64_t>::min();
    overflow = overflow || __builtin_add_overflow(reach, step < 0 ? -step : step, &reach);
    check(!overflow && reach < std::numeric_limits<std::int64_t>::max() / 16, kWhere,
          "strides must stay within the address space", view.strides());
  }
}

struct NumpyView {
  AnyView view;
  bool readonly;
};

// A NumPy array as it is; false where its elements are not aligned or not in native byte order.
bool view_of_numpy(py::handle array, NumpyView& result) {
  const auto* proxy = py::detail::array_proxy(array.ptr());
  check<UnsupportedError>(proxy->nd <= kMaxRank, kWhere, "a tensor must have at most 16 dimensions",
                          proxy->nd);
  const auto descr = py::reinterpret_borrow<py::dtype>(proxy->descr);
  const DType dtype = dtype_of_descr(descr);
  const auto bytes = static_cast<std::int64_t>(bit_width(dtype) / 8);
  Shape shape;
  Shape strides;
  bool whole = (proxy->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
  for (int axis = 0; axis < proxy->nd; ++axis) {
    shape.push_back(proxy->dimensions[axis]);
    strides.push_back(proxy->strides[axis] / bytes);
    whole = whole && (proxy->strides[axis] % bytes == 0 || proxy->dimensions[axis] <= 1);
  }
  if (!whole || descr.byteorder() == '>') return false;
  result = {AnyView(proxy->data, dtype, shape, strides),
            (proxy->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) == 0};
  return true;
}

bool is_numpy(py::handle object) {
  auto& api = py::detail::npy_api::get();
  return Py_TYPE(object.ptr()) == api.PyArray_Type_ || api.PyArray_Check_(object.ptr());
}

// Owns a DLPack tensor that was taken out of its capsule: its deleter runs exactly once.
template <class Managed>
py::object owner_of(Managed* managed) {
  return py::capsule(managed, [](void* opaque) {
    auto* tensor = static_cast<Managed*>(opaque);
    if (tensor->deleter != nullptr) tensor->deleter(tensor);
  });
}

struct Imported {
  AnyView view;
  py::object owner;
  bool readonly;
};

Imported import_capsule(const py::object& capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
    auto* managed = static_cast<dlpack::ManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    py::object owner = owner_of(managed);
    // Of an unknown major version nothing but the version and the deleter may be read.
    check<UnsupportedError>(managed->version.major == dlpack::kMajor, kWhere,
                            "DLPack's major version must be 1", managed->version.major);
    return {view_of_dlpack(managed->tensor), std::move(owner),
            (managed->flags & dlpack::kReadOnly) != 0};
  }
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor") != 0) {
    auto* managed =
        static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    py::object owner = owner_of(managed);
    // Old capsules cannot say that their memory is read-only, so it is taken to be.
    return {view_of_dlpack(managed->tensor), std::move(owner), true};
  }
  throw Error(
      error_text(kWhere, "__dlpack__() must return an unused DLPack capsule", type_name(capsule)));
}

py::object dlpack_capsule_of(py::handle source) {
  using py::literals::operator""_a;
  const py::object export_method = source.attr("__dlpack__");
  try {
    return export_method("max_version"_a = py::make_tuple(dlpack::kMajor, dlpack::kMinor));
  } catch (py::error_already_set& error) {
    // Producers from before 2023.12 take no arguments.
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return export_method();
}

}  // namespace

namespace {

// A tensor without plain memory: the framework's own text may be pages of a C++ stack.
[[noreturn]] void refuse_tensor(py::handle source) {
  const py::error_already_set reason;
  std::string got = type_name(source);
  for (const char* fact : {"layout", "device", "dtype"}) {
    if (py::hasattr(source, fact)) {
      got += ", " + std::string(fact) + ' ' + py::str(source.attr(fact)).cast<std::string>();
    }
  }
  throw UnsupportedError(error_text(
      kWhere, "an array must be strided memory in CPU memory (moptcore.torch takes other devices)",
      got));
}

}  // namespace

Array::Array(py::handle source) : source_(source) {
  NumpyView numpy;
  if (is_numpy(source)) {
    kind_ = Kind::numpy;
    if (view_of_numpy(source, numpy)) {
      view_ = numpy.view;
      readonly_ = numpy.readonly;
      return;
    }
  } else {
    const TypeFacts& facts = facts_of(Py_TYPE(source.ptr()));
    kind_ = facts.kind;
    if (facts.api != nullptr && facts.api->view_from_object != nullptr) {
      dlpack::Tensor tensor;
      if (facts.api->view_from_object(source.ptr(), &tensor) != 0) refuse_tensor(source);
      view_ = view_of_dlpack(tensor);
      check_extent(view_);
      return;
    }
    if (facts.has_dlpack) {
      Imported imported = import_capsule(dlpack_capsule_of(source));
      view_ = imported.view;
      check_extent(view_);
      keep_ = std::move(imported.owner);
      readonly_ = imported.readonly || kind_ == Kind::jax || kind_ == Kind::tensorflow;
      return;
    }
  }
  // The buffer protocol and __array__, both through NumPy; misaligned and byte-swapped arrays are
  // converted here.
  const bool shared = kind_ != Kind::numpy && PyObject_CheckBuffer(source.ptr()) != 0;
  py::object array = py::module_::import("numpy").attr("asarray")(source);
  readonly_ = kind_ == Kind::jax || kind_ == Kind::tensorflow;
  copied_ = !shared;
  if (!view_of_numpy(array, numpy)) {
    copied_ = true;
    const py::dtype native = descr_of_dtype(dtype_of_descr(array.attr("dtype")));
    array = py::module_::import("numpy").attr("array")(array, native);
    if (!view_of_numpy(array, numpy)) {
      throw DTypeError(
          error_text(kWhere, "an array's elements must be aligned", type_name(source)));
    }
  }
  view_ = numpy.view;
  readonly_ = readonly_ || numpy.readonly;
  keep_ = std::move(array);
}

bool Array::accepts(py::handle source) {
  if (is_numpy(source)) return true;
  if (source.is_none() || PyUnicode_Check(source.ptr()) || PyBytes_Check(source.ptr()))
    return false;
  const TypeFacts& facts = facts_of(Py_TYPE(source.ptr()));
  return facts.api != nullptr || facts.has_dlpack || PyObject_CheckBuffer(source.ptr()) != 0 ||
         PyFloat_Check(source.ptr()) || PyLong_Check(source.ptr()) || PyList_Check(source.ptr()) ||
         PyTuple_Check(source.ptr()) || py::hasattr(source, "__array__");
}

MutableAnyView Array::writable(const char* where, const char* argument) const {
  // Texts are made for errors only: they would cost small calls more than their work.
  if (!is_writable()) [[unlikely]] {
    const std::string rule = std::string(argument) + " must be writable";
    check(!copied_, where, rule + " memory that is used without converting it", type_name(source_));
    throw Error(error_text(where, rule, "a read-only " + type_name(source_)));
  }
  return MutableAnyView(const_cast<void*>(view_.data()), view_.dtype(), view_.shape(),
                        view_.strides());
}

// ---- Results -----------------------------------------------------------------------------------

namespace {

py::object new_numpy(DType dtype, const Shape& shape) {
  const py::dtype descr = descr_of_dtype(dtype);
  const std::vector<py::ssize_t> extents(shape.begin(), shape.end());
  const std::int64_t bytes = byte_count(dtype, element_count(shape));
  if (bytes < kPooledBytes) return py::array(descr, extents);
  PoolBuffer buffer = pool_allocate(bytes);
  void* data = buffer.get();
  const py::capsule owner(buffer.get(), [](void* pointer) { PoolDeleter()(pointer); });
  buffer.release();
  return py::array(descr, extents, data, owner);
}

// A tensor of ours on its way to another framework.
struct Exported {
  dlpack::ManagedTensorVersioned managed{};
  PoolBuffer buffer;
  Shape shape;
  Shape strides;
};

py::object new_through_api(const dlpack::ExchangeApi& api, DType dtype, const Shape& shape,
                           void** data) {
  auto exported = std::make_unique<Exported>();
  exported->buffer = pool_allocate(byte_count(dtype, element_count(shape)));
  exported->shape = shape;
  exported->strides = contiguous_strides(shape);
  auto& managed = exported->managed;
  managed.version = {dlpack::kMajor, dlpack::kMinor};
  managed.context = exported.get();
  managed.deleter = [](dlpack::ManagedTensorVersioned* self) {
    delete static_cast<Exported*>(self->context);
  };
  managed.tensor = {exported->buffer.get(),
                    dlpack::kCpu,
                    0,
                    shape.rank(),
                    dlpack_of_dtype(dtype),
                    const_cast<std::int64_t*>(exported->shape.begin()),
                    const_cast<std::int64_t*>(exported->strides.begin()),
                    0};
  *data = exported->buffer.get();
  void* object = nullptr;
  if (api.managed_to_object(&managed, &object) != 0) throw py::error_already_set();
  static_cast<void>(exported.release());  // the framework's tensor runs the deleter
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

// A finished NumPy array as a JAX, TensorFlow or (older) PyTorch array, sharing its memory where
// the framework can.
py::object convert_numpy(Kind kind, py::object array) {
  const bool bfloat = array.attr("dtype").attr("name").cast<std::string>() == "bfloat16";
  switch (kind) {
    case Kind::jax:
      if (bfloat) return py::module_::import("jax.numpy").attr("asarray")(array);
      return py::module_::import("jax.dlpack").attr("from_dlpack")(array);
    case Kind::tensorflow:
      return py::module_::import("tensorflow").attr("convert_to_tensor")(array);
    case Kind::torch: {
      const py::module_ torch = py::module_::import("torch");
      if (!bfloat) return torch.attr("from_numpy")(array);
      const py::object words = array.attr("view")("int16");
      return torch.attr("from_numpy")(words).attr("view")(torch.attr("bfloat16"));
    }
    default: return array;
  }
}

}  // namespace

Output::Output(const Array& like, DType dtype, const Shape& shape, py::handle out,
               const char* where) {
  if (out && !out.is_none()) use(out, dtype, shape, where);
  else allocate(like.kind(), like.source_, dtype, shape);
}

Output::Output(DType dtype, const Shape& shape, py::handle out, const char* where) {
  if (out && !out.is_none()) use(out, dtype, shape, where);
  else allocate(Kind::numpy, py::handle(), dtype, shape);
}

void Output::use(py::handle out, DType dtype, const Shape& shape, const char* where) {
  if (!Array::accepts(out)) [[unlikely]] {
    throw DTypeError(error_text(where, "out must be an array", type_name(out)));
  }
  const Array target(out);
  if (target.dtype() != dtype) [[unlikely]] {
    throw DTypeError(
        error_text(where, "out must have dtype " + std::string(name(dtype)), name(target.dtype())));
  }
  if (!(target.shape() == shape)) {
    std::ostringstream rule;
    rule << "out must have shape " << shape;
    throw Error(error_text(where, rule.str(), target.shape()));
  }
  view_ = target.writable(where, "out");
  for (int axis = 0; axis < view_.rank(); ++axis) {
    check(view_.strides()[axis] != 0 || view_.shape()[axis] <= 1, where,
          "out must not repeat elements: strides must not be 0", view_.strides());
  }
  object_ = py::reinterpret_borrow<py::object>(out);
  keep_ = target.keep_;
}

void Output::allocate(Kind kind, py::handle like, DType dtype, const Shape& shape) {
  if (kind == Kind::torch) {
    const TypeFacts& facts = facts_of(Py_TYPE(like.ptr()));
    if (facts.api != nullptr) {
      void* data = nullptr;
      object_ = new_through_api(*facts.api, dtype, shape, &data);
      view_ = MutableAnyView(data, dtype, shape);
      return;
    }
  }
  object_ = new_numpy(dtype, shape);
  view_ = MutableAnyView(py::detail::array_proxy(object_.ptr())->data, dtype, shape);
  kind_ = kind;
}

void Output::check_overlap(const Array& input, const char* where) const {
  check_no_partial_overlap(input.view(), view_, where, "out");
}

py::object Output::take() {
  if (kind_ == Kind::numpy || kind_ == Kind::other) return std::move(object_);
  return convert_numpy(kind_, std::move(object_));
}

DType dtype_from(py::handle dtype, const char* where, const char* argument) {
  const std::string rule = std::string(argument) + " must name a dtype such as \"int8\"";
  std::string text;
  if (dtype.is_none() || PyLong_Check(dtype.ptr()) || PyFloat_Check(dtype.ptr())) {
    throw DTypeError(error_text(where, rule, py::repr(dtype).cast<std::string>()));
  }
  if (PyUnicode_Check(dtype.ptr())) {
    text = dtype.cast<std::string>();
  } else if (module_is(py::type::handle_of(dtype), "torch")) {
    text = py::str(dtype).cast<std::string>();
    text = text.substr(text.rfind('.') + 1);
  } else {
    text = py::dtype::from_args(py::reinterpret_borrow<py::object>(dtype))
               .attr("name")
               .cast<std::string>();
  }
  for (int code = 0; code < kDTypeCount; ++code) {
    if (text == name(static_cast<DType>(code))) return static_cast<DType>(code);
  }
  throw Error(error_text(where, rule, text));
}

}  // namespace moptcore::bindings
