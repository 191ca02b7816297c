"""A network of this process' own that has nothing but loopback."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess

ADDRESS = "192.0.2.1"  # for documentation, so nobody's
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
    # Without any other address the C library resolves nothing for SLURM (AI_ADDRCONFIG).
    command = ["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stderr.strip() or None
