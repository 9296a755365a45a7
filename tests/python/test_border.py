# SPDX-License-Identifier: Apache-2.0
"""Arrays of every framework cross the border without a copy, and errors name what is wrong."""

from __future__ import annotations

import array as std_array
import gc
import importlib.util
import os
import subprocess
import sys
import weakref

import moptcore as mc
import numpy as np
import pytest
from moptcore import _core
from reference.dlpack import Producer

copy, describe = _core.copy, _core.describe

NUMPY_DTYPES = [
    "float64", "float32", "float16", "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8", "bool",
]  # fmt: skip


def sample(dtype: str, shape: tuple[int, ...] = (3, 4)) -> np.ndarray:
    count = int(np.prod(shape))
    values = np.arange(count) % 2 if dtype == "bool" else np.arange(count)
    return values.astype(dtype).reshape(shape)


# ---- NumPy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x.T,
        lambda x: x[::-1, ::-2],
        lambda x: x[:, 1:2],
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: x[:0],
        lambda x: x[1, 1],
        lambda x: np.asfortranarray(x),
        lambda x: x.reshape(3, 2, 2)[:, ::-1],
    ],
)
def test_numpy_arrays_of_any_strides_are_read_as_they_are(dtype, make):
    x = np.asarray(make(sample(dtype)))
    seen = describe(x)
    assert seen["dtype"] == dtype
    assert seen["shape"] == x.shape
    assert seen["address"] == x.ctypes.data
    y = copy(x)
    assert type(y) is np.ndarray
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


def test_a_result_can_be_written_into_any_strided_array():
    base = np.zeros((6, 8), np.float32)
    out = base[::2, ::-2]
    x = sample("float32")
    assert copy(x, out=out) is out
    np.testing.assert_array_equal(out, x)
    assert np.count_nonzero(base) == 11


def test_numpy_arrays_of_bfloat16_come_back_as_such():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.arange(5).astype(ml_dtypes.bfloat16)
    y = copy(x[::-1])
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x[::-1])


def test_misaligned_and_byte_swapped_arrays_are_converted_but_never_written_to():
    raw = np.zeros(17, np.uint8)
    misaligned = raw[1:].view(np.float32)
    swapped = np.arange(4).astype(">f4")
    np.testing.assert_array_equal(copy(misaligned), np.zeros(4, np.float32))
    np.testing.assert_array_equal(copy(swapped), np.arange(4, dtype=np.float32))
    for out in (misaligned, swapped):
        with pytest.raises(mc.Error, match="out must be writable memory that is used without"):
            copy(np.zeros(4, np.float32), out=out)


def test_lists_and_numbers_are_taken_as_numpy_takes_them():
    assert describe([[1, 2], [3, 4]])["shape"] == (2, 2)
    assert describe(2.5)["dtype"] == "float64"


def test_the_buffer_protocol_is_shared():
    x = std_array.array("f", [1, 2, 3])
    assert describe(x)["address"] == x.buffer_info()[0]
    out = std_array.array("f", [0, 0, 0])
    copy(np.array([4, 5, 6], np.float32), out=out)
    assert out.tolist() == [4, 5, 6]
    with pytest.raises(mc.Error, match="out must be writable, got a read-only memoryview"):
        copy(np.zeros(3, np.uint8), out=memoryview(b"abc"))


def test_an_object_with_only_the_array_method_is_read():
    class Wrapped:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3, dtype=np.float32)

    np.testing.assert_array_equal(copy(Wrapped()), [0, 1, 2])
    with pytest.raises(mc.Error, match="out must be writable memory"):
        copy(np.zeros(3, np.float32), out=Wrapped())


@pytest.mark.parametrize("value", ["text", None, object(), b"bytes"])
def test_what_is_no_array_is_a_type_error(value):
    with pytest.raises(TypeError):
        describe(value)


@pytest.mark.parametrize("value", [np.array(["a"]), np.zeros(2, complex), np.zeros(2, object)])
def test_unknown_dtypes_are_a_type_error_that_lists_what_is_known(value):
    with pytest.raises(TypeError, match=r"dtype must be float64, float32.* got"):
        describe(value)


def test_outputs_are_checked_before_anything_is_written():
    x = np.ones(3, np.float32)
    readonly = np.zeros(3, np.float32)
    readonly.flags.writeable = False
    with pytest.raises(ValueError, match=r"\[core.copy\] out must be writable, got a read-only"):
        copy(x, out=readonly)
    with pytest.raises(ValueError, match=r"out must have shape \(3,\), got \(4,\)"):
        copy(x, out=np.zeros(4, np.float32))
    with pytest.raises(TypeError, match="out must have dtype float32, got float64"):
        copy(x, out=np.zeros(3))
    with pytest.raises(TypeError, match="out must be an array, got str"):
        copy(x, out="result")
    with pytest.raises(ValueError, match="strides must not be 0"):
        copy(x, out=np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (3,), (0,)))


def test_an_output_that_overlaps_its_input_partly_is_refused():
    base = np.arange(8, dtype=np.float32)
    with pytest.raises(ValueError, match="out must not overlap an input"):
        copy(base[:6], out=base[2:])
    assert copy(base, out=base) is base
    np.testing.assert_array_equal(base, np.arange(8))


def test_too_many_dimensions_are_refused():
    with pytest.raises(mc.UnsupportedError, match="at most 16 dimensions, got 17"):
        describe(np.zeros((1,) * 17))


def test_large_results_outlive_the_pool_being_trimmed():
    x = np.arange(1 << 20, dtype=np.float32)
    y = copy(x)
    mc.trim()
    np.testing.assert_array_equal(y, x)
    view = y[5:]
    del y
    gc.collect()
    mc.trim()
    np.testing.assert_array_equal(view, x[5:])


def test_the_pool_reuses_what_was_given_back():
    x = np.zeros(1 << 20, np.float32)
    del_me = copy(x)
    address = del_me.ctypes.data
    del del_me
    before = _core.pool_statistics()["reused"]
    again = copy(x)
    assert again.ctypes.data == address
    assert _core.pool_statistics()["reused"] == before + 1


# ---- DLPack structures --------------------------------------------------------------------------


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("accepts_version", [True, False])
def test_capsules_are_consumed_once_and_their_deleter_runs_once(versioned, accepts_version):
    x = sample("float32")
    producer = Producer(x, versioned=versioned, accepts_version=accepts_version)
    seen = describe(producer)
    assert seen["address"] == x.ctypes.data
    assert producer.deleted == 1
    assert producer.capsule_name.startswith(b"used_dltensor")
    np.testing.assert_array_equal(copy(producer), x)


def test_a_null_deleter_is_allowed():
    x = sample("int8")
    np.testing.assert_array_equal(copy(Producer(x, null_deleter=True)), x)


def test_missing_strides_mean_row_major():
    x = sample("float64")
    assert describe(Producer(x, strides=None))["strides"] == (4, 1)


def test_negative_and_zero_strides_are_followed():
    x = np.arange(6, dtype=np.float32)
    reverse = Producer(x, strides=(-1,), byte_offset=20)
    np.testing.assert_array_equal(copy(reverse), x[::-1])
    repeated = Producer(x, shape=(2, 3), strides=(0, 2), ndim=2)
    np.testing.assert_array_equal(copy(repeated), [[0, 2, 4], [0, 2, 4]])


def test_an_empty_tensor_may_have_no_data():
    assert copy(Producer(np.zeros((0, 3), np.float32), data=None)).shape == (0, 3)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"version": (2, 0)}, mc.UnsupportedError, "major version must be 1, got 2"),
        ({"device_type": 2}, mc.UnsupportedError, "must lie in CPU memory"),
        ({"dtype": (2, 32, 4)}, mc.DTypeError, "32 bits and 4 lanes"),
        ({"dtype": (5, 64, 1)}, mc.DTypeError, "dtype must be float64"),
        ({"dtype": (2, 8, 1)}, mc.DTypeError, "dtype must be float64"),
        ({"dtype": (0, 4, 1)}, mc.DTypeError, "dtype must be float64"),
        ({"ndim": 64}, mc.UnsupportedError, "at most 16 dimensions, got 64"),
        ({"ndim": -1}, mc.UnsupportedError, "at most 16 dimensions, got -1"),
        ({"shape": (-1, 4)}, mc.Error, "extents must be >= 0"),
        ({"shape": (2**62, 4)}, mc.Error, "number of elements must fit"),
        ({"shape": (2**32, 2**32)}, mc.Error, "number of elements must fit"),
        ({"strides": (2**62, 1)}, mc.Error, "strides must stay within the address space"),
        ({"strides": (-(2**63), 1)}, mc.Error, "strides must stay within the address space"),
        ({"data": None}, mc.Error, "must have data"),
        ({"shape": None}, mc.Error, "must have a shape"),
    ],
)
@pytest.mark.parametrize("versioned", [True, False])
def test_impossible_structures_are_refused_and_freed(fields, error, text, versioned):
    if "version" in fields and not versioned:
        pytest.skip("unversioned capsules have no version")
    producer = Producer(sample("float32"), versioned=versioned, **fields)
    with pytest.raises(error, match=text):
        describe(producer)
    gc.collect()
    assert producer.deleted == 1


def test_read_only_memory_is_never_written_to():
    zeros = np.zeros(3, np.float32)
    for producer in (Producer(zeros, flags=1), Producer(zeros, versioned=False)):
        with pytest.raises(ValueError, match="out must be writable, got a read-only Producer"):
            copy(np.ones(3, np.float32), out=producer)
    assert not zeros.any()
    writable = Producer(zeros)
    copy(np.ones(3, np.float32), out=writable)
    assert zeros.all()


def test_a_capsule_that_was_used_before_is_refused():
    class Stale(Producer):
        def __dlpack__(self, **kwargs):
            if self.capsule is None:
                super().__dlpack__(**kwargs)
            return self.capsule

    stale = Stale(sample("float32"))
    describe(stale)
    with pytest.raises(mc.Error, match="unused DLPack capsule"):
        describe(stale)


def test_errors_of_the_producer_reach_the_caller():
    class Broken:
        def __dlpack__(self, **kwargs):
            raise BufferError("not today")

    with pytest.raises(BufferError, match="not today"):
        describe(Broken())


def test_inputs_stay_alive_while_they_are_read_and_no_longer():
    x = np.zeros(1000, np.float32)
    reference = weakref.ref(x)
    y = copy(x)
    del x
    gc.collect()
    assert reference() is None
    assert y.shape == (1000,)


# ---- Frameworks ---------------------------------------------------------------------------------


def test_torch_tensors_are_shared_and_answered_in_kind():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
                  torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool):  # fmt: skip
        x = (torch.arange(12) % 2).reshape(3, 4).to(dtype)
        for view in (x, x.T, x[:, ::2], x[:0], x[0, 0], x[:1].expand(3, 4)):
            assert describe(view)["address"] == view.data_ptr() or view.numel() == 0
            y = copy(view)
            assert type(y) is torch.Tensor
            assert y.dtype == dtype
            assert torch.equal(y, view)
    out = torch.zeros(4, 3)
    x = torch.arange(12.0).reshape(3, 4).T
    assert copy(x, out=out) is out
    assert torch.equal(out, x)


def test_torch_parameters_are_read_and_results_are_plain_tensors():
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.arange(3.0))
    y = copy(parameter)
    assert type(y) is torch.Tensor
    assert not y.requires_grad
    y += 1
    assert torch.equal(parameter.detach(), torch.arange(3.0))


def test_torch_results_outlive_everything_else():
    torch = pytest.importorskip("torch")
    y = copy(torch.arange(float(1 << 20)))
    tail = y[-3:]
    del y
    gc.collect()
    mc.trim()
    assert torch.equal(tail, torch.tensor([1048573.0, 1048574.0, 1048575.0]))


def test_torch_tensors_that_are_no_strided_memory_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(mc.UnsupportedError, match=r"got Tensor, layout torch\.sparse_coo"):
        describe(torch.eye(3).to_sparse())
    with pytest.raises(mc.UnsupportedError, match="device meta"):
        describe(torch.zeros(3, device="meta"))
    with pytest.raises(mc.DTypeError, match="DLPack type code 5"):
        describe(torch.zeros(2, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("make", "use"),
    [
        (mc.quant.QParams, lambda qp: mc.quant.quantize(np.zeros(3, np.float32), qp)),
        (mc.quant.QParams, repr),
        (mc.quant.MinMaxObserver, lambda observer: observer.update(np.zeros(3, np.float32))),
        (mc.quant.MovingAverageObserver, lambda observer: observer.qparams()),
        (mc.prune.ConstantSparsity, lambda schedule: schedule.sparsity(3)),
        (mc.prune.PolynomialDecay, lambda schedule: schedule.should_prune(3)),
        (mc.prune.LinearDecay, lambda schedule: schedule.end_step),
        (mc.prune.CosineDecay, repr),
        (mc.prune.ExponentialDecay, lambda schedule: schedule == schedule),
    ],
)
def test_objects_that_were_never_initialized_are_a_type_error(make, use):
    with pytest.raises(TypeError, match="never initialized"):
        use(make.__new__(make))


def test_numpy_arrays_that_make_torch_abort_are_fine_here():
    x = np.arange(6.0)[::-1]
    np.testing.assert_array_equal(copy(x), x)


def test_jax_arrays_are_read_without_a_copy_and_never_written_to():
    pytest.importorskip("jax", reason="pip install jax")
    import jax.numpy as jnp

    for dtype in (
        jnp.float32,
        jnp.float16,
        jnp.bfloat16,
        jnp.int8,
        jnp.int32,
        jnp.uint8,
        jnp.bool_,
    ):
        x = (jnp.arange(12) % 2).reshape(3, 4).astype(dtype)
        assert describe(x)["address"] == x.unsafe_buffer_pointer()
        assert not describe(x)["writable"]
        y = copy(x)
        assert isinstance(y, type(x))
        assert y.dtype == x.dtype
        assert bool((y == x).all())
    target = jnp.zeros(3)
    with pytest.raises(ValueError, match="out must be writable, got a read-only"):
        copy(np.ones(3, np.float32), out=target)
    assert not target.any()


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="pip install tensorflow-cpu"
)
def test_tensorflow_tensors_are_read_without_a_copy_and_never_written_to():
    # TensorFlow gets a process of its own: its libraries do not mix well with the others.
    code = """
import numpy as np, tensorflow as tf
from moptcore import _core
for dtype in (tf.float64, tf.float32, tf.float16, tf.bfloat16, tf.int32, tf.int8, tf.bool):
    x = tf.cast(tf.reshape(tf.range(12) % 2, (3, 4)), dtype)
    y = _core.copy(x)
    assert isinstance(y, type(x)) and y.dtype == dtype, (type(y), y.dtype)
    assert bool(tf.reduce_all(tf.equal(tf.cast(x, tf.int32), tf.cast(y, tf.int32))))
x = tf.zeros(3)
try:
    _core.copy(np.ones(3, np.float32), out=x)
except ValueError as error:
    assert "out must be writable" in str(error), error
else:
    raise AssertionError("a TensorFlow tensor was written to")
assert not x.numpy().any()
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )


# ---- The module ---------------------------------------------------------------------------------


def test_importing_moptcore_imports_no_framework():
    code = (
        "import sys, moptcore, moptcore.prune, moptcore.quant, moptcore.distill;"
        "heavy = {'torch', 'tensorflow', 'jax', 'keras', 'onnx', 'onnxruntime', 'typer', 'rich'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_forked_child_computes_after_parallel_work():
    # A process of its own: other libraries in this one object to fork().
    code = """
import os, numpy as np
from moptcore import _core
x = np.arange(1 << 22, dtype=np.float32)
_core.copy(x)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(_core.copy(x), x) else 1)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_number_of_threads_can_be_set_and_is_checked():
    before = mc.get_num_threads()
    try:
        mc.set_num_threads(3)
        assert mc.get_num_threads() == 3
    finally:
        mc.set_num_threads(before)
    with pytest.raises(ValueError, match=r"count must be in \[1, 1024\], got 0"):
        mc.set_num_threads(0)


def test_the_instruction_set_can_be_limited_and_is_checked():
    names = _core.available_isas()
    try:
        for name in names:
            _core.set_max_isa(name)
            assert _core.current_isa() == name
    finally:
        _core.set_max_isa("")
    with pytest.raises(ValueError, match="name must be avx512, avx2, baseline or empty, got mmx"):
        _core.set_max_isa("mmx")


def test_errors_are_value_errors_and_type_errors():
    assert issubclass(mc.Error, ValueError)
    assert issubclass(mc.DTypeError, TypeError)
    assert issubclass(mc.DTypeError, mc.Error)
    for error in (mc.NonFiniteError, mc.UnsupportedError, mc.FormatError, _core.CoverageError):
        assert issubclass(error, mc.Error)
