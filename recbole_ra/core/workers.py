"""The interface of processes that share the work of a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

Part = TypeVar("Part")
Found = TypeVar("Found")


class Workers(Protocol):
    """Processes that share the work of a run."""

    count: int

    def map(
        self, function: Callable[[Any, Part], Found], shared: Any, parts: Sequence[Part]
    ) -> Iterator[Found]:
        """Yield ``function(shared, part)`` of every part, in order.

        Parameters
        ----------
        function : callable
            Of a module, so that other processes can import it.
        shared : object
            Sent to each process once.
        parts : sequence
        """
        ...

    def train_backbone(
        self, settings: Mapping[str, Any], folder: Path, on_epoch: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """Train the backbone that the settings name, with data parallel, in a folder.

        Parameters
        ----------
        settings : mapping
            What the user set, model and data set included.
        folder : Path
            Of the artifact in progress; training continues from the checkpoint in it.
        on_epoch : callable
            Called after each epoch.
        """
        ...


class OneProcess:
    """One process, this one."""

    count = 1

    def map(
        self, function: Callable[[Any, Part], Found], shared: Any, parts: Sequence[Part]
    ) -> Iterator[Found]:
        """Work on one part after another."""
        return (function(shared, part) for part in parts)

    def train_backbone(
        self, settings: Mapping[str, Any], folder: Path, on_epoch: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """Never called: without other processes a stage trains in this one."""
        raise NotImplementedError
