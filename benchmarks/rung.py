"""A rung against sentence-transformers' trainer: python benchmarks/rung.py --collection DIR [--queries N] [--out FILE].

The same student learns from the same cross-encoder over the same batches, with the same optimiser and no dropout,
by two losses: the soft loss alone (DistillKLDivLoss, its labels computed before), and the paper's three (hard, soft,
keep), once with teacher and frozen student run in every step, as the paper's code does, and once looked up. Where
two contenders have one loss, their loss curves must be one curve.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import machine
import numpy as np
import torch
from peers import open_encoder, open_scorer
from rung_task import Task, make_task
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
from sentence_transformers.util import batch_to_device, pairwise_dot_score
from side_by_side import OURS, Contender, add_memory, alone, embed, in_turn, parser, publish, ratio, report, score
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import BatchSampler

from stepwell import distributed
from stepwell.distil.candidates import Draw
from stepwell.distil.losses import soft_loss
from stepwell.distil.objectives import StudentObjective, Terms
from stepwell.distil.training import batches, learning_rate, total_steps, train
from stepwell.ladder.prices import BACKWARD
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.models.shape import operations_a_token
from stepwell.recipe import Optimiser
from stepwell.retrieval.vectors import Vectors

SCALE, SEED = 20.0, 0
SOFT = Terms(alpha=0.0, beta=1.0, over="candidates")
PAPER = Terms(alpha=0.1, beta=0.9, gamma=1.0, over="candidates", keep_over="candidates")
LABELS, ONLINE = "sentence-transformers, labels precomputed", "sentence-transformers, teacher in every step"
OURS_SOFT, OURS_PAPER, OURS_ALL = f"{OURS}, soft", f"{OURS}, three losses", f"{OURS}, three losses and scoring"


class Given(BatchSampler):
    """The batches of stepwell's own order, so that both sides see the same."""

    def __init__(self, order: list[list[int]]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """The order is given for all epochs."""


class Online(nn.Module):
    """The paper's three losses, with the teacher and the frozen student run here, under no gradient.

    ``labels`` are the rows of a query and its K candidates, (B, 1 + K): the teacher reads texts.
    """

    def __init__(self, model: nn.Module, task: Task, frozen: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.model, self.task, self.others = model, task, (frozen.eval(), teacher.eval())  # a tuple: not trained

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        features = list(features)
        frozen, teacher = self.others
        rows = labels.long().tolist()
        texts = [(self.task.queries[row[0]], self.task.passages[passage]) for row in rows for passage in row[1:]]
        with torch.no_grad():
            inputs = batch_to_device(teacher.preprocess(texts), teacher.device)
            target = teacher(inputs)["scores"].float().reshape(len(rows), -1)  # (B, K)
            start = _scores(embed_columns(frozen, [dict(column) for column in features]))
        own = _scores(embed_columns(self.model, features))
        hard = functional.cross_entropy(own, torch.zeros(len(rows), dtype=torch.long, device=own.device))
        soft, keep = soft_loss(own, target, PAPER.tau), soft_loss(own, start, PAPER.tau)
        return PAPER.alpha * hard + PAPER.beta * soft + PAPER.gamma * keep


def _scores(columns: list[Tensor]) -> Tensor:
    query, *passages = (column.float() for column in columns)
    return torch.stack([SCALE * pairwise_dot_score(query, passage) for passage in passages], dim=1)  # (B, K)


class Trainer:
    """SentenceTransformerTrainer; all that comes before its training is not timed."""

    def __init__(self, task: Task, settings: Optimiser, online: bool) -> None:
        self.task, self.settings, self.online = task, settings, online
        self.others = (open_encoder(task.student, None), open_scorer(task.teacher, None)) if online else ()

    def before(self) -> None:
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from transformers import PrinterCallback

        model, settings = open_encoder(self.task.student, None), self.settings
        steps = total_steps(settings, len(self.task.queries))
        order = [examples.tolist() for _, examples in batches(len(self.task.queries), settings.batch, SEED, 0, steps)]
        if self.online:
            loss: nn.Module = Online(model, self.task, *self.others)
        else:
            loss = DistillKLDivLoss(model, lambda a, b: SCALE * pairwise_dot_score(a, b), SOFT.tau)
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(self.task.folder / "trainer"),
            max_steps=steps,
            per_device_train_batch_size=settings.batch,
            max_grad_norm=settings.clip,
            bf16=machine.bf16_pays(),
            use_cpu=distributed.state().device.type == "cpu",
            batch_sampler=lambda *_, **__: Given(order),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        )
        self.trainer = SentenceTransformerTrainer(
            model, arguments, self._data(), loss=loss, optimizers=_optimiser(model, settings, steps)
        )
        self.trainer.remove_callback(PrinterCallback)

    def _data(self):
        from datasets import Dataset

        task = self.task
        columns = {"query": task.queries}
        for number, rows in enumerate(task.candidates.T):
            columns[f"passage{number}"] = [task.passages[row] for row in rows]
        rows = np.concatenate([np.arange(len(task.queries))[:, None], task.candidates], axis=1)
        columns["label"] = (rows if self.online else task.labels.astype(np.float64)).tolist()
        return Dataset.from_dict(columns)

    def __call__(self, _: object) -> dict:
        self.trainer.train()
        return {"losses": [line["loss"] for line in self.trainer.state.log_history if "loss" in line], "tokens": None}


def _optimiser(model: nn.Module, settings: Optimiser, steps: int):
    """Return stepwell's optimiser and its learning rate, for the trainer."""
    groups = [
        {"params": [p for p in model.parameters() if (p.ndim > 1) == matrix], "weight_decay": decay}
        for matrix, decay in ((True, settings.weight_decay), (False, 0.0))
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate(step, steps, settings.warmup)
    )


class Ours:
    """stepwell's training; teacher's scores and start vectors are looked up, or also made, in the time."""

    def __init__(self, task: Task, settings: Optimiser, terms: Terms, scoring: bool) -> None:
        self.task, self.settings, self.terms = task, settings, terms
        self.reranker = Reranker.open(task.teacher) if scoring else None
        self.start = self._vectors(Encoder.open(task.student, SCALE)) if terms.gamma and not scoring else None

    def _vectors(self, encoder: Encoder) -> Vectors:
        rows = np.arange(len(self.task.queries), dtype=np.int32)
        passages = embed(encoder, self.task.passages)
        return Vectors(passages, embed(encoder, self.task.queries, "query"), rows, encoder.scale)

    def before(self) -> None:
        self.encoder = Encoder.open(self.task.student, SCALE)

    def __call__(self, _: object) -> dict:
        task, encoder, labels, start = self.task, self.encoder, self.task.labels, self.start
        if self.reranker is not None:
            labels = score(self.reranker, task.queries, task.passages, task.pairs).reshape(labels.shape)
            start = self._vectors(encoder)
        objective = StudentObjective(
            encoder,
            encoder.tokenise(task.queries, "query"),
            encoder.tokenise(task.passages, "document"),
            task.mined(),
            task.qrels(),
            self.terms,
            Draw(labels.shape[1], SEED),
            teacher_scores=labels.astype(np.float32),
            start=start,
        )
        with tempfile.TemporaryDirectory() as folder:
            log = train(objective, self.settings, Path(folder), SEED)
        return {"losses": log.losses, "tokens": log.tokens}


def contenders(task: Task, settings: Optimiser) -> list[Contender]:
    return [
        Contender(LABELS, lambda: Trainer(task, settings, online=False), OURS_SOFT),
        Contender(OURS_SOFT, lambda: Ours(task, settings, SOFT, scoring=False), None),
        Contender(ONLINE, lambda: Trainer(task, settings, online=True), OURS_PAPER),
        Contender(OURS_PAPER, lambda: Ours(task, settings, PAPER, scoring=False), None),
        Contender(OURS_ALL, lambda: Ours(task, settings, PAPER, scoring=True), None),
    ]


def main(argv: list[str]) -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--teacher", help="A cross-encoder; when left out, the model with a random head.")
    arguments.add_argument("--queries", type=int, default=320)
    arguments.add_argument("--candidates", type=int, default=8)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--epochs", type=float, default=1.0)
    arguments.add_argument("--layers", type=int, default=2, help="Layers of the student.")
    arguments.add_argument("--tokens", type=int, default=144, help="Token limit of a text.")
    arguments.add_argument("--pair-tokens", type=int, default=176, help="Token limit of a pair.")
    options = arguments.parse_args(argv)
    settings = Optimiser(epochs=options.epochs, batch=options.batch, lr=5e-5)
    if options.only:
        alone(contenders(Task.load(Path(options.setting)), settings), None, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = (options.queries, options.candidates, options.layers, options.tokens, options.pair_tokens)
        teacher = options.teacher or options.model
        task = make_task(options.collection, options.model, teacher, Path(folder), *sizes)
        outcomes = in_turn(contenders(task, settings), None, options.rounds)
        peak = max(machine.matmul_peaks(task.student).values())
        operations = BACKWARD * operations_a_token(task.student, None)
        curves = {outcome.name: np.array(outcome.result["losses"]) for outcome in outcomes}
        twins = {LABELS: OURS_SOFT, ONLINE: OURS_PAPER, OURS_ALL: OURS_PAPER}
        for outcome in outcomes:
            curve, tail = curves[outcome.name], max(1, len(curves[outcome.name]) // 4)
            outcome.facts["loss, first and last quarter"] = f"{curve[:tail].mean():.4f} {curve[-tail:].mean():.4f}"
            twin = twins.get(outcome.name)
            away = None if twin is None else f"{np.abs(curve - curves[twin]).max():.4f}"
            outcome.facts["largest difference"] = away
            tokens = outcome.result["tokens"]
            known = tokens is not None and outcome.name != OURS_ALL
            share = f"{operations * tokens / float(np.median(outcome.seconds)) / peak:.0%}" if known else None
            outcome.facts["of the matmul peak"] = share
        if not options.no_memory:
            add_memory(outcomes, __file__, argv, "--setting", folder)
    of = {outcome.name: outcome.seconds for outcome in outcomes}
    middle, low, high = ratio(of[ONLINE], of[OURS_ALL])
    size = round(options.epochs * len(task.queries) * options.candidates)
    notes = (
        f"{len(task.queries):,} queries with {options.candidates} candidates, batches of {options.batch} queries, "
        f"epochs: {options.epochs:g}. Each line's time is divided by that of stepwell with the same loss.",
        "Largest difference: of any step's loss, to that of stepwell with the same loss.",
        f"With the teacher in every step it takes {middle:.2f} [{low:.2f}, {high:.2f}] times as long as stepwell with "
        "its scoring counted: in one epoch both score each pair once.",
    )
    curve_lists = {name: curve.tolist() for name, curve in curves.items()}
    figures = report("rung", "Distilling a cross-encoder (one rung)", size, "candidates", outcomes, notes)
    publish(figures | {"losses": curve_lists, "peak": peak}, options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
