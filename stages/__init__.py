"""One file a stage of dvc.yaml, each a thin `main` over the library; the `aft` command mounts the same mains."""
