"""What may be shown of URLs and headers: one rule for messages, errors, events, spans, the log and `verbose`.

A name is taken apart into its words, at anything that is no letter and in camelCase. So ``api_key``, ``X-API-Key``
and ``apiKey`` hide their values, and ``max_tokens``, ``token_count`` and ``keyboard`` do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

__all__ = ["is_secret", "masked", "printable", "without_credentials", "without_secrets"]

HIDDEN = "***"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORDS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: A name with one of these is secret, unless its last word says that the value is no more than about a secret.
_STRONG = _set(
    "apikey authorization cookie cookies cred credential credentials creds csrf hmac htpasswd jwe jws jwt "
    "passphrase passwd password passwords pwd saml secret secrets xsrf"
)
_ABOUT = _set(
    "age algorithm count enabled expires expiry format length limit method name policy required size ttl type"
)
#: A name that ends with one of these is secret, unless one of the others stands before it.
_LAST = _set(
    "accesskeyid assertion auth authentication bearer jsessionid key oauth otp passcode passkey phpsessid pin "
    "pincode sas sessid session sessionid sid sig signature ticket token totp verifier"
)
_HARMLESS = _set(
    "bos cache cls eos end first foreign idempotency last mask max min num pad partition per public "
    "routing sep shard sort start stop unk"
)
#: Names that are secret as a whole, apart from an X before them. Azure Functions take their key as `code`, and
#: OAuth returns one so.
_WHOLE = _set(
    "accesskeyid ak amznoidcdata code connectionstring dsn keys pass pat pw samlresponse sessionid sk"
)
#: What stands before a code that is secret; other codes tell of languages and errors.
_OF_CODES = _set("access auth device invite login mfa reset unlock user verification")

#: How secret names end whose words are written as one.
_RUN_TOGETHER = re.compile(
    "(?:token|secret|password|passwd|passphrase|signature|credentials?|cookie|accesskeyid|sessionid"
    "|(?:access|account|admin|api|app|auth|client|consumer|deploy|encryption|function|functions|gateway|host|license"
    "|master|private|project|read|rest|rsa|secret|server|service|session|shared|signing|ssh|subscription|team|user"
    "|webhook|write)keys?|(?:apikey|basic|digest|http|key|proxy|user)auth|(?:admin|db|http|login|proxy|root|user)pass"
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
    if words[:1] == ["x"]:
        del words[0]
    if not words or words[-1] in _ABOUT:
        return False
    whole = "".join(words)
    if whole in _STRONG or whole in _WHOLE or not _STRONG.isdisjoint(words):
        return True
    if words[-1] == "id":
        return words[-2:-1] in (["session"], ["access"]) or words[-3:-1] == ["access", "key"]
    if words[-1] == "code":
        return words[-2] in _OF_CODES
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


def printable(text: str, keep: str = "") -> str:
    """Return text without control characters, which could change the terminal; they are shown as escapes."""
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode("ascii")
        for each in text
    )
