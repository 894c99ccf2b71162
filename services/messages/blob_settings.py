"""Settings of where the content of attachments lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.messages import blob_bucket
from services.messages.blob_bucket import Bucket, Place
from services.messages.blob_folder import Folder
from services.messages.blobs import Store
from services.runtime import config
from services.runtime.config import ConfigError, setting


def place(value: str) -> Path | Place:
    """A folder, or a bucket."""
    return blob_bucket.place(value) if value.startswith("s3:") else config.folder(value)


@dataclass(frozen=True, kw_only=True)
class AttachmentSettings:
    """A folder, or an S3-compatible store."""

    attachments: Path | Place = setting(
        "SOLMU_ATTACHMENTS", place, doc="folder for the content of attachments, or s3://bucket/prefix"
    )
    s3_endpoint: str = setting("SOLMU_S3_ENDPOINT", config.text, default="", doc="origin of the S3 store, if not AWS")
    s3_region: str = setting("SOLMU_S3_REGION", config.text, default="us-east-1", doc="region of the S3 store")
    s3_credentials: tuple[str, str] | None = setting(
        "SOLMU_S3_CREDENTIALS",
        blob_bucket.credentials,
        default=None,
        doc="file of two lines: id of an access key, and its secret",
    )
    s3_authorities: Path | None = setting(
        "SOLMU_S3_AUTHORITIES", config.file, default=None, doc="authorities of the S3 store beside the machine's, PEM"
    )

    def store(self) -> Store:
        """The store; a bucket is tried first, which may take seconds.

        Raises ConfigError where there is no key to it, or it does not do what is asked of it.
        """
        if isinstance(self.attachments, Path):
            return Folder(self.attachments)
        if self.s3_credentials is None:
            raise ConfigError(["SOLMU_S3_CREDENTIALS is not set, and SOLMU_ATTACHMENTS names a bucket"])
        bucket = Bucket(
            self.attachments,
            region=self.s3_region,
            credentials=self.s3_credentials,
            endpoint=self.s3_endpoint,
            authorities=self.s3_authorities.read_text(encoding="ascii") if self.s3_authorities else "",
        )
        bucket.check()
        return bucket
