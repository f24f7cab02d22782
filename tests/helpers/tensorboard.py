"""What was written for TensorBoard."""


def scalars(folder):
    """Tag -> list of (step, value) of a folder of event files."""
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        for event in events.Tensors(tag):
            if event.tensor_proto.dtype == 1:  # Not the model's graph, a string.
                value = float(tensor_util.make_ndarray(event.tensor_proto))
                found.setdefault(tag, []).append((event.step, value))
    return found
