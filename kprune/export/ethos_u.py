"""The Vela-compiled file beside a verified one, for an Arm Ethos-U."""

from kprune._system.errors import ExportError
from kprune.export.pipeline import Finished
from kprune.runtimes.vela import compile_tflite, require_vela
from kprune.runtimes.vela_tables import to_json
from kprune.targets import ethos_u

COMPILED, ESTIMATE = "_vela.tflite", "_vela.json"


def beside(path):
    """Return the paths of the compiled file, and of Vela's estimate of it, beside a `.tflite`."""
    return [path.with_name(path.stem + ending) for ending in (COMPILED, ESTIMATE)]


class Compiler:
    """What the format `TFLite` does for an Ethos-U, once its file has run in LiteRT.

    Args:
        target: a `Target`.
        sram: bytes of SRAM there are, or None for as much as is needed.

    Raises:
        ImportError: Vela is not installed.
        ValueError: `sram` is no number of bytes.
    """

    def __init__(self, target, sram=None):
        if sram is not None and (isinstance(sram, bool) or not isinstance(sram, int) or sram < 1):
            raise ValueError(f"`sram` must be a positive number of bytes. Received: sram={sram!r}")
        require_vela()
        self._target, self._sram, self._estimate = target, sram, None

    def finish(self, verified, show):
        """Compile a `Verified`; return it as `Finished`, with the compiled file beside it.

        Raises:
            ExportError: Vela cannot compile it, it leaves everything to the processor, or it needs
                more SRAM than there is.
        """
        show(f"compiling for {self._target.name} with Vela …")
        compiled = compile_tflite(verified.blob, self._target.name, self._sram)
        estimate = compiled.estimate
        if not estimate.npu_operators:
            raise ExportError(
                f"Nothing of the model would run on {self._target.name}, so nothing was kept. "
                + "; ".join(ethos_u.left_to_the_processor(estimate))
            )
        if self._sram is not None and estimate.sram_bytes > self._sram:
            raise ExportError(
                f"On {self._target.name} the model needs {estimate.sram_bytes:,} bytes of SRAM, "
                f"also when Vela goes for the least memory, and sram={self._sram:,} was given: "
                "remove channels, make its input smaller, or give it more. Nothing was kept."
            )
        self._estimate = estimate
        return Finished(
            verified.blob,
            beside=[compiled.blob, to_json(estimate, compiled.blob)],
            notes=ethos_u.left_to_the_processor(estimate),
            facts={"estimate": estimate},
        )

    def outlooks(self, blob, model):
        """Return the `Outlook` of a file with zeros, in a list; it was compiled before."""
        dense = ethos_u.as_dense(blob, self._target, self._estimate, self._sram)
        return [ethos_u.outlook(self._estimate, dense, self._target, model)]
