"""The joint loss of human labels and pseudo-labels, of any task: normalised (Zoph et al., arXiv 2006.06882), or doubly
robust (Zhu et al., arXiv 2306.00265)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from students.train.errors import TrainError

CLIP = (0.1, 10.0)
"""Of the ratio, unless a task or a recipe has another."""
STREAMS = ("human", "pseudo", "claimed")


@dataclass(frozen=True)
class StreamSums:
    """Sums of the loss over each stream, not normalised: each term float32 (S,), [human, pseudo], for the doubly robust
    loss [human, pseudo, claimed], the last being the human images under the labels that a teacher claims for them.

    positives: float32 (S,), what a stream teaches: anchors with a match, images with a class, pixels with one. It
    normalises all terms, unless counts, float32 (T, S), has another number for each.
    ignored: float32 (2, S), for the log: of each stream (columns) what is left out as unknown, and all there is:
    anchors that ignore regions take out of the background, images without a class, void pixels (padding is void, too).
    """

    terms: dict[str, Tensor]
    positives: Tensor
    counts: Tensor | None = None
    ignored: Tensor | None = None

    def with_claimed(self, claimed: StreamSums) -> StreamSums:
        """With the first stream of `claimed` as the third: the same outputs, held against the claims."""

        def joined(ours: Tensor, theirs: Tensor) -> Tensor:
            return torch.cat([ours, theirs[..., :1]], -1)

        counts = None if self.counts is None or claimed.counts is None else joined(self.counts, claimed.counts)
        ignored = None if self.ignored is None or claimed.ignored is None else joined(self.ignored, claimed.ignored)
        terms = {name: joined(term, claimed.terms[name]) for name, term in self.terms.items()}
        return StreamSums(terms, joined(self.positives, claimed.positives), counts, ignored)


def by_stream(losses: Tensor, pseudo: Tensor) -> Tensor:
    """The sums of losses (N,) where `pseudo`, bool (N,), is False and where it is True; (2,)."""
    return torch.stack([losses[~pseudo].sum(), losses[pseudo].sum()])


def out_of(ignored: Tensor, each: int, pseudo: Tensor) -> Tensor:
    """StreamSums.ignored, of what is left out of each image, float32 (B,), of `each` that it has."""
    return torch.stack([by_stream(ignored, pseudo), by_stream(torch.full_like(ignored, each), pseudo)])


@dataclass(frozen=True)
class JointStep:
    """One step's joint loss. loss: what to call backward on. The rest is the same on all processes, float32 on the CPU.

    value: the joint loss of the global batch; finite: False if any process has a NaN or infinite loss, or `value` is
    one. terms: each stream's normalised losses, (S,); weighted: the parts of `value` that they are; positives: (S,);
    ignored: (S,), shares (StreamSums). averages: of human and pseudo loss, bias-corrected, (G, 2), one row in all or
    one per term; ratio: what weighs the pseudo loss, raw_ratio: the same before clipping, (G,); clip_rate: (G,), the
    share of the steps so far in which clipping changed it.
    """

    loss: Tensor
    value: float
    finite: bool
    terms: dict[str, Tensor]
    weighted: dict[str, Tensor]
    positives: Tensor
    ignored: Tensor
    averages: Tensor
    raw_ratio: Tensor
    ratio: Tensor
    clip_rate: Tensor
    pending: dict[str, Any]

    def figures(self) -> dict[str, float | list[float]]:
        """What the log says of it; a list where each term has its own ratio."""
        figures: dict[str, float | list[float]] = {"loss": self.value}
        figures |= _of_streams(torch.stack(list(self.terms.values())).sum(0))
        figures |= _of_streams(torch.stack(list(self.weighted.values())).sum(0), "_weighted")
        for name, values in self.terms.items():
            figures |= _of_streams(values, f"_{name}") | _of_streams(self.weighted[name], f"_{name}_weighted")
        figures |= _of_streams(self.positives, "_positives") | _of_streams(self.ignored, "_ignored")
        human, pseudo = (_plain(average) for average in self.averages.unbind(1))
        figures |= {"human_average": human, "pseudo_average": pseudo, "ratio": _plain(self.ratio)}
        return figures | {"ratio_unclipped": _plain(self.raw_ratio), "clip_rate": _plain(self.clip_rate)}


def _of_streams(values: Tensor, suffix: str = "") -> dict[str, float | list[float]]:
    return {f"{stream}{suffix}": value for stream, value in zip(STREAMS, values.tolist(), strict=False)}


def _plain(values: Tensor) -> float | list[float]:
    return values.item() if values.numel() == 1 else values.tolist()


class JointLoss:
    """The paper's normalised joint loss, L = 1/(1 + alpha) * (L_h + alpha * mean(L_h)/mean(L_p) * L_p).

    Each L is a stream's sum over all processes divided by its positives, or counts, there (at least 1). The means are
    exponential moving averages of it, this step included, with bias correction; their ratio is a constant for the
    gradient. From the paper as widely repeated; decay, correction, clip and eps are our choice. A step enters the
    averages by `commit`, to be called if the weights moved; never if a stream has no positives or a loss is not finite.

    With `doubly_robust` it is L = L_h + alpha * m/(m + n) * r * (L_p - L_c), L_c being the loss of the n human images
    under what a teacher claims of them that has not learned from them, and r the positives of the claims for each human
    one: with it r * L_c is a mean over all human images, to which those without a claim add nothing. With claims that
    are right and of all images it is, for alpha 1, the mean over all n + m images; where they are wrong on both sides
    alike the bracket vanishes, in expectation. Without pseudo positives a step leaves it out. It has no lower bound: a
    network may make L_c as large as it likes where claims on human images are wrong. Let alpha rise over the training,
    as the paper does.

    It knows no network and no task: in a loop of your own, give `combine` the losses of the two halves of a batch.

    Args:
        alpha: the weight of the pseudo loss, at least 0; 0 is supervised training. May be set anew before a step.
        decay: of the moving averages, in [0, 1).
        clip: the least and the greatest ratio, in this order, both more than 0.
        eps: the least mean of the pseudo loss that the ratio is divided by; more than 0.
        per_term: a ratio for each term of the loss instead of one for the total.
        normalise: False for L = L_h + alpha * L_p, which the paper found unstable; the averages are kept and logged all
            the same.
        doubly_robust: n and m, how many human and how many pseudo-labelled images there are, for that loss; `clip`,
            `per_term` and `normalise` have no part in it.

    Raises:
        TrainError: for a number outside of its range, or what is no number.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        decay: float = 0.99,
        clip: tuple[float, float] = CLIP,
        eps: float = 1e-8,
        per_term: bool = False,
        normalise: bool = True,
        doubly_robust: tuple[int, int] | None = None,
    ) -> None:
        if not (_is_number(alpha) and alpha >= 0):
            raise TrainError(f"alpha {alpha!r} is no weight: give a number of at least 0")
        if not (_is_number(decay) and 0 <= decay < 1):
            raise TrainError(f"decay {decay!r} is out of range: give a number in [0, 1)")
        match clip:
            case [least, greatest] if _is_number(least) and _is_number(greatest) and 0 < least <= greatest:
                self.clip = float(least), float(greatest)
            case _:
                raise TrainError(f"clip {clip!r} is no range: give the least and the greatest ratio, both more than 0")
        if not (_is_number(eps) and eps > 0):
            raise TrainError(f"eps {eps!r} is out of range: give a number of more than 0")
        match doubly_robust:
            case None:
                self.pool_share = None
            case [human, pseudo] if _is_number(human) and _is_number(pseudo) and human > 0 and pseudo > 0:
                self.pool_share = pseudo / (human + pseudo)
            case _:
                raise TrainError(
                    f"doubly_robust {doubly_robust!r} is no pair of numbers: give how many human and how many pseudo "
                    "images there are"
                )
        self.alpha, self.decay, self.eps = float(alpha), float(decay), float(eps)
        self.per_term, self.normalise = per_term, normalise and self.pool_share is None
        self._state: dict[str, Any] = {"averages": torch.zeros(1, 2), "updates": 0, "clipped": torch.zeros(1)}

    def __call__(self, sums: StreamSums) -> JointStep:
        """The joint loss of a step, scaled so that gradients averaged over processes are those of the global batch.
        Every process must call it at every step: it makes one all-reduce.

        Args:
            sums: the loss of each stream, not normalised, and what normalises it (the tasks of students.tasks make it).

        Returns:
            The step: call `loss.backward()` if it is `finite`, and `commit` it once the weights have moved.

        Raises:
            ValueError: for sums with claims where the loss is not doubly robust, or without where it is.
        """
        local = torch.stack(list(sums.terms.values()))
        self._check_streams(local.shape[1])
        counts, everything = _reduced(sums, local)
        world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        values, positives, ignored = everything
        finite = bool(values.isfinite().all())

        averages, updates, clipped = (self._state[name] for name in ("averages", "updates", "clipped"))
        learns = finite and bool((positives[:2] > 0).all())
        if learns:
            averages = self.decay * averages + (1 - self.decay) * self._grouped(values[:, :2])
            updates += 1
        mean = averages / (1 - self.decay**updates) if updates else torch.ones(1, 2)
        raw_ratio = mean[:, 0] / mean[:, 1].clamp(min=self.eps)
        ratio = raw_ratio.clamp(*self.clip) if self.normalise else torch.ones_like(raw_ratio)
        if learns and self.normalise:
            clipped = clipped + (ratio != raw_ratio)

        weights = self._weights(ratio, positives, len(local))
        weighted = weights * values
        value = weighted.sum().item()
        finite = finite and math.isfinite(value)
        pending = {"averages": averages, "updates": updates, "clipped": clipped}
        return JointStep(
            loss=world * (weights.to(local.device) * local / counts).sum(),
            value=value,
            finite=finite,
            terms=dict(zip(sums.terms, values, strict=True)),
            weighted=dict(zip(sums.terms, weighted, strict=True)),
            positives=positives,
            ignored=ignored,
            averages=mean,
            raw_ratio=raw_ratio,
            ratio=ratio,
            clip_rate=clipped / max(updates, 1),
            pending=pending if finite else self._state,
        )

    def combine(
        self,
        human: Tensor | Mapping[str, Tensor],
        pseudo: Tensor | Mapping[str, Tensor],
        positives: Sequence[float] | None = None,
        claimed: Tensor | Mapping[str, Tensor] | None = None,
    ) -> JointStep:
        """The joint loss of the two losses that any training loop has: of its human and of its pseudo images.

        Args:
            human: the loss of the human images, a scalar, or a mapping of the names of its terms to scalars (as
                torchvision's detectors return).
            pseudo: the same of the pseudo-labelled images, with the same terms.
            positives: what the losses of the two are sums over (objects, pixels, images), by which each is divided, at
                least by 1; by default 1, for losses that are means already. With a 0 the step leaves the averages
                alone. Of a doubly robust loss three, the last for the claims.
            claimed: for the doubly robust loss, that of the human images under the labels that a teacher claims.

        Returns:
            The step: call `loss.backward()` if it is `finite`, and `commit` it once the weights have moved.

        Raises:
            TypeError: if a loss is no tensor, nor a mapping of names to tensors.
            ValueError: if these have other terms, or none, or a term is not a scalar, or there are more or fewer of
                them, or of positives, than the loss needs.
        """
        streams = [_terms(loss) for loss in (human, pseudo, *(() if claimed is None else (claimed,)))]
        if (
            not streams[0]
            or any(loss.keys() != streams[0].keys() for loss in streams)
            or any(term.numel() != 1 for loss in streams for term in loss.values())
        ):
            shapes = [str({name: tuple(term.shape) for name, term in loss.items()}) for loss in streams]
            raise ValueError(f"human and pseudo losses are scalars of the same terms, not {' and '.join(shapes)}")
        terms = {name: torch.stack([loss[name].reshape(()) for loss in streams]) for name in streams[0]}
        device = next(iter(terms.values())).device
        counted = [1.0] * len(streams) if positives is None else list(positives)
        if len(counted) != len(streams):
            raise ValueError(f"positives {positives} are not of {len(streams)} losses: give one number for each")
        return self(StreamSums(terms, torch.tensor(counted, dtype=torch.float32, device=device)))

    def commit(self, step: JointStep) -> None:
        """Let the step's losses into the averages: to be called after a step of the optimizer."""
        self._state = step.pending

    def state_dict(self) -> dict[str, Any]:
        """The averages, to be saved beside the weights."""
        return self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._state = {**self._state, **state}

    def _check_streams(self, streams: int) -> None:
        if streams != (2 if self.pool_share is None else 3):
            what = "needs the loss of the claims, too" if self.pool_share is not None else "has no use for claims"
            raise ValueError(f"a loss with doubly_robust {self.pool_share is not None} {what}")

    def _weights(self, ratio: Tensor, positives: Tensor, terms: int) -> Tensor:
        """Of each term in each stream, (T, S)."""
        if self.pool_share is not None:
            human, pseudo, claimed = positives.tolist()
            weight = self.alpha * self.pool_share * claimed / max(human, 1.0) if pseudo > 0 else 0.0
            return torch.tensor([1.0, weight, -weight]).expand(terms, 3)
        whole = 1 + self.alpha if self.normalise else 1.0
        return torch.stack([torch.ones(terms), self.alpha * ratio.expand(terms)], 1) / whole

    def _grouped(self, terms: Tensor) -> Tensor:
        """(T, 2) terms as the (G, 2) groups with a ratio each."""
        return terms if self.per_term else terms.sum(0, keepdim=True)


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def _terms(loss: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A loss by the names of its terms. Raises TypeError."""
    terms = {"loss": loss} if isinstance(loss, Tensor) else loss
    if not isinstance(terms, Mapping):
        raise TypeError(
            f"a loss is a tensor, or a mapping of names to tensors, not {loss!r}: give it with its gradient"
        )
    for name, term in terms.items():
        if not isinstance(term, Tensor):
            raise TypeError(f"the term {name!r} of a loss is a tensor, not {term!r}: give it with its gradient")
    return terms


def _reduced(sums: StreamSums, local: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """What normalises the terms, (T, S), on their device; on the CPU their normalised values (T, S), the positives (S,)
    and the ignored shares (S,). All of the global batch."""
    counts = sums.positives.expand_as(local) if sums.counts is None else sums.counts
    ignored = local.new_zeros(2, local.shape[1]) if sums.ignored is None else sums.ignored
    everything = torch.cat([local.detach(), counts, sums.positives[None], ignored]).float()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(everything)
    terms = len(local)
    totals, counted, (positives, left_out, all_there_is) = everything.cpu().split([terms, terms, 3])
    counts = everything[terms : 2 * terms].clamp(min=1)
    return counts, (totals / counted.clamp(min=1), positives, left_out / all_there_is.clamp(min=1))
