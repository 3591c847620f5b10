"""Ways to run a model without a gradient: torch in several number types, OpenVINO, ONNX Runtime.

A way is opened by its name and has to agree with torch fp32 on real texts before it is used.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn

from stepwell.errors import MissingPackage
from stepwell.models.build import most_tokens
from stepwell.models.engines.fused import can_fuse, fuse
from stepwell.models.engines.graphs import (
    PACKAGES,
    Run,
    Source,
    Streams,
    open_onnx,
    open_openvino,
    openvino,
    untraceable,
)
from stepwell.models.tokens import Features, Template, Tokens

Tokenise = Callable[[Sequence[str]], Tokens]

WAYS = (
    "torch-fp32",
    "torch-bf16-autocast",
    "torch-bf16-weights",
    "torch-bf16-flash",
    "openvino-fp32",
    "openvino-bf16",
    "openvino-int8",
    "onnx-fp32",
)
"""All ways, by engine and number type, plainest first."""

TOLERANCE = {"fp32": (1e-6, 1e-3), "bf16": (2e-3, 3e-2), "int8": (3e-2, 2e-1)}
"""How far a number type may be from torch fp32 on any sample: 1 - cosine of vectors, relative error of logits."""

FLASH = "flash_attention_2"
"""The attention of packed texts, as transformers names it."""

SHORT = (
    "who built the first lighthouse on this coast",
    "boiling point of water at high altitude",
    "how long does a violin need to dry?",
    "Why do glaciers move, and how fast?",
)
"""Texts like queries, to compare ways on."""

LONG = (
    "The lighthouse was finished in 1822 after three winters in which the sea carried off most of what had been built "
    "the summer before. Its keeper kept a record of every ship that passed, and of the weather, for forty-one years; "
    "the books are now in the town's library, together with his letters to the engineer who had drawn the tower.",
    "Water boils when its vapour pressure equals that of the air above it. Since the air is thinner on a mountain, it "
    "boils at about 90 degrees Celsius at 3,000 metres and at 70 on the highest peak, which is why potatoes take so "
    "much longer there: the water is boiling, but it is not as hot, and cooking is a matter of heat, not of bubbles.",
    "A violin's varnish is laid on in many thin coats, each of which has to dry before the next one. In sunlight that "
    "is a matter of days, in a cellar of weeks. Makers disagree on what the varnish does to the sound (nothing, some "
    "say), but they agree that one who hurries will find the marks of the case on the back of the instrument.",
    "Glaciers flow under their own weight: ice deforms slowly, like honey, and it slides where meltwater reaches the "
    "rock beneath. Most of them move less than a metre a day. A surge, in which a glacier speeds up a hundredfold for "
    "some months, is rare, and what sets it off is still argued about; the water under the ice has a part in it.",
)
"""Texts like passages, in the order of :data:`SHORT`, to compare and to time ways on."""


def text_samples(template: Template, tokenise: Tokenise, limit: int) -> list[Features]:
    """Return batches of real texts for an encoder, queries first; texts of at most ``limit`` tokens."""
    return [template.texts(tokenise(texts), np.arange(len(texts)), limit) for texts in (SHORT, LONG)]


def pair_samples(template: Template, tokenise: Tokenise, limit: int) -> list[Features]:
    """Return a batch of real pairs for a cross-encoder, each query with each passage, at most ``limit`` tokens each."""
    rows = np.divmod(np.arange(len(SHORT) * len(LONG)), len(LONG))
    return [template.pairs(tokenise(SHORT), tokenise(LONG), *rows, limit)]


@dataclass
class Net:
    """A model as a function of padded batches.

    Parameters
    ----------
    model
        A SentenceTransformer or CrossEncoder, on its device.
    output
        What of its features is wanted: ``sentence_embedding`` or ``scores``.
    make_samples
        Gives batches of real texts for a task, the longest last: :func:`text_samples` or :func:`pair_samples`.
    name
        Gives the fingerprint of the model.
    cosine
        Whether outputs are normalised.
    task
        Which of two towers or prompts: ``query`` or ``document``; None where the model makes no difference.
    unpooled
        For each task, how many first tokens of a text are a prompt that the model leaves out of the pooling.
    """

    model: nn.Module
    output: str
    make_samples: Callable[[str | None], Sequence[Features]]
    name: Callable[[], str]
    cosine: bool = False
    task: str | None = None
    unpooled: Mapping[str, int] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @cached_property
    def samples(self) -> Sequence[Features]:
        """Batches of real texts, the longest last."""
        return self.make_samples(self.task)

    @cached_property
    def reference(self) -> list[Tensor]:
        """What torch fp32 makes of the samples."""
        run = open_way(self, "torch-fp32")
        return [run(batch) for batch in self.samples]

    def apply(self, model: nn.Module, features: Features) -> Tensor:
        """Run ``model``, which is this one or a copy: (B, ...)."""
        inputs: dict[str, Any] = dict(features)
        if self.task is not None and self.task in self.unpooled:
            inputs["prompt_length"] = self.unpooled[self.task]
        options = {} if self.task is None else {"task": self.task}
        out: Tensor = model(inputs, **options)[self.output]
        return out


@dataclass(frozen=True)
class Runner:
    """A model opened in one way; ``runner(features)`` gives fp32 on the CPU, vectors (B, D) or logits (B,)."""

    way: str
    net: Net
    run: Run

    @torch.inference_mode()
    def __call__(self, features: Features) -> Tensor:
        """Run a padded batch."""
        return self._told(self.run(features))

    @torch.inference_mode()
    def each(self, batches: Iterable[Features]) -> Iterator[Tensor]:
        """Run padded batches, several at a time where the engine does that; yield the outputs in their order."""
        outs = self.run.each(batches) if isinstance(self.run, Streams) else map(self.run, batches)
        yield from map(self._told, outs)

    @property
    def at_once(self) -> int:
        """Batches that are under way at a time."""
        return len(self.run.requests) if isinstance(self.run, Streams) else 1

    def _told(self, out: Tensor) -> Tensor:
        out = out.float()
        if self.net.output == "scores":
            out = out.reshape(len(out))
        elif self.net.cosine:
            out = nn.functional.normalize(out, dim=1)
        return out.cpu()


def parts(way: str) -> tuple[str, str]:
    """Return engine and number type of a way.

    Examples
    --------
    >>> parts("torch-bf16-weights")
    ('torch', 'bf16')
    """
    engine, number = way.split("-")[:2]
    return engine, number


def extra_of(way: str) -> str:
    """Return the extra of stepwell that brings what a way needs; ``torch`` for what is always there.

    Examples
    --------
    >>> extra_of("openvino-fp32"), extra_of("openvino-int8"), extra_of("onnx-int8")
    ('openvino', 'int8', 'onnx')
    """
    return "int8" if parts(way) == ("openvino", "int8") else parts(way)[0]


def missing(way: str) -> str | None:
    """Return the package that a way needs and that is not installed."""
    wanted = PACKAGES.get(extra_of(way), ())
    return next((package for package in wanted if importlib.util.find_spec(package) is None), None)


def unfit(way: str, device: torch.device) -> str | None:
    """Return why this machine can't go a way whose packages are there, or None when it can."""
    engine, number = parts(way)
    if engine != "torch" and device.type != "cpu":
        return "runs on CPUs"
    if engine != "torch" and (reason := untraceable()):
        return reason
    if way == "torch-bf16-flash" and (device.type != "cuda" or importlib.util.find_spec("flash_attn") is None):
        return "needs a GPU and the package flash_attn"  # without it transformers would fetch code from the hub
    if (engine, number) == ("openvino", "bf16"):
        able = openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return None if "BF16" in able else "this CPU has no bf16"
    return None


@torch.inference_mode()
def open_way(net: Net, way: str) -> Runner:
    """Open a model for inference in a named way; it is put into eval mode.

    Graphs and copies have the weights of this moment; ``torch-fp32`` and ``torch-bf16-autocast`` follow the model.

    Parameters
    ----------
    net
        The model.
    way
        One of :data:`WAYS`.

    Raises
    ------
    StepwellError
        When a package is missing, with the extra that brings it.
    Exception
        Whatever an exporter or an engine raises for a model that it can't take.
    """
    net.model.eval()
    engine, number = parts(way)
    if package := missing(way):
        raise MissingPackage(
            f"the back end {way} needs the package {package}, which is not installed: pip install "
            f"'stepwell[{extra_of(way)}]', or unset STEPWELL_BACKEND.",
            package,
            extra_of(way),
        )
    if engine == "torch":
        return Runner(way, net, _open_torch(net, way))
    name = f"{net.name()[:16]}-{net.task or 'both'}"
    source = Source(lambda features: net.apply(net.model, features), net.model, net.samples, name)
    return Runner(way, net, open_onnx(source) if engine == "onnx" else open_openvino(source, number))


def distance(ours: Tensor, reference: Tensor) -> float:
    """Return how far outputs are from torch fp32, over the worst sample.

    Parameters
    ----------
    ours, reference
        Both (B, D) vectors or both (B,) logits.

    Returns
    -------
    float
        Of vectors |a - b|^2 / (2 |b|^2), which is 1 - cosine when both are as long and sees a wrong length too; of
        logits the largest difference over the root mean square of the reference's. Infinity for what is no number.
    """
    error = (ours - reference).double()
    if reference.ndim == 2:
        far = error.square().sum(1) / (2 * reference.double().square().sum(1))
    else:
        far = error.abs() / reference.double().square().mean().sqrt()
    return float(far.nan_to_num(nan=float("inf")).max())


def disparity(runner: Runner) -> str | None:
    """Return how a runner fails to agree with torch fp32 on real texts, or None when it agrees."""
    net = runner.net
    far = max(distance(runner(batch), whole) for batch, whole in zip(net.samples, net.reference, strict=True))
    allowed = TOLERANCE[parts(runner.way)[1]][net.output == "scores"]
    return None if far <= allowed else f"is {far:.1g} from torch fp32, where {allowed:.0e} is allowed"


def _open_torch(net: Net, way: str) -> Run:
    model, device, packed = net.model, net.device, way == "torch-bf16-flash"
    if way in ("torch-bf16-weights", "torch-bf16-flash"):
        model = copy.deepcopy(model).to(torch.bfloat16)
        if can_fuse(model):
            fuse(model)
    first = _use_flash(model) if packed else 0

    def run(features: Features) -> Tensor:
        batch = {name: tensor.to(device) for name, tensor in features.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=way == "torch-bf16-autocast"):
            return net.apply(model, pack(batch, first) if packed else batch)

    return run


def _use_flash(model: nn.Module) -> int:
    """Give ``model`` flash attention over packed texts, in place; return the position of a text's first token."""
    first = 0
    for module in model.modules():
        if isinstance(module, Transformer):
            body: Any = module.auto_model
            body.set_attn_implementation(FLASH)
            module.unpad_inputs = True
            if not module.can_flatten_inputs:
                raise ValueError("this architecture can't run without padding")
            first = int(getattr(body.config, "max_position_embeddings", None) or 0) - (most_tokens(body) or 0)
    return first


def pack(features: Features, first: int = 0) -> dict[str, Any]:
    """Write the texts of a padded batch behind one another, as flash attention's variable-length path wants them.

    Parameters
    ----------
    features
        A padded batch, (B, L).
    first
        Position of a text's first token (RoBERTa's kin count from padding_idx + 1 on).

    Returns
    -------
    dict
        ``input_ids``, ``position_ids``, ``seq_idx`` and ``token_type_ids`` (where there are any), each (1, T); and
        where each text begins and ends.

    Examples
    --------
    >>> ids = torch.tensor([[5, 6, 0], [7, 8, 9]])
    >>> packed = pack({"input_ids": ids, "attention_mask": (ids > 0).long()})
    >>> packed["input_ids"].tolist(), packed["position_ids"].tolist(), packed["cu_seq_lens_q"].tolist()
    ([[5, 6, 7, 8, 9]], [[0, 1, 0, 1, 2]], [0, 2, 5])
    """
    mask = features["attention_mask"].bool()  # (B, L)
    lengths = mask.sum(1)
    borders = nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)  # (B + 1,)
    numbers = torch.arange(len(mask), dtype=torch.int32, device=mask.device)[:, None].expand_as(mask)
    flat = {name: tensor[mask][None] for name, tensor in features.items() if name != "attention_mask"}
    flat["position_ids"] = (mask.cumsum(1) - 1)[mask][None] + first
    flat["seq_idx"] = numbers[mask][None]
    longest = int(lengths.max())
    ends = {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}
    return {**flat, **ends}
