"""`.onnx` files, one transformation a module."""
