"""Regions of system shared memory: the reference's helpers, in one process and between several."""

from __future__ import annotations

import contextlib
import copy
import errno
import gc
import importlib.util
import os
import pickle
import secrets
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritonhttp.utils.shared_memory as shm
from tritonhttp._regions import posix_memory as memory
from tritonhttp.utils import InferenceServerException, serialize_byte_tensor

from ..clients import run_in_threads
from .conftest import interrupted_everywhere

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /dev/shm")

SHM = Path("/dev/shm")
FLOATS = np.array([[1.5, -2, 0], [7, 3, 0.25]], np.float32)
NOT_CREATED = "unable to create the shared memory region: "
NOT_SET = "unable to set the shared memory region"
NOT_READ = "unable to get the contents of the shared memory region: "


@pytest.fixture
def prefix() -> Iterator[str]:
    """The prefix of one test's keys; the test must leave no object with it."""
    prefix = f"tritonhttp_test_{os.getpid()}_{secrets.token_hex(4)}"
    yield prefix
    left = [path.name for path in SHM.glob(f"{prefix}*")]
    for name in left:
        (SHM / name).unlink()
    assert left == []
    assert shm.mapped_shared_memory_regions() == []


@pytest.fixture
def key(prefix: str) -> str:
    return f"/{prefix}"


Create = Callable[..., shm.SharedMemoryRegion]


@pytest.fixture
def create(key: str) -> Iterator[Create]:
    """Create handles, and destroy those that the test leaves."""
    made: list[shm.SharedMemoryRegion] = []

    def create(byte_size: Any = 64, key: str = key, **options: Any) -> shm.SharedMemoryRegion:
        handle = shm.create_shared_memory_region("region", key, byte_size, **options)
        made.append(handle)
        return handle

    yield create
    for handle in made:
        if handle.byte_size:
            shm.destroy_shared_memory_region(handle)


def exists(key: str) -> bool:
    return (SHM / key.lstrip("/")).exists()


def raw(handle: shm.SharedMemoryRegion) -> bytes:
    return shm.get_contents_as_numpy(handle, np.uint8, [handle.byte_size]).tobytes()


# -- create, destroy


def test_a_region_lives_from_create_to_destroy(create: Create, key: str) -> None:
    handle = create(100)
    assert exists(key)
    assert shm.mapped_shared_memory_regions() == [key]
    assert (handle.name, handle.key, handle.byte_size) == ("region", key, 100)
    assert repr(handle) == f"SharedMemoryRegion('region', '{key}', byte_size=100)"
    assert raw(handle) == bytes(100)
    assert shm.destroy_shared_memory_region(handle) is None
    assert not exists(key)
    assert shm.mapped_shared_memory_regions() == []
    assert handle.byte_size == 0


@pytest.mark.parametrize("without", [False, True])
def test_only_its_user_may_open_a_region(
    create: Create, key: str, without: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if without:
        monkeypatch.setattr(memory, "_posixshmem", None)
    before = os.umask(0)
    try:
        create()
    finally:
        os.umask(before)
    status = (SHM / key.lstrip("/")).stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, os.geteuid())


def test_attributes_of_the_references_handle(create: Create, key: str) -> None:
    handle = create(8)
    assert (handle._triton_shm_name, handle._shm_key) == ("region", key)
    assert handle._mpsm_handle is not None
    assert handle._mpsm_handle.size == 8
    handle._mpsm_handle.buf[2:4] = b"ab"
    assert raw(handle) == b"\0\0ab\0\0\0\0"


@pytest.mark.parametrize("byte_size", [0, -1, np.int64(-8), 1.5, "8", None])
@pytest.mark.parametrize("create_only", [False, True])
def test_a_size_must_be_positive(key: str, byte_size: Any, create_only: bool) -> None:
    with pytest.raises(shm.SharedMemoryException, match=f"^{NOT_CREATED}byte_size is"):
        shm.create_shared_memory_region("region", key, byte_size, create_only)
    assert not exists(key)


def test_a_size_may_be_numpys(create: Create) -> None:
    assert create(np.prod([2, 8])).byte_size == 16


@pytest.mark.parametrize("byte_size", [None, 1 << 63, 1 << 70])
def test_a_region_without_room_is_refused_and_leaves_nothing(key: str, byte_size: int | None) -> None:
    if byte_size is None:
        there = os.statvfs(SHM)
        byte_size = (there.f_blocks + 1) * there.f_frsize
        if not there.f_blocks:
            pytest.skip("/dev/shm has no limit")
    with pytest.raises(shm.SharedMemoryException, match=f"^{NOT_CREATED}key '/trit"):
        shm.create_shared_memory_region("region", key, byte_size)
    assert not exists(key)


@pytest.mark.parametrize("key", ["", "/", ".", "..", "/..", "/a/b", "a/../b", "a\0b", "x" * 300, None, b"x"])
@pytest.mark.parametrize("without", [False, True], ids=["posixshmem", "files"])
def test_a_key_must_be_a_file_name(monkeypatch: pytest.MonkeyPatch, key: Any, without: bool) -> None:
    if without:
        monkeypatch.setattr(memory, "_posixshmem", None)
    with pytest.raises(shm.SharedMemoryException, match=f"^{NOT_CREATED}"):
        shm.create_shared_memory_region("region", key, 8)
    assert shm.mapped_shared_memory_regions() == []


def test_leading_slashes_name_the_same_object_but_keys_stay_as_given(create: Create, prefix: str) -> None:
    plain, slash = create(key=prefix), create(key=f"/{prefix}")
    assert shm.mapped_shared_memory_regions() == [prefix, f"/{prefix}"]
    shm.set_shared_memory_region(plain, [FLOATS])
    assert raw(slash) == raw(plain)
    shm.destroy_shared_memory_region(plain)
    assert exists(prefix)
    assert shm.mapped_shared_memory_regions() == [f"/{prefix}"]
    shm.destroy_shared_memory_region(slash)
    assert not exists(prefix)


def test_create_only_refuses_a_key_that_is_taken(create: Create, key: str) -> None:
    create()
    with pytest.raises(shm.SharedMemoryException, match=f"region: key '{key}': File exists") as caught:
        create(create_only=True)
    assert isinstance(caught.value.__cause__, FileExistsError)
    assert shm.mapped_shared_memory_regions() == [key]


def test_a_taken_key_is_reused_and_its_handles_are_counted(create: Create, key: str) -> None:
    first = create(64, create_only=True)
    second, third = create(64), create(32)
    assert third.byte_size == 64
    shm.set_shared_memory_region(second, [FLOATS])
    assert shm.get_contents_as_numpy(third, np.float32, [2, 3]).tolist() == FLOATS.tolist()
    assert shm.mapped_shared_memory_regions() == [key]
    shm.destroy_shared_memory_region(first)
    shm.destroy_shared_memory_region(third)
    assert exists(key)
    assert shm.mapped_shared_memory_regions() == [key]
    shm.destroy_shared_memory_region(second)
    assert not exists(key)


def test_a_reused_region_that_is_smaller_warns(create: Create, key: str) -> None:
    create(32)
    message = f"reusing shared memory region with key '{key}', region size is 32 instead of requested 64"
    with pytest.warns(UserWarning, match="^reusing") as caught:
        handle = shm.create_shared_memory_region("region", key, 64)
    assert [str(each.message) for each in caught] == [message]
    assert caught[0].filename == __file__
    with pytest.raises(shm.SharedMemoryException, match="64 bytes at offset 0 are not within its 32 bytes"):
        shm.set_shared_memory_region(handle, [np.zeros(64, np.uint8)])
    shm.destroy_shared_memory_region(handle)


def test_a_warning_that_is_an_error_leaves_no_handle(create: Create, key: str) -> None:
    handle = create(32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="reusing"):
            create(64)
    shm.destroy_shared_memory_region(handle)
    assert not exists(key)


def test_the_region_of_another_process_is_not_unlinked(create: Create, key: str) -> None:
    path = SHM / key[1:]
    path.write_bytes(b"theirs..")
    try:
        handle = create(8)
        assert raw(handle) == b"theirs.."
        shm.destroy_shared_memory_region(handle)
        assert path.read_bytes() == b"theirs.."
    finally:
        path.unlink()


def test_an_object_that_took_the_keys_place_is_not_unlinked(create: Create, key: str) -> None:
    path = SHM / key[1:]
    old = create(8)
    path.unlink()
    path.write_bytes(b"theirs..")
    try:
        new = create(8)
        assert (raw(old), raw(new)) == (bytes(8), b"theirs..")
        assert shm.mapped_shared_memory_regions() == [key]
        shm.destroy_shared_memory_region(old)
        shm.destroy_shared_memory_region(new)
        assert path.exists()
    finally:
        path.unlink()


def test_destroying_a_region_whose_key_was_removed_is_no_error(create: Create, key: str) -> None:
    handle = create()
    (SHM / key[1:]).unlink()
    shm.destroy_shared_memory_region(handle)


def test_an_object_without_size_is_waited_for(create: Create, key: str) -> None:
    path = SHM / key[1:]
    path.touch()
    timer = threading.Timer(0.05, lambda: os.truncate(path, 16))
    timer.start()
    try:
        assert create(16).byte_size == 16
    finally:
        timer.join()
        path.unlink()


def test_an_object_that_stays_empty_is_refused(
    create: Create, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_SIZING", 0.02)
    path = SHM / key[1:]
    path.touch()
    try:
        with pytest.raises(shm.SharedMemoryException, match="has no bytes"):
            create(16)
    finally:
        path.unlink()


def test_a_destroyed_handle_is_refused(create: Create, key: str) -> None:
    handle = create()
    shm.destroy_shared_memory_region(handle)
    told = f"the handle of key '{key}' is destroyed"
    for use in (
        lambda: shm.set_shared_memory_region(handle, [FLOATS]),
        lambda: shm.get_contents_as_numpy(handle, np.float32, [1]),
        lambda: shm.destroy_shared_memory_region(handle),
        lambda: pickle.dumps(handle),
    ):
        with pytest.raises(shm.SharedMemoryException, match=told):
            use()


@pytest.mark.parametrize("handle", [None, "key", 3])
def test_anything_but_a_handle_is_refused(handle: Any) -> None:
    for use in (
        lambda: shm.set_shared_memory_region(handle, [FLOATS]),
        lambda: shm.get_contents_as_numpy(handle, np.float32, [1]),
        lambda: shm.destroy_shared_memory_region(handle),
    ):
        with pytest.raises(shm.SharedMemoryException, match="expected a SharedMemoryRegion"):
            use()


def test_a_dropped_handle_keeps_its_region(create: Create, key: str) -> None:
    shm.create_shared_memory_region("region", key, 64)
    gc.collect()
    assert shm.mapped_shared_memory_regions() == [key]
    again = create(64)
    del shm._handles[min(shm._handles)]  # the dropped one's would stand until exit
    shm.destroy_shared_memory_region(again)


def test_an_interrupted_destruction_can_be_repeated(create: Create, key: str) -> None:
    other = create()
    handle = create()

    def destroy() -> None:
        if handle._mpsm_handle is not None:
            shm.destroy_shared_memory_region(handle)

    runs = 0
    for _ in interrupted_everywhere(destroy, shm):
        runs += 1
        destroy()
        assert shm.mapped_shared_memory_regions() == [key]
        assert (SHM / key[1:]).exists()
        handle = create()
    assert runs > 8
    shm.destroy_shared_memory_region(handle)
    shm.destroy_shared_memory_region(other)
    assert not (SHM / key[1:]).exists()


def test_no_descriptor_is_left(create: Create) -> None:
    before = set(os.listdir("/proc/self/fd"))
    handle = create()
    shm.destroy_shared_memory_region(handle)
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before


# -- set


@pytest.mark.parametrize("kind", [list, tuple])
def test_arrays_are_written_one_after_the_other(create: Create, kind: Any) -> None:
    handle = create(32)
    arrays = [np.array([1, 2], np.uint8), np.array([], np.float64), FLOATS[0], np.array([True])]
    shm.set_shared_memory_region(handle, kind(arrays), 3)
    assert raw(handle) == (b"\0\0\0\1\2" + FLOATS[0].tobytes() + b"\1").ljust(32, b"\0")


NUMERIC = ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "S3", "U2", "M8[s]")


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("offset", [0, 1])
def test_every_dtype_goes_in_and_comes_out(create: Create, dtype: str, offset: int) -> None:
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    handle = create(array.nbytes + offset)
    shm.set_shared_memory_region(handle, [array], offset)
    found = shm.get_contents_as_numpy(handle, array.dtype, [2, 3], offset)
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()
    assert raw(handle)[offset:] == array.tobytes()


@pytest.mark.parametrize("name", ["BF16", None])
def test_bf16_goes_in_and_comes_out(create: Create, name: str | None) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.5, -2, 0, 256], ml_dtypes.bfloat16).reshape(2, 2)
    handle = create(9)
    shm.set_shared_memory_region(handle, [array, array[:0]], 1)
    found = shm.get_contents_as_numpy(handle, name or ml_dtypes.bfloat16, [2, 2], 1)
    assert found.dtype == ml_dtypes.bfloat16
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.int16).reshape(2, 3, 4).T,
        np.arange(24, dtype=np.int16)[::-2],
        np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
        np.array(7, np.int16),
        np.broadcast_to(np.int16(5), (2, 3)),
        np.arange(6, dtype=">i2"),
        np.ma.masked_array(np.arange(6, dtype=np.int16), [1, 0] * 3),
    ],
    ids=["transposed", "reversed", "fortran", "0-d", "broadcast", "big-endian", "masked"],
)
def test_any_memory_order_becomes_c_order_little_endian(create: Create, array: Any) -> None:
    handle = create(64)
    shm.set_shared_memory_region(handle, [array])
    data = np.asarray(array).astype("<i2").tobytes()
    assert raw(handle) == data.ljust(64, b"\0")


def test_an_array_of_the_region_itself_is_moved(create: Create) -> None:
    handle = create(8)
    shm.set_shared_memory_region(handle, [np.arange(8, dtype=np.uint8)])
    view = shm.get_contents_as_numpy(handle, np.uint8, [6])
    shm.set_shared_memory_region(handle, [view], 2)
    assert raw(handle) == bytes([0, 1, 0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("values", [FLOATS, None, "x", iter([FLOATS]), {0: FLOATS}])
def test_values_must_be_a_list_or_tuple(create: Create, values: Any) -> None:
    with pytest.raises(shm.SharedMemoryException) as caught:
        shm.set_shared_memory_region(create(), values)
    assert str(caught.value) == "input_values must be specified as a list/tuple of numpy arrays"


@pytest.mark.parametrize("value", [[1.0], 3, b"x", np.float32(1)])
def test_values_must_be_arrays(create: Create, value: Any) -> None:
    handle = create()
    with pytest.raises(shm.SharedMemoryException) as caught:
        shm.set_shared_memory_region(handle, [FLOATS, value])
    assert str(caught.value) == "each element of input_values must be a numpy array"
    assert raw(handle) == bytes(64)


@pytest.mark.parametrize("offset", [41, 64, 65, 1 << 70, -1, -64])
def test_a_write_past_the_end_is_refused_and_writes_nothing(create: Create, offset: int) -> None:
    handle = create(64)
    with pytest.raises(shm.SharedMemoryException) as caught:
        shm.set_shared_memory_region(handle, [np.ones(1, np.uint8), FLOATS], offset)
    assert str(caught.value) == f"{NOT_SET}: 25 bytes at offset {offset} are not within its 64 bytes"
    assert raw(handle) == bytes(64)


def test_a_write_may_end_where_the_region_ends(create: Create) -> None:
    handle = create(64)
    shm.set_shared_memory_region(handle, [FLOATS], 40)
    assert raw(handle) == bytes(40) + FLOATS.tobytes()
    shm.set_shared_memory_region(handle, [], 64)
    shm.set_shared_memory_region(handle, [FLOATS[:0]], 64)


@pytest.mark.parametrize("offset", [1.0, "1", None])
def test_an_offset_must_be_an_integer(create: Create, offset: Any) -> None:
    handle = create()
    with pytest.raises(shm.SharedMemoryException, match="the offset is"):
        shm.set_shared_memory_region(handle, [FLOATS], offset)
    with pytest.raises(shm.SharedMemoryException, match="the offset is"):
        shm.get_contents_as_numpy(handle, np.float32, [1], offset)


@pytest.mark.parametrize(
    "value",
    [
        np.array([b"a", b"b"], object),
        np.array(["a"], object),
        np.array([None], object),
        np.array([3], object),
        np.zeros(1, [("a", object)]),
    ],
    ids=str,
)
def test_object_arrays_that_are_not_serialized_are_refused(create: Create, value: Any) -> None:
    handle = create()
    with pytest.raises(shm.SharedMemoryException, match=NOT_SET):
        shm.set_shared_memory_region(handle, [FLOATS, value])
    assert raw(handle) == bytes(64)


def test_numpys_variable_strings_are_refused(create: Create) -> None:
    if not hasattr(np.dtypes, "StringDType"):
        pytest.skip("numpy 2")
    handle = create()
    with pytest.raises(shm.SharedMemoryException, match="references"):
        shm.set_shared_memory_region(handle, [np.array(["a"], np.dtypes.StringDType())])
    with pytest.raises(shm.SharedMemoryException, match="views"):
        shm.get_contents_as_numpy(handle, np.dtypes.StringDType(), [1])


# -- BYTES

STRINGS = [b"", b"one", "zwölf".encode(), b"\0\xff\0", b"x" * 300, b"\0\0"]


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("datatype", [np.object_, np.bytes_, object, bytes, np.dtype("O"), "BYTES"], ids=str)
def test_as_many_bytes_elements_are_read_as_the_shape_has(create: Create, offset: int, datatype: Any) -> None:
    handle = create(1024)
    serialized = serialize_byte_tensor(np.array(STRINGS, object))
    empty = serialize_byte_tensor(np.array([], object))
    shm.set_shared_memory_region(handle, [serialized, empty, np.full(8, 255, np.uint8)], offset)
    found = shm.get_contents_as_numpy(handle, datatype, [2, 3], offset)
    assert (found.dtype, found.shape) == (np.object_, (2, 3))
    assert found.ravel().tolist() == STRINGS
    assert shm.get_contents_as_numpy(handle, datatype, [4], offset).tolist() == STRINGS[:4]
    assert shm.get_contents_as_numpy(handle, datatype, [0, 3], offset).shape == (0, 3)
    scalar = shm.get_contents_as_numpy(handle, datatype, [], offset + 4)
    assert (scalar.shape, scalar.item()) == ((), b"one")


@pytest.mark.parametrize("speedups", [True, False])
def test_bytes_that_do_not_add_up_are_refused(
    create: Create, speedups: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not speedups:
        monkeypatch.setattr("tritonhttp._wire.bytes_tensor._speedups", None)
    handle = create(16)
    shm.set_shared_memory_region(handle, [np.array([3, 0, 0, 0, 97, 98, 99, 6], np.uint8)])
    assert shm.get_contents_as_numpy(handle, np.object_, [1]).tolist() == [b"abc"]
    for count in (2, 3, 5, 1 << 40):
        with pytest.raises(shm.SharedMemoryException, match="16 bytes"):
            shm.get_contents_as_numpy(handle, np.object_, [count])
    shm.set_shared_memory_region(handle, [np.array([12], "<u4")])
    assert shm.get_contents_as_numpy(handle, np.object_, [1]).item()[:3] == b"abc"
    shm.set_shared_memory_region(handle, [np.array([13], "<u4")])
    with pytest.raises(shm.SharedMemoryException, match="behind the offset hold no BYTES tensor of 1 e"):
        shm.get_contents_as_numpy(handle, np.object_, [1])


# -- get


def test_contents_are_a_view(create: Create) -> None:
    handle = create()
    view = shm.get_contents_as_numpy(handle, np.float32, (2, 3), offset=8)
    assert view.flags.writeable
    shm.set_shared_memory_region(handle, [FLOATS], 8)
    assert view.tolist() == FLOATS.tolist()
    view[1, 2] = 99
    assert shm.get_contents_as_numpy(handle, "f4", 1, 28).tolist() == [99]
    assert shm.get_contents_as_numpy(handle, "FP32", np.array([2, 3]), 8).tolist() == view.tolist()


@pytest.mark.parametrize(
    ("datatype", "shape", "offset"),
    [
        (np.float32, [17], 0),
        (np.float32, [16], 1),
        (np.float32, [1], -4),
        (np.float32, [0], 65),
        (np.uint8, [1 << 70], 0),
        (np.float32, [-1], 0),
        (np.float32, [1.0], 0),
        (np.float32, None, 0),
        (np.float32, [0] * 100, 0),
        (np.float32, [0, 1 << 70], 0),
        (np.object_, [0, 1 << 70], 0),
        (np.object_, [17], 0),
        (np.object_, [1], -4),
        ("no such type", [1], 0),
        (np.dtype([("a", object)]), [1], 0),
        (np.str_, [1], 0),
    ],
    ids=str,
)
def test_contents_outside_the_region_are_refused(
    create: Create, datatype: Any, shape: Any, offset: int
) -> None:
    with pytest.raises(shm.SharedMemoryException, match=f"^{NOT_READ}"):
        shm.get_contents_as_numpy(create(64), datatype, shape, offset)


def test_an_empty_tensor_may_lie_at_the_end(create: Create) -> None:
    assert shm.get_contents_as_numpy(create(64), np.float32, [0, 3], 64).shape == (0, 3)


DERIVED: dict[str, Callable[[Any], Any]] = {
    "itself": lambda view: view,
    "slice": lambda view: view[1:],
    "view": lambda view: view.view(np.uint8),
    "reshaped": lambda view: view.reshape(-1)[::2],
    "slice of a reshaped view": lambda view: view.view(np.int32).reshape(3, 2)[1:].T,
    "dlpack": lambda view: np.from_dlpack(view),
    "slice of dlpack": lambda view: np.from_dlpack(view.reshape(-1))[1:].reshape(5, 1),
    "memoryview": lambda view: np.asarray(memoryview(view)[1:]),
    "subclass": lambda view: view.view(np.recarray)[1:],
}


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_objects_made_of_a_view_outlive_the_region(
    create: Create, key: str, derive: Callable[[Any], Any]
) -> None:
    handle = create(4096 * 16)
    assert handle._mpsm_handle is not None
    mapping = weakref.ref(handle._mpsm_handle.map)
    shm.set_shared_memory_region(handle, [FLOATS])
    derived = derive(shm.get_contents_as_numpy(handle, np.float32, [2, 3]))
    expected = derived.tolist()
    shm.destroy_shared_memory_region(handle)
    del handle
    gc.collect()
    assert not exists(key)
    assert mapping() is not None
    assert derived.tolist() == expected
    if derived.flags.writeable:  # arrays that numpy 1.26 makes of DLPack are not
        derived.flat[0] = 5
    first, part = derived.flat[0], derived[..., :1]
    del derived
    gc.collect()
    assert part.flat[0] == first
    assert mapping() is not None
    del part
    gc.collect()
    assert mapping() is None


def test_without_views_the_memory_is_freed_with_the_handle(create: Create) -> None:
    handle = create()
    assert handle._mpsm_handle is not None
    mapping = weakref.ref(handle._mpsm_handle.map)
    shm.set_shared_memory_region(handle, [serialize_byte_tensor(np.array([b"abc"], object))])
    strings = shm.get_contents_as_numpy(handle, np.object_, [1])
    shm.destroy_shared_memory_region(handle)
    assert mapping() is None
    assert strings.tolist() == [b"abc"]


# -- errors


def test_the_exception_is_of_the_tree() -> None:
    error = shm.SharedMemoryException("what happened")
    assert isinstance(error, InferenceServerException)
    assert (str(error), error.message(), error.status(), error.args) == (
        "what happened", "what happened", None, ("what happened",)
    )  # fmt: skip
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (shm.SharedMemoryException, "what happened")
    assert str(shm.SharedMemoryException()) == ""


# -- platforms


def test_without_posixshmem_files_are_used(create: Create, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = create(64)
    monkeypatch.setattr(memory, "_posixshmem", None)
    same = create(64)
    shm.set_shared_memory_region(other, [FLOATS])
    assert raw(same) == raw(other)
    shm.destroy_shared_memory_region(other)
    shm.destroy_shared_memory_region(same)
    assert not exists(key)
    only = create(64, create_only=True)
    with pytest.raises(shm.SharedMemoryException, match="File exists"):
        create(64, create_only=True)
    shm.destroy_shared_memory_region(only)
    assert not exists(key)


def test_a_platform_without_posix_raises_an_error_that_says_so(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "_posixshmem", None)  # as on such a platform
    spec = memory.__spec__
    assert spec is not None
    assert spec.loader is not None
    windows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(windows)
    assert windows._posixshmem is None
    windows._FOLDER = "/no such folder"
    monkeypatch.setattr(shm, "attach", windows.attach)
    with pytest.raises(shm.SharedMemoryException, match="this platform does not offer"):
        shm.create_shared_memory_region("region", key, 8)


@pytest.mark.parametrize("code", ["EINVAL", "ENOSYS", "EOPNOTSUPP"])
def test_file_systems_that_cannot_allocate_are_accepted(
    create: Create, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(getattr(errno, code), "no")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert create(64).byte_size == 64


def test_a_full_file_system_is_an_error_and_leaves_nothing(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(shm.SharedMemoryException, match="No space left on device"):
        shm.create_shared_memory_region("region", key, 64)
    assert not exists(key)


# -- threads


def test_threads_share_one_key(key: str) -> None:
    def work(number: int) -> None:
        for _ in range(50):
            handle = shm.create_shared_memory_region("region", key, 64)
            shm.set_shared_memory_region(handle, [np.array([number], np.uint8)], number)
            assert shm.get_contents_as_numpy(handle, np.uint8, [1], number).item() == number
            assert key in shm.mapped_shared_memory_regions()
            shm.destroy_shared_memory_region(handle)

    run_in_threads(work, range(8))
    assert not exists(key)
    assert shm.mapped_shared_memory_regions() == []


def test_of_many_threads_one_destroys_a_handle(create: Create, key: str) -> None:
    handle, other = create(), create()
    refused: list[BaseException] = []

    def work(number: int) -> None:
        try:
            shm.destroy_shared_memory_region(handle)
        except shm.SharedMemoryException as error:
            refused.append(error)

    run_in_threads(work, range(8))
    assert len(refused) == 7
    assert exists(key)
    shm.destroy_shared_memory_region(other)
    assert not exists(key)


# -- processes

HEAD = """
import os, sys, signal
import numpy as np
import tritonhttp.utils.shared_memory as shm
key = sys.argv[1]
"""
READY = "sys.stdout.write('ready\\n'); sys.stdout.flush()\n"


def start(program: str, key: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HEAD + program, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process that prints no warning, and leaves no process that prints one."""
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "")
    return out


ATTACH = "handle = shm.create_shared_memory_region('region', key, 24)\n"
ENDS = {
    "without destroy": "",
    "destroy": "shm.destroy_shared_memory_region(handle)",
    "os._exit": "os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "view at exit": "view = shm.get_contents_as_numpy(handle, np.float32, [6])",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_another_process_attaches_and_ends(create: Create, key: str, end: str) -> None:
    handle = create(24)
    shm.set_shared_memory_region(handle, [FLOATS])
    program = f"""{ATTACH}
array = shm.get_contents_as_numpy(handle, np.float32, [2, 3])
array *= 2
assert shm.mapped_shared_memory_regions() == [key]
del array
{end}
"""
    finish(start(program, key))
    assert exists(key)
    assert shm.get_contents_as_numpy(handle, np.float32, [2, 3]).tolist() == (FLOATS * 2).tolist()


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_attached_process_that_is_killed_leaves_the_region(create: Create, key: str, death: int) -> None:
    handle = create(24)
    process = start(f"signal.signal(signal.SIGINT, signal.SIG_DFL)\n{ATTACH}{READY}signal.pause()", key)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(death)
    finish(process, -death)
    assert exists(key)
    assert raw(handle) == bytes(24)


def test_a_region_of_another_process_is_read_after_its_destruction(create: Create, key: str) -> None:
    program = f"""{ATTACH}
shm.set_shared_memory_region(handle, [np.arange(6, dtype=np.float32)])
{READY}
sys.stdin.readline()
shm.destroy_shared_memory_region(handle)
"""
    process = start(program, key)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    handle = create(24)
    assert exists(key)
    process.stdin.write("\n")  # type: ignore[union-attr]
    finish(process)
    assert not exists(key)
    view = shm.get_contents_as_numpy(handle, np.float32, [6])
    shm.destroy_shared_memory_region(handle)
    assert view.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise SystemExit(3)"])
def test_a_process_that_ends_without_destroy_removes_its_regions(key: str, end: str) -> None:
    finish(start(f"{ATTACH}\n{end}", key), 3 if end else 0)
    assert not exists(key)


def test_a_process_that_destroys_everything_prints_nothing(key: str) -> None:
    program = f"""{ATTACH}
again = shm.create_shared_memory_region('region', key, 24)
view = shm.get_contents_as_numpy(handle, np.float32, [6])
shm.destroy_shared_memory_region(handle)
shm.destroy_shared_memory_region(again)
view[:] = 1
assert 'multiprocessing.resource_tracker' not in sys.modules
"""
    finish(start(program, key))
    assert not exists(key)


CHILD_ENDS = {
    "os._exit": "os._exit(0)",
    "exit": "sys.exit(0)",
    "destroy": "shm.destroy_shared_memory_region(handle); sys.exit(0)",
    "attach, destroy": "again = shm.create_shared_memory_region('r', key, 24);"
    " [shm.destroy_shared_memory_region(each) for each in (handle, again)]; sys.exit(0)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("end", CHILD_ENDS.values(), ids=CHILD_ENDS)
def test_a_forked_child_leaves_its_parents_region(key: str, end: str) -> None:
    program = f"""{ATTACH}
pid = os.fork()
if not pid:
    assert shm.mapped_shared_memory_regions() == [key]
    shm.set_shared_memory_region(handle, [np.array([7], np.uint8)])
    {end}
os.waitpid(pid, 0)
assert os.path.exists('/dev/shm/' + key[1:])
assert shm.get_contents_as_numpy(handle, np.uint8, [1]).item() == 7
shm.destroy_shared_memory_region(handle)
assert not os.path.exists('/dev/shm/' + key[1:])
"""
    finish(start(program, key))


def test_a_forked_child_removes_its_own_and_is_not_locked_by_a_thread(key: str) -> None:
    program = f"""
import threading
held, go = threading.Event(), threading.Event()
def hold():
    with shm._lock:
        held.set()
        go.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
import warnings
warnings.simplefilter('ignore', DeprecationWarning)  # of forking beside a thread
pid = os.fork()
if not pid:
    {ATTACH}
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert not os.path.exists('/dev/shm/' + key[1:])
go.set()
thread.join()
"""
    finish(start(program, key))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_worker_of_multiprocessing_removes_only_its_own_regions(
    key: str, method: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""{HEAD}
import multiprocessing
def attach():
    handle = shm.create_shared_memory_region('region', key, 24)
    assert shm.get_contents_as_numpy(handle, np.uint8, [1]).item() == 7
    own = shm.create_shared_memory_region('region', key + '_own', 24)
    assert os.path.exists('/dev/shm/' + own.key[1:])
if __name__ == '__main__':
    handle = shm.create_shared_memory_region('region', key, 24)
    shm.set_shared_memory_region(handle, [np.array([7], np.uint8)])
    for _ in range(2):
        worker = multiprocessing.get_context({method!r}).Process(target=attach)
        worker.start()
        worker.join()
        assert worker.exitcode == 0
        assert os.path.exists('/dev/shm/' + key[1:])
        assert not os.path.exists('/dev/shm/' + key[1:] + '_own')
""")
    done = subprocess.run(
        [sys.executable, "-W", "error", program, key], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not exists(key)


def test_processes_race_for_one_key(key: str) -> None:
    program = """
sys.stdin.readline()
for _ in range(200):
    handle = shm.create_shared_memory_region('region', key, 4096)
    assert handle.byte_size == 4096
    shm.destroy_shared_memory_region(handle)
"""
    processes = [start(program, key) for _ in range(3)]
    for process in processes:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    for process in processes:
        finish(process)
    assert not exists(key)


def test_a_handle_is_pickled_by_its_key(create: Create, key: str) -> None:
    handle = create(24)
    program = """
import pickle
handle = pickle.loads(bytes.fromhex(sys.stdin.readline()))
shm.set_shared_memory_region(handle, [np.arange(6, dtype=np.float32)])
assert shm.mapped_shared_memory_regions() == [key]
"""
    process = start(program, key)
    process.stdin.write(f"{pickle.dumps(handle).hex()}\n")  # type: ignore[union-attr]
    finish(process)
    assert shm.get_contents_as_numpy(handle, np.float32, [6]).tolist() == [0, 1, 2, 3, 4, 5]
    second = copy.deepcopy(handle)
    assert (second.name, second.key, second.byte_size) == ("region", key, 24)
    shm.destroy_shared_memory_region(handle)
    assert exists(key)
    pickled = pickle.dumps(second)
    shm.destroy_shared_memory_region(second)
    assert not exists(key)
    with pytest.raises(shm.SharedMemoryException, match="No such file"):
        pickle.loads(pickled)


def test_multiprocessing_shared_memory_sees_the_same(create: Create, key: str) -> None:
    handle = create(24)
    program = """
from multiprocessing import resource_tracker, shared_memory
resource_tracker.register = lambda *_: None  # else it would unlink the region
theirs = shared_memory.SharedMemory(key[1:])
theirs.buf[:3] = b'abc'
theirs.close()
"""
    finish(start(program, key))
    assert raw(handle)[:3] == b"abc"


with contextlib.suppress(ImportError):
    import torch

    DERIVED["torch"] = lambda view: torch.from_numpy(view).reshape(-1)[1:].numpy()
