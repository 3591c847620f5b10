"""An exported folder: what sentence-transformers loads, graphs that other programs load, and a model card."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from stepwell.display import Cell, Table, say, warn
from stepwell.errors import MissingPackage, RunError, StepwellError
from stepwell.exports.graph import KINDS, OPENVINO_INT8, Kind, check_towers, graph_runner, size_of, source_of
from stepwell.exports.hub import check_repository, make_card, upload
from stepwell.exports.quality import MEASURE, DevSet, Yardstick, compare_on_texts, sample_texts, signed
from stepwell.files import cache, locked, whole
from stepwell.models.encoder import Encoder
from stepwell.models.engines.backends import extra_of, missing, open_way
from stepwell.models.engines.parity import Deviation
from stepwell.models.engines.race import enter
from stepwell.models.preparation import Bags
from stepwell.systems.opening import open_system

FORMATS = ("onnx", "openvino", "safetensors")


@dataclass(frozen=True)
class Exported:
    """One graph and what it is worth."""

    kind: Kind
    size: int  # bytes
    deviation: Deviation  # from torch fp32
    before: float | None = None  # nDCG@10 on dev in torch, None where nothing was measured
    after: float | None = None  # nDCG@10 on dev of the graph

    @property
    def far(self) -> float:
        """The largest difference of a component to torch fp32, of vectors of length 1."""
        return self.deviation.component

    @property
    def cosine(self) -> float:
        """The smallest cosine to torch fp32."""
        return self.deviation.cosine

    @property
    def lost(self) -> float | None:
        """Points of nDCG@10 that were lost."""
        return None if self.before is None or self.after is None else 100 * (self.before - self.after)

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


class Export(NamedTuple):
    """An exported folder, and what each graph in it is worth."""

    folder: Path
    graphs: list[Exported]

    def table(self) -> Table:
        """Return the graphs as a table."""
        rows: list[list[Cell]] = [
            [
                graph.kind.file,
                f"{graph.size / 1e6:.1f} MB",
                f"{graph.far:.1e}",
                f"{graph.cosine:.4f}",
                *(f"{value:.4f}" if value is not None else None for value in (graph.before, graph.after)),
                None if graph.lost is None else signed(-graph.lost),
            ]
            for graph in self.graphs
        ]
        columns = ["graph", "size", "difference", "cosine", f"{MEASURE} torch", "here", "points"]
        note = "difference and cosine: the largest and the smallest to torch fp32 over real texts."
        return Table(f"Exported to {self.folder}", columns, rows, (note,))

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"folder": str(self.folder), "graphs": [graph.to_json() for graph in self.graphs]}


def export(
    system: str | Path,
    to: Sequence[str],
    out: str | Path | None = None,
    int8: bool = False,
    collection: str | Path | None = None,
    max_loss: float = 0.5,
    force: bool = False,
    push: str | None = None,
) -> Export:
    """Export a finished run's student or any encoder for other programs; the folder appears when all of it has passed.

    Parameters
    ----------
    system
        A finished run's folder, a model directory, or a hub name.
    to
        Some of ``onnx``, ``openvino`` and ``safetensors``.
    out
        The new folder; ``exports/<name>`` when it is left out.
    int8
        Also write an int8 graph for each engine.
    collection
        Gives texts to calibrate with and dev queries; a run's own when it is left out.
    max_loss
        Points of nDCG@10 on dev that int8 may lose.
    force
        Write int8 all the same when it loses more.
    push
        ``owner/name`` on the Hub to upload to.

    Raises
    ------
    StepwellError
        When the target exists, a package is missing, a graph differs from torch or int8 loses too much.
    """
    subject = open_system(str(system), "export")
    target = Path(out) if out is not None else Path("exports") / subject.title
    kinds = _kinds(to, int8)
    if push is not None:
        check_repository(push)
    _check_target(target)
    dev = DevSet.find(subject, collection) if int8 or collection is not None else None
    if int8 and dev is None:
        raise RunError(
            f"int8 is measured before it is written, and {system} is no finished run, so on what is not known: name a "
            "collection with dev queries (--collection)."
        )
    encoder = Encoder.open(subject.model)
    if kinds:
        check_towers(encoder)
        encoder.model.to("cpu")  # where graphs are traced and compared
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = cache() / "exports" / hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:24]
    with locked(lock), whole(target) as draft:
        draft.mkdir()
        _write_model(encoder, draft, "safetensors" in to, bool(kinds))
        graphs = _write_graphs(encoder, kinds, draft, dev)
        check_worth(graphs, max_loss, force)
        lines = [graph.line() for graph in graphs]
        lines += ["- `model.safetensors`: for torch"] if "safetensors" in to else []
        (draft / "README.md").write_text(make_card(subject, encoder, lines), encoding="utf-8")
        _check_target(target)  # nothing may have come there meanwhile
    if push is not None:
        say(f"pushed: {upload(target, push)}")
    return Export(target, graphs)


def _check_target(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise RunError(f"{target} is there already and would be overwritten: choose another name (--out).")


def _kinds(formats: Sequence[str], int8: bool) -> list[Kind]:
    """Return the graphs to write, fp32 first."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        mistake = f"can't export to {unknown[0]!r}" if unknown else "what to export to is not said"
        raise StepwellError(f"{mistake}: give --to {', --to '.join(FORMATS)}, or several of them.")
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
    if path.is_file() and not isinstance(encoder.template, Bags):
        own = Tokenizer.from_file(str(path))
        own.enable_truncation(encoder.limit, direction=tokenizer.truncation_side)
        pad = {"pad_id": encoder.template.pad, "pad_token": tokenizer.pad_token or tokenizer.eos_token}
        own.enable_padding(direction=tokenizer.padding_side, **pad)
        own.save(str(path))
    if not weights:  # of the transformer; heads keep theirs, sentence-transformers applies them to a graph's output
        for file in folder.glob("model*.safetensors*"):
            file.unlink()


def _write_graphs(encoder: Encoder, kinds: Sequence[Kind], folder: Path, dev: DevSet | None) -> list[Exported]:
    """Write graphs, compare each with torch fp32, and measure int8 on dev."""
    if not kinds:
        return []
    texts, net = sample_texts(dev), encoder.inference.net
    source = source_of(encoder, texts)
    yardstick, before = None, None
    if dev is not None and any(kind.number == "int8" for kind in kinds):
        yardstick = Yardstick(encoder, dev)
        before = yardstick.measure(open_way(net, "torch-fp32"))
    graphs = []
    for kind in kinds:
        say(f"writing {kind.file}" + (f", calibrated on {sum(map(len, texts))} texts" * (kind is OPENVINO_INT8)))
        write = partial(graph_runner, encoder, kind, source, folder)
        racer = enter(net, kind.way, write, partial(compare_on_texts, encoder, texts))
        if isinstance(racer, str):
            raise RunError(
                f"{kind.engine} can't take this model ({type(encoder.model[0]).__name__}): {racer}. Nothing was "
                "written. Export it with --to safetensors, or to the other engine."
            )
        measured = (before, yardstick.measure(racer.runner)) if kind.number == "int8" and yardstick else ()
        graphs.append(Exported(kind, size_of(kind, folder), racer.deviation, *measured))
    return graphs


def check_worth(graphs: Sequence[Exported], max_loss: float, force: bool) -> None:
    """Refuse graphs that are not the model any more: fp32 too far from torch, int8 that loses too much unforced."""
    for graph in graphs:
        way = graph.kind.way
        if graph.kind.number == "fp32" and (reason := graph.deviation.refusal(way, "components")):
            raise RunError(
                f"{graph.kind.file} {reason}: it is not the same model. Nothing was written; export it with --to "
                "safetensors, or to the other engine."
            )
        if graph.lost is not None and not graph.lost <= max_loss:
            loss = (
                f"{way.replace('-', ' in ')} loses {graph.lost:.2f} points of {MEASURE} on dev ({graph.before:.4f} to "
                f"{graph.after:.4f}), where {max_loss:g} are allowed"
            )
            if not force:
                raise RunError(
                    f"{loss}: nothing was written. Leave out --int8, allow more with --max-loss, or write it all the "
                    "same with --force."
                )
            warn(f"{loss}; written all the same (--force).")
