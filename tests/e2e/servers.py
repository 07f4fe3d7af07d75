"""The servers of a team as the scripts of deploy/ start them, and a bucket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def script(name: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A script of deploy/ until SIGTERM."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [str(ROOT / "deploy" / name), *map(str, arguments)]
    server = subprocess.Popen(command, env=os.environ | {"PATH": path}, start_new_session=True)
    try:
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=120)


@contextlib.contextmanager
def buckets(*names: str) -> Iterator[str]:
    """An S3 server on this machine; gives its address. Its keys are in the environment, as a user has them."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "DEFAULT_REGION": "us-east-1"}
    variables["ENDPOINT_URL"] = f"http://{host}:{port}"
    os.environ |= {f"AWS_{name}": value for name, value in variables.items()}
    for name in names:
        boto3.client("s3").create_bucket(Bucket=name)
    try:
        yield f"{host}:{port}"
    finally:
        server.stop()


def names_in(bucket: str) -> list[str]:
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def wait_for(holds: Callable[[], bool], server: subprocess.Popen[bytes], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.3)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def status(port: int, path: str) -> int:
    """What the server answers below ``/api``; 0 where there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
