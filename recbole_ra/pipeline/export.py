"""The regenerated data set as files for other programs (METHOD 1.6)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import digest_bytes, explain_disk_errors, write_json
from recbole_ra.pipeline.regeneration import Regenerated, user_tokens
from recbole_ra.pipeline.run import Run
from recbole_ra.regeneration.export import SEQUENCES_FILE, write_benchmark_files, write_sequences


def check_export(run: Run, target: Path) -> None:
    """Refuse, before anything is trained, a target that cannot be used.

    Raises
    ------
    DataError
        If there is something already, and ``overwrite`` is not set; or if it is not ours to replace.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not run.config.run.overwrite:
        raise DataError(f"{target}: exists already; name another folder, or replace it with --overwrite")
    if not (target / SEQUENCES_FILE).is_file():
        raise DataError(f"{target}: holds no regenerated data set and is not replaced; name another folder")


def export_data(run: Run, regenerated: Regenerated, target: Path, versions: Mapping[str, str]) -> None:
    """Write RecBole benchmark files, the sequences with their origins, a manifest and the pictures.

    The folder appears whole: it is written beside its place and then renamed.
    """
    splits, data = run.splits, regenerated.data
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with explain_disk_errors(target):
        try:
            part.mkdir(parents=True)
            users, items = user_tokens(run), splits.whole.vocabulary
            write_sequences(part / SEQUENCES_FILE, data, items, users)
            write_benchmark_files(
                part,
                target.name,
                train=regenerated.train.table,
                valid=splits.valid.prefixes,
                test=splits.test.prefixes,
                user_tokens=users,
                item_tokens=items,
                max_length=run.config["MAX_ITEM_LIST_LENGTH"],
            )
            regenerated.save_pictures(part)
            files = {path.name: digest_bytes(path.read_bytes()) for path in sorted(part.iterdir())}
            write_json(
                part / "manifest.json",
                {
                    "dataset": run.config.dataset,
                    "fingerprint": run.fingerprint,
                    "seed": run.config.seed_value,
                    "versions": dict(versions),
                    "files": files,
                    **regenerated.facts(run.config),
                },
            )
            if target.exists():
                shutil.rmtree(target)
            part.replace(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    run.say(f"regenerated data set: {target}")
