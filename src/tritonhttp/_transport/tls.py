"""The TLS context for the connections to a server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequest

if TYPE_CHECKING:
    import ssl

__all__ = ["aiohttp_context", "tls_context"]

#: The options that a caller may give.
_TLS_OPTIONS = {
    *("keyfile", "certfile", "ca_certs", "ciphers", "ssl_version", "password", "options", "verify_flags"),
    *("cert_reqs", "do_handshake_on_connect", "server_side", "suppress_ragged_eofs"),  # ignored
}


def tls_context(
    options: Mapping[str, Any] | None, factory: Callable[[], ssl.SSLContext] | None, insecure: bool
) -> ssl.SSLContext:
    """Return the context for a client's connections. It always verifies the server's chain.

    Parameters
    ----------
    options : mapping, optional
        The arguments of ``ssl.wrap_socket`` (keyfile, certfile, ca_certs, ciphers, ssl_version) and the context's
        `options` and `verify_flags`. `cert_reqs`, do_handshake_on_connect and suppress_ragged_eofs are accepted
        and ignored.
    factory : callable, optional
        Returns the context to use; `options` then add certificates and ciphers to it.
    insecure : bool
        Do not check the host name against the certificate.

    Raises
    ------
    InvalidRequest
        For an unknown option, or files that cannot be loaded.
    """
    import ssl

    given = {name: value for name, value in (options or {}).items() if value is not None}
    if unknown := sorted(set(given) - _TLS_OPTIONS):
        raise InvalidRequest(f"unknown ssl_options {unknown}: expected some of {sorted(_TLS_OPTIONS)}")
    if "keyfile" in given and "certfile" not in given:
        raise InvalidRequest("ssl_options: a keyfile needs its certfile as well")
    context = (
        ssl.create_default_context() if factory is None else _call_factory(factory, given.get("ca_certs"))
    )
    try:
        if "ca_certs" in given:
            context.load_verify_locations(cafile=given["ca_certs"])
        if "certfile" in given:
            context.load_cert_chain(given["certfile"], given.get("keyfile"), given.get("password"))
        if "ciphers" in given:
            context.set_ciphers(given["ciphers"])
        for option in given.keys() & {"options", "verify_flags"}:
            setattr(context, option, given[option])
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"ssl_options {sorted(given)} cannot be used: {error}") from error
    version = given.get("ssl_version", ssl.PROTOCOL_TLS)
    if version not in (ssl.PROTOCOL_TLS, ssl.PROTOCOL_TLS_CLIENT):
        name = str(getattr(version, "name", version)).removeprefix("PROTOCOL_")
        exact = ssl.TLSVersion.__members__.get(name)
        if exact is None:
            raise InvalidRequest(f"ssl_version {version!r} is not supported")
        context.minimum_version = context.maximum_version = exact
    if insecure:
        context.check_hostname = False
    return context


def _call_factory(factory: Callable[..., ssl.SSLContext], ca_certs: str | None) -> ssl.SSLContext:
    """Call a factory, with `cafile` if it requires an argument: the reference always passes that."""
    import inspect

    if not callable(factory):
        raise InvalidRequest(
            f"ssl_context_factory must be a function that returns a context, got {factory!r}"
        )
    arguments = {}
    try:
        inspect.signature(factory).bind()
    except TypeError:
        arguments["cafile"] = ca_certs
    except ValueError:  # a function in C may have no signature
        pass
    return _as_context(factory(**arguments), "what ssl_context_factory returns")


def _as_context(given: Any, what: str, others: str = "") -> ssl.SSLContext:
    """Return a context that a caller gave; raise InvalidRequest for anything else."""
    import ssl

    if not isinstance(given, ssl.SSLContext):
        raise InvalidRequest(f"{what} must be an ssl.SSLContext{others}, got {given!r}")
    return given


def aiohttp_context(given: Any) -> ssl.SSLContext | None:
    """Return the context for an `ssl_context` in any form that aiohttp takes; None stands for the system's.

    Raises
    ------
    InvalidRequest
        For anything else.
    """
    if given is None or given is True:
        return None
    if given is False:
        return _unverified()
    fingerprint = getattr(sys.modules.get("aiohttp"), "Fingerprint", None)
    if fingerprint is not None and isinstance(given, fingerprint):
        return _pinned(given.fingerprint)
    return _as_context(
        given, "ssl_context", ", True, False (verifies nothing), None or an aiohttp.Fingerprint"
    )


def _unverified() -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _pinned(expected: bytes) -> ssl.SSLContext:
    """Return a context that accepts the one certificate of this SHA-256 fingerprint, whoever signed it."""
    import ssl
    from hashlib import sha256

    class Pinned(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            got = sha256(self.getpeercert(binary_form=True) or b"").digest()
            if got != expected:
                error: Any = ssl.SSLCertVerificationError(
                    f"the certificate's fingerprint is {got.hex()}, expected {expected.hex()}"
                )
                error.expected, error.got = expected, got
                raise error

    context = _unverified()
    context.sslobject_class = Pinned
    return context
