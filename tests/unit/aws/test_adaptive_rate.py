"""Adaptive rate: throttling slows this client down, success speeds it up again. The clock is injected."""

from __future__ import annotations

from mangalib.aws.adaptive_rate import AdaptiveRate


class SetClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def current_time(self) -> float:
        return self.now_s


def test_throttling_slows_this_client_down_and_success_speeds_it_up_again() -> None:
    clock = SetClock()
    rate = AdaptiveRate(10, clock)

    def send(count: int, *, throttled: bool = False) -> list[float]:
        waits = []
        for _ in range(count):
            waits.append(rate.wait_s())
            clock.now_s += 0.01
            rate.answered(throttled=throttled)
        return waits

    assert set(send(300)) == {0.0}, "nothing is slowed down without throttling"
    send(1, throttled=True)
    slowed = [rate.wait_s() for _ in range(10)]
    assert slowed == sorted(slowed)
    assert slowed[-1] > 9 / 100, "ten at once now leave one after another"
    assert slowed[-1] <= 10 / 10, "but never slower than the floor"
    clock.now_s += 60
    send(300)
    clock.now_s += 60
    assert max(rate.wait_s() for _ in range(10)) < slowed[-1]
