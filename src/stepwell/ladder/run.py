"""Running a ladder: stage after stage, with an ETA for the whole, and what a finished run leaves."""

import os
import shutil
import time
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from stepwell import distributed
from stepwell.collection import open_collection, resolve_splits
from stepwell.display import Progress, ask, duration, progress, say, warn
from stepwell.distil.training import checkpoint_seconds
from stepwell.errors import RunError, StepwellError
from stepwell.files import cache, whole, write_text
from stepwell.ladder.build import stages_of
from stepwell.ladder.plan import Plan, make_plan
from stepwell.ladder.stage import PARTS, Context
from stepwell.ladder.tracking import Tracking
from stepwell.ladder.workspace import Workspace, versions
from stepwell.models.engines.machine import machine
from stepwell.recipe import Recipe
from stepwell.recipe.yaml_file import dump_recipe
from stepwell.systems.folder import RunFolder
from stepwell.systems.records import Overlap, Results, SystemTable
from stepwell.teachers.embeddings import Bill


def prepare(recipe: Recipe) -> Context:
    """Open the collection and its splits."""
    checkpoint_seconds()  # one that can't be is said now, not before the first training
    collection = open_collection(recipe.collection)
    splits = resolve_splits(collection, recipe.collection)
    for note in splits.notes:
        say(note)
    return Context(recipe, collection, splits, cache() / "scores")


def shared_facts(ctx: Context) -> dict[str, Any]:
    """Return what keys are made of beside settings and inputs: of seed and splits, a key has what its stage reads."""
    facts: dict[str, Any] = {"collection": ctx.collection.fingerprint, "seed": ctx.recipe.seed}
    return facts | {part: ctx.splits.content(part) for part in PARTS}


def plan(recipe: Recipe, out: Path) -> Plan:
    """Estimate a run without starting it."""
    ctx = prepare(recipe)
    return make_plan(ctx, stages_of(ctx, to_search=True), Workspace(out, shared_facts(ctx)))


def run(recipe: Recipe, out: Path, yes: bool = False) -> dict[str, Any]:
    """Run a recipe to its end, or go on with what is in the folder ``out``; return what ``results.json`` says.

    ``yes``: what costs money is paid for without a question.
    """
    _refuse_another(out, recipe)
    ctx = prepare(recipe)
    with Workspace(out, shared_facts(ctx)) as workspace:
        if distributed.is_main():
            write_text(out / "recipe.yaml", dump_recipe(recipe))
        _look_for_keys(recipe)
        stages = stages_of(ctx, to_search=True)
        estimate = make_plan(ctx, stages, Workspace(out, shared_facts(ctx)))
        say(f"{recipe.name}: {len(stages)} stages, about {duration(estimate.total)} still to go; the folder is {out}.")
        agree(estimate.bills, estimate.a_character, yes)
        began = time.monotonic()
        with Tracking.of(recipe, out) as ctx.surroundings.tracking, progress(round(estimate.total), recipe.name) as bar:
            climb(ctx, workspace, estimate, bar)
        say(f"It took {duration(time.monotonic() - began)}; the plan had said {duration(estimate.total)}.")
        if not distributed.is_main():
            return {}
        return _leave(ctx, workspace, out)


def _refuse_another(out: Path, recipe: Recipe) -> None:
    """Refuse a folder with the model and the results of a finished run by another name."""
    try:
        name = RunFolder(out).results.name or recipe.name
    except StepwellError:  # none, or damaged: nothing to lose
        return
    if name != recipe.name:
        raise RunError(
            f"{out} holds the finished run {name!r}, whose model and results {recipe.name!r} would replace: name "
            "another folder with --out, or give the recipe that name to go on from it."
        )


def _look_for_keys(recipe: Recipe) -> None:
    """Say at once which key is missing: the hosted teacher that wants it may come hours later, or need it no more."""
    for name, teacher in recipe.teachers.items():
        key = teacher.key_name
        if key and not os.environ.get(key):
            warn(f"the key of the teacher {name} is read from {key}, which is not set: new scores need it.")


def agree(bills: Sequence[Bill], a_character: float, yes: bool) -> None:
    """Ask before anything is paid for; refuse where the answer is no, or nobody is there to give one."""
    paid, problem = [bill for bill in bills if bill.paid], ""
    told = " ".join(bill.line(a_character) for bill in bills)
    if told:
        say(told)
    if paid and not yes and distributed.is_main():
        answer = ask("Send these texts, and pay for it?")
        if answer is None:
            problem = "This has to be paid for, and no terminal is there to ask on: add --yes (in Python: yes=True)."
        elif not answer:
            problem = "Nothing was sent. What is finished is kept."
    if distributed.any_says(bool(problem)):
        raise StepwellError(f"{' '.join(bill.line(a_character) for bill in paid)} {problem}")


def climb(ctx: Context, workspace: Workspace, estimate: Plan, bar: Progress, said: Container[str] = ()) -> None:
    """Do the wanted stages of a plan, and say what they found, unless another run ``said`` it (keys of stages)."""
    for number, (stage, _, seconds, state) in enumerate(estimate.lines(), start=1):
        seconds = 0.0 if state else seconds
        if workspace.wanted(stage):
            silent = workspace.key(stage) in said
            if not silent:
                say(f"[{number}/{len(estimate.stages)}] {stage.title}")
            known = set(workspace.keys.values())
            took = workspace.do(stage, ctx.surroundings, bar.part(seconds))
            name = workspace.resolve(stage.name)
            ctx.surroundings.tracking.stage(name, stage.kind, workspace.folders[name], ctx.collection)
            if not silent and workspace.keys[name] not in known:  # the same work under another name is said once
                for line in stage.says(workspace.folders[name], ctx.surroundings):
                    say(f"    {line}" if isinstance(line, str) else line)
                if took > 5:
                    say(f"    took {duration(took)}")
        bar.advance(seconds, stage.title)


def _leave(ctx: Context, workspace: Workspace, out: Path) -> dict[str, Any]:
    """Put the final model, the runs and the results where a user looks for them."""
    names = {name: str(folder.relative_to(out)) for name, folder in workspace.folders.items()}
    final = workspace.resolve(f"student@{len(ctx.recipe.ladder) + ctx.recipe.refine.rounds}")
    comparison = SystemTable.load(workspace.folders["table"]).content
    overlap = Overlap.load(workspace.folders["overlap"]) if "overlap" in workspace.folders else None
    with whole(out / "model") as draft:
        shutil.copytree(workspace.folders[final] / "model", draft)
    runs = out / "runs"
    runs.mkdir(exist_ok=True)
    for label, stage in comparison["systems"].items():
        shutil.copyfile(workspace.folders[stage] / "run.trec", runs / f"{file_name(label)}.trec")
    collection = ctx.collection
    results = Results(
        name=ctx.recipe.name,
        collection={"name": collection.name, "path": collection.place, "fingerprint": collection.fingerprint},
        synthetic=bool(ctx.splits.synthetic),
        synthetic_queries=dict(ctx.splits.synthetic),
        tested=ctx.splits.tested,
        final=final,
        stages=names,
        asymmetric=f"teacher.{ctx.recipe.embedding_teacher}.vectors" if "asymmetric.test" in names else None,
        versions=versions(),
        machine=machine(),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        comparison=comparison,
        overlap=overlap,
    )
    tables = [] if overlap is None else [overlap.table().text()]
    tables.insert(0, (workspace.folders["table"] / "table.txt").read_text(encoding="utf-8").rstrip("\n"))
    write_text(out / "results.txt", "\n\n".join(tables) + "\n")
    results.save(out)
    say(f"The student is {out / 'model'} (sentence-transformers); runs, results.json and results.txt lie beside it.")
    return dict(results.to_json())


def file_name(label: str) -> str:
    """Return the letters and digits of a label, in lower case, with dashes between words."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in label.lower()).split())
