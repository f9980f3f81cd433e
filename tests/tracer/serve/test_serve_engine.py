"""The worker thread: turns between requests, cancellation, deadlines, failures."""

import threading
import time

import pytest

from moescope.tracer.serve.engine.engine import Engine, Message
from moescope.tracer.serve.errors import ApiError
from moescope.tracer.serve.limits import Limits


class Inbox:
    """Collects what a ticket's sink is told."""

    def __init__(self) -> None:
        self.events: list[dict | None] = []
        self.end: Message | None = None
        self.ended = threading.Event()

    def __call__(self, message: Message) -> None:
        if message.kind == "event":
            self.events.append(message.event)
            return
        self.end = message
        self.ended.set()

    def wait(self) -> Message:
        assert self.ended.wait(10)
        assert self.end is not None
        return self.end


@pytest.fixture
def engine():
    engine = Engine(lambda: "the model", Limits(active=4, queued=2))
    assert engine.wait_ready(10)
    yield engine
    engine.close()


def count_to(n, log=None, name=""):
    def make(loaded):
        assert loaded == "the model"
        for i in range(n):
            if log is not None:
                log.append(name)
            yield {"i": i}

    return make


def test_events_come_in_order_and_then_done(engine):
    inbox = Inbox()
    engine.submit(count_to(3), inbox, client="a")
    assert inbox.wait().kind == "done"
    assert inbox.events == [{"i": 0}, {"i": 1}, {"i": 2}]


def test_requests_take_turns_step_by_step(engine):
    log: list[str] = []
    gate, inboxes = threading.Event(), [Inbox(), Inbox()]

    def hold(loaded):
        gate.wait(10)
        yield None

    engine.submit(hold, Inbox(), client="gate")
    for name, inbox in zip("ab", inboxes, strict=True):
        engine.submit(count_to(5, log, name), inbox, client=name)
    gate.set()
    for inbox in inboxes:
        inbox.wait()
    assert log == ["a", "b"] * 5


def test_a_cancelled_request_stops_and_is_closed_in_the_worker(engine):
    closed_in, inbox = [], Inbox()

    def endless(loaded):
        try:
            while True:
                yield {}
        finally:
            closed_in.append(threading.current_thread().name)

    ticket = engine.submit(endless, inbox, client="a")
    while not inbox.events:
        time.sleep(0.001)
    ticket.cancel()
    end = inbox.wait()
    assert end.error is not None
    assert end.error.status == 499
    assert closed_in == ["moescope-model"]
    assert engine.depth == {"active": 0, "waiting": 0}


def test_a_deadline_ends_a_request(engine):
    inbox = Inbox()

    def slow(loaded):
        while True:
            time.sleep(0.02)
            yield None

    engine.submit(slow, inbox, client="a", timeout_s=0.05)
    error = inbox.wait().error
    assert error is not None
    assert error.status == 504


def test_a_failure_ends_its_request_and_no_other(engine):
    bad, good = Inbox(), Inbox()

    def fail(loaded):
        yield {}
        raise ZeroDivisionError("1/0")

    engine.submit(fail, bad, client="a")
    engine.submit(count_to(20), good, client="b")
    error = bad.wait().error
    assert error is not None
    assert (error.status, error.message) == (500, "the model failed: ZeroDivisionError: 1/0")
    assert good.wait().kind == "done"


def test_a_full_queue_is_429_and_says_when_to_come_back(engine):
    gate = threading.Event()

    def hold(loaded):
        gate.wait(10)
        yield None

    inboxes = [Inbox() for _ in range(6)]
    for inbox in inboxes:
        engine.submit(hold, inbox, client="a")
    with pytest.raises(ApiError) as refusal:
        engine.submit(hold, Inbox(), client="b")
    assert (refusal.value.status, refusal.value.retry_after) == (429, 5)
    gate.set()
    assert [inbox.wait().kind for inbox in inboxes] == ["done"] * 6


def test_a_model_that_cannot_be_loaded_is_503_with_the_reason():
    def load():
        raise OSError("no such folder")

    engine = Engine(load)
    assert not engine.wait_ready(10)
    with pytest.raises(ApiError, match="no such folder") as refusal:
        engine.submit(count_to(1), Inbox(), client="a")
    assert refusal.value.status == 503


def test_a_broken_device_fails_every_request_that_is_left():
    engine, gate = Engine(lambda: "the model"), threading.Event()
    engine.wait_ready(10)
    first, second = Inbox(), Inbox()

    def poison(loaded):
        gate.wait(10)
        raise RuntimeError("CUDA error: device-side assert triggered")
        yield

    engine.submit(poison, first, client="a")
    engine.submit(count_to(100), second, client="b")
    gate.set()
    for inbox in (first, second):
        error = inbox.wait().error
        assert error is not None
        assert error.status == 503
    assert engine.state == "failed"


def test_closing_answers_everyone():
    engine, inbox = Engine(lambda: "the model"), Inbox()
    engine.wait_ready(10)
    engine.submit(count_to(10**9), inbox, client="a")
    engine.close()
    error = inbox.wait().error
    assert error is not None
    assert error.status == 503
