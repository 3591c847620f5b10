"""Running an ablation: one variant after the other in one folder of stages, so that equal work is done once."""

import shutil
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from stepwell import distributed
from stepwell.ablations.grid import Grid, Variant
from stepwell.ablations.result import Ablation, Outcome
from stepwell.ablations.vocabulary import ladder_steps, matched
from stepwell.display import Cell, Progress, Table, duration, progress, say, warn
from stepwell.errors import RecipeError, RunError, StepwellError
from stepwell.files import write_text
from stepwell.ladder.build import stages_of_variant
from stepwell.ladder.plan import Plan, Speed, make_plan, speed_of
from stepwell.ladder.run import agree, climb, file_name, prepare, shared_facts
from stepwell.ladder.stage import Context, Stage
from stepwell.ladder.tracking import Tracking
from stepwell.ladder.workspace import Workspace
from stepwell.recipe.yaml_file import dump_recipe
from stepwell.systems.records import Training
from stepwell.teachers.embeddings import Bill


@dataclass(frozen=True)
class Ready:
    """A variant with all that it takes to run it."""

    variant: Variant
    ctx: Context
    stages: list[Stage]
    folder: Path

    def workspace(self, out: Path, checked: set[Path] | None = None) -> Workspace:
        """Return the stages of the ablation with this variant's own facts."""
        return Workspace(out, shared_facts(self.ctx), checked)


def get_ready(grid: Grid, out: Path) -> list[Ready]:
    """Open the collection, and list every variant's stages; nothing is run."""
    opened: dict[str, Context] = {}
    contexts = {}
    for variant in grid.variants:
        section = variant.recipe.collection.model_dump_json()
        if section not in opened:
            opened[section] = prepare(variant.recipe)
        contexts[variant.name] = replace(opened[section], recipe=variant.recipe)
    home = contexts[grid.reference]
    updates = sum(ladder_steps(home.recipe, *_sizes(home)))
    ready = []
    for number, (variant, ctx) in enumerate(zip(grid.variants, contexts.values(), strict=True), start=1):
        _same_test(variant, grid.reference, ctx, home)
        if grid.match_updates:
            ctx = replace(ctx, recipe=matched(ctx.recipe, updates, *_sizes(ctx)))
        folder = out / "variants" / f"{number:02d}-{file_name(variant.name)}"
        ready.append(Ready(variant, ctx, _stages(variant, ctx), folder))
    return ready


def _sizes(ctx: Context) -> tuple[int, int]:
    """Return how many passages and training queries there are."""
    return ctx.collection.n_passages, len(ctx.splits.train.query_rows)


def _stages(variant: Variant, ctx: Context) -> list[Stage]:
    """Return a variant's stages: its ladder, refine, and the test of its last student, without other systems.

    A forced variant asks no teacher for its headroom and goes through every round of refine.
    """
    try:
        stages = stages_of_variant(ctx)
    except StepwellError as error:
        raise RecipeError(f"the variant {variant.name!r}: {error}") from error
    if not variant.forced:
        return stages
    open_gates = ("headroom-", "promote-")
    return [
        replace(stage, only_if=tuple(gate for gate in stage.only_if or () if not gate.startswith(open_gates)))
        for stage in stages
        if stage.kind != "headroom"
    ]


def _same_test(variant: Variant, reference: str, ctx: Context, home: Context) -> None:
    same = np.array_equal(ctx.splits.test.query_rows, home.splits.test.query_rows)
    if not same or ctx.collection.fingerprint != home.collection.fingerprint:
        raise RecipeError(
            f"the variants {variant.name!r} and {reference!r} are tested on different queries or passages, so that no "
            "difference could be paired. Leave `collection.path` and the test split as they are in all variants."
        )


# -- the plan ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VariantPlan:
    """What one variant will take."""

    name: str
    stages: int
    own: int  # those that no variant before it has
    seconds: float  # of its own that are still to do


@dataclass(frozen=True)
class AblationPlan:
    """What an ablation will take; ``done`` counts the stages that are finished."""

    variants: list[VariantPlan]
    done: int
    notes: tuple[str, ...] = ()
    bills: tuple[Bill, ...] = ()  # what is sent elsewhere
    a_character: float = 0.25  # tokens

    @property
    def total(self) -> float:
        """Seconds of all that is still to do."""
        return sum(variant.seconds for variant in self.variants)

    @property
    def own(self) -> int:
        """How many different stages there are."""
        return sum(variant.own for variant in self.variants)

    def table(self) -> Table:
        """Return the plan as a table."""
        rows: list[list[Cell]] = [
            [one.name, one.stages, one.stages - one.own, one.own, duration(one.seconds)] for one in self.variants
        ]
        asked = sum(variant.stages for variant in self.variants)
        note = (
            f"{asked:,} stages in all, {asked - self.own:,} of them shared with a variant above; of the other "
            f"{self.own:,}, {self.done:,} are done. About {duration(self.total)} still to go."
        )
        columns = ["variant", "stages", "shared", "its own", "time to go"]
        notes = (note, *self.notes, *(bill.line(self.a_character) for bill in self.bills))
        return Table("The ablation, variant by variant", columns, rows, notes)

    def to_json(self) -> dict[str, object]:
        """Return the plan as plain values (seconds)."""
        variants = [asdict(variant) for variant in self.variants]
        return {"seconds": self.total, "done": self.done, "variants": variants, "notes": list(self.notes)}


def plan_ablation(grid: Grid, out: Path) -> AblationPlan:
    """Estimate an ablation without starting it."""
    ready = get_ready(grid, out)
    return _planned(grid, ready, out, speed_of(ready[0].ctx.recipe.student.base))


def _planned(grid: Grid, ready: list[Ready], out: Path, speed: Speed) -> AblationPlan:
    seen: dict[str | None, bool] = {}
    variants, bills, a_character = [], dict[Bill, None](), 0.0
    for one in ready:
        workspace = one.workspace(out)
        plan = make_plan(one.ctx, one.stages, workspace, speed)
        bills |= dict.fromkeys(plan.bills)
        a_character = plan.a_character
        keys = [workspace.keys.get(workspace.resolve(stage.name)) for stage in one.stages]
        places = dict(zip(keys, zip(plan.seconds, plan.done, strict=True), strict=True))
        places.pop(None, None)  # of a rung that dev decided to leave out
        new = {place: cost for place, cost in places.items() if place not in seen}
        seen |= {place: done for place, (_, done) in new.items()}
        seconds = sum(cost for cost, done in new.values() if not done)
        variants.append(VariantPlan(one.variant.name, len(places), len(new), seconds))
    return AblationPlan(variants, sum(seen.values()), grid.notes, tuple(bills), a_character)


# -- the run ----------------------------------------------------------------------------------------------


def run_ablation(name: str, grid: Grid, out: Path, yes: bool = False) -> Ablation:
    """Run every variant to its end, or go on with them; write and return what they are compared by."""
    with Workspace(out, {}):  # holds the lock; each variant looks at the same stages with its own facts
        ready = get_ready(grid, out)
        speed = speed_of(ready[0].ctx.recipe.student.base)
        plan = _planned(grid, ready, out, speed)
        say(f"{name}: {len(ready)} variants, {plan.own} stages of their own, about {duration(plan.total)} to go.")
        agree(plan.bills, plan.a_character, yes)
        done: list[Outcome] = []
        checked: set[Path] = set()
        said: set[str] = set()
        with progress(round(plan.total), name) as bar:
            for number, one in enumerate(ready, start=1):
                say(f"Variant {number} of {len(ready)}: {one.variant.name}")
                estimate = make_plan(one.ctx, one.stages, one.workspace(out), speed)
                workspace = one.workspace(out, checked)
                done.append(_attempt(one, workspace, estimate, bar, said))
                said |= set(workspace.keys.values())
                result = Ablation.of(name, grid, done, ready[0].ctx, out)
                if distributed.is_main():
                    result.write(out)
    if result.comparison is None:
        reasons = "; ".join(f"{outcome.name}: {outcome.failed}" for outcome in done)
        raise RunError(f"no variant of {name} came to its end. {reasons}")
    say(f"The table is {out / 'ablation.md'}; ablation.tex, ablation.json and the variants' runs lie beside it.")
    return result


def _attempt(one: Ready, workspace: Workspace, plan: Plan, bar: Progress, said: set[str]) -> Outcome:
    """Run one variant; what goes wrong is kept in its outcome, so that the others can go on."""
    failed = None
    if distributed.is_main():
        one.folder.mkdir(parents=True, exist_ok=True)
        write_text(one.folder / "recipe.yaml", dump_recipe(one.ctx.recipe))
    try:
        with Tracking.of(one.ctx.recipe, one.folder) as one.ctx.surroundings.tracking:
            climb(one.ctx, workspace, plan, bar, said)
    except OSError:
        raise  # a full disk stops all of them
    except Exception as error:
        if distributed.world_size() > 1:
            raise  # the other processes are waiting for this one
        known = isinstance(error, StepwellError)
        failed = str(error) if known else f"{type(error).__name__}: {error}"
        if not known:
            write_text(one.folder / "error.txt", traceback.format_exc())
        warn(f"the variant {one.variant.name} failed, the others go on: {failed}")
    folders, last = workspace.folders, len(one.ctx.recipe.ladder) + one.ctx.recipe.refine.rounds
    test = None if failed else workspace.resolve(f"student@{last}.test")
    if test and distributed.is_main():
        shutil.copyfile(folders[test] / "run.trec", one.folder / "run.trec")
    rungs = [name for number in range(1, last + 1) if (name := f"rung-{number}") in folders]
    updates = sum(Training.load(folders[rung]).log.steps for rung in rungs)
    return Outcome(one.variant.name, updates, {name: at.name for name, at in folders.items()}, test, failed)
