"""`.onnx` files: what they hold, and changing it.

`constants`, `quantization` and `flops` say what is in a file. Each of `sparse_initializers`,
`float16` and `node_order` is one transformation, `transform(blob, ...) -> bytes`: of a file's
bytes, which it returns themselves where there is nothing to change.
"""
