"""No test reaches the network: hubs are told so, and any other way out fails the test."""

import ipaddress
import os
import sys

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # subprocesses inherit it


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "")


def _guard(event: str, args: tuple[object, ...]) -> None:
    # An audit hook sees the sockets of every library, and no `except Exception` stops pytest.fail.
    if event == "socket.connect":
        address = args[1]
        host = address[0] if isinstance(address, tuple) else ""  # a Unix socket has a path
    elif event == "socket.getaddrinfo":
        host = args[0] or ""
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if not _is_local(str(host)):
        pytest.fail(f"the test tried to reach {host!r} over the network")


sys.addaudithook(_guard)
