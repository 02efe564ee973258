"""Pure functions and small classes that do no I/O: kernels, scores, statistics, regressions."""
