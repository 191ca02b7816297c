"""The S3 server of the data tests."""

from tests.data.conftest import s3, s3_server

__all__ = ["s3", "s3_server"]
