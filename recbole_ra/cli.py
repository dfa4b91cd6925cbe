"""The command line: RecBole's way (``--key=value``), and commands.

Exit codes: 0 done, 2 a mistake that the message tells how to mend, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_ra.core.arguments import Parser
from recbole_ra.core.console import abandon, prepare_streams, say, show
from recbole_ra.core.errors import RecboleRaError, SettingsError, nearest
from recbole_ra.core.setting import Setting, declared

USAGE = """\
usage: recbole-ra --model=MODEL --dataset=NAME [--config_files=FILE ...] [--key=value ...]
       recbole-ra models
       recbole-ra tune --model=MODEL --dataset=NAME --space=FILE [--trials=N] [--resume] [--key=value ...]
       recbole-ra regenerate --dataset=NAME --out=FOLDER [--overwrite] [--key=value ...]
       recbole-ra prepare SOURCE --name=NAME [--out=dataset] [--kind=KIND] [--columns=ROLE:COLUMN,...]
       recbole-ra recommend [RUN] --users=all|FILE|TOKEN,...|--histories=FILE [--k=10] [--out=FILE]
       recbole-ra similar [RUN] --items=FILE|TOKEN,... [--k=10] [--out=FILE]
       recbole-ra explain [RUN] --user=TOKEN|--history=ITEM,... [--item=ITEM]
       recbole-ra add [RUN] EVENTS
       recbole-ra forget [RUN] USER
       recbole-ra export [RUN] --out=FOLDER [--onnx] [--overwrite]
       recbole-ra serve [RUN] [--port=8000] [--host=127.0.0.1]

Without a command it trains, selects on validation, and tests once. Commands that take a RUN use what it
left; by default runs/latest. Every setting of RecBole and of ours is --key=value;
--key alone means true. Later config files win over earlier ones, the command line over all.
--help=all lists every setting.
"""


OF_A_RUN = {
    **dict.fromkeys(
        ("recommend", "similar", "explain", "add", "forget", "export"), "recbole_ra.inference.commands"
    ),
    "serve": "recbole_ra.serving.command",
}
"""Commands that use what a run left, and the modules that hold them."""

SHORT = ("models", "prepare", *OF_A_RUN)
"""Commands that train nothing: they explain themselves, and have nothing to resume."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = command(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who read has seen enough
        abandon(sys.stdout)
        return 0
    except RecboleRaError as error:
        say(f"recbole-ra: {error}")
        return 2
    except OSError as error:
        if error.errno is None:
            raise
        if error.filename is None:
            abandon(sys.stdout)
        say(f"recbole-ra: {error.filename or 'standard output'}: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        resumes = not words or words[0] not in SHORT
        how = "; what was finished is kept, the same command with --resume continues" if resumes else ""
        say(f"recbole-ra: interrupted{how}")
        return 130


def command(words: Sequence[str]) -> int:
    """Run the command that the words name."""
    asks = not words or words[0] == "help" or bool({"-h", "--help", "--help=all"} & set(words))
    if asks and (not words or words[0] not in SHORT):
        show(help_text(everything="--help=all" in words))
        return 0
    name, *rest = words
    if name == "--version":
        from recbole_ra import __version__

        show(__version__)
        return 0
    if name in OF_A_RUN:
        return int(getattr(importlib.import_module(OF_A_RUN[name]), name)(rest))
    if name in COMMANDS:
        return COMMANDS[name](rest)
    if not name.startswith("-"):
        known = (*COMMANDS, *OF_A_RUN)
        raise SettingsError(
            f"'{name}' is neither a command nor a setting; there are the commands {', '.join(known)}"
            f"{nearest(name, known)}; a setting is --key=value"
        )
    return train(words)


def train(words: Sequence[str]) -> int:
    """Run the pipeline with settings from the command line."""
    settings, files = parse_settings(words)
    from recbole_ra.pipeline.runner import run
    from recbole_ra.tuning.workers import ray_workers

    model, dataset = settings.pop("model", None), settings.pop("dataset", None)
    for name in sorted(settings.keys() & inspect.signature(run).parameters.keys()):
        raise SettingsError(f"unknown setting '{name}'; recbole_ra.run has it, for Python programs")
    result = run(model, dataset, files, start_workers=ray_workers, **settings)
    show(result.table())
    return 0


def models(words: Sequence[str]) -> int:
    """List every model with its source, how it is trained and what it supports."""
    Parser("models", "List every model that --model takes.").parse_args(words)
    from rich.table import Table

    from recbole_ra.models.catalogue import entries
    from recbole_ra.report.tables import render

    table = Table("model", "trains on", "loss", "Ra", "needs", "source")
    for entry in entries():
        table.add_row(
            entry.name,
            entry.trains_on,
            entry.loss,
            "yes" if entry.retrieval else "no",
            entry.needs,
            entry.source,
        )
    show(render(table, 120))
    show(
        "trains on: passes = several targets of a user in one pass, prefixes = a row for each target, "
        "RecBole = RecBole's loader.\nRa: yes = also retrieval-augmented, for example --model=RaSASRec."
    )
    return 0


def tune(words: Sequence[str]) -> int:
    """Search for settings on Ray Tune, and test the best."""
    settings, files = parse_settings(words)
    from recbole_ra.tuning.cluster import connected, require
    from recbole_ra.tuning.options import plan_sweep

    sweep = plan_sweep(settings.pop("model", None), settings.pop("dataset", None), files, settings)
    require("ray", "optuna")
    with connected(sweep.config.run.address) as machine:
        from recbole_ra.tuning.sweep import search, test_best

        trials = search(sweep, machine)
    show(test_best(sweep, trials).table())
    return 0


def regenerate(words: Sequence[str]) -> int:
    """Write a regenerated data set: a run of the model that makes it, whose ``export_dir`` is ``--out``.

    Raises
    ------
    SettingsError
        If there is no ``--out``, or a model is named.
    """
    from recbole_ra.models.registry import REGENERATOR

    renamed = ["--export_dir" + word[5:] if word.partition("=")[0] == "--out" else word for word in words]
    settings, _ = parse_settings(renamed)
    if not settings.get("export_dir"):
        raise SettingsError("regenerate: --out is missing; for example --out=dataset/amazon-beauty-dr4sr")
    if "model" in settings:
        raise SettingsError(
            "regenerate: --model is not taken; to train a model on regenerated data, use "
            "--model=NAME --regenerate=dr4sr"
        )
    return train([f"--model={REGENERATOR}", *renamed])


def parse_settings(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Read ``--key=value``, ``--key value`` and bare ``--key`` words.

    Returns
    -------
    tuple
        Settings by key, and the config files in order.

    Raises
    ------
    SettingsError
        If a word is no setting, or a key is given twice with different values.
    """
    from recbole_ra.settings.files import parse_value

    texts = {name: about for name, about in every_setting().items() if about.is_text}
    settings: dict[str, Any] = {}
    files: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise SettingsError(
                f"'{word}' is not a setting; write --key=value (--help lists commands and settings)"
            )
        key, equals, text = word[2:].partition("=")
        if not equals and rest and not rest[0].startswith("--"):
            text, equals = rest.pop(0), "="
        if key == "config_files":
            if not text:
                raise SettingsError("--config_files names no file; write --config_files=FILE[,FILE]")
            files.extend(text.replace(",", " ").split())
            continue
        try:
            value = parse_value(text) if equals else True
        except SettingsError as error:
            raise SettingsError(f"--{key}: {error}") from error
        if key in texts:
            value = None if texts[key].optional and text.lower() == "none" else text
        if key in settings and settings[key] != value:
            raise SettingsError(f"--{key} is given twice, as {settings[key]!r} and {value!r}; keep one")
        settings[key] = value
    return settings, files


def prepare(words: Sequence[str]) -> int:
    """Turn raw data into atomic files."""
    from recbole_ra.prepare.interactions import KINDS
    from recbole_ra.prepare.interactions import prepare as prepare_files
    from recbole_ra.prepare.readers import parse_columns

    parser = Parser("prepare", "Turn what you have into a RecBole atomic file.", allow_abbrev=True)
    parser.add_argument(
        "source", type=Path, help="CSV, TSV, Parquet, reviews_*.json.gz or 'user item item …' text"
    )
    parser.add_argument("--name", required=True, help="name of the data set, as for --dataset")
    parser.add_argument(
        "--out", type=Path, default=Path("dataset"), help="folder of data sets (default: dataset)"
    )
    parser.add_argument("--kind", default="auto", help=f"auto, {', '.join(KINDS)}")
    parser.add_argument(
        "--columns",
        default="",
        help="columns of a table: user_id:USER,item_id:ITEM,timestamp:TIME[,rating:RATING][,title:TITLE]; "
        "of --titles, too",
    )
    parser.add_argument(
        "--titles", type=Path, help="titles of items: Amazon's metadata, or a table with item and title"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a data set of that name")
    given = parser.parse_args(words)
    made = prepare_files(
        given.source,
        given.name,
        given.out,
        kind=given.kind,
        columns=parse_columns(given.columns),
        titles=given.titles,
        overwrite=given.overwrite,
    )
    show(
        f"{made.path} ({made.kind}): {made.n_users} users, {made.n_items} items, "
        f"{made.n_interactions} interactions"
    )
    for note in made.notes:
        show(f"  {note}")
    show(f"next: recbole-ra --model=RaSASRec --dataset={given.name} --data_path={given.out}")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "models": models,
    "prepare": prepare,
    "tune": tune,
    "regenerate": regenerate,
}
"""Commands that are here, by name."""


def every_setting() -> dict[str, Setting]:
    """Everything that is declared: settings of ours, of each backbone, of sweeps, and some of RecBole's."""
    from recbole_ra.models.registry import OURS
    from recbole_ra.settings.declared import OUR_SETTINGS
    from recbole_ra.settings.recbole import RECBOLE
    from recbole_ra.tuning.options import TuneSettings

    classes = (TuneSettings, *(model.Settings for model in OURS.values()), *OUR_SETTINGS)
    return {**RECBOLE, **{name: about for cls in classes for name, about in declared(cls).items()}}


def help_text(*, everything: bool) -> str:
    """Usage, models, data sets, and settings with their defaults: the common ones, or all."""
    from recbole_ra.models.registry import CLOSED_FORM, OURS, available_backbones
    from recbole_ra.settings.config import RaConfig
    from recbole_ra.settings.declared import OUR_SETTINGS
    from recbole_ra.settings.files import props_root, read_yaml
    from recbole_ra.settings.recbole import IGNORED, UNLISTED
    from recbole_ra.tuning.options import TuneSettings

    lines = [USAGE]
    lines.append("models (most also with Ra before it, the retrieval-augmented recommender over it:")
    lines.append("recbole-ra models says which)")
    lines.extend(_wrapped(available_backbones()))
    lines.append("\nand without Ra, solved in closed form")
    lines.extend(_wrapped(list(CLOSED_FORM)))
    lines.append("\nand DR4SR, which makes a regenerated data set (the same as the command regenerate)")
    lines.append("\ndata sets with settings of their own (any other folder of atomic files works too)")
    lines.extend(_wrapped(sorted(path.stem for path in (props_root() / "dataset").glob("*.yaml"))))
    for cls in (*OUR_SETTINGS, TuneSettings):
        shown = [about for about in declared(cls).values() if everything or not about.expert]
        lines.extend(_section((cls.__doc__ or "").strip().splitlines()[0], shown))
    if not everything:
        lines.append("\nRecBole's settings with other defaults than RecBole's")
        lines.extend(
            f"  --{key}={_shown(value)}" for key, value in read_yaml(props_root() / "overall.yaml").items()
        )
        return "\n".join(lines)
    shown_before: set[str] = set()
    for name, model in OURS.items():
        own = declared(model.Settings)
        new = [about for key, about in own.items() if key not in shown_before]
        lines.extend(
            _section(f"Architecture of {name}{', beside those above' if len(new) < len(own) else ''}.", new)
        )
        shown_before |= own.keys()
    config = RaConfig("STAMP", "any")  # a model and a data set without defaults of their own
    defaults = {**config.internal_config_dict, **read_yaml(props_root() / "overall.yaml")}
    for category, names in config.parameters.items():
        listed = [*names, *UNLISTED] if category == "Training" else names
        known = [
            dataclasses.replace(config.about(name), name=name, default=defaults.get(name))
            for name in listed
            if name not in IGNORED
        ]
        lines.extend(_section(f"RecBole's settings: {category.lower()} (recbole.io explains them).", known))
    return "\n".join(lines)


def _section(title: str, settings: Iterable[Setting]) -> Iterator[str]:
    """Settings with their defaults, below a title; nothing if there are none."""
    settings = list(settings)
    if settings:
        yield f"\n{title}"
    for about in settings:
        yield f"  --{about.name}={_shown(about.default)}"
        choices = f" ({' | '.join(about.choices)})" if about.choices else ""
        if about.help:
            yield f"        {about.help}{choices}"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _wrapped(names: Sequence[str]) -> list[str]:
    return textwrap.wrap(" ".join(names), width=96, initial_indent="  ", subsequent_indent="  ")
