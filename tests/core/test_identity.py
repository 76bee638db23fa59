"""Which file it is: csrc/files.c, by which the caller knows whether the host still shows what a mould shows."""

import os

import pytest

from ramet import _core


def test_a_file_is_told_from_every_other_one(tmp_path):
    """A path leads to the same file until another one has its name; a second name of it leads there too; what it contains is
    nobody's business."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    path = os.fsencode(one)
    was = _core.identity(path)
    assert was != _core.identity(os.fsencode(other))
    one.write_text("changed")
    os.link(one, tmp_path / "link")
    assert _core.unchanged([(path, was), (os.fsencode(tmp_path / "link"), was)])
    os.replace(other, one)
    assert not _core.unchanged([(path, was)])
    one.unlink()
    assert not _core.unchanged([(path, was)])
    with pytest.raises(FileNotFoundError):
        _core.identity(path)


def test_a_descriptor_is_told_from_what_has_its_number_later():
    """A number is what it was until it is closed, or another file has it; another descriptor of the same file is the same."""
    reader, writer = os.pipe()
    was = _core.identity(reader)
    copy = os.dup(reader)
    assert _core.unchanged({"reader": (reader, was), "copy": (copy, was)}.values())
    os.dup2(writer, copy)
    assert _core.unchanged([(reader, was), (writer, was)])  # a pipe is one file with two ends
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, copy)
    assert not _core.unchanged([(reader, was), (copy, was)])
    os.close(reader)
    assert not _core.unchanged([(reader, was)])
    with pytest.raises(OSError, match="stat"):
        _core.identity(reader)
    for fd in (writer, copy, null):
        os.close(fd)


def test_nothing_known_is_unchanged_and_rubbish_is_refused():
    """Of no files all are the same. What is no pair of a file and its identity raises TypeError; an identity of another length is
    no file's."""
    assert _core.unchanged([]) is True
    assert _core.unchanged([(b"/", b"")]) is False
    for wrong in (7, [7], [()], [(b"/",)], [(b"/", "text")], [("/", b"")], [(1.5, b"")]):
        with pytest.raises(TypeError):
            _core.unchanged(wrong)
    with pytest.raises(OverflowError):
        _core.identity(1 << 80)
