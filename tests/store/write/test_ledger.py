"""Many writers of parts, one ledger: nothing twice, nothing lost, keys without a gap."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moescope.store import Trace, open_trace
from moescope.store.errors import BadPart, TraceLocked
from moescope.store.files.entries import PartEntry
from moescope.store.files.folder import open_folder
from moescope.store.schema import Part
from moescope.store.write.ledger import Answer, Ledger, Reservation
from moescope.store.write.putter import PartPutter
from moescope.store.write.synthetic import Synthetic, synthetic_parts, write_synthetic

PLAN = Synthetic(prompts=24, tokens_per_prompt=6, layers=2, experts=8, top_k=2, part_tokens=12, seed=3)
CAPTURE = ("ids", "weights")


@pytest.fixture(scope="module")
def parts() -> list[Part]:
    return list(synthetic_parts(PLAN))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(
        tmp_path / "t", routers=PLAN.routers(), model={}, prompt_set={}, settings={}, capture=CAPTURE, shared=True
    )  # fmt: skip
    yield made
    made.close()


def putter(ledger: Any, url: str, owner: str = "") -> PartPutter:
    return PartPutter(
        open_folder(url), ledger, routers=PLAN.routers(), capture=CAPTURE, weight_type="float16", owner=owner
    )  # fmt: skip


def ids_of(part: Part) -> list[str]:
    return part.prompts["prompt_id"].to_pylist()


def events(trace: Trace) -> list[tuple[Any, ...]]:
    table = trace.events()
    return sorted(
        zip(*(map(str, table[name].to_pylist()) for name in sorted(table.column_names)), strict=True)
    )


def names(ledger: Ledger) -> list[str]:
    return [entry.name for entry in ledger.manifest.parts]


class OneAtATime:
    """A worker of which the test says when its steps happen."""

    def __init__(self, ledger: Ledger, owner: str, part: Part) -> None:
        self.ledger, self.part, self.owner = ledger, part, owner
        self.reservation = ledger.reserve(ids_of(part), owner)

    def put(self) -> PartEntry:
        folder, name = self.ledger.folder, self.reservation.name
        return putter(self.ledger, folder.url)._builder.build(
            self.part,
            name,
            self.reservation.first_prompt,
            lambda table, data: folder.put(f"{table}/{name}.parquet", data),
        )

    def commit(self) -> Answer:
        return self.ledger.commit(self.reservation.name, self.put())


def test_four_workers_make_the_trace_of_one(tmp_path: Path, ledger: Ledger, parts: list[Part]) -> None:
    def work(own: list[Part], owner: str) -> None:
        out = putter(ledger, ledger.folder.url, owner)
        for part in own:
            out.write(part)

    threads = [threading.Thread(target=work, args=(parts[i::4], str(i))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.finish(seconds=1)
    ledger.close()
    write_synthetic(tmp_path / "whole", PLAN)
    found, whole = open_trace(tmp_path / "t"), open_trace(tmp_path / "whole")
    assert found.verify() == []
    assert found.state == "complete"
    assert len(set(names(ledger))) == len(parts)
    assert [sum(e.prompts for e in found.manifest.parts[:i]) for i in range(len(parts))] == [
        entry.first_prompt for entry in found.manifest.parts
    ]
    assert events(found) == events(whole)
    assert sorted(found.prompts()["prompt_id"].to_pylist()) == sorted(
        whole.prompts()["prompt_id"].to_pylist()
    )


def test_a_part_waits_for_those_before_it(ledger: Ledger, parts: list[Part]) -> None:
    first, second = OneAtATime(ledger, "a", parts[0]), OneAtATime(ledger, "b", parts[1])
    assert second.commit() == "wait"
    assert names(ledger) == []
    assert first.commit() == "listed"
    assert second.commit() == "listed"
    assert names(ledger) == [first.reservation.name, second.reservation.name]


def test_where_one_is_given_up_the_next_moves_up_under_a_new_name(
    tmp_path: Path, ledger: Ledger, parts: list[Part]
) -> None:
    dead, alive = OneAtATime(ledger, "dead", parts[0]), OneAtATime(ledger, "alive", parts[1])
    put, old = dead.put(), alive.reservation
    ledger.give_up("dead")
    answer = alive.commit()
    assert isinstance(answer, Reservation)
    assert (answer.first_prompt, answer.name != old.name) == (0, True)
    alive.reservation = answer
    assert alive.commit() == "listed"
    # the dead one wakes up: nothing of it is listed, and it gets nothing new
    with pytest.raises(TraceLocked, match="declared dead"):
        ledger.check(dead.reservation.name)
    with pytest.raises(TraceLocked, match="declared dead"):
        ledger.commit(dead.reservation.name, put)
    with pytest.raises(TraceLocked, match="declared dead"):
        ledger.reserve(["new"], "dead")
    # others do its work, and no number was given twice
    again = OneAtATime(ledger, "alive", parts[0])
    assert again.commit() == "listed"
    numbers = [
        int(r.name.split("-")[1]) for r in (dead.reservation, old, alive.reservation, again.reservation)
    ]
    assert sorted(set(numbers)) == numbers
    ledger.finish()
    ledger.close()
    trace = open_trace(tmp_path / "t")
    assert trace.verify() == []
    assert trace.prompts()["prompt_id"].to_pylist() == ids_of(parts[1]) + ids_of(parts[0])
    files = {path.stem for path in (tmp_path / "t").rglob("part-*.parquet")}
    assert files == {alive.reservation.name, again.reservation.name}


def test_a_putter_builds_again_by_itself_and_leaves_no_file_of_the_old_name(
    tmp_path: Path, ledger: Ledger, parts: list[Part]
) -> None:
    dead = OneAtATime(ledger, "dead", parts[0])
    thread = threading.Thread(target=putter(ledger, ledger.folder.url, "alive").write, args=(parts[1],))
    thread.start()
    thread.join(0.3)  # it waits for the one before
    assert names(ledger) == []
    ledger.give_up(dead.owner)
    thread.join(20)
    assert len(names(ledger)) == 1
    files = [path.stem for path in (tmp_path / "t").rglob("part-*.parquet")]
    assert files == names(ledger) * 4


def test_what_fails_leaves_its_place_to_others(ledger: Ledger, parts: list[Part]) -> None:
    out = putter(ledger, ledger.folder.url)
    with pytest.raises(BadPart, match="handed in twice"):
        out.write(Part(prompts=parts[0].prompts, tokens=parts[0].tokens, events=[parts[0].events[0]] * 2))
    assert ids_of(parts[0]) == out.write(parts[0])
    with pytest.raises(BadPart, match="in the trace already"):
        out.write(parts[0])
    OneAtATime(ledger, "a", parts[1])
    with pytest.raises(BadPart, match="in the trace already"):  # not yet listed, but another is at it
        ledger.reserve(ids_of(parts[1])[:1], "b")


def test_a_resumed_ledger_never_gives_a_name_of_an_earlier_one(tmp_path: Path, parts: list[Part]) -> None:
    given = []
    for part in parts[:2]:
        made = Ledger(
            tmp_path / "t", routers=PLAN.routers(), model={}, prompt_set={}, settings={}, capture=CAPTURE,
            shared=True, resume=True,
        )  # fmt: skip
        lost = made.reserve(["lost"], "dead")  # its driver dies before it is put
        given += [lost.name]
        made.give_up("dead")
        assert putter(made, made.folder.url).write(part) == ids_of(part)
        made.close()
        given += names(made)[-1:]
    assert len(set(given)) == 4
    assert len(open_trace(tmp_path / "t").manifest.runs) == 2
