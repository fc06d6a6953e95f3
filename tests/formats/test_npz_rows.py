"""Single rows of deflated arrays in npz files."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rs_embed.formats import deflate
from rs_embed.formats.arrays import ArrayMetadata, Row
from rs_embed.formats.npz import NpzReader, NpzWriter

SMALL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

DTYPES = ["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8", ">u2", ">f4"]
NUMBERS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.array_shapes(min_dims=2, max_dims=4, max_side=9).flatmap(
        lambda shape: arrays.arrays(dtype, shape, elements={"allow_nan": False} if "f" in dtype else None)
    )
)


@SMALL
@given(NUMBERS, st.sampled_from(["input", "embedding"]))
def test_every_row_can_be_read_by_itself(tmp_path, numbers, kind):
    path = tmp_path / "a.npz"
    with NpzWriter(path) as file:
        file.add(ArrayMetadata("a", kind, "m", "m"), numbers.shape, numbers.dtype, map(Row, numbers))
        file.add(ArrayMetadata("b", kind, "m", "m"), numbers.shape, numbers.dtype, map(Row, numbers[::-1]))
    with np.load(path) as plain:
        assert plain["a"].tobytes() == numbers.tobytes() and plain["b"].tobytes() == numbers[::-1].tobytes()
    with NpzReader(path) as file:
        for key, wanted in (("a", numbers), ("b", numbers[::-1])):
            found = list(file.iter_rows(key))
            assert [row.tobytes() for row, _ in found] == [row.tobytes() for row in wanted]
            assert None not in [mark for _, mark in found]
            for i in reversed(range(len(wanted))):
                assert file.read_row(key, i, found[i][1]).tobytes() == wanted[i].tobytes()


def test_large_rows_and_files_without_row_marks(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 4000, (7, 3, 150, 151)).astype("uint16")
    numbers[3] = 0  # compresses to nothing
    numbers[4].flat[:1000] = np.frombuffer(b"\x00\x00\xff\xff" * 500, "uint16")  # looks like the end of a row
    with NpzWriter(tmp_path / "a.npz") as file:
        file.add(ArrayMetadata("a", "input", "m", "m"), numbers.shape, numbers.dtype, map(Row, numbers))
    np.savez_compressed(tmp_path / "plain.npz", a=numbers)
    with NpzReader(tmp_path / "a.npz") as file, NpzReader(tmp_path / "plain.npz") as plain:
        for (row, mark), (same, none), wanted in zip(file.iter_rows("a"), plain.iter_rows("a"), numbers, strict=True):
            assert np.array_equal(row, wanted) and np.array_equal(same, wanted)
            assert mark is not None and none is None
        *_, (_, last) = file.iter_rows("a")
        with pytest.raises(ValueError, match="row 9 of the array 'a' is damaged"):
            file.read_row("a", 9, last + 1000)


def test_bytes_do_not_depend_on_the_threads_that_deflate(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 4000, (40, 3, 50, 51)).astype("uint16")
    made = set()
    for threads in (1, 2, 5):
        with NpzWriter(tmp_path / "a.npz", None, threads) as file:
            file.add(ArrayMetadata("a", "input", "m", "m"), numbers.shape, numbers.dtype, map(Row, numbers))
        made.add((tmp_path / "a.npz").read_bytes())
    assert len(made) == 1
    with np.load(tmp_path / "a.npz") as plain:
        assert np.array_equal(plain["a"], numbers)


@SMALL
@given(st.integers(0, 10**6), st.integers(1, 255))
@example(623, 1)  # the offset of the zip directory: members then begin before the file
def test_a_changed_byte_is_a_value_error_or_changes_the_numbers(tmp_path, place, change):
    path = tmp_path / "a.npz"
    numbers = np.arange(300, dtype="uint16").reshape(3, 100)
    with NpzWriter(path) as file:
        file.add(ArrayMetadata("a", "input", "m", "m"), numbers.shape, numbers.dtype, map(Row, numbers))
    with NpzReader(path) as file:
        marks = [mark for _, mark in file.iter_rows("a")]
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= change
    path.write_bytes(data)
    for read in (
        lambda file: file.read("a"),
        lambda file: list(file.iter_rows("a")),
        lambda file: [file.read_row("a", i, mark) for i, mark in enumerate(marks)],
    ):
        with contextlib.suppress(ValueError, KeyError, IndexError), NpzReader(path) as file:
            read(file)


def test_a_row_after_the_end_of_its_stream_is_an_error(tmp_path):
    path = tmp_path / "a"
    made = deflate.RowCompressor(2)
    data = made.compress(b"a" * 1000) + made.flush()
    path.write_bytes(data + bytes(10_000_000))
    with open(path, "rb") as file:
        assert deflate.read_row(file, 0, 1000) == b"a" * 1000
        with pytest.raises(EOFError):
            deflate.read_row(file, 0, 1001)
