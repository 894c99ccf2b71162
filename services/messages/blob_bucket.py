"""Segments of blobs as objects in a bucket of an S3-compatible store: the setting for larger sites.

Four requests are all that is asked of it: PUT, GET, list by prefix, DELETE. A
segment is an object of its own, not a part of a multipart upload, so that what
has arrived of an upload can be read, and every server that calls itself
compatible will do.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from services.runtime.config import ConfigError
from services.runtime.errors import Internal, Unavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 10
"""Time for one request: a segment at 400 kB/s, in the same house."""

RETRIES = 3
"""Tries of a request after the first, where the store answers 5xx or not at all, in that time."""

PROBE = b"solmu"
"""What is written, read and deleted at the start."""

CREDENTIALS = 2
"""Lines of a file of credentials: the id of an access key, and its secret."""


@dataclass(frozen=True)
class Place:
    """Where a bucket is."""

    bucket: str
    prefix: str
    """Before the key of every object; empty for none."""


def place(value: str) -> Place:
    """Reads s3://bucket or s3://bucket/prefix."""
    parts = urlsplit(value)
    if parts.scheme != "s3" or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{value!r} is not s3://bucket or s3://bucket/prefix")
    return Place(parts.hostname, parts.path.strip("/"))


def credentials(value: str) -> tuple[str, str]:
    """Reads a file of two lines: the id of an access key, and its secret."""
    lines = Path(value).read_text(encoding="utf-8").split()
    if len(lines) != CREDENTIALS:
        raise ValueError(f"{value} does not hold two lines: the id of an access key, and its secret")
    return lines[0], lines[1]


class Bucket:
    """A store of segments: objects named `<blob>/<number>`.

    Without an endpoint it is AWS; one by http is for a server on the same
    machine. `authorities`, in PEM, are trusted beside those of the machine.
    """

    def __init__(
        self,
        place: Place,
        *,
        region: str,
        credentials: tuple[str, str],
        endpoint: str = "",
        authorities: str = "",
    ) -> None:
        client: ClientConfig = {
            "timeout": timedelta(seconds=REQUEST_SECONDS),
            "connect_timeout": timedelta(seconds=5),
            "allow_http": endpoint.startswith("http:"),
        }
        if authorities:
            client["root_certificate"] = authorities
        retry: RetryConfig = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=REQUEST_SECONDS)}
        key, secret = credentials
        config: S3Config = {"region": region, "access_key_id": key, "secret_access_key": secret}
        if endpoint:
            config["endpoint"] = endpoint
        self._bucket = place.bucket
        self._prefix = place.prefix
        self._store = S3Store(place.bucket, config=config, client_options=client, retry_config=retry)

    def check(self) -> None:
        """Lists, writes, reads and deletes, so that what is wrong is known before anybody sends a file.

        Raises ConfigError, which says what to do.
        """
        blob = uuid4()
        key = self._key(blob, 0)
        asked: dict[str, Callable[[], object]] = {
            "list": lambda: obstore.list(self._store, prefix=self._folder(blob)).collect(),
            "write": lambda: obstore.put(self._store, key, PROBE, use_multipart=False),
            "read": lambda: obstore.get(self._store, key).bytes(),
            "delete": lambda: obstore.delete(self._store, key),
        }
        for act, ask in asked.items():
            try:
                ask()
            except (BaseError, FileNotFoundError) as error:
                raise ConfigError([self._advice(act, error)]) from None

    def _advice(self, act: str, error: Exception) -> str:
        answered = re.search(r"status code: (\d{3})|\b(AccessDenied)\b", str(error))
        status = answered[1] or "403" if answered else ""
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or status in ("401", "403"):
            return (
                f"the key of SOLMU_S3_CREDENTIALS may not {act} in the bucket {self._bucket}: let it list, write, read"
                " and delete there, or name another key; some stores say this where there is no such bucket, too"
            )
        if isinstance(error, FileNotFoundError) or status == "404":
            return f"there is no bucket {self._bucket} in the S3 store: make it, or correct SOLMU_ATTACHMENTS"
        said = f"answers {status}" if status else "does not answer"
        return (
            f"the S3 store {said} when asked to {act}: does it run, and are SOLMU_S3_ENDPOINT, SOLMU_S3_REGION and"
            " SOLMU_S3_AUTHORITIES right?"
        )

    def write(self, blob: UUID, number: int, content: bytes) -> None:
        """See Store."""
        with _reached():
            obstore.put(self._store, self._key(blob, number), content, use_multipart=False)

    def read(self, blob: UUID, number: int) -> bytes:
        """See Store."""
        with _reached():
            try:
                return bytes(obstore.get(self._store, self._key(blob, number)).bytes())
            except FileNotFoundError:
                raise Internal("INTERNAL", "an attachment is not whole") from None

    def sizes(self, blob: UUID) -> list[int]:
        """See Store."""
        with _reached():
            found = obstore.list(self._store, prefix=self._folder(blob)).collect()
        return [each["size"] for each in sorted(found, key=lambda each: each["path"])]

    def delete(self, blob: UUID) -> None:
        """See Store. From the end, so that no gap is left where it breaks off."""
        for number in reversed(range(len(self.sizes(blob)))):
            with _reached():
                obstore.delete(self._store, self._key(blob, number))

    def _folder(self, blob: UUID) -> str:
        return f"{self._prefix}/{blob.hex}" if self._prefix else blob.hex

    def _key(self, blob: UUID, number: int) -> str:
        return f"{self._folder(blob)}/{number:05}"


@contextmanager
def _reached() -> Iterator[None]:
    """Turns whatever is wrong with the store into Unavailable; the log says what kind it is, and no names."""
    try:
        yield
    except (BaseError, FileNotFoundError) as error:  # the latter where the bucket has gone
        logger.error("the store of attachments refuses or is away", extra={"error": type(error).__qualname__})
        raise Unavailable("UNAVAILABLE", "the store of attachments is away; try again", retry_after=2.0) from None
