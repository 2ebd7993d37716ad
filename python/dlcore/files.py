"""Arrays in files of the safetensors format: eight bytes of length, a JSON header, the numbers.

The format [1]_ holds no code, so a file from a stranger can be read. `read` checks everything
before it trusts anything: whatever the bytes, it returns arrays or raises one `ValueError`.

References
----------
.. [1] https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore._settings import describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The format's name of each dtype; bytes are little-endian.
_DTYPES = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_HEADER_LIMIT = 100_000_000  # bytes; the format's own limit
_SIZE_LIMIT = 2**62  # a product of sizes below it fits NumPy's index


def read(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read a safetensors file.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    arrays : dict of str to ndarray
        Read-only, in the file's order.
    metadata : dict of str to str

    Raises
    ------
    OSError
        If the file cannot be opened or read.
    ValueError
        If it is not a whole and consistent safetensors file, or holds a dtype that NumPy lacks
        (such as BF16).

    Examples
    --------
    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "a.safetensors")
    >>> write(path, {"a": np.arange(3.0)}, {"made": "here"})
    >>> read(path)
    ({'a': array([0., 1., 2.])}, {'made': 'here'})
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        return parse(content)
    except ValueError as error:
        raise ValueError(f"{os.fsdecode(path)}: {error}") from None


def parse(content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read the bytes of a safetensors file, as `read` does; errors do not name a file."""
    if len(content) < 8:
        raise ValueError(f"a safetensors file has at least 8 bytes, this one has {len(content)}")
    length = int.from_bytes(content[:8], "little")
    if length > min(len(content) - 8, _HEADER_LIMIT):
        raise ValueError(
            f"not a whole safetensors file: the header should have {length} bytes, "
            f"the file has {len(content)}"
        )
    header = parse_json(content[8 : 8 + length], "the safetensors header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("the safetensors header's __metadata__ needs strings only")
    values = memoryview(content)[8 + length :]
    spans = sorted((_span(name, entry, len(values)), name) for name, entry in header.items())
    end = 0
    for (start, stop), name in spans:
        if start != end:
            raise ValueError(f"{_quote(name)} starts at byte {start} of the values, not {end}")
        end = stop
    if end != len(values):
        raise ValueError(f"the arrays take {end} bytes but the file holds {len(values)}")
    arrays = {name: _array(name, entry, values) for name, entry in header.items()}
    return arrays, metadata


def parse_json(text: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object strictly: UTF-8, no name twice, no NaN, no nesting without end.

    `what` names it in the `ValueError` that anything else ends in.
    """
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{what} is not valid JSON ({reason})") from None
    if not isinstance(value, dict):
        name = type(value).__name__
        raise ValueError(f"{what} needs to be a JSON object, found {name}")  # noqa: TRY004
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < _SIZE_LIMIT  # bool is an int too, but no size


def _quote(text: str) -> str:
    """Put a name from a file into a sentence: escaped, and of bounded length."""
    return json.dumps(text if len(text) <= 60 else text[:57] + "...")


def _span(name: str, entry: object, length: int) -> tuple[int, int]:
    """Check one entry of the header; return where its bytes start and stop."""
    title = _quote(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{title} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise ValueError(f"{title} needs one of the dtypes {known}, found {describe(dtype)}")
    if not isinstance(shape, list) or len(shape) > 32 or not all(map(_is_size, shape)):
        raise ValueError(f"{title} needs a shape of at most 32 sizes, found {describe(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ValueError(f"{title} needs two data_offsets, found {describe(offsets)}")
    start, stop = offsets
    if not start <= stop <= length:
        raise ValueError(f"{title} lies at bytes {start} to {stop} of {length}")
    itemsize = np.dtype(_DTYPES[dtype]).itemsize
    # NumPy refuses an empty array too when its other sizes multiply to more than an index holds
    if math.prod(filter(None, shape)) * itemsize >= _SIZE_LIMIT:
        raise ValueError(f"{title} has the shape {describe(shape)}, beyond what NumPy can hold")
    size = math.prod(shape) * itemsize
    if size != stop - start:
        raise ValueError(f"{title} needs {size} bytes for {dtype} {shape} but has {stop - start}")
    return start, stop


def _array(name: str, entry: dict[str, Any], values: memoryview) -> NDArray[Any]:
    start, stop = entry["data_offsets"]
    array = np.frombuffer(values[start:stop], _DTYPES[entry["dtype"]])
    if entry["dtype"] == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
        raise ValueError(f"{_quote(name)} holds a BOOL that is neither 0 nor 1")
    return array.reshape(entry["shape"])


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file: beside the target, to the disk, then renamed over it.

    A reader therefore sees the old file or the new one, never a part, whenever the machine stops.

    Parameters
    ----------
    path : str or path-like
        A link is followed, so that the file it points to is replaced and not the link.
    arrays : mapping of str to ndarray
        Of any dtype the format has and NumPy can hold.
    metadata : mapping of str to str, optional

    Raises
    ------
    OSError
        If the file cannot be written; what was there before is untouched.
    TypeError
        If an array's dtype has no place in the format.
    """
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(metadata)
    chunks = []
    offset = 0
    for name, value in arrays.items():
        little = value.dtype.newbyteorder("<")
        if little not in _NAMES:
            raise TypeError(
                f"write: {_quote(name)} is {value.dtype}, which safetensors does not hold; "
                f"convert it to one of {', '.join(map(str, _NAMES))}"
            )
        # asarray with order "C" keeps an empty shape, which ascontiguousarray would not
        chunk = np.asarray(value, little, order="C")
        header[name] = {
            "dtype": _NAMES[little],
            "shape": list(chunk.shape),
            "data_offsets": [offset, offset + chunk.nbytes],
        }
        chunks.append(chunk)
        offset += chunk.nbytes
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers start at a multiple of 8
    target = os.path.realpath(path)
    beside = f"{target}.{os.urandom(8).hex()}.tmp"
    # made with the permissions that open() would give
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(handle, "wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for chunk in chunks:
                file.write(chunk.data if chunk.size else b"")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        os.unlink(beside)
        raise
    _sync_folder(os.path.dirname(target))


def _sync_folder(folder: str) -> None:
    """Bring the rename itself to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
