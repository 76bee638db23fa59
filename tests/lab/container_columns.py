"""What the lab's container is expected to reach at each step: h the host's own, o its own, y it may, - not at all."""

import os

#: Row -> one letter a step. Where root and an ordinary user differ, both.
BOTH = {
    "processes": "hhh-oooooo",
    "files": "hhh-------",
    "devices": "hhh-oooooo",
    "interfaces": "hhhhhooooo",
    "shared_memory": "hooooooooo",
    "environment": "hhhhhhhhho",
    "descriptor": "hhhhhhhhh-",
    "signal": "hooooooooo",
    "memory": "hooooooo--",
    "loopback": "hhhhhooooo",
    "abstract": "hhhhhooooo",
    "userns": "y-yyyyy---",
    "gain": "yyyyyyy---",
    "keyring": "hhoooooo--",
}
ROOT = {
    "private": "hh--------",
    "chown": "h---------",
    "become": "h---------",
    "hostname": "h-ooooo---",
    "mount": "h--oooo---",
    "configure": "h----oo---",
}
USER = {
    "private": "hhh-------",
    "chown": "----------",
    "become": "----------",
    "hostname": "--ooooo---",
    "mount": "---oooo---",
    "configure": "-----oo---",
}
EXPECTED = BOTH | (ROOT if os.geteuid() == 0 else USER)
LETTERS = {"host": "h", "own": "o", "yes": "y", "-": "-"}


def column(found, row):
    """The letters of a row; a number counts as itself."""
    return "".join(LETTERS[stage["cells"][row]["cell"]] for stage in found["stages"])
