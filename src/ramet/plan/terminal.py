"""A pseudo-terminal of the sandbox's own."""

from __future__ import annotations

import os
import struct

from ramet.errors import SpecError
from ramet.plan.idmap import CONTROL
from ramet.plan.life import hand_over
from ramet.plan.steps import Block

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.plan.shape import Shape
    from ramet.plan.steps import Builder
    from ramet.spec import Sandbox

O_RDWR, O_NOCTTY = 0o2, 0o400
TIOCSPTLCK, TIOCGPTPEER, TIOCSWINSZ = 0x40045431, 0x5441, 0x5414


def open_terminal(b: Builder, spec: Sandbox, shape: Shape) -> None:
    """A terminal pair of the sandbox's own devpts: its name is right inside, and none of the host's is seen.

    The master goes to the caller through the control socket. See pty(7), ioctl_tty(2).
    """
    if shape.pts is None:
        raise SpecError("needs the default /dev, or Dev('/dev'), in the sandbox", field="Sandbox.tty")
    b.about("Sandbox.tty", "open a terminal")
    pts = shape.pts
    master = b.open("master", "openat", pts, "ptmx", O_RDWR | O_NOCTTY | os.O_CLOEXEC, 0)
    b.call("ioctl", master, TIOCSPTLCK, Block(bytes(8), text="[0]"))
    shape.terminal = b.open("slave", "ioctl", master, TIOCGPTPEER, O_RDWR | O_NOCTTY | os.O_CLOEXEC)
    if spec.terminal_size is not None:
        rows, columns = spec.terminal_size
        text = f"{{ws_row={rows}, ws_col={columns}}}"
        b.about("Sandbox.terminal_size", "set the terminal's size")
        b.call("ioctl", master, TIOCSWINSZ, Block(struct.pack("<4H", rows, columns, 0, 0), text=text))
        b.about("Sandbox.tty", "hand the terminal to the caller")
    hand_over(b, CONTROL, master, "master")
