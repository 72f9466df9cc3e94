"""The benchmark runs: its figures are for a person to look at."""

from benchmarks import bench


def test_the_benchmark_times_updates_of_ppo():
    shape = bench.Shape("gpt-neox:32/2/2/64", vocabulary=64, query=6, response=4)
    seconds = bench.ppo_seconds(shape, batch=4, updates=2)
    assert len(seconds) == 2 and all(value > 0 for value in seconds)
