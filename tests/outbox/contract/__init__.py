"""What every outbox must do, as one suite.

An implementation runs it all: its test class inherits `OutboxContract` and overrides the fixture `reopen`. The state
machine in `tests/outbox/model.py` belongs to it too.
"""

from __future__ import annotations

from tests.outbox.contract.appends import AppendContract
from tests.outbox.contract.expiry import ExpiryContract
from tests.outbox.contract.outages import OutageContract
from tests.outbox.contract.reads import ReadContract
from tests.outbox.contract.states import StateContract
from tests.outbox.contract.supersession import SupersessionContract


class OutboxContract(AppendContract, StateContract, SupersessionContract, ExpiryContract, ReadContract, OutageContract):
    """Every part of the contract."""
