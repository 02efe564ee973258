"""Studies of the project that anybody can run again. All data come from packages, and nothing is done twice."""
