"""Gives memory that was freed back to the system, which the C library keeps by itself."""

import ctypes
import platform


def give_freed_memory_back() -> None:
    """Return whole free pages of every arena of the heap to the system.

    glibc has an arena for each of several threads and shrinks it at its end only, so that one small
    object behind a model's weights keeps all of their memory. It takes up to some tens of
    milliseconds, in which other threads wait if they need memory of the arena at hand. Nothing
    happens with other C libraries. Source: malloc_trim(3).
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
