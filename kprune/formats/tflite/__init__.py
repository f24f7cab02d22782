"""`.tflite` files: what they hold, and changing it.

Only this room knows TFLite's schema. `file` takes a file apart and puts it together; `constants`,
`operators`, `sparsity`, `quantization` and `flops` say what is in it. Each of `codebooks`,
`padding` and `blocks` is one transformation, `transform(blob, ...) -> bytes`: of a file's bytes,
which it returns themselves where there is nothing to change.
"""
