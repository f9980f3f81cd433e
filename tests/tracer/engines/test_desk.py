"""Who works at which prompts: none lost, none twice, whoever dies when."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moescope.store import open_trace
from moescope.store.errors import TraceLocked
from moescope.store.files.folder import open_folder
from moescope.store.write.ledger import Reservation
from moescope.store.write.putter import PartPutter
from moescope.store.write.synthetic import Synthetic, synthetic_parts
from moescope.tracer.engines.ray import trace as ray_trace
from moescope.tracer.engines.ray.desk import Desk
from moescope.tracer.errors import TracerError

PLAN = Synthetic(prompts=60, tokens_per_prompt=4, layers=2, experts=8, top_k=2, part_tokens=1, seed=3)
BY_ID = {part.prompts["prompt_id"][0].as_py(): part for part in synthetic_parts(PLAN)}
IDS = sorted(BY_ID)
assert len(IDS) == PLAN.prompts  # a part each
DESCRIBED: dict[str, Any] = {
    "routers": PLAN.routers(), "model": {"name": "m", "weights_fingerprint": "abc"}, "settings": {"chat": False},
    "capture": ["ids", "weights"], "weight_type": "float16", "steering": None,
}  # fmt: skip


class Dies(BaseException):
    """A process that is gone at this point."""


class Hand:
    """A worker whose process may end between any two of its steps."""

    def __init__(self, desk: Desk, name: str, dice: random.Random) -> None:
        self.desk, self.name, self.dice = desk, name, dice
        self.deadly = 0.04
        desk.open(name, DESCRIBED)
        self.putter = PartPutter(
            open_folder(desk._url), self, routers=PLAN.routers(), capture=DESCRIBED["capture"], weight_type="float16"
        )  # fmt: skip
        self.ids: dict[str, Any] = {}

    def may_die(self) -> None:
        if self.dice.random() < self.deadly:
            raise Dies

    def reserve(self, ids: Any, owner: str = "") -> Reservation:
        self.may_die()
        reservation = self.desk.reserve(ids, self.name)
        self.ids[reservation.name] = ids
        return reservation

    def check(self, name: str) -> None:
        self.may_die()
        self.desk.check(name)

    def commit(self, name: str, entry: Any) -> Any:
        self.may_die()
        answer = self.desk.commit(name, entry, self.name, self.ids[name])
        if isinstance(answer, Reservation):
            self.ids[answer.name] = self.ids[name]
        self.may_die()
        return answer

    def release(self, name: str) -> None:
        """Dead processes release nothing."""

    def work(self) -> bool:
        """One lot; False where nothing waits."""
        if (lot := self.desk.deal(self.name)) is None:
            return False
        self.desk.ran(self.name, dict.fromkeys(lot, PLAN.tokens_per_prompt))
        for number in lot:
            self.putter.write(BY_ID[IDS[number]])
        return True


@pytest.mark.parametrize("seed", range(4))
def test_whoever_dies_when_every_prompt_is_there_once(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    desk = Desk(tmp_path / "t", IDS, 3, {"prompts": len(IDS)})
    hands = [Hand(desk, f"w{i}", dice) for i in range(3)]
    deaths = 0
    while (standing := desk.standing()) is None or standing.left:
        hand = dice.choice(hands)
        try:
            hand.work()
        except Dies:
            deaths += 1
            desk.gone(hand.name)
            hands[hands.index(hand)] = Hand(desk, f"w{2 + deaths + 1}", dice)
    assert deaths > 2
    assert desk.standing().ran == len(IDS)  # pyright: ignore[reportOptionalMemberAccess]
    told = desk.finish(1.0, 3)
    assert (told["prompts"], told["tokens"]) == (len(IDS), PLAN.tokens_per_prompt * len(IDS))
    trace = open_trace(tmp_path / "t")
    assert trace.verify() == []
    assert sorted(trace.prompts()["prompt_id"].to_pylist()) == IDS
    events = sum(len(router.position) for part in BY_ID.values() for router in part.events)
    assert trace.events().num_rows == told["events"] == events
    files = {path.stem for path in (tmp_path / "t").rglob("part-*.parquet")}
    assert files == {entry.name for entry in trace.manifest.parts}


def test_a_worker_thought_dead_gets_nothing_listed(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "t", IDS, 2, {})
    slow = Hand(desk, "slow", random.Random(0))
    slow.deadly = 0
    lot = desk.deal("slow")
    assert lot
    assert desk.gone("slow") == len(lot)
    with pytest.raises(TraceLocked, match="declared dead"):
        slow.putter.write(BY_ID[IDS[lot[0]]])
    assert desk.deal("slow") is None
    fast = Hand(desk, "fast", random.Random(0))
    assert desk.deal("fast") == lot  # first of all, what the other had
    assert desk.standing().left == len(IDS)  # pyright: ignore[reportOptionalMemberAccess]
    fast.deadly = 0
    fast.putter.write(BY_ID[IDS[lot[0]]])
    assert desk.standing().left == len(IDS) - 1  # pyright: ignore[reportOptionalMemberAccess]
    desk.close()


def test_a_new_desk_goes_on_where_the_old_one_died(tmp_path: Path) -> None:
    first = Desk(tmp_path / "t", IDS, 2, {})
    hand = Hand(first, "a", random.Random(0))
    hand.deadly = 0
    hand.work()
    committed = len(IDS) - first.standing().left  # pyright: ignore[reportOptionalMemberAccess]
    first.close()  # the lock dies with its process
    second = Desk(tmp_path / "t", IDS, 2, {}, resume=True)
    hand = Hand(second, "a", random.Random(0))
    hand.deadly = 0
    assert second.standing().left == len(IDS) - committed  # pyright: ignore[reportOptionalMemberAccess]
    while hand.work():
        pass
    told = second.finish(1.0, 1)
    assert (told["prompts"], told["resumed_prompts"]) == (len(IDS) - committed, committed)
    assert open_trace(tmp_path / "t").verify() == []
    assert len(open_trace(tmp_path / "t").manifest.runs) == 2


def test_a_worker_with_another_model_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "t", IDS, 2, {})
    desk.open("a", DESCRIBED)
    other = DESCRIBED | {"model": {"name": "m", "weights_fingerprint": "other"}}
    with pytest.raises(TracerError, match=r"b does not run what the others run: .*weights_fingerprint"):
        desk.open("b", other)
    desk.close()


def test_a_connection_to_the_desk_that_broke_off_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unavailable(Exception): ...

    answers = iter([Unavailable(), Unavailable(), "standing"])

    def asked(reference: str) -> str:
        assert reference == "called"
        if isinstance(found := next(answers), Exception):
            raise found
        return found

    ray = SimpleNamespace(exceptions=SimpleNamespace(ActorUnavailableError=Unavailable))
    desk = SimpleNamespace(standing=SimpleNamespace(remote=lambda: "called"))
    monkeypatch.setattr(ray_trace, "asked", asked)
    monkeypatch.setattr(ray_trace, "LOOK_SECONDS", 0.001)
    job: Any = None
    crew = ray_trace._Crew(ray, desk, job, None, None, 0, 1, object)
    assert crew._of_desk("standing") == "standing"
    answers = iter([Unavailable()])
    monkeypatch.setattr(ray_trace, "CUT_SECONDS", -1.0)
    with pytest.raises(Unavailable):
        crew._of_desk("standing")
