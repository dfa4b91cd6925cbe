"""The regenerated data set as files for other programs (METHOD 1.6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import digest_bytes, explain_disk_errors, make_folder, whole_folder, write_json
from recbole_ra.core.store import MANIFEST
from recbole_ra.regeneration.files import check_tokens, write_benchmark_files, write_sequences
from recbole_ra.regeneration.stage import Regenerated, user_tokens
from recbole_ra.settings.files import SEQUENCES_FILE, read_manifest
from recbole_ra.training.run import Run


def check_exportable(run: Run) -> None:
    """Refuse, before anything is trained, a data set that cannot be written.

    Raises
    ------
    DataError
        If a split that has to be written is empty, or a token holds what RecBole could not read back.
    """
    where = f"data set '{run.config.dataset}'"
    if not len(run.splits.valid) or not len(run.splits.test):
        raise DataError(
            f"{where}: benchmark files need validation and test rows, but the split leaves none; "
            "choose another with --eval_args"
        )
    check_tokens(where, user_tokens(run), run.splits.whole.vocabulary)


def check_export(run: Run, target: Path) -> Path:
    """Refuse, before anything is trained, a target that cannot be used; gives it without links.

    Raises
    ------
    DataError
        If there is something already and ``overwrite`` is not set, or if it holds what is not ours.
    RecboleRaError
        If no folder can be made there.
    """
    target = target.resolve()
    if not target.name or target.name == "ml-100k":
        raise DataError(f"{target}: is no name for a data set of your own; name another folder")
    make_folder(target.parent)
    with explain_disk_errors(target):
        if target.exists() and not target.is_dir():
            raise DataError(f"{target}: is a file; name another folder")
        found = {path.name for path in target.iterdir()} if target.exists() else set()
    if found and not run.config.run.overwrite:
        raise DataError(f"{target}: exists already; name another folder, or replace it with --overwrite")
    strange = sorted(found - _written(target))
    if strange:
        raise DataError(
            f"{target}: holds '{strange[0]}', which is not ours, so it is not replaced; name another folder"
        )
    return target


def _written(folder: Path) -> set[str]:
    """List what an earlier export wrote there."""
    files = read_manifest(folder).get("files")
    return {MANIFEST, *files} if isinstance(files, dict) else set()


def export_data(run: Run, regenerated: Regenerated, target: Path, versions: Mapping[str, str]) -> None:
    """Write RecBole benchmark files, the sequences with their origins, a manifest and the pictures.

    The folder appears whole. The sequences are those that take part in training, as in the benchmark
    files.

    Raises
    ------
    DataError
        If something came to lie at the target since :func:`check_export` saw it.
    """
    users, items = user_tokens(run), run.splits.whole.vocabulary
    with whole_folder(target) as folder:
        write_sequences(folder / SEQUENCES_FILE, regenerated.kept, items, users)
        write_benchmark_files(
            folder,
            target.name,
            train=regenerated.train.table,
            valid=run.splits.valid.prefixes,
            test=run.splits.test.prefixes,
            user_tokens=users,
            item_tokens=items,
            max_length=run.config["MAX_ITEM_LIST_LENGTH"],
        )
        regenerated.save_pictures(folder)
        files = {path.name: digest_bytes(path.read_bytes()) for path in sorted(folder.iterdir())}
        write_json(
            folder / MANIFEST,
            {
                "dataset": run.config.dataset,
                "fingerprint": run.fingerprint,
                "training_part": run.training_part.digest,
                "chosen": {name: str(value) for name, value in run.config.chosen.items()},
                "seed": run.config.seed_value,
                "versions": dict(versions),
                "files": files,
                **regenerated.facts(run.config),
            },
        )
        check_export(run, target)
    run.say(f"regenerated data set: {target}")
