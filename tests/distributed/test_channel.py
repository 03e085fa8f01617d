"""The channel on real ranks: the first `tp` ranks send, the last one receives."""

import os
import signal
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from genrecal_mcore.status import Activity, unrecorded_status
from genrecal_mcore.transfer import (
    HEADER_BYTES,
    Edge,
    FeatureReceiver,
    FeatureSender,
    TransferError,
    Unit,
    owner_of_rows,
    unit_digest,
)
from tests.helpers.rank_pool import RankPool

pytestmark = pytest.mark.distributed

HIDDEN_SIZE = 8
NUM_ROWS = [5, 1, 7, 2, 4]
"""Rows of each unit; with tp 2 the second unit leaves one sender without any."""


def unit_of(number: int) -> Unit:
    return Unit(step=number // 2, microbatch=number % 2, student_rank=0)


def rows_of(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(NUM_ROWS[number], HIDDEN_SIZE, generator=generator)


def digest_of(number: int) -> bytes:
    return unit_digest((f"sample-{number}",), (NUM_ROWS[number],), (((0, 1),),))


def owner_of(number: int, tp: int) -> torch.Tensor:
    positions = torch.arange(NUM_ROWS[number])
    return owner_of_rows(positions, tp=tp, padded_length=8, sequence_parallel=False)


def edge_groups() -> list[dist.ProcessGroup]:
    receiver = dist.get_world_size() - 1
    return [dist.new_group([sender, receiver]) for sender in range(receiver)]


def who(rank: int) -> str:
    return f"rank {rank}"


def make_sender(*, prefetch: int = 2, timeout_s: float = 20.0) -> FeatureSender:
    rank, receiver = dist.get_rank(), dist.get_world_size() - 1
    edges = {0: Edge(group=edge_groups()[rank], peer_rank=receiver)}
    return FeatureSender(
        edges,
        is_header_sender=rank == 0,
        prefetch=prefetch,
        timeout_s=timeout_s,
        who=who,
        status=unrecorded_status(),
    )


def make_receiver(*, timeout_s: float = 20.0) -> FeatureReceiver:
    edges = {(0, tp): Edge(group=group, peer_rank=tp) for tp, group in enumerate(edge_groups())}
    return FeatureReceiver(
        edges,
        timeout_s=timeout_s,
        hidden_size=HIDDEN_SIZE,
        dtype=torch.float32,
        device=torch.device("cpu"),
        who=who,
        status=unrecorded_status(),
    )


def send_all(sender: FeatureSender, numbers: range) -> None:
    tp = dist.get_world_size() - 1
    for number in numbers:
        mine = owner_of(number, tp) == dist.get_rank()
        sender.send(unit_of(number), rows_of(number)[mine], digest_of(number), num_rows=NUM_ROWS[number])


def transfer_all(prefetch: int) -> Any:
    """Send every unit; the receiver posts all at once and takes them slowly."""
    tp = dist.get_world_size() - 1
    if dist.get_rank() < tp:
        sender = make_sender(prefetch=prefetch)
        most_in_flight = 0
        for number in range(len(NUM_ROWS)):
            send_all(sender, range(number, number + 1))
            most_in_flight = max(most_in_flight, len(sender.in_flight))
        sender.drain()
        return most_in_flight, sender.bytes_sent, sender.waited_s
    receiver = make_receiver()
    for number in range(len(NUM_ROWS)):
        receiver.post(unit_of(number), digest_of(number), owner_of(number, tp), 0)
    taken = [receiver.take(unit_of(number)) for number in range(len(NUM_ROWS))]
    return [unit.rows.numpy() for unit in taken], receiver.bytes_received


@pytest.mark.parametrize(("tp", "prefetch"), [(1, 1), (1, 4), (2, 1), (3, 2)])
def test_rows_arrive_in_order_and_are_counted(rank_pool: RankPool, tp: int, prefetch: int) -> None:
    *senders, (received, bytes_received) = rank_pool.run(transfer_all, tp + 1, prefetch)
    for number, rows in enumerate(received):
        assert (rows == rows_of(number).numpy()).all()
    payload = sum(NUM_ROWS) * HIDDEN_SIZE * 4
    assert bytes_received == payload + len(NUM_ROWS) * HEADER_BYTES
    assert sum(bytes_sent for _, bytes_sent, _ in senders) == payload
    assert all(most_in_flight == prefetch for most_in_flight, _, _ in senders)


def wait_for_a_late_receiver() -> Any:
    if dist.get_rank() == 0:
        sender = make_sender(prefetch=1)
        send_all(sender, range(3))
        sender.drain()
        return sender.waited_s, sender.status.seconds()
    receiver = make_receiver()
    time.sleep(0.5)
    for number in range(3):
        receiver.post(unit_of(number), digest_of(number), owner_of(number, 1), 0)
        last = receiver.take(unit_of(number))
    return last.teacher_waited_s


def test_a_sender_runs_no_further_ahead_than_prefetch_and_reports_its_wait(rank_pool: RankPool) -> None:
    (waited_s, seconds), reported_s = rank_pool.run(wait_for_a_late_receiver, 2)
    assert waited_s >= reported_s > 0.3
    assert seconds[Activity.WAIT] > seconds[Activity.TRANSFER] > 0


def wait_for_a_late_sender() -> Any:
    receiver_rank = dist.get_world_size() - 1
    if dist.get_rank() < receiver_rank:
        sender = make_sender()
        time.sleep(0.5)
        send_all(sender, range(1))
        sender.drain()
        return None
    receiver = make_receiver()
    receiver.post(unit_of(0), digest_of(0), owner_of(0, receiver_rank), 0)
    receiver.take(unit_of(0))
    return receiver.waited_s, receiver.status.seconds()


@pytest.mark.parametrize("tp", [1, 2])
def test_a_receiver_waits_for_the_header_and_then_the_rows_travel(rank_pool: RankPool, tp: int) -> None:
    waited_s, seconds = rank_pool.run(wait_for_a_late_sender, tp + 1)[-1]
    assert waited_s > 0.3
    assert seconds[Activity.WAIT] > seconds[Activity.TRANSFER] > 0


def send_another_plan() -> str | None:
    if dist.get_rank() == 0:
        sender = make_sender()
        sender.send(unit_of(0), rows_of(0), digest_of(1), num_rows=NUM_ROWS[0])
        sender.drain()
        return None
    receiver = make_receiver()
    receiver.post(unit_of(0), digest_of(0), owner_of(0, 1), 0)
    try:
        receiver.take(unit_of(0))
    except RuntimeError as error:
        return str(error)
    return "nothing was noticed"


def test_another_plan_is_refused_by_its_digest(rank_pool: RankPool) -> None:
    _, message = rank_pool.run(send_another_plan, 2)
    assert message is not None
    assert (
        "the two sides computed different plans: rank 1 expected step 0, microbatch 0 from rank 0" in message
    )
    assert "digest_high" in message and "num_rows" not in message


def wait_for_silence() -> str | None:
    """Rank 0 lives and says nothing."""
    if dist.get_rank() == 0:
        make_sender()
        time.sleep(1.5)
        return None
    receiver = make_receiver(timeout_s=0.5)
    receiver.post(unit_of(3), digest_of(3), owner_of(3, 1), 0)
    try:
        receiver.take(unit_of(3))
    except TransferError as error:
        return str(error)
    return "nothing was noticed"


def test_a_silent_sender_is_named_after_the_timeout(rank_pool: RankPool) -> None:
    _, message = rank_pool.run(wait_for_silence, 2)
    assert message is not None
    assert message.startswith("rank 1 waited 0.5 s for rank 0: features of step 1, microbatch 1")
    assert "transfer.timeout_s" in message


def die_while_sending() -> str | None:
    if dist.get_rank() == 0:
        sender = make_sender()
        send_all(sender, range(1))
        sender.drain()
        os.kill(os.getpid(), signal.SIGKILL)
    receiver = make_receiver(timeout_s=20.0)
    for number in range(2):
        receiver.post(unit_of(number), digest_of(number), owner_of(number, 1), 0)
    receiver.take(unit_of(0))
    started = time.monotonic()
    try:
        receiver.take(unit_of(1))
    except TransferError as error:
        raise ValueError(f"after {time.monotonic() - started:.0f} s: {error}") from None
    return "nothing was noticed"


def test_a_dead_sender_is_noticed_and_named(rank_pool: RankPool) -> None:
    sender, receiver = rank_pool.outcomes(die_while_sending, 2)
    assert sender.exit_code == -signal.SIGKILL
    assert receiver.error is not None and "ValueError" in receiver.error
    assert "for rank 0: features of step 0, microbatch 1, student 0 did not come" in receiver.error
