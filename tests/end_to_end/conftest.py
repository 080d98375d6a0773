"""What a failed test of several processes says."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from tests.end_to_end.supervised import newest_logs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (logs := newest_logs()):
        report.sections.append(("Logs of the processes", logs))
    return report
