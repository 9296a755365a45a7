# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import pickle

import moptcore as mc
import moptcore.torch as mct
import numpy as np
import pytest
import torch
from moptcore import distill
from moptcore.distill import TeacherCache
from moptcore.torch import relations

CASES = {
    "attention": (mct.AttentionTransferLoss(), distill.attention_loss, {}),
    "attention of cubes": (
        mct.AttentionTransferLoss(3.0, axis=2),
        distill.attention_loss,
        {"p": 3.0, "axis": 2},
    ),
    "relational": (mct.RelationalLoss(), distill.relational_loss, {}),
    "distances": (
        mct.RelationalLoss(2.0, 0.0),
        distill.relational_loss,
        {"distance": 2.0, "angle": 0},
    ),
    "similarity": (mct.SimilarityLoss(), distill.similarity_loss, {}),
    "dist": (mct.DistLoss(), distill.dist_loss, {}),
    "dist at 3": (
        mct.DistLoss(2.0, 0.5, 3.0, axis=1),
        distill.dist_loss,
        {"inter": 2.0, "intra": 0.5, "temperature": 3.0, "axis": 1},
    ),
    "cosine": (mct.CosineLoss(), distill.cosine_loss, {}),
    "cosine along channels": (mct.CosineLoss(axis=1), distill.cosine_loss, {"axis": 1}),
    "hint": (mct.HintLoss(), distill.feature_loss, {}),
}


def features(shape=(6, 5, 4), dtype=torch.float64):
    random = torch.Generator().manual_seed(1)
    return (
        torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_(),
        torch.randn(shape, generator=random, dtype=torch.float64).to(dtype),
    )


def composite_only(monkeypatch):
    monkeypatch.setattr(
        relations, "core_loss", lambda s, t, core, composite: composite(s, t.detach())
    )
    monkeypatch.setattr(
        mct.distillation, "core_loss", lambda s, t, core, composite: composite(s, t.detach())
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_module_gives_the_core_s_loss_and_gradient(case, dtype):
    module, core, options = CASES[case]
    student, teacher = features(dtype=dtype)
    expected, slope = core(student.detach(), teacher, **options)
    loss = module(student, teacher)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert loss.item() == torch.tensor(expected, dtype=loss.dtype).item()
    loss.backward()
    assert torch.equal(student.grad, slope)
    assert module(student.detach(), teacher).grad_fn is None
    assert type(module).__name__ in repr(module)


def masks(case):
    random = torch.Generator().manual_seed(3)
    if case in ("relational", "distances", "similarity"):
        shape = (6,)
    elif case in ("attention", "cosine along channels", "dist at 3"):
        shape = (6, 4)
    else:
        shape = (6, 5)
    return torch.rand(shape, generator=random) < 0.7


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_the_composite_of_other_devices_equals_the_core(case, masked, monkeypatch):
    module, _, _ = CASES[case]
    student, teacher = features()
    mask = masks(case) if masked else None
    loss = module(student, teacher, mask)
    loss.backward()
    expected = student.grad.clone()
    student.grad = None
    composite_only(monkeypatch)
    same = module(student, teacher, mask)
    same.backward()
    # Both are float64; cancellation in the differences leaves these digits.
    torch.testing.assert_close(same, loss, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(student.grad, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("case", [c for c in CASES if c != "hint"])
def test_degenerate_features_have_gradient_zero_on_both_paths(case, monkeypatch):
    module, _, _ = CASES[case]
    _, teacher = features()
    for path in ("core", "composite"):
        if path == "composite":
            composite_only(monkeypatch)
        student = torch.zeros_like(teacher, requires_grad=True)
        loss = module(student, teacher)
        loss.backward()
        assert torch.isfinite(loss), path
        assert not student.grad.any(), path


def test_wrong_tensors_are_named():
    student, teacher = features()
    with pytest.raises(mc.DTypeError, match=r"\[torch.CosineLoss\] teacher must be a Tensor"):
        mct.CosineLoss()(student, [1.0])
    with pytest.raises(mc.Error, match="student must have the shape of teacher"):
        mct.HintLoss()(student, teacher[:2])
    with pytest.raises(mc.Error, match=r"distance must be finite and >= 0, got -1"):
        mct.RelationalLoss(-1)
    with pytest.raises(mc.Error, match=r"p must be finite and >= 1, got 0.5"):
        mct.AttentionTransferLoss(0.5)
    with pytest.raises(mc.DTypeError, match=r"axis must be an integer, got 1\.5"):
        mct.DistLoss(axis=1.5)
    loss = mct.CosineLoss()(student, teacher)
    with pytest.raises(mc.UnsupportedError, match="second derivatives"):
        torch.autograd.grad(loss, student, create_graph=True)


def test_a_hint_trains_its_adaptor():
    student, teacher = features((8, 5))
    module = mct.HintLoss(torch.nn.Linear(5, 5, dtype=torch.float64))
    loss = module(student, teacher)
    loss.backward()
    expected = distill.feature_loss(
        student.detach(), teacher, module.adaptor.weight.detach(), module.adaptor.bias.detach()
    )
    np.testing.assert_allclose(loss.item(), expected[0], rtol=1e-14)
    torch.testing.assert_close(student.grad, expected[1])
    torch.testing.assert_close(module.adaptor.weight.grad, expected[2])
    torch.testing.assert_close(module.adaptor.bias.grad, expected[3])


def network(seed=0, width=8):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(5, width), torch.nn.ReLU(), torch.nn.Linear(width, 3)
    )


def test_an_extractor_sees_layers_and_leaves_no_trace():
    model = network()
    x = torch.randn(4, 5)
    with mct.FeatureExtractor(model, ["1", "2", ""]) as seen:
        with pytest.raises(mc.Error, match="got '1', which has not run yet"):
            seen["1"]
        y = model(x)
        assert seen[""] is y
        assert seen["2"] is y
        assert torch.equal(seen["1"], model[1](model[0](x)))
        assert seen["1"].requires_grad
        with pytest.raises(mc.Error, match="got '0', which is none of"):
            seen["0"]
        seen.clear()
        assert seen.features == {}
        twin, loaded = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        twin(x)
        loaded(x)
        assert seen.features == {}
    model(x)
    assert seen.features == {}
    assert not any(module._forward_hooks for module in model.modules())
    seen.close()
    with pytest.raises(mc.Error, match=r"paths must be modules of the model \('0', '1', '2'\)"):
        mct.FeatureExtractor(model, ["layer3"])
    with pytest.raises(mc.DTypeError, match="paths must be a list of names, got '0'"):
        mct.FeatureExtractor(model, "0")
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "none"])
@pytest.mark.parametrize("standardize", [False, True])
def test_masked_and_standardized_soft_targets(reduction, standardize, monkeypatch):
    student, teacher = features()
    labels = torch.randint(0, 4, (6, 5), generator=torch.Generator().manual_seed(2))
    mask = masks("hint")
    module = mct.DistillationLoss(2.0, 0.6, reduction=reduction, standardize=standardize)
    expected, slope = distill.soft_target_loss(
        student.detach(),
        teacher,
        labels,
        2.0,
        0.6,
        reduction=reduction,
        standardize=standardize,
        mask=mask,
    )
    for path in ("core", "composite"):
        if path == "composite":
            composite_only(monkeypatch)
        student.grad = None
        loss = module(student, teacher, labels, mask)
        loss.sum().backward()
        torch.testing.assert_close(
            loss.detach(), torch.as_tensor(expected, dtype=loss.dtype), rtol=1e-12, atol=1e-14
        )
        torch.testing.assert_close(student.grad, slope, rtol=1e-10, atol=1e-14)
        assert not student.grad[~mask].any()


def test_several_teachers_average_or_add():
    student, one = features()
    _, other = (x.detach() * 2 for x in features())
    teachers = [one, other.flip(1)]
    labels = torch.randint(0, 4, (6, 5), generator=torch.Generator().manual_seed(2))
    weights = (3.0, 1.0)
    average = mct.DistillationLoss(2.0, 0.6, teacher_weights=weights)
    each = mct.DistillationLoss(2.0, 0.6, teacher_weights=weights, each_teacher=True)
    single = mct.DistillationLoss(2.0, 0.6)
    together = each(student, teachers, labels)
    alone = [single(student, t, labels) for t in teachers]
    torch.testing.assert_close(together, (3 * alone[0] + alone[1]) / 4)
    (slope,) = torch.autograd.grad(together, student)
    loss = average(student, teachers, labels)
    (same,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(slope, same, rtol=1e-10, atol=1e-14)
    # The average of the teachers is nearer to any student than they are: convexity of KL.
    assert loss < together
    with pytest.raises(mc.Error, match="teacher_logits must be 2 tensors"):
        average(student, [one], labels)
    with pytest.raises(mc.Error, match="teacher_weights must have a sum > 0"):
        mct.DistillationLoss(teacher_weights=[0.0])


def batches(n=24, size=8):
    random = torch.Generator().manual_seed(4)
    x, y = torch.randn(n, 5, generator=random), torch.randint(0, 3, (n,), generator=random)
    at = torch.arange(n)
    return [(x[i : i + size], y[i : i + size], at[i : i + size]) for i in range(0, n, size)]


def test_distilling_from_a_cache_equals_asking_the_teacher_every_time(tmp_path):
    teacher = network(1, 16)
    data = batches()
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    students = [network(2), network(2)]
    plain = mct.distill(students[0], teacher, [b[:2] for b in data], epochs=3)
    assert len(calls) == 9
    calls.clear()
    options = {"teacher": mct.fingerprint(teacher), "dataset": "24 samples"}
    cache = TeacherCache(tmp_path, 24, 3, **options)
    cache.put(np.arange(8, 16), teacher(data[1][0]).detach().numpy())
    calls.clear()
    cached = mct.distill(students[1], teacher, data, epochs=3, cache=cache)
    assert len(calls) == 2
    assert cache.complete
    assert cached == plain
    for a, b in zip(*(s.parameters() for s in students), strict=True):
        assert torch.equal(a, b)
    # A run in bfloat16 leaves what a later one in float32 may read.
    narrow = TeacherCache(tmp_path / "narrow", 24, 3, **options)
    mct.distill(students[1], teacher, data, cache=narrow, precision="bfloat16")
    np.testing.assert_array_equal(narrow.get(np.arange(24)), cache.get(np.arange(24)))
    with pytest.raises(mc.DTypeError, match="cache must be a TeacherCache, got str"):
        mct.distill(students[1], teacher, data, cache="narrow")
    with torch.no_grad():
        teacher[0].weight[0, 0] += 1
    with pytest.raises(mc.Error, match="cache must be of this teacher"):
        mct.distill(students[1], teacher, data, cache=cache)
    with pytest.raises(mc.Error, match="teacher must be that of the cache"):
        TeacherCache(tmp_path, 24, 3, **{**options, "teacher": mct.fingerprint(teacher)})
    same = TeacherCache(tmp_path / "b", 24, 3, teacher=mct.fingerprint(teacher), dataset="d")
    with pytest.raises(mc.DTypeError, match=r"data must yield \(x, y, indices\), got tuple of 2"):
        mct.distill(students[1], teacher, [b[:2] for b in data], cache=same)


def test_fingerprints_follow_every_bit():
    model = network()
    first = mct.fingerprint(model)
    assert first == mct.fingerprint(copy.deepcopy(model))
    assert first != mct.fingerprint(network(3))
    assert first != mct.fingerprint(copy.deepcopy(model).double())
    half = copy.deepcopy(model).bfloat16()
    assert mct.fingerprint(half) == mct.fingerprint(copy.deepcopy(half))
    with torch.no_grad():
        model[2].bias[0] = -model[2].bias[0]
    assert first != mct.fingerprint(model)
    with pytest.raises(mc.DTypeError, match="model must be a Module, got str"):
        mct.fingerprint("model")


def test_scalars_and_adaptors_that_are_none_are_named():
    scalar = torch.tensor(1.0)
    for loss in (mct.DistLoss(), mct.CosineLoss(), mct.SimilarityLoss(), mct.RelationalLoss()):
        with pytest.raises(mc.Error, match="student must have 1 or more axes, got a scalar"):
            loss(scalar, scalar)
    with pytest.raises(mc.Error, match="student_logits must have 1 or more axes"):
        mct.DistillationLoss()(scalar, scalar)
    for kind in (mct.HintLoss, mct.FeatureDistillationLoss):
        with pytest.raises(TypeError, match="adaptor must be a Module or None, got int"):
            kind(adaptor=3)
    # A function without parameters is an adaptor too.
    assert mct.HintLoss(torch.neg)(torch.ones(2, 3), -torch.ones(2, 3)) == 0
