"""Dynamic batching: who waits together is answered together, nobody waits for nothing, nobody is forgotten."""

import asyncio
import threading

import pytest

from stepwell.server.batching import Batcher, BusyError, GoneError


class Recorder:
    """Doubles numbers; the first batch can be held until ``go`` is set."""

    def __init__(self):
        self.batches, self.go, self.entered = [], threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, items):
        self.entered.set()
        self.go.wait(10)
        self.batches.append(list(items))
        return [ValueError(item) if item < 0 else 2 * item for item in items]


class Clock:
    """Pauses that pass at once, or, once they are ``held``, when the test says so."""

    def __init__(self):
        self.held, self.paused = False, False
        self._over = asyncio.Event()

    async def pause(self, _):
        if self.held:
            self.paused = True
            await self._over.wait()
        else:
            await asyncio.sleep(0)

    async def until(self, condition):
        while not condition():
            await asyncio.sleep(0.001)

    def release(self):
        self.held = False
        self._over.set()


def run(scenario, most=4, queue=10, **options):
    """Run a scenario(batcher, recorder) in an event loop; return its result and the recorder."""

    async def main():
        recorder = Recorder()
        batcher = Batcher(recorder, most, queue, **{"linger": 0.001, **options})
        async with batcher:
            try:
                return await asyncio.wait_for(scenario(batcher, recorder), 10), recorder
            finally:
                recorder.go.set()

    return asyncio.run(main())


async def held(batcher, recorder, *questions):
    """Ask 0 and hold it in the worker; ask the rest while it is there; return all answers."""
    recorder.go.clear()
    recorder.entered.clear()
    first = asyncio.create_task(batcher.ask([0]))
    while not recorder.entered.is_set():
        await asyncio.sleep(0.001)
    rest = [asyncio.create_task(batcher.ask(question)) for question in questions]
    await asyncio.sleep(0)  # each of them is in the queue, or refused
    recorder.go.set()
    return await asyncio.gather(first, *rest, return_exceptions=True)


def test_an_idle_worker_takes_what_comes_at_once():
    answers, recorder = run(lambda batcher, _: batcher.ask([3]))
    assert answers == [6] and recorder.batches == [[3]]


def test_what_waits_together_is_answered_together_and_each_gets_its_own():
    answers, recorder = run(lambda b, r: held(b, r, [1], [2], [3]))
    assert answers == [[0], [2], [4], [6]]
    assert recorder.batches == [[0], [1, 2, 3]]


def test_a_batch_is_no_larger_than_it_may_be():
    answers, recorder = run(lambda b, r: held(b, r, [1, 2, 3], [4, 5, 6]))
    assert answers == [[0], [2, 4, 6], [8, 10, 12]]
    assert [len(batch) for batch in recorder.batches] == [1, 4, 2]


def test_a_full_queue_refuses_whole_questions():
    answers, recorder = run(lambda b, r: held(b, r, [1, 2], [3, 4], [5]), queue=3)
    assert answers[:2] == [[0], [2, 4]] and isinstance(answers[2], BusyError) and answers[3] == [10]
    assert recorder.batches == [[0], [1, 2, 5]]


def test_an_error_is_raised_where_its_item_was_asked():
    answers, _ = run(lambda b, r: held(b, r, [1], [-2], [3]))
    assert answers[1] == [2] and answers[3] == [6] and isinstance(answers[2], ValueError)


def test_a_worker_that_breaks_answers_all_and_goes_on():
    async def scenario(batcher, recorder):
        batcher.work = lambda items: 1 / 0
        with pytest.raises(ZeroDivisionError):
            await batcher.ask([1])
        batcher.work = recorder
        return await batcher.ask([1])

    assert run(scenario)[0] == [2]


def test_who_hung_up_is_dropped_before_the_forward():
    async def hung_up():
        return True

    async def scenario(batcher, recorder):
        with pytest.raises(GoneError):
            await batcher.ask([1], hung_up)
        return await batcher.ask([2])

    answers, recorder = run(scenario, patience=0.0)
    assert answers == [4] and recorder.batches == [[2]]


def test_a_client_is_not_looked_for_before_it_has_waited():
    async def asked():
        raise AssertionError("the look costs as much as the answer")

    assert run(lambda batcher, _: batcher.ask([1], asked), patience=5.0)[0] == [2]


def test_those_answered_together_are_waited_for_while_they_come():
    clock = Clock()

    async def scenario(batcher, recorder):
        await held(batcher, recorder, [1], [2], [3])  # the last batch has three
        clock.held = True
        asked = [asyncio.create_task(batcher.ask([number])) for number in (4, 5)]
        await clock.until(lambda: clock.paused and len(batcher) == 2)  # the batcher waits for the third
        before = [list(batch) for batch in recorder.batches]
        asked.append(asyncio.create_task(batcher.ask([6])))
        await clock.until(lambda: len(batcher) == 3)
        clock.release()
        return before, await asyncio.gather(*asked)

    (before, answers), recorder = run(scenario, pause=clock.pause)
    assert before == [[0], [1, 2, 3]] and answers == [[8], [10], [12]]
    assert recorder.batches == [[0], [1, 2, 3], [4, 5, 6]]


def test_who_was_answered_is_taken_with_those_who_waited_meanwhile():
    clock = Clock()

    async def scenario(batcher, recorder):
        async def client():
            return [await batcher.ask([number]) for number in (0, 3)]

        recorder.go.clear()
        one = asyncio.create_task(client())
        await clock.until(recorder.entered.is_set)  # 0 is in the worker
        rest = [asyncio.create_task(batcher.ask([number])) for number in (1, 2)]
        await clock.until(lambda: len(batcher) == 2)
        clock.held = True
        recorder.go.set()
        await clock.until(lambda: clock.paused and len(batcher) == 3)  # who was answered has asked again
        clock.release()
        return await asyncio.gather(one, *rest)

    answers, recorder = run(scenario, pause=clock.pause)
    assert answers == [[[0], [6]], [2], [4]] and recorder.batches == [[0], [1, 2, 3]]


def test_who_does_not_come_back_is_not_waited_for():
    async def scenario(batcher, recorder):
        await held(batcher, recorder, [1], [2], [3])
        return await batcher.ask([4])

    answers, recorder = run(scenario)
    assert answers == [8] and recorder.batches == [[0], [1, 2, 3], [4]]


def test_a_cancelled_question_is_dropped():
    async def scenario(batcher, recorder):
        recorder.go.clear()
        first = asyncio.create_task(batcher.ask([1]))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(batcher.ask([2]))
        await asyncio.sleep(0.01)
        second.cancel()
        recorder.go.set()
        return await first

    answers, recorder = run(scenario)
    assert answers == [2] and recorder.batches == [[1]]
