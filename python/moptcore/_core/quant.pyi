# SPDX-License-Identifier: Apache-2.0
# Written by scripts/stubs.
"""
Ranges, quantization and fake quantization.
"""

from __future__ import annotations
import collections.abc
import typing

ArrayLike = typing.Any
__all__: list[str] = [
    "EntropyObserver",
    "HistogramObserver",
    "MSEObserver",
    "MinMaxObserver",
    "MovingAverageObserver",
    "PercentileObserver",
    "QParams",
    "adaround",
    "awq_scales",
    "bias_correction",
    "cast",
    "cross_layer_scales",
    "dequantize",
    "dequantize_levels",
    "equalize",
    "fake_quantize",
    "fake_quantize_affine",
    "fake_quantize_backward",
    "fake_quantize_levels",
    "fake_quantize_range",
    "gptq",
    "group_qparams",
    "group_range",
    "hqq",
    "level_scale",
    "lsq",
    "lsq_backward",
    "pact",
    "pact_backward",
    "qparams_from_range",
    "quantize",
    "quantize_levels",
    "reconstruction_error",
    "smoothquant_scales",
]

class QParams:
    """
    Scale, zero point and integer range of a quantized tensor: real = (q - zero_point) * scale. Immutable.
    """
    def __eq__(self, arg0: object) -> bool: ...
    def __getstate__(self) -> tuple[typing.Any, ...]: ...
    def __hash__(self) -> int: ...
    def __init__(
        self,
        scale: typing.Any,
        zero_point: typing.Any = 0,
        dtype: typing.Any = "int8",
        axis: int | None = None,
        qmin: int | None = None,
        qmax: int | None = None,
        group_size: int | None = None,
    ) -> None:
        """
        scale: finite, > 0, one number or one for each index of `axis`.
        zero_point: integer in [qmin, qmax]; one number serves all scales.
        dtype: int8, uint8, int16, uint16, int4, uint4, or fewer integers: int3 [-4, 3], uint3
        [0, 7], int2 [-2, 1], uint2 [0, 3], ternary [-1, 1]. These are stored one an element, as
        int8 or where not signed uint8; moptcore.pack packs them.
        qmin, qmax: None is the dtype's full range.
        group_size: one scale for each group of so many neighbours along `axis` (ONNX's
        block_size): scale has the tensor's shape, but ceil(n / group_size) along `axis`. The
        last group may be incomplete.
        """
    def __repr__(self) -> str: ...
    def __setstate__(self, arg0: tuple[typing.Any, ...]) -> None: ...
    @property
    def axis(self) -> int | None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def group_size(self) -> int | None: ...
    @property
    def qmax(self) -> int: ...
    @property
    def qmin(self) -> int: ...
    @property
    def scale(self) -> typing.Any:
        """
        float, float32 vector over `axis`, or array of groups.
        """
    @property
    def zero_point(self) -> typing.Any:
        """
        int, or int32 array like scale.
        """

class MinMaxObserver:
    """
    Smallest and largest value of all updates, in all or along an axis.
    """

    __hash__: typing.ClassVar[None] = None  # type: ignore[assignment]
    def __eq__(self, arg0: object) -> bool: ...
    def __getstate__(self) -> tuple[int | None, list[float], list[float]]: ...
    def __init__(self, axis: int | None = None) -> None: ...
    def __repr__(self) -> str: ...
    def __setstate__(self, arg0: tuple[typing.Any, ...]) -> None: ...
    def load_state_dict(self, state: dict[str, typing.Any], strict: bool = True) -> None:
        """
        Continues from what state_dict() of the same class with the same settings gave; else
        FormatError.
        """
    def merge(self, other: MinMaxObserver) -> None:
        """
        As if this one had seen other's updates.
        """
    def qparams(
        self, dtype: typing.Any = "int8", symmetric: bool = True, compat: str | None = None
    ) -> QParams:
        """
        The QParams of the range; see qparams_from_range.
        """
    def reset(self) -> None:
        """
        Forgets everything seen.
        """
    def state_dict(self) -> dict[str, typing.Any]:
        """
        What was seen as a dict of arrays, with the settings of the observer; `kind` is the
        ASCII name of its class.
        """
    def update(self, x: ArrayLike, nonfinite: str = "error") -> None:
        """
        Observes x. NaN and infinities raise NonFiniteError, or are left out with "skip".
        """
    @property
    def axis(self) -> int | None: ...
    @property
    def max(self) -> typing.Any: ...
    @property
    def min(self) -> typing.Any:
        """
        float32 vector: one value, or one for each index of `axis`; empty before the first update.
        """

class MovingAverageObserver:
    """
    Exponential mean of each update's smallest and largest value; the first update sets both.
    """

    __hash__: typing.ClassVar[None] = None  # type: ignore[assignment]
    def __eq__(self, arg0: object) -> bool: ...
    def __getstate__(self) -> tuple[float, int | None, list[float], list[float], list[int]]: ...
    def __init__(self, momentum: float = 0.01, axis: int | None = None) -> None: ...
    def __repr__(self) -> str: ...
    def __setstate__(self, arg0: tuple[typing.Any, ...]) -> None: ...
    def load_state_dict(self, state: dict[str, typing.Any], strict: bool = True) -> None:
        """
        Continues from what state_dict() of the same class with the same settings gave; else
        FormatError.
        """
    def merge(self, other: MovingAverageObserver) -> None:
        """
        The mean of both ranges weighted by their counts; the counts add up.
        """
    def qparams(
        self, dtype: typing.Any = "int8", symmetric: bool = True, compat: str | None = None
    ) -> QParams:
        """
        The QParams of the range; see qparams_from_range.
        """
    def reset(self) -> None:
        """
        Forgets everything seen.
        """
    def state_dict(self) -> dict[str, typing.Any]:
        """
        What was seen as a dict of arrays, with the settings of the observer; `kind` is the
        ASCII name of its class.
        """
    def update(self, x: ArrayLike, nonfinite: str = "error") -> None:
        """
        Observes x. NaN and infinities raise NonFiniteError, or are left out with "skip".
        """
    @property
    def axis(self) -> int | None: ...
    @property
    def count(self) -> typing.Any:
        """
        int64 vector like min: the updates that moved it.
        """
    @property
    def max(self) -> typing.Any: ...
    @property
    def min(self) -> typing.Any:
        """
        float32 vector: one value, or one for each index of `axis`; empty before the first update.
        """
    @property
    def momentum(self) -> float: ...

class PercentileObserver:
    """
    The smallest range of whole bins outside of which lie at most 100 - percentile percent of
    all values: half of them on each side (tails="split"), as many on each side ("each")
    or outside of [-t, t] ("absolute").
    """

    __hash__: typing.ClassVar[None] = None  # type: ignore[assignment]
    def __eq__(self, arg0: object) -> bool: ...
    def __getstate__(self) -> tuple[typing.Any, ...]: ...
    def __init__(
        self,
        percentile: float = 99.999,
        tails: str = "split",
        axis: int | None = None,
        bins: int = 2048,
    ) -> None: ...
    def __repr__(self) -> str: ...
    def __setstate__(self, arg0: tuple[typing.Any, ...]) -> None: ...
    def load_state_dict(self, state: dict[str, typing.Any], strict: bool = True) -> None:
        """
        Continues from what state_dict() of the same class with the same settings gave; else
        FormatError.
        """
    def merge(self, other: PercentileObserver) -> None:
        """
        As if this one had seen other's updates, exactly, in any order.
        """
    def qparams(
        self, dtype: typing.Any = "int8", symmetric: bool = True, compat: str | None = None
    ) -> QParams:
        """
        The QParams of the range; see qparams_from_range.
        """
    def range(
        self, dtype: typing.Any = "int8", symmetric: bool = True, compat: str | None = None
    ) -> tuple[typing.Any, typing.Any]:
        """
        (min, max) that the rule picks, float32 vectors like `min`.
        """
    def reset(self) -> None:
        """
        Forgets everything seen.
        """
    def state_dict(self) -> dict[str, typing.Any]:
        """
        What was seen as a dict of arrays, with the settings of the observer; `kind` is the
        ASCII name of its class.
        """
    def update(self, x: ArrayLike, nonfinite: str = "error") -> None:
        """
        Observes x. NaN and infinities raise NonFiniteError, or are left out with "skip".
        """
    @property
    def axis(self) -> int | None: ...
    @property
    def bins(self) -> int: ...
    @property
    def counts(self) -> typing.Any:
        """
        int64 [channels, bins]: element i of a row counts the values in
        [(first + i) * 2**exponent, (first + i + 1) * 2**exponent), first = floor(min / 2**exponent).
        """
    @property
    def exponent(self) -> typing.Any:
        """
        int64 vector like min: bins are 2^exponent wide.
        """
    @property
    def max(self) -> typing.Any: ...
    @property
    def min(self) -> typing.Any:
        """
        float32 vector: one value, or one for each index of `axis`; empty before the first update.
        """
    @property
    def percentile(self) -> float: ...
    @property
    def tails(self) -> str: ...

class EntropyObserver:
    """
    The range whose quantized distribution has the least Kullback-Leibler divergence from the
    observed one (Migacz, 8-bit Inference with TensorRT, 2017): every edge of a bin that leaves
    a bin to every integer is tried, for two free ends 32 x 32 pairs and a descent.
    """

    __hash__: typing.ClassVar[None] = None  # type: ignore[assignment]
    def __eq__(self, arg0: object) -> bool: ...
    def __getstate__(self) -> tuple[typing.Any, ...]: ...
    def __init__(self, axis: int | None = None, bins: int = 2048) -> None: ...
    def __repr__(self) -> str: ...
    def __setstate__(self, arg0: tuple[typing.Any, ...]) -> None: ...
    def load_state_dict(self, state: dict[str, typing.Any], strict: bool = True) -> None:
        """
        Continues from what state_dict() of the same class with the same settings gave; else
        FormatError.
        """
    def merge(self, other: EntropyObserver) -> None:
        """
        As if this one had seen other's updates, exactly, in any order.
        """
    def qparams(
        self, dtype: typing.Any = "int8", symmetric: bool = True, compat: str | None = None
    ) -> QParams:
        """
        The QParams of the range; see qparams_from_range.
        """
    def range(
        self, dtype: typing.Any = "int8", symmetric: bool = True, compat: str | None = None
    ) -> tuple[typing.Any, typing.Any]:
        """
        (min, max) that the rule picks, float32 vectors like `min`.
        """
    def reset(self) -> None:
        """
        Forgets everything seen.
        """
    def state_dict(self) -> dict[str, typing.Any]:
        """
        What was seen as a dict of arrays, with the settings of the observer; `kind` is the
        ASCII name of its class.
        """
    def update(self, x: ArrayLike, nonfinite: str = "error") -> None:
        """
        Observes x. NaN and infinities raise NonFiniteError, or are left out with "skip".
        """
    @property
    def axis(self) -> int | None: ...
    @property
    def bins(self) -> int: ...
    @property
    def counts(self) -> typing.Any:
        """
        int64 [channels, bins]: element i of a row counts the values in
        [(first + i) * 2**exponent, (first + i + 1) * 2**exponent), first = floor(min / 2**exponent).
        """
    @property
    def exponent(self) -> typing.Any:
        """
        int64 vector like min: bins are 2^exponent wide.
        """
    @property
    def max(self) -> typing.Any: ...
    @property
    def min(self) -> typing.Any:
        """
        float32 vector: one value, or one for each index of `axis`; empty before the first update.
        """

class MSEObserver:
    """
    The range with the least mean squared quantization error, every bin's values spread evenly
    over it: every edge of a bin is tried, for two free ends 32 x 32 pairs and a descent.
    """

    __hash__: typing.ClassVar[None] = None  # type: ignore[assignment]
    def __eq__(self, arg0: object) -> bool: ...
    def __getstate__(self) -> tuple[typing.Any, ...]: ...
    def __init__(self, axis: int | None = None, bins: int = 2048) -> None: ...
    def __repr__(self) -> str: ...
    def __setstate__(self, arg0: tuple[typing.Any, ...]) -> None: ...
    def load_state_dict(self, state: dict[str, typing.Any], strict: bool = True) -> None:
        """
        Continues from what state_dict() of the same class with the same settings gave; else
        FormatError.
        """
    def merge(self, other: MSEObserver) -> None:
        """
        As if this one had seen other's updates, exactly, in any order.
        """
    def qparams(
        self, dtype: typing.Any = "int8", symmetric: bool = True, compat: str | None = None
    ) -> QParams:
        """
        The QParams of the range; see qparams_from_range.
        """
    def range(
        self, dtype: typing.Any = "int8", symmetric: bool = True, compat: str | None = None
    ) -> tuple[typing.Any, typing.Any]:
        """
        (min, max) that the rule picks, float32 vectors like `min`.
        """
    def reset(self) -> None:
        """
        Forgets everything seen.
        """
    def state_dict(self) -> dict[str, typing.Any]:
        """
        What was seen as a dict of arrays, with the settings of the observer; `kind` is the
        ASCII name of its class.
        """
    def update(self, x: ArrayLike, nonfinite: str = "error") -> None:
        """
        Observes x. NaN and infinities raise NonFiniteError, or are left out with "skip".
        """
    @property
    def axis(self) -> int | None: ...
    @property
    def bins(self) -> int: ...
    @property
    def counts(self) -> typing.Any:
        """
        int64 [channels, bins]: element i of a row counts the values in
        [(first + i) * 2**exponent, (first + i + 1) * 2**exponent), first = floor(min / 2**exponent).
        """
    @property
    def exponent(self) -> typing.Any:
        """
        int64 vector like min: bins are 2^exponent wide.
        """
    @property
    def max(self) -> typing.Any: ...
    @property
    def min(self) -> typing.Any:
        """
        float32 vector: one value, or one for each index of `axis`; empty before the first update.
        """

class HistogramObserver:
    """
    The range with the least mean squared quantization error on one path: inwards from the
    whole range, 1e-5 of the values at a time at the end where that skips more bins. The path
    of torch.ao's HistogramObserver, walked to its end.
    """

    __hash__: typing.ClassVar[None] = None  # type: ignore[assignment]
    def __eq__(self, arg0: object) -> bool: ...
    def __getstate__(self) -> tuple[typing.Any, ...]: ...
    def __init__(self, axis: int | None = None, bins: int = 2048) -> None: ...
    def __repr__(self) -> str: ...
    def __setstate__(self, arg0: tuple[typing.Any, ...]) -> None: ...
    def load_state_dict(self, state: dict[str, typing.Any], strict: bool = True) -> None:
        """
        Continues from what state_dict() of the same class with the same settings gave; else
        FormatError.
        """
    def merge(self, other: HistogramObserver) -> None:
        """
        As if this one had seen other's updates, exactly, in any order.
        """
    def qparams(
        self, dtype: typing.Any = "int8", symmetric: bool = True, compat: str | None = None
    ) -> QParams:
        """
        The QParams of the range; see qparams_from_range.
        """
    def range(
        self, dtype: typing.Any = "int8", symmetric: bool = True, compat: str | None = None
    ) -> tuple[typing.Any, typing.Any]:
        """
        (min, max) that the rule picks, float32 vectors like `min`.
        """
    def reset(self) -> None:
        """
        Forgets everything seen.
        """
    def state_dict(self) -> dict[str, typing.Any]:
        """
        What was seen as a dict of arrays, with the settings of the observer; `kind` is the
        ASCII name of its class.
        """
    def update(self, x: ArrayLike, nonfinite: str = "error") -> None:
        """
        Observes x. NaN and infinities raise NonFiniteError, or are left out with "skip".
        """
    @property
    def axis(self) -> int | None: ...
    @property
    def bins(self) -> int: ...
    @property
    def counts(self) -> typing.Any:
        """
        int64 [channels, bins]: element i of a row counts the values in
        [(first + i) * 2**exponent, (first + i + 1) * 2**exponent), first = floor(min / 2**exponent).
        """
    @property
    def exponent(self) -> typing.Any:
        """
        int64 vector like min: bins are 2^exponent wide.
        """
    @property
    def max(self) -> typing.Any: ...
    @property
    def min(self) -> typing.Any:
        """
        float32 vector: one value, or one for each index of `axis`; empty before the first update.
        """

def adaround(
    weights: ArrayLike,
    hessian: ArrayLike,
    qparams: QParams,
    iterations: int = 500,
    learning_rate: float = 0.02,
    regularization: float = 0.02,
    preserve_zeros: bool = False,
    out: typing.Any = None,
) -> typing.Any:
    """
    AdaRound (Nagel et al. 2020, section 4): for each weight the integer below or above it.

    Learns a rectified sigmoid a weight by Adam on the outputs' error, hessian = X^T X of the inputs
    [in, in], pressed to 0 or 1 by sum(1 - |2h - 1|^beta), beta from 20 to 2; then turns over single
    weights while that lowers the error. No row's error exceeds that of rounding to the nearest. No
    random numbers. weights: [out, in] on the grids of `qparams`. preserve_zeros: weights that
    are 0, as pruned ones are, get the zero point. Integers as gptq gives them.
    """

def awq_scales(
    weights: ArrayLike,
    activation_mean: ArrayLike,
    hessian: ArrayLike,
    dtype: typing.Any = "int4",
    group_size: int | None = None,
    symmetric: bool = True,
    steps: int = 20,
) -> tuple[typing.Any, ...]:
    """
    AWQ (Lin et al. 2023, section 3.2): (scales [in], exponent).

    Quantize weights * scales and divide the inputs by scales. scales = m^a, normalized, m the mean |x|
    of each input, with the a of 0, 1/steps, ..., 1 whose error of the outputs is least; 0 means no
    scaling. hessian: X^T X of the inputs [in, in], or its diagonal [in]. The grids are those of the
    scaled weights' smallest and largest values, as in group_qparams.
    """

def bias_correction(
    weights: ArrayLike,
    approximation: ArrayLike,
    mean: ArrayLike,
    groups: int = 1,
    out: typing.Any = None,
) -> typing.Any:
    """
    What to add to the bias of a layer with approximate weights: (W - W') E[x], [out].

    Nagel et al. 2019, section 4.2. weights, approximation: [out, in / groups, ...]; mean: the mean of
    each input channel [in].
    """

def cast(
    x: ArrayLike, dtype: typing.Any, out: typing.Any = None, overflow: str = "error"
) -> typing.Any:
    """
    x as float16 or bfloat16, rounded once, half to even. Finite values beyond the dtype raise
    NonFiniteError, as NaN and infinities do; with overflow="saturate" they become the largest
    finite number, with "infinity" infinite, and NaN and infinities stay.
    """

def cross_layer_scales(
    first: ArrayLike, second: ArrayLike, power_of_two: bool = False
) -> typing.Any:
    """
    Cross-layer equalization (Nagel et al. 2019, section 4.1): s = sqrt(r1 / r2), [channels].

    r1, r2: the largest magnitude of each channel in first [channels, ...] and in second
    [out, channels / groups, ...]. Divide the rows and the bias of the first by s, multiply the input
    channels of the second. 1 where a range is 0.
    """

def dequantize(
    q: ArrayLike,
    qp: QParams,
    out: typing.Any = None,
    shape: collections.abc.Sequence[int] | None = None,
    packed: bool = True,
    backend: str | None = None,
) -> typing.Any:
    """
    (q - zero_point) * scale as float32, or in the floating dtype of `out`. Packed int4 and
    uint4 need `shape` or `out`. backend="onednn": int8 and uint8, the same bits.
    """

def dequantize_levels(
    q: ArrayLike, scale: typing.Any, axis: int | None = None, out: typing.Any = None
) -> typing.Any:
    """
    The levels of int8 codes as float32, or in the floating dtype of `out`:
    sign(q) * scale * 2^(1 - |q|), 0 for 0. With the dtype of x that is fake_quantize_levels, bit
    for bit. Codes beyond [-100, 100] raise Error.
    """

def equalize(
    weights: typing.Any,
    biases: typing.Any = None,
    power_of_two: bool = False,
    iterations: int = 100,
    tolerance: float = 0.001,
) -> tuple[typing.Any, ...]:
    """
    Equalizes a chain of layers with ReLUs between them: (weights, biases), new arrays.

    cross_layer_scales of each pair, applied, until no factor is further than `tolerance` from 1.
    weights: list of [out, in / groups, ...]; biases: list of [out] or None. power_of_two: factors that
    change no bit of the network's outputs.
    """

def fake_quantize(
    x: ArrayLike,
    qp: QParams,
    out: typing.Any = None,
    bits: ArrayLike | None = None,
    nonfinite: str = "propagate",
    compat: str | None = None,
) -> typing.Any:
    """
    dequantize(quantize(x, qp), qp) in one pass, bit for bit, in x's dtype.
    compat="torch": torch.fake_quantize_*, which rounds before it adds the zero point;
    torch's quantize rounds after, so that the two differ by one step at a few ties.

    bits: uint8 buffer of ceil(n / 8) bytes for the gradient's mask: bit i % 8 of byte i // 8
    is 1 where the i-th element (row-major) rounds to an integer in [qmin, qmax] unsaturated.
    nonfinite: NaN stays NaN ("propagate"), becomes 0 ("zero_point") or raises ("error");
    infinities saturate. compat: "torch" or "tflite" round as those do.
    """

def fake_quantize_affine(
    x: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    out: typing.Any = None,
    bits: bool | ArrayLike | None = None,
    compat: str | None = None,
) -> typing.Any:
    """
    fake_quantize with the grid as arrays: scale float32 and zero_point int32, one number or
    one for each index of `axis`. NaN stays NaN. bits=True makes the bits too and returns
    (y, bits). For framework adapters.
    """

def fake_quantize_backward(grad: ArrayLike, bits: ArrayLike, out: typing.Any = None) -> typing.Any:
    """
    The gradient of fake_quantize: grad where the bit is set, else 0 (also where grad is NaN).
    """

def fake_quantize_levels(
    x: ArrayLike,
    scale: typing.Any,
    powers: int = 0,
    axis: int | None = None,
    out: typing.Any = None,
    bits: ArrayLike | None = None,
) -> typing.Any:
    """
    x rounded to levels that are no grid, in x's shape and dtype; NaN raises NonFiniteError.

    powers=0: {-scale, scale} (BinaryConnect, XNOR-Net), 0 becomes scale. powers=n: 0 and
    +-scale * 2^-k for k < n (INQ), the nearest on the line of numbers, ties to the larger
    magnitude. bits: see fake_quantize; the gradient passes where |x| <= 2 scale for two levels,
    1.5 scale for powers of two. fake_quantize_backward is the gradient.
    """

def fake_quantize_range(
    x: ArrayLike,
    min: typing.Any,
    max: typing.Any,
    num_bits: int = 8,
    narrow_range: bool = False,
    axis: int | None = None,
    out: typing.Any = None,
    bits: ArrayLike | None = None,
    compat: str | None = "tf",
) -> typing.Any:
    """
    tf.quantization.fake_quant_with_min_max_vars, or with an axis its _per_channel form on
    any axis, bit for bit. bits: min <= x <= max of the nudged range.
    """

def gptq(
    weights: ArrayLike,
    hessian: ArrayLike,
    dtype: typing.Any = "int4",
    group_size: int | None = None,
    symmetric: bool = True,
    damping: float = 0.01,
    block_size: int = 128,
    order: str = "none",
    qparams: QParams | None = None,
    preserve_zeros: bool = False,
    out: typing.Any = None,
) -> tuple[typing.Any, ...]:
    """
    GPTQ (Frantar et al. 2022, algorithm 1): (integers, QParams).

    Rounds the columns of weights [out, in] one after the other and changes those that are left so
    that the outputs keep. hessian: X^T X of the inputs [in, in], times any factor; damping times its
    mean diagonal is added to the diagonal. One grid a row, or one for each group_size neighbours of a
    row, found when the first column of the group is reached; or those of `qparams`.
    order="activation" takes the columns with the largest diagonal first, on grids of the given
    weights. preserve_zeros: weights that are 0, as pruned ones are, get the zero point, and the others
    make up for that too. Integers are int8 for int4 and uint8 for uint4, one each; dequantize(q, qp,
    packed=False) gives the weights. Raises Error where the damped hessian is not positive definite.
    """

def group_qparams(
    x: ArrayLike,
    group_size: int,
    axis: int = -1,
    dtype: typing.Any = "int4",
    symmetric: bool = True,
) -> QParams:
    """
    The QParams of the smallest and largest value of each group: qparams_from_range of
    group_range. For weight-only quantization; ONNX's blocked DequantizeLinear.
    """

def group_range(x: ArrayLike, group_size: int, axis: int = -1) -> tuple[typing.Any, typing.Any]:
    """
    (min, max) of each `group_size` neighbours along `axis` as float32 arrays with x's shape,
    but ceil(n / group_size) along `axis`: [out, in] weights give [out, groups]. The last group
    may be incomplete. NaN and infinities raise NonFiniteError.
    """

def hqq(
    weights: ArrayLike,
    dtype: typing.Any = "int4",
    group_size: int | None = None,
    symmetric: bool = False,
    norm: float = 0.7,
    beta: float = 10.0,
    growth: float = 1.01,
    iterations: int = 20,
    integer_zero: bool = False,
) -> tuple[typing.Any, ...]:
    """
    HQQ (Badri and Shaji 2023): (integers, scale, zero_point) without data.

    weights [out, in] ~ (q - zero_point) * scale with float32 scale and zero_point, [out] or, with
    group_size, [out, ceil(in / group_size)]. Lowers sum |e|^norm of the errors in steps by half-
    quadratic splitting: the zero point, or the scale where symmetric. The best of all iterations is
    kept. integer_zero: zero points are whole numbers of the grid, as QParams wants them.
    """

def level_scale(x: ArrayLike, levels: str = "ternary", axis: int | None = None) -> typing.Any:
    """
    The scale for x, a float or a float32 vector over `axis`; 1 where all of x is 0.

    "binary": mean |x|, the least squared error with {-s, s} (XNOR-Net). "ternary": the least
    squared error with {-s, 0, s}, exact; its levels are those of
    QParams(s, 0, "ternary", axis). "twn": the mean of |x| > 0.7 mean |x| (Ternary Weight
    Networks), near to it.
    """

def lsq(
    x: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    qmin: int = -128,
    qmax: int = 127,
    axis: int | None = None,
    out: typing.Any = None,
) -> typing.Any:
    """
    Fake quantization with a learned scale, in x's dtype.

    LSQ (Esser et al. 2020, section 2.1), and with `zero_point` or `offset` LSQ+ (Bhalgat et al. 2020,
    section 3):
      zero_point z: y = (clamp(rint(x / scale) + z, qmin, qmax) - z) * scale
      offset b:     y = clamp(rint((x - b) / scale), qmin, qmax) * scale + b
    scale, zero_point, offset: floating, one number, or with `axis` one for each of its indices. A zero
    point is rounded half to even and clamped to [qmin, qmax]; y is then fake_quantize's, bit for bit.
    A scale that is not finite and > 0 is an Error; NaN in x stays NaN.
    """

def lsq_backward(
    grad: ArrayLike,
    x: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    qmin: int = -128,
    qmax: int = 127,
    axis: int | None = None,
    grad_scale: float | None = None,
    out: typing.Any = None,
) -> tuple[typing.Any, ...]:
    """
    The gradients of lsq in one pass: (by x, by scale[, by zero_point or offset]).

    Rounding counts as the identity. With v = (x - offset) / scale, or x / scale: an element whose
    integer needs no clamping gives (1, rint(v) - v, 0), a clamped one (0, the bound it is clamped to
    less the zero point, -scale for a zero point or 1 for an offset), times grad. The gradients of the
    grid are multiplied by grad_scale; None is LSQ's 1 / sqrt(n qmax), n the number of elements that
    share a scale. They have the shape and dtype of scale, zero_point and offset; sums are in double
    and the same at any number of threads. NaN in x gives 0.
    """

def pact(
    x: ArrayLike, alpha: ArrayLike, bits: int = 8, axis: int | None = None, out: typing.Any = None
) -> typing.Any:
    """
    x clipped to [0, alpha] and rounded to 2^bits - 1 steps, in x's dtype.

    PACT (Choi et al. 2018, section 3): y = rint(clamp(x, 0, alpha) / s) * s, s = alpha / (2^bits - 1).
    alpha: finite, > 0, floating, one number, or with `axis` one for each of its indices.
    """

def pact_backward(
    grad: ArrayLike,
    x: ArrayLike,
    alpha: ArrayLike,
    bits: int = 8,
    axis: int | None = None,
    out: typing.Any = None,
) -> tuple[typing.Any, ...]:
    """
    The gradients of pact in one pass: (by x, by alpha).

    By x: grad where 0 <= x < alpha, else 0. By alpha: the sum of grad where x >= alpha.
    """

def qparams_from_range(
    min: typing.Any,
    max: typing.Any,
    dtype: typing.Any = "int8",
    symmetric: bool = True,
    axis: int | None = None,
    compat: str | None = None,
    group_size: int | None = None,
) -> QParams:
    """
    The QParams that cover [min, max], extended to hold 0.

    min, max: numbers, vectors over `axis`, or with group_size arrays as group_range gives.
    symmetric: scale = absmax / 127 and integers [-127, 127] for int8, [-3, 3] for int3, [-1, 1]
    for int2; else the full range with a zero point. A range of nothing but 0 gives scale 1; no scale is below 2^-126.
    compat: "torch" follows torch.ao's observers, "tflite" TFLite.
    """

def quantize(
    x: ArrayLike,
    qp: QParams,
    out: typing.Any = None,
    nonfinite: str = "error",
    compat: str | None = None,
    packed: bool = True,
    backend: str | None = None,
) -> typing.Any:
    """
    Integers of qp.dtype: clamp(rint(x / scale) + zero_point, qmin, qmax), ties to even, as
    ONNX QuantizeLinear. Infinities saturate; NaN raises NonFiniteError or, with
    nonfinite="zero_point", becomes zero_point. compat: "torch" gives the integers of
    torch.quantize_per_tensor, with an axis of torch.quantize_per_channel; "tflite" rounds
    ties away from zero.
    int4, uint4: a uint8 vector, element 2i in the low nibble of byte i, 2i + 1 in the high
    one, row-major; packed=False: one int8 or uint8 an element. int3, int2 and ternary: one int8,
    uint3 and uint2: one uint8 an element.
    backend="onednn": contiguous float32 to int8 or uint8 through oneDNN's reorder, which
    multiplies by 1 / scale: one step away where that rounds to the other side of a tie.
    """

def quantize_levels(
    x: ArrayLike,
    scale: typing.Any,
    powers: int = 0,
    axis: int | None = None,
    out: typing.Any = None,
) -> typing.Any:
    """
    The int8 codes of fake_quantize_levels: 0 for 0, else k + 1 with the sign of the level
    +-scale * 2^-k. Two levels have the codes -1 and 1. NaN raises NonFiniteError.
    """

def reconstruction_error(weights: ArrayLike, approximation: ArrayLike, hessian: ArrayLike) -> float:
    """
    The squared error of a layer's outputs: sum over rows of (w - a) H (w - a)^T.

    weights, approximation: [out, in]; hessian: X^T X of the inputs, [in, in], or its diagonal [in].
    """

def smoothquant_scales(
    activation_max: ArrayLike, weights: typing.Any, alpha: float = 0.5, power_of_two: bool = False
) -> typing.Any:
    """
    SmoothQuant (Xiao et al. 2022, equation 4): s = max|x|^alpha / max|w|^(1 - alpha), [in].

    Divide the inputs by s and multiply the input channels of all weights that read them (one array
    [out, in, ...] or a list). 1 where an input or its weights are 0. power_of_two: the nearest power
    of two, so that nothing is rounded.
    """
