"""The journal: what is acknowledged is read again, in its order, and a save takes its place."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recbole_ra
from recbole_ra.core.errors import CheckpointError, RecboleRaError
from recbole_ra.inference import journal as journals
from recbole_ra.inference.journal import JOURNAL, Change, Journal, apply_changes, read_journal

NAMES = st.text(min_size=1)
EVENTS = st.tuples(NAMES, NAMES, st.floats(allow_nan=False, allow_infinity=False))
CHANGES = st.one_of(
    st.builds(Change, events=st.lists(EVENTS, min_size=1).map(tuple)), st.builds(Change, forgotten=NAMES)
)


@given(changes=st.lists(CHANGES, max_size=5), cut=st.integers(min_value=0))
def test_what_was_written_is_read_up_to_where_it_was_cut(
    changes: list[Change], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    sizes = [0]
    for change in changes:
        journal.append([change])
        sizes.append((folder / JOURNAL).stat().st_size)
    assert read_journal(folder).changes == changes
    content = (folder / JOURNAL).read_bytes()
    cut %= len(content) + 1
    (folder / JOURNAL).write_bytes(content[:cut])
    whole = max(number for number, size in enumerate(sizes) if size <= cut)
    found = read_journal(folder)
    assert (found.changes, found.size, found.torn) == (changes[:whole], sizes[whole], cut - sizes[whole])
    again = Journal(folder)
    assert (again.changes, again.torn) == (whole, cut - sizes[whole])
    again.append([Change(forgotten="x")])
    assert read_journal(folder).changes == [*changes[:whole], Change(forgotten="x")]


def test_damage_before_the_end_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([Change(forgotten="a"), Change(forgotten="b")])
    content = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(content.replace(b'"a"', b'"c"'))
    with pytest.raises(CheckpointError, match="line 1 is damaged"):
        read_journal(tmp_path)


def test_an_append_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append([Change(forgotten="a")])

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("recbole_ra.inference.journal.os.fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        journal.append([Change(forgotten="b")])
    monkeypatch.undo()
    journal.append([Change(forgotten="c")])
    assert [change.forgotten for change in read_journal(tmp_path).changes] == ["a", "c"]


def state(recommender: recbole_ra.Recommender) -> dict[str, Any]:
    """Histories and memories by the names of users, whatever their ids and order."""
    table, users, items = recommender.histories, recommender.users.names, recommender.items.names
    spans = list(zip(table.offsets[:-1], table.offsets[1:], strict=True))
    assert recommender.memory is not None
    bank = recommender.memory.bank
    brought = zip(bank.users, bank.lengths, bank.values, bank.keys, strict=True)
    memories = sorted(
        ((str(users[user]), int(n), int(item), key) for user, n, item, key in brought),
        key=lambda memory: memory[:3],
    )
    return {
        "histories": {
            users[number]: items[table.items[first:last]].tolist()
            for number, (first, last) in enumerate(spans)
            if number and users[number] is not None
        },
        "memories": [memory[:3] for memory in memories],
        "keys": np.array([memory[3] for memory in memories]),
    }


def assert_same_state(one: recbole_ra.Recommender, other: recbole_ra.Recommender) -> None:
    """Keys of one encoding and of several differ in their last bits."""
    found, expected = state(one), state(other)
    np.testing.assert_allclose(found.pop("keys"), expected.pop("keys"), atol=1e-4)
    assert found == expected


def some_changes(seed: int) -> list[Change]:
    """Events of few users, late and repeated ones among them, and users that are forgotten."""
    rng = np.random.default_rng(seed)
    changes = []
    for _ in range(30):
        if rng.random() < 0.1:
            changes.append(Change(forgotten=f"n{rng.integers(4)}"))
            continue
        events = [
            (f"n{rng.integers(4)}", f"i{rng.integers(25)}", float(rng.integers(20)))
            for _ in range(rng.integers(1, 4))
        ]
        changes.append(Change(tuple(events)))
    return changes


@pytest.mark.parametrize("seed", range(3))
def test_a_journal_read_again_makes_what_was_made_before(
    seed: int, trained: Callable[[str], Any], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained("RaSASRec").folder, tmp_path / "run"))
    served = recbole_ra.load(run)
    assert served.folder is not None
    journal = Journal(served.folder)
    for change in some_changes(seed):
        journal.append([change])
        if change.forgotten is None:
            served.add(change.events)
        elif change.forgotten in served.users:
            served.forget(change.forgotten)
    again = recbole_ra.load(run)
    assert_same_state(again, served)
    journal.compact(served)
    assert (journal.changes, read_journal(served.folder).changes) == (0, [])
    assert_same_state(recbole_ra.load(run), served)


def test_what_is_known_already_changes_nothing(recommender: recbole_ra.Recommender) -> None:
    change = Change((("ada", "i1", 1.0), ("ada", "i2", 2.0)))
    apply_changes(recommender, [change])
    before = state(recommender)
    apply_changes(recommender, [change, change])
    after = state(recommender)
    assert (after.pop("keys") == before.pop("keys")).all()
    assert after == before


def test_forgetting_on_the_command_line_empties_the_journal_too(
    trained: Callable[[str], Any], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained("RaSASRec").folder, tmp_path / "run"))
    Journal(run / "model").append([Change((("zoe-7", "i1", 1.0), ("zoe-7", "i2", 2.0)))])
    assert recbole_ra.load(run).forget("zoe-7", save=True) == 1
    content = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert b"zoe-7" not in content


def test_recommending_without_memories_is_what_explanations_say(
    recommender: recbole_ra.Recommender,
) -> None:
    history = ["i1", "i2", "i3"]
    table = recommender.recommend(histories=[history], k=20, memories=False).set_index("item")
    for item in table.index[:5]:
        told = recommender.explain(history, item=item)
        assert (told.rank_without, told.score_without) == (
            table["rank"][item],
            pytest.approx(table["score"][item], abs=1e-5),
        )


def forgetful(trained: Callable[[str], Any], folder: Path) -> tuple[recbole_ra.Recommender, Journal]:
    """A saved recommender whose journal says that u1 is forgotten, which was applied."""
    recommender: recbole_ra.Recommender = trained("RaSASRec").load()
    recommender.save(folder)
    journal = Journal(folder)
    journal.append([Change(forgotten="u1")])
    recommender.forget("u1")
    return recommender, journal


def test_a_journal_that_cannot_be_opened_again_is_by_the_next_change(
    trained: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender, journal = forgetful(trained, tmp_path / "model")

    def refuse(*_: Any) -> None:
        raise OSError(errno.EMFILE, "injected")

    with monkeypatch.context() as broken:
        broken.setattr(journals, "flush_folder", refuse)
        journal.compact(recommender)  # the save itself is done
        with pytest.raises(OSError, match="injected"):
            journal.append([Change(forgotten="u2")])
    assert "u1" not in recbole_ra.load(tmp_path / "model").users
    journal.append([Change(forgotten="u2")])
    assert read_journal(tmp_path / "model").changes == [Change(forgotten="u2")]


@pytest.mark.parametrize("fails", ["remove", "flush_names"])
def test_what_follows_a_save_that_failed_at_its_end_is_kept(
    fails: str, trained: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder was replaced, and the journal that was open went with the one before."""
    recommender, journal = forgetful(trained, tmp_path / "model")

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as broken:
        if fails == "remove":
            broken.setattr("recbole_ra.core.files.remove", lambda path: None)
        else:
            broken.setattr("recbole_ra.inference.files.flush_names", refuse)
        with pytest.raises((OSError, RecboleRaError), match=r"injected|cannot be deleted"):
            journal.compact(recommender)
    assert journal.changes == 0
    journal.append([Change(forgotten="u2")])
    assert read_journal(tmp_path / "model").changes == [Change(forgotten="u2")]
    assert not {"u1", "u2"} & {*recbole_ra.load(tmp_path / "model").users.names}
