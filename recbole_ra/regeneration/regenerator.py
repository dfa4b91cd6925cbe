"""From patterns to decoded sequences: teacher, regenerator, decoding (METHOD 1.2 to 1.4)."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import digest, read_made
from recbole_ra.core.seeding import stream
from recbole_ra.data.table import Prefixes, SequenceTable
from recbole_ra.models.recommenders import BackboneRecommender
from recbole_ra.models.registry import REGENERATOR
from recbole_ra.models.sasrec import SASRec, SASRecSettings
from recbole_ra.regeneration.batches import PairBatches
from recbole_ra.regeneration.decoding import Decoded, regenerate_sequences
from recbole_ra.regeneration.fidelity import keep_agreed, keep_plausible
from recbole_ra.regeneration.network import Regenerator
from recbole_ra.regeneration.pairs import Pairs, draw_pairs
from recbole_ra.regeneration.patterns import MinedPatterns
from recbole_ra.regeneration.trainer import DR4SR, RegeneratorTrainer
from recbole_ra.settings.contradictions import longest_decoded
from recbole_ra.training.checkpoint import load_weights
from recbole_ra.training.evaluation import rows_scored_together
from recbole_ra.training.loaders import sequence_batches
from recbole_ra.training.run import Run
from recbole_ra.training.setup import OPTIMISER, seed_everything, stage_config
from recbole_ra.training.stage import HISTORY, train_stage
from recbole_ra.training.trainer import RaTrainer

DEV_SHARE = 0.05
"""Share of the training users whose pairs select the regenerator's epoch; none in the released code."""


def source_windows(run: Run, sequences: SequenceTable) -> SequenceTable:
    """Training sequences of at least 2 items, those longer than the position table in pieces."""
    lengths = sequences.lengths
    long_enough = sequences.head(np.where(lengths < 2, 0, lengths))
    return long_enough.windows(run.config["MAX_ITEM_LIST_LENGTH"])


class RegeneratorStages:
    """The stages teacher, regenerator and decoded, each made or reused when its result is needed.

    Nothing here sees more than the training part of each user, not even the data set's item ids,
    which depend on the rest: what is made does not change with validation or test items.

    Parameters
    ----------
    run : Run
    mined : MinedPatterns
    """

    def __init__(self, run: Run, mined: MinedPatterns) -> None:
        self.run = run
        self.items = run.training_part.items
        self.sources = source_windows(run, run.training_part.numbered)
        self.mined = mined
        self.settings = run.config.regeneration
        self.max_length = run.config["MAX_ITEM_LIST_LENGTH"]

    def _identity(self, model: str) -> dict[str, Any]:
        """Return what a checkpoint of these stages is tied to."""
        return {
            "model": model,
            "vocabulary": self.items.digest(),
            "n_items": len(self.items),
            "training_part": self.run.training_part.digest,
            "settings": {"variant": self.settings.variant},
        }

    # Teacher

    @functools.cached_property
    def teacher_content(self) -> dict[str, Any]:
        """What the teacher depends on."""
        return self.run.content("teacher")

    @functools.cached_property
    def teacher(self) -> BackboneRecommender:
        """SASRec on the original training part, trained for a fixed number of epochs.

        Selecting an epoch on validation would let validation items decide what is regenerated.
        """
        run, config = self.run, self.run.config
        seed_everything(config)
        width = self.settings.regenerator_width
        shape = SASRecSettings(
            layout="recbole",
            n_heads=2,
            hidden_size=width,
            inner_size=4 * width,
            hidden_dropout_prob=0.5,
            attn_dropout_prob=0.5,
        )
        backbone = SASRec(len(self.items), self.max_length, shape)
        model = BackboneRecommender(backbone, run.fields).to(config.torch_device)

        def batches(trainer: RaTrainer) -> tuple[Any, None]:
            rows = Prefixes.all_of(run.training_part.numbered, self.max_length)
            return sequence_batches(trainer.config, rows, backbone), None

        with run.making(self.teacher_content) as artifact:
            train_stage(run, artifact, model, batches, name="teacher", identity=self._identity("SASRec"))
        model.eval()
        return model

    # Regenerator

    @functools.cached_property
    def regenerator_content(self) -> dict[str, Any]:
        """What the trained regenerator depends on."""
        config = stage_config(self.run.config, "regenerator")
        return self.run.content(
            "regenerator",
            {"patterns": self.mined.key, "teacher": digest(self.teacher_content)},
            optimiser={name: config[name] for name in OPTIMISER},
        )

    def build(self) -> DR4SR:
        """Build the regenerator that the settings describe, untrained."""
        settings = self.settings
        network = Regenerator(
            n_items=len(self.items),
            width=settings.regenerator_width,
            inner=settings.regenerator_inner,
            dropout=settings.regenerator_dropout,
            n_latents=settings.n_latents,
            diversity=settings.diversity,
            causal_encoder=settings.variant == "released",
            candidates=settings.regenerator_candidates,
            max_source=self.max_length,
            max_target=1 + longest_decoded(self.run.config),
        )
        return DR4SR(network, settings).to(self.run.config.torch_device)

    @functools.cached_property
    def _given(self) -> tuple[DR4SR, list[dict[str, Any]]] | None:
        """The regenerator of ``regenerator_checkpoint`` and its epochs."""
        if self.settings.regenerator_checkpoint is None:
            return None
        path, model = Path(self.settings.regenerator_checkpoint), self.build()
        content = self.run.load_given(path, self._identity(REGENERATOR))
        load_weights(model, content["state_dict"], path)
        self.run.reused.append("regenerator")
        self.run.say(f"regenerator: loaded {path}")
        return model, content["history"]

    @functools.cached_property
    def regenerator(self) -> DR4SR:
        """The regenerator, trained on (sequence, pattern) pairs."""
        if self._given is not None:
            return self._given[0]
        run, config = self.run, self.run.config
        with run.making(self.regenerator_content) as artifact:
            teacher = self.teacher if artifact.found is None else None
            seed_everything(config)
            model = self.build()
            if teacher is not None:
                model.network.load_items(teacher.item_table.detach())
            train_stage(
                run,
                artifact,
                model,
                lambda _: self.pair_batches(),
                name=REGENERATOR,
                identity=self._identity(REGENERATOR),
                kind=RegeneratorTrainer,
            )
        return model

    def pair_batches(self) -> tuple[PairBatches, PairBatches | None]:
        """Pairs to train on, and those of the users that are held out, if there are any."""
        settings, seed, sources = self.settings, self.run.config.seed_value, self.sources
        patterns = self.mined.patterns.to_table(len(self.items))
        pairs = draw_pairs(sources, self.mined.patterns, per_sequence=settings.pairs_per_sequence, seed=seed)
        users = np.unique(sources.users)
        share = 0.0 if settings.variant == "released" else DEV_SHARE
        held_out = users[stream(seed, "dev users").random(len(users)) < share]
        is_dev = np.isin(sources.users[pairs.sequence], held_out)
        if is_dev.all():
            is_dev[:] = False
        if not len(pairs):
            raise DataError(
                f"data set '{self.run.config.dataset}': no pattern lies within {self.max_length} positions "
                "of a sequence; raise MAX_ITEM_LIST_LENGTH"
            )
        self.run.say(f"pairs: {len(pairs)} of a sequence and a pattern in it, {int(is_dev.sum())} held out")

        def batches(part: Pairs, shuffle: bool) -> PairBatches:
            return PairBatches(
                sources,
                patterns,
                part.sequence,
                part.pattern,
                seed=seed,
                shuffle=shuffle,
            )

        dev = Pairs(pairs.sequence[is_dev], pairs.pattern[is_dev])
        train = Pairs(pairs.sequence[~is_dev], pairs.pattern[~is_dev])
        return batches(train, True), batches(dev, False) if len(dev) else None

    def history(self) -> list[dict[str, Any]]:
        """Epochs of the regenerator, empty where its artifact is gone."""
        if self._given is not None:
            return self._given[1]
        found = self.run.store.find("regenerator", digest(self.regenerator_content))
        return [] if found is None else read_made(found / HISTORY)

    # Decoding

    def decoded(self) -> Decoded:
        """Decode every source once per latent space; item ids are the data set's."""
        numbered = self._decoded()
        return dataclasses.replace(numbered, items=self.items.ids[numbered.items].astype(np.int32))

    def _decoded(self) -> Decoded:
        """The same with the numbers of the training items."""
        after = {"regenerator": digest(self.regenerator_content)}
        if self.settings.fidelity_rank:
            after["teacher"] = digest(self.teacher_content)
        content = self.run.content("decoded", after)
        with self.run.making(content) as artifact:
            if artifact.found is not None:
                return Decoded.load(artifact.found)
            network = self.regenerator.network
            folder = self.run.start(artifact)
            decoded = self._decode(network, folder)
            decoded.save(folder)
            for block in folder.glob("block-*.npz"):
                block.unlink()
            self.run.finish(artifact)
        return decoded

    def _decode(self, network: Regenerator, folder: Path) -> Decoded:
        """Decode every source; finished blocks of an interrupted run in the folder are taken over."""
        run, config, settings = self.run, self.run.config, self.settings
        # Before decoding, which runs without gradients: it may still have to be trained.
        teacher = self.teacher if settings.fidelity_rank else None
        started = perf_counter()
        decoded = regenerate_sequences(
            network,
            self.sources,
            gamma=settings.gamma,
            max_tokens=settings.decode_length,
            seed=config.seed_value,
            variant=settings.variant,
            folder=folder,
            device=config.torch_device,
            progress=bool(config["show_progress"]),
            workers=run.workers,
        )
        run.say(f"decoded: {len(decoded)} sequences in {perf_counter() - started:.1f} s")
        if settings.promoter_agrees:
            before = len(decoded.items)
            decoded = keep_agreed(
                decoded, network, batch_size=config["eval_batch_size"], device=config.torch_device
            )
            run.say(f"promoter: {len(decoded.items)} of {before} decoded items kept")
        if teacher is None:
            return decoded
        backbone, table = teacher.backbone, teacher.item_table

        def score(items: Tensor, lengths: Tensor) -> Tensor:
            return backbone.represent(items, lengths) @ table.T

        before = len(decoded.items)
        decoded = keep_plausible(
            decoded,
            score,
            rank=settings.fidelity_rank,
            max_length=self.max_length,
            batch_size=rows_scored_together(config["eval_batch_size"], len(self.items)),
            device=config.torch_device,
        )
        run.say(f"fidelity: {len(decoded.items)} of {before} decoded items kept")
        return decoded
