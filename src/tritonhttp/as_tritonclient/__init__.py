"""Provide the modules of ``tritonclient``, so that programs written for it run unchanged on this library.

:func:`install` puts a finder before Python's own. It makes the modules of the table below from our objects, each
at its first import. Other modules of an installed ``tritonclient``, above all ``tritonclient.grpc``, are still
imported from there, and use our ``tritonclient.utils``.

``python -m tritonhttp.as_tritonclient program.py`` runs a program this way.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

from .._basics import hints

__all__ = ["FRONT", "NAMES", "install", "provide"]

#: A folder with a package ``tritonclient``, put on the path of Python processes that a program starts.
FRONT = Path(__file__).with_name("front")

_UTILS = (
    "InferenceServerException TRITON_RESERVED_REQUEST_PARAMS TRITON_RESERVED_REQUEST_PARAMS_PREFIX"
    " deserialize_bytes_tensor np_to_triton_dtype raise_error serialize_byte_tensor serialized_byte_size"
    " triton_to_np_dtype np=numpy struct=struct ml_dtypes=ml_dtypes"
)
_HTTP = (
    "InferAsyncRequest InferInput InferRequestedOutput InferResult InferenceServerClient"
    " InferenceServerClientPlugin InferenceServerException Request"
)
_REQUESTS = "_get_inference_request _get_query_string"
_ERRORS = "_get_error _raise_if_error"
_SHARED_MEMORY = (
    "SharedMemoryException SharedMemoryRegion create_shared_memory_region destroy_shared_memory_region"
    " get_contents_as_numpy mapped_shared_memory_regions set_shared_memory_region"
    " mpshm=multiprocessing.shared_memory np=numpy os=os struct=struct warnings=warnings"
)
_CUDA = "* base64=base64 ctypes=ctypes np=numpy struct=struct"

#: Module -> the source of its names, and the names. ``name=module`` is a module, left out if it is not installed.
#: ``*`` is all public names of ours.
#: They are the names of tritonclient 2.73, and the names that its own modules import, since programs use them too.
NAMES: dict[str, tuple[str, str]] = {
    "tritonclient": ("", ""),
    "tritonclient._auth": ("auth", "BasicAuth"),
    "tritonclient._client": ("as_tritonclient.names", "InferenceServerClientBase raise_error"),
    "tritonclient._plugin": ("plugins", "InferenceServerClientPlugin"),
    "tritonclient._request": ("plugins", "Request"),
    "tritonclient.http": ("as_tritonclient.names", f"{_HTTP} {_UTILS}"),
    "tritonclient.http._client": (
        "as_tritonclient.names",
        f"InferAsyncRequest InferResult InferenceServerClient InferenceServerClientBase Request raise_error"
        f" {_REQUESTS} _raise_if_error base64=base64 gzip=gzip json=json zlib=zlib",
    ),
    "tritonclient.http._infer_input": (
        "as_tritonclient.names",
        "InferInput np_to_triton_dtype raise_error serialize_byte_tensor np=numpy",
    ),
    "tritonclient.http._infer_result": (
        "as_tritonclient.names",
        "InferResult deserialize_bytes_tensor raise_error triton_to_np_dtype"
        " np=numpy gzip=gzip json=json zlib=zlib",
    ),
    "tritonclient.http._requested_output": ("as_tritonclient.names", "InferRequestedOutput raise_error"),
    "tritonclient.http._utils": (
        "as_tritonclient.names",
        f"{_REQUESTS} {_ERRORS} InferenceServerException TRITON_RESERVED_REQUEST_PARAMS"
        " TRITON_RESERVED_REQUEST_PARAMS_PREFIX raise_error struct=struct json=json",
    ),
    "tritonclient.http.auth": ("auth", "BasicAuth"),
    "tritonclient.http.aio": (
        "as_tritonclient.aio_names",
        f"{_HTTP} InferenceServerClientBase quote {_REQUESTS} {_ERRORS}"
        " aiohttp=aiohttp base64=base64 gzip=gzip json=json zlib=zlib",
    ),
    "tritonclient.http.aio.auth": ("auth", "BasicAuth"),
    "tritonclient.utils": ("utils", _UTILS),
    "tritonclient.utils.shared_memory": ("utils.shared_memory", _SHARED_MEMORY),
    "tritonclient.utils.cuda_shared_memory": ("utils.cuda_shared_memory", _CUDA),
    "tritonhttpclient": ("as_tritonclient.names", f"{_HTTP} warnings=warnings"),
    "tritonclientutils": ("utils", f"{_UTILS} warnings=warnings"),
    "tritonshmutils": ("", "warnings=warnings"),
    "tritonshmutils.shared_memory": ("utils.shared_memory", _SHARED_MEMORY),
    "tritonshmutils.cuda_shared_memory": ("utils.cuda_shared_memory", _CUDA),
}

#: The modules of the reference that have an ``__all__``.
_ALL = {"tritonclient.http": _HTTP, "tritonclient.http.auth": "BasicAuth"}

_DEPRECATED = {
    "tritonhttpclient": "tritonclient.http",
    "tritonclientutils": "tritonclient.utils",
    "tritonshmutils": "tritonclient.utils",
    "tritonshmutils.shared_memory": "tritonclient.utils.shared_memory",
    "tritonshmutils.cuda_shared_memory": "tritonclient.utils.cuda_shared_memory",
}


class _Finder(MetaPathFinder, Loader):
    """Finds and makes the modules of the table."""

    def __init__(self) -> None:
        #: The folder of an installed tritonclient, if there is one.
        self._installed = installed()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "tritonclient._client" and self._installed is not None:
            return None  # the base of tritonclient.grpc's client
        if fullname in NAMES:
            # As in the reference: the modules that programs know are packages.
            is_package = "._" not in fullname and not fullname.startswith("tritonshmutils.")
            spec = ModuleSpec(fullname, self, origin="tritonhttp", is_package=is_package)
            if self._installed is not None and fullname in ("tritonclient", "tritonclient.utils"):
                assert spec.submodule_search_locations is not None
                spec.submodule_search_locations.append(
                    str(self._installed.joinpath(*fullname.split(".")[1:]))
                )
            return spec
        if fullname == "tritonclient.grpc" and PathFinder.find_spec(fullname, path) is None:
            # With the module's full name, a failed `from tritonclient import grpc` would lose this message.
            raise ModuleNotFoundError(
                "No module named 'tritonclient.grpc': tritonhttp speaks HTTP only, and stands here for"
                " tritonclient. For gRPC, install tritonclient[grpc] beside it.",
                name="grpc",
            )
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if name in _DEPRECATED:
            import warnings

            warnings.warn(
                f"The package `{name}` is deprecated and will be removed in a future version. Please use instead"
                f" `{_DEPRECATED[name]}`",
                DeprecationWarning,
                stacklevel=2,
            )
        source, names = NAMES[name]
        ours = import_module(f"tritonhttp.{source}") if source else None
        for entry in names.split():
            attribute, _, other = entry.partition("=")
            if attribute == "*" and ours is not None:
                module.__dict__.update((each, getattr(ours, each)) for each in ours.__all__)
            elif not other:
                setattr(module, attribute, getattr(ours, attribute))
            else:
                with suppress(ImportError):
                    setattr(module, attribute, import_module(other))
        if name in _ALL:
            module.__all__ = _ALL[name].split()  # type: ignore[attr-defined]
        if name == "tritonclient.http":
            # The reference's module imports these, so they are its attributes afterwards.
            for other in NAMES:
                if other == "tritonclient.utils" or other.startswith("tritonclient.http._"):
                    import_module(other)


def installed() -> Path | None:
    """Return the folder of a real ``tritonclient`` on the path, or None."""
    for entry in sys.path:
        spec = PathFinder.find_spec("tritonclient", [entry])
        for location in (spec and spec.submodule_search_locations) or ():
            if Path(location, "utils").is_dir():
                return Path(location)
    return None


def install() -> None:
    """Register this library as ``tritonclient`` in this process; a second call does nothing.

    Programs then import the reference's names; ``tritonhttp.as_tritonclient.NAMES`` lists them.

    Raises
    ------
    ImportError
        If the real package was imported before, since the program would use both.
    """
    _register()


def provide(name: str, *, alone: bool = False) -> None:
    """Replace the module that is being imported under `name` by ours, and :func:`install`.

    Parameters
    ----------
    name : str
        The caller's ``__name__``.
    alone : bool
        Refuse if a real ``tritonclient`` is installed too.

    Raises
    ------
    ImportError
        As :func:`install`; also because of `alone`.
    """
    found = installed() if alone else None
    if found is not None:
        raise ImportError(
            f"tritonhttp stands for tritonclient in this environment, and tritonclient itself is in {found} too:"
            " uninstall one of them (python -m tritonhttp.as_tritonclient program.py needs no uninstalling)"
        )
    finder = _register(name)
    spec = finder.find_spec(name, None)
    assert spec is not None
    module = sys.modules[name] = module_from_spec(spec)
    finder.exec_module(module)


def _register(being_imported: str = "") -> _Finder:
    """Return this process's finder; make it first if there is none."""
    for finder in sys.meta_path:
        if isinstance(finder, _Finder):
            return finder
    for name in sorted(NAMES):
        if name in sys.modules and name != being_imported:
            place = getattr(sys.modules[name], "__file__", None)
            raise ImportError(
                f"{name} was imported before, from {place}: call install_as_tritonclient() before anything imports"
                " tritonclient"
            )
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    hints.silence()
    return finder
