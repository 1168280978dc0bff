"""Evaluation of the regression detector beside the usual alternatives, on the same simulated data.

    .venv/bin/python benchmarks/detector.py [--cases 1000] [--months 40] [--json FILE] [--quick]

ours          the sequential rule of mangalib.benchmark.detection.detector
textbook      the specification's rule: Mann-Whitney at 0.05, Cohen's d of 0.5, severity by the run's p95
kayenta       the test that Netflix's Kayenta runs: Mann-Whitney with 98 % confidence, high where the interval of the
              Hodges-Lehmann estimate is above 25 % of that estimate; the 7 days are its baseline, the run its canary
otava         apache-otava (Hunter; Fleming et al., 2023) with its defaults on the runs' p95, in a virtual environment of its
              own; an alarm is a new upward change point. It has no severities.

16 series, 45 requests a run, 96 runs a day, 7 days of baseline: see mangalib.benchmark.experiments.synthetic_history for
the data and mangalib.benchmark.experiments.evaluation for what is counted. It reports figures; nothing passes or fails.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import tempfile
import venv
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mangalib.benchmark import Estimate, hodges_lehmann, quantile, quantile_bounds, ratio_interval
from mangalib.benchmark.detection import Floats
from mangalib.benchmark.experiments import SyntheticHistory, evaluation, simulate
from mangalib.settings import Settings, load_settings

OBSERVED_DAYS = 7.27  # 26 runs after the seven days
OTHER_DATA = {
    "gamma": SyntheticHistory(shape="gamma"),
    "bimodal": SyntheticHistory(shape="bimodal"),
    "run-to-run 2 %": SyntheticHistory(run_to_run=0.02),
    "run-to-run 10 %": SyntheticHistory(run_to_run=0.10),
    "weekly cycle 10 %": SyntheticHistory(weekly=0.10),
    "5 % of runs missing": SyntheticHistory(missing=0.05),
}


class KayentaRule:
    """One run as a canary against the baseline's requests."""

    CONFIDENCE, TOLERANCE = 0.98, 0.25

    def add_baseline(self, hours: Floats, latencies: Floats) -> None:
        """Take all requests of the baseline."""
        self._before = np.sort(latencies, axis=None)

    def assess(self, hour: float, now: Floats) -> tuple[int, float, str]:
        """Severity 2 for "high", because a failed canary stops a release."""
        shift = hodges_lehmann(now, self._before, level=self.CONFIDENCE, at_most=400)
        high = shift.low > self.TOLERANCE * abs(shift.value)
        return 2 * int(high), shift.value, "high" if high else "pass"


def make_detector(name: str, settings: Settings) -> evaluation.Detector:
    """A detector by its name."""
    return {
        "ours": evaluation.sequential_detector,
        "textbook": evaluation.textbook_detector,
        "kayenta": lambda _: evaluation.single_run_detector(KayentaRule),
    }[name](settings)


def one_month(name: str, history: SyntheticHistory, seed: int) -> evaluation.FalseAlarms:
    """The false alarms of a rule in 30 days without a change."""
    # Kayenta computes thousands of differences for each run, so it is observed for three days only.
    days = 10.0 if name == "kayenta" else 37.0
    return evaluation.false_alarms(make_detector(name, load_settings()), replace(history, days=days), seed)


def delays_in_one_history(name: str, history: SyntheticHistory, target: evaluation.Target, seed: int) -> list[int]:
    """Delays in one synthetic history; kayenta has one severity only."""
    level = target.level if name == "ours" else 1
    return evaluation.delays(
        make_detector(name, load_settings()), replace(history, days=OBSERVED_DAYS), target.change, seed, level=level
    )


def map_seeds(pool: ProcessPoolExecutor, title: str, work: Callable[[int], Any], seeds: range) -> list[Any]:
    """Results in the order of the seeds."""
    return list(tqdm(pool.map(work, seeds, chunksize=4), total=len(seeds), desc=title, leave=False))


def delays_of(
    pool: ProcessPoolExecutor, name: str, history: SyntheticHistory, target: evaluation.Target, cases: int
) -> dict[str, float]:
    """Summary of at least ``cases`` cases."""
    per_history = 1 if target.change.intents is None else len(evaluation.CASES)
    found = map_seeds(
        pool,
        f"{name}: {target.name}",
        partial(delays_in_one_history, name, history, target),
        range(math.ceil(cases / per_history)),
    )
    return evaluation.summary([runs for delays in found for runs in delays], target)


# apache-otava, in an environment of its own

_OTAVA = """
import json, sys
import numpy as np
from otava.analysis import compute_change_points
data = np.load(sys.argv[1])
first, kept = int(sys.argv[2]), 200
found = []
for series in data["series"]:
    seen, alarms = set(), []
    for end in range(first + 1, len(series) + 1):
        begin = max(0, end - kept)
        points, _ = compute_change_points(list(series[begin:end]))
        up = {begin + p.index for p in points if p.stats.mean_2 > p.stats.mean_1 and begin + p.index >= first - 8}
        # A change point that moves by a few runs as more come is the same one.
        new = {at for at in up if not any(abs(at - other) <= 8 for other in seen)}
        if new:
            alarms.append(end - first)
        seen |= up
    found.append(alarms)
json.dump(found, sys.stdout)
"""


class Otava:
    """Runs apache-otava's own code in an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._python = folder / "venv" / "bin" / "python"

    @classmethod
    def installed(cls, folder: Path) -> Otava | None:
        """Create its environment; ``None`` where it cannot be installed."""
        otava = cls(folder)
        venv.create(folder / "venv", with_pip=True)
        done = subprocess.run(
            [otava._python, "-m", "pip", "install", "--quiet", "apache-otava==0.8.0"], capture_output=True, check=False
        )
        return otava if done.returncode == 0 else None

    def alarms(self, series: Floats, first: int) -> list[list[int]]:
        """For each of ``series`` (series, runs): the runs, counted from ``first``, with a new upward change point."""
        data, code = self._folder / "series.npz", self._folder / "run.py"
        np.savez(data, series=series)
        code.write_text(_OTAVA, encoding="utf-8")
        done = subprocess.run([self._python, code, data, str(first)], capture_output=True, check=True)
        found: list[list[int]] = json.loads(done.stdout)
        return found

    def delays(self, target: evaluation.Target, cases: int) -> dict[str, float] | None:
        """Summary of the cases; ``None`` for error rates, which are not latencies."""
        if target.change.error_rate is not None:
            return None
        history = replace(SyntheticHistory(), days=OBSERVED_DAYS)
        first, rows = 672, []
        for seed in range(math.ceil(cases / len(evaluation.CASES))):
            latencies, _ = simulate(history, [replace(target.change, first=first)], np.random.default_rng(seed))
            p95 = np.quantile(latencies, 0.95, axis=-1)
            rows += [p95[:, list(history.levels_ms).index(intent), 0] for intent in evaluation.CASES]
        alarms = self.alarms(np.array(rows)[:cases], first)
        return evaluation.summary([found[0] if found else evaluation.NEVER for found in alarms], target)

    def false_alarms(self) -> tuple[float, int]:
        """Alarms a day over 16 series, in three days without a change."""
        latencies, _ = simulate(replace(SyntheticHistory(), days=10.0), [], np.random.default_rng(1))
        p95 = np.quantile(latencies, 0.95, axis=-1).reshape(960, -1).T
        return sum(len(found) for found in self.alarms(p95, 672)) / 3, 3


# Intervals


def coverage(
    draw: Callable[[np.random.Generator, int], Floats], true: Callable[[float], float], cases: int
) -> dict[str, float]:
    """How often 95 % intervals at n = 45 contain the true p50, p95, and ratio of each to a baseline of a hundred runs."""
    rng, n, m = np.random.default_rng(45), 45, 4500
    now = np.sort(draw(rng, cases * n).reshape(cases, n), axis=-1)
    found = {}
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        ends = [quantile(now, at) for at in (share, *quantile_bounds(n, share))]
        found[name] = float(((ends[1] <= true(share)) & (true(share) <= ends[2])).mean())
        held = 0
        for case in range(min(cases, 4000)):
            before = np.sort(draw(rng, m))
            baseline = Estimate(*(float(quantile(before, at)) for at in (share, *quantile_bounds(m, share))))
            ratio = ratio_interval(Estimate(*(float(end[case]) for end in ends)), baseline)
            held += ratio.low <= 1 <= ratio.high
        found[f"{name} ratio"] = held / min(cases, 4000)
    return found


def coverages(cases: int) -> dict[str, dict[str, float]]:
    """For several distributions."""
    from scipy import stats

    gamma = stats.gamma(6.25)
    return {
        "log-normal, sigma 0.15": coverage(
            lambda rng, n: np.exp(rng.normal(0, 0.15, n)), lambda q: float(np.exp(0.15 * stats.norm.ppf(q))), cases
        ),
        "log-normal, sigma 0.4": coverage(
            lambda rng, n: np.exp(rng.normal(0, 0.4, n)), lambda q: float(np.exp(0.4 * stats.norm.ppf(q))), cases
        ),
        "gamma, k = 6.25": coverage(lambda rng, n: rng.gamma(6.25, 1.0, n), lambda q: float(gamma.ppf(q)), cases),
        "exponential": coverage(lambda rng, n: rng.exponential(1.0, n), lambda q: float(-np.log1p(-q)), cases),
    }


def main() -> None:
    """Run all evaluations, print them, and write them to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="changes of each kind")
    parser.add_argument("--months", type=int, default=40, help="months without a change")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the cases and months")
    arguments = parser.parse_args()
    cases, months = arguments.cases, arguments.months
    if arguments.quick:
        cases, months = cases // 20, max(2, months // 20)
    record: dict[str, Any] = {"machine": platform.platform(), "cases": cases, "months": months}
    print(f"{platform.platform()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(arguments.workers) as pool:
        otava = Otava.installed(Path(folder))
        record["false_alarms"] = print_false_alarms(pool, otava, months)
        record["delays"] = print_delays(pool, otava, cases)
        record["other_data"] = print_other_data(pool, cases, months)
    record["coverage"] = print_coverage(max(1000, 20 * cases))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def print_false_alarms(pool: ProcessPoolExecutor, otava: Otava | None, months: int) -> dict[str, Any]:
    """The false alarms of each rule."""
    print(f"\nNothing changed, 16 series together{'':14}warnings a day  pages in 30 days     months")
    found: dict[str, Any] = {}
    for name, count in (("ours", months), ("textbook", max(2, months // 10)), ("kayenta", 1)):
        alarms = map_seeds(
            pool, f"{name}: nothing changed", partial(one_month, name, SyntheticHistory()), range(1000, 1000 + count)
        )
        total = sum_of(alarms)
        found[name] = asdict(total)
        print(f"    {name:45}{total.warnings_a_day:14.2f}{total.pages_in_30_days:18.2f}{total.days / 30:11.1f}")
    if otava is not None:
        a_day, days = otava.false_alarms()
        found["otava"] = {"alarms_a_day": a_day, "days": days}
        print(f"    {'otava (alarms; three days)':45}{a_day:14.2f}{'':18}{days / 30:11.1f}")
    return found


def sum_of(alarms: list[evaluation.FalseAlarms]) -> evaluation.FalseAlarms:
    """Several months added up."""
    return evaluation.FalseAlarms(*(sum(column) for column in zip(*(asdict(a).values() for a in alarms), strict=True)))


def print_delays(pool: ProcessPoolExecutor, otava: Otava | None, cases: int) -> dict[str, Any]:
    """The detection delays of each rule."""
    print(f"\nRuns until it is seen{'':24}target        rule      median     95 %   within target    cases")
    found: dict[str, Any] = {}
    for target in evaluation.TARGETS:
        wanted = f"{target.share:.0%} in {target.within_runs}"
        for name in ("ours", "textbook", "kayenta"):
            if target.change.error_rate is not None and name != "ours":
                continue
            count = cases if name != "kayenta" else max(30, cases // 5)
            line = delays_of(pool, name, SyntheticHistory(), target, count)
            found.setdefault(target.name, {})[name] = line
            print_line(target.name, wanted, name, line)
        if otava is not None and target.change.intents is not None:
            line = otava.delays(target, max(15, cases // 20)) or {}
            found[target.name]["otava"] = line
            print_line(target.name, wanted, "otava", line)
    return found


def print_line(change: str, wanted: str, name: str, line: dict[str, float]) -> None:
    """One rule's delays of one change."""
    median, p95 = (f"{line[key]:.0f}" if line[key] < evaluation.NEVER else "never" for key in ("median", "p95"))
    print(f"    {change:39}{wanted:12}  {name:10}{median:>6}{p95:>9}{line['within']:>16.1%}{line['cases']:>9.0f}")


def print_other_data(pool: ProcessPoolExecutor, cases: int, months: int) -> dict[str, Any]:
    """Our rule on data that it was not tuned on."""
    print("\nOurs on other data          warnings  pages    within target:")
    head = "".join(f"{target.name.split(',')[0]:>14}" for target in evaluation.TARGETS[:6])
    print(f"{'':28}a day     30 days  {head}")
    found: dict[str, Any] = {}
    for name, history in OTHER_DATA.items():
        count = max(2, months // 4)
        total = sum_of(map_seeds(pool, name, partial(one_month, "ours", history), range(2000, 2000 + count)))
        lines = {t.name: delays_of(pool, "ours", history, t, max(30, cases // 10)) for t in evaluation.TARGETS[:6]}
        found[name] = {"false_alarms": asdict(total), "delays": lines}
        shares = "".join(f"{line['within']:>14.1%}" for line in lines.values())
        print(f"    {name:24}{total.warnings_a_day:5.2f}{total.pages_in_30_days:10.2f}   {shares}")
    return found


def print_coverage(cases: int) -> dict[str, dict[str, float]]:
    """The coverage of the intervals."""
    found = coverages(cases)
    print(f"\n95 % intervals at n = 45 hold the truth in{'':6}p50     p95   ratio of p50   ratio of p95")
    for name, line in found.items():
        print(
            f"    {name:40}{line['p50']:>8.1%}{line['p95']:>8.1%}{line['p50 ratio']:>14.1%}{line['p95 ratio']:>15.1%}"
        )
    return found


if __name__ == "__main__":
    main()
