"""A classifier's `.tflite` file, run in LiteRT."""


def accuracy(blob, x, y):
    """Return the share of images that a file gets right.

    Args:
        blob: the bytes of a `.tflite` file, whose one output are class scores.
        x: float32 array [n, ...], the images.
        y: integer array [n], their classes.
    """
    from kprune.runtimes.litert import LiteRT

    file = LiteRT(blob)
    (name,) = file.inputs
    right = 0
    for image, label in zip(x, y):
        (scores,) = file({name: image[None]}).values()
        right += int(scores.argmax() == label)
    return right / len(x)
