"""A network of this process' own that has nothing but loopback."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

_NEW_NETWORK, _SET_FLAGS, _UP = 0x40000000, 0x8914, 1


def leave_the_network() -> str | None:
    """Move this process, and all that it starts, into a network namespace with loopback alone.

    Whatever a daemon binds there, to every address or to one, nobody outside can reach.

    Returns:
        Why it could not be done; None where it was.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) != 0:
        return f"no network namespace of our own: {os.strerror(ctypes.get_errno())}"
    with socket.socket() as control:
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh22x", b"lo", _UP))
    return None
