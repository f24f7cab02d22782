"""TFMOT's namespace on Keras 3: a TFMOT script works after changing its import.

```python
from kprune import tfmot  # was: import tensorflow_model_optimization as tfmot

model = tfmot.sparsity.keras.prune_low_magnitude(model)
```

docs/tfmot.md lists every name, and where it differs from TFMOT's.
"""

from kprune import __version__
from kprune.tfmot import clustering, experimental, quantization, sparsity

__all__ = ["__version__", "clustering", "experimental", "quantization", "sparsity"]
