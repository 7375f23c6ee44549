"""neonize's generated protobuf classes, without importing neonize: that would load the Go library into the tests."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


def _find() -> Path:
    spec = importlib.util.find_spec("neonize")
    assert spec is not None, "neonize is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent / "proto"


PROTO = _find()
if str(PROTO) not in sys.path:
    sys.path.append(str(PROTO))


def _load(module: str) -> Any:
    return importlib.import_module(module)


wa6 = _load("waWa6.WAWebProtobufsWa6_pb2")
cert = _load("waCert.WACert_pb2")
adv = _load("waAdv.WAAdv_pb2")
e2e = _load("waE2E.WAWebProtobufsE2E_pb2")
server_sync = _load("waServerSync.WAServerSync_pb2")
companion_reg = _load("waCompanionReg.WAWebProtobufsCompanionReg_pb2")
history_sync = _load("waHistorySync.WAWebProtobufsHistorySync_pb2")
sync_action = _load("waSyncAction.WAWebProtobufSyncAction_pb2")
