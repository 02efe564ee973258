"""One file per stage of dvc.yaml, each a thin `main` over the library; the `aft` command uses the same functions."""
