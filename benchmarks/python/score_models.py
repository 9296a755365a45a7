# SPDX-License-Identifier: Apache-2.0
"""Scores of real models through moptcore and through ONNX Runtime, on data made here.

usage: PYTHONPATH=python python benchmarks/python/score_models.py FOLDER [--only NAME...]
       [--threads 2] [--exact N]

FOLDER holds what `pip install --no-deps --target FOLDER rapidocr-onnxruntime==1.4.4 magika==1.0.3
basic-pitch==0.4.0` puts there; the nets called light are the onnx package's. Nothing is downloaded:
lines and pages of text, files and music are made or found on this machine, so that scores compare
within one run only, except where the data is rendered.

Every model runs in ONNX Runtime, in a Session, in a Session of the model that was optimized, saved
and loaded again, and by Model.evaluate. The command fails where an answer, such as a line of text,
is not ONNX Runtime's. All runs in float64 as well, by Model.evaluate on the same weights: the last
column says how far the engines are from that. Differences are in parts of the largest output.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import difflib
import gc
import gzip
import io
import json
import lzma
import math
import os
import pickle
import re
import sqlite3
import sys
import sysconfig
import tarfile
import tempfile
import wave
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moptcore
import numpy as np
import onnx
import onnxruntime
from moptcore import graph
from onnx import numpy_helper

try:
    from PIL import Image, ImageDraw, ImageFont
    from scipy import ndimage
except ImportError as error:
    raise SystemExit(f"score_models needs pip install pillow scipy: {error}") from error

INSTALL = (
    "pip install --no-deps --target {folder} rapidocr-onnxruntime==1.4.4 magika==1.0.3 "
    "basic-pitch==0.4.0"
)
# Sums of some thousand products in any order, in parts of the largest output.
TOLERANCE = 1e-3
ROOT = Path(__file__).resolve().parents[2]
# Some hundred words of English.
WORDS = sorted(set(re.findall(r"\b[a-z]{4,9}\b", (ROOT / "LICENSE").read_text())))

Array = np.ndarray
Values = dict[str, Array]
Run = Callable[[Values], Values]


@dataclass
class Case:
    """A model and its data; `decide` makes answers of all outputs, `mark` a score of answers."""

    name: str
    data: str
    model: bytes
    batches: list[Values]
    decide: Callable[[list[Values]], list[Any]]
    mark: Callable[[list[Any]], str]


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f} %"


def sentence(random: np.random.Generator, least: int, most: int) -> str:
    count = int(random.integers(least, most + 1))
    words = [str(word) for word in random.choice(WORDS, count)]
    if random.random() < 0.4:
        words.append(str(random.integers(10, 100000)))
    return " ".join(word.capitalize() if random.random() < 0.3 else word for word in words)


def spoiled(picture: Image.Image, deviation: float, random: np.random.Generator) -> Image.Image:
    noise = random.normal(0, deviation, (picture.height, picture.width, 3))
    pixels = np.asarray(picture, np.float64) + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def colours(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ink and paper, dark on light or the other way round."""
    dark = tuple(int(each) for each in random.integers(0, 90, 3))
    light = tuple(int(each) for each in random.integers(165, 256, 3))
    return (light, dark) if random.random() < 0.25 else (dark, light)


def line_picture(text: str, random: np.random.Generator, deviation: float) -> Image.Image:
    font = ImageFont.load_default(int(random.integers(20, 44)))
    left, top, right, bottom = font.getbbox(text)
    border = int(random.integers(3, 9))
    ink, paper = colours(random)
    size = (math.ceil(right - left) + 2 * border, math.ceil(bottom - top) + 2 * border)
    picture = Image.new("RGB", size, paper)
    ImageDraw.Draw(picture).text((border - left, border - top), text, font=font, fill=ink)
    return spoiled(picture, deviation, random)


def network_input(picture: Image.Image) -> Array:
    """Channels blue, green, red in [-1, 1], which all three nets for text are given."""
    pixels = np.asarray(picture, np.float32)[:, :, ::-1] / 127.5 - 1
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def strip(picture: Image.Image, width: int) -> Array:
    """48 pixels high, filled up with zeros to `width`, squeezed where it is wider."""
    scaled = min(width, math.ceil(48 * picture.width / picture.height))
    row = np.zeros((3, 48, width), np.float32)
    row[:, :, :scaled] = network_input(picture.resize((scaled, 48), Image.Resampling.BILINEAR))
    return row


def edits(first: str, second: str) -> int:
    """Insertions, deletions and replacements that make one string of the other."""
    before = list(range(len(second) + 1))
    for i, letter in enumerate(first, 1):
        row = [i]
        for j, other in enumerate(second, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != other)))
        before = row
    return before[-1]


def recognition(folder: Path, count: int = 200) -> Case:
    path = folder / "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
    properties = {each.key: each.value for each in onnx.load(path).metadata_props}
    letters = ["", *properties["character"].splitlines(), " "]
    random = np.random.default_rng(1)
    lines: dict[int, list[tuple[str, Array]]] = {}
    for number in range(count):
        text = sentence(random, 1, 3)
        picture = line_picture(text, random, (0, 20, 40)[number % 3])
        width = max(320, 64 * math.ceil(48 * picture.width / picture.height / 64))
        lines.setdefault(width, []).append((text.replace(" ", ""), strip(picture, width)))
    texts, batches = [], []
    for _, group in sorted(lines.items()):
        for start in range(0, len(group), 8):
            part = group[start : start + 8]
            texts += [text for text, _ in part]
            batches.append({"x": np.stack([row for _, row in part])})

    def decide(outputs: list[Values]) -> list[str]:
        found = []
        for values in outputs:
            (scores,) = values.values()
            assert scores.shape[2] == len(letters)
            for best in scores.argmax(2):
                kept = [c for i, c in enumerate(best) if c and (i == 0 or c != best[i - 1])]
                found.append("".join(letters[c] for c in kept).replace(" ", ""))
        return found

    def mark(found: list[str]) -> str:
        exact = sum(a == b for a, b in zip(found, texts, strict=True))
        wrong = sum(edits(a, b) for a, b in zip(found, texts, strict=True))
        total = sum(map(len, texts))
        right = percent(total - wrong, total)
        return f"{percent(exact, len(texts))} of lines, {right} of characters"

    return Case("PP-OCRv4 rec", f"{count} rendered lines", path.read_bytes(), batches, decide, mark)


def direction(folder: Path, count: int = 200) -> Case:
    path = folder / "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    random = np.random.default_rng(2)
    rows, truth = [], []
    for number in range(count):
        picture = line_picture(sentence(random, 1, 2), random, (0, 40, 80)[number % 3])
        for turned in (0, 1):
            rows.append(strip(picture.rotate(180) if turned else picture, 192))
            truth.append(turned)
    batches = [{"x": np.stack(rows[at : at + 32])} for at in range(0, len(rows), 32)]

    def decide(outputs: list[Values]) -> list[int]:
        return [int(best) for values in outputs for best in next(iter(values.values())).argmax(1)]

    def mark(found: list[int]) -> str:
        right = sum(a == b for a, b in zip(found, truth, strict=True))
        return f"{percent(right, len(truth))} of directions"

    return Case(
        "PP-OCR cls", f"{2 * count} rendered crops", path.read_bytes(), batches, decide, mark
    )


Box = tuple[float, float, float, float]


def page(height: int, width: int, random: np.random.Generator) -> tuple[Array, list[Box]]:
    """A page of lines, none over another, with the box of each."""
    ink, paper = colours(random)
    picture = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(picture)
    boxes: list[Box] = []
    top = 20.0
    while True:
        font = ImageFont.load_default(int(random.integers(14, 40)))
        text = sentence(random, 1, 4)
        left, above, right, below = font.getbbox(text)
        if top + below - above > height - 20:
            break
        if right - left < width - 40:
            x = 20 + float(random.integers(0, int(width - 39 - (right - left))))
            draw.text((x - left, top - above), text, font=font, fill=ink)
            boxes.append((x, top, x + right - left, top + below - above))
            top += below - above + float(random.integers(14, 50))
    return network_input(spoiled(picture, float(random.integers(0, 30)), random)), boxes


def text_boxes(heat: Array) -> tuple[Box, ...]:
    """Upright boxes of a map of probabilities, widened because the net learned shrunk ones."""
    mask = ndimage.binary_dilation(heat > 0.3, np.ones((2, 2)))
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    found = []
    for rows, columns in ndimage.find_objects(labels):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) < 3 or heat[rows, columns].mean() < 0.5:
            continue
        more = 1.6 * height * width / (2 * (height + width))
        found.append(
            (columns.start - more, rows.start - more, columns.stop + more, rows.stop + more)
        )
    return tuple(found)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def detection(folder: Path, count: int = 18) -> Case:
    path = folder / "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
    random = np.random.default_rng(3)
    batches, truth = [], []
    for number in range(count // 2):
        size = ((640, 640), (736, 960), (512, 800))[number % 3]
        pages = [page(*size, random) for _ in range(2)]
        truth += [boxes for _, boxes in pages]
        batches.append({"x": np.stack([pixels for pixels, _ in pages])})

    def decide(outputs: list[Values]) -> list[tuple[Box, ...]]:
        return [text_boxes(heat[0]) for values in outputs for heat in next(iter(values.values()))]

    def mark(found: list[tuple[Box, ...]]) -> str:
        hits = sum(
            any(overlap(box, other) >= 0.5 for other in boxes)
            for boxes, lines in zip(found, truth, strict=True)
            for box in lines
        )
        good = sum(
            any(overlap(box, line) >= 0.5 for line in lines)
            for boxes, lines in zip(found, truth, strict=True)
            for box in boxes
        )
        recall = percent(hits, sum(map(len, truth)))
        return f"recall {recall}, precision {percent(good, sum(map(len, found)))}"

    lines = sum(map(len, truth))
    data = f"{count} rendered pages, {lines} lines, IoU 0.5"
    return Case("PP-OCRv4 det", data, path.read_bytes(), batches, decide, mark)


# Endings that hold what they say; their files are looked for on this machine.
SUFFIXES = {
    ".py": "python",
    ".pyc": "pythonbytecode",
    ".cpp": "cpp",
    ".hpp": "cpp",
    ".c": "c",
    ".so": "elf",
    ".md": "markdown",
    ".rst": "rst",
    ".json": "json",
    ".html": "html",
    ".css": "css",
    ".js": "javascript",
    ".svg": "svg",
    ".sh": "shell",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".cmake": "cmake",
    ".csv": "csv",
    ".ttf": "ttf",
    ".ipynb": "ipynb",
    ".proto": "proto",
    ".java": "java",
    ".php": "php",
}


def found_files(each: int) -> Iterator[tuple[str, bytes]]:
    """The content type and bytes of at most `each` files of every ending, spread evenly."""
    roots = [ROOT]
    roots += [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    paths: dict[str, set[str]] = {}
    for root in roots:
        for folder, names, files in os.walk(root):
            names[:] = [name for name in names if not name.startswith((".", "build"))]
            for file in files:
                suffix = os.path.splitext(file)[1]
                if suffix in SUFFIXES:
                    paths.setdefault(suffix, set()).add(os.path.join(folder, file))
    for suffix, found in sorted(paths.items()):
        # Shorter ones do not show what they are.
        long = sorted(path for path in found if os.path.getsize(path) >= 400)
        for at in np.linspace(0, len(long) - 1, min(each, len(long))).astype(int):
            yield SUFFIXES[suffix], Path(long[at]).read_bytes()


def picture_files(random: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    waves = np.add.outer(np.arange(96) * random.random(), np.arange(128) * random.random())
    shades = np.stack([np.sin(waves / k) for k in random.uniform(1, 30, 3)], 2)
    picture = Image.fromarray((127.5 * (1 + shades)).astype(np.uint8))
    for kind in ("png", "bmp", "gif", "jpeg", "tiff", "webp", "ico", "pdf", "tga"):
        file = io.BytesIO()
        picture.save(file, kind)
        yield kind, file.getvalue()


def packed_files(random: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    text = "\n".join(sentence(random, 5, 12) for _ in range(60)).encode()
    yield "gzip", gzip.compress(text)
    yield "bzip", bz2.compress(text)
    yield "xz", lzma.compress(text)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in random.choice(WORDS, 3, replace=False):
            archive.writestr(f"{name}.txt", text[: random.integers(100, len(text))])
    yield "zip", file.getvalue()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as bundle:
        info = tarfile.TarInfo(f"{random.choice(WORDS)}.txt")
        info.size = len(text)
        bundle.addfile(info, io.BytesIO(text))
    yield "tar", file.getvalue()


def data_files(random: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    numbers = random.standard_normal((20, 5))
    file = io.BytesIO()
    np.save(file, numbers)
    yield "npy", file.getvalue()
    file = io.BytesIO()
    np.savez(file, x=numbers, y=numbers[0])
    yield "npz", file.getvalue()
    names = [str(word) for word in random.choice(WORDS, 5, replace=False)]
    records = [dict(zip(names, map(float, row.round(3)), strict=True)) for row in numbers]
    yield "pickle", pickle.dumps({"records": records, "names": names})
    yield "json", json.dumps({"records": records, "names": names}, indent=2).encode()
    yield "jsonl", "\n".join(json.dumps(record) for record in records).encode()
    table = io.StringIO()
    writer = csv.DictWriter(table, names)
    writer.writeheader()
    writer.writerows(records)
    yield "csv", table.getvalue().encode()
    columns = ", ".join(f'"{name}"' for name in names)
    with sqlite3.connect(":memory:") as database:
        database.execute(f"create table data ({columns})")
        database.executemany("insert into data values (?, ?, ?, ?, ?)", numbers.tolist())
        database.commit()
        yield "sqlite", database.serialize()
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 22050, 0, "NONE", ""))
        sound.writeframes((3000 * random.standard_normal(4000)).astype(np.int16).tobytes())
    yield "wav", file.getvalue()


def text_files(random: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    lines = [sentence(random, 3, 9) for _ in range(30)]
    paragraphs = "".join(f'  <p class="{line.split()[0]}">{line}</p>\n' for line in lines)
    yield (
        "html",
        f"<!DOCTYPE html>\n<html>\n<head><title>{lines[0]}</title></head>\n<body>\n{paragraphs}"
        "</body>\n</html>\n".encode(),
    )
    items = "".join(
        f'  <item id="{i}"><name>{line}</name></item>\n' for i, line in enumerate(lines)
    )
    yield "xml", f'<?xml version="1.0" encoding="UTF-8"?>\n<list>\n{items}</list>\n'.encode()
    changed = [line for line in lines if random.random() < 0.8]
    names = (f"a/{lines[0].split()[0]}.txt", f"b/{lines[0].split()[0]}.txt")
    patch = difflib.unified_diff(lines, changed, *names, lineterm="")
    yield "diff", ("\n".join(patch) + "\n").encode()
    body = "".join(
        f"static int {word}_{i}(const int *values, int count) {{\n"
        f"    int sum = {i};\n    for (int k = 0; k < count; ++k) sum += values[k];\n"
        f'    printf("%d {line}\\n", sum);\n    return sum;\n}}\n\n'
        for i, line in enumerate(lines)
        for word in [line.split()[0].lower()]
        if word.isalpha()
    )
    head = "#include <stdio.h>\n#include <stdlib.h>\n\n"
    yield "c", f"{head}{body}int main(void) {{\n    return EXIT_SUCCESS;\n}}\n".encode()


def file_types(folder: Path, each: int = 18) -> Case:
    room = folder / "magika/models/standard_v3_3"
    settings = json.loads((room / "config.min.json").read_text())
    random = np.random.default_rng(4)
    files = list(found_files(each))
    for _ in range(each // 3):
        for make in (picture_files, packed_files, data_files, text_files):
            files += make(random)
    truth = [kind for kind, _ in files]
    block, padding = settings["block_size"], settings["padding_token"]
    rows = np.full((len(files), settings["beg_size"] + settings["end_size"]), padding, np.int32)
    for row, (_, content) in zip(rows, files, strict=True):
        small = len(content) <= block
        first, last = content[:block].lstrip(), content[-block:].rstrip()
        if small:
            first, last = first.rstrip(), last.lstrip()
        first, last = first[: settings["beg_size"]], last[-settings["end_size"] :]
        row[: len(first)] = np.frombuffer(first, np.uint8)
        row[len(row) - len(last) :] = np.frombuffer(last, np.uint8)
    batches = [{"bytes": rows[at : at + 32]} for at in range(0, len(rows), 32)]
    labels, least = settings["target_labels_space"], settings["medium_confidence_threshold"]

    def decide(outputs: list[Values]) -> list[str]:
        found = []
        for values in outputs:
            for scores in next(iter(values.values())):
                label = labels[int(scores.argmax())]
                sure = scores.max() >= settings["thresholds"].get(label, least)
                found.append(settings["overwrite_map"].get(label, label) if sure else "unsure")
        return found

    def mark(found: list[str]) -> str:
        right = sum(a == b for a, b in zip(found, truth, strict=True))
        return f"{percent(right, len(truth))} of files"

    data = f"{len(files)} files of {len(set(truth))} types"
    return Case("magika v3_3", data, (room / "model.onnx").read_bytes(), batches, decide, mark)


def chord(pitches: Sequence[int], seconds: float, random: np.random.Generator) -> Array:
    """Decaying tones with overtones, of MIDI pitches."""
    time = np.arange(int(22050 * seconds)) / 22050
    sound = np.zeros_like(time)
    for pitch in pitches:
        base = 440 * 2 ** ((pitch - 69) / 12)
        for overtone in range(1, 7):
            if overtone * base < 10000:
                phase = random.uniform(0, 2 * np.pi)
                sound += np.sin(2 * np.pi * overtone * base * time + phase) / overtone**1.5
    envelope = np.exp(-2 * time) * np.minimum(1, np.minimum(time, time[-1] - time) / 0.01)
    return sound * envelope * random.uniform(0.1, 0.3)


def music(folder: Path, count: int = 32) -> Case:
    path = folder / "basic_pitch/saved_models/icassp_2022/nmp.onnx"
    (given,) = graph.load(path).inputs
    random = np.random.default_rng(5)
    clips, truth = [], []
    for number in range(count):
        clip = np.zeros(43844)
        for start in (0, 21922):
            pitches = random.choice(np.arange(40, 88), random.integers(1, 5), replace=False)
            sound = chord([int(pitch) for pitch in pitches], 0.95, random)
            clip[start : start + len(sound)] += sound
            truth.append(frozenset(int(pitch) for pitch in pitches))
        clips.append(clip + random.normal(0, (0, 0.01)[number % 2], clip.shape))
    audio = np.stack(clips).astype(np.float32)[:, :, None]
    batches = [{given.name: audio[at : at + 4]} for at in range(0, count, 4)]

    def decide(outputs: list[Values]) -> list[frozenset[int]]:
        """The pitches that sound for 11 frames, an eighth of a second, of each half."""
        found = []
        for values in outputs:
            for frames in values["StatefulPartitionedCall:1"]:
                for half in (frames[:86], frames[86:]):
                    sounding = (half > 0.3).sum(0) >= 11
                    found.append(frozenset(int(key) + 21 for key in np.flatnonzero(sounding)))
        return found

    def mark(found: list[frozenset[int]]) -> str:
        hits = sum(len(a & b) for a, b in zip(found, truth, strict=True))
        recall = percent(hits, sum(map(len, truth)))
        return f"recall {recall}, precision {percent(hits, sum(map(len, found)))}"

    notes = sum(map(len, truth))
    data = f"{count} clips of 2 s, {notes} notes"
    return Case("basic-pitch", data, path.read_bytes(), batches, decide, mark)


LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
LIGHT_NETS = tuple(path.stem.removeprefix("light_") for path in sorted(LIGHT.glob("*.onnx")))


def light_input(model: onnx.ModelProto) -> tuple[str, list[int]]:
    held = {each.name for each in model.graph.initializer}
    (given,) = (each for each in model.graph.input if each.name not in held)
    return given.name, [extent.dim_value for extent in given.type.tensor_type.shape.dim]


def stored(net: str) -> Case:
    """The input that the onnx package's tests give, and the output that lies beside the net."""
    path = LIGHT / f"light_{net}.onnx"
    name, shape = light_input(onnx.load(path))
    ramp = (np.arange(math.prod(shape)).reshape(shape) / math.prod(shape)).astype(np.float32)
    answer = onnx.load_tensor(LIGHT / f"light_{net}_output_0.pb")
    expected = numpy_helper.to_array(answer)

    def decide(outputs: list[Values]) -> list[bool]:
        (values,) = outputs
        (found,) = values.values()
        # The onnx package's own tolerance for these.
        same = found.shape == expected.shape and np.allclose(found, expected, 1e-3, 1e-7)
        return [bool(same)]

    def mark(found: list[bool]) -> str:
        return "as stored" if found == [True] else "NOT as stored"

    return Case(net, "its test data", path.read_bytes(), [{name: ramp}], decide, mark)


def with_random_weights(net: str) -> onnx.ModelProto:
    """The net, whose weights are all equal as it is shipped, with weights that tell it apart."""
    model = onnx.load(LIGHT / f"light_{net}.onnx")
    shapes = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    through = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Unsqueeze"
    }
    readers: dict[str, tuple[str, int]] = {}
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            readers[through.get(name, name)] = (node.op_type, at)
    random = np.random.default_rng(6)
    given, _ = light_input(model)
    nodes, weights = [], []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        shape = [int(extent) for extent in shapes.pop(node.input[0])]
        value = random.standard_normal(shape, np.float32)
        if len(shape) > 1:
            fan = shape[0] if readers[node.output[0]][0] == "MatMul" else math.prod(shape[1:])
            value *= np.float32(math.sqrt(2 / fan))
        elif readers[node.output[0]] in (
            ("BatchNormalization", 1),
            ("BatchNormalization", 4),
            ("Mul", 1),
        ):
            value = 1 + np.float32(0.1) * np.abs(value)
        else:
            value *= np.float32(0.1)
        weights.append(numpy_helper.from_array(value, node.output[0]))
    weights += [numpy_helper.from_array(value, name) for name, value in shapes.items()]
    inputs = [each for each in model.graph.input if each.name == given]
    outputs = list(model.graph.output)
    made = onnx.helper.make_graph(nodes, net, inputs, outputs, weights)
    # From version 4 of the format on weights need not be inputs.
    result = onnx.helper.make_model(made, opset_imports=model.opset_import, ir_version=8)
    temper(result)
    return result


def temper(model: onnx.ModelProto) -> None:
    """Scales the last layer so that the softmax after it is neither flat nor one 1 and zeros."""
    softmax = next((node for node in model.graph.node if node.op_type == "Softmax"), None)
    last = [node for node in model.graph.node if softmax and node.output[0] == softmax.input[0]]
    if not last or last[0].op_type != "Gemm":
        return
    name, shape = light_input(model)
    image = np.random.default_rng(8).uniform(-1, 1, shape).astype(np.float32)
    logits = graph.load(model.SerializeToString()).evaluate({name: image}, [last[0].output[0]])
    scale = np.float32(2 / logits[last[0].output[0]].std())
    for tensor in model.graph.initializer:
        if tensor.name in last[0].input[1:]:
            value = numpy_helper.to_array(tensor) * scale
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def random_net(net: str, count: int = 2) -> Case:
    model = with_random_weights(net)
    name, shape = light_input(model)
    random = np.random.default_rng(7)
    batches = [{name: random.uniform(-1, 1, shape).astype(np.float32)} for _ in range(count)]
    data = model.SerializeToString()
    exact = in_float64(data)

    def decide(outputs: list[Values]) -> list[tuple[int, ...]]:
        return [
            tuple(int(each) for each in np.argsort(-scores.ravel(), kind="stable")[:5])
            for values in outputs
            for scores in values.values()
        ]

    truth = decide([exact(batch) for batch in batches])

    def mark(found: list[tuple[int, ...]]) -> str:
        same = sum(a == b for a, b in zip(found, truth, strict=True))
        return f"{same} of {count} top 5 as in float64"

    return Case(net, f"{count} random images and weights", data, batches, decide, mark)


def in_float64(data: bytes) -> Run:
    """Runs a model with its weights and inputs in float64, by Model.evaluate."""
    model = onnx.load_from_string(data)
    network = model.graph
    single, double = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    # Resize takes its scales in float32 only.
    kept = {node.input[2] for node in network.node if node.op_type == "Resize" and node.input[2:]}

    def widen(tensor: onnx.TensorProto) -> None:
        if tensor.data_type == single:
            value = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    for tensor in network.initializer:
        if tensor.name not in kept:
            widen(tensor)
    for info in [*network.input, *network.output]:
        if info.type.tensor_type.elem_type == single:
            info.type.tensor_type.elem_type = double
    del network.value_info[:]
    for node in network.node:
        if kept.intersection(node.output):
            continue
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == single:
                attribute.i = double
    wide = graph.load(model.SerializeToString())

    def run(inputs: Values) -> Values:
        return wide.evaluate(
            {
                name: value.astype(np.float64) if value.dtype == np.float32 else value
                for name, value in inputs.items()
            }
        )

    return run


def in_onnxruntime(model: bytes, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    peer = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in peer.get_outputs()]
    return lambda inputs: dict(zip(names, peer.run(names, inputs), strict=True))


def in_session(model: bytes, threads: int) -> Run:
    return moptcore.Session(model, threads=threads).run


def in_optimized_session(model: bytes, threads: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        optimized, _ = graph.optimize(graph.load(model))
        optimized.save(path)
        return moptcore.Session(graph.load(path), threads=threads).run


def in_loops(model: bytes, threads: int) -> Run:
    return graph.load(model).evaluate


ENGINES: dict[str, Callable[[bytes, int], Run]] = {
    "ONNX Runtime": in_onnxruntime,
    "Session": in_session,
    "optimized, saved, loaded": in_optimized_session,
    "evaluate": in_loops,
}


def difference(found: list[Values], expected: list[Values]) -> float:
    """The largest one, in parts of the largest number of the same output in any batch."""
    largest = 0.0
    for name in expected[0]:
        top = max(float(np.abs(values[name]).max()) for values in expected)
        for got, values in zip(found, expected, strict=True):
            if got[name].shape != values[name].shape:
                return math.inf
            off = float(np.abs(got[name] - values[name]).max()) / top
            if math.isnan(off):
                return math.inf
            largest = max(largest, off)
    return largest


def scored(case: Case, threads: int, exact: int | None) -> tuple[str, list[str]]:
    """A row of the table, and what is wrong with it."""
    outputs: dict[str, list[Values]] = {}
    for name, opened in ENGINES.items():
        run = opened(case.model, threads)
        outputs[name] = [run(batch) for batch in case.batches]
        del run
        gc.collect()
    precise = in_float64(case.model)
    truth = [precise(batch) for batch in case.batches[:exact]]
    expected = outputs["ONNX Runtime"]
    answers = {name: case.decide(values) for name, values in outputs.items()}
    marks = {name: case.mark(answer) for name, answer in answers.items()}
    off = {name: difference(values, expected) for name, values in outputs.items()}
    problems = []
    for name, answer in answers.items():
        other = sum(a != b for a, b in zip(answer, answers["ONNX Runtime"], strict=True))
        if other or marks[name] != marks["ONNX Runtime"]:
            problems.append(f"{case.name}: {name} has {other} of {len(answer)} answers otherwise")
        if not off[name] <= TOLERANCE:
            problems.append(f"{case.name}: {name} differs by {off[name]:.1e}")
    same = len(set(marks.values())) == 1
    cells = ["the same" if same and name != "ONNX Runtime" else marks[name] for name in ENGINES]
    apart = " / ".join(f"{off[name]:.1e}" for name in list(ENGINES)[1:])
    near = " / ".join(
        f"{difference(outputs[name][: len(truth)], truth):.1e}"
        for name in ("ONNX Runtime", "Session", "evaluate")
    )
    return f"| {' | '.join([case.name, case.data, *cells, apart, near])} |", problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help=INSTALL.format(folder="FOLDER"))
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="parts of names")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--exact", type=int, metavar="N", help="only N batches in float64")
    arguments = parser.parse_args()
    folder = arguments.folder
    missing = [
        name
        for name in ("rapidocr_onnxruntime", "magika", "basic_pitch")
        if not (folder / name).is_dir()
    ]
    if missing:
        raise SystemExit(f"{folder} lacks {', '.join(missing)}: {INSTALL.format(folder=folder)}")
    cases: list[tuple[str, Callable[[], Case]]] = [
        ("PP-OCRv4 rec", lambda: recognition(folder)),
        ("PP-OCRv4 det", lambda: detection(folder)),
        ("PP-OCR cls", lambda: direction(folder)),
        ("magika", lambda: file_types(folder)),
        ("basic-pitch", lambda: music(folder)),
    ]
    for net in LIGHT_NETS:
        cases.append((net, lambda net=net: stored(net)))
        cases.append((net, lambda net=net: random_net(net)))
    head = [
        "model",
        "data",
        *ENGINES,
        "largest difference from ONNX Runtime",
        "from float64: ONNX Runtime / Session / evaluate",
    ]
    print(f"| {' | '.join(head)} |\n{'| --- ' * len(head)}|")
    problems: list[str] = []
    for name, make in cases:
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        row, wrong = scored(make(), arguments.threads, arguments.exact)
        print(row, flush=True)
        problems += wrong
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
