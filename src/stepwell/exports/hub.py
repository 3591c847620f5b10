"""What goes to the Hub: the model card, README.md with the ladder that made the model; and the folder itself."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.utils import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, validate_repo_id

from stepwell.errors import StepwellError
from stepwell.evaluation.comparison import Comparison, bounded
from stepwell.evaluation.significance import bootstrap_interval
from stepwell.models.encoder import Encoder
from stepwell.models.files import locate
from stepwell.models.opening import transformer_of
from stepwell.models.preparation import Bags
from stepwell.models.tokens import MOST
from stepwell.systems.folder import RunFolder
from stepwell.systems.opening import System
from stepwell.systems.records import Promotion, Results

METRICS = {"nDCG": "ndcg_at_", "RR": "mrr_at_", "R": "recall_at_", "AP": "map_at_"}
"""What the Hub calls the measures."""

DEMO = "sentence-transformers/all-MiniLM-L6-v2"
"""The base model ``demo``."""

USE = """\
```python
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("{}")  # or the folder
queries = model.encode_query(["what is asked"])
passages = model.encode_document(["what is found"])
print(model.similarity(queries, passages))
```"""


def licence_of(base: str) -> str | None:
    """Return the licence of a base model as its own card (of the Hub too) or configuration states it, or None."""
    try:
        place = Path(locate(base))
        card = place / "README.md" if place.is_dir() else Path(hf_hub_download(base, "README.md"))
        stated = ModelCard.load(card).data.license if card.is_file() else None
        if stated is None and (place / "config.json").is_file():
            stated = json.loads((place / "config.json").read_text(encoding="utf-8")).get("license")
    except (OSError, ValueError, AttributeError, StepwellError, yaml.YAMLError):  # no such card, or a broken one
        return None
    return stated if isinstance(stated, str) else None


def make_card(system: System, encoder: Encoder, files: Sequence[str]) -> str:
    """Return the README.md of an exported model; ``files`` are lines of Markdown on what was exported and measured."""
    name, model, run = system.title, system.model, system.run
    recipe = run.recipe_values if run is not None else {}
    base = str(recipe.get("student", {}).get("from") or model)
    licence = licence_of(base)
    comparison = run.results.table.comparison if run is not None else None
    tested = run is None or run.results.tested  # else the table is over dev: synthetic queries that decided
    data = ModelCardData(
        model_name=name,
        base_model=DEMO if base == "demo" else base if re.fullmatch(r"\w[\w.-]*/[\w.-]+", base) else None,
        license=licence or "unknown",
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "dense-retrieval", "knowledge-distillation", "stepwell"],
        eval_results=_results(comparison, run.results) if run and comparison is not None and tested else None,
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {name}", _what(encoder), "## Use", _use(encoder, name)]
    if run is not None and comparison is not None:
        parts += ["## How it was made", *_ladder(run, comparison)]
        parts += ["## Test" if tested else "## Dev, synthetic queries", _table(comparison)]
        parts += ["## Data", _data(run, encoder)]
    parts += ["## Files", "\n".join(files)]
    stated = f"`{licence}`, by its own card" if licence else "unknown: its own card states none"
    parts += ["## Licence", f"The licence of `{_public(base)}`, which this model was made from, is {stated}."]
    return "\n\n".join(parts) + "\n"


def _results(comparison: Comparison, facts: Results) -> list[EvalResult]:
    row, collection = comparison.row(comparison.reference), _collection(facts)
    return [
        EvalResult(
            task_type="information-retrieval",
            task_name="Information Retrieval",
            dataset_type=collection,
            dataset_name=collection,
            dataset_split="test",
            metric_type=_metric(measure),
            metric_name=measure,
            metric_value=row.values[measure],
            metric_args={"interval": list(row.interval[measure]), "level": comparison.level},
        )
        for measure in comparison.measures
    ]


def _metric(measure: str) -> str:
    kind, _, depth = measure.partition("@")
    return f"{METRICS[kind]}{depth}" if kind in METRICS and depth else measure.lower()


def _collection(facts: Results) -> str:
    """Return its name, which earlier runs did not write."""
    return facts.collection.get("name") or Path(facts.collection["path"]).name


def _public(base: str) -> str:
    """Return a hub name as it is, and of a directory its name alone."""
    return Path(base).name if Path(base).expanduser().is_dir() or base.startswith(("/", ".", "~")) else base


def _what(encoder: Encoder) -> str:
    if isinstance(encoder.template, Bags):
        shape = "a table of word vectors and their mean"
    else:
        config: Any = transformer_of(encoder.model).auto_model.config
        shape = f"{config.num_hidden_layers} layers of {config.model_type}"
    limit = "" if encoder.limit == MOST else f", texts of at most {encoder.limit} tokens"
    count = sum(parameter.numel() for parameter in encoder.model.parameters()) / 1e6
    return (
        f"A dense retriever: {shape}, {count:.1f} million parameters, vectors of {encoder.dimension} dimensions"
        f"{limit}. Queries and passages are compared by {'cosine' if encoder.cosine else 'inner product'}."
    )


def _use(encoder: Encoder, name: str) -> str:
    sides = (("query", encoder.prompt("query")), ("passage", encoder.prompt("document")))
    prompts = [f"in front of each {side} goes `{prompt}`" for side, prompt in sides if prompt]
    after = f"sentence-transformers does it; elsewhere do it yourself: {', '.join(prompts)}."
    return USE.format(name) + (f"\n\nThe model was trained with prompts. {after}" if prompts else "")


def _ladder(run: RunFolder, comparison: Comparison) -> list[str]:
    """Return what the ladder was and what each stage of it reached on dev."""
    recipe = run.recipe_values
    teachers = recipe.get("teachers", {})
    sources = [
        f"- `{name}`: {each.get('kind')}, from `{_public(str(each.get('from')))}`" for name, each in teachers.items()
    ]
    measure = recipe.get("judging", {}).get("measure", comparison.measures[0])
    measure = measure if measure in comparison.measures else comparison.measures[0]
    stages, rungs = run.results.stages, recipe.get("ladder", [])
    last = len(rungs) + int(recipe.get("refine", {}).get("rounds", 0))
    rows = [("start", "the base model, cut", "")]
    rows += [(f"rung-{n}", f"`{rung.get('teacher')}`", str(rung.get("loss"))) for n, rung in enumerate(rungs, start=1)]
    rows += [(f"rung-{n}", "refine", "candidates") for n in range(len(rungs) + 1, last + 1)]
    figures = []
    for stage, teacher, loss in rows:
        judged = f"{stage}.dev" in stages
        mark = " (this model)" if stage == run.results.final else ""
        figure = _dev(run.folder_of(f"{stage}.dev"), measure, comparison.level) if judged else "left out"
        promotion = run.read(stage.replace("rung", "promote"), Promotion)
        figure += ", taken back" if judged and promotion and promotion.student != stage else ""
        figures.append([f"{stage}{mark}", teacher, loss, figure])
    table = _markdown(["stage", "teacher", "loss", f"dev {measure} [{comparison.level:.0%} interval]"], figures)
    start = "Distilled by stepwell from one teacher after the other, each rung from where the one before ended."
    return [f"{start} The teachers:", "\n".join(sources), table] if sources else [start, table]


def _dev(folder: Path, measure: str, level: float) -> str:
    """Return mean and interval of what a stage reached."""
    path = folder / "evaluation.parquet"
    if not path.is_file():
        return "unknown"
    values = pq.read_table(path, columns=[measure])[measure].to_numpy()
    return bounded(values.mean(), bootstrap_interval(values, 0, level))


def _table(comparison: Comparison) -> str:
    """Return the table of all systems, with its notes; the model itself is in bold."""
    main, *others = comparison.measures
    rows = []
    for row in comparison.rows:
        name = f"**{row.name}**" if row.name == comparison.reference else row.name
        means = [f"{row.values[measure]:.3f}" for measure in others]
        rows.append([name, bounded(row.values[main], row.interval[main]), *means])
    note = f"Means over {comparison.queries:,} queries; in brackets {comparison.level:.0%} bootstrap intervals."
    return "\n\n".join([_markdown(["system", main, *others], rows), " ".join([note, *comparison.notes])])


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head, *lines = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return "\n".join([head, "|---" * len(heads) + "|", *lines])


def _data(run: RunFolder, encoder: Encoder) -> str:
    facts, seed = run.results, run.recipe_values.get("seed", "unknown")
    versions = ", ".join(f"{package} {version}" for package, version in facts.versions.items())
    lines = [
        f"- collection `{_collection(facts)}`, fingerprint `{facts.collection['fingerprint']}`",
        f"- weights and configuration, fingerprint `{encoder.fingerprint}`",
        f"- seed {seed}, finished {facts.finished or 'at an unknown time'}",
    ]
    return "\n".join([*lines, f"- {versions}"] if versions else lines)


def check_repository(name: str) -> None:
    """Refuse a name that the Hub would refuse: it has to be owner/name."""
    try:
        validate_repo_id(name)
        if name.count("/") != 1:
            raise HFValidationError("it needs an owner and a name")
    except HFValidationError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise StepwellError(
            f"{name!r} can't be a repository on the Hub: {reason}. Give --push OWNER/NAME, such as me/my-retriever."
        ) from error


def upload(folder: Path, name: str) -> str:
    """Upload an exported folder; a repository that is not there yet is made, as a private one. Return where it is.

    All of it goes up, as one commit; what else the repository ``owner/name`` holds stays. The token is the one that
    ``hf auth login`` keeps.
    """
    api = HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"Upload {folder.name}")
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise StepwellError(
            f"{folder} is exported, but could not be pushed to {name}: {reason}. Log in with `hf auth login`, check "
            f"the connection, and upload the folder with `hf upload {name} {folder}`."
        ) from error
    return str(done)
