"""Pure functions and small classes without input or output: kernels, scores, statistics, regressions."""
