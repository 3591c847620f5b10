"""Embedding against sentence-transformers: python benchmarks/embed.py --collection DIR [--texts N] [--out FILE].

All contenders turn the same passages into vectors, tokenising included, under the same token limit. What their
vectors are worth is measured too: nDCG@10 of an exact search, so that a faster one is not a worse one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import machine
import numpy as np
from peers import Setting, backends, best_setting, open_encoder
from samples import EVALUATION, part
from side_by_side import OURS, Contender, add_memory, alone, count_tokens, embed, in_turn, parser, publish, report

from stepwell.collection import Collection
from stepwell.evaluation.measures import evaluate
from stepwell.models.encoder import Encoder
from stepwell.models.files import locate
from stepwell.models.shape import operations_a_token
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import top_k

SAMPLE = 256
"""Texts on which settings are tried."""


def peer(model, setting: Setting):
    """Return what calls `encode` of an open model."""
    cosine = "cos" in str(model.similarity_fn_name or "cosine").lower()

    def do(texts, side="document"):
        encode = model.encode_query if side == "query" else model.encode_document
        with setting.context():
            return encode(list(texts), batch_size=setting.batch, normalize_embeddings=cosine, show_progress_bar=False)

    return do


def ours(place: str, limit: int | None):
    """Return stepwell's encode."""
    encoder = Encoder.open(place)
    encoder.limit = limit or encoder.limit
    return lambda texts, side="document": embed(encoder, texts, side)


def contenders(place: str, limit: int | None, best: Setting, sample: list[str]) -> list[Contender]:
    def open_at(other: str = place, **more):
        return open_encoder(other, limit, **more)

    def at(setting: Setting):
        return lambda: peer(open_encoder(place, limit, setting), setting)

    return [
        Contender("sentence-transformers, as it comes", at(Setting())),
        Contender("sentence-transformers, best torch setting", at(best)),
        *backends(open_at, lambda model, batch: peer(model, Setting(batch)), sample),
        Contender(OURS, lambda: ours(place, limit), None),
    ]


def ndcg(do, vectors: np.ndarray, collection: Collection, split: str) -> float:
    """Return the mean nDCG@10, in percent, of an exact search with a contender's own vectors."""
    qrels = collection.qrels(split)
    queries = do(collection.query_texts(qrels.query_rows), side="query")
    rows, scores = top_k(np.asarray(queries, np.float32), np.asarray(vectors, np.float32), 10)
    return 100 * evaluate(Run(qrels.query_rows, rows, scores), qrels, ["nDCG@10"]).mean("nDCG@10")


def main(argv: list[str]) -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--texts", type=int, help="Use so many passages; all when left out.")
    arguments.add_argument("--tokens", type=int, help="Token limit; the model's own when left out.")
    options = arguments.parse_args(argv)
    place = locate(options.model)
    with tempfile.TemporaryDirectory() as folder:
        few = None if options.texts is None else max(1, options.texts // 4)
        collection, split = part(options.collection, Path(folder), EVALUATION, options.texts, few)
        texts = collection.passage_texts()
        sample = texts[:: max(1, len(texts) // SAMPLE)][:SAMPLE]
        if options.only:
            best = Setting.from_text(options.setting)
            alone(contenders(place, options.tokens, best, sample), texts, options, sample[:32])
            return
        best = best_setting(lambda setting: peer(open_encoder(place, options.tokens, setting), setting), sample)
        outcomes = in_turn(contenders(place, options.tokens, best, sample), texts, options.rounds, sample[:32])
        encoder = Encoder.open(place)
        encoder.limit = options.tokens or encoder.limit
        peaks = machine.matmul_peaks(place)
        operations = count_tokens(encoder, texts) * operations_a_token(place, None)
        for outcome in outcomes:
            if outcome.seconds:
                outcome.facts["nDCG@10"] = f"{ndcg(outcome.do, outcome.result, collection, split):.2f}"
                share = operations / float(np.median(outcome.seconds)) / max(peaks.values())
                outcome.facts["of the matmul peak"] = f"{share:.0%}"
        if not options.no_memory:
            add_memory(outcomes, __file__, argv, "--setting", best.to_text())
    told = " and ".join(f"{peak / 1e9:,.0f} GFLOP/s in {name}" for name, peak in peaks.items())
    notes = (
        f"The best torch setting found: {best}. Matrix products of the model's shapes reach {told}.",
        f"{len(texts):,} passages of {collection.name if few is None else 'a part'}, nDCG@10 in percent on {split}.",
    )
    title = "Embedding passages"
    publish(report("embed", title, len(texts), "passages", outcomes, notes) | {"peaks": peaks}, options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
