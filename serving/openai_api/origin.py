"""Keeps web pages elsewhere from using a server on this machine through their visitor's browser.

A page cannot set Host or Origin. A Host that is a name on the internet means that the page has made
its own name point here (DNS rebinding); an Origin other than the server's own means that another
site sends the request. Programs send no Origin, and an address or a name without a dot as Host.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.openai_api.errors import ApiError


class OriginGuard:
    """Refuse requests that a foreign web page has sent.

    Args:
        app: behind it.
        hosts: further names of the server.
        origins: web pages that may call it, such as https://chat.example.org.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on unless it comes from elsewhere."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "").lower()
            self._check_host(host)
            self._check_origin(headers.get("origin"), host)
        await self._app(scope, receive, send)

    def _check_host(self, host: str) -> None:
        name = _name_of(host)
        is_local = "." not in name or name.endswith(".localhost") or _is_address(name)
        if not is_local and name not in self._hosts:
            raise ApiError(
                f"The server is not known as {name[:100]!r}. Use its address, or list the name in "
                "server.allowed_hosts.",
                status=403,
                code="host_not_allowed",
            )

    def _check_origin(self, origin: str | None, host: str) -> None:
        if origin is None:
            return
        # Behind a proxy that ends TLS the scheme differs; the rest is what the browser shows.
        _, _, authority = origin.lower().partition("://")
        if authority != host and origin.lower().rstrip("/") not in self._origins:
            raise ApiError(
                f"The web page {origin[:100]!r} may not call this server. List it in "
                "server.allowed_origins.",
                status=403,
                code="origin_not_allowed",
            )


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
