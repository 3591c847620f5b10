"""An exported folder: what sentence-transformers loads, graphs that other programs load, and a model card."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from stepwell.display import Table, say, warn
from stepwell.errors import MissingPackage, RunError, StepwellError
from stepwell.exports.card import make_card
from stepwell.exports.graph import (
    KINDS,
    OPENVINO_INT8,
    Kind,
    batches_of,
    check_towers,
    load_graph,
    size_of,
    source_of,
    write_graph,
)
from stepwell.exports.push import check_repository, push
from stepwell.exports.quality import (
    MEASURE,
    Ground,
    Yardstick,
    parity,
    points_lost,
    refused,
    runner_of,
    sample_texts,
    signed,
    torch_runner,
)
from stepwell.models.encoder import Encoder
from stepwell.models.engines.backends import extra_of, missing
from stepwell.systems.opening import System, open_system

FORMATS = ("onnx", "openvino", "safetensors")
PARITY = 1e-4
"""Largest difference to torch fp32 of a component that a fp32 graph may have, vectors being of length 1."""
MAX_LOSS = 0.5
"""Points of nDCG@10 that int8 may lose."""


def ground_of(system: System, collection: str | None) -> Ground | None:
    """Return the collection to calibrate and to measure on; None when none is named or known."""
    run, opened = system.run, system.open_collection(collection)
    if opened is None:
        return None
    if run is not None and run.is_over(opened):
        return Ground.of(opened, run)
    if run is not None and collection is None:
        raise RunError(
            f"the collection {opened.place} is not the one that the run in {run.place} was made from (its content has "
            "changed): a loss measured on it would say nothing of this run. Name another with --collection."
        )
    return Ground.of(opened)


@dataclass(frozen=True)
class Exported:
    """One graph and what it is worth: bytes, largest difference and smallest cosine to torch fp32, and on dev nDCG@10.

    ``before`` is torch's and ``after`` the graph's, both None where nothing was measured.
    """

    kind: Kind
    size: int
    far: float
    cosine: float
    before: float | None = None
    after: float | None = None

    @property
    def lost(self) -> float | None:
        """Points of nDCG@10 that were lost."""
        return None if self.before is None or self.after is None else points_lost(self.before, self.after)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values: bytes, differences, nDCG@10 on dev in torch and here, points lost."""
        measured = {"torch": self.before, "here": self.after, "points_lost": self.lost}
        return {"file": self.kind.file, "bytes": self.size, "far": self.far, "cosine": self.cosine, MEASURE: measured}

    def line(self) -> str:
        """Return the line of the card."""
        text = f"- `{self.kind.file}` ({self.size / 1e6:.1f} MB): {self.kind.number}, from token ids to the vector"
        if self.lost is None:
            return f"{text}; at most {self.far:.0e} from torch"
        return f"{text}; {MEASURE} on dev {self.before:.4f} in torch fp32, {self.after:.4f} here"


def table(graphs: Sequence[Exported], target: Path) -> Table:
    """Return what was exported as a table."""
    rows = [
        [
            graph.kind.file,
            f"{graph.size / 1e6:.1f} MB",
            f"{graph.far:.1e}",
            f"{graph.cosine:.4f}",
            *(f"{value:.4f}" if value is not None else None for value in (graph.before, graph.after)),
            None if graph.lost is None else signed(-graph.lost),
        ]
        for graph in graphs
    ]
    columns = ["graph", "size", "difference", "cosine", f"{MEASURE} torch", "here", "points"]
    note = "difference and cosine: the largest and the smallest to torch fp32 over real texts."
    return Table(f"Exported to {target}", columns, rows, (note,))


class Export(NamedTuple):
    """An exported folder, and what each graph in it is worth."""

    folder: Path
    graphs: list[Exported]

    def table(self) -> Table:
        """Return the graphs as a table."""
        return table(self.graphs, self.folder)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"folder": str(self.folder), "graphs": [graph.to_json() for graph in self.graphs]}


def export(
    system: str,
    formats: Sequence[str],
    out: Path | None = None,
    int8: bool = False,
    collection: str | None = None,
    max_loss: float = MAX_LOSS,
    force: bool = False,
    repository: str | None = None,
) -> Export:
    """Export a model; the folder appears when all of it is written and has passed."""
    subject = open_system(system, "export")
    target = out if out is not None else Path("exports") / subject.title
    kinds = _kinds(formats, int8)
    if repository is not None:
        check_repository(repository)
    _check_target(target)
    ground = ground_of(subject, collection) if int8 or collection is not None else None
    if int8 and ground is None:
        raise RunError(
            f"int8 is measured before it is written, and {system} is no finished run, so on what is not known: name a "
            "collection with dev queries (--collection)."
        )
    encoder = Encoder.open(subject.model)
    if kinds:
        check_towers(encoder)
        encoder.model.to("cpu")  # where graphs are traced and compared
    draft = target.with_name(f".{target.name}.draft-{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        _write_model(encoder, draft, "safetensors" in formats, bool(kinds))
        graphs = _write_graphs(encoder, kinds, draft, ground)
        _judge(graphs, max_loss, force)
        lines = [graph.line() for graph in graphs]
        lines += ["- `model.safetensors`: for torch"] if "safetensors" in formats else []
        card = make_card(subject, encoder, lines)
        (draft / "README.md").write_text(card, encoding="utf-8")
        _check_target(target)  # nothing may have come there meanwhile
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if repository is not None:
        say(f"pushed: {push(target, repository)}")
    return Export(target, graphs)


def _check_target(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise RunError(f"{target} is there already and would be overwritten: choose another name (--out).")


def _kinds(formats: Sequence[str], int8: bool) -> list[Kind]:
    """Return the graphs to write, fp32 first."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        told = f"can't export to {unknown[0]!r}" if unknown else "what to export to is not said"
        raise StepwellError(f"{told}: give --to {', --to '.join(FORMATS)}, or several of them.")
    kinds = [kind for kind in KINDS if kind.engine in formats and (int8 or kind.number == "fp32")]
    if int8 and not kinds:
        raise StepwellError("int8 is for graphs: give --to onnx or --to openvino with --int8.")
    for kind in kinds:
        if package := missing(kind.way):
            raise MissingPackage(
                f"exporting to {kind.way.replace('-', ' in ')} needs the package {package}, which is not installed: "
                f"pip install 'stepwell[{extra_of(kind.way)}]'.",
                package,
                extra_of(kind.way),
            )
    return kinds


def _write_model(encoder: Encoder, folder: Path, weights: bool, graphs: bool) -> None:
    """Write what sentence-transformers loads; a tokenizer that cuts and pads by itself for who loads a graph."""
    encoder.save(folder)
    path, tokenizer = folder / "tokenizer.json", encoder.tokenizer
    if graphs and not path.is_file():
        raise RunError(
            "this model has no tokenizer.json (its tokenizer is written in Python), so a graph of it could be fed by "
            "nobody: export it with --to safetensors."
        )
    if path.is_file():
        own = Tokenizer.from_file(str(path))
        own.enable_truncation(encoder.limit, direction=tokenizer.truncation_side)
        pad = {"pad_id": encoder.template.pad, "pad_token": tokenizer.pad_token or tokenizer.eos_token}
        own.enable_padding(direction=tokenizer.padding_side, **pad)
        own.save(str(path))
    if not weights:  # of the transformer; heads keep theirs, sentence-transformers applies them to a graph's output
        for file in folder.glob("model*.safetensors*"):
            file.unlink()


def _write_graphs(encoder: Encoder, kinds: Sequence[Kind], folder: Path, ground: Ground | None) -> list[Exported]:
    if not kinds:
        return []
    texts = sample_texts(ground)
    source = source_of(encoder, batches_of(encoder, *texts))
    measured = any(kind.number == "int8" for kind in kinds) and ground is not None
    yardstick = Yardstick(encoder, ground) if measured and ground is not None else None
    before = yardstick.measure(torch_runner(encoder)) if yardstick is not None else None
    graphs = []
    for kind in kinds:
        say(f"writing {kind.file}" + (f", calibrated on {sum(map(len, texts))} texts" * (kind is OPENVINO_INT8)))
        try:
            path = write_graph(source, kind, folder)
            run = load_graph(path, kind, source)
        except Exception as error:  # an exporter or an engine that can't take this model: it raises what it likes
            raise refused(encoder, kind.engine, error) from error
        far, cosine = parity(encoder, run, texts)
        exported = Exported(kind, size_of(path), far, cosine)
        if kind.number == "int8" and yardstick is not None:
            after = yardstick.measure(runner_of(encoder, kind.way, run))
            exported = Exported(kind, exported.size, far, cosine, before, after)
        graphs.append(exported)
    return graphs


def _judge(graphs: Sequence[Exported], max_loss: float, force: bool) -> None:
    """Refuse graphs that are not the model any more."""
    for graph in graphs:
        if graph.kind.number == "fp32" and not graph.far <= PARITY:
            raise RunError(
                f"{graph.kind.file} gives vectors that differ from torch's by {graph.far:.1g}, where {PARITY:.0e} is "
                "allowed: it is not the same model. Nothing was written; export it with --to safetensors, or to the "
                "other engine."
            )
        if graph.lost is not None and not graph.lost <= max_loss:
            told = (
                f"{graph.kind.way.replace('-', ' in ')} loses {graph.lost:.2f} points of {MEASURE} on dev "
                f"({graph.before:.4f} to {graph.after:.4f}), where {max_loss:g} are allowed"
            )
            if not force:
                raise StepwellError(
                    f"{told}: nothing was written. Leave out --int8, allow more with --max-loss, or write it all the "
                    "same with --force."
                )
            warn(f"{told}; written all the same (--force).")
