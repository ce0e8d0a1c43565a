"""Libraries of loggers without a network."""

from __future__ import annotations

from pathlib import Path

import pytest


def keep_offline(patch: pytest.MonkeyPatch, caches: Path) -> None:
    """Let the libraries send nothing, and keep their own files in a folder."""
    patch.setenv("WANDB_MODE", "offline")
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        patch.setenv(name, str(caches))
    for name in ("MLFLOW_TRACKING_URI", "WANDB_ENTITY"):
        patch.delenv(name, raising=False)
