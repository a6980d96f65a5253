"""The interval of ``compare`` holds the population's difference as often as it promises."""

from __future__ import annotations

import pytest

from benchmarks.coverage import CLAIM, Design, cover, make_population


@pytest.fixture(scope="module")
def population():
    return make_population(groups=60, runs=10, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("design", [CLAIM, Design(20, True, 1), Design(200, False, 1)], ids=str)
def test_interval_covers_95_percent(population, design):
    found = cover(population, design, trials=600, seed=2)["compare"]
    assert 0.93 <= found["AP"]["coverage"] <= 0.97
    for name, figure in found.items():
        assert 0.91 <= figure["coverage"] <= 0.99, name


def test_both_methods_give_intervals_and_the_former_the_narrower(population):
    found = cover(population, Design(4, True, 1), trials=3, seed=0, old=True)
    assert set(found) == {"compare", "percentile"}
    assert all(figure["width"] > 0 for method in found.values() for figure in method.values())
    assert found["compare"]["AP"]["width"] > found["percentile"]["AP"]["width"]
