"""XNNPACK's sparse inference: which operators it switches to its sparse kernels, and what fails.

XNNPACK keeps images with the channels last, and its sparse 1x1 convolutions want them first. When
a file has weights stored sparse (other than in blocks), it looks for clusters of operators that
can all work with the channels first, `xnn_subgraph_rewrite_for_nchw` in its src/subgraph.c. This
is that function again, step by step, on a `Graph`; and what follows from it where the clusters it
chooses do not work:

- A cluster is changed even where its last operator is no mean or depth-to-space, if only there is
  such an operator somewhere in the graph. The last operator then reads channels-first data as if
  the channels came last, and the outputs are wrong, without an error.
- A mean that keeps its dimensions gets the wrong shape, (1, 1, 1, height), when its consumer is
  in the cluster. Another 1x1 convolution inside the cluster does not look at it; all others fail
  to reshape, and the file does not run (some runtimes then return what was in memory). Unless
  there are as many channels as rows, by accident.
- A mean over one of height and width is wrong.

All of this was seen in LiteRT.js 2.5.3 on files made for it.
"""

import dataclasses

from kprune.targets.graph import SAME
from kprune.targets.target import NEEDED_SPARSITY
from kprune.targets.xnnpack.operators import ENTRY, EXIT, NCHW, Blame, compatibility

_BAD = 8  # besides the flags of `operators`: it cannot be in a cluster
WRONG, FAILS = "computes wrong outputs", "does not run"


@dataclasses.dataclass(eq=False)
class Cluster:
    """Connected operators that could all work with the channels first.

    Attributes:
        ops: the `Op`s, with the convolution that begins it.
        weights: how many weights its 1x1 convolutions and dense layers have.
        zeros: how many of those are zero.
        blame: a `Blame` where it cannot be changed; else None.
        changed: whether XNNPACK changes it to the sparse kernels.
        broken: (`Op`, `WRONG` or `FAILS`, why, what to do) of each operator that then breaks.
    """

    ops: list
    weights: int = 0
    zeros: int = 0
    blame: Blame | None = None
    changed: bool = False
    broken: list = dataclasses.field(default_factory=list)

    @property
    def sparsity(self):
        """Share of zeros among its 1x1 and dense weights."""
        return self.zeros / self.weights if self.weights else 0.0

    @property
    def enough(self):
        """Whether more than `NEEDED_SPARSITY` of those weights are zero."""
        return self.zeros > NEEDED_SPARSITY * self.weights


def clusters(graph):
    """Find the clusters of a graph.

    Args:
        graph: a `Graph`. Nothing is looked up in the weights but their `Weight`.

    Returns:
        A list of `Cluster`s with at least one 1x1 convolution or dense layer each, in order.
    """
    return _Analysis(graph).clusters()


class _Node:
    """An operator as XNNPACK sees it: an explicit padding before it is part of it."""

    def __init__(self, index, op, inputs, padding):
        self.index, self.op = index, op
        self.inputs = inputs
        self.padding = padding
        self.flags, self.blame = 0, None


class _Analysis:
    def __init__(self, graph):
        self.graph = graph
        self.hinted = any(op.weight and op.weight.encoding == "csr" for op in graph.ops)
        self.nodes = self._fused()
        self.producer = {id(value): node for node in self.nodes for value in node.op.outputs}
        self.joined = list(range(len(self.nodes)))  # each node's way to its cluster's last node
        for node in self.nodes:
            node.flags, node.blame = compatibility(node.op, node.padding)

    def _leader(self, node):
        """The node that stands for a node's cluster: the last one of those connected so far."""
        joined, index = self.joined, node.index
        while joined[index] != index:
            joined[index] = joined[joined[index]]
            index = joined[index]
        return self.nodes[index]

    def _fused(self):
        graph, nodes, swallowed = self.graph, [], set()
        for op in graph.ops:
            inputs, padding = list(op.inputs), op.padding
            before = graph.producer.get(id(inputs[0])) if inputs else None
            # XNNPACK makes 1x1 convolutions dense layers before it looks at the padding.
            convolution = op.kind == "depthwise" or (op.kind == "conv" and not op.pointwise)
            if before is not None and before.kind == "pad" and convolution:
                alone = graph.only_consumer(inputs[0]) is op
                if alone and padding != SAME and before.padding != SAME:
                    pairs = zip(padding, before.padding)
                    padding = tuple((a + c, b + d) for (a, b), (c, d) in pairs)
                    inputs[0] = before.inputs[0]
                    swallowed.add(id(before))
            nodes.append((op, inputs, padding))
        kept = [node for node in nodes if id(node[0]) not in swallowed]
        return [_Node(index, *node) for index, node in enumerate(kept)]

    def clusters(self):
        self._connect()
        self._check_consumers()
        found = {}
        for node in self.nodes:
            if node.flags or node.op.pointwise:
                found.setdefault(self._leader(node).index, []).append(node)
        result = []
        for leader, nodes in found.items():
            cluster = self._cluster(self.nodes[leader], nodes)
            if cluster.weights:
                result.append(cluster)
        return sorted(result, key=lambda cluster: self.graph.ops.index(cluster.ops[0]))

    def _join(self, node):
        """Join the clusters of an operator and its producers; True if anything changed."""
        changed = False
        for value in node.inputs:
            if value.constant:
                continue
            producer = self.producer.get(id(value))
            able = producer is not None and producer.flags & (ENTRY | NCHW)
            if able and not producer.flags & _BAD:
                producer.flags &= ~EXIT
                first, last = sorted((self._leader(producer).index, self._leader(node).index))
                changed |= first != last
                self.joined[first] = last
            elif not node.flags & _BAD:
                node.flags |= _BAD
                node.blame = node.blame or _blame_producer(node, producer)
        return changed

    def _connect(self):
        changed = False
        for node in self.nodes:
            if node.flags & EXIT:
                changed |= self._join(node)
        self.found_exit = changed
        for node in self.nodes if changed else ():
            if not node.flags & _BAD and node.flags & (NCHW | EXIT):
                self._join(node)
        for node in self.nodes:
            if node.flags & _BAD:
                self._spoil(node, node.blame)

    def _spoil(self, node, blame):
        leader = self._leader(node)
        leader.flags |= _BAD
        leader.blame = leader.blame or blame

    def _good(self, node):
        return not self._leader(node).flags & _BAD and node.flags & (NCHW | EXIT)

    def _values(self, nodes):
        return [value for node in nodes for value in node.inputs if not value.constant]

    def _check_consumers(self):
        counts = {}
        for value in self._values([node for node in self.nodes if self._good(node)]):
            counts[id(value)] = counts.get(id(value), 0) + 1
        # Consumers as XNNPACK counts them, a swallowed padding being part of its convolution.
        uses = {}
        for value in self._values(self.nodes):
            uses[id(value)] = uses.get(id(value), 0) + 1
        spoiled = []
        for node in self.nodes:
            for value in self._values([node]) if self._good(node) else ():
                if counts[id(value)] != uses[id(value)] + value.output:
                    spoiled.append((node, value))
        for node, value in spoiled:
            self._spoil(node, self._blame_consumers(value, node))

    def _blame_consumers(self, value, node):
        producer = self.producer[id(value)].op
        for other in self.nodes:
            if any(v is value for v in other.inputs) and not self._good(other):
                own = other.blame.reason if other.blame else f"({other.op.type}) is not in it"
                return Blame(other.op, own, other.blame.advice if other.blame else "")
        return Blame(producer, "is an output of the model, and an input inside the cluster")

    def _cluster(self, leader, nodes):
        cluster = Cluster([node.op for node in nodes])
        for op in cluster.ops:
            if op.pointwise and op.weight and op.weight.encoding != "blocks":
                cluster.weights += op.weight.size
                cluster.zeros += op.weight.zeros
        cluster.blame = leader.blame if leader.flags & _BAD else None
        inside = [node for node in nodes if node.flags & (NCHW | EXIT)]
        if cluster.blame is None and not inside:
            cluster.blame = leader.blame
        if cluster.blame is None and not self.found_exit:
            reason = (
                "is the last of its cluster, and neither a spatial mean nor depth-to-space follows"
            )
            cluster.blame = Blame(nodes[-1].op, reason, "end it in GlobalAveragePooling2D()")
        if cluster.blame is None:
            broken = self._broken(inside)
            cluster.changed = cluster.enough and self.hinted
            cluster.broken = broken
        return cluster

    def _broken(self, inside):
        """What breaks if these operators are changed."""
        first = {id(value) for value in self._values(inside)}  # values with the channels first
        broken = []
        for node in inside:
            op, output = node.op, node.op.outputs[0]
            after = id(output) in first
            if op.kind == "mean":
                broken += self._broken_mean(op, after, first)
            elif op.kind != "depth_to_space" and not after and not _one_position(op.inputs[0]):
                others = [c.op for c in self.nodes if any(v is output for v in c.inputs)]
                broken.append((op, WRONG, *_open_end(others[0] if others else None)))
        return broken

    def _broken_mean(self, op, after, first):
        spatial = {axis % 4 for axis in op.axes}
        if spatial not in ({1, 2}, {3}):
            why = "is a mean over one of height and width, which the sparse path gets wrong"
            return [(op, WRONG, why, "take the mean over both")]
        height, channels = op.inputs[0].shape[1], op.inputs[0].shape[3]
        if not (op.keepdims and after) or height == channels:
            return []
        broken = []
        for consumer in self.graph.consumers[id(op.outputs[0])]:
            inside = consumer.pointwise and id(consumer.outputs[0]) in first
            if not inside:
                what = "a 1x1 convolution" if consumer.kind == "conv" else f"({consumer.type})"
                why = f"is {what} after the spatial mean '{op.name}'"
                broken.append((consumer, FAILS, why, _MEAN_ADVICE))
        return broken


_MEAN_ADVICE = "use GlobalAveragePooling2D() without keepdims, and Dense"


def _one_position(value):
    """Whether an image has one position only, so that the order of its axes does not matter."""
    return all(size == 1 for size in value.shape[1:-1])


def _open_end(consumer):
    if consumer is None:
        why = "is an output of the model in the middle of the sparse path"
    else:
        why = (
            f"hands data in the sparse path's layout to '{consumer.name}' ({consumer.type}), which "
            "is not in it"
        )
        detail = compatibility(consumer, consumer.padding)[1]
        why += f": it {detail.reason}" if detail and detail.reason else ""
        if detail and detail.advice:
            return why, detail.advice
    return why, "change what follows it, or export with sparse='auto', which then stores it dense"


def _blame_producer(node, producer):
    if producer is None:
        return Blame(
            node.op,
            "takes the model's input, where a 3x3 convolution of stride 2 with padding 1 on 3 "
            "channels must come first",
        )
    if producer.blame is not None:
        return producer.blame
    return Blame(producer.op, f"({producer.op.type}) is not in the sparse path")
