"""FLOPs of the products that every layer's computation comes down to, from their operands."""

import math


def _shape(x):
    return tuple(x.shape)


def _size(x):
    return math.prod(_shape(x))


def _matmul(out, a, b, *_, **__):
    return 2 * _size(out) * _shape(a)[-1]


def _dot(out, a, b, *_, **__):
    # Without batch axes |a| |b| = |out| K^2, whichever axes are summed over.
    return 2 * _size(out) * math.isqrt(_size(a) * _size(b) // max(1, _size(out)))


def _einsum(out, subscripts, *operands, **_):
    return einsum_flops(subscripts, [_shape(operand) for operand in operands])


def einsum_flops(subscripts, shapes):
    """Return the FLOPs of an einsum over operands of these shapes.

    Raises:
        NotImplementedError: more than two operands, whose order of contraction is not known.
    """
    if len(shapes) < 2:
        return 0
    if len(shapes) > 2:
        raise NotImplementedError(f"{subscripts}, {len(shapes)} operands")
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    sizes = {}
    for term, shape in zip(inputs.split(","), shapes):
        head, dots, tail = term.partition("...")
        middle = range(len(shape) - len(head) - len(tail)) if dots else ()
        # Dimensions under an ellipsis are known by their distance from its end.
        labels = [*head, *(i - len(middle) for i in middle), *tail]
        for label, size in zip(labels, shape):
            sizes[label] = max(size, sizes.get(label, 1))
    letters = [label for label in sizes if isinstance(label, str)]
    if not arrow:
        output = [letter for letter in letters if inputs.count(letter) == 1]
    if all(letter in output for letter in letters):
        return 0  # elementwise or outer: nothing is added up
    return 2 * math.prod(sizes.values())


def _conv(out, inputs, kernel, *_, **__):
    return 2 * _size(out) * math.prod(_shape(kernel)[:-1])


def _depthwise_conv(out, inputs, kernel, *_, **__):
    return 2 * _size(out) * math.prod(_shape(kernel)[:-2])


def _separable_conv(out, inputs, depthwise_kernel, pointwise_kernel, *_, **__):
    *window, channels, multiplier = _shape(depthwise_kernel)
    filters = _shape(pointwise_kernel)[-1]
    positions = _size(out) // filters
    return 2 * positions * channels * multiplier * (math.prod(window) + filters)


def _conv_transpose(out, inputs, kernel, *_, **__):
    return 2 * _size(inputs) * math.prod(_shape(kernel)[:-1])


def _attention(out, query, key, *_, **__):
    batch, queries, heads, width = _shape(query)
    return 2 * 2 * batch * heads * queries * _shape(key)[1] * width


# From a function of Keras' backend to its rule.
PRODUCTS = {
    "numpy.matmul": _matmul,
    "numpy.dot": _dot,
    "numpy.inner": _dot,
    "numpy.vdot": _dot,
    "numpy.tensordot": _dot,
    "numpy.einsum": _einsum,
    "nn.conv": _conv,
    "nn.depthwise_conv": _depthwise_conv,
    "nn.separable_conv": _separable_conv,
    "nn.conv_transpose": _conv_transpose,
    "nn.dot_product_attention": _attention,
}
