"""Processes to look at: children that wait, with namespaces and tables of our choosing."""

import json
import os
import traceback

import pytest


def tell(write, function, args):
    """In a child: what the function returns, or why it failed, into the pipe."""
    try:
        told = {"value": function(*args)}
    except BaseException:
        told = {"error": traceback.format_exc()}
    os.write(write, json.dumps(told).encode())
    os.close(write)


def hear(read):
    """What a child told; its failure is the test's."""
    with open(read) as file:
        told = json.load(file)
    assert "error" not in told, told["error"]
    return told["value"]


@pytest.fixture
def in_child():
    """Run a function in a forked child, which may change whatever it likes; what it returns, by JSON."""

    def run(function, *args):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            tell(write, function, args)
            os._exit(0)
        os.close(write)
        try:
            return hear(read)
        finally:
            os.waitpid(child, 0)

    return run


@pytest.fixture
def beside():
    """The same, and the child stays until the test is over."""
    children = []

    def run(function, *args):
        read, write = os.pipe()
        wait, go = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            os.close(go)
            tell(write, function, args)
            os.read(wait, 1)
            os._exit(0)
        os.close(write)
        os.close(wait)
        children.append((child, go))
        return hear(read)

    yield run
    for child, go in children:
        os.close(go)
        os.waitpid(child, 0)
