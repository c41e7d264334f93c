"""Two hundred schedules of faults in virtual time, over the real driver, pool, workers and store. No Ray here."""

from pathlib import Path

import pytest

from tests.proof.simulator import FAULTS, Campaign


def check(folder: Path, numbers: range) -> Campaign:
    campaign = Campaign(folder)
    for number in numbers:
        campaign.run(number)
    assert campaign.wrong == []
    return campaign


def test_jobs_under_drawn_faults_end_with_the_bytes_of_a_job_without_faults(tmp_path: Path) -> None:
    check(tmp_path, range(20))


@pytest.mark.flow
def test_further_jobs_meet_every_kind_of_fault(tmp_path: Path) -> None:
    campaign = check(tmp_path, range(20, 200))
    assert {*FAULTS, "poison"} <= campaign.happened.keys()
    assert min(campaign.happened.values()) >= 5


def test_a_lost_row_is_found(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path)
    campaign.calm = {**campaign.calm, "shard-00001.arrow": b"other"}
    for number in range(9):
        campaign.run(number)
    assert len(campaign.wrong) >= 4
    assert all("differs shard-00001.arrow" in problem for problem in campaign.wrong)
