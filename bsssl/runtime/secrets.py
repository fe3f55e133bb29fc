"""Secrets of URLs, which nobody is shown and no record keeps: passwords, and the signatures and tokens of queries."""

import hashlib
import re
from typing import Any

_STARS = "***"
_LONG = 6  # characters of a secret that is no part of words by chance
_NAMES = "sig|signature|token|secret|password|passwd|credential|accesskeyid|access_key|api_?key|policy"
_PASSWORD = re.compile(r"(?<=\w://)([^\s/?#@:]*:)([^\s/?#]+)(?=@)")
_VALUE = re.compile(rf"([?&;](?:[\w.-]*[-_.])?(?:{_NAMES})=)([^\s&;#'\"]+)", re.IGNORECASE)


def hidden(value: Any) -> Any:
    """Return a text without the secrets of its URLs, or a JSON value with such texts.

    What stands for a secret tells whether two are the same, and no more: ``***`` and 16 bits of a hash.
    """
    if isinstance(value, str):
        return _without_secrets(value) if "://" in value else value
    if isinstance(value, dict):
        return {hidden(key): hidden(one) for key, one in value.items()}
    return [hidden(one) for one in value] if isinstance(value, list | tuple) else value


def _without_secrets(text: str) -> str:
    """Return a text without the secrets of its URLs, which may stand in it once more, without the URL."""
    secrets = {match[2] for pattern in (_PASSWORD, _VALUE) for match in pattern.finditer(text)}
    text = _VALUE.sub(_hide, _PASSWORD.sub(_hide, text))
    for secret in secrets:
        if len(secret) >= _LONG and not secret.startswith(_STARS):
            text = text.replace(secret, _stars(secret))
    return text


def _hide(match: re.Match[str]) -> str:
    name, secret = match.groups()
    if secret.startswith(_STARS):
        return f"{name}{secret}"
    return f"{name}{_stars(secret)}"


def _stars(secret: str) -> str:
    return f"{_STARS}{hashlib.blake2b(secret.encode(), digest_size=2).hexdigest()}"
