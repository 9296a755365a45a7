# SPDX-License-Identifier: Apache-2.0
"""Make a real image classifier many times smaller at the same accuracy.

    moptcore demo                                             (pip install 'moptcore[demo]')
    python examples/python/compress_image_classifier.py       (the same, from a checkout)

`compress` is the tutorial: a teacher, a student that learns from it, pruning while it trains,
quantization-aware training, export. What follows it measures the files and writes the report.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import moptcore as mc
import moptcore.torch as mct
import torch
from moptcore.core import Coverage
from moptcore.demo.data import Dataset, load
from moptcore.demo.display import Display
from moptcore.evaluation import Evaluation, onnx_tensors
from moptcore.reporting import Check
from torch import Tensor, nn

BATCH = 128


@dataclass(frozen=True)
class Plan:
    """Training steps of each phase (468 are an epoch of Fashion-MNIST) and rounds of timing."""

    teacher: int = 1404
    student: int = 1404
    distil: int = 936
    prune: int = 1404
    quantize: int = 702
    sparsity: float = 0.8
    timed: int = 500


@dataclass
class Outcome:
    """The files that were written, and what was seen on the way to them."""

    files: dict[str, Path] = field(default_factory=dict)
    trained: dict[str, Evaluation] = field(default_factory=dict)
    weights: int = 0
    zeros_asked: int = 0
    steps_checked: int = 0
    steps_wrong: int = 0
    coverage: tuple[Coverage, ...] = ()


class Classifier(nn.Module):
    """Two strided convolutions with BatchNorm and two linear layers, for images of 28 x 28."""

    def __init__(self, channels: tuple[int, int], hidden: int) -> None:
        super().__init__()
        first, second = channels
        self.conv1 = nn.Conv2d(1, first, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(second)
        self.linear = nn.Linear(second * 7 * 7, hidden)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        x = torch.relu(self.linear(x.flatten(1)))
        logits: Tensor = self.head(x)
        return logits


def compress(data: Dataset, out: Path, plan: Plan, seed: int, display: Display) -> Outcome:
    """Trains, compresses and exports; every call of moptcore is in here."""
    torch.manual_seed(seed)
    outcome = Outcome()
    images, labels = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    test = (torch.from_numpy(data.x_test), torch.from_numpy(data.y_test))
    example = images[:BATCH]

    def batches(steps: int) -> Iterator[Tensor]:
        """Indices of training images, every image once an epoch."""
        while True:
            order = torch.randperm(len(images))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                if steps == 0:
                    return
                yield order[start : start + BATCH]
                steps -= 1

    def fit(
        model: nn.Module,
        name: str,
        description: str,
        steps: int,
        rate: float,
        loss_of: Callable[[Tensor, Tensor], Tensor],
        after_step: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
    ) -> Evaluation:
        """A training loop as anyone writes it; `after_step` is where a pruner comes in."""
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        with display.phase(name, description, steps) as phase:
            model.train()
            for batch in batches(steps):
                logits = model(images[batch])
                loss = loss_of(logits, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                zeros, asked = after_step()
                right = (logits.argmax(1) == labels[batch]).float().mean()
                phase.step(loss.item(), right.item(), zeros, asked)
            seen = mct.evaluate(model, test, latency=False)
            phase.test(seen.accuracy)
        return seen

    # 1. A teacher: large, good, too expensive to ship.
    cross_entropy = nn.CrossEntropyLoss()

    def from_labels(logits: Tensor, batch: Tensor) -> Tensor:
        loss: Tensor = cross_entropy(logits, labels[batch])
        return loss

    teacher = Classifier((32, 64), hidden=256)
    outcome.trained["teacher"] = fit(
        teacher, "teacher", "1 train the teacher", plan.teacher, 4e-3, from_labels
    )

    # 2. A student, trained from the labels alone. This is the baseline: the same network in
    #    float32, as one would ship it without compression.
    student = Classifier((16, 32), hidden=128)
    outcome.trained["baseline"] = fit(
        student, "student", "2 train the student alone", plan.student, 4e-3, from_labels
    )
    baseline = copy.deepcopy(student)

    # 3. Distillation: the student goes on with what the teacher thinks of every image. The images
    #    are not altered while training, so one pass of the teacher serves all epochs.
    teacher.eval()
    with torch.inference_mode():
        opinions = torch.cat([teacher(part) for part in images.split(1000)]).clone()
    distillation = mct.DistillationLoss(temperature=4.0, alpha=0.7)

    def from_teacher(logits: Tensor, batch: Tensor) -> Tensor:
        loss: Tensor = distillation(logits, opinions[batch], labels[batch])
        return loss

    outcome.trained["distilled"] = fit(
        student, "distil", "3 distil into the student", plan.distil, 2e-3, from_teacher
    )

    # 4. Pruning while it trains: one line after optimizer.step(). scope="global" lets the layers
    #    compete, so that small, busy ones keep more of their weights.
    schedule = mc.prune.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=plan.sparsity,
        begin_step=0,
        end_step=plan.prune * 7 // 10,
        frequency=10,
    )
    pruner = mct.Pruner(student, schedule, scope="global", strict=True)
    outcome.weights = sum(p.numel() for p in student.parameters() if p.dim() > 1)

    def count_zeros(model: nn.Module) -> tuple[float, float]:
        zeros = sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1)
        outcome.steps_checked += 1
        outcome.steps_wrong += zeros != outcome.zeros_asked
        return zeros / outcome.weights, outcome.zeros_asked / outcome.weights

    def prune_and_count() -> tuple[float, float]:
        if pruner.step():
            step = outcome.steps_checked + 1
            outcome.zeros_asked = round(outcome.weights * schedule.sparsity(step))
        return count_zeros(student)

    outcome.trained["pruned"] = fit(
        student, "prune", "4 prune while it trains", plan.prune, 2e-3, from_teacher, prune_and_count
    )

    # 5. Quantization-aware training: the student computes as its int8 file will. What is zero stays
    #    zero by itself; restoring it at once only serves the count.
    quantized = mct.prepare_qat(student, example, scheme="int8", strict=True)

    def restore_and_count() -> tuple[float, float]:
        quantized.restore_zeros()
        return count_zeros(quantized)

    outcome.trained["int8"] = fit(
        quantized,
        "quantize",
        "5 train for int8",
        plan.quantize,
        5e-4,
        from_teacher,
        restore_and_count,
    )
    outcome.coverage = (*pruner.coverage, *quantized.coverage)

    # 6. Out of the training framework: strip gives back the plain network, sparse in float32;
    #    export_onnx writes what ONNX Runtime executes.
    sparse = mct.strip(quantized)
    for name, model in {
        "teacher": teacher,
        "baseline": baseline,
        "pruned": sparse,
        "int8": quantized,
    }.items():
        outcome.files[name] = out / f"{name}.onnx"
        mct.export_onnx(model.eval(), example, outcome.files[name])
    return outcome


def check(outcome: Outcome, measured: dict[str, Evaluation]) -> list[Check]:
    """The goals, against figures of the files on disk."""
    teacher, baseline, pruned, int8 = (
        measured[name] for name in ("teacher", "baseline", "pruned", "int8")
    )
    kept = int8.accuracy / baseline.accuracy
    apart = 100 * abs(int8.accuracy - outcome.trained["int8"].accuracy)
    zeros = sum(
        tensor.zeros
        for tensor in onnx_tensors(outcome.files["int8"])
        if tensor.role == "weight" and len(tensor.shape) > 1
    )
    of_float = (int8.size_bytes or 0) / (pruned.size_bytes or 1)
    of_teacher = (int8.size_bytes or 0) / (teacher.size_bytes or 1)
    right = outcome.steps_checked - outcome.steps_wrong
    return [
        Check("accuracy of the int8 file / baseline", ">= 0.980", f"{kept:.3f}", kept >= 0.98),
        Check(
            "steps with exactly the zeros asked for",
            f"{outcome.steps_checked}",
            f"{right}",
            right == outcome.steps_checked,
        ),
        Check(
            "zero weights in the int8 file",
            f">= {outcome.zeros_asked:,}",
            f"{zeros:,}",
            zeros >= outcome.zeros_asked,
        ),
        Check(
            "file against training, percentage points",
            "<= 0.20",
            f"{apart:.2f}",
            # Ten thousand images: both sides are multiples of 0.01 with float noise around them.
            apart <= 0.2 + 1e-9,
        ),
        Check("int8 file / float32 file", "<= 0.280", f"{of_float:.3f}", of_float <= 0.28),
        Check("int8 file / teacher's file", "<= 0.100", f"{of_teacher:.3f}", of_teacher <= 0.1),
        Check(
            "parameters of the compressed network",
            ">= 200,000",
            f"{int8.parameters:,}",
            int8.parameters >= 200_000,
        ),
    ]


LABELS = {
    "teacher": "teacher",
    "baseline": "student alone",
    "pruned": "distilled, pruned",
    "int8": "distilled, pruned, int8",
}


def run(
    out: Path,
    seed: int = 0,
    data: str = "auto",
    threads: int = 2,
    plan: Plan | None = None,
    display: Display | None = None,
    dataset: Dataset | None = None,
) -> int:
    """The whole demo; 0 where every goal is met, else 1."""
    started = time.perf_counter()
    plan, display = plan or Plan(), display or Display()
    threads = min(threads, len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
    mc.set_num_threads(threads)
    if out.exists() and not out.is_dir():
        raise mc.Error(f"[demo.run] out must be a folder, got the file {str(out)!r}")
    out.mkdir(parents=True, exist_ok=True)
    say = display.console.print
    images = dataset or load(data)
    say(
        f"[bold]{images.name}[/] from {images.source}: {len(images.x_train):,} images to train, "
        f"{len(images.x_test):,} to test; {threads} threads, seed {seed}"
    )
    with display:
        outcome = compress(images, out, plan, seed, display)
    timing = display.console.status("running the files in ONNX Runtime, interleaved ...")
    with timing:
        measured = mc.evaluate(
            outcome.files,
            (images.x_test, images.y_test),
            threads=1,
            warmup=plan.timed // 10,
            repeats=plan.timed,
        )
    checks = check(outcome, measured)
    shown = {LABELS[name]: each for name, each in measured.items()}
    display.table(shown, LABELS["baseline"])
    display.goals(checks)
    seconds = time.perf_counter() - started
    page = mc.report(
        out / "report.html",
        shown,
        title=f"{images.name}: a classifier, compressed",
        subtitle="A small convolutional network learned from a larger one, lost "
        f"{100 * plan.sparsity:.0f} % of its weights while it trained, and became an int8 ONNX "
        "file. Every figure is of a file on disk, run in ONNX Runtime.",
        baseline=LABELS["baseline"],
        curves=display.curves(),
        checks=checks,
        coverage=outcome.coverage,
        settings={
            "command": f"moptcore demo --seed {seed} --threads {threads}",
            "data": f"{images.name} from {images.source}",
            "plan": ", ".join(f"{k} {v}" for k, v in asdict(plan).items()),
            "seconds": ", ".join(f"{k} {v:.1f}" for k, v in display.seconds.items())
            + f", all {seconds:.1f}",
            "versions": f"moptcore {mc.__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}",
        },
        notes=[
            "Latency: one image on one thread, all files timed interleaved, "
            f"{measured['int8'].latency.repeats} rounds.",
            f"Accuracy seen in quantization-aware training: "
            f"{100 * outcome.trained['int8'].accuracy:.2f} %.",
            f"Training steps: {plan.student:,} for the baseline, "
            f"{plan.distil + plan.prune + plan.quantize:,} more for the compressed network.",
            f"Distilled student before pruning: "
            f"{100 * outcome.trained['distilled'].accuracy:.2f} %.",
        ],
    )
    say(f"\nreport    {page}\nmodel     {outcome.files['int8']}\nseconds   {seconds:.0f}")
    missed = [each.goal for each in checks if not each.passed]
    if missed:
        say(f"[bold red]missed:[/] {'; '.join(missed)}")
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="auto", help="auto, fashion-mnist or mnist-5k")
    parser.add_argument("--threads", type=int, default=2)
    return run(**vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
