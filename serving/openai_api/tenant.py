"""Whose share of the engine a request takes. The name is neither logged nor a label."""

import hashlib

from starlette.datastructures import Headers
from starlette.types import Scope


def tenant_of(scope: Scope) -> str:
    """A pseudonym of the request's API key; empty for a request without one."""
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return ""
    return hashlib.sha256(key.strip().encode("utf-8", "replace")).hexdigest()[:16]
