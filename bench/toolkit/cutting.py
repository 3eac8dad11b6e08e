"""Cuts a recognition network in two at a named place where a single tensor crosses, and finds all such places."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.contracts import Conv
from bench.errors import UserError, near_miss


@dataclass(frozen=True)
class Cut:
    """A place where one feature map alone passes from the front of a network to its rest."""

    name: str  #: of the last operation on the client
    shape: tuple[int, ...]  #: (C, h, w) of the template
    bytes: int  #: of one template in float32
    share: float  #: of the multiplications in convolutions and matrix products, those on the client; in [0, 1]


def trace(network: nn.Module, where: str) -> fx.GraphModule:
    """The network as a graph of operations, in eval mode.

    Args:
        where: what the network is called, for the error.

    Raises:
        UserError: its forward cannot be followed, or it takes several inputs.
    """
    try:
        graph = network if isinstance(network, fx.GraphModule) else fx.symbolic_trace(network.eval())
    except Exception as error:  # whatever a forward does with what stands for a tensor
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{where}: torch.fx cannot follow its forward ({said}); remove branches on values from it, or export the "
            "network to ONNX and use plugin = 'onnx'"
        ) from error
    graph.graph.eliminate_dead_code()
    graph.recompile()
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder" and not node.args]
    if len(inputs) != 1:
        raise UserError(f"{where}: a network with one input of images is wanted, this has {len(inputs)}")
    return graph.eval()


def cuts(graph: fx.GraphModule, image: Tensor, where: str) -> list[Cut]:
    """Every place where the network can be cut, from the image on.

    Args:
        graph: what `trace` gave.
        image: (1, 3, H, W), of any values.

    Raises:
        UserError: the network does not take such an image.
    """
    measured = _Measured(graph)
    try:
        with torch.no_grad():
            measured.run(image)
    except Exception as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{where}: fails on an image of {image.shape[2]} x {image.shape[3]} pixels ({said})") from error
    total, done, found = sum(measured.work.values()), 0, []
    names = _names(graph)
    for node, crossing in _crossings(graph):
        done += measured.work[node]
        shape = measured.shapes.get(node, ())
        if crossing == [node] and len(shape) == 4 and node.op not in ("placeholder", "output"):
            size = 4 * shape[1] * shape[2] * shape[3]
            found.append(Cut(names[node], tuple(shape[1:]), size, done / total if total else 0.0))
    return found


def spread(found: Sequence[Cut], count: int) -> list[Cut]:
    """At most `count` of the places, evenly spread over the client's share, in their order.

    Of places with the same share, the last one: behind a convolution's activation. Places where the map has shrunk to
    a single pixel are left out, because a decoder has nothing to begin with there.
    """
    maps = [cut for cut in found if cut.shape[1] * cut.shape[2] > 1]
    if not maps:
        return []
    low, high = maps[0].share, maps[-1].share
    wanted = [low + (high - low) * i / max(1, count - 1) for i in range(count)]
    chosen = {min(range(len(maps)), key=lambda i: (abs(maps[i].share - share), -i)) for share in wanted}
    return [maps[i] for i in sorted(chosen)]


def split(graph: fx.GraphModule, cut: str, where: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Client and server: the operations up to the one called `cut`, and the rest.

    Raises:
        UserError: nothing in it has that name, or other tensors cross there too; names them.
    """
    names = _names(graph)
    places = list(_crossings(graph))
    position = next((i for i, (node, _) in enumerate(places) if cut in (names[node], node.name)), None)
    if position is None:
        raise UserError(f"{where}: no operation {cut!r} to cut behind.{near_miss(cut, _few(names.values(), cut))}")
    last, crossing = places[position]
    others = [node for node in crossing if node is not last]
    before = {node for node, _ in places[: position + 1]}
    if others or last.op in ("placeholder", "output"):
        why = _reason(others, before, names)
        raise UserError(f"{where}: cannot be cut behind {cut!r}: {why}{_nearest(places, position, names)}")
    return _part(graph, before, None, last), _part(graph, before, last, None)


def layout_of(client: nn.Module, image: Tensor) -> tuple[Conv, ...]:
    """The client's convolutions and poolings in order, for decoders that mirror it; empty where they are no chain.

    Read off while an image (1, 3, H, W) passes: each must take what the one before it gave. Branches of other shapes,
    kernels that are not square, dilation, and operations that resize by other means make it empty, and decoders then
    take a general shape.
    """
    seen: list[tuple[nn.Module, torch.Size, torch.Size]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        seen.append((module, given[0].shape, made.shape))

    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    hooks = [m.register_forward_hook(note) for m in client.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            features = client(image)
    finally:
        for hook in hooks:
            hook.remove()
    found, shape = [], image.shape
    for module, given, made in seen:
        conv = _conv(module, given[1], made[1])
        if given[1:] != shape[1:] or conv is None:
            return ()
        if any((side + 2 * conv.padding - conv.kernel) // conv.stride + 1 != now
               for side, now in zip(given[2:], made[2:], strict=True)):  # fmt: skip
            return ()
        found.append(conv)
        shape = made
    return tuple(found) if shape[1:] == features.shape[1:] else ()


def _conv(module: Any, inputs: int, outputs: int) -> Conv | None:
    def one(value: Any) -> int | None:
        values = {value} if isinstance(value, int) else set(value) if isinstance(value, tuple) else {None}
        return values.pop() if len(values) == 1 else None

    kernel, stride, padding = one(module.kernel_size), one(module.stride), one(module.padding)
    if kernel is None or stride is None or padding is None or one(getattr(module, "dilation", 1)) != 1:
        return None
    return Conv(inputs, outputs, kernel, stride, padding, getattr(module, "groups", outputs))


class _Measured(fx.Interpreter):
    """Runs a graph and keeps each operation's shape and its multiplications."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[fx.Node, torch.Size] = {}
        self.work: Counter[fx.Node] = Counter()

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = super().run_node(n)
        self.work[n] = counter.get_total_flops() // 2
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
        return result


def _names(graph: fx.GraphModule) -> dict[fx.Node, str]:
    """A name an operation: its module's, where that is used once."""
    uses = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    return {
        node: node.target if node.op == "call_module" and uses[node.target] == 1 else node.name
        for node in graph.graph.nodes
    }


def _crossings(graph: fx.GraphModule) -> list[tuple[fx.Node, list[fx.Node]]]:
    """Every operation on the image, in order, and whose results are still wanted once it has run."""
    image = next(node for node in graph.graph.nodes if node.op == "placeholder" and not node.args)
    moving = {image}
    live: dict[fx.Node, int] = {image: len(image.users)}
    found = []
    for node in graph.graph.nodes:
        if node is not image:
            inputs = [given for given in node.all_input_nodes if given in moving]
            if not inputs:
                continue  # a constant: both halves may have it
            moving.add(node)
            live[node] = len(node.users)
            for given in inputs:
                live[given] -= 1
        live = {some: users for some, users in live.items() if users}
        found.append((node, list(live)))
    return found


def _part(graph: fx.GraphModule, before: set[fx.Node], first: fx.Node | None, last: fx.Node | None) -> fx.GraphModule:
    """The half up to `last`, or the one that begins with what `first` gave."""
    part, known = fx.Graph(), {}
    moving = {node for node, _ in _crossings(graph)}
    if first is not None:
        known[first] = part.placeholder("features")
    for node in graph.graph.nodes:
        own = node not in moving or (node in before) == (last is not None)
        if node.op == "output" or not own:
            continue
        if all(given in known for given in node.all_input_nodes):
            known[node] = part.node_copy(node, lambda given: known[given])
    if last is not None:
        part.output(known[last])
    else:
        output = next(node for node in graph.graph.nodes if node.op == "output")
        part.output(fx.map_arg(output.args[0], lambda given: known[given]))
    for node in reversed(part.nodes):
        if node.op == "placeholder" and node.args and not node.users:
            part.erase_node(node)  # an argument with a default, which nothing here reads
    half = fx.GraphModule(graph, part)
    half.graph.eliminate_dead_code()
    half.graph.lint()
    half.recompile()
    return half.eval()


def _few(names: Iterable[str], wanted: str) -> list[str]:
    """Names near the wanted one: a network has hundreds."""
    every = list(names)
    return difflib.get_close_matches(wanted, every, 3) or every[:5]


def _reason(others: Sequence[fx.Node], before: set[fx.Node], names: dict[fx.Node, str]) -> str:
    if not others:
        return "nothing would be left on one side"
    later = {node: next(user for user in node.users if user not in before) for node in others}
    told = [f"{names[node]!r} for {names[user]!r}" for node, user in list(later.items())[:3]]
    return f"a skip crosses there, and the server would also need {', '.join(told)}"


def _nearest(places: Sequence[tuple[fx.Node, list[fx.Node]]], position: int, names: dict[fx.Node, str]) -> str:
    fit = [i for i, (node, live) in enumerate(places) if live == [node] and node.op not in ("placeholder", "output")]
    near = sorted(sorted(fit, key=lambda i: abs(i - position))[:2])
    said = " or ".join(repr(names[places[i][0]]) for i in near)
    return f"; nearest places: {said}" if said else ""
