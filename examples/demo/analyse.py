"""Somebody else's program: analyse.py DATA TARGETS. It does its job, and then looks around where it should not.

Nothing in it knows of ramet: it runs the same outside. It breaks nothing there, since it only finds out what it
*could* do: it opens files without changing them, and sends signal 0, which is none.
"""

import csv
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile

DATA, TARGETS = sys.argv[1], json.loads(sys.argv[2])


# Its job


def analyse():
    """The warmest, coldest, wettest and windiest station, and what had to be left out."""
    values, left_out = {}, 0
    with open(DATA, newline="") as file:
        for row in csv.DictReader(file):
            try:
                numbers = [float(row[name]) for name in ("temperature", "rain", "wind")]
            except ValueError:
                left_out += 1
                continue
            if numbers[0] < -100:
                left_out += 1
                continue
            values.setdefault(row["station"], []).append(numbers)
    days = sum(map(len, values.values()))
    print(f"{days} days at {len(values)} stations; {left_out} rows left out, since they have no temperature")
    mean = {name: [statistics.fmean(column) for column in zip(*rows, strict=True)] for name, rows in values.items()}
    for word, column, pick, unit in (
        ("warmest", 0, max, "C"),
        ("coldest", 0, min, "C"),
        ("wettest", 1, max, "mm a day"),
        ("windiest", 2, max, "m/s"),
    ):
        name = pick(mean, key=lambda station: mean[station][column])
        print(f"{word:<9} {name:<14} {mean[name][column]:6.1f} {unit}")


# What it needs for that


def use_scratch_space():
    with tempfile.TemporaryFile() as file:
        return f"{file.write(b'x' * 1_000_000) // 1_000_000} MB written"


def start_a_program():
    return subprocess.run(["uname", "-s"], capture_output=True, text=True, check=True).stdout.strip()


# What it has no business with


def read_a_private_file():
    with open(TARGETS["private"]) as file:
        return file.read()


def read_password_hashes():
    with open("/etc/shadow") as file:
        return f"{len(file.readlines())} lines"


def read_an_environment_secret():
    return os.environ["API_TOKEN"]


def list_other_processes():
    found = [name for name in os.listdir("/proc") if name.isdigit()]
    ours = 2 if os.getppid() == 1 else 1  # init, and this program
    return f"{len(found)} processes" if len(found) > ours else refuse("only its own")


def signal_the_caller():
    os.kill(TARGETS["caller"], 0)
    return "could kill it"


def connect_to_a_local_server():
    with socket.create_connection(("127.0.0.1", TARGETS["port"]), timeout=2):
        return "connected"


def connect_to_an_abstract_socket():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + TARGETS["abstract"])
        return "connected"


def change_its_input():
    with open(DATA, "r+b"):
        return "could write"


def replace_a_program():
    with open("/usr/bin/env", "r+b"):
        return "could write"


def become_root():
    os.setuid(0)
    return "is root"


def make_a_user_namespace():
    done = subprocess.run(["unshare", "--user", "true"], capture_output=True, text=True)
    return "has one" if done.returncode == 0 else refuse(done.stderr.strip().rpartition(": ")[2])


def fill_the_process_table():
    if not TARGETS["reckless"]:
        return "not tried"
    children = []
    try:
        while len(children) < 5000:
            child = os.fork()
            if child == 0:
                os.read(HOLD[0], 1)
                os._exit(0)
            children.append(child)
    except BlockingIOError:
        return refuse(f"stopped at {len(children)}")
    finally:
        os.write(HOLD[1], b"x" * len(children))
        for child in children:
            os.waitpid(child, 0)
    return "5000 processes"


HOLD = os.pipe()
NEEDED = (use_scratch_space, start_a_program)
FORBIDDEN = (
    read_a_private_file,
    read_password_hashes,
    read_an_environment_secret,
    list_other_processes,
    signal_the_caller,
    connect_to_a_local_server,
    connect_to_an_abstract_socket,
    change_its_input,
    replace_a_program,
    become_root,
    make_a_user_namespace,
    fill_the_process_table,
)


class Refused(Exception):
    """Not an error of the kernel's, and yet a no."""


def refuse(why):
    raise Refused(why)


def attempt(probe):
    """(could it?, in a few words)"""
    try:
        return True, probe()
    except Refused as error:
        return False, str(error)
    except KeyError:
        return False, "not set"
    except OSError as error:
        return False, (error.strerror or str(error)).lower()


analyse()
print("--")
probes = [(probe, probe in NEEDED) for probe in NEEDED + FORBIDDEN]
print(json.dumps([[probe.__name__.replace("_", " "), needed, *attempt(probe)] for probe, needed in probes]))
