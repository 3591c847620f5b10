"""What the training of a rung reads, in the ladder and in the baselines that climb one rung alone."""

from stepwell.ladder.builder import Builder
from stepwell.ladder.scoring import lessons
from stepwell.ladder.trainings import more_vectors
from stepwell.recipe import Rung


def learned(b: Builder, name: str, rung: Rung, before: str, found: str, scores: str, known: bool) -> dict[str, str]:
    """Add what the training ``name`` of a rung reads, and return its inputs.

    ``before`` is the student that it starts from, ``found`` the stage of candidates, ``scores`` what the stage with the
    teacher's scores of them is called; ``known``: the store has nearly all of these by then.
    """
    inputs = {"student": before}
    if rung.loss == "embedding":
        return inputs | b.opens(rung.teacher) | more_vectors(b, name, rung)
    named = {"beside": rung.beside, "hold": b.recipe.embedding_teacher if rung.hold else None}
    inputs |= {role: f"teacher.{teacher}.vectors" for role, teacher in named.items() if teacher is not None}
    inputs |= {"start": f"{before}.vectors"} if rung.gamma else {}
    return inputs | lessons(b, scores, rung.teacher, rung, found, known)
