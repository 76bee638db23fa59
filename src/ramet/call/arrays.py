"""numpy's arrays and Arrow's tables on the wire: their bytes as they are, and what they mean in plain data."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ramet.call.wire import Packer, Unpacker

DIMENSIONS_MAX = 32


def pack(packer: Packer, cls: type, value: Any) -> Any:
    """Raises Unsendable for what has no bytes of its own."""
    from ramet.call.wire import ARRAY, SCALAR, TABLE, Unsendable, name_of

    if cls.__module__ == "pyarrow.lib":
        if cls.__name__ not in ("Table", "RecordBatch"):
            raise Unsendable(f"{name_of(cls)}; an Arrow Table can be sent")
        return packer.ext(TABLE, packer.attach(_stream(value)))
    import numpy

    if not isinstance(value, (numpy.ndarray, numpy.generic)) or cls not in (numpy.ndarray, type(value)):
        raise Unsendable(name_of(cls))
    if isinstance(value, numpy.ndarray) and cls is not numpy.ndarray:
        raise Unsendable(f"{name_of(cls)}; a plain numpy.ndarray can be sent")
    if value.dtype.hasobject:
        raise Unsendable(f"{name_of(cls)} of Python objects (dtype {value.dtype})")
    if value.ndim > DIMENSIONS_MAX:
        raise Unsendable(f"an array of {value.ndim} dimensions")
    array = numpy.asarray(value)
    by_column = array.flags.f_contiguous and not array.flags.c_contiguous
    array = array.T if by_column else numpy.ascontiguousarray(array)
    data = array.reshape(-1).view(numpy.uint8).data if array.nbytes else b""
    code = SCALAR if isinstance(value, numpy.generic) else ARRAY
    return packer.ext(code, packer.attach(data), _description(value.dtype), list(value.shape), by_column)


def _description(dtype: Any) -> Any:
    """As plain data: the text of a simple type, [name, type, shape] for each field of a record, with gaps."""
    if dtype.fields is None:
        return dtype.str
    fields = [[name, _description(one.base), one.shape, at] for name, (one, at, *_) in dtype.fields.items()]
    return [fields, dtype.itemsize]


def _dtype(described: Any, depth: int = 0) -> Any:
    import numpy

    from ramet.call.wire import Malformed

    if isinstance(described, str):
        import re

        if not re.fullmatch(r"[<>|=][biufcmMSUV][0-9]+(\[[0-9]*[a-zA-Z]+\])?", described):
            raise Malformed(f"{described[:40]!r} is no dtype that is sent")
        found = numpy.dtype(described)
    elif depth > 8:
        raise Malformed("a dtype nested too deeply")
    else:
        fields, size = described
        found = numpy.dtype(
            {
                "names": [name for name, *_ in fields],
                "formats": [(_dtype(one, depth + 1), tuple(shape)) for _, one, shape, _ in fields],
                "offsets": [at for *_, at in fields],
                "itemsize": size,
            }
        )
    if found.hasobject:
        raise Malformed("an array of Python objects")
    return found


def array(unpacker: Unpacker, place: object, described: Any, shape: list[int], by_column: bool) -> Any:
    """The array over the buffer itself; it can be written to, and nobody else sees that."""
    import numpy

    from ramet.call.wire import Malformed

    dtype = _dtype(described)
    if len(shape) > DIMENSIONS_MAX or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise Malformed("an array of no possible shape")
    if 0 in shape:
        return numpy.empty(shape, dtype)
    flat = numpy.frombuffer(unpacker.buffer(place), numpy.uint8).view(dtype)
    return flat.reshape(shape[::-1]).T if by_column else flat.reshape(shape)


def _stream(table: Any) -> Any:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return memoryview(sink.getvalue())


def table(unpacker: Unpacker, place: object) -> Any:
    """Checked in full: Arrow takes offsets in its buffers for granted otherwise."""
    import pyarrow

    with pyarrow.ipc.open_stream(pyarrow.py_buffer(unpacker.buffer(place))) as reader:
        found = reader.read_all()
    found.validate(full=True)
    return found
