"""Images as tensors: read, resized, scaled and laid out as a model takes them."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .common import Failure

if TYPE_CHECKING:
    from .. import TensorInfo

__all__ = ["Pixels", "is_image", "pixels", "pixels_of"]

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_LAYOUTS = ("NCHW", "NHWC")
#: How likely a length is one of channels.
_LIKELY = {3: 3, 1: 2, 4: 1}


@dataclass(frozen=True)
class Pixels:
    """How pixels become a tensor: ``(pixel * scale - mean) / std``, from pixels of 0 to 255.

    Attributes
    ----------
    size : (int, int), optional
        Width and height to resize to.
    layout : str
        ``"NCHW"`` or ``"NHWC"``; empty: as the model's shape suggests.
    scale : float
    mean, std : tuple of float
        One number, or one for each channel; empty: 0 and 1.
    """

    size: tuple[int, int] | None = None
    layout: str = ""
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def pixels_of(
    resize: str | None, layout: str | None, scale: str | None, mean: str | None, std: str | None
) -> Pixels:
    """Return what the options of a command say."""
    size = None
    if resize is not None:
        width, _, height = resize.lower().partition("x")
        try:
            size = int(width), int(height or width)
        except ValueError:
            size = 0, 0
        if min(size) < 1:
            raise Failure(f"--resize: expected WIDTHxHEIGHT or one number for both, got {resize!r}")
    name = (layout or "").upper()
    if name and name not in _LAYOUTS:
        raise Failure(f"--layout: expected NCHW or NHWC, got {layout!r}")
    stds = _numbers("--std", std)
    if 0 in stds:
        raise Failure("--std: expected numbers other than 0")
    factor, *others = _numbers("--scale", scale) or (1.0,)
    if others:
        raise Failure(f"--scale: expected one number, got {scale!r}")
    return Pixels(size, name, factor, _numbers("--mean", mean), stds)


def _numbers(option: str, given: str | None) -> tuple[float, ...]:
    """Return numbers and fractions, such as ``1/255``, between commas."""
    if given is None:
        return ()
    found = []
    for each in given.split(","):
        above, slash, below = each.partition("/")
        try:
            found.append(float(above) / (float(below) if slash else 1.0))
        except (ValueError, ZeroDivisionError):
            raise Failure(f"{option}: expected numbers such as 0.5 or 1/255, got {given!r}") from None
    if not all(map(math.isfinite, found)):
        raise Failure(f"{option}: expected finite numbers, got {given!r}")
    return tuple(found)


def is_image(content: bytes) -> bool:
    """Return whether these are the bytes of a PNG or JPEG file."""
    return content.startswith(_MAGIC)


def pixels(content: bytes, source: str, info: TensorInfo, batched: bool, how: Pixels) -> npt.NDArray[Any]:
    """Return an image as an array of the input's datatype and rank.

    Parameters
    ----------
    content : bytes
        The file's.
    source : str
        Its name, for messages.
    info : TensorInfo
        The input.
    batched : bool
        Whether its first dimension is the batch's.
    how : Pixels

    Raises
    ------
    Failure
        If the file is no image, or no image of the input's shape.
    """
    shape = info.shape[1:] if batched else info.shape
    own_batch = len(shape) == 4 and shape[0] in (1, -1)  # a model that has its batch dimension itself
    shape = shape[1:] if own_batch else shape
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as opened:
            warnings.simplefilter("ignore")  # of a large image: the file is the caller's own
            image = ImageOps.exif_transpose(opened)
            channels, layout = _form(shape, how.layout, image.size if how.size is None else how.size)
            image = image.convert(_MODES[channels])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Failure(f"{source}: no usable image: {error}") from error
    if how.size is not None:
        image = image.resize(how.size, Image.Resampling.BILINEAR)
    array = np.asarray(image, np.float32).reshape(image.height, image.width, channels)
    array = array * np.float32(how.scale)
    for name, numbers in (("--mean", how.mean), ("--std", how.std)):
        if len(numbers) not in (0, 1, channels):
            raise Failure(f"{name}: expected 1 or {channels} numbers, got {len(numbers)}")
    if how.mean:
        array = array - np.array(how.mean, np.float32)
    if how.std:
        array = array / np.array(how.std, np.float32)
    array = np.ascontiguousarray(array.transpose(2, 0, 1) if layout == "NCHW" else array)
    array = _in_shape(array, shape, source, info, image.size)
    return _typed(array, info, source).reshape((1,) * (batched + own_batch) + array.shape)


def _form(shape: Sequence[int], layout: str, size: tuple[int, int]) -> tuple[int, str]:
    """Return how many channels the input has, and its layout."""
    if len(shape) == 3:
        if not layout:
            layout = "NHWC" if _LIKELY.get(shape[2], 0) > _LIKELY.get(shape[0], 0) else "NCHW"
        channels = shape[0 if layout == "NCHW" else 2]
        return (channels if channels in _MODES else 3), layout
    if len(shape) == 1 and shape[0] > 0:
        # A flat input, such as the 64 numbers of an image of 8 by 8.
        fitting = [channels for channels in _MODES if channels * size[0] * size[1] == shape[0]]
        return (fitting[0] if fitting else 1), layout or "NCHW"
    return 1, layout or "NCHW"


def _in_shape(
    array: npt.NDArray[Any], shape: Sequence[int], source: str, info: TensorInfo, size: tuple[int, int]
) -> npt.NDArray[Any]:
    fits = len(shape) == 3 and all(want in (-1, have) for want, have in zip(shape, array.shape, strict=True))
    if fits:
        return array
    plane = array.reshape([length for n, length in enumerate(array.shape) if n or length > 1] or [1])
    if array.size == size[0] * size[1]:
        plane = array.reshape(size[1], size[0])
    if len(shape) == 2 and all(want in (-1, have) for want, have in zip(shape, plane.shape, strict=True)):
        return plane
    if len(shape) == 1 and shape[0] in (-1, array.size):
        return array.reshape(-1)
    raise Failure(
        f"{source}: an image of {size[0]}x{size[1]} is no {info}; --resize WIDTHxHEIGHT and --layout make it fit"
    )


def _typed(array: npt.NDArray[Any], info: TensorInfo, source: str) -> npt.NDArray[Any]:
    from .. import triton_to_np_dtype

    dtype = np.dtype(triton_to_np_dtype(info.datatype))
    if dtype.kind not in "iu":
        with np.errstate(all="ignore"):
            found: npt.NDArray[Any] = array.astype(dtype)
        if not np.isfinite(found).all():
            raise Failure(f"{source}: pixels up to {np.abs(array).max():g} do not fit into {info.datatype}")
        return found
    low, high, limits = array.min(), array.max(), np.iinfo(dtype)
    if low < limits.min or high > limits.max:
        raise Failure(
            f"{source}: pixels from {low:g} to {high:g} do not fit into {info.datatype} of input {info.name!r};"
            " --scale, --mean and --std change them"
        )
    rounded: npt.NDArray[Any] = np.rint(array).astype(dtype)
    return rounded
