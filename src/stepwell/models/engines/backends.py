"""Ways to run a model without a gradient, each opened by its name: torch in several number types, OpenVINO, ONNX."""

import copy
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn

from stepwell.errors import MissingPackage
from stepwell.models.engines.cpu import can_fuse, fuse
from stepwell.models.engines.graphs import PACKAGES, Run, Source, Streams, open_graph, openvino, untraceable
from stepwell.models.opening import most_tokens
from stepwell.models.tokens import Features, Side

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

FLASH = "flash_attention_2"
"""The attention of packed texts, as transformers names it."""


@dataclass
class Net:
    """A SentenceTransformer or CrossEncoder on its device, as a function of padded batches."""

    model: nn.Module
    output: str  # what of its features is wanted: sentence_embedding or scores
    make_samples: Callable[[Side | None], Sequence[Features]]  # from a task to batches of texts, the longest last
    name: Callable[[], str]  # gives the fingerprint of the model
    cosine: bool = False  # whether outputs are normalised
    task: Side | None = None  # which of two towers or prompts, query or document; None where the model has but one
    width: int | None = None  # what is kept of a vector: the first numbers of a Matryoshka model
    more: Mapping[Any, Mapping[str, Any]] = field(default_factory=dict)  # by task: features that are no tensors

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
        first = next(iter(self.more.values()), {})
        inputs: dict[str, Any] = {**features, **(first if self.task is None else self.more[self.task])}
        options = {} if self.task is None else {"task": self.task}
        out: Tensor = model(inputs, **options)[self.output]
        return out if self.width is None else out[..., : self.width]


@dataclass(frozen=True)
class Runner:
    """A model opened in one way; ``runner(features)`` gives fp32 on the CPU, vectors (B, D) or logits (B,)."""

    way: str
    net: Net
    run: Run

    @torch.inference_mode()
    def __call__(self, features: Features) -> Tensor:
        """Run a padded batch."""
        return self._finished(self.run(features))

    @torch.inference_mode()
    def each(self, batches: Iterable[Features]) -> Iterator[Tensor]:
        """Run padded batches, several at a time where the engine does that; yield the outputs in their order."""
        outs = self.run.each(batches) if isinstance(self.run, Streams) else map(self.run, batches)
        yield from map(self._finished, outs)

    @property
    def at_once(self) -> int:
        """Batches that are under way at a time."""
        return len(self.run.requests) if isinstance(self.run, Streams) else 1

    def _finished(self, out: Tensor) -> Tensor:
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
    Exporters and engines raise whatever they like for a model that they can't take.
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
    return Runner(way, net, open_graph(source, engine, number))


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

    A padded batch (B, L) becomes (1, T), with the place of each token in its text and where each text begins and ends.
    ``first`` is the position of a text's first token (RoBERTa's kin count from padding_idx + 1 on).

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
