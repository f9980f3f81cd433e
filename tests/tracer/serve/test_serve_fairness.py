"""Turns at the model: fair to clients, bounded, and never lost."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.tracer.serve.engine.fair import FairQueue, QueueFull


@dataclass(eq=False)
class Entry:
    client: str
    name: str = ""


def test_clients_take_turns_however_many_requests_each_has():
    queue = FairQueue[Entry](active=8, queued=8)
    for name in "abcd":
        queue.add(Entry("greedy", name))
    queue.add(Entry("modest", "x"))
    served = [entry.client for _ in range(10) if (entry := queue.next())]
    assert served.count("modest") == 5


def test_requests_of_one_client_take_turns():
    queue = FairQueue[Entry](active=8, queued=8)
    for name in "abc":
        queue.add(Entry("one", name))
    turns = [entry.name for _ in range(6) if (entry := queue.next())]
    assert turns == list("abcabc")


def test_the_client_with_the_fewest_turns_is_promoted_first():
    queue = FairQueue[Entry](active=2, queued=8)
    first, second = Entry("greedy", "a"), Entry("greedy", "b")
    for entry in (first, second, Entry("greedy", "c"), Entry("modest", "x")):
        queue.add(entry)
    assert queue.num_active == 2
    queue.remove(first)
    assert {entry.name for entry in queue.entries()[:2]} == {"b", "x"}


def test_a_full_queue_refuses():
    queue = FairQueue[Entry](active=1, queued=2)
    for _ in range(3):
        queue.add(Entry("a"))
    with pytest.raises(QueueFull):
        queue.add(Entry("b"))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60), st.integers(1, 4))
def test_every_entry_gets_its_turn_and_none_is_kept_after_removal(moves, active):
    queue, model = FairQueue[Entry](active, 100), []
    for client, add in moves:
        if add:
            model.append(Entry(client))
            queue.add(model[-1])
        elif model:
            queue.remove(model.pop(0))
        assert {id(e) for e in queue.entries()} == {id(e) for e in model}
        assert queue.num_active == min(active, len(model))
    seen = {id(queue.next()) for _ in range(len(model) * active + 1)} if model else set()
    assert len(seen) == min(active, len(model))
