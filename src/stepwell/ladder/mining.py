"""Mining in a ladder: candidates from a run, and what is said of them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stepwell import distributed
from stepwell.distil.negatives import mine
from stepwell.ladder.context import Surroundings
from stepwell.ladder.stage import Job
from stepwell.recipe import Mining
from stepwell.retrieval.run import Run
from stepwell.systems import records


def mine_from(job: Job, run: Run, settings: Mining, k: int) -> None:
    """Mine K candidates of each query of a run; write them and the report of what was dropped.

    With ``settings.denoise``, the job's teacher says what is no negative.
    """
    denoiser = None
    if settings.denoise is not None:
        judge = job.teacher()

        def denoiser(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
            return judge.score(queries, passages[:, None], job.progress)[:, 0]

    around = job.surroundings
    found, report = mine(run, around.splits.train, around.collection, settings, k, around.seed, denoiser)
    if distributed.is_main():
        found.save(job.folder / "candidates.parquet", around.collection)
        job.leave(records.Mining(report))


def say_mining(folder: Path, surroundings: Surroundings) -> Iterable[str]:
    """Say what mining took, what it dropped and why, with examples."""
    return records.Mining.load(folder).lines(surroundings.splits.synthetic.get("train", 0))
