"""`tidegate bench`: the same load on the mock, on nginx and on Tidegate, in one run."""

from tidegate.bench.runner import Options, run, scenario_names

__all__ = ["Options", "run", "scenario_names"]
