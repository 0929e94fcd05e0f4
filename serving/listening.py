"""The addresses that the server may listen on, and the sockets of one."""

import errno
import ipaddress
import socket

from everloop.errors import ConfigError
from everloop.settings import Settings

_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def check_host(host: str) -> None:
    """Refuse other hosts than this one, unless all addresses are a container's own.

    Raises:
        ConfigError: the host is no address, or not this machine's.
    """
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ConfigError(
            f"host {host!r} is no address. Expected one of this machine, such as 127.0.0.1."
        ) from error
    if not (is_loopback or Settings().containerized):
        raise ConfigError(
            f"host {host!r}: only this machine (127.0.0.1) can be served. Other hosts need API "
            "keys, which come with a later release."
        )


def listen(host: str, port: int) -> list[socket.socket]:
    """Bind the sockets of a host; `localhost` has one for each kind of address of the machine.

    Raises:
        ConfigError: the port is in use, or the machine has no such address.
    """
    sockets: list[socket.socket] = []
    for address in ("127.0.0.1", "::1") if host == "localhost" else (host,):
        try:
            sockets.append(_bind(address, port))
        except OSError as error:
            if sockets and error.errno in _NO_IPV6:
                continue
            for bound in sockets:
                bound.close()
            raise ConfigError(
                f"port {port} on {address} is in use or not to be had ({error.strerror}). Choose "
                "another --port."
            ) from error
    return sockets


def _bind(address: str, port: int) -> socket.socket:
    is_v6 = ":" in address
    bound = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_v6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound
