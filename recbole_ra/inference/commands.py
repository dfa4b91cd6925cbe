"""The commands that use what a run left: recommend, similar, explain, add, forget and export."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
from rich.table import Table
from tqdm import tqdm

from recbole_ra.core.arguments import Parser
from recbole_ra.core.console import say, show
from recbole_ra.core.errors import RequestError
from recbole_ra.inference.encoder import require_onnx
from recbole_ra.inference.export import check_folder
from recbole_ra.inference.files import LATEST_RUN, editing, save_recommender
from recbole_ra.inference.loading import load
from recbole_ra.inference.output import check_ending, table_writer
from recbole_ra.inference.recommender import Recommender
from recbole_ra.inference.requests import Requests
from recbole_ra.inference.selection import Selection
from recbole_ra.inference.tokens import listed
from recbole_ra.prepare.interactions import read_interactions
from recbole_ra.prepare.readers import parse_columns
from recbole_ra.report.tables import render

SHOWN_USERS = 20
"""Users in a table on the terminal."""


def recommend(words: Sequence[str]) -> int:
    """Recommend items for users or histories, to a file or the terminal."""
    parser = run_parser("recommend", "Recommend items with the model that a run left.")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--users", help="all, tokens with commas between, or a file with a token a line")
    who.add_argument("--history", help="item tokens with commas between, oldest first")
    who.add_argument(
        "--histories",
        type=Path,
        help="file of interactions, in any format that prepare reads; times optional",
    )
    parser.add_argument("--k", type=int, default=10, help="items for each user (default: 10)")
    parser.add_argument("--out", type=Path, help="csv, tsv, parquet or jsonl, by its ending")
    _add_filter_seen(parser)
    parser.add_argument("--items", help="recommend none but these: tokens, or a file with a token a line")
    parser.add_argument("--exclude", help="recommend none of these: tokens, or a file with a token a line")
    _add_columns(parser)
    _add_unknown_items(parser)
    parser.add_argument("--on_cold_users", default="popular", help="popular or error (default: popular)")
    given = parser.parse_args(words)
    if given.columns and given.histories is None:
        raise RequestError("--columns is of the table that --histories names; leave it out")
    if given.out is not None:
        check_ending(given.out)
    recommender = load(given.run)
    requests = recommender.requests(
        **_who(given), on_unknown_items=given.on_unknown_items, on_cold_users=given.on_cold_users
    )
    if given.users is not None and _is_file(given.users) and requests.cold.all():
        raise RequestError(
            f"{given.users}: none of its lines is a user of this recommender; write a token a line"
        )
    chosen = recommender.selection(
        given.k,
        filter_seen=given.filter_seen,
        items=None if given.items is None else _tokens(given.items),
        exclude=None if given.exclude is None else _tokens(given.exclude),
        on_unknown_items=given.on_unknown_items,
    )
    _say_what_is_unknown(requests, chosen)
    if given.out is None:
        show(_as_text(pd.concat(recommender.tables(requests[:SHOWN_USERS], chosen))))
        if len(requests) > SHOWN_USERS:
            say(f"{len(requests) - SHOWN_USERS:,} more users are left out; --out=FILE writes all")
        return 0
    started = perf_counter()
    with (
        table_writer(given.out) as write,
        tqdm(total=len(requests), unit=" users", disable=None, leave=False, file=sys.stderr) as bar,
    ):
        for table in recommender.tables(requests, chosen):
            write(table)
            bar.update(table["user"].nunique())
    seconds = perf_counter() - started
    show(f"{given.out}: {len(requests):,} users, {len(requests) / seconds:,.0f} users/s")
    return 0


def similar(words: Sequence[str]) -> int:
    """List the items whose vectors are most similar to those of some items."""
    parser = run_parser("similar", "List items like others, by the cosine of their vectors.")
    parser.add_argument("--items", required=True, help="tokens, or a file with a token a line")
    parser.add_argument("--k", type=int, default=10, help="items for each (default: 10)")
    parser.add_argument("--out", type=Path, help="csv, tsv, parquet or jsonl, by its ending")
    given = parser.parse_args(words)
    if given.out is not None:
        check_ending(given.out)
    found = load(given.run).similar_items(_tokens(given.items), given.k)
    if given.out is None:
        show(_as_text(found))
        return 0
    with table_writer(given.out) as write:
        write(found)
    show(f"{given.out}: {len(found):,} rows")
    return 0


def explain(words: Sequence[str]) -> int:
    """Show the memories behind a recommendation."""
    parser = run_parser("explain", "Show where a recommendation comes from.")
    parser.add_argument("--history", help="item tokens with commas between, oldest first")
    parser.add_argument("--user", help="a known user")
    parser.add_argument("--item", help="which recommendation (default: the first)")
    parser.add_argument("--owners", action="store_true", help="name the users whose memories these are")
    _add_filter_seen(parser)
    _add_unknown_items(parser)
    given = parser.parse_args(words)
    found = load(given.run).explain(
        None if given.history is None else _tokens(given.history),
        user=given.user,
        item=given.item,
        filter_seen=given.filter_seen,
        owners=given.owners,
        on_unknown_items=given.on_unknown_items,
    )
    show(str(found))
    return 0


def add(words: Sequence[str]) -> int:
    """Add new interactions to what a run left, without training."""
    parser = run_parser("add", "Remember new interactions, without training.")
    parser.add_argument("events", type=Path, help="file of interactions, in any format that prepare reads")
    _add_columns(parser)
    _add_unknown_items(parser)
    given = parser.parse_args(words)
    events = _interactions(given.events, columns=parse_columns(given.columns))
    done = _edited(
        given.run,
        lambda recommender: recommender.add(events, on_unknown_items=given.on_unknown_items),
    )
    show(str(done))
    return 0


def forget(words: Sequence[str]) -> int:
    """Erase a user from what a run left."""
    parser = run_parser("forget", "Erase a user: history, memories and name.")
    parser.add_argument("user", help="token of the user")
    given = parser.parse_args(words)
    removed = _edited(given.run, lambda recommender: recommender.forget(given.user))
    show(
        f"forgotten: {given.user}, with history and memories ({removed}); what the weights learned stays, "
        "and the data set and saved/ are as they were"
    )
    return 0


def export(words: Sequence[str]) -> int:
    """Write what a run left as plain files, for other programs."""
    parser = run_parser("export", "Write vectors, memories and encoder as plain files.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--onnx", action="store_true", help="the encoder too, as ONNX, compared with torch")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    given = parser.parse_args(words)
    check_folder(given.out, overwrite=given.overwrite)
    if given.onnx:
        require_onnx()
    recommender = load(given.run)
    recommender.export(given.out, onnx=given.onnx, overwrite=given.overwrite)
    memories = "" if recommender.memory is None else f", {len(recommender.memory.bank):,} memories"
    encoder = ", the encoder as ONNX, which gives torch's states" if given.onnx else ""
    show(f"{given.out}: vectors of {len(recommender.items) - 1:,} items{memories}{encoder}")
    return 0


def _edited(run: Path, change: Callable[[Recommender], Any]) -> Any:
    """Change a recommender and save it while no other process does."""
    with editing(run, lambda: say(f"{run}: another process changes it; waiting")) as folder:
        recommender = load(folder)
        done = change(recommender)
        save_recommender(recommender, folder)
        return done


def run_parser(name: str, what: str) -> Parser:
    """Make the parser of a command that uses what a run left."""
    parser = Parser(name, what)
    parser.add_argument(
        "run",
        nargs="?",
        type=Path,
        default=LATEST_RUN,
        help=f"folder that a run left (default: {LATEST_RUN})",
    )
    return parser


def _add_filter_seen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--filter_seen", type=_boolean, default=True, help="leave out what is in the history (default: true)"
    )


def _add_unknown_items(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--on_unknown_items", default="skip", help="skip or error (default: skip)")


def _add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--columns", default="", help="columns of a table, as for prepare: ROLE:COLUMN,...")


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError("must be true or false")
    return text.lower() == "true"


def _who(given: argparse.Namespace) -> dict[str, Any]:
    if given.users is not None:
        return {"users": "all" if given.users == "all" else _tokens(given.users)}
    if given.history is not None:
        return {"histories": [_tokens(given.history)]}
    columns = parse_columns(given.columns)
    return {"histories": _interactions(given.histories, columns=columns, needs_time=False)}


def _interactions(source: Path, **how: Any) -> pd.DataFrame:
    """Read a file of interactions; says what it leaves out."""
    read = read_interactions(source, **how)
    if read.n_dropped:
        say(f"{source}: dropped {read.n_dropped:,} rows without user, item or time")
    return read.rows.to_pandas()


def _tokens(text: str) -> list[str]:
    """Tokens of a file, one a line, if there is one of that name; else those between commas.

    Raises
    ------
    RequestError
        If there are none, or it names a file that is not there.
    """
    path = Path(text)
    if _is_file(text):
        try:
            tokens = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise RequestError(f"{path}: is not UTF-8 text; write one token a line") from error
    elif path.suffix in (".txt", ".csv", ".tsv") or (path.parent != Path() and "," not in text):
        raise RequestError(
            f"{path}: no such file; name one, or write tokens with commas between (a single one with a comma "
            "after it)"
        )
    else:
        tokens = text.split(",")
    tokens = [token.strip() for token in tokens if token.strip()]
    if not tokens:
        raise RequestError(f"'{text}': holds no token; write one a line in a file, or commas between")
    return tokens


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # no file has so long a name
        return False


def _say_what_is_unknown(requests: Requests, chosen: Selection) -> None:
    unknown = {"histories": requests.unknown_items, **chosen.unknown_items}
    for where, items in unknown.items():
        if items:
            say(f"skipped in {where}: {listed(items)} unknown to the model")
    cold = [str(label) for label in requests.labels[requests.cold]]
    if cold:
        say(f"popular items for users of whom nothing is known: {listed(cold)} cold")


def _as_text(table: pd.DataFrame) -> str:
    shown = Table(*table.columns)
    for row in table.itertuples(index=False):
        cells = dict(zip(table.columns, row, strict=True))
        cells["score"] = "–" if pd.isna(cells["score"]) else f"{cells['score']:.4f}"
        shown.add_row(*("" if cell is None else str(cell) for cell in cells.values()))
    return render(shown).rstrip()
