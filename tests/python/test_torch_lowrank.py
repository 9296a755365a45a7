# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import io
import itertools
import warnings

import moptcore as mc
import moptcore.torch as mct
import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("moptcore._runtime", reason="built without oneDNN", exc_type=ImportError)
from moptcore import lowrank
from reference import lowrank as reference


class Network(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )
        self.head = nn.Linear(24 * 16, 40)
        self.out = nn.Linear(40, 10)

    def forward(self, x):
        x = self.features(x).flatten(1)
        return self.out(torch.relu(self.head(x)))


def images(n=4, seed=0):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def rows(result):
    return {row.name: row for row in result.coverage}


def exact_rank(layer, rank):
    """Gives a layer a weight of this rank, in every way of looking at it."""
    with torch.no_grad():
        shape = layer.weight.shape
        weight = torch.zeros(shape, dtype=torch.float64)
        for k in range(rank):
            generator = torch.Generator().manual_seed(k)
            factors = [
                torch.randn(size, generator=generator, dtype=torch.float64) for size in shape
            ]
            term = factors[0]
            for factor in factors[1:]:
                term = term[..., None] * factor
            weight += term
        layer.weight.copy_(weight)


GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 2)},
    {"padding": "same", "dilation": 2},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": (1, 2), "padding_mode": "circular"},
    {"padding": 2, "padding_mode": "replicate", "bias": False},
]


@pytest.mark.parametrize("convolution", ["channel", "spatial", "tucker2"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_convolution_of_low_rank_computes_the_same_after(convolution, geometry):
    layer = nn.Conv2d(12, 16, (3, 5), **geometry).double()
    exact_rank(layer, 2)
    x = torch.randn(2, 12, 11, 13, dtype=torch.float64)
    expected = layer(x)
    result = mct.factorize(layer, error=1e-6, convolution=convolution)
    assert result.model is not layer
    assert [type(each) for each in result.model] == [nn.Conv2d] * len(result.model)
    torch.testing.assert_close(result.model(x), expected, rtol=0, atol=1e-9)
    row = result.coverage[0]
    assert row.done
    assert row.after["rank"] == ((2, 2) if convolution == "tucker2" else 2)
    assert row.after["parameters"] == sum(each.weight.numel() for each in result.model)
    assert row.after["error"] < 1e-12


@pytest.mark.parametrize("method", ["svd", "randomized"])
def test_layers_become_the_optimal_factors_of_their_weights(method):
    model = Network()
    before = copy.deepcopy(model)
    result = mct.factorize(model, params=0.5, method=method, seed=3)
    assert result.model is model
    head = model.head
    assert [tuple(each.weight.shape) for each in head] == [(18, 384), (40, 18)]
    u, v = lowrank.factorize(before.head.weight.detach(), params=0.5, method=method, seed=3)
    assert torch.equal(head[0].weight, v)
    assert torch.equal(head[1].weight, u)
    assert head[0].bias is None
    assert torch.equal(head[1].bias, before.head.bias)
    for name, row in rows(result).items():
        weight = before.get_parameter(name)
        assert row.done, row
        assert row.before["parameters"] == weight.numel()
        assert row.after["parameters"] <= weight.numel() / 2
    weight = before.features[3].weight.detach().flatten(1)
    left = np.linalg.svd(weight.double().numpy(), compute_uv=False)[
        rows(result)["features.3.weight"].after["rank"] :
    ]
    best = np.sqrt((left**2).sum()) / float(weight.norm())
    slack = 1e-5 if method == "svd" else 0.02
    assert rows(result)["features.3.weight"].after["error"] == pytest.approx(best, rel=slack)


def test_calibration_lowers_the_error_of_the_outputs():
    torch.manual_seed(0)
    # Inputs that lie mostly in a few directions.
    x = torch.randn(300, 5) @ torch.randn(5, 60) + 0.05 * torch.randn(300, 60)
    layer = nn.Linear(60, 50)
    layer.requires_grad_(False)
    whole = layer(x)
    plain = mct.factorize(copy.deepcopy(layer), rank=5).model(x)
    result = mct.factorize(copy.deepcopy(layer), rank=5, calibration=[x[:100], x[100:]])
    aware = result.model(x)
    assert result.coverage[0].after["whitened"]
    found, without = float((aware - whole).norm()), float((plain - whole).norm())
    # The best rank-5 approximation of the outputs without their bias.
    best = torch.linalg.svdvals((whole - layer.bias).double())[5:].norm()
    assert found == pytest.approx(float(best), rel=1e-4)
    assert found < without / 10


def test_calibration_of_convolutions_uses_their_patches_and_restores_modes_and_hooks():
    model = Network().train()
    model.features[1].eval()
    x = images(16)
    layer = copy.deepcopy(model.features[3]).requires_grad_(False)
    inner = []
    handle = model.features[2].register_forward_hook(lambda *a: inner.append(a[2].detach()))
    model.eval()
    model(x)
    handle.remove()
    model.train()
    model.features[1].eval()
    result = mct.factorize(model, rank=6, calibration=x, include="features.3")
    assert model.training
    assert not model.features[1].training
    assert not model.features[3][0]._forward_pre_hooks
    assert rows(result)["features.3.weight"].after["whitened"]
    whole = layer(inner[0])
    found = float((model.features[3](inner[0]).detach() - whole).norm())
    best = torch.linalg.svdvals(whole.double().transpose(0, 1).flatten(1))[6:].norm()
    assert found == pytest.approx(float(best), rel=1e-3)


def test_a_budget_goes_where_it_keeps_most():
    model = nn.Sequential(
        nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 30)
    )
    exact_rank(model[0], 1)
    torch.manual_seed(0)
    nn.init.orthogonal_(model[2].weight)
    with torch.no_grad():
        # Four equal singular values.
        basis = nn.init.orthogonal_(torch.empty(30, 30))
        model[4].weight.copy_(basis[:, :4] @ nn.init.orthogonal_(torch.empty(30, 30))[:4])
    sizes = sum(each.weight.numel() for each in model if isinstance(each, nn.Linear))
    result = mct.factorize(copy.deepcopy(model), budget=0.35)
    ranks = {name: row.after["rank"] for name, row in rows(result).items()}
    # 60 parameters a rank, 945 in all: what is of low rank is kept, the rest gets what is left.
    assert ranks == {"0.weight": 1, "2.weight": 10, "4.weight": 4}
    assert sum(row.after["parameters"] for row in result.coverage) <= 0.35 * sizes
    whole = mct.factorize(copy.deepcopy(model), budget=0.9)
    assert rows(whole)["2.weight"].reason == "the budget keeps it whole"
    assert isinstance(whole.model[2], nn.Linear)
    with pytest.raises(mc.Error, match=r"budget must be within reach.*params must allow"):
        mct.factorize(copy.deepcopy(model), budget=0.01)


@pytest.mark.parametrize("convolution", ["channel", "spatial", "tucker2"])
def test_a_budget_covers_convolutions_of_every_kind_and_is_the_best_of_all(convolution):
    """Against every combination of ranks of a convolution and a linear layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1), nn.Flatten(), nn.Linear(24, 8), nn.Conv2d(2, 1, 1)
    ).double()
    with torch.no_grad():
        model[0].weight *= torch.linspace(1, 0.05, 6)[:, None, None, None]
        model[2].weight *= torch.linspace(1, 0.1, 24)
    weight, matrix = (model[i].weight.detach().numpy() for i in (0, 2))
    if convolution == "tucker2":
        energy = reference.hosvd_energy(weight)
        options = [
            (
                reference.tucker_parameters(weight.shape, a, b),
                1 - energy[a - 1, b - 1] / energy.max(),
            )
            for a in range(1, 7)
            for b in range(1, 5)
        ]
    else:
        unfolded = reference.unfold_spatial(weight) if convolution == "spatial" else weight
        options = reference.svd_options(unfolded.reshape(len(unfolded), -1))
    tables = [
        [(cost, loss) for cost, loss in table if cost < size] + [(size, 0.0)]
        for table, size in ((options, weight.size), (reference.svd_options(matrix), matrix.size))
    ]
    table = [(a + b, x + y) for (a, x), (b, y) in itertools.product(*tables)]
    total = weight.size + matrix.size + 2
    step = max(b - a for table in tables for (a, _), (b, _) in itertools.pairwise(sorted(table)))
    for budget in (0.3, 0.45, 0.6, 0.8):
        result = mct.factorize(copy.deepcopy(model), budget=budget, convolution=convolution)
        found = rows(result)
        # [1, 2, 1, 1] has no smaller form of any rank.
        assert found["3.weight"].reason == "no rank makes it smaller"
        done = [found[name] for name in ("0.weight", "2.weight")]
        cost = sum(
            row.after["parameters"] if row.done else size
            for row, size in zip(done, (weight.size, matrix.size), strict=True)
        )
        assert cost + 2 <= budget * total
        for row in done:
            assert row.done or row.reason == "the budget keeps it whole"
            assert not row.done or row.after["parameters"] < row.before["parameters"]
        lost = sum(r.after["error"] ** 2 for r in done if r.done)
        # The best of all combinations, or of those that leave one step of a layer open.
        open_ = (loss for other, loss in table if other <= cost - step)
        assert lost <= min(open_, default=np.inf) + 1e-12
        if convolution != "tucker2":  # whose iteration gains something that the table lacks
            assert lost >= min(loss for other, loss in table if other <= budget * total) - 1e-12
    with pytest.raises(mc.CoverageError, match=r"3\.weight"):
        mct.factorize(copy.deepcopy(model), budget=0.5, convolution=convolution, strict=True)


def test_layers_that_cannot_be_factorized_say_why():
    class Own(nn.Linear):
        pass

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = Own(20, 20)
            self.grouped = nn.Conv2d(8, 8, 3, groups=2)
            self.tied = nn.Linear(20, 20)
            self.again = nn.Linear(20, 20)
            self.again.weight = self.tied.weight
            self.sparse = nn.Linear(20, 20)
            self.hooked = nn.Linear(20, 20)
            self.hooked.register_forward_hook(lambda *a: None)
            self.embedding = nn.Embedding(9, 20)
            self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.narrow = nn.Linear(20, 1)
            self.wide = nn.Linear(20, 20)
            self.left_out = nn.Linear(20, 20)

    model = Mixed()
    with torch.no_grad():
        model.sparse.weight[:10] = 0
    before = dict(model.named_parameters())
    with pytest.raises(mc.CoverageError, match=r"narrow\.weight"):
        mct.factorize(model, rank=2, exclude="left_out", strict=True)
    assert dict(model.named_parameters()) == before
    result = rows(mct.factorize(model, rank=2, exclude="left_out"))
    for name, reason in {
        "own.weight": "a Own is no plain Linear or Conv2d",
        "grouped.weight": "the convolution has 2 groups",
        "tied.weight": "it is tied to another parameter",
        "sparse.weight": "50 % of it is zero",
        "hooked.weight": "the layer has hooks",
        "embedding.weight": "a Embedding is no plain",
        "encoder.linear1.weight": "TransformerEncoderLayer reads the weight itself",
        "encoder.self_attn.out_proj.weight": "no plain Linear",
        "narrow.weight": "w must be of a shape that a rank makes smaller, got 1 x 20",
        "left_out.weight": "excluded",
    }.items():
        assert not result[name].done
        assert reason in result[name].reason, (name, result[name].reason)
    assert result["wide.weight"].done
    assert isinstance(model.wide, nn.Sequential)
    assert model.again.weight is model.tied.weight
    forced = mct.factorize(model, rank=2, include="sparse", keep_sparse=False)
    assert rows(forced)["sparse.weight"].done
    assert rows(mct.factorize(model, rank=11, include="left_out"))[
        "left_out.weight"
    ].reason.startswith("[lowrank.factorize] rank must be <= 9")


def test_bad_arguments_are_named_and_change_nothing():
    model = Network()
    for arguments, match in [
        ({}, "exactly one of rank, energy, params, error and budget must be given, got none"),
        ({"rank": 1, "budget": 0.5}, "got rank, budget"),
        ({"rank": 2, "method": "qr"}, "method must be one of svd, randomized, krylov, got 'qr'"),
        ({"rank": 2, "convolution": "cp"}, "convolution must be one of"),
        ({"rank": (2, 2)}, "rank must be one number"),
        ({"params": 2.0}, r"params must be in \[0, 1\], got 2"),
        ({"params": 0}, r"params must be in \(0, 1\), got 0"),
        ({"params": 1}, r"params must be in \(0, 1\), got 1"),
        ({"energy": 0}, r"energy must be in \(0, 1\], got 0"),
        ({"error": 1}, r"error must be in \[0, 1\), got 1"),
        ({"budget": 0}, r"budget must be in \(0, 1\], got 0"),
        ({"rank": 0}, r"\[torch.factorize\] rank must be >= 1, got 0"),
        ({"rank": -1}, "rank must be >= 1, got -1"),
        ({"rank": (2, 0), "convolution": "tucker2"}, "rank must be >= 1"),
        ({"rank": (2, 2, 2), "convolution": "tucker2"}, "rank must be one number, or a pair"),
        ({"rank": 2, "seed": -1}, "seed must be an integer >= 0"),
        ({"rank": 2, "include": "nothing"}, "include patterns must match"),
        ({"rank": 2, "calibration": []}, "calibration must hold at least one batch"),
    ]:
        with pytest.raises(mc.Error, match=match):
            mct.factorize(model, **arguments)
    with pytest.raises(TypeError, match="calibration must be a tensor"):
        mct.factorize(model, rank=2, calibration=3)
    for rank in (1.5, True, (1, 2.0)):
        with pytest.raises(TypeError, match=r"\[torch.factorize\] rank must be an integer"):
            mct.factorize(model, rank=rank, convolution="tucker2")
    with pytest.raises(mc.NonFiniteError, match=r"calibration must give .*weight finite inputs"):
        mct.factorize(model, rank=2, calibration=torch.full((2, 3, 8, 8), torch.nan))
    with pytest.raises(TypeError, match=r"recipe must be a mapping .*, got NoneType"):
        mct.apply_factorization(model, None)
    with pytest.raises(TypeError, match="model must be a Module"):
        mct.factorize([], rank=2)
    with torch.no_grad():
        model.out.weight[0, 0] = torch.nan
    with pytest.raises(mc.NonFiniteError, match=r"out\.weight must not hold NaN"):
        mct.factorize(model, rank=2)
    assert isinstance(model.features[0], nn.Conv2d)


@pytest.mark.parametrize("convolution", ["channel", "spatial", "tucker2"])
def test_a_saved_state_loads_into_a_fresh_model_through_the_recipe(convolution):
    model = Network().double()
    result = mct.factorize(model, params=0.4, convolution=convolution)
    file = io.BytesIO()
    torch.save(
        {
            "weights": model.state_dict(),
            "recipe": {k: torch.from_numpy(v) for k, v in result.recipe.items()},
        },
        file,
    )
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = Network(seed=1).double()
    assert mct.apply_factorization(fresh, saved["recipe"]) is fresh
    fresh.load_state_dict(saved["weights"])
    x = images().double()
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    with pytest.raises(mc.FormatError, match="__fingerprint__"):
        mct.apply_factorization(nn.Linear(3, 3), saved["recipe"])
    damaged = {**result.recipe, "lowrank/head/ranks": np.array([0, 99])}
    with pytest.raises(mc.FormatError, match="__sha256__"):
        mct.apply_factorization(Network(), damaged)
    root = nn.Linear(20, 20)
    made = mct.factorize(copy.deepcopy(root), rank=3)
    again = mct.apply_factorization(copy.deepcopy(root), made.recipe)
    again.load_state_dict(made.model.state_dict())
    x = torch.randn(4, 20)
    assert torch.equal(again(x), made.model(x))


def test_a_factorized_model_is_tuned_copied_compiled_and_keeps_its_flags():
    torch.manual_seed(0)
    model = Network()
    model.out.weight.requires_grad_(False)
    x, target = images(32), torch.arange(32) % 10
    mct.factorize(model, params=0.5)
    assert not model.out[0].weight.requires_grad
    assert model.head[0].weight.requires_grad
    twin = copy.deepcopy(model)
    assert torch.equal(twin.eval()(x), model.eval()(x))
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def test_a_factorized_model_is_pruned_quantized_and_exported(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")

    model = Network()
    mct.factorize(model, params=0.5)
    pruner = mct.Pruner(model, mc.prune.ConstantSparsity(0.5, begin_step=1, frequency=1))
    pruner.step()
    assert pruner.sparsity.total == pytest.approx(0.5, abs=1e-3)
    x = images(2)
    qmodel = mct.prepare_qat(model, x)
    pruner.follow(qmodel)
    qmodel.train()
    qmodel(x).sum().backward()
    done = [row.name for row in qmodel.coverage if row.done]
    assert {"head.0.weight", "head.1.weight", "features.3.0.weight"} <= set(done)
    qmodel.eval()
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        mct.export_onnx(qmodel, x, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    expected = qmodel(x).detach()
    # Integers may differ by one step where the runtime rounds a tie the other way.
    assert float((torch.from_numpy(found) - expected).abs().max()) <= 0.1 * float(
        expected.abs().max()
    )


def test_a_pair_of_ranks_is_for_the_convolutions():
    model = Network()
    found = rows(mct.factorize(model, rank=(3, 2), convolution="tucker2"))
    assert found["features.0.weight"].after["rank"] == (3, 2)
    assert "rank (3, 2) is for convolutions" in found["head.weight"].reason
    assert isinstance(model.head, nn.Linear)
    with pytest.raises(mc.CoverageError, match="is for convolutions"):
        mct.factorize(Network(), rank=(3, 2), convolution="tucker2", strict=True)


def test_a_prepared_model_is_refused_and_a_part_of_one_left_alone():
    model, x = Network().eval(), images()
    prepared = mct.prepare_qat(model, x)
    for change in (lambda m: mct.factorize(m, rank=4), mct.quantize_weights):
        with pytest.raises(mc.Error, match="before prepare_qat, or strip"):
            change(prepared)
    assert type(prepared.head) is nn.Linear
    around = nn.Sequential(prepared, nn.Linear(10, 10)).eval()
    before = prepared(x)
    result = mct.factorize(around, rank=2)
    found = rows(result)
    assert found["1.weight"].done
    assert not found["0.head.weight"].done
    assert "factorize before prepare_qat" in found["0.head.weight"].reason
    assert torch.equal(around[0](x), before)
    with pytest.raises(mc.CoverageError):
        mct.factorize(around, rank=2, strict=True, include="0")
    part = mct.quantize_weights(nn.Sequential(prepared, nn.Linear(10, 10))).quantization_coverage
    assert {row.name: row.done for row in part}["1.weight"]
    assert not any(row.done for row in part if row.name.startswith("0."))


class Reads(nn.Module):
    """Uses the weights and biases of its layers itself."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Linear(16 * 16, 20)

    def forward(self, x):
        conv, fc = self.conv, self.fc
        x = nn.functional.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
        return nn.functional.linear(x.flatten(1), fc.weight, fc.bias)


@pytest.mark.parametrize("convolution", ["channel", "spatial", "tucker2"])
def test_code_that_reads_the_weight_gets_the_product_of_the_factors(convolution):
    torch.manual_seed(0)
    model, x = Reads(), images()
    called = nn.Sequential(copy.deepcopy(model.conv), nn.Flatten(1), copy.deepcopy(model.fc))
    for each in (model, called):
        mct.factorize(each, params=0.5, convolution=convolution, strict=True)
    # The same factors, multiplied in another order: sums of at most 256 products in float32.
    torch.testing.assert_close(model(x), called(x), rtol=1e-4, atol=1e-5)
    model(x).sum().backward()
    assert all(each.grad is not None for each in model.parameters())
    assert list(model.state_dict())[:2] == ["conv.0.weight", "conv.1.weight"]
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    plain = mct.strip(called)
    assert type(plain[2]) is nn.Sequential
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", ["weight_int8", "weight_int4", "float16", "int8_dynamic"])
def test_code_that_reads_the_weight_gets_the_rounded_one(scheme):
    torch.manual_seed(0)
    model, x = Reads(), images()
    small = mct.quantize_weights(model, scheme)
    assert torch.equal(small(x), mct.strip(copy.deepcopy(small))(x))
    assert not torch.equal(small.fc.weight, model.fc.weight)


def test_weights_that_are_quantized_already_have_rows_that_say_so():
    small = mct.quantize_weights(Network())
    with pytest.warns(UserWarning, match="no parameter is selected"):
        clustered = mct.cluster(small, 4).coverage
    with pytest.warns(UserWarning, match="no parameter is selected"):
        pruned = mct.Pruner(small, mc.prune.ConstantSparsity(0.5, 1)).coverage
    with pytest.warns(UserWarning, match="no parameter is selected"):
        again = mct.quantize_weights(small).quantization_coverage
    for found in (clustered, pruned, again, mct.factorize(small, rank=2).coverage):
        assert [row.name for row in found] == [
            "features.0.weight",
            "features.3.weight",
            "head.weight",
            "out.weight",
        ]
        assert not any(row.done for row in found)
        assert all("quantize_weights holds it as int8" in row.reason for row in found)
        assert found[2].before["shape"] == (40, 384)
    with pytest.raises(mc.CoverageError):
        mct.factorize(small, rank=2, strict=True)
    assert mct.factorize(small, rank=2, include="head").coverage[0].reason == "not in include"
