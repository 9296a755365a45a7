# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import moptcore
import numpy as np
import pytest
import safetensors.numpy
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from moptcore import pack, prune
from reference import pack as reference

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8"]
DTYPES += ["uint64", "uint32", "uint16", "uint8", "bool"]
LAYOUTS = ["dense", "bitmap", "csr"]
CODERS = ["plain", "zstd", "rans"]
OVERHEAD = 37  # bytes besides 9 a dimension, as the header file says


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def sparse(shape: tuple[int, ...], zeros: float = 0.8) -> np.ndarray:
    weights = rng().normal(size=shape).astype(np.float32)
    return np.where(rng().random(shape) < zeros, np.float32(0), weights)


def clustered(shape: tuple[int, ...], k: int = 16, zeros: float = 0.0) -> np.ndarray:
    centroids = np.linspace(-1, 1, k, dtype=np.float32) + np.float32(0.03)
    picked = centroids[rng().integers(0, k, shape)]
    return np.where(rng().random(shape) < zeros, np.float32(0), picked)


def on_grid(shape: tuple[int, ...], largest: int, group: tuple[int, ...]) -> np.ndarray:
    """scale * q, q up to `largest` by magnitude, a scale for each row of `group`'s shape."""
    weights = rng().normal(size=shape).reshape(group)
    scale = (np.abs(weights).max(axis=-1, keepdims=True) / largest).astype(np.float32)
    q = np.rint(weights / scale).astype(np.int32).clip(-largest, largest)
    return (scale * q.astype(np.float32)).reshape(shape)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    if draw(st.booleans()):
        return draw(arrays_of.arrays(dtype, shape))
    few = draw(st.integers(1, 20))
    pool = draw(arrays_of.arrays(dtype, few))
    picked = pool[np.random.default_rng(draw(st.integers(0, 99))).integers(0, few, shape)]
    kept = np.random.default_rng(draw(st.integers(0, 99))).random(shape) < draw(st.floats(0, 1))
    return np.where(kept, picked, np.zeros((), dtype)).astype(dtype)


@given(tensors())
@settings(max_examples=100, deadline=None)
def test_any_tensor_comes_back_bit_for_bit_and_never_grows(tensor: np.ndarray) -> None:
    data = pack.encode(tensor)
    assert same(pack.decode(data), tensor)
    assert len(data) <= tensor.nbytes + OVERHEAD + 9 * tensor.ndim
    facts = pack.describe(data)
    assert facts["shape"] == tensor.shape
    assert facts["dtype"] == tensor.dtype.name
    assert facts["dense_bytes"] == tensor.nbytes
    assert facts["packed_bytes"] == len(data)


@given(tensors(), st.sampled_from(["bitmap", "csr", "dense", "codebook", "bitmap+codebook"]))
@settings(max_examples=60, deadline=None)
def test_a_named_encoding_comes_back_bit_for_bit(tensor: np.ndarray, encoding: str) -> None:
    data = pack.encode(tensor, encoding)  # at most 20 distinct values, or under 256 elements
    assert same(pack.decode(data), tensor) or np.unique(tensor).size > 256


@given(st.dictionaries(st.text(max_size=8), tensors(), max_size=5))
@settings(max_examples=40, deadline=None)
def test_a_file_is_never_larger_than_the_plain_one(named: dict[str, np.ndarray]) -> None:
    named = {n: a for n, a in named.items() if n != "__metadata__" and not n.endswith("::pack")}
    path = Path(_folder.name) / "any.safetensors"
    size = pack.save(path, named)
    assert size == path.stat().st_size
    assert size <= len(safetensors.numpy.save(named))
    loaded = pack.load(path)
    assert loaded.keys() == named.keys()
    assert all(same(loaded[name], named[name]) for name in named)
    assert len(safetensors.numpy.load_file(path)) <= len(named)


@pytest.fixture(autouse=True, scope="module")
def _temporary(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _folder
    _folder = _Folder(tmp_path_factory.mktemp("pack"))


class _Folder:
    def __init__(self, name: Path) -> None:
        self.name = name


_folder: _Folder


SPECIAL = np.array([0x80000000, 0x7FC00001, 0xFFC12345, 0x7F800001, 0x7F800000, 1, 0], np.uint32)


def test_negative_zeros_payloads_of_nan_and_denormals_stay_as_they_are() -> None:
    tensor = np.tile(SPECIAL, 40).view(np.float32).reshape(20, 14)
    for encoding in ["auto", "bitmap", "csr", "codebook", "dense+zstd", "bitmap+codebook+rans"]:
        assert same(pack.decode(pack.encode(tensor, encoding)), tensor)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("values", ["raw", "codebook", "int8", "int4"])
@pytest.mark.parametrize("coder", CODERS)
def test_every_combination_is_lossless_and_does_what_it_says(
    layout: str, values: str, coder: str
) -> None:
    tensor = np.where(rng().random((64, 96)) < 0.8, 0, on_grid((64, 96), 7, (1, 6144)))
    tensor = tensor.astype(np.float32)
    data = pack.encode(tensor, f"{layout}+{values}+{coder}")
    assert same(pack.decode(data), tensor)
    facts = pack.describe(data)
    name = {"codebook": "codebook4", "int8": "int4"}.get(values, values)
    sparse_part = [] if layout == "dense" else [layout]
    assert facts["encoding"].split("+")[: len(sparse_part) + 1] == [*sparse_part, name]
    assert {s["coder"] for s in facts["streams"]} <= {coder, "fill"}


@pytest.mark.parametrize(("n", "m"), [(1, 2), (1, 4), (2, 4), (4, 8), (2, 8), (3, 16), (5, 32)])
@pytest.mark.parametrize("values", ["raw", "codebook", "int4"])
def test_n_of_m_is_found_and_stored_in_its_bits(n: int, m: int, values: str) -> None:
    tensor = on_grid((32, 96), 7, (1, 3072)).reshape(-1, m)
    drop = np.argsort(rng().random(tensor.shape), axis=1)[:, n:]
    np.put_along_axis(tensor, drop, 0.0, axis=1)
    tensor = tensor.reshape(32, 96)
    data = pack.encode(tensor, f"{n}:{m}+{values}+plain")
    assert same(pack.decode(data), tensor)
    groups = tensor.size // m
    places = groups * n * (m - 1).bit_length()
    streams = {s["name"]: s for s in pack.describe(data)["streams"]}
    assert streams["places"]["size"] == -(-places // 8)
    if m <= 16:
        found = pack.describe(pack.encode(tensor, f"nm+{values}"))["encoding"].split("+")[0]
        a, b = map(int, found.split(":"))
        assert a * m <= n * b
    with pytest.raises(moptcore.Error, match=f"every {m} elements of the last axis must have at"):
        pack.encode(np.ones((4, m), np.float32), f"{n}:{m}")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("group", "scales"),
    [((1, 8192), 1), ((64, 128), 64), ((256, 32), 256)],
    ids=["tensor", "axis", "group"],
)
@pytest.mark.parametrize(("bits", "largest"), [(2, 1), (3, 3), (4, 7), (8, 127)])
def test_a_grid_is_found_from_the_values_alone(
    dtype: str, group: tuple[int, int], scales: int, bits: int, largest: int
) -> None:
    kind = np.dtype(dtype) if dtype != "bfloat16" else __import__("ml_dtypes").bfloat16
    weights = rng().normal(size=group)
    width = np.float64 if dtype == "float64" else np.float32
    scale = (np.abs(weights).max(axis=1, keepdims=True) / largest).astype(width)
    q = np.rint(weights / scale).clip(-largest, largest).astype(np.int32)
    tensor = (scale * q.astype(width)).astype(kind).reshape(64, 128)
    data = pack.encode(tensor, f"int{bits}+plain")
    assert same(pack.decode(data), tensor)
    streams = {s["name"]: s for s in pack.describe(data)["streams"]}
    assert streams["symbols"]["size"] * 8 == tensor.size * streams["symbols"]["bits"]
    assert streams["symbols"]["bits"] <= bits
    assert streams.get("scales", {"symbols": scales})["symbols"] in (
        scales,
        scales * width().itemsize,
    )


def test_a_grid_of_unsigned_integers_has_its_zero_point_in_it() -> None:
    q = rng().integers(0, 256, (50, 40))
    tensor = (np.float32(0.0371) * (q - 17).astype(np.float32)).astype(np.float32)
    data = pack.encode(tensor, "int8+plain")
    assert same(pack.decode(data), tensor)


@pytest.mark.parametrize(
    ("encoding", "tensor", "text"),
    [
        ("codebook", np.arange(300), "at most 256 distinct elements"),
        ("int4", np.arange(-9, 9, dtype=np.float32), "must equal scale * q"),
        ("int8", sparse((40, 40)), "must equal scale * q"),
        ("int8", np.arange(9), "a tensor for a grid must be of floats, got int64"),
        ("nm", np.ones((4, 8), np.float32), "with a zero in each"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(
    encoding: str, tensor: np.ndarray, text: str
) -> None:
    with pytest.raises(moptcore.Error, match=text.replace("*", r"\*")):
        pack.encode(tensor, encoding)


@pytest.mark.parametrize("encoding", ["nm", "2:4", "int4", "bitmap+int4", "csr+int4+plain"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_products_with_a_mask_keep_the_signs_of_their_zeros(encoding: str, dtype: type) -> None:
    w = rng().integers(-7, 8, (8, 16)).astype(dtype)
    product = w * prune.nm_mask(w, 2, 4)
    assert np.signbit(product[product == 0]).any()
    data = pack.encode(product, encoding)
    assert same(pack.decode(data), product)
    facts = pack.describe(data)
    assert "signs" in facts["encoding"].split("+")
    assert facts["streams"][-1]["name"] == "signs"
    assert facts["streams"][-1]["symbols"] == -(-np.count_nonzero(product == 0) // 8)


def test_signs_of_zeros_take_no_more_than_their_entropy() -> None:
    """A grid by rows has far more than 256 values, so nothing but the grid makes it small."""
    w = on_grid((256, 300), 7, (256, 300))
    kept = rng().random(w.shape) < 0.3
    plain = np.where(kept, w, np.float32(0))
    product = w * kept
    zeros = int((product == 0).sum())
    negative = int(np.signbit(product[product == 0]).sum())
    p = negative / zeros
    entropy = zeros * -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) / 8
    # 256 kinds of bytes, each up to 2 bytes of table; the rest is rounding and the lanes.
    most = len(pack.encode(plain)) + entropy * 1.002 + 512 + 200
    data = pack.encode(product)
    assert same(pack.decode(data), product)
    assert len(data) <= most
    few = plain.copy()
    few[::64, 7] *= np.float32(-1)
    few[np.nonzero(few == 0)[0][:3], np.nonzero(few == 0)[1][:3]] = np.float32(-0.0)
    assert np.signbit(few[few == 0]).any()
    assert same(pack.decode(pack.encode(few)), few)
    assert len(pack.encode(few)) <= len(pack.encode(np.where(few == 0, 0, few))) + 100
    all_negative = np.where(kept, w, np.float32(-0.0))
    assert same(pack.decode(pack.encode(all_negative)), all_negative)


@pytest.mark.parametrize("layout", ["dense", "csr", "bitmap"])
def test_negative_zeros_are_values_in_all_other_layouts(layout: str) -> None:
    w = -np.ones((8, 16), np.float32) * (rng().random((8, 16)) < 0.3)
    assert np.signbit(pack.decode(pack.encode(w, layout))).all()


@pytest.mark.parametrize("name", ["", "bit", "bitmap+csr", "0:4", "4:4", "1:999", "zstd+rans", "+"])
def test_a_name_of_no_encoding_is_refused(name: str) -> None:
    with pytest.raises(moptcore.Error, match=r"\[pack.parse_encoding\]"):
        pack.encode(np.ones(4), name)


def order_0(bits: float, *streams: tuple[int, int]) -> float:
    """Bits as bytes, and for each stream (blocks, kinds of symbols) what rANS adds: frequencies
    rounded to 2^-12 lose less than 0.2 % here; the table has at most 4 + 11 bits a kind; a block
    at most 8 states of 4 bytes and its length."""
    return bits / 8 * 1.002 + sum(blocks * 36 + kinds * 2 + 8 for blocks, kinds in streams)


def test_sizes_reach_the_entropy() -> None:
    pruned = sparse((784, 256))
    n, kept = pruned.size, np.count_nonzero(pruned)
    p = kept / n
    mask_bits = n * -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    data = pack.encode(pruned)
    assert len(data) <= order_0(mask_bits, (1, 256)) + 4 * kept + 60  # elements as they are
    both = clustered((784, 256), 15, zeros=0.8)
    exact = 8 * reference.entropy_bytes(both)
    assert len(pack.encode(both)) <= order_0(exact, (1, 16)) + 16 * 4 + 30
    integers = on_grid((784, 256), 127, (784, 256))
    q = np.rint(integers / (np.abs(integers).max(1, keepdims=True) / 127)).astype(np.int8)
    exact = 8 * reference.entropy_bytes(q)
    assert len(pack.encode(integers)) <= order_0(exact, (1, 255)) + 784 * 4 + 30
    assert len(pack.encode(q)) <= order_0(exact, (1, 255)) + 30


def test_the_bound_is_that_of_numpy() -> None:
    for tensor in [clustered((50, 40)), sparse((30, 30)), np.arange(9), np.zeros((0, 3))]:
        assert pack.entropy_bound(tensor) == pytest.approx(reference.entropy_bound(tensor))


def test_a_constant_tensor_takes_no_bytes_but_those_that_bound_its_reader() -> None:
    data = pack.encode(np.zeros((1000, 1000), np.float32))
    assert len(data) == -(-4_000_000 // 1024)
    assert not pack.decode(data).any()
    short = pack.encode(np.zeros(1000, np.float32))
    tall = short[:4] + b"\xff\xff\xff\x7f" + short[6:-4]
    with pytest.raises(moptcore.FormatError, match="at most 1024 times the bytes"):
        pack.decode(tall + struct.pack("<I", zlib.crc32(tall)))


def test_files_of_version_1_still_open() -> None:
    """Each layout, kind of values and coder, as the moptcore wrote them that knew no other."""
    path = Path(__file__).parents[1] / "golden" / "pack_v1.safetensors"
    spec = importlib.util.spec_from_file_location(
        "golden_pack", Path(__file__).parents[2] / "scripts" / "golden" / "pack.py"
    )
    assert spec is not None
    assert spec.loader is not None
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    expected = golden.arrays()
    loaded = pack.load(path)
    assert loaded.keys() == expected.keys()
    for name, array in expected.items():
        assert same(loaded[name], array), name
    versions = {
        bytes(array[:1])
        for name, array in safetensors.numpy.load_file(path).items()
        if name.endswith("::pack") and name != "::pack::pack"
    }
    assert versions == {b"\x01"}
    assert pack.read_metadata(path) == {"of": "version 1"}


@pytest.mark.parametrize("version", [0, 3])
def test_other_versions_are_refused(version: int) -> None:
    body = bytes([version]) + pack.encode(sparse((40, 40)))[1:-4]
    with pytest.raises(moptcore.FormatError, match="version of the format must be 1 or 2"):
        pack.decode(body + struct.pack("<I", zlib.crc32(body)))


def test_version_1_has_no_signs() -> None:
    body = b"\x01" + pack.encode(np.array([-0.0, 0.0, 1.5] * 50, np.float32), "int2")[1:-4]
    with pytest.raises(moptcore.FormatError, match="kind of values must be at most 2"):
        pack.decode(body + struct.pack("<I", zlib.crc32(body)))


def test_the_zstd_streams_are_those_of_zstandard() -> None:
    tensor = np.tile(rng().integers(0, 9, 500).astype(np.uint8), 40)
    data = pack.encode(tensor, "dense+raw+zstd")
    (stream,) = pack.describe(data)["streams"]
    frame = data[stream["offset"] : stream["offset"] + stream["size"]]
    assert zstandard.ZstdDecompressor().decompress(frame) == tensor.tobytes()


@pytest.mark.parametrize("count", [2, 3, 4095, 5000, 40_000, 300_000, 262_144 + 31])
def test_the_rans_streams_decode_by_the_formula(count: int) -> None:
    tensor = np.minimum(rng().geometric(0.3, count), 200).astype(np.uint8)
    tensor[:2] = [0, 200]
    data = pack.encode(tensor, "dense+raw+rans")
    for stream in pack.describe(data)["streams"]:
        if stream["coder"] == "rans":
            coded = data[stream["offset"] : stream["offset"] + stream["size"]]
            assert reference.rans_decode(coded, count) == tensor.tobytes()


def test_the_checksum_is_zlib_s() -> None:
    data = pack.encode(sparse((40, 40)))
    assert struct.unpack("<I", data[-4:])[0] == zlib.crc32(data[:-4])


@pytest.mark.parametrize("encoding", ["auto", "bitmap+zstd", "csr+plain", "2:4", "codebook+rans"])
def test_no_flipped_or_missing_byte_goes_unnoticed(encoding: str) -> None:
    tensor = np.array([[1, 0, 0, 2], [0, 0, 3, 0]] * 40, np.float32)
    data = pack.encode(tensor, encoding)
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        with pytest.raises(moptcore.FormatError):
            pack.decode(bytes(broken))
        with pytest.raises(moptcore.FormatError):
            pack.decode(data[:place])


def test_nonsense_with_a_right_checksum_is_refused_or_an_array() -> None:
    """Bytes that somebody forged: every outcome but a crash, a hang or much memory."""
    draw = rng()
    tensor = clustered((40, 30), 9, zeros=0.7)
    refused = 0
    signed = tensor * np.sign(draw.normal(size=tensor.shape).astype(np.float32))
    kinds = ["dense+zstd", "csr", "bitmap", "1:2+codebook", "codebook+rans", "int8", "csr+raw"]
    for encoding in kinds:
        source = on_grid((40, 30), 7, (1, 1200)) if encoding == "int8" else tensor
        if encoding == "csr+raw":
            source = signed
        if encoding.startswith("1:2"):
            source = np.where(np.arange(30) % 2, source, np.float32(0))
        body = pack.encode(source, encoding)[:-4]
        for _ in range(600):
            broken = bytearray(body)
            for _ in range(draw.integers(1, 4)):
                broken[draw.integers(0, min(len(broken), 60))] = draw.integers(0, 256)
            data = bytes(broken) + struct.pack("<I", zlib.crc32(bytes(broken)))
            try:
                assert pack.decode(data).nbytes <= 1024 * len(data)
            except moptcore.FormatError:
                refused += 1
    assert refused > 1000


# ---- Files --------------------------------------------------------------------------------------


def network() -> dict[str, np.ndarray]:
    return {
        "fc1.weight": clustered((128, 96), 15, zeros=0.8),
        "fc1.bias": rng().normal(size=128).astype(np.float32),
        "step": np.array(7),
        "mask": rng().random((128, 96)) < 0.2,
        "fc2.weight": sparse((96, 64)).astype(np.float16),
    }


def test_a_file_opens_in_safetensors_and_says_how_it_is_encoded(tmp_path: Path) -> None:
    named = network() | {"fc1.weight": clustered((512, 96), 15, zeros=0.8)}
    path = tmp_path / "model.safetensors"
    kinds = {"fc1.weight": "codebook", "step": "dense+plain"}
    size = pack.save(path, named, kinds, {"format": "pt", "note": 'a "quoted"\nline \u00e9'})
    assert size == path.stat().st_size < reference.safetensors_bytes(named) / 3
    with safetensors.safe_open(path, framework="np") as file:
        facts = file.metadata()
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert facts["format"] == "pt"
    assert facts["note"] == 'a "quoted"\nline \u00e9'
    names = "".join(f"{name}\0" for name in sorted(named)).encode()
    sums = [zlib.crc32(names), zlib.crc32(named["step"].tobytes())]
    assert facts["moptcore.pack"] == " ".join(["1", *(f"{crc:08x}" for crc in sums)])
    assert same(stored["step"], named["step"])
    assert same(pack.decode(stored["fc1.weight::pack"]), named["fc1.weight"])
    assert pack.read_metadata(path) == {"format": "pt", "note": 'a "quoted"\nline \u00e9'}
    contents = pack.inspect(path)
    assert contents.file_bytes == size
    assert [t.name for t in contents.tensors] == sorted(named)
    for row in contents.tensors:
        if row.name in stored or f"{row.name}::pack" in stored:
            alone = stored.get(f"{row.name}::pack", named[row.name])
            assert row.packed_bytes == alone.nbytes
        assert row.entropy_bytes == pytest.approx(reference.entropy_bound(named[row.name]))
        assert row.name in str(contents)


def test_a_file_that_does_not_shrink_is_the_plain_one(tmp_path: Path) -> None:
    noise = {"a": rng().integers(0, 256, 999).astype(np.uint8), "b": np.array(2.5)}
    path = tmp_path / "plain.safetensors"
    assert pack.save(path, noise) == reference.safetensors_bytes(noise)
    assert pack.read_metadata(path) == {}
    assert all(
        same(value, noise[name]) for name, value in safetensors.numpy.load_file(path).items()
    )


def test_files_of_others_load(tmp_path: Path) -> None:
    named = network()
    path = tmp_path / "plain.safetensors"
    safetensors.numpy.save_file(named, path, metadata={"format": "np"})
    loaded = pack.load(path)
    assert all(same(loaded[name], named[name]) for name in named)
    assert {row.encoding for row in pack.inspect(path).tensors} == {"dense"}


def test_an_encoding_for_each_tensor(tmp_path: Path) -> None:
    named = network()
    path = tmp_path / "model.safetensors"
    pack.save(path, named, {"fc1.weight": "bitmap+codebook", "mask": "dense+plain"})
    kinds = {row.name: row.encoding for row in pack.inspect(path).tensors}
    assert kinds["fc1.weight"].startswith("bitmap+codebook4")
    assert kinds["mask"] == "dense"
    with pytest.raises(moptcore.Error, match=r"every name in encoding must be one of arrays, got"):
        pack.save(path, named, {"fc9.weight": "bitmap"})
    with pytest.raises(moptcore.Error, match=r"\(tensor 'fc1.weight'\)"):
        pack.save(path, named, "int4")
    assert pack.inspect(path)  # what failed left the old file alone
    assert list(tmp_path.iterdir()) == [path]


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(moptcore.Error, match="must not end in ::pack"):
        pack.save(path, {"a::pack": np.ones(3)})
    with pytest.raises(moptcore.Error, match=r"every name in arrays must be str of whole char"):
        pack.save(path, {"\ud800": np.ones(3)})
    with pytest.raises(
        moptcore.DTypeError, match=r"^\[pack.save\] arrays\['w'\]: an array's dtype"
    ):
        pack.save(path, {"w": np.ones(3, np.complex64)})
    with pytest.raises(moptcore.Error, match="left to moptcore"):
        pack.save(path, {}, metadata={"moptcore.pack": "1"})
    with pytest.raises(moptcore.DTypeError, match=r"arrays\['a'\] must be an array"):
        pack.save(path, {"a": "text"})
    w = np.ones(3, np.float32)
    for arguments, text in (
        (([w],), "arrays must map names to arrays, got list"),
        (({1: w},), "every name in arrays must be str, got int"),
        (({"a": w}, 7), "encoding must be a name or a dict of them, got int"),
        (({"a": w}, {"a": 7}), "every encoding must be str, got int"),
        (({"a": w}, {"b": "csr"}), "every name in encoding must be one of arrays, got 'b'"),
        (({}, "auto", {"step": 3}), "every value of metadata must be str, got int"),
        (({}, "auto", {3: "step"}), "every key of metadata must be str, got int"),
    ):
        with pytest.raises(moptcore.Error) as caught:
            pack.save(path, *arguments)
        assert str(caught.value) == f"[pack.save] {text}"
    for size in (200, 8):
        path.write_bytes(bytes([0xFF if size == 200 else 9, *bytes(6), 0]) + bytes([7]) * size)
        (tmp_path / "junk").write_bytes(b"PK\3\4" + bytes([200]) * size)
        for each in (path, tmp_path / "junk"):
            with pytest.raises(moptcore.FormatError, match="a safetensors file must begin with"):
                pack.load(each)
    with pytest.raises(moptcore.Error, match="framework must be numpy or torch"):
        pack.load(path, framework="jax")
    with pytest.raises(FileNotFoundError, match="absent"):
        pack.load(tmp_path / "absent")
    with pytest.raises(OSError, match="nowhere"):
        pack.save(tmp_path / "nowhere" / "x", {})
    with pytest.raises(moptcore.FormatError, match="regular file"):
        pack.load(tmp_path)
    with pytest.raises(moptcore.DTypeError, match="out must have dtype"):
        pack.decode(pack.encode(np.ones(9)), out=np.zeros(9, np.float32))


def test_strides_and_out() -> None:
    tensor = sparse((40, 60))
    for view in [tensor.T, tensor[::-2, 3::5], np.broadcast_to(tensor[0], (7, 60))]:
        assert same(pack.decode(pack.encode(view)), np.ascontiguousarray(view))
    out = np.empty((60, 40), np.float32).T
    assert pack.decode(pack.encode(tensor), out=out) is out
    np.testing.assert_array_equal(out, tensor)


def line(first: int, last: int, dtype: str = "U8", shape: Any = None) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [last - first] if shape is None else shape,
        "data_offsets": [first, last],
    }


def packed_file(ours: str, lines: Any = None, data: bytes = b"") -> bytes:
    header = {"__metadata__": {"moptcore.pack": ours}, **(lines or {})}
    return reference.safetensors_file(header, data)


def bundle_file(names: bytes, tensors: bytes) -> bytes:
    data = names + tensors + struct.pack("<I", zlib.crc32(names + tensors))
    return packed_file("1 00000000", {"::pack::pack": line(0, len(data))}, data)


ONE = pack.encode(np.ones(1))

BAD_FILES = {
    "empty": (b"", "at least 8 bytes"),
    "short": (b"\x02\0\0", "at least 8 bytes"),
    "long header": (reference.safetensors_file({}, b"", 2**63), "at most 100000000"),
    "header beyond the file": (reference.safetensors_file({}, b"", 99), "ends before the file"),
    "no brace": (reference.safetensors_file(b" {}", b""), "must begin with '{'"),
    "no object": (reference.safetensors_file(b"[]", b""), "must begin with '{'"),
    "cut": (reference.safetensors_file(b'{"a":', b""), "must be a '{'"),
    "open string": (reference.safetensors_file(b'{"a', b""), "a string must end"),
    "more": (reference.safetensors_file(b"{}{}", b""), "nothing may follow"),
    "control": (reference.safetensors_file(b'{"\x01":1}', b""), "control characters"),
    "not UTF-8": (reference.safetensors_file(b'{"\xff":1}', b""), "must be UTF-8"),
    "overlong UTF-8": (reference.safetensors_file(b'{"\xc0\x80":1}', b""), "must be UTF-8"),
    "half a pair": (reference.safetensors_file(b'{"\\ud800":1}', b""), "come in pairs"),
    "escape": (reference.safetensors_file(b'{"\\x":1}', b""), "escapes of JSON"),
    "twice": (
        reference.safetensors_file(
            b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
            b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
            b"",
        ),
        "twice",
    ),
    "deep": (reference.safetensors_file(b'{"a":' + b"[" * 10**6, b""), "must be a '{'"),
    "no shape": (
        reference.safetensors_file({"a": {"dtype": "U8", "data_offsets": [0, 1]}}, b"1"),
        "must have dtype, shape and data_offsets",
    ),
    "unknown key": (reference.safetensors_file({"a": {"x": 1}}, b""), "but 'a' has 'x'"),
    "unknown dtype": (reference.safetensors_file({"a": line(0, 1, "Q8")}, b"1"), "must be known"),
    "negative": (reference.safetensors_file({"a": line(0, 1, shape=[-1])}, b"1"), "without sign"),
    "fraction": (reference.safetensors_file({"a": line(0, 1, shape=[1.5])}, b"1"), "must be a ']'"),
    "huge": (reference.safetensors_file({"a": line(0, 1, shape=[2**64])}, b"1"), "below 2\\^63"),
    "overflow": (
        reference.safetensors_file({"a": line(0, 8, "F64", [2**62, 4, 1])}, b"8" * 8),
        "as many as",
    ),
    "wrong length": (
        reference.safetensors_file({"a": line(0, 4, "F32", [2])}, b"4" * 4),
        "as many",
    ),
    "backwards": (reference.safetensors_file({"a": line(4, 0, shape=[4])}, b"4" * 4), "as many as"),
    "rank": (reference.safetensors_file({"a": line(0, 1, shape=[1] * 17)}, b"1"), "16 dimensions"),
    "overlap": (
        reference.safetensors_file({"a": line(0, 3), "b": line(2, 4)}, b"4" * 4),
        "must begin where",
    ),
    "gap": (reference.safetensors_file({"a": line(1, 4)}, b"4" * 4), "must begin where"),
    "rest": (reference.safetensors_file({"a": line(0, 3)}, b"4" * 4), "must fill the file"),
    "missing data": (reference.safetensors_file({"a": line(0, 5)}, b"4" * 4), "must fill the file"),
    "metadata": (reference.safetensors_file({"__metadata__": {"a": 1}}, b""), "must be a '\"'"),
    "other version": (packed_file("2 00000000"), "the version of"),
    "no version": (packed_file("x"), "the version of"),
    "no sums": (packed_file("1 "), "8 hexadecimal digits"),
    "short sum": (packed_file("1 0123456"), "8 hexadecimal digits"),
    "no sum of names": (packed_file("1 0123456G"), "8 hexadecimal digits"),
    "sums too many": (packed_file("1 00000000 00000000"), "must have its tensor"),
    "sums too few": (packed_file("1 00000000", {"a": line(0, 1)}, b"1"), "must have a checksum"),
    "another name": (
        packed_file("1 00000000 00000000", {"a": line(0, 1)}, b"1"),
        "the names must have their checksum",
    ),
    "no bundle": (packed_file("1 00000000", {"::pack::pack": line(0, 4)}, b"1234"), "a bundle"),
    "bundle of floats": (
        packed_file("1 00000000", {"::pack::pack": line(0, 4, "F32", [1])}, b"1234"),
        "a bundle must be U8",
    ),
    "bundle without names": (bundle_file(b"\x03\3\2aa", b""), "bytes of a tensor must be at"),
    "bundle of a name without a tensor": (bundle_file(b"\x02\0\2\1a", b""), "missing"),
    "bundle of a tensor without a name": (bundle_file(b"\0", b"\0"), "must have a name"),
    "bundle of no UTF-8": (bundle_file(b"\x02\0\2\1\xff", b"\0"), "must be UTF-8"),
    "bundle of many names": (bundle_file(b"\xff\xff\xff\x7f\3a", b""), "must be at most"),
    "bundle of no tensor": (bundle_file(b"\x02\0\2\1a", b"\0"), "at least 8 bytes"),
    "bundle with a name twice": (
        bundle_file(b"\x04\0\4\1a\1a", 2 * (bytes([len(ONE)]) + ONE)),
        "must be there once",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_by_name(case: str, tmp_path: Path) -> None:
    content, text = BAD_FILES[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(moptcore.FormatError, match=text):
        pack.load(path)


def test_small_tensors_share_a_line_of_the_header(tmp_path: Path) -> None:
    """120 lines of about 70 bytes beside 120 times 10 elements that a bundle holds in 18 bytes."""
    named = {f"layer{i}.bias": np.full(10, i, np.float32) for i in range(120)}
    named["large"] = sparse((200, 100))
    named["empty"] = np.zeros((3, 0), np.int8)
    path = tmp_path / "bundle.safetensors"
    size = pack.save(path, named)
    assert size < len(pack.encode(named["large"])) + 120 * 30 + 400
    assert set(safetensors.numpy.load_file(path)) == {"large::pack", "::pack::pack"}
    loaded = pack.load(path)
    assert loaded.keys() == named.keys()
    assert all(same(loaded[name], value) for name, value in named.items())
    assert [row.name for row in pack.inspect(path).tensors] == sorted(named)
    content = path.read_bytes()
    begin = 8 + struct.unpack("<Q", content[:8])[0]
    for place in range(begin, size, 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(moptcore.FormatError):
            pack.load(path)


def test_a_file_that_lost_its_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    pack.save(path, {"a": np.zeros((64, 48), np.float32)})
    assert b"moptcore.pack" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"moptcore.pack", b"moptcore.pacI"))
    with pytest.raises(moptcore.FormatError, match=r"must have the metadata key .*moptcore\.pack"):
        pack.load(path)


def test_a_damaged_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    named = {"bias": np.arange(3.0), "weight": sparse((64, 64))}
    pack.save(path, named, {"bias": "dense+plain"})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(moptcore.FormatError, match="checksum"):
        pack.load(path)
    content[-1] ^= 1
    begin = 8 + struct.unpack("<Q", content[:8])[0]
    content[begin] ^= 1  # the bias comes first: it is wider
    path.write_bytes(content)
    with pytest.raises(moptcore.FormatError, match="'bias'"):
        pack.load(path)


def test_a_dtype_that_moptcore_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f8.safetensors"
    path.write_bytes(reference.safetensors_file({"scale": line(0, 2, "F8_E4M3", [2])}, b"12"))
    with pytest.raises(moptcore.UnsupportedError, match=r"'scale'.*F8_E4M3"):
        pack.load(path)


def test_saving_again_replaces_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    pack.save(path, {"a": np.zeros(1000)})
    with io.FileIO(path) as old:
        pack.save(path, {"a": np.ones(1000)})
        assert len(old.readall()) > 0  # a reader of the old file still has all of it
    assert pack.load(path)["a"].all()
    assert list(tmp_path.iterdir()) == [path]


def test_results_do_not_depend_on_threads() -> None:
    tensor = sparse((1500, 700))
    before = moptcore.get_num_threads()
    made = []
    for threads in [1, 2, 5]:
        moptcore.set_num_threads(threads)
        made.append(pack.encode(tensor))
        assert same(pack.decode(made[-1]), tensor)
    moptcore.set_num_threads(before)
    assert made[0] == made[1] == made[2]
