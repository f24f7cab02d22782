"""A classifier's `.tflite` file, run in LiteRT without any of kprune's code."""


def accuracy(blob, x, y):
    """Return the share of images that a file gets right.

    Args:
        blob: the bytes of a `.tflite` file, whose one output are class scores.
        x: float32 array [n, ...], the images.
        y: integer array [n], their classes.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=blob)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    right = 0
    for image, label in zip(x, y):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        right += int(interpreter.get_tensor(target["index"]).argmax() == label)
    return right / len(x)
