"""What is tried again: calls of remote file systems that fail in a way that can pass by itself.

That is a lost connection, a timeout, a server that is busy or throttles, an answer that is cut short: such calls get
``ATTEMPTS`` attempts with growing waits, about half a minute together, on top of what the file system's own library
does. What will stay as it is (no such file, no permission) is an OSError at once. When the attempts run out nothing is
known about the file, so that this is never an OSError, which would make it an unreadable item, but ``Unreachable``,
which ends the run.
"""

import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

from bsssl.errors import UserError

ATTEMPTS = 6
FIRST_WAIT = 1.0
"""seconds, at most, before the second attempt; twice as many before each further one"""
_sleep = time.sleep
_jitter = random.SystemRandom()  # draws nothing from the generators that training depends on

# Names, so that no library has to be imported to know its errors: Python's own, aiohttp's (https), botocore's (S3),
# requests' and urllib3's, azure's, paramiko's (sftp).
_TRANSIENT_NAMES = frozenset(
    {
        *("ConnectionError", "TimeoutError", "gaierror", "IncompleteRead"),
        *("ClientConnectionError", "ClientPayloadError"),
        *("HTTPClientError", "IncompleteReadError", "ResponseParserError"),
        *("Timeout", "ChunkedEncodingError", "ProtocolError"),
        *("ServiceRequestError", "ServiceResponseError"),
        "SSHException",
    }
)
_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT_ERRNOS = frozenset({errno.EBUSY, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH})
# S3 says some of these with a status of 400 or 404; an upload that was completed twice is NoSuchUpload.
_TRANSIENT_CODES = frozenset(
    {
        *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout", "InternalError"),
        *("BadDigest", "IncompleteBody", "NoSuchUpload"),
    }
)
# The same for every file, so never a matter of one item.
_CREDENTIAL_CODES = frozenset(
    {
        *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        "RequestTimeTooSkewed",
    }
)
_Result = TypeVar("_Result")


class Unreachable(UserError):
    """A file of which nothing can be known now: its server did not answer as it should in any attempt, or refuses us.

    Run again, what is finished is kept; an item that cannot be reached is not an unreadable one.
    """


class CutShort(ConnectionError):
    """Fewer bytes than the file has where we asked."""


def attempt(path: str, call: Callable[[], _Result], *, doing: str = "read") -> _Result:
    """Return what ``call``, which does something with the remote ``path``, returns; try again as the module says.

    Raises:
        OSError: What will not change: FileNotFoundError, PermissionError and the like, naming ``path``.
        Unreachable: Every attempt failed, or it is not the file but our credentials that are refused.
    """
    for number in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            if not _is_transient(error):
                _raise_lasting(path, error, doing)
            if number == ATTEMPTS:
                raise Unreachable(
                    f"cannot {doing} {path}: {in_a_line(error)} ({ATTEMPTS} attempts); check the connection and the "
                    "server, then run the same command again: what is finished is kept"
                ) from error
        _sleep(FIRST_WAIT * 2 ** (number - 1) * _jitter.uniform(0.5, 1))
    raise AssertionError("unreachable")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield ``error`` and what it was raised from, which says what the libraries' translations leave out."""
    while error is not None:
        yield error
        error = error.__cause__


def _is_transient(error: Exception) -> bool:
    return any(_is_transient_itself(cause) for cause in causes(error))


def _is_transient_itself(error: BaseException) -> bool:
    if (status := status_of(error)) is not None:
        return status in _TRANSIENT_STATUSES or _code(error) in _TRANSIENT_CODES
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS:
        return True
    return any(base.__name__ in _TRANSIENT_NAMES for base in type(error).__mro__)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error; None if it has none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        names = ("status", "status_code", "code")
        status = next((getattr(error, name) for name in names if hasattr(error, name)), None)
    return status if isinstance(status, int) and status >= 100 else None


def _code(error: BaseException) -> str:
    """Return what S3 calls an error; an empty text for an error of another service."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _raise_lasting(path: str, error: Exception, doing: str) -> NoReturn:
    """Raise what an error means that another attempt would not mend."""
    statuses = {status_of(cause) for cause in causes(error)}
    if any(_code(cause) in _CREDENTIAL_CODES for cause in causes(error)):
        raise Unreachable(
            f"cannot {doing} {path}: {in_a_line(error)}; check the credentials, then run again"
        ) from error
    if isinstance(error, FileNotFoundError):
        raise FileNotFoundError(errno.ENOENT, "No such file", path) from error
    if isinstance(error, PermissionError) or statuses & {401, 403}:
        raise PermissionError(errno.EACCES, in_a_line(error), path) from error
    if isinstance(error, OSError) or statuses != {None}:
        raise OSError(f"{path}: {in_a_line(error)}") from error
    if type(error).__module__ in ("builtins", UserError.__module__):
        raise error
    # No credentials at all, a region that does not exist, and what else a library has words of its own for.
    raise Unreachable(
        f"cannot {doing} {path}: {in_a_line(error)}; check how it is to be reached, then run again"
    ) from error


def in_a_line(error: Exception) -> str:
    """Return what an error says, without line breaks."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
