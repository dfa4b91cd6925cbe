"""Regenerated data as text: one file of sequences, and RecBole's pre-split files (METHOD 1.6).

Columns of text are Arrow arrays, so that nothing loops over rows, and files are written block by block.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from pyarrow import compute

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import replacing, write_bytes
from recbole_ra.data.atomic import MISSING, check_readable, shown
from recbole_ra.data.table import ORIGINS, IntArray, Origin, Prefixes, SequenceTable, offsets_of, places
from recbole_ra.regeneration.merge import SHORTEST, RegeneratedData

BLOCK_ITEMS = 1 << 20  # that are turned into text at once
SEPARATORS = (" ", ",", ";", "|")
COLUMNS = ("origin", "user", "latent", "items")
_HEADER = "\t".join(COLUMNS)

# What a token must not match, and what is wrong with it then.
_UNWRITABLE = {"[\\t\\n\\r\\x00]|^$": "cannot be written, as it is empty or holds a tab or line break"}
_NO_VALUE = f"^({'|'.join(map(re.escape, [*MISSING, '[PAD]']))})$"
_MISREAD = {
    '^"': "starts with a double quote, which RecBole takes for quoting",
    _NO_VALUE: "is no name to RecBole, which reads it as 'no value'",
}

_YAML_HEADER = """\
# Training rows: the regenerated data set. Validation and test: the original ones. Plain RecBole 1.2.1 reads
# them with this file. Change data_path if the folder is moved. A model that trains with loss_type BPR needs
# train_neg_sample_args: {distribution: uniform, sample_num: 1}.
"""


def item_separator(item_tokens: Sequence[str]) -> str:
    """Return the first of ``SEPARATORS`` that is in no item token; the token of padding does not count.

    Raises
    ------
    DataError
        If each of them is in some token.
    """
    everything = "\n".join(item_tokens[1:])
    for separator in SEPARATORS:
        if separator not in everything:
            return separator
    raise DataError(
        f"item tokens hold every possible separator ({', '.join(map(repr, SEPARATORS))}); "
        f"rename the items with {SEPARATORS[-1]!r} in the .inter file"
    )


def check_tokens(
    where: Path | str,
    user_tokens: Sequence[str],
    item_tokens: Sequence[str],
    faults: Mapping[str, str] = _UNWRITABLE | _MISREAD,
) -> None:
    """Refuse what RecBole, which reads through pandas, could not read back of the files written here.

    Parameters
    ----------
    where : Path or str
        What the message begins with.
    user_tokens, item_tokens : sequences of str
        Original tokens by id; the first of both is padding and never written.
    faults : mapping of str to str
        Regular expressions that no token may match, and what is wrong with one that does.

    Raises
    ------
    DataError
        For the first such token; and if no separator is left to stand between items.
    """
    item_separator(item_tokens)
    for known, what in ((item_tokens, "item"), (user_tokens, "user")):
        tokens = pa.array(known[1:], pa.string())
        for pattern, fault in faults.items():
            bad = tokens.filter(compute.match_substring_regex(tokens, pattern)).to_pylist()
            if bad:
                raise DataError(f"{where}: {what} {shown(bad[0])} {fault}; rename it in the .inter file")


def write_sequences(
    path: Path, data: RegeneratedData, item_tokens: Sequence[str], user_tokens: Sequence[str]
) -> None:
    """Write a regenerated data set as text; the file appears complete or not at all.

    Tab-separated, one row a line below a header: ``origin`` (original, pattern or regenerated), ``user``
    and ``latent`` (both empty where there is none), ``items`` with :func:`item_separator` between them.

    Raises
    ------
    DataError
        If there is no row, or a token holds what the file cannot.
    """
    if not len(data):
        raise DataError(f"{path}: there is no row to write; keep at least one origin")
    check_tokens(path, user_tokens, item_tokens, _UNWRITABLE)
    text = _Text(item_tokens, user_tokens, nobody="")
    table, origins = data.table, pa.array(ORIGINS)

    def columns(rows: slice) -> list[pa.Array]:
        space = pa.array(data.latent[rows])
        return [
            origins.take(pa.array(table.origin[rows])),
            text.of_users(table.users[rows]),
            compute.if_else(compute.less(space, 0), "", space.cast(pa.string())),
            text.of_rows(table.items, table.offsets[:-1][rows], table.lengths[rows]),
        ]

    _write_lines(path, _HEADER, map(columns, _blocks(table.lengths)))


def read_sequences(path: Path, item_tokens: Sequence[str], user_tokens: Sequence[str]) -> RegeneratedData:
    """Read what :func:`write_sequences` wrote with the same tokens, or a file of that form from elsewhere.

    Raises
    ------
    DataError
        For a fault in the file, with its line.
    """
    check_readable(path)
    try:
        header, *lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text; save it as UTF-8") from error
    if header != _HEADER:
        raise DataError(f"{path}, line 1: header is {shown(header)}; must be {_HEADER!r}")
    if not lines:
        raise DataError(f"{path}: has a header but no rows; write it again")
    fields = compute.split_pattern(pa.array(lines, pa.large_string()), "\t")
    counts = compute.list_value_length(fields)
    fault = f"there are %s columns instead of {len(COLUMNS)}; put tabs between {', '.join(COLUMNS)}"
    _check(path, counts.to_numpy() == len(COLUMNS), counts, fault)
    flat = compute.list_flatten(fields)
    origins, users, spaces, rows = (flat[place :: len(COLUMNS)] for place in range(len(COLUMNS)))

    origin = _index(origins, ORIGINS)
    _check(path, origin >= 0, origins, f"unknown origin %s; must be one of {', '.join(ORIGINS)}")
    user = _index(users, ["", *user_tokens[1:]])
    _check(path, user >= 0, users, "unknown user %s; must be a user of the data set, or empty for nobody")
    user[user == 0] = -1
    is_number = _is(spaces, "^[0-9]{1,9}$")
    fault = "latent %s must be empty, or for a regenerated row the number of a latent space, from 0"
    _check(path, (is_number & (origin == Origin.REGENERATED)) | _is(spaces, "^$"), spaces, fault)
    latent = compute.if_else(pa.array(is_number), spaces, "-1").cast(pa.int64()).to_numpy()

    separator = item_separator(item_tokens)
    split = compute.split_pattern(rows, separator)
    lengths = compute.list_value_length(split).to_numpy()
    fault = f"items %s are fewer than {SHORTEST}; add items after {separator!r}, or remove the line"
    _check(path, lengths >= SHORTEST, rows, fault)
    tokens = compute.list_flatten(split)
    items = _index(tokens, item_tokens[1:]) + 1
    fault = f"unknown item %s; use the items of the data set, with {separator!r} between them"
    _check(path, items > 0, tokens, fault, rows=np.repeat(np.arange(len(lengths)), lengths))
    offsets = offsets_of(lengths)
    table = SequenceTable.from_arrays(items, offsets, len(item_tokens), users=user, origin=origin)
    return RegeneratedData(table, latent, np.ones(len(table), dtype=np.int64))


def write_benchmark_files(
    folder: Path,
    name: str,
    *,
    train: SequenceTable,
    valid: Prefixes,
    test: Prefixes,
    user_tokens: Sequence[str],
    item_tokens: Sequence[str],
    max_length: int,
) -> Path:
    """Write files that RecBole 1.2.1 trains on without this package (METHOD 1.6).

    ``folder`` gets ``name.{train,valid,test}.inter`` with one (prefix, target) row a line, ``name.item`` with
    the whole catalogue, so that every item is ranked even if no row has it, and ``name.yaml`` with the
    settings to read them, which is written last and returned. RecBole looks for a folder called ``name`` in
    ``data_path``, which is set to the one above ``folder``.

    Parameters
    ----------
    train : SequenceTable
        Every (prefix, next item) of every row is trained on. Unowned rows get a user of their own.
    valid, test : Prefixes
        Held-out rows of the original data.
    max_length : int
        Latest items kept of a prefix.

    Raises
    ------
    DataError
        If a split is empty, or a token holds what RecBole could not read back.

    Notes
    -----
    The columns are always called ``user_id``, ``item_id_list`` and ``item_id``: RecBole 1.2.1 finds the
    histories of pre-split files only if the item field has this name (``_benchmark_presets`` of its
    ``SequentialDataset``). It needs no times then, and applies no filters.
    """
    splits = {"train": Prefixes.all_of(train, max_length), "valid": valid, "test": test}
    splits = {split: dataclasses.replace(rows, max_length=max_length) for split, rows in splits.items()}
    for split, prefixes in splits.items():
        if not len(prefixes):
            raise DataError(f"{folder}: there is no {split} row to write; RecBole needs all three splits")
    check_tokens(folder, user_tokens, item_tokens)
    nobody = "[pattern]"
    while nobody in user_tokens:
        nobody = f"[{nobody}]"
    text = _Text(item_tokens, user_tokens, nobody)
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    for split, prefixes in splits.items():
        columns = (text.of_prefixes(prefixes[rows]) for rows in _blocks(prefixes.lengths))
        _write_lines(folder / f"{name}.{split}.inter", header, columns)
    _write_lines(folder / f"{name}.item", "item_id:token", [[text.items[1:]]])
    settings = {
        "data_path": str(folder.resolve().parent),
        "benchmark_filename": list(splits),
        "field_separator": "\t",
        "seq_separator": text.separator,
        "encoding": "utf-8",
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "LIST_SUFFIX": "_list",
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"], "item": ["item_id"]},
        # RecBole pads to the longest history there is, and some of its models need just this width.
        "MAX_ITEM_LIST_LENGTH": int(max(prefixes.lengths.max() for prefixes in splits.values())),
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "repeatable": True,
        "train_neg_sample_args": None,
    }
    path = folder / f"{name}.yaml"
    write_bytes(path, (_YAML_HEADER + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)).encode())
    return path


class _Text:
    """The tokens that ids are written as."""

    def __init__(self, item_tokens: Sequence[str], user_tokens: Sequence[str], nobody: str) -> None:
        self.separator = item_separator(item_tokens)
        self.items = pa.array(item_tokens, pa.string())
        self.users = pa.array([nobody, *user_tokens[1:]], pa.string())

    def of_users(self, users: IntArray) -> pa.Array:
        """Return the token of each owner, or ``nobody`` for -1."""
        return self.users.take(pa.array(np.maximum(users, 0)))

    def of_rows(self, flat: NDArray[np.int32], start: IntArray, length: IntArray) -> pa.Array:
        """Join the items ``flat[start[i] : start[i] + length[i]]`` to one text per row."""
        offsets = pa.array(offsets_of(length), pa.int32())
        tokens = self.items.take(pa.array(flat[places(start, length)]))
        return compute.binary_join(pa.ListArray.from_arrays(offsets, tokens), self.separator)

    def of_prefixes(self, rows: Prefixes) -> list[pa.Array]:
        """Owner, prefix and target of each row."""
        prefixes = self.of_rows(rows.table.items, rows.flat_position - rows.lengths, rows.lengths)
        return [self.of_users(rows.users), prefixes, self.items.take(pa.array(rows.targets))]


def _blocks(sizes: IntArray) -> Iterator[slice]:
    """Cut rows into consecutive blocks of about ``BLOCK_ITEMS`` items; ``sizes`` counts those of each row."""
    number = np.cumsum(sizes) // BLOCK_ITEMS
    bounds = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)]
    return itertools.starmap(slice, itertools.pairwise(bounds))


def _write_lines(path: Path, header: str, blocks: Iterable[list[pa.Array]]) -> None:
    """Write blocks of columns, separated by tabs, below a header; the file appears whole or not at all."""
    with replacing(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(header + "\n")
            for columns in blocks:
                lines = compute.binary_join_element_wise(*columns, "\t")
                file.write("\n".join(lines.to_pylist()) + "\n")


def _index(values: pa.Array, known: Sequence[str]) -> IntArray:
    """Place of each value among the known ones, -1 if it is none of them."""
    place = compute.index_in(values, value_set=pa.array(known, pa.large_string()))
    return compute.fill_null(place, -1).to_numpy().astype(np.int64)


def _is(values: pa.Array, pattern: str) -> NDArray[np.bool_]:
    """Tell which values match a regular expression."""
    return compute.match_substring_regex(values, pattern).to_numpy(zero_copy_only=False)


def _check(
    path: Path, good: NDArray[np.bool_], values: pa.Array, fault: str, rows: IntArray | None = None
) -> None:
    """Raise for the first value that is not good, which is in ``rows`` or, by default, one a row."""
    if not good.all():
        place = int(np.argmin(good))
        row = place if rows is None else int(rows[place])
        value = values[place].as_py()
        value = shown(value) if isinstance(value, str) else value
        raise DataError(f"{path}, line {row + 2}: {fault % value}")  # the header is line 1
