"""ONNX files to torch graphs: read as data from strangers, mended for the converter, compared with onnxruntime."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from bench.errors import DataError, UserError
from bench.storage.files import file_hash

_LARGEST = 1 << 30  #: bytes of a file, and of all tensors that lie beside it: an IR-100 has 260 MB
_OPSET = 17  #: newer graphs are brought down to it: onnx2torch knows most operations up to here
_AGREES = 1e-3  #: largest difference from onnxruntime, as a share of the output's standard deviation


def read_onnx(path: Path) -> Any:
    """A model (`onnx.ModelProto`) with all of its tensors.

    Tensors may lie in files beside it. These are read only from the model's own folder, whatever the model says.

    Raises:
        DataError: no ONNX file, damaged, too large, or it names files outside of its folder.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor

    model = _parsed(path)
    total = 0
    for tensor, file in _external(model, path):
        total += next((int(e.value) for e in tensor.external_data if e.key == "length"), file.stat().st_size)
        if total > _LARGEST:
            raise DataError(f"{path}: more than {_LARGEST:,} bytes of tensors beside it; that is not read")
        try:
            load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:
            raise DataError(f"{file}: does not hold the tensor {tensor.name!r} ({_line(error)})") from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return model


def onnx_hash(path: Path) -> str:
    """sha256 over a model and the files beside it that it reads.

    Raises:
        DataError: as `read_onnx`.
    """
    beside = sorted({file for _, file in _external(_parsed(path), path)})
    if not beside:
        return file_hash(path)
    return hashlib.sha256("".join(file_hash(file) for file in (path, *beside)).encode()).hexdigest()


def _parsed(path: Path) -> Any:
    """The model without what lies beside it."""
    import onnx

    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise DataError(f"{path}: {size:,} bytes; an ONNX file of more than {_LARGEST:,} is not read")
        model = onnx.load_model_from_string(path.read_bytes())
        if not model.graph.node:
            raise ValueError("it has no operations")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except DataError:
        raise
    except Exception as error:  # protobuf's own, of several kinds
        raise DataError(f"{path}: damaged, or not an ONNX file ({_line(error)}); fetch it again") from error
    return model


def to_torch(model: Any, where: str) -> fx.GraphModule:
    """The model as a graph of torch modules, in eval mode, each named after its operation in the file.

    Raises:
        DataError: it holds an operation that cannot be converted; names it.
    """
    import onnx2torch

    mended = _mended(model, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy's read-only arrays and others, which say nothing to a user
            graph: fx.GraphModule = onnx2torch.convert(mended)
    except Exception as error:
        said = re.sub(r"OperationDescription\(domain='(.*?)', operation_type='(.*?)', version=(\d+)\)", r"\2-\3",
                      _line(error))  # fmt: skip
        raise DataError(f"{where}: cannot be converted to torch by onnx2torch ({said})") from error
    graph.eval()
    return graph


def image_input(model: Any, where: str) -> tuple[int | None, int | None]:
    """(height, width) that the model takes; None where it leaves them open.

    Raises:
        DataError: it has several inputs, or none of shape (B, 3, H, W).
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [given for given in model.graph.input if given.name not in constants]
    sizes = [[d.dim_value or None for d in given.type.tensor_type.shape.dim] for given in inputs]
    if len(sizes) != 1 or len(sizes[0]) != 4 or sizes[0][1] not in (3, None):
        shown = "; ".join(f"{given.name}: {size}" for given, size in zip(inputs, sizes, strict=True))
        hint = ", channels last: convert it to (B, 3, H, W)" if sizes and sizes[0][-1:] == [3] else ""
        raise DataError(f"{where}: one input of (B, 3, H, W) is wanted, this has {shown or 'none'}{hint}")
    return sizes[0][2], sizes[0][3]


def disagreement(model: Any, graph: torch.nn.Module, images: Tensor) -> float:
    """Largest difference between torch's and onnxruntime's output, as a share of the output's standard deviation.

    Args:
        images: (B, 3, H, W) as the network takes them. One at a time: many files fix the batch at 1.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    theirs = np.concatenate([session.run(None, {name: image[None].numpy()})[0] for image in images])
    with torch.no_grad():
        ours = torch.cat([graph(image[None]) for image in images]).numpy()
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(float(theirs.std()), 1e-12))


def refuse_disagreement(model: Any, graph: torch.nn.Module, size: tuple[int, int], where: str) -> None:
    """Sees on two images of noise that the conversion computes what the file says.

    Raises:
        DataError: it does not, or onnxruntime refuses the file.
    """
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        apart = disagreement(model, graph, images)
    except Exception as error:
        raise DataError(f"{where}: onnxruntime and torch cannot both run it ({_line(error)})") from error
    if not apart <= _AGREES:
        raise DataError(f"{where}: torch's conversion and onnxruntime differ by {apart:.2g} standard deviations")


def _external(model: Any, path: Path) -> Iterator[tuple[Any, Path]]:
    """Tensors that lie in files of their own, and those files, which must be in the model's folder."""
    import onnx
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    folder = path.parent.resolve()
    for tensor in _get_all_tensors(model):
        if not uses_external_data(tensor) or tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = (folder / place).resolve()
        if not place or Path(place).is_absolute() or not file.is_relative_to(folder):
            raise DataError(f"{path}: refused: the tensor {tensor.name!r} lies at {place!r}, outside of its folder")
        if not file.is_file():
            raise DataError(f"{file}: no such file, which {path.name} keeps tensors in; put it beside the model")
        yield tensor, file


def _mended(model: Any, where: str) -> Any:
    """A copy that the converter understands: constants as initializers, whole Clips, and names that are plain.

    Names matter: torch.fx writes them into the code that it runs, and they come from the file.
    """
    import onnx
    from onnx import version_converter

    version = next((s.version for s in model.opset_import if s.domain in ("", "ai.onnx")), 0)
    try:
        copy = version_converter.convert_version(model, _OPSET) if version > _OPSET else onnx.ModelProto()
    except Exception as error:
        raise DataError(f"{where}: opset {version} cannot be brought down to {_OPSET} ({_line(error)}); export the "
                        f"network with opset_version = {_OPSET}") from error  # fmt: skip
    if version <= _OPSET:
        copy.CopyFrom(model)
    graph, taken, kept = copy.graph, set(), []
    for index, node in enumerate(graph.node):
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise DataError(f"{where}: {node.op_type} {node.name!r}: branches and loops are not converted")
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name in _CONSTANTS:
            graph.initializer.append(_constant(node))
            continue
        name = re.sub(r"[^0-9A-Za-z]+", "_", node.name).strip("_") or f"{node.op_type}_{index}"
        name = f"n{name}" if name[0].isdigit() else name
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        node.name = name
        if node.op_type == "Clip" and version >= 11:
            _complete(node, graph)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    first = graph.output[0]
    del graph.output[:]
    graph.output.append(first)  # the embedding; whatever else training left there has no use here
    del graph.value_info[:]
    return copy


_CONSTANTS = ("value", "value_float", "value_floats", "value_int", "value_ints")


def _constant(node: Any) -> Any:
    """A Constant's tensor, under the name of what it gives."""
    from onnx import helper, numpy_helper

    value = helper.get_attribute_value(node.attribute[0])
    kind = np.float32 if "float" in node.attribute[0].name else np.int64
    array = numpy_helper.to_array(value) if node.attribute[0].name == "value" else np.array(value, dtype=kind)
    return numpy_helper.from_array(array, node.output[0])


def _complete(node: Any, graph: Any) -> None:
    """A Clip with one bound gets the other: the largest number of its kind, which changes nothing."""
    from onnx import numpy_helper

    bounds = list(node.input[1:3]) + [""] * (3 - len(node.input))
    if all(bounds) or not any(bounds):
        return
    side = bounds.index("")
    limit = np.float32(np.finfo(np.float32).min if side == 0 else np.finfo(np.float32).max)
    bounds[side] = f"{node.name}_bound"
    graph.initializer.append(numpy_helper.from_array(np.array(limit), bounds[side]))
    inputs = [node.input[0], *bounds]
    del node.input[:]
    node.input.extend(inputs)


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else type(error).__name__
    return said if len(said) <= 200 else f"{said[:200]} ..."


def need(extra: str, *packages: str) -> None:
    """Sees that an optional extra is installed.

    Raises:
        UserError: it is not; says how to install it.
    """
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"this needs {', '.join(missing)}, not installed here: pip install 'veilbench[{extra}]'")
