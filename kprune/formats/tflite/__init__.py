"""`.tflite` files, one transformation a module."""
