"""What may be shown of URLs and headers: one rule for messages, errors, events, spans, the log and `verbose`.

A name is taken apart into its words, at anything that is no letter and in camelCase. So ``api_key``, ``X-API-Key``
and ``apiKey`` hide their values, and ``max_tokens``, ``token_count`` and ``keyboard`` do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

__all__ = ["is_secret", "masked", "without_credentials", "without_secrets"]

HIDDEN = "***"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORDS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: A name with one of these is secret, unless its last word says that the value is no more than about a secret.
_STRONG = _set(
    "apikey authorization cookie cookies cred credential credentials creds hmac jwt passphrase passwd "
    "password passwords pwd secret secrets"
)
_ABOUT = _set(
    "age algorithm count enabled expires expiry format length limit method name policy required size ttl type"
)
#: A name that ends with one of these is secret, unless one of the others stands before it.
_LAST = _set(
    "accesskeyid assertion auth authentication bearer jsessionid key oauth otp passcode passkey phpsessid "
    "sas sessid session sessionid sid sig signature token totp"
)
_HARMLESS = _set(
    "bos cache cls eos end first foreign idempotency last mask max min num pad partition per public "
    "routing sep shard sort start stop unk"
)
#: Names that are secret as a whole. Azure Functions take their key as `code`, and OAuth returns one so.
_WHOLE = frozenset(("accesskeyid", "code", "pass", "pat", "pw", "sessionid"))
#: How secret names end whose words are written as one.
_RUN_TOGETHER = re.compile(
    "(?:token|secret|password|passwd|passphrase|signature|credentials?|cookie|accesskeyid|sessionid"
    "|(?:access|account|admin|api|app|auth|client|encryption|function|functions|host|license|master|private|secret"
    "|session|shared|signing|subscription|user)keys?|(?:admin|db|http|login|proxy|root|user)pass"
    "|(?:access|api|auth|bearer|refresh|session)tokens)$"
)

#: User and password in a URL, whatever characters the password has.
_USER = re.compile(r"(?<=://)(?:[^/?#\s]*@|[^/?#\s:@]*:(?!\d*(?:[/?#\s:]|$))[^\s]{0,256}@)")
_PARAMETER = re.compile(r"(?<=[?&;#])([^=&;?#\s/]+)=")
#: A secret may hold what would end the value of another parameter.
_VALUE = re.compile(r"[^&\s]*")


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Return whether the value of a header or a query parameter of this name is hidden."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] in _ABOUT:
        return False
    whole = "".join(words)
    if whole in _STRONG or whole in _WHOLE or not _STRONG.isdisjoint(words):
        return True
    if words[-1] == "id":
        return words[-2:] == ["session", "id"] or words[-3:] == ["access", "key", "id"]
    if len(words) > 1 and words[-2] in _HARMLESS:
        return False
    return words[-1] in _LAST or _RUN_TOGETHER.search(whole) is not None


def masked(headers: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the headers as a dict, with credentials hidden."""
    return {name: HIDDEN if is_secret(str(name)) else _shown(value) for name, value in headers}


def _shown(value: Any) -> Any:
    # A sub-class may hide itself.
    return without_secrets(value) if type(value) is str else value


def without_secrets(text: str) -> str:
    """Return a text with the credentials of its URLs hidden: user and password, and secret query parameters."""
    if "://" in text:
        text = _USER.sub(f"{HIDDEN}@", text)
    if "=" not in text:
        return text
    shown: list[str] = []
    end = 0
    for parameter in _PARAMETER.finditer(text):
        if parameter.start() >= end and is_secret(_decoded(parameter[1])):
            shown += text[end : parameter.end()], HIDDEN
            end = _VALUE.match(text, parameter.end()).end()  # type: ignore[union-attr]  # it matches nothing as well
    return "".join((*shown, text[end:]))


def _decoded(name: str) -> str:
    if "%" not in name and "+" not in name:
        return name
    from urllib.parse import unquote_plus  # slow to import

    return unquote_plus(name)


def without_credentials(url: object) -> str:
    """Return what was given as a URL, for a message that refuses it: without user, password and query."""
    return re.sub(r"(?si)^([a-z]+://)?.*@", rf"\1{HIDDEN}@", re.sub(r"(?s)\?.*", "?…", str(url)))
