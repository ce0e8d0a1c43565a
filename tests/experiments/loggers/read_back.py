"""What loggers have written, read back from the disk."""

from __future__ import annotations

import csv
import json
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@dataclass
class Log:
    """One log: values by step in the order of the file, numbers of the pictures' pixels, latents row by row."""

    ids: set[str] = field(default_factory=set)
    status: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    summary: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    words: list[list[str]] = field(default_factory=list)
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    thumbnails: int = 0


def read_tensorboard(folder: Path) -> Log:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    log = Log({"events"})
    for tag in events.Tags()["scalars"]:
        for each in events.Scalars(tag):
            if tag.startswith("summary/"):
                log.summary[tag.removeprefix("summary/")] = each.value
            else:
                log.scalars[tag].append((each.step, each.value))
    for tag in events.Tags()["images"]:
        log.pictures[tag] = pixels(events.Images(tag)[-1].encoded_image_string)
    texts = {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    texts = {tag: "\n".join(line.removeprefix("    ") for line in text.splitlines()) for tag, text in texts.items()}
    log.status = texts.get("status/text_summary", "")
    log.config = json.loads(texts.get("configuration/text_summary", "{}"))
    lines = texts.get("log/text_summary", "").splitlines()
    log.tags = dict(line.split(": ", 1) for line in lines if ": " in line)
    for metadata in folder.rglob("metadata.tsv"):
        rows = [line.split("\t") for line in metadata.read_text().splitlines()]
        log.words = rows if len(rows[0]) > 1 else [["row"], *rows]
        log.points = np.loadtxt(metadata.with_name("tensors.tsv"), delimiter="\t", ndmin=2)
        config = (folder / "projector_config.pbtxt").read_text()
        assert f'tensor_path: "{metadata.parent.relative_to(folder)}/tensors.tsv"' in config
        sprite = metadata.with_name("sprite.png")
        log.thumbnails = len(log.points) if sprite.exists() and pixels(sprite.read_bytes()).any() else 0
    return log


def read_mlflow(folder: Path) -> Log:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("latentmix")
    runs = client.search_runs([experiment.experiment_id])
    run = runs[0]
    log = Log({each.info.run_id for each in runs}, run.info.status.lower())
    log.tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    place = Path(run.info.artifact_uri.removeprefix("file://"))
    for name in run.data.metrics:
        history = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
        if name.startswith("summary/"):
            log.summary[name.removeprefix("summary/")] = history[-1][1]
        else:
            log.scalars[name] = history
    import yaml

    file = place / "configuration.yaml"
    log.config = yaml.safe_load(file.read_text()) if file.exists() else {}
    for picture in place.rglob("*.png"):
        if picture.name != "sprite.png":
            name = str(picture.relative_to(place).with_suffix("")).rpartition("-")[0]
            log.pictures[name] = pixels(picture.read_bytes())
    for table in place.rglob("latents.csv"):
        rows = list(csv.reader(table.open()))
        words = len([name for name in rows[0] if not name.startswith("z")])
        log.words = [row[:words] for row in rows]
        log.points = np.array([row[words:] for row in rows[1:]], dtype=float)
        log.thumbnails = len(log.points) if table.with_name("sprite.png").exists() else 0
    return log


def read_wandb(folder: Path) -> Log:
    log = Log(status="running")
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for record in closed(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                log.ids.add(record.run.run_id)
            elif kind == "exit":
                log.status = {0: "finished", 1: "failed", 130: "killed"}[record.exit.exit_code]
            elif kind == "config":
                log.config |= items(record.config.update)
            elif kind == "summary":
                values = items(record.summary.update)
                log.summary |= {name[8:]: value for name, value in values.items() if name.startswith("summary/")}
            elif kind == "history":
                values = items(record.history.item)
                _history(log, values, file.parent / "files")
    log.tags = log.config.pop("tags", {})
    log.config.pop("_wandb", None)
    return log


def closed(file: Path) -> list[Any]:
    """The records of a log of W&B, whose service process may write the last ones a moment after it was closed."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    found: list[Any] = []
    for _ in range(300):
        with suppress(DecodeError):  # a record is half written
            found = [wandb_internal_pb2.Record.FromString(data) for data in records(file.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)
    return found


def _history(log: Log, values: dict[str, Any], files: Path) -> None:
    for name, value in values.items():
        kind = value.get("_type") if isinstance(value, dict) else None
        if kind == "image-file":
            log.pictures[name] = pixels((files / value["path"]).read_bytes())
        elif kind == "table-file":
            table = json.loads((files / value["path"]).read_text())
            words = len([each for each in table["columns"] if each != "image" and not each.startswith("z")])
            end = -1 if table["columns"][-1] == "image" else None
            log.words = [table["columns"][:words], *(row[:words] for row in table["data"])]
            log.points = np.array([row[words:end] for row in table["data"]], dtype=float)
            log.thumbnails = sum(row[-1] is not None for row in table["data"]) if end else 0
        elif name != "epoch" and not name.startswith("_"):
            log.scalars[name].append((values["epoch"], value))


def items(entries: Any) -> dict[str, Any]:
    """The values of keys, which are words or paths of them."""
    values: dict[str, Any] = {}
    for each in entries:
        *path, last = each.nested_key or [each.key]
        inner = values
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = json.loads(each.value_json)
    return values


def records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log with a header of 7 bytes: blocks of 32 KiB of CRC, length, kind, and content."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        content = data[place + 7 : place + 7 + length]
        if len(content) < length:
            return
        place += 7 + length
        whole = content if kind in (1, 2) else whole + content
        if kind in (1, 4):
            yield whole


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


READERS = {"TensorBoard": read_tensorboard, "MLflow": read_mlflow, "WandB": read_wandb}
