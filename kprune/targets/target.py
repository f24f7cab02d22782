"""Targets: a runtime on a processor, and what it can make of zeros, as data with its sources.

Checking, advising, preparing and rewriting read it here.
"""

import dataclasses
from fractions import Fraction
from typing import Any

from kprune.targets.tflm_operators import TFLM_OPERATORS

# XNNPACK changes a cluster if *more* than this share of its 1x1 and dense weights is zero.
NEEDED_SPARSITY = Fraction(2, 3)
NEEDED_PERCENT = f"{float(NEEDED_SPARSITY):.1%}"

CLUSTERS, BLOCKS = "clusters", "blocks"
COMPRESSED, PAIRS = "compressed", "pairs"


@dataclasses.dataclass(frozen=True)
class Rule:
    """A kernel of a target with which zeros are faster.

    Attributes:
        kernel: `CLUSTERS`: 1x1 convolutions in one of XNNPACK's clusters, with any zeros, in
            float32 (also where the weights are stored in float16); which those are is in
            `targets.xnnpack`. `BLOCKS`: dense layers on vectors, with zeros in `Block((4, 1))` and
            a number of inputs that is a multiple of 4, in float32. `COMPRESSED`: weights of any
            layer, which are stored compressed: every zero saves flash, and time where reading the
            weights bounds the layer. `PAIRS`: dense layers and convolutions of which at most 2 of
            every 4 consecutive input channels are not zero take half the multiply-adds.
        more_than: the share of zeros that must be exceeded, a fraction.
        source: where this is known from.
        cost: the time it takes for each kept share of the weights, relative to the dense kernel's;
            None where that is not one number.
    """

    kernel: str
    more_than: float
    source: str
    cost: float | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """A runtime on a processor, and what it accelerates.

    Attributes:
        name: as in `get_target`.
        runtime: the runtime.
        processor: what it runs on.
        format: the files that are made for it: `"tflite"` or `"onnx"`.
        rules: a `Rule` for each kernel with which zeros are faster; none where all is computed
            densely.
        fixed_shapes: whether it runs only files without a dynamic dimension, such as the batch's.
        quantize: the settings of an export's `quantize` whose files it runs; None for all.
        always: whether a file must be fit for it where no target is named.
        also: formats that it runs besides.
        why_dense: what keeps it from being faster with zeros, where it has no rules.
        operators: names of the operators that it has, as in `schema.BuiltinOperator`; None for all
            that the converter writes.
        otherwise: what else makes a model smaller there, a clause; may be empty.
    """

    name: str
    runtime: str
    processor: str
    format: str
    rules: tuple = ()
    fixed_shapes: bool = False
    quantize: tuple | None = None
    always: bool = True
    also: tuple = ()
    why_dense: str = "has no sparse kernels"
    operators: frozenset | None = None
    otherwise: str = ""

    @property
    def formats(self) -> tuple:
        """All the formats that it runs."""
        return (self.format, *self.also)

    @property
    def no_kernels(self) -> str:
        """Why zeros make nothing faster on a target without rules, as a sentence."""
        found = f"{self.runtime} {self.why_dense}: only removing channels makes it faster"
        return "; ".join(filter(None, [found, self.otherwise]))

    def rule(self, kernel: str) -> Any:
        """Return the `Rule` of a kernel; None where the target has none such."""
        return next((rule for rule in self.rules if rule.kernel == kernel), None)

    @property
    def clusters(self) -> bool:
        """Whether 1x1 convolutions in an XNNPACK cluster have sparse kernels."""
        return self.rule(CLUSTERS) is not None

    @property
    def block_cost(self) -> float | None:
        """The time of a dense layer stored in 1x4 blocks, as `Rule.cost`; None without a kernel."""
        rule = self.rule(BLOCKS)
        return rule and rule.cost

    @property
    def blocks_from(self) -> float | None:
        """The sparsity from which blocks are faster than the dense kernel; None for never."""
        rule = self.rule(BLOCKS)
        return rule and rule.more_than

    @property
    def own_quantize(self) -> str | None:
        """The setting of `quantize` for a file that nothing else is said of; None for float32."""
        return None if self.quantize is None or None in self.quantize else self.quantize[0]

    @property
    def compressed(self) -> bool:
        """Whether a compiler stores the weights of its files compressed (Ethos-U, by Vela)."""
        return self.rule(COMPRESSED) is not None

    @property
    def pairs(self) -> bool:
        """Whether weights with at most 2 of every 4 kept take half the multiply-adds."""
        return self.rule(PAIRS) is not None


_CLUSTERS = Rule(
    CLUSTERS,
    float(NEEDED_SPARSITY),
    "XNNPACK src/subgraph.c, xnn_subgraph_rewrite_for_nchw; measured in LiteRT.js 2.5.3: "
    "MobileNetV1 at 80% 3.1x, at 90% 4.3x",
)


def _blocks(cost, source):
    source = f"TFLite's fully connected kernel for 1x4 blocks; {source}"
    return Rule(BLOCKS, 1 - 1 / cost, source, cost)


_MLP = "measured on an MLP 1024-2048-2048-16"

_COMPRESSED = Rule(
    COMPRESSED,
    0.0,
    "Vela 5.2.0, which encodes weights without loss; its estimates: an MLP at 90% zeros takes 0.12 "
    "of the weight bytes, and 0.18 of the time on ethos-u55-128",
)
_PAIRS = Rule(
    PAIRS,
    0.5,
    "Vela 5.2.0's weight format Sparse2_4 on ethos-u85-256: dense layers, 1x1 and 3x3 convolutions "
    "with half the multiply-adds; depthwise ones and zeros along the outputs without",
)
# Multiply-adds a cycle that each family comes with: the configurations that Vela 5.2.0 knows.
_ETHOS_U = {
    "u55": (32, 64, 128, 256),
    "u65": (256, 512),
    "u85": (128, 256, 512, 1024, 2048),
}


def _ethos_u(family, macs):
    return Target(
        f"ethos-{family}-{macs}",
        "Ethos-U",
        f"Arm Ethos-{family.upper()} with {macs} multiply-adds a cycle, by Vela's estimate",
        "tflite",
        (_COMPRESSED, _PAIRS) if family == "u85" else (_COMPRESSED,),
        fixed_shapes=True,
        quantize=("int8", "int16x8"),
        always=False,
    )


TARGETS = {
    target.name: target
    for target in (
        Target(
            "litert-arm64",
            "LiteRT",
            "64-bit ARM",
            "tflite",
            (_CLUSTERS, _blocks(2.9, "not measured on ARM; as on x86")),
        ),
        Target(
            "litert-x86",
            "LiteRT",
            "x86-64 with AVX, where XNNPACK computes 1x1 convolutions densely by design "
            "(src/xnnpack/hardware-config.h)",
            "tflite",
            (_blocks(2.9, f"{_MLP}: at 70% 1.1x, at 80% 1.7x, at 90% 3.6x"),),
        ),
        Target(
            "litert-wasm",
            "LiteRT.js",
            "WebAssembly in a browser",
            "tflite",
            (_CLUSTERS, _blocks(7.7, f"{_MLP}: at 80% 0.6x, at 90% 1.4x")),
            fixed_shapes=True,
        ),
        Target(
            "onnxruntime",
            "ONNX Runtime",
            "any CPU; weights are computed with densely, so that only removing channels is faster",
            "onnx",
        ),
        Target(
            "openvino",
            "OpenVINO",
            "any CPU; weights are computed with densely, but for int8 matrices on AMX behind a "
            "switch (sparse_weights_decompression_rate), so that only removing channels is faster",
            "onnx",
            always=False,
            also=("tflite",),
            why_dense="computes densely (its switch for sparse weights is for int8 on AMX)",
        ),
        Target(
            "tflm",
            "TensorFlow Lite Micro",
            "microcontrollers; weights are computed with densely",
            "tflite",
            fixed_shapes=True,
            quantize=(None, "codebook", "int8", "int16x8"),
            always=False,
            operators=TFLM_OPERATORS,
            otherwise=(
                "kprune.WeightClustering makes the file smaller, with quantize='codebook' or 'int8'"
            ),
        ),
        *(_ethos_u(family, macs) for family, sizes in _ETHOS_U.items() for macs in sizes),
    )
}


def get_target(target: "Target | str") -> Target:
    """Return a `Target` by its name.

    Args:
        target: `"litert-arm64"`, `"litert-x86"`, `"litert-wasm"`, `"onnxruntime"`, `"openvino"`,
            `"tflm"`, `"ethos-u55-128"` and its sisters, or a `Target`.

    Raises:
        ValueError: there is no such target; the message lists those there are.
    """
    if isinstance(target, Target):
        return target
    if not isinstance(target, str) or target not in TARGETS:
        raise ValueError(f"`target` must be one of {_names()}. Received: {target!r}")
    return TARGETS[target]


def _names():
    """All names, those that differ in their last number only as one: `ethos-u65-256|512`."""
    families = {}
    for name in TARGETS:
        family, _, size = name.rpartition("-")
        families.setdefault(family if size.isdigit() else name, []).append(size)
    return ", ".join(
        f"{family}-{'|'.join(sizes)}" if sizes[0].isdigit() else family
        for family, sizes in families.items()
    )
