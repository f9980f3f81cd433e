"""Steering: changes of routing while a model runs, as a list of rules that can be saved and shared.

    steering = Steering([{"rule": "off", "layers": [3], "experts": [7]}])
    with steering.applied(model):
        model.generate(**inputs)

What each rule does is in `rules` and docs/steering.md. Rules without effect (a bias of 0, a
temperature of 1) are left out when applied, so a neutral steering is bit-identical to none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ...store.files.whole import write_whole
from ...store.json_object import object_once
from ...store.schema import RouterSpec
from ..errors import SteeringError
from ..hooks.taps import Steered, tapped
from ..models.forward import stop_token_ids
from ..routers.find import find_sites
from ..routers.site import Site
from .check import effective, problems_with
from .editor import RouterEditor
from .pairs import masked_pairs, no_pair
from .protect import AttentionPaid, attention_beside
from .read import read_rules
from .recorded import recorded
from .rows import Program, RowMap
from .rules import Rule

PROFILE_VERSION = 1
Lengths = Tensor | Sequence[int] | int | None
Routers = Sequence[RouterSpec] | None


@dataclass(frozen=True, init=False)
class Steering:
    """A list of rules, applied in their order. Immutable; `a + b` applies first a's rules, then b's."""

    rules: tuple[Rule, ...]
    name: str
    model: str
    """The model that it was made for, as the user knows it; only for display."""

    def __init__(self, rules: Iterable[Any] = (), *, name: str = "", model: str = "") -> None:
        """
        Args:
            rules: rules as JSON values (`{"rule": "off", "layers": [3], "experts": [7]}`) or `Rule`s.
        Raises:
            SteeringError: a rule that cannot be understood.
        """
        if isinstance(rules, (dict, str)):
            raise SteeringError("rules must be a list of rules; use Steering.from_json for a profile")
        object.__setattr__(self, "rules", read_rules(rules))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "model", model)

    def __add__(self, other: Steering) -> Steering:
        name = " + ".join(part for part in (self.name, other.name) if part)
        return Steering(self.rules + other.rules, name=name, model=self.model or other.model)

    def __bool__(self) -> bool:
        return bool(self.rules)

    def to_json(self) -> dict[str, Any]:
        """The profile: version, name, model, and the rules in canonical form."""
        rules = [rule.to_json() for rule in self.rules]
        return {"version": PROFILE_VERSION, "name": self.name, "model": self.model, "rules": rules}

    @classmethod
    def from_json(cls, data: dict[str, Any] | str | Path) -> Steering:
        """A profile from its JSON: an object, JSON text, or the path of a file.

        Raises:
            SteeringError: no valid JSON, a profile of a newer version, or a rule that cannot be understood.
        """
        data = _parsed(data)
        if isinstance(data, list):
            data = {"rules": data}
        if not isinstance(data, dict) or not isinstance(data.get("rules"), list):
            raise SteeringError("a steering profile is an object with a list of rules")
        version = data.get("version", PROFILE_VERSION)
        if not isinstance(version, int) or version > PROFILE_VERSION:
            raise SteeringError(
                f"this profile has version {version}; this moescope reads up to {PROFILE_VERSION}"
            )
        return cls(data["rules"], name=str(data.get("name") or ""), model=str(data.get("model") or ""))

    @classmethod
    def replay(
        cls,
        source: Any,
        *,
        weights: Literal["live", "recorded"] = "live",
        layers: Iterable[int] | Literal["all"] = "all",
        stream: str = "decoder",
        span: Any = "all",
    ) -> Steering:
        """Impose a recorded routing.

        Args:
            source: a `Trace`, its address, or what `record_routing` gave in this process (replayed in the order of the
                calls, padding included; it cannot be saved).
            weights: `live` takes the model's own router scores of the recorded experts, scaled as the model does it;
                `recorded` the stored gate weights (as they were stored: float16 unless traced with float32).
            layers, stream, span: as in any rule.
        Raises:
            SteeringError: nothing that could be replayed.
        """
        rule = {
            "rule": "replay",
            "trace": recorded(source),
            "weights": weights,
            "stream": stream,
            "span": span,
        }
        return cls([rule | {"layers": layers if layers == "all" else list(layers)}])

    def save(self, path: str | Path) -> None:
        """Write it whole or not at all. Raises OSError."""
        write_whole(path, json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")

    def validate(self, model: nn.Module, *, routers: Routers = None) -> list[str]:
        """What of this steering does not fit a model, one sentence each; empty where all fits."""
        return problems_with(self.rules, [site.spec for site in find_sites(model, routers)])

    def with_ratios(self, ratios: dict[int, float]) -> Steering:
        """The same, with these μ by layer where a `prune_ratio` has none (`median_ratios` of a trace)."""
        rules = [replace(rule, amount=dict(ratios)) if rule.wants_a_trace else rule for rule in self.rules]
        return Steering(rules, name=self.name, model=self.model)

    def applied(
        self, model: nn.Module, *, prompt_lengths: Lengths = None, routers: Routers = None
    ) -> AbstractContextManager[Applied]:
        """Steer a model while the context is open; everything is taken back at its end, also on exceptions.

        Args:
            model: the model; steerings applied to it at the same time add up in the order of their contexts.
            prompt_lengths: tokens of each sequence that count as prompt, for rules with that span. Left out,
                the prompt is what is fed while the cache is empty.
            routers: only these routers, or declarations of routers of one's own (`DeclaredRouter`).
        Raises:
            SteeringError: a rule names layers or experts that the model does not have, or cannot act there.
        """
        return _applied(model, [self], True, prompt_lengths, routers)


class PerSequence:
    """A steering (or None) for each sequence of a batch, side by side in one forward pass.

    Where a batch holds a multiple of that many sequences (beams, several answers), each is repeated.
    """

    def __init__(self, steerings: Sequence[Steering | None]) -> None:
        self.steerings = list(steerings)

    def applied(
        self, model: nn.Module, *, prompt_lengths: Lengths = None, routers: Routers = None
    ) -> AbstractContextManager[Applied]:
        """As `Steering.applied`; row i of the batch is steered by steering i alone."""
        return _applied(model, self.steerings, False, prompt_lengths, routers)


class Applied:
    """A steering that is in force."""

    def __init__(self, model: nn.Module, sites: Sequence[Site], row_maps: dict[str, RowMap]) -> None:
        self._model = model
        self._sites = sites
        self._row_maps = row_maps
        self._stack = ExitStack()

    def assign(
        self,
        steerings: Sequence[Steering | None],
        *,
        everywhere: bool = False,
        prompt_lengths: Tensor | Sequence[int] | int | None = None,
    ) -> None:
        """From the next forward pass on, steer sequence i of the batch by steering i.

        `prompt_lengths` as in `Steering.applied`.
        """
        self._stack.close()
        for row_map in self._row_maps.values():
            row_map.prompt_lengths, row_map.asked, row_map.follows = prompt_lengths, False, False
            row_map.replayed.clear()
        specs = [site.spec for site in self._sites]
        distinct = {id(steering): steering for steering in steerings if steering}.values()
        for steering in distinct:
            if problems := problems_with(steering.rules, specs) + self._unfit(steering):
                raise SteeringError("; ".join(problems))
        for steering in distinct:
            chosen = None if everywhere else tuple(other is steering for other in steerings)
            self._steer(steering.rules, chosen)

    def split(self, prompt_lengths: Lengths) -> None:
        """From the next forward pass on, count so many tokens of each sequence as its prompt."""
        for row_map in self._row_maps.values():
            row_map.prompt_lengths = prompt_lengths

    def _unfit(self, steering: Steering) -> list[str]:
        fixed = [site.spec for site in self._sites if site.passage.fixed_ids]
        refused = [
            f"{rule.rule} cannot act in layer {spec.layer}: only the weights of its choice can be replaced"
            for rule in steering.rules
            for spec in fixed
            if rule.kind.replays and rule.acts_in(spec.layer, spec.stream)
        ]
        blind = [site.spec for site in self._sites if not site.passage.takes_input]
        refused += [
            f"{rule.rule} with {option} cannot act in layer {spec.layer}: what its experts receive cannot be seen"
            for rule in steering.rules
            for option in ("theta", "protect")
            for spec in blind
            if rule.options.get(option) and rule.acts_in(spec.layer, spec.stream)
        ]
        refused += [
            f"layer {site.spec.layer}: {problem}"
            for rule in steering.rules
            for site in self._sites
            if rule.on_pairs
            and rule.acts_in(site.spec.layer, site.spec.stream)
            and (problem := no_pair(rule, site))
        ]
        unfit = [site.spec for site in self._sites if not site.proportional]
        return refused + [
            f"{rule.rule} cannot act in layer {spec.layer}: its gate weights are not proportional to its scores"
            for rule in steering.rules
            for spec in unfit
            if (rule.rechooses or rule.options.get("weights") == "live")
            and rule.acts_in(spec.layer, spec.stream)
        ]

    def _steer(self, rules: Sequence[Rule], sequences: tuple[bool, ...] | None) -> None:
        for site in self._sites:
            spec = site.spec
            acting = effective(rules, spec)
            if acting:
                row_map = self._row_maps[site.stack]
                paid = self._attention(site) if any(r.options.get("protect") for r in acting) else None
                program = Program(tuple(acting), row_map, sequences, paid)
                row_map.asked |= paid is not None or not all(map(program.on_all, acting))
                row_map.follows |= any(rule.reads_tokens for rule in acting)
                row_map.asked |= row_map.follows
                for rule in (rule for rule in acting if rule.on_pairs):
                    self._stack.enter_context(masked_pairs(self._model, rule, site, self._sites, program))
                steered = Steered(program, RouterEditor)
                self._stack.enter_context(tapped([site], lambda tap, _, steered=steered: tap.steer(steered)))

    def _attention(self, site: Site) -> AttentionPaid:
        """What the attention of a router's layer pays, watched from now on."""
        router = site.spec.router
        attention = attention_beside(self._model, router)
        if attention is None:
            raise SteeringError(f"protect needs the attention of the layer of {router}, and none was found")
        paid = AttentionPaid(router)
        self._stack.callback(paid.watch(attention).remove)
        return paid

    def close(self) -> None:
        self._stack.close()


@contextmanager
def _applied(
    model: nn.Module,
    steerings: Sequence[Steering | None],
    everywhere: bool,
    prompt_lengths: Lengths,
    routers: Routers,
) -> Iterator[Applied]:
    sites = find_sites(model, routers)
    stop_ids = stop_token_ids(model)
    row_maps = {site.stack: RowMap(prompt_lengths, stop_ids=stop_ids) for site in sites}
    with ExitStack() as stack:
        for path, row_map in row_maps.items():
            stack.callback(row_map.watch(model.get_submodule(path)).remove)
        applied = Applied(model, sites, row_maps)
        stack.callback(applied.close)
        applied.assign(steerings, everywhere=everywhere, prompt_lengths=prompt_lengths)
        yield applied


def _parsed(data: Any) -> Any:
    try:
        if isinstance(data, Path) or (isinstance(data, str) and not data.lstrip().startswith(("{", "["))):
            data = Path(data).read_text(encoding="utf-8")
        return json.loads(data, object_pairs_hook=object_once) if isinstance(data, str) else data
    except RecursionError:
        raise SteeringError("not a steering profile: too deeply nested") from None
    except (OSError, ValueError) as error:
        raise SteeringError(f"not a steering profile: {error}") from None
