"""Capsules read and written in this process, with numpy at the other end."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from typing import Any

import numpy as np
import pytest

from tritonhttp.utils import _dlpack

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
NEWER = hasattr(np, "from_dlpack") and np.lib.NumpyVersion(np.__version__) >= "2.1.0"
VERSIONS = [None, (1, 0), (1, 1)]


class Owner:
    """Memory that tells when it goes."""

    def __init__(self, data: bytes) -> None:
        self.block = ctypes.create_string_buffer(data, len(data))
        self.address = ctypes.addressof(self.block)


class Holder:
    """What `numpy.from_dlpack` wants to have around a capsule."""

    def __init__(self, capsule: Any, device: tuple[int, int] = (1, 0)) -> None:
        self.capsule, self.device = capsule, device

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class Fails:
    def __dlpack_device__(self) -> tuple[int, int]:
        raise RuntimeError("no device today")

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("call detach() first")


def contents(tensor: _dlpack.Tensor) -> bytes:
    return ctypes.string_at(tensor.address, tensor.byte_size)


@pytest.mark.parametrize(
    "dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "?", "c8"]
)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (3, 1, 2)])
def test_a_tensor_of_numpy_is_read(dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype)
    tensor = _dlpack.borrow(array)
    assert contents(tensor) == array.tobytes()
    assert tensor.address == array.ctypes.data
    assert tensor.device == _dlpack.device_of(array) == (1, 0)


def test_a_capsule_is_read_and_stays_its_producers() -> None:
    array = FLOATS.copy()
    capsule = array.__dlpack__()
    before = sys.getrefcount(array)
    assert contents(_dlpack.borrow(capsule)) == array.tobytes()
    assert _dlpack.device_of(capsule) is None
    assert 'capsule object "dltensor"' in repr(capsule)
    del capsule
    assert sys.getrefcount(array) == before - 1


def test_a_borrowed_tensor_keeps_the_memory() -> None:
    array = FLOATS.copy()
    gone = weakref.ref(array)
    tensor = _dlpack.borrow(array)
    del array
    gc.collect()
    assert gone() is not None
    assert contents(tensor) == FLOATS.tobytes()
    del tensor
    gc.collect()
    assert gone() is None


@pytest.mark.skipif(not NEWER, reason="before numpy 2.1 nothing read-only is exported")
def test_read_only_arrays_are_read() -> None:
    array = FLOATS.copy()
    array.flags.writeable = False
    assert contents(_dlpack.borrow(array)) == FLOATS.tobytes()


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((2, 3), (3, 1)), ((1, 6), (999, 1)), ((6, 1), (1, -7)), ((2, 1, 3), (3, 0, 1)), ((1, 1, 1), (5, 5, 5))],
)
def test_the_stride_of_an_axis_of_one_element_says_nothing(
    shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    assert contents(_dlpack.borrow(strided(shape, strides))) == bytes(range(4 * int(np.prod(shape))))


@pytest.mark.parametrize(
    ("shape", "strides"), [((2, 3), (1, 2)), ((2, 3), (4, 1)), ((3,), (2,)), ((3,), (0,)), ((3,), (-1,))]
)
def test_other_orders_are_refused(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as caught:
        _dlpack.borrow(strided(shape, strides))
    assert str(caught.value) == (
        f"expected a tensor contiguous in C order, got shape {shape} with strides {strides}"
    )


def strided(shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """Return a capsule whose strides are those, over bytes 0, 1, 2, …"""
    owner = Owner(bytes(range(64)))
    capsule = _dlpack.export(_dlpack.array_over(owner, owner.address, shape, np.dtype("u4")), (1, 0))
    given = (ctypes.c_int64 * len(strides))(*strides)
    tensor = _dlpack._open(capsule)
    tensor.strides = ctypes.cast(given, ctypes.POINTER(ctypes.c_int64))
    KEPT.append(given)
    return capsule


KEPT: list[Any] = []


def test_missing_strides_and_a_byte_offset_are_read() -> None:
    owner = Owner(bytes(range(64)))
    capsule = _dlpack.export(_dlpack.array_over(owner, owner.address, (2, 2), np.dtype("u2")), (1, 0))
    tensor = _dlpack._open(capsule)
    tensor.strides = None
    tensor.byte_offset = 16
    assert contents(_dlpack.borrow(capsule)) == bytes(range(16, 24))


def test_lanes_and_odd_bits_count_in_the_size() -> None:
    owner = Owner(bytes(64))
    for bits, lanes, expected in [(32, 4, 48), (4, 1, 2), (16, 1, 6)]:
        capsule = _dlpack.export(_dlpack.array_over(owner, owner.address, (3,), np.dtype("u1")), (1, 0))
        dtype = _dlpack._open(capsule).dtype
        dtype.bits, dtype.lanes = bits, lanes
        assert _dlpack.borrow(capsule).byte_size == expected


def test_tensors_without_elements_are_read() -> None:
    capsule = np.empty((0, 4), np.float32).__dlpack__()
    tensor = _dlpack._open(capsule)
    tensor.data = None
    assert _dlpack.borrow(capsule)[1:3] == (0, 0)
    transposed = np.empty((4, 0, 3), np.float32).transpose(2, 1, 0)
    assert _dlpack.borrow(transposed).byte_size == 0


def test_objects_that_are_no_tensor_are_refused() -> None:
    consumed = FLOATS.copy().__dlpack__()
    np.from_dlpack(Holder(consumed))
    for wrong in (None, 7, [1.0], b"x", consumed):
        with pytest.raises(
            ValueError, match=r"^expected a tensor with __dlpack__, or its capsule, not consumed"
        ):
            _dlpack.borrow(wrong)
    capsule = FLOATS.copy().__dlpack__()
    _dlpack._open(capsule).dtype.code = 3
    with pytest.raises(ValueError, match="opaque"):
        _dlpack.borrow(capsule)


def test_the_producers_own_words_are_kept() -> None:
    with pytest.raises(ValueError, match=r"^its __dlpack__ failed: BufferError: call detach\(\) first$"):
        _dlpack.borrow(Fails())
    with pytest.raises(ValueError, match=r"^its __dlpack_device__ failed: RuntimeError: no device today$"):
        _dlpack.device_of(Fails())


@pytest.mark.skipif(not NEWER, reason="this numpy has the older form only")
def test_a_newer_major_version_is_refused() -> None:
    capsule = FLOATS.copy().__dlpack__(max_version=(1, 0))  # type: ignore[call-arg, unused-ignore]
    assert contents(_dlpack.borrow(capsule)) == FLOATS.tobytes()
    major = ctypes.c_uint32.from_address(_dlpack._pointer(capsule, b"dltensor_versioned"))
    major.value = 2
    with pytest.raises(ValueError, match=r"^expected DLPack 1\.x, got 2\.0$"):
        _dlpack.borrow(capsule)
    major.value = 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "f2", "f4", "f8"])
def test_numpy_takes_our_capsules(dtype: str, version: tuple[int, int] | None) -> None:
    owner = Owner(bytes(range(2)) * 48)
    array = _dlpack.array_over(owner, owner.address, (2, 3), np.dtype(dtype))
    taken = np.from_dlpack(Holder(_dlpack.export(array, (1, 0), max_version=version)))
    assert taken.dtype == dtype
    assert taken.shape == (2, 3)
    assert taken.ctypes.data == owner.address
    assert taken.tobytes() == owner.block.raw[: taken.nbytes]
    if version and NEWER:
        taken[0, 0] = 1
        assert owner.block.raw[: taken.itemsize] == taken[0, 0].tobytes()


@pytest.mark.parametrize("version", VERSIONS)
def test_device_and_kind_are_written_into_the_capsule(version: tuple[int, int] | None) -> None:
    owner = Owner(bytes(64))
    array = _dlpack.array_over(owner, owner.address, (4, 2), np.dtype("u2"))
    capsule = _dlpack.export(array, (2, 3), _dlpack.BFLOAT16, version)
    assert ("dltensor_versioned" in repr(capsule)) == (version is not None and NEWER)
    tensor = _dlpack._open(capsule)
    assert (tensor.device.type, tensor.device.id) == (2, 3)
    assert (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes) == (4, 16, 1)
    assert (tensor.data, tensor.ndim, tensor.byte_offset) == (owner.address, 2, 0)
    assert tensor.sizes == (4, 2)
    assert tensor.steps in ((2, 1), None)  # numpy 1 leaves them out


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("consumed", [False, True])
def test_the_memory_goes_with_its_last_user(consumed: bool, version: tuple[int, int] | None) -> None:
    owner = Owner(bytes(64))
    gone = weakref.ref(owner)
    array = _dlpack.array_over(owner, owner.address, (4,), np.dtype("f4"))
    capsule = _dlpack.export(array, (1, 0), max_version=version)
    del owner, array
    gc.collect()
    assert gone() is not None
    if consumed:
        taken = np.from_dlpack(Holder(capsule))
        assert "used_dltensor" in repr(capsule)
        del capsule
        gc.collect()
        assert gone() is not None
        part = taken[1:].view("u4")[::2]
        del taken
        gc.collect()
        assert gone() is not None
        assert part.tolist() == [0, 0]
        del part
    else:
        del capsule
    gc.collect()
    assert gone() is None


def test_a_consumer_may_call_the_deleter_from_a_thread_without_python() -> None:
    """As torch does: by the C pointer in the struct, without holding the interpreter's lock."""
    owner = Owner(bytes(64))
    gone = weakref.ref(owner)
    capsule = _dlpack.export(_dlpack.array_over(owner, owner.address, (4,), np.dtype("f4")), (2, 0))
    address = _dlpack._pointer(capsule, b"dltensor")
    rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_SetName", ctypes.pythonapi)
    )
    used = ctypes.c_char_p(b"used_dltensor")
    rename(capsule, used)
    del owner, capsule
    gc.collect()
    assert gone() is not None
    # It stands behind the tensor and the pointer `manager_ctx`.
    behind = ctypes.sizeof(_dlpack._Tensor) + ctypes.sizeof(ctypes.c_void_p)
    deleter = ctypes.c_void_p.from_address(address + behind).value
    assert deleter
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(deleter)(address)  # CFUNCTYPE gives up the lock
    assert gone() is None


@pytest.mark.parametrize("version", VERSIONS)
def test_thousands_of_tensors_leave_nothing(version: tuple[int, int] | None) -> None:
    resource = pytest.importorskip("resource")
    owner = Owner(bytes(4096))

    def once() -> None:
        array = _dlpack.array_over(owner, owner.address, (1,) * 20, np.dtype("f4"))
        assert np.from_dlpack(Holder(_dlpack.export(array, (1, 0), max_version=version))).ndim == 20
        _dlpack.export(array, (2, 0), max_version=version)
        _dlpack.borrow(array)
        _dlpack.borrow(array.__dlpack__())

    for _ in range(2000):
        once()
    gc.collect()
    references, peak = sys.getrefcount(owner), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(12_500):
        once()
    gc.collect()
    assert sys.getrefcount(owner) == references
    # Each of the five capsules of a round holds about 400 bytes of shape and strides: 5 MB for each, if it stayed.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 4096


def test_numpys_limits_are_reported() -> None:
    for shape in [(1,) * 70, (2**40, 2**40)]:
        with pytest.raises(ValueError):
            _dlpack.array_over(None, 4096, shape, np.dtype("f4"))
