# SPDX-License-Identifier: Apache-2.0
"""ONNX in and out: what is read and written again is the same model."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moptcore import Error, FormatError, UnsupportedError, graph

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from reference.onnx_cases import DISK_KINDS, LIGHT, Case, cases  # noqa: E402


def canonical_tensor(tensor: Any) -> Any:
    """The same tensor with its elements in raw_data (strings stay)."""
    out = TensorProto()
    out.CopyFrom(tensor)
    if tensor.data_type != TensorProto.STRING:
        array = numpy_helper.to_array(tensor)
        raw = numpy_helper.from_array(array)
        assert raw.data_type == tensor.data_type
        for field in ["float_data", "int32_data", "int64_data", "double_data", "uint64_data"]:
            out.ClearField(field)
        out.raw_data = raw.raw_data
    return out


def canonical(message: Any) -> Any:
    """A copy in the one form that equal models share: what is absent and what is the default, the
    order of initializers, the names of tensors in attributes, and the way in which elements are
    written mean nothing."""
    if isinstance(message, TensorProto):
        return canonical_tensor(message)
    out = type(message)()
    for field, value in message.ListFields():
        if field.message_type is None:
            if field.is_repeated:
                getattr(out, field.name).extend(value)
            elif not field.has_default_value or value != field.default_value:
                if field.name == "domain" and value == "ai.onnx":
                    continue
                if value in ("", 0) and field.name not in ("i", "f", "s", "dim_value", "name"):
                    continue
                setattr(out, field.name, value)
        elif field.is_repeated:
            items = [canonical(item) for item in value]
            if field.name in ("initializer", "opset_import"):
                items.sort(
                    key=lambda item: item.name if field.name == "initializer" else item.domain
                )
            getattr(out, field.name).extend(items)
        else:
            getattr(out, field.name).CopyFrom(canonical(value))
            getattr(out, field.name).SetInParent()
    is_dimension = isinstance(out, onnx.TensorShapeProto.Dimension)
    if is_dimension and (out.dim_param == "?" or out.dim_value < 0):
        out.Clear()  # how some exporters write that they do not know
    if isinstance(out, onnx.AttributeProto):
        for tensor in [out.t, *out.tensors] if out.HasField("t") else out.tensors:
            tensor.ClearField("name")
    return out


def all_models() -> list[tuple[str, Any]]:
    found: list[Case] = list(cases("node", *DISK_KINDS))
    models = [(case.name, case.load()[0]) for case in found]
    models += [(path.stem, onnx.load(path)) for path in sorted(LIGHT.glob("*.onnx"))]
    # Opsets below 7 are refused, which is tested elsewhere.
    return [
        (name, model)
        for name, model in models
        if all(o.version >= 7 for o in model.opset_import if o.domain in ("", "ai.onnx"))
    ]


def without_listed_initializers(model: Any) -> Any:
    """As IR version 4 would have it: version 3 lists initializers as inputs as well."""
    if model.ir_version >= 4 or not model.graph.initializer:
        return model
    out = type(model)()
    out.CopyFrom(model)
    out.ir_version = 4
    names = {tensor.name for tensor in model.graph.initializer}
    del out.graph.input[:]
    out.graph.input.extend(value for value in model.graph.input if value.name not in names)
    return out


def test_every_model_of_the_onnx_package_comes_back_as_it_was() -> None:
    models = all_models()
    assert len(models) > 1900
    for name, model in models:
        read = graph.load(model.SerializeToString())
        own = read.opsets.get("")
        written = read.to_bytes(opset=own)
        back = onnx.ModelProto.FromString(written)
        assert canonical(back) == canonical(without_listed_initializers(model)), name
        again = graph.load(written).to_bytes(opset=own)
        assert again == written, name


def test_written_models_pass_the_checker_and_run_in_onnx_runtime(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    count = 0
    for path in sorted(LIGHT.glob("*.onnx")):
        out = tmp_path / path.name
        graph.load(path).save(out)
        onnx.checker.check_model(out)
        onnxruntime.InferenceSession(out, options, providers=["CPUExecutionProvider"])
        count += 1
    assert count == 9


def weights_model(**tensor_fields: Any) -> Any:
    """y = x + w, where w is given by the fields of its TensorProto."""
    w = TensorProto(name="w", **tensor_fields)
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["w"], ["y"])],
            "weights",
            [],
            [helper.make_tensor_value_info("y", w.data_type, list(w.dims))],
            [w],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )


def value_of(model: Any, **options: Any) -> Any:
    return graph.load(model.SerializeToString(), **options).evaluate({})["y"]


NUMBERS = [t for t in TensorProto.DataType.values() if 0 < t <= 26 and t != TensorProto.STRING]


@pytest.mark.parametrize("data_type", NUMBERS, ids=TensorProto.DataType.Name)
def test_elements_of_every_type_are_read_from_raw_and_typed_fields(data_type: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    values = np.array([0, 1, 2, 3, 1], np.float32).astype(dtype)
    if data_type in (TensorProto.INT2, TensorProto.INT4):
        values = np.array([0, 1, -2, -1, 1], np.float32).astype(dtype)
    raw = numpy_helper.from_array(values)
    typed = helper.make_tensor("w", data_type, [5], values)
    assert raw.HasField("raw_data")
    assert not typed.HasField("raw_data")
    for tensor in (raw, typed):
        fields = {field.name: value for field, value in tensor.ListFields() if field.name != "name"}
        found = value_of(weights_model(**fields))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.view(np.uint8), values.view(np.uint8))


def test_strings_are_read_as_objects() -> None:
    found = value_of(
        weights_model(data_type=TensorProto.STRING, dims=[2], string_data=["\u00e4".encode(), b""])
    )
    assert found.dtype == object
    assert found.tolist() == ["\u00e4", ""]


def test_sparse_initializers_are_written_out() -> None:
    dense = np.zeros((3, 4), np.float32)
    dense[0, 1], dense[2, 3] = 5, -1
    values = numpy_helper.from_array(np.array([5, -1], np.float32), "w")
    for indices in ([1, 11], [[0, 1], [2, 3]]):
        model = weights_model(data_type=1, dims=[3, 4], float_data=[0] * 12)
        del model.graph.initializer[:]
        model.graph.sparse_initializer.append(
            helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices)), [3, 4])
        )
        np.testing.assert_array_equal(value_of(model), dense)


@pytest.mark.parametrize(
    ("indices", "rule"),
    [
        ([1, 12], r"indices\[1\] must be in \[0, 12\), got 12"),
        ([-1, 2], r"indices\[0\] must be in \[0, 12\), got -1"),
        ([[0, 1], [2, 4]], r"indices\[1\] must lie in the shape, in \[0, 4\), got 4"),
        ([5, 5], r"indices\[1\] must come behind the one before, got 5"),
        ([3, 1], r"indices\[1\] must come behind the one before, got 1"),
        ([1], r"indices must have the shape \(values,\) or \(values, rank\), got \(1,\)"),
    ],
)
def test_indices_of_a_sparse_tensor_that_lie_outside_are_refused(indices: Any, rule: str) -> None:
    values = numpy_helper.from_array(np.array([5, -1], np.float32), "w")
    model = weights_model(data_type=1, dims=[0])
    del model.graph.initializer[:]
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices)), [3, 4])
    )
    with pytest.raises(FormatError, match=r"graph\.sparse_initializer\[0\]\." + rule):
        graph.load(model.SerializeToString())


# ---- external data ------------------------------------------------------------------------------

WEIGHTS = np.arange(6, dtype=np.float32)


def external(location: str, **entries: str) -> dict[str, Any]:
    """The fields of six floats in a file."""
    pairs = {"location": location} | entries
    return {
        "data_type": 1,
        "dims": [6],
        "data_location": TensorProto.EXTERNAL,
        "external_data": [onnx.StringStringEntryProto(key=k, value=v) for k, v in pairs.items()],
    }


def in_every_place(fields: dict[str, Any]) -> dict[str, Any]:
    """A model for each place where a tensor can be."""
    tensor = TensorProto(name="w", **fields)
    output = helper.make_tensor_value_info("y", 1, [6])

    def model(nodes: list[Any], functions: Any = (), **graph_fields: Any) -> Any:
        return helper.make_model(
            helper.make_graph(nodes, "g", [], [output], **graph_fields),
            functions=functions,
            opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("own", 1)],
            ir_version=10,
        )

    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    identity = helper.make_node("Identity", ["w"], ["y"])
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    body = helper.make_graph([constant], "body", [], [output])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    inner = helper.make_function(
        "own", "Weights", [], ["y"], [constant], [helper.make_opsetid("", 21)]
    )
    sparse = onnx.SparseTensorProto(dims=[6])
    sparse.values.CopyFrom(tensor)
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(6)))
    return {
        "initializer": model([identity], initializer=[tensor]),
        "Constant": model([constant]),
        "subgraph": model([branch], initializer=[condition]),
        "function": model([helper.make_node("Weights", [], ["y"], domain="own")], [inner]),
        "sparse": model([identity], sparse_initializer=[sparse]),
        "sparse Constant": model([helper.make_node("Constant", [], ["y"], sparse_value=sparse)]),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights, whatever a model may misuse, and a secret beside it."""
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "weights.bin").write_bytes(b"1234" + WEIGHTS.tobytes() + b"tail")
    (inside / "below").mkdir()
    (inside / "below" / "weights.bin").write_bytes(WEIGHTS.tobytes())
    (inside / "link.bin").symlink_to(inside / "weights.bin")
    (inside / "out.bin").symlink_to(tmp_path / "secret.bin")
    (inside / "parent").symlink_to(tmp_path)
    (inside / "same").symlink_to(inside / "below")
    os.link(tmp_path / "secret.bin", inside / "hard.bin")
    os.mkfifo(inside / "pipe")
    (inside / "empty.bin").write_bytes(b"")
    return inside


@pytest.mark.parametrize("place", list(in_every_place(external("weights.bin", offset="4"))))
def test_external_data_is_read_in_every_place(folder: Path, place: str) -> None:
    model = in_every_place(external("weights.bin", offset="4", length="24"))[place]
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    loaded = graph.load(folder / "model.onnx")
    assert loaded.to_bytes().count(WEIGHTS.tobytes()) == (2 if place == "subgraph" else 1)
    with pytest.raises(UnsupportedError, match="folder of external data"):
        graph.load(model.SerializeToString())
    graph.load(model.SerializeToString(), external_directory=folder)


HOSTILE = [
    ("../secret.bin", {}, "must stay below the model's folder"),
    ("below/../../secret.bin", {}, "must stay below the model's folder"),
    ("./weights.bin", {}, "must stay below the model's folder"),
    ("below//weights.bin", {}, "must stay below the model's folder"),
    ("below/", {}, "must stay below the model's folder"),
    ("..", {}, "must stay below the model's folder"),
    ("/etc/passwd", {}, "must be relative"),
    ("/dev/zero", {}, "must be relative"),
    ("", {}, "must name a file"),
    ("weights.bin\0.txt", {}, "must have no NUL"),
    ("x" * 300, {}, "must have names of at most 255"),
    ("x/" * 3000 + "y", {}, "must name a file in 1 to 4096"),
    ("link.bin", {}, "symbolic link"),
    ("out.bin", {}, "symbolic link"),
    ("parent/secret.bin", {}, "symbolic link"),
    ("same/weights.bin", {}, "symbolic link"),
    ("hard.bin", {}, "one name"),
    ("pipe", {}, "regular file"),
    ("below", {}, "regular file"),
    ("empty.bin", {}, "must lie in its file of 0 bytes"),
    ("weights.bin", {"offset": "9"}, "must lie in its file of 32 bytes"),
    ("weights.bin", {"offset": str(2**63 - 1)}, "must lie in its file"),
    ("weights.bin", {"offset": str(2**63)}, "must be a number"),
    ("weights.bin", {"offset": "-4"}, "must be a number"),
    ("weights.bin", {"offset": "4x"}, "must be a number"),
    ("weights.bin", {"offset": ""}, "must be a number"),
    ("weights.bin", {"length": "23"}, "must have the length"),
    ("weights.bin", {"length": str(2**63 - 1)}, "must have the length"),
    ("weights.bin", {"basepath": "/etc"}, "must have the key"),
]


@pytest.mark.parametrize(("location", "entries", "rule"), HOSTILE)
def test_no_path_leads_out_of_the_model_s_folder(
    folder: Path, location: str, entries: dict[str, str], rule: str
) -> None:
    for place, model in in_every_place(external(location, **entries)).items():
        path = folder / f"{place}.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(FormatError, match=re.escape(rule)) as caught:
            graph.load(path)
        assert "external_data" in str(caught.value)


def test_a_file_of_weights_that_is_missing_is_an_os_error(folder: Path) -> None:
    model = in_every_place(external("nothing.bin"))["initializer"]
    with pytest.raises(FileNotFoundError, match=r"nothing\.bin"):
        graph.load(model.SerializeToString(), external_directory=folder)


def test_a_path_that_changes_to_a_link_never_leads_out(folder: Path) -> None:
    """Another process swaps the file for a link to a secret while models are read."""
    (folder / "race.bin").write_bytes(WEIGHTS.tobytes())
    (folder.parent / "secret.bin").write_bytes((WEIGHTS + 100).tobytes())
    model = in_every_place(external("race.bin"))["initializer"].SerializeToString()
    swapper = (
        "import os, sys\n"
        "os.chdir(sys.argv[1])\n"
        "for i in range(20000):\n"
        "    os.symlink('../secret.bin', 'new'); os.replace('new', 'race.bin')\n"
        "    open('new', 'wb').write(bytes.fromhex(sys.argv[2])); os.replace('new', 'race.bin')\n"
    )
    command = [sys.executable, "-c", swapper, str(folder), WEIGHTS.tobytes().hex()]
    read = 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            try:
                found = graph.load(model, external_directory=folder).evaluate({})["y"]
            except (FormatError, FileNotFoundError):
                continue
            np.testing.assert_array_equal(found, WEIGHTS)
            read += 1
    assert process.returncode == 0
    assert read > 0


def test_external_data_is_written_and_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weights = {f"w{i}": rng.standard_normal((64, i + 1)).astype(np.float32) for i in range(20)}
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Concat", list(weights), ["y"], axis=1)],
            "g",
            [],
            [helper.make_tensor_value_info("y", 1, [64, 210])],
            [numpy_helper.from_array(w, name) for name, w in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    path = tmp_path / "model.onnx"
    loaded = graph.load(model.SerializeToString())
    loaded.save(path, external_file="weights.bin")
    assert path.stat().st_size < 4000  # of 53760 bytes of weights
    again = graph.load(path)
    assert again.to_bytes() == loaded.to_bytes()
    theirs = onnx.load(path)
    for tensor in theirs.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), weights[tensor.name])
    with pytest.raises(FileExistsError, match=r"weights\.bin"):
        loaded.save(path, external_file="weights.bin")
    for name in ["../weights.bin", "a/b", ".", "..", "a\0b"]:
        with pytest.raises(Error, match="external_file must be the name of a file"):
            loaded.save(path, external_file=name)
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "weights.bin"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    loaded = graph.load(
        weights_model(data_type=1, dims=[1000], float_data=[1.0] * 1000).SerializeToString()
    )
    loaded.save(path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    program = (
        "import resource, signal, sys\n"
        "from moptcore import graph\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "model = graph.load(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    model.save(sys.argv[1])\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "27"  # EFBIG
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == limits


# ---- limits -------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def model_of(graph_body: bytes) -> bytes:
    return b"\x08\x0a" + message(8, b"\x10\x15") + message(7, graph_body)


def test_subgraphs_and_types_nest_64_deep_and_no_deeper() -> None:
    def nested(depth: int) -> bytes:
        body = message(2, b"g")
        for _ in range(depth):
            attribute = message(1, b"then_branch") + b"\xa0\x01\x05" + message(6, body)
            body = message(1, message(4, b"If") + message(5, attribute))
        return model_of(body)

    graph.load(nested(64))
    with pytest.raises(FormatError, match="must be nested at most 64 deep, got 65"):
        graph.load(nested(65))
    with pytest.raises(FormatError, match="nested at most 64 deep"):
        graph.load(nested(20_000))

    def sequence(depth: int) -> bytes:
        kind = message(1, b"\x08\x01")
        for _ in range(depth):
            kind = message(4, message(1, kind))
        return model_of(message(11, message(1, b"x") + message(2, kind)))

    assert graph.load(sequence(64)).inputs[0].dtype.count("sequence") == 64
    with pytest.raises(FormatError, match="nested at most 64 deep"):
        graph.load(sequence(65))


def test_every_cut_of_a_model_is_refused_or_read() -> None:
    whole = in_every_place({"data_type": 1, "dims": [6], "raw_data": WEIGHTS.tobytes()})
    for model in whole.values():
        data = model.SerializeToString()
        refused = 0
        for end in range(len(data)):
            try:
                graph.load(data[:end])
            except Error:
                refused += 1
        assert refused > 0.9 * len(data)


BOMBS = {
    # What a byte of the file could become many bytes of memory by.
    "nodes": model_of(message(1, message(4, b"a")) * 400_000),
    "inputs of a node": model_of(message(1, message(4, b"Sum") + message(1, b"") * 1_000_000)),
    "attributes": model_of(
        message(1, message(4, b"a") + message(5, message(1, b"b") + b"\xa0\x01\x02") * 300_000)
    ),
    "initializers": model_of(
        b"".join(message(5, b"\x08\x00\x10\x01" + message(8, b"%x" % i)) for i in range(300_000))
    ),
    "values": model_of(message(13, message(1, b"a")) * 400_000),
    "dimensions": model_of(
        message(13, message(1, b"a") + message(2, message(1, message(2, message(1, b"") * 10**6))))
    ),
    "integers": model_of(
        message(
            1,
            message(4, b"a")
            + message(5, message(1, b"b") + b"\xa0\x01\x07" + message(8, b"\x01" * 10**7)),
        )
    ),
    "int64_data": model_of(
        message(5, b"\x08\x80\xad\xe2\x04\x10\x07" + message(8, b"w") + message(7, b"\x01" * 10**7))
    ),
    "metadata": b"\x08\x0a" + message(8, b"\x10\x15") + message(7, b"") + message(14, b"") * 10**6,
    "sparse": model_of(
        message(
            15,
            message(1, b"\x08\x00\x10\x01" + message(8, b"w"))
            + message(2, b"\x08\x00\x10\x07")
            + b"\x18\x80\x80\x80\x80\x04",
        )
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_model_takes_at_most_four_times_its_file_and_32_mib(name: str) -> None:
    """The peak of resident memory while it is loaded, above what was resident before."""
    program = (
        "import resource, sys, time\n"
        "from moptcore import Error, graph\n"
        "data = sys.stdin.buffer.read()\n"
        "with open('/proc/self/status') as f: text = f.read()\n"
        "before = int(text.split('VmRSS:')[1].split()[0])\n"
        "with open('/proc/self/clear_refs', 'w') as f: f.write('5')\n"
        "start = time.perf_counter()\n"
        "try:\n"
        "    graph.load(data)\n"
        "except Error as error:\n"
        "    print(str(error)[:300], file=sys.stderr)\n"
        "seconds = time.perf_counter() - start\n"
        "with open('/proc/self/status') as f: text = f.read()\n"
        "peak = int(text.split('VmHWM:')[1].split()[0])\n"
        "print((peak - before) * 1024, seconds)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=BOMBS[name], capture_output=True, check=True
    )
    taken, seconds = (float(x) for x in done.stdout.split())
    assert taken <= 4 * len(BOMBS[name]) + 2**25, done.stderr
    # Linear: the slowest takes well under a microsecond a byte on an idle machine.
    assert seconds <= 1 + 5e-6 * len(BOMBS[name]), done.stderr
