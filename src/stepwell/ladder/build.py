"""From a recipe to the list of its stages, before anything runs: to be printed, priced, resumed and drawn."""

from __future__ import annotations

from functools import partial
from typing import Any

from stepwell.errors import StepwellError
from stepwell.ladder import finding, judging, making, proof, refine
from stepwell.ladder.context import Context
from stepwell.ladder.prices import Prices, epochs_of, selected_share
from stepwell.ladder.workspace import Stage, Work
from stepwell.recipe import CrossEncoderTeacher, DualEncoderTeacher, Mining, Rung


def stages_of(ctx: Context) -> list[Stage]:
    """Return all stages of a run in order, each after its inputs."""
    builder = Builder(ctx)
    builder.ladder()
    builder.refinement()
    builder.proof()
    return list(builder.stages.values())


class Builder:
    """Adds stages in order; what another stage has asked for already is not added twice.

    ``student@i`` stands for the student after rung i (0: the start), whichever stage made it: the decision
    ``promote-i`` says which.
    """

    def __init__(self, ctx: Context) -> None:
        self.ctx, self.recipe = ctx, ctx.recipe
        self.prices = Prices(ctx)
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
        """Add the BM25 runs of all splits."""
        settings = {"train": self.recipe.mining.depth, "eval": self.recipe.judging.depth}
        run = partial(finding.bm25, self.ctx)
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

    def split(self, split: str, model: str, title: str) -> str:
        """Search dev or test with a model's vectors."""
        run = partial(judging.search_split, self.ctx, split, f"{model}.vectors", None)
        return self.add(
            f"{model}.{split}",
            f"search-{split}",
            f"{split}: {title}",
            self._judging(),
            (f"{model}.vectors",),
            run,
            collective=True,
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
        inputs = (source, *([f"teacher.{denoise}"] if denoise else []))
        run = partial(finding.candidates, self.ctx, source, mining, k, denoise, limit)
        settings = {**mining.model_dump(), "k": k, "limit": limit}
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
        """Add a teacher's model, and for a dual encoder its vectors and its dev figures."""
        teacher = self.recipe.teachers[name]
        stage = f"teacher.{name}"
        if stage in self.stages:
            return stage
        tokens = self.recipe.tokens.model_dump()
        if isinstance(teacher, DualEncoderTeacher):
            inputs: tuple[str, ...] = ()
            work = Work()
            if teacher.train is not None:
                inputs = (self.candidates(f"candidates.{name}", "bm25", 1 + teacher.train.negatives),)
                work = self.prices.dense(teacher.base, teacher.layers, teacher.train, 1 + teacher.train.negatives)
            run = partial(making.take_or_train_dense, self.ctx, name)
            how = "take" if teacher.train is None else "train"
            settings = {**teacher.model_dump(), "tokens": tokens}
            self.add(
                stage,
                f"{how}-dense",
                f"{how} the teacher {name}",
                settings,
                inputs,
                run,
                collective=True,
                work=work,
            )
            self.vectors(stage, name, teacher.base, teacher.layers, teacher.scale)
            self.split("dev", stage, name)
            return stage
        return self._reranker(name, stage, teacher, miner, tokens)

    def _reranker(self, name: str, stage: str, teacher: CrossEncoderTeacher, miner: str, tokens: dict[str, Any]) -> str:
        inputs: tuple[str, ...] = ()
        work = Work()
        train = teacher.train
        if train is not None:
            inputs = (self.candidates(f"candidates.{name}", miner, train.candidates, limit=train.train_queries),)
            if teacher.imitate is not None and train.imitate_epochs:
                self.teacher(teacher.imitate)
                inputs += (f"teacher.{teacher.imitate}.vectors",)
            queries = min(train.train_queries or self.prices.train, self.prices.train)
            passes = (train.steps * train.batch / queries if train.steps else train.epochs) + train.imitate_epochs
            work = self.prices.cross(teacher.base, teacher.layers, passes * queries, train.candidates, training=True)
        run = partial(making.take_or_train_reranker, self.ctx, name)
        how = "take" if train is None else "train"
        settings = {**teacher.model_dump(), "tokens": tokens}
        return self.add(
            stage,
            f"{how}-reranker",
            f"{how} the teacher {name}",
            settings,
            inputs,
            run,
            collective=True,
            work=work,
        )

    def _layers(self, name: str) -> tuple[str, int | None]:
        return self.recipe.teachers[name].base, self.recipe.teachers[name].layers

    # -- the ladder ---------------------------------------------------------------------------------------

    def ladder(self) -> None:
        """Add the start, then every rung: teacher, headroom, candidates, scores, distillation, dev, promotion."""
        self.bm25()
        warmup = self.recipe.warmup
        inputs: tuple[str, ...] = ()
        work = Work()
        if warmup.epochs or warmup.steps:
            inputs = (self.candidates("candidates.warmup", "bm25", 1 + warmup.negatives),)
            work = self.prices.dense(self.recipe.student.base, self.recipe.student.layers, warmup, 1 + warmup.negatives)
        settings = {**self._student(), "warmup": warmup.model_dump() if inputs else None}
        title = "build and warm up the student" if inputs else "build the student"
        self.add(
            "start",
            "start",
            title,
            settings,
            inputs,
            partial(making.start_student, self.ctx),
            collective=True,
            work=work,
        )
        self._judge_student("start", "the student at the start")
        for number, rung in enumerate(self.recipe.ladder, start=1):
            self._rung(number, rung)

    def _rung(self, number: int, rung: Rung) -> None:
        before, teacher = f"student@{number - 1}", rung.teacher
        miner = self._miner(number, rung)
        self.teacher(teacher, miner)
        for name in self._beside(rung):
            self.teacher(name)
        dense = self.recipe.teachers[teacher].kind == "dual-encoder"
        theirs = (f"teacher.{teacher}.dev",) if dense else (f"teacher.{teacher}",)
        queries = min(self.prices.dev, self.recipe.judging.headroom_queries)
        work = (
            Work()
            if dense
            else self.prices.cross(*self._layers(teacher), queries, self.recipe.judging.rerank, training=False)
        )
        gate = self.add(
            f"headroom-{number}",
            "headroom",
            f"headroom of {teacher} over the student",
            {**self._judging(), "teacher": teacher, "force": rung.force},
            (f"{before}.dev", *theirs),
            partial(judging.headroom, self.ctx, teacher, f"{before}.dev", rung.force),
            collective=True,
            work=work,
        )
        self.only_if = (gate,)
        inputs: tuple[str, ...] = (before,)
        if rung.loss == "embedding":
            inputs += (f"teacher.{teacher}.vectors",)
            work = self.prices.embedding(self.recipe.student.base, self.recipe.student.layers, rung)
        else:
            found = self._rung_candidates(number, rung, miner)
            inputs += self._distil_inputs(rung, before, found)
            work = self.prices.dense(self.recipe.student.base, self.recipe.student.layers, rung, rung.candidates)
        settings = {**rung.model_dump(exclude={"force", "negatives"}), **self._student()}
        run = partial(
            _with_candidates,
            making.distil,
            self.ctx,
            rung,
            teacher,
            rung.loss,
            before,
            f"candidates-{number}",
        )
        title = f"rung {number}: {teacher} teaches ({rung.loss})"
        self.add(f"rung-{number}", "distil", title, settings, inputs, run, collective=True, work=work)
        self._judge_student(f"rung-{number}", f"the student after rung {number}")
        self.only_if = ()
        self._promote(number)

    def _miner(self, number: int, rung: Rung) -> str:
        """Make sure of the training run that the rung's negatives come from; return its stage's prefix."""
        who = rung.negatives
        if who == "auto":
            seen = [r.teacher for r in self.recipe.ladder[:number]]
            dense = [name for name in seen if self.recipe.teachers[name].kind == "dual-encoder"]
            who = dense[-1] if dense else "bm25"
        if who == "bm25" or rung.loss == "embedding":
            return "bm25"
        if who == "student":
            self.training_run(f"student@{number - 1}", "the student")
            return f"student@{number - 1}"
        self.teacher(who)
        self.training_run(f"teacher.{who}", who)
        return f"teacher.{who}"

    def _rung_candidates(self, number: int, rung: Rung, miner: str) -> str:
        found = self.candidates(f"candidates-{number}", miner, rung.candidates, teacher=self._denoiser(rung))
        if self.recipe.teachers[rung.teacher].kind == "cross-encoder" and rung.beta:
            work = self.prices.cross(*self._layers(rung.teacher), self.prices.train, rung.candidates, training=False)
            self.add(
                f"scores-{number}",
                "score",
                f"{rung.teacher} scores the candidates",
                {"tau": rung.tau},
                (found, f"teacher.{rung.teacher}"),
                partial(_with_candidates, finding.scores, self.ctx, rung.teacher, rung.tau, found),
                collective=True,
                work=work,
            )
        return found

    def _denoiser(self, rung: Rung) -> str | None:
        return rung.teacher if self.recipe.teachers[rung.teacher].kind == "cross-encoder" else None

    def _distil_inputs(self, rung: Rung, before: str, found: str) -> tuple[str, ...]:
        dense = self.recipe.teachers[rung.teacher].kind == "dual-encoder"
        inputs = [found, f"teacher.{rung.teacher}.vectors" if dense else f"teacher.{rung.teacher}"]
        if rung.gamma:
            inputs.append(f"{before}.vectors")
        inputs += [f"teacher.{name}.vectors" for name in self._beside(rung)]
        return tuple(dict.fromkeys(inputs))

    def _beside(self, rung: Rung) -> list[str]:
        """Return the dual encoders whose vectors a rung needs besides those of its own teacher."""
        held = [r.teacher for r in self.recipe.ladder if r.loss == "embedding"][:1] if rung.hold else []
        return [*([rung.beside] if rung.beside else []), *held]

    def _judge_student(self, model: str, title: str) -> None:
        self.student_vectors(model, title)
        self.split("dev", model, title)

    def _promote(self, number: int) -> None:
        before = f"student@{number - 1}"
        self.add(
            f"promote-{number}",
            "promote",
            f"promote the student of rung {number}?",
            {**self._judging(), "number": number},
            (f"{before}.dev",),
            partial(judging.promote, self.ctx, number, before),
            optional=(f"rung-{number}.dev",),
            named=True,
            only_if=(),
        )

    # -- refine -------------------------------------------------------------------------------------------

    def refinement(self) -> None:
        """Add rounds of data progressive distillation, each only if the one before made dev better."""
        settings = self.recipe.refine
        teacher = self.refine_teacher
        if settings.rounds and self.recipe.teachers[teacher].kind != "cross-encoder":
            raise StepwellError(
                f"refine needs a cross-encoder to rerank the student's lists, and {teacher!r} is a dual encoder: name "
                "a cross-encoder in `refine.teacher`, or leave refine out with `refine: {rounds: 0}`."
            )
        for round_ in range(1, settings.rounds + 1):
            number = self.rungs + round_
            before = f"student@{number - 1}"
            self.only_if = () if round_ == 1 else (f"promote-{number - 1}",)
            self.teacher(teacher, self._last_miner())
            self.training_run(before, "the student")
            asked = 0.4 * self.prices.train
            work = self.prices.cross(*self._layers(teacher), asked, settings.depth, training=False)
            chosen = {
                **settings.model_dump(exclude={"rounds"}),
                "mining": self.recipe.mining.model_dump(),
                "teacher": teacher,
            }
            gate = self.add(
                f"select-{number}",
                "select",
                f"refine, round {round_}: {teacher} selects queries",
                chosen,
                (f"{before}.train", f"teacher.{teacher}"),
                partial(refine.select, self.ctx, settings, teacher, before),
                collective=True,
                work=work,
            )
            self.only_if = (gate,)
            steps = epochs_of(selected_share(), settings, self.prices.train)
            inputs = (before, gate, f"teacher.{teacher}", *([f"{before}.vectors"] if settings.gamma else []))
            run = partial(_with_candidates, making.distil, self.ctx, settings, teacher, "candidates", before, gate)
            self.add(
                f"rung-{number}",
                "distil",
                f"refine, round {round_}: {teacher} teaches",
                {**chosen, **self._student()},
                inputs,
                run,
                collective=True,
                work=self.prices.dense(
                    self.recipe.student.base, self.recipe.student.layers, settings, settings.candidates, steps
                ),
            )
            self._judge_student(f"rung-{number}", f"the student after refine {round_}")
            self.training_run(f"rung-{number}", "the student")
            outcome = partial(refine.outcome, self.ctx, before, f"rung-{number}", number)
            self.add(
                f"outcome-{number}",
                "outcome",
                f"refine, round {round_}: fixed and broken",
                {},
                (f"{before}.train", f"rung-{number}.train", gate),
                outcome,
            )
            self.only_if = ()
            self._promote(number)

    @property
    def refine_teacher(self) -> str:
        """The teacher of refine: the recipe's, or the last rung's."""
        return self.recipe.refine.teacher or self.recipe.ladder[-1].teacher

    def _last_miner(self) -> str:
        return self._miner(self.rungs, self.recipe.ladder[-1].model_copy(update={"loss": "candidates"}))

    # -- proof --------------------------------------------------------------------------------------------

    def proof(self) -> None:
        """Add baselines with the ladder's number of updates, the test of every system, the final table."""
        proof.add_proof(self)

    def _student(self) -> dict[str, Any]:
        return {"student": self.recipe.student.model_dump(), "tokens": self.recipe.tokens.model_dump()}

    def _judging(self) -> dict[str, Any]:
        return self.recipe.judging.model_dump()


def _with_candidates(function: Any, *arguments: Any) -> None:
    """Call a stage function whose input ``candidates`` has another name in this ladder (the last argument but one)."""
    *rest, name, job = arguments
    if name in job.inputs:
        job.inputs["candidates"] = job.inputs[name]
    function(*rest, job)
