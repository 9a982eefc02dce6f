"""What an offline run of Weights & Biases holds, read back from its files."""

import json
import os
import struct
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]


def environment():
    """Without the settings of whoever runs the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return env | {"PYTHONPATH": str(ROOT), "WANDB_DISABLE_GIT": "true"}


def read_runs(folder):
    """Returns the runs below a folder, oldest first."""
    return [_read(path) for path in sorted(Path(folder).rglob("offline-run-*/*.wandb"), key=_age)]


def _age(path):
    return path.stat().st_mtime


def _read(path):
    records = {}
    for record in _records(path):
        records.setdefault(record.WhichOneof("record_type"), []).append(record)

    def updates(kind):
        return [item for record in records.get(kind, []) for item in getattr(record, kind).update]

    return SimpleNamespace(
        files=path.parent / "files",
        id=records["run"][0].run.run_id,
        rows=[_values(record.history.item) for record in records.get("history", [])],
        summary=_values(updates("summary")),
        config=_values([*records["run"][0].run.config.update, *updates("config")]),
        metrics=[record.metric for record in records.get("metric", [])],
        artifacts=[record.request.log_artifact.artifact for record in records.get("request", [])]
        + [record.artifact for record in records.get("artifact", [])],
        alerts=[record.alert for record in records.get("alert", [])],
    )


def _records(path):
    """The records of a .wandb file: LevelDB's log format behind seven bytes of W&B's own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:  # no header fits into what is left of the block
            at += room
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


def _values(items):
    """What was logged, with media as the dicts that they are."""
    found = {}
    for item in items:
        *parents, name = item.nested_key or [item.key]
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = json.loads(item.value_json)
    return found
