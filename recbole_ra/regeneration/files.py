"""Regenerated data as text: one file of sequences, and RecBole's pre-split files (METHOD 1.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from pyarrow import compute

from recbole_ra.core.errors import DataError, SettingsError
from recbole_ra.core.files import replacing
from recbole_ra.data.atomic import MISSING, check_readable, shown
from recbole_ra.data.table import IntArray, Origin, Prefixes, SequenceTable
from recbole_ra.regeneration.merge import SHORTEST, RegeneratedData
from recbole_ra.regeneration.text import (
    blocks,
    item_separator,
    join_items,
    owners,
    refuse,
    refuse_broken,
    write_lines,
)

SEQUENCES_FILE = "sequences.tsv"
"""What the file of sequences is called in a folder."""

COLUMNS = ("origin", "user", "latent", "items")
"""Columns of the file of sequences."""

ORIGINS = [origin.name.lower() for origin in Origin]
"""What the column ``origin`` may hold."""

_HEADER = "\t".join(COLUMNS)
_YAML_HEADER = """\
# Training rows: the regenerated data set. Validation and test: the original ones. Plain RecBole 1.2.1 reads
# them with this file. Change data_path if the folder is moved. A model that trains with loss_type BPR needs
# train_neg_sample_args: {distribution: uniform, sample_num: 1}.
"""


def write_sequences(
    path: Path, data: RegeneratedData, item_tokens: Sequence[str], user_tokens: Sequence[str]
) -> None:
    """Write a regenerated data set as text; the file appears complete or not at all.

    Tab-separated, one row a line below a header: ``origin`` (original, pattern or regenerated), ``user``
    and ``latent`` (both empty where there is none), ``items`` with :func:`item_separator` between them.

    Parameters
    ----------
    path : Path
    data : RegeneratedData
    item_tokens, user_tokens : sequences of str
        Original tokens by id; the first of both is padding and never written.

    Raises
    ------
    DataError
        If there is no row, or a token holds what the file cannot.
    """
    if not len(data):
        raise DataError(f"{path}: there is no row to write; keep at least one origin")
    separator = item_separator(item_tokens)
    items, users = pa.array(item_tokens, pa.string()), pa.array([*user_tokens, ""], pa.string())
    refuse_broken(path, items[1:], "item")
    refuse_broken(path, users[1:-1], "user")
    origins = pa.array(ORIGINS)
    table = data.table

    def columns(rows: slice) -> list[pa.Array]:
        space = pa.array(data.latent[rows])
        return [
            origins.take(pa.array(table.origin[rows])),
            owners(table.users[rows], users),
            compute.if_else(compute.less(space, 0), "", space.cast(pa.string())),
            join_items(table.items, table.offsets[:-1][rows], table.lengths[rows], items, separator),
        ]

    write_lines(path, _HEADER, blocks(table.lengths, columns))


def read_sequences(path: Path, item_tokens: Sequence[str], user_tokens: Sequence[str]) -> RegeneratedData:
    """Read what :func:`write_sequences` wrote, or a file of that form from elsewhere.

    Parameters
    ----------
    path : Path
    item_tokens, user_tokens : sequences of str
        Original tokens by id, as at the writing; the first of both is padding.

    Raises
    ------
    DataError
        For a fault in the file, with its line.
    """
    fields = compute.split_pattern(_read_lines(path), "\t")
    counts = compute.list_value_length(fields)
    _check(
        path,
        counts.to_numpy() == len(COLUMNS),
        counts,
        f"there are %s columns instead of {len(COLUMNS)} ({', '.join(COLUMNS)}); put one tab between them, "
        "also where one is empty",
    )
    flat = compute.list_flatten(fields)
    origins, users, spaces, rows = (flat[place :: len(COLUMNS)] for place in range(len(COLUMNS)))

    origin = _index(origins, ORIGINS)
    _check(path, origin >= 0, origins, f"unknown origin %s; must be one of {', '.join(ORIGINS)}")
    user = _index(users, user_tokens)
    fault = "unknown user %s; must be a user of the data set, or empty for nobody"
    _check(path, (user >= 0) | _is(users, "^$"), users, fault)
    is_number = _is(spaces, "^[0-9]{1,9}$")
    fault = "latent %s must be empty, or for a regenerated row the number of a latent space, from 0"
    _check(path, (is_number & (origin == Origin.REGENERATED)) | _is(spaces, "^$"), spaces, fault)
    latent = compute.if_else(pa.array(is_number), spaces, "-1").cast(pa.int64()).to_numpy()

    separator = item_separator(item_tokens)
    split = compute.split_pattern(rows, separator)
    lengths = compute.list_value_length(split).to_numpy()
    fault = (
        f"items %s are fewer than {SHORTEST}; add items with {separator!r} between them, or remove the line"
    )
    _check(path, lengths >= SHORTEST, rows, fault)
    tokens = compute.list_flatten(split)
    items = _index(tokens, item_tokens[1:]) + 1
    fault = f"unknown item %s; use the items of the data set, with {separator!r} between them"
    _check(path, items > 0, tokens, fault, rows=np.repeat(np.arange(len(lengths)), lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    table = SequenceTable.from_arrays(items, offsets, len(item_tokens), users=user, origin=origin)
    return RegeneratedData(table, latent)


def check_tokens(where: Path | str, user_tokens: Sequence[str], item_tokens: Sequence[str]) -> None:
    """Refuse what RecBole could not read back of the files written here.

    Parameters
    ----------
    where : Path or str
        What the message begins with.
    user_tokens, item_tokens : sequences of str
        Original tokens by id; the first of both is padding.

    Raises
    ------
    DataError
        For the first token that RecBole, which reads through pandas, takes for something else; and if no
        separator is left to stand between items.
    """
    item_separator(item_tokens)
    for known, what in ((item_tokens, "item"), (user_tokens, "user")):
        tokens = pa.array(known[1:], pa.string())
        refuse_broken(where, tokens, what)
        quoted = compute.starts_with(tokens, '"')
        refuse(where, tokens, quoted, what, "starts with a double quote, which RecBole takes for quoting")
        missing = compute.is_in(tokens, value_set=pa.array([*MISSING, "[PAD]"]))
        refuse(where, tokens, missing, what, "is no name to RecBole, which reads it as 'no value'")


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
    settings to read them, which is written last. The prefixes of ``train`` are expanded block by block.

    Parameters
    ----------
    folder : Path
        Folder of this data set. RecBole looks for it in ``data_path``, which is set to the folder above, and
        by ``name``: it has to be called that by then.
    name : str
        RecBole's ``dataset``.
    train : SequenceTable
        Every (prefix, next item) of every row is trained on. Rows that nobody owns get a user of their own.
    valid, test : Prefixes
        Held-out rows of the original data.
    user_tokens, item_tokens : sequences of str
        Original tokens by id; the first of both is padding.
    max_length : int
        Latest items kept of a prefix.

    Returns
    -------
    Path
        The settings file: ``Config(model=..., dataset=name, config_file_list=[path])``.

    Raises
    ------
    DataError
        If a split is empty, or a token holds what RecBole could not read back.
    SettingsError
        If RecBole cannot load a data set of that name.

    Notes
    -----
    The columns are always called ``user_id``, ``item_id_list`` and ``item_id``: RecBole 1.2.1 finds the
    histories of pre-split files only if the item field has this name (``_benchmark_presets`` of its
    ``SequentialDataset``). It needs no times then, and applies no filters.
    """
    if name in ("", "ml-100k") or Path(name).name != name:  # RecBole brings its own ml-100k
        raise SettingsError(
            f"name={name!r}: RecBole cannot load a data set of that name; choose another, such as my-data"
        )
    splits = {"train": Prefixes.all_of(train, max_length), "valid": valid, "test": test}
    splits = {key: Prefixes(p.table, p.sequence, p.position, max_length) for key, p in splits.items()}
    for split, prefixes in splits.items():
        if not len(prefixes):
            raise DataError(f"{folder}: there is no {split} row to write; RecBole needs all three splits")

    check_tokens(folder, user_tokens, item_tokens)
    nobody = "[pattern]"
    while nobody in user_tokens:
        nobody = f"[{nobody}]"
    separator = item_separator(item_tokens)
    items, users = pa.array(item_tokens, pa.string()), pa.array([*user_tokens, nobody], pa.string())
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    for split, prefixes in splits.items():
        write_lines(folder / f"{name}.{split}.inter", header, _rows(prefixes, users, items, separator))
    write_lines(folder / f"{name}.item", "item_id:token", [[items[1:]]])
    settings = {
        "data_path": str(folder.resolve().parent),
        "benchmark_filename": list(splits),
        "field_separator": "\t",
        "seq_separator": separator,
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
    with replacing(path) as temporary:
        text = _YAML_HEADER + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")
    return path


def _rows(prefixes: Prefixes, users: pa.Array, items: pa.Array, separator: str) -> Iterator[list[pa.Array]]:
    """Columns of (prefix, target) rows, block by block."""

    def columns(rows: slice) -> list[pa.Array]:
        part = prefixes[rows]
        flat = part.table.items
        return [
            owners(part.users, users),
            join_items(flat, part.flat_position - part.lengths, part.lengths, items, separator),
            items.take(pa.array(part.targets)),
        ]

    return blocks(prefixes.lengths, columns)


def _read_lines(path: Path) -> pa.Array:
    """The lines below the header."""
    check_readable(path)
    try:
        header, *lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text; save it as UTF-8") from error
    if header != _HEADER:
        raise DataError(f"{path}, line 1: header is {shown(header)}; must be {_HEADER!r}")
    if lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path}: has a header but no rows; write it again")
    return pa.array(lines, pa.large_string())


def _index(values: pa.Array, known: Sequence[str]) -> IntArray:
    """Place of each value among the known ones, -1 if it is none of them."""
    place = compute.index_in(values, value_set=pa.array(known, pa.large_string()))
    found: IntArray = compute.fill_null(place, -1).to_numpy().astype(np.int64)
    return found


def _is(values: pa.Array, pattern: str) -> NDArray[np.bool_]:
    """Which values match a regular expression."""
    found: NDArray[np.bool_] = compute.match_substring_regex(values, pattern).to_numpy(zero_copy_only=False)
    return found


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
