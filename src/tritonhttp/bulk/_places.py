"""Files of a run, local or in what `pyarrow.fs` reaches. A file appears whole, or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import posixpath
import zlib
from collections.abc import Iterator
from typing import IO, Any

from pyarrow import fs as filesystems

from .._basics.redaction import HIDDEN, without_credentials, without_secrets
from ..errors import InvalidRequest

__all__ = ["Lines", "Place", "place_of"]

#: Filesystems in which a file appears when it is complete; they cannot rename one without copying it.
_OBJECTS = ("s3", "gcs", "abfs")


def place_of(given: Any) -> Place:
    """Return the place that a path or a URI names.

    Raises
    ------
    InvalidRequest
        If it is neither, or the filesystem of the URI is unknown.
    """
    try:
        text = os.fspath(given)
    except TypeError:
        raise InvalidRequest(f"expected a path or a URI, got {type(given).__name__}") from None
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    if "://" not in text:
        return Place(filesystems.LocalFileSystem(), os.path.abspath(text).replace(os.sep, "/"), text)
    try:
        system, path = filesystems.FileSystem.from_uri(text)
    except Exception as error:
        shown = without_credentials(text)
        why = without_secrets(str(error).replace(text, shown))
        raise InvalidRequest(f"{shown}: not the URI of a filesystem that pyarrow knows: {why}") from None
    return Place(system, path.rstrip("/"), without_secrets(text.partition("?")[0]).replace(f"{HIDDEN}@", ""))


class Place:
    """A file or folder.

    Attributes
    ----------
    name : str
        As the caller gave it, for messages; of a URI without credentials and options.
    """

    def __init__(self, system: Any, path: str, name: str) -> None:
        self.system, self.path, self.name = system, path, name
        self.is_local = system.type_name == "local"

    def __truediv__(self, name: str) -> Place:
        return Place(self.system, f"{self.path}/{name}", f"{self.name.rstrip('/')}/{name}")

    def beside(self, suffix: str) -> Place:
        """Return the place whose name has this at its end."""
        return Place(self.system, self.path + suffix, self.name.rstrip("/") + suffix)

    @property
    def suffix(self) -> str:
        """The end of the name, such as ``.csv``, in lower case."""
        return posixpath.splitext(self.path)[1].lower()

    def info(self) -> Any:
        """Return the `pyarrow.fs.FileInfo`."""
        return self.system.get_file_info(self.path)

    def exists(self) -> bool:
        """Whether there is a file or folder."""
        return bool(self.info().type != filesystems.FileType.NotFound)

    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return bool(self.info().type == filesystems.FileType.Directory)

    def files(self) -> list[Any]:
        """Return what `pyarrow.fs` knows of each file below, in the order of their paths; none that are hidden."""
        found = self.system.get_file_info(
            filesystems.FileSelector(self.path, recursive=True, allow_not_found=True)
        )
        cut = len(self.path.rstrip("/")) + 1
        return sorted(
            (
                each
                for each in found
                if each.type == filesystems.FileType.File
                and not any(part.startswith((".", "_")) for part in each.path[cut:].split("/"))
            ),
            key=lambda each: each.path,
        )

    def open(self) -> Any:
        """Open the file for reading at any position."""
        return self.system.open_input_file(self.path)

    def read(self) -> bytes:
        """Return the whole file; empty if there is none."""
        if not self.exists():
            return b""
        with self.system.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    def children(self) -> list[Place]:
        """Return the files right below, also those that are hidden."""
        found = self.system.get_file_info(filesystems.FileSelector(self.path, allow_not_found=True))
        names = (each.base_name for each in found if each.type == filesystems.FileType.File)
        return [self / name for name in names]

    def make_folder(self) -> None:
        """Make the folder, and those above it."""
        self.system.create_dir(self.path, recursive=True)

    def remove(self) -> None:
        """Remove the file or folder, if there is one."""
        if self.is_folder():
            self.system.delete_dir(self.path)
        elif self.exists():
            self.system.delete_file(self.path)

    @contextlib.contextmanager
    def written(self) -> Iterator[IO[bytes]]:
        """Give a stream for the block, the file when the block is over; nothing if it fails."""
        if self.system.type_name in _OBJECTS:
            stream = self.system.open_output_stream(self.path)
            try:
                yield stream
            except BaseException:
                _abandon(stream)
                raise
            stream.close()
            return
        folder, _, name = self.path.rpartition("/")
        temporary = f"{folder}/.{name}.tmp"
        try:
            if self.is_local:
                with open(temporary, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self.path)
                _sync_folder(folder)
            else:
                with self.system.open_output_stream(temporary) as stream:
                    yield stream
                self.system.move(temporary, self.path)
        except BaseException:
            with contextlib.suppress(Exception):
                self.system.delete_file(temporary)
            raise

    def write(self, content: bytes) -> None:
        """Write the whole file."""
        with self.written() as stream:
            stream.write(content)


def _abandon(stream: Any) -> None:
    """Let an object never appear: its stream completes it when it is closed, and closes when it is collected."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))


class Lines:
    """A file of lines that only grows; a line that was not written whole does not count.

    Each line begins with a checksum of the rest.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._file: IO[bytes] | None = None
        #: The lines that are there.
        self.found: list[bytes] = []
        whole = 0
        content = place.read()
        for line in content.splitlines(keepends=True):
            check, _, rest = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or check != _check(rest):
                break
            self.found.append(rest)
            whole += len(line)
        self._seen, self._kept = content, content[:whole]

    def open(self) -> None:
        """Open the file for more lines, once.

        Raises
        ------
        InvalidRequest
            If another process has it open, or has written to it since it was read.
        """
        if not self._place.is_local:
            return
        new = not self._place.exists()
        self._file = open(self._place.path, "a+b")  # noqa: SIM115  closed by `close`
        try:
            _lock(self._file)
        except OSError:
            self.close()
            raise InvalidRequest(f"{self._place.name}: another run writes to this output") from None
        self._file.seek(0)
        if self._file.read() != self._seen:
            self.close()
            raise InvalidRequest(f"{self._place.name}: another run has just written to this output")
        self._cut()
        if new:
            _sync_folder(self._place.path.rpartition("/")[0])

    def clear(self) -> None:
        """Remove all lines."""
        self.found, self._kept = [], b""
        if self._file is not None:
            self._cut()

    def _cut(self) -> None:
        """Cut the file behind the lines that count."""
        assert self._file is not None
        self._file.truncate(len(self._kept))
        os.fsync(self._file.fileno())

    def add(self, line: bytes) -> None:
        """Add a line; it is there for good when this returns."""
        whole = _check(line) + b" " + line + b"\n"
        if self._file is None:
            self._kept += whole
            self._place.write(self._kept)
        else:
            self._file.write(whole)
            self._file.flush()
            os.fsync(self._file.fileno())
        self.found.append(line)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _check(line: bytes) -> bytes:
    return b"%08x" % zlib.crc32(line)


def _sync_folder(folder: str) -> None:
    if os.name == "nt":  # it has no descriptors of folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(file: IO[bytes]) -> None:
    """Lock a file for this process; the end of the process unlocks it."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
