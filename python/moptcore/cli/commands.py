# SPDX-License-Identifier: Apache-2.0
"""The commands themselves; what they need is imported when they run."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import moptcore
from moptcore import evaluation, pack
from moptcore.cli import require
from moptcore.cli.diagnosis import diagnosis

__all__ = ["app"]

app = typer.Typer(
    help="Compress neural networks: prune, quantize, distil.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the models and the report.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal models.")] = 0,
    data: Annotated[str, typer.Option(help="auto, fashion-mnist or mnist-5k.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Threads to train with.")] = 2,
) -> None:
    """Train, distil, prune and quantize a real classifier; takes about three minutes."""
    require("torch", "onnx", "onnxruntime", "onnxscript", "jinja2", "plotly")
    example = importlib.import_module("moptcore.demo.compress_image_classifier")
    raise typer.Exit(example.run(out, seed=seed, data=data, threads=threads))


@app.command()
def doctor() -> None:
    """Show what moptcore finds on this machine: CPU, threads, frameworks."""
    for name in ("torch", "onnxruntime"):
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)  # it brings its OpenMP along
    table = Table(show_header=False)
    for key, value in diagnosis().items():
        table.add_row(key, Text(value))
    Console().print(table)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX or safetensors file.")],
) -> None:
    """List the tensors of a file: shape, dtype, zeros or encoding, bytes."""
    if not model.is_file():
        raise moptcore.Error(f"[cli.inspect] model must be an existing file, got {str(model)!r}")
    if model.suffix == ".safetensors":
        Console().print(Text(str(pack.inspect(model))), soft_wrap=True)
        return
    tensors = evaluation.onnx_tensors(model)
    # Without a frame, and names never cut: what does not fit moves to the next line.
    table = Table(header_style="dim underline", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("tensor", overflow="fold", min_width=16)
    for column in ("shape", "dtype", "role"):
        table.add_column(column, no_wrap=True)
    for column in ("elements", "zeros", "share", "bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    for t in tensors:
        table.add_row(
            Text(t.name),  # a name is text, never console markup
            "x".join(map(str, t.shape)) or "scalar",
            t.dtype,
            t.role,
            f"{t.elements:,}",
            f"{t.zeros:,}",
            _share(t.zeros, t.elements),
            f"{t.size_bytes:,}",
        )
    weights = [t for t in tensors if t.role == "weight"]
    elements, zeros = sum(t.elements for t in weights), sum(t.zeros for t in weights)
    sizes = evaluation.file_sizes(model)
    console = Console()
    console.print(table)
    console.print(
        f"{len(weights)} weights, {elements:,} parameters, {zeros:,} zeros "
        f"({_share(zeros, elements)}), {sum(t.size_bytes for t in weights):,} bytes; "
        f"the file has {sizes.plain:,} bytes, {sizes.gzip:,} gzipped",
        highlight=False,
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
