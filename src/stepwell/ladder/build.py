"""From a recipe to the list of its stages, before anything runs: to be printed, priced, resumed and drawn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from stepwell.errors import StepwellError
from stepwell.ladder import finding, judging, making, proof, refine_stages
from stepwell.ladder.context import Context
from stepwell.ladder.contrastive_stages import add_start
from stepwell.ladder.prices import Prices, depth_of, vector_width
from stepwell.ladder.teacher_stages import add_teacher
from stepwell.ladder.teachers import inputs_of
from stepwell.ladder.workspace import Stage
from stepwell.models.build import pick_layers
from stepwell.models.engines import machine as engine
from stepwell.models.files import content_digest
from stepwell.recipe import Mining, Recipe, Rung
from stepwell.recipe.ladder import MORE, teacher_temperature
from stepwell.recipe.teachers import ModelTeacher
from stepwell.systems.folder import SEARCHED


def stages_of(ctx: Context, prices: Prices | None = None, to_search: bool = False) -> list[Stage]:
    """Return all stages of a run in order, each after its inputs; priced for the collection where not by ``prices``.

    ``to_search``: also what nothing but a search in the finished run needs.
    """
    builder = Builder(ctx, prices)
    builder.ladder()
    builder.refinement()
    builder.proof()
    if to_search:
        builder.for_search()
    return list(builder.stages.values())


class Builder:
    """Adds stages in order; what another stage has asked for already is not added twice.

    ``student@i`` stands for the student after rung i (0: the start), whichever stage made it: the decision
    ``promote-i`` says which.
    """

    def __init__(self, ctx: Context, prices: Prices | None = None) -> None:
        self.ctx, self.recipe = ctx, ctx.recipe
        judging.check_measures(ctx)
        _check_layers(ctx.recipe)
        self.prices = prices or Prices.of(ctx)
        self.stages: dict[str, Stage] = {}
        self.rungs = len(self.recipe.ladder)
        self.last = self.rungs + self.recipe.refine.rounds
        self.only_if: tuple[str, ...] = ()

    def add(
        self, name: str, kind: str, title: str, settings: Any, inputs: tuple[str, ...], run: Any, **more: Any
    ) -> str:
        """Add a stage unless it is there; return its name."""
        if name not in self.stages:
            more.setdefault("only_if", self.only_if)
            self.stages[name] = Stage(name, kind, title, settings, inputs, run, **more)
        return name

    # -- finding ------------------------------------------------------------------------------------------

    def bm25(self) -> str:
        """Add BM25's run of the training queries, to mine from."""
        settings, run = {"depth": self.recipe.mining.depth}, partial(finding.bm25, self.ctx)
        return self.add("bm25", "bm25", "BM25 retrieves", settings, (), run, only_if=(), collective=True)

    def vectors(self, model: str, title: str, base: str, layers: int | None, scale: float | None = None) -> str:
        """Add the vectors of all texts under a model, whose logits are similarities times ``scale``."""
        run = partial(finding.vectors, self.ctx, model, scale)
        work = self.prices.encode(base, layers)
        name, settings = f"{model}.vectors", {"scale": scale}
        return self.add(name, "vectors", f"encode with {title}", settings, (model,), run, collective=True, work=work)

    def student_vectors(self, model: str, title: str) -> str:
        """Add the vectors of all texts under a student."""
        student = self.recipe.student
        return self.vectors(model, title, student.base, student.layers, student.loss_scale)

    def for_search(self) -> None:
        """Add the final student's vectors of the passages in fp32, where its others are in bf16."""
        if engine.searches_exactly():
            student, model = self.recipe.student, f"student@{self.last}"
            work = self.prices.encode(student.base, student.layers)
            self.add(
                SEARCHED,
                "vectors",
                "encode with the final student in fp32, to search",
                {"scale": student.loss_scale, "exact": True},
                (model,),
                partial(finding.vectors, self.ctx, model, student.loss_scale, exact=True),
                only_if=(),
                collective=True,
                work=replace(work, forward=work.forward * max(1.0, engine.bf16_gain())),
            )

    def split(self, split: str, model: str, title: str) -> str:
        """Search dev or test with a model's vectors."""
        run = partial(judging.search_split, self.ctx, split, f"{model}.vectors", None)
        return self.add(
            f"{model}.{split}",
            f"search-{split}",
            f"{split}: {title}",
            self.judging(),
            (f"{model}.vectors",),
            run,
            collective=True,
        )

    def more(self, rung: Rung) -> tuple[int, int]:
        """Return how many texts from elsewhere a rung learns from: passages and queries."""
        texts = self.ctx.more(rung)
        return len(texts.get("document", ())), len(texts.get("query", ()))

    def more_vectors(self, stage: str, rung: Rung) -> tuple[str, ...]:
        """Add the teacher's vectors of the texts from elsewhere that ``stage`` learns from; return the stages."""
        teacher: Any = self.recipe.teachers[rung.teacher]
        return tuple(
            self.add(
                f"{stage}.more-{side}",
                "more-vectors",
                f"encode {len(texts):,} further {'queries' if side == 'query' else 'passages'} with {rung.teacher}",
                {"texts": texts.fingerprint, "side": side},
                (f"teacher.{rung.teacher}",),
                partial(finding.more_vectors, self.ctx, rung, side),
                collective=True,
                work=self.prices.encode(
                    teacher.base, teacher.layers, (0, len(texts)) if side == "query" else (len(texts), 0)
                ),
            )
            for side, texts in self.ctx.more(rung).items()
        )

    def training_run(self, model: str, title: str) -> str:
        """Retrieve for the training queries with a model's vectors."""
        run = partial(finding.training_run, self.ctx, model)
        settings = {"depth": self.recipe.mining.depth}
        title = f"{title} retrieves"
        return self.add(f"{model}.train", "search-train", title, settings, (f"{model}.vectors",), run, collective=True)

    def candidates(
        self,
        name: str,
        miner: str,
        k: int,
        mining: Mining | None = None,
        teacher: str | None = None,
        limit: int | None = None,
    ) -> str:
        """Mine K candidates a query from the training run of ``miner``."""
        mining = mining or self.recipe.mining
        source = self.bm25() if miner == "bm25" else f"{miner}.train"
        denoise = teacher if mining.denoise is not None else None
        inputs = (source, *(self.opens(denoise) if denoise else ()))
        run = partial(finding.candidates, self.ctx, source, mining, k, denoise, limit)
        settings = {**mining.model_dump(exclude=set() if denoise else {"denoise"}), "k": k, "limit": limit}
        return self.add(
            name,
            "mine",
            f"mine {k} candidates a query from {miner}",
            settings,
            inputs,
            run,
            collective=True,
        )

    # -- teachers -----------------------------------------------------------------------------------------

    def teacher(self, name: str, miner: str = "bm25") -> str:
        """Add a teacher unless it is there; return its stage."""
        return add_teacher(self, name, miner)

    def opens(self, name: str) -> tuple[str, ...]:
        """Return the stages that a stage needs to ask a teacher."""
        return inputs_of(self.recipe, name)

    def embeds(self, name: str) -> bool:
        """Return whether a teacher has vectors."""
        return self.recipe.teachers[name].embeds

    # -- the ladder ---------------------------------------------------------------------------------------

    def ladder(self) -> None:
        """Add the start, then every rung: teacher, headroom, candidates, scores, distillation, dev, promotion."""
        self.bm25()
        add_start(self)
        self.judge_student("start", "the student at the start")
        for number, rung in enumerate(self.recipe.ladder, start=1):
            self._rung(number, rung)

    def teacher_run(self, name: str) -> str:
        """Make sure of a dual encoder's training run; return its stage's prefix."""
        self.teacher(name)
        self.training_run(f"teacher.{name}", name)
        return f"teacher.{name}"

    def _rung(self, number: int, rung: Rung) -> None:
        self._check_hold(number, rung)
        before, teacher = f"student@{number - 1}", rung.teacher
        miner = self._miner(number, rung)
        self.teacher(teacher, miner)
        for name in self._beside(rung):
            self.teacher(name)
        queries = min(self.prices.dev, self.recipe.judging.headroom_queries)
        work = self.prices.scoring(self.recipe.teachers, teacher, queries, self.recipe.judging.rerank)
        theirs = (f"teacher.{teacher}.dev",) if self.embeds(teacher) else self.opens(teacher)
        gate = self.add(
            f"headroom-{number}",
            "headroom",
            f"headroom of {teacher} over the student",
            {**self.judging(), "teacher": teacher, "force": rung.force},
            (f"{before}.dev", *theirs),
            partial(judging.headroom, self.ctx, teacher, f"{before}.dev", rung.force),
            collective=True,
            work=work,
        )
        self.only_if = (gate,)
        inputs: tuple[str, ...] = (before,)
        if rung.loss == "embedding":
            inputs += (f"teacher.{teacher}.vectors", *self.more_vectors(f"rung-{number}", rung))
            more = self.more(rung)
            work = self.prices.embedding(self.recipe.student.base, self.recipe.student.layers, rung, more=more)
            run = partial(making.imitate, self.ctx, rung, before)
        else:
            found = self._rung_candidates(number, rung, miner)
            inputs += self._distil_inputs(rung, before, found)
            work = self.prices.dense(self.recipe.student.base, self.recipe.student.layers, rung, rung.candidates)
            looked_at = self._scores_first(rung)
            run = partial(making.distil, self.ctx, rung, teacher, rung.loss, before, found, looked_at=looked_at)
        settings = {**rung.model_dump(exclude={"force", "negatives", *MORE.values()}), **self.student()}
        title = f"rung {number}: {teacher} teaches ({rung.loss})"
        self.add(f"rung-{number}", "distil", title, settings, inputs, run, collective=True, work=work)
        self.judge_student(f"rung-{number}", f"the student after rung {number}")
        self.only_if = ()
        self.promote(number)

    def _miner(self, number: int, rung: Rung) -> str:
        """Make sure of the training run that the rung's negatives come from; return its stage's prefix."""
        who = self.recipe.miner_of(number)
        if who == "bm25" or rung.loss == "embedding":
            return "bm25"
        if who == "student":
            self.training_run(f"student@{number - 1}", "the student")
            return f"student@{number - 1}"
        return self.teacher_run(who)

    def _rung_candidates(self, number: int, rung: Rung, miner: str) -> str:
        denoiser = None if self.embeds(rung.teacher) else rung.teacher
        found = self.candidates(f"candidates-{number}", miner, rung.candidates, teacher=denoiser)
        if self._scores_first(rung):
            k = max(self.recipe.mining.pool or 0, rung.candidates)
            work = self.prices.scoring(self.recipe.teachers, rung.teacher, self.prices.train, k)
            tau = teacher_temperature(rung)
            self.add(
                f"scores-{number}",
                "score",
                f"{rung.teacher} scores the candidates",
                {"tau": tau},
                (found, *self.opens(rung.teacher)),
                partial(finding.scores, self.ctx, rung.teacher, tau, found),
                collective=True,
                work=work,
            )
        return found

    def _scores_first(self, rung: Rung) -> bool:
        """Tell whether a stage of its own has the teacher score the candidates before the rung trains on them."""
        return not self.embeds(rung.teacher) and bool(rung.beta)

    def _distil_inputs(self, rung: Rung, before: str, found: str) -> tuple[str, ...]:
        inputs = [found, *self.opens(rung.teacher)]
        if rung.gamma:
            inputs.append(f"{before}.vectors")
        inputs += [f"teacher.{name}.vectors" for name in self._beside(rung)]
        return tuple(dict.fromkeys(inputs))

    def _beside(self, rung: Rung) -> list[str]:
        """Return the dual encoders whose vectors a rung needs besides those of its own teacher."""
        return [*([rung.beside] if rung.beside else []), *self._held(rung)]

    def _held(self, rung: Rung) -> list[str]:
        """Return the dual encoder whose vectors the student's are to stay near, if any."""
        name = self.recipe.embedding_teacher
        return [name] if rung.hold and name is not None else []

    def _check_hold(self, number: int, rung: Rung) -> None:
        for name in self._held(rung) if rung.loss != "embedding" else ():
            teacher: Any = self.recipe.teachers[name]
            theirs, own = vector_width(teacher), vector_width(self.recipe.student)
            if theirs != own:
                raise StepwellError(
                    f"rung {number} of the ladder: `hold` keeps the student's vectors near those of {name!r}, and they "
                    f"can't be compared: the student's (from {self.recipe.student.base}) have {own} numbers, the "
                    f"teacher's (from {teacher.base}) {theirs}. Set `hold: 0` in this rung, or take a student and a "
                    "teacher of one width. (The embedding rung itself learns a projection from one to the other.)"
                )

    def judge_student(self, model: str, title: str) -> None:
        """Add the student's vectors and its dev figures."""
        self.student_vectors(model, title)
        self.split("dev", model, title)

    def promote(self, number: int) -> None:
        """Add the decision which student goes on after rung ``number``."""
        before = f"student@{number - 1}"
        self.add(
            f"promote-{number}",
            "promote",
            f"promote the student of rung {number}?",
            {**self.judging(), "number": number},
            (f"{before}.dev",),
            partial(judging.promote, self.ctx, number, before),
            optional=(f"rung-{number}.dev",),
            named=True,
            only_if=(),
        )

    # -- refine -------------------------------------------------------------------------------------------

    def refinement(self) -> None:
        """Add rounds of data progressive distillation, each only if the one before made dev better."""
        refine_stages.add_refinement(self)

    @property
    def refine_teacher(self) -> str:
        """The teacher of refine: the recipe's, or the last rung's."""
        return self.recipe.refine.teacher or self.recipe.ladder[-1].teacher

    def last_miner(self) -> str:
        """Return the prefix of the training run that the last rung's negatives come from."""
        return self._miner(self.rungs, self.recipe.ladder[-1].model_copy(update={"loss": "candidates"}))

    # -- proof --------------------------------------------------------------------------------------------

    def proof(self) -> None:
        """Add baselines with the ladder's number of updates, the test of every system, the final table."""
        proof.add_proof(self)

    @staticmethod
    def content(base: str) -> dict[str, str]:
        """Return what the stage that opens a local model depends on besides its name: what is in the directory."""
        digest = content_digest(base)
        return {} if digest is None else {"content": digest}

    def student(self) -> dict[str, Any]:
        """Return the settings that every training of the student depends on."""
        return {"student": self.recipe.student.model_dump(), "tokens": self.recipe.tokens.longest}

    def judging(self) -> dict[str, Any]:
        """Return the settings of every comparison."""
        own = self.recipe.judging.measures
        return self.recipe.judging.model_dump(exclude=set() if own else {"measures"})


def _check_layers(recipe: Recipe) -> None:
    """Refuse, before anything runs, layers that a base model has not."""
    student = recipe.student
    pick_layers(depth_of(student.base), student.layers, student.pick)
    for teacher in recipe.teachers.values():
        if isinstance(teacher, ModelTeacher) and teacher.layers is not None:
            pick_layers(depth_of(teacher.base), teacher.layers, "first")
