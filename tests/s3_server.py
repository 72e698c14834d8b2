"""An S3 server on this machine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["S3Server", "s3_server"]


class S3Server:
    """The server.

    Attributes:
        environment: Variables by which clients find it.
    """

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self._url,
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": "password",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def new_bucket(self) -> str:
        """The name of an empty bucket."""
        import requests

        name = f"bucket-{secrets.token_hex(4)}"
        assert requests.put(f"{self._url}/{name}", timeout=10).ok
        return name

    @contextmanager
    def closed(self) -> Iterator[None]:
        """No user has any rights in the block."""
        import requests

        requests.post(f"{self._url}/moto-api/reset-auth", data="0", timeout=10)
        try:
            yield
        finally:
            requests.post(f"{self._url}/moto-api/reset-auth", data="inf", timeout=10)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with no buckets."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto's server is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    s3fs.S3FileSystem.clear_instance_cache()  # which would go on asking a server that was there before
    try:
        yield S3Server(server.get_host_and_port()[1])
    finally:
        server.stop()
