"""Runs: a stage is done once, an unfinished run is gone on with by those who ask for the same, and soon enough."""

from pathlib import Path

import pytest

from streaming.errors import UserError
from streaming.retrain_run import KEPT_RUNS, STALE_S, STATE, Run, begun

SAID: list[str] = []


def test_a_stage_is_done_once_whatever_dies(tmp_path: Path) -> None:
    calls: list[str] = []

    def do(name: str) -> dict[str, str]:
        calls.append(name)
        return {"by": name}

    with begun(tmp_path, {"days": 9}, SAID.append) as run:
        run.stage("read", lambda: do("read"))
    with begun(tmp_path, {"days": 9}, SAID.append) as again:
        assert again.directory == run.directory
        assert again.stage("read", lambda: do("never")) == {"by": "read"}
        again.stage("train", lambda: do("train"))
    assert calls == ["read", "train"]


def test_a_finished_run_leaves_its_state_only_and_another_begins(tmp_path: Path) -> None:
    with begun(tmp_path, {}, SAID.append) as run:
        (run.directory / "model").mkdir()
        (run.directory / "model" / "weights.npz").write_bytes(b"x")
        run.finish("promoted")
    assert [path.name for path in run.directory.rglob("*")] == [STATE]
    with begun(tmp_path, {}, SAID.append) as other:
        assert other.directory != run.directory


@pytest.mark.parametrize(("options", "later_s", "says"), [({"days": 10}, 60, "other options"), ({"days": 9}, STALE_S + 1, "too long ago")])
def test_other_options_and_old_data_begin_anew(tmp_path: Path, options: dict[str, int], later_s: float, says: str) -> None:
    with begun(tmp_path, {"days": 9}, SAID.append, now_s=1e9) as first:
        pass
    said: list[str] = []
    with begun(tmp_path, options, said.append, now_s=1e9 + later_s) as second:
        assert second.directory != first.directory
    assert says in said[0]
    left = Run.read(first.directory)
    assert left is not None
    assert left.finished == "given up"


def test_a_run_that_moves_does_not_grow_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days in shadow are no standstill."""
    monkeypatch.setattr("time.time", lambda: 1e9 + 3 * STALE_S)
    with begun(tmp_path, {}, SAID.append, now_s=1e9) as run:
        run.moved()
    with begun(tmp_path, {}, SAID.append, now_s=1e9 + 4 * STALE_S - 1) as again:
        assert again.directory == run.directory
    with begun(tmp_path, {}, SAID.append, now_s=1e9 + 4 * STALE_S + 1) as later:
        assert later.directory != run.directory


def test_two_processes_do_not_share_a_place(tmp_path: Path) -> None:
    with begun(tmp_path, {}, SAID.append), pytest.raises(UserError, match="another process retrains"), begun(tmp_path, {}, SAID.append):
        pass


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another place with --home"), begun(tmp_path / "file" / "x", {}, SAID.append):
        pass


def test_old_runs_are_forgotten_and_broken_ones_are_none(tmp_path: Path) -> None:
    for i in range(KEPT_RUNS + 5):
        with begun(tmp_path, {}, SAID.append, now_s=1e9 + i) as run:
            run.finish("not better")
    (run.directory / STATE).write_text("{")
    with begun(tmp_path, {}, SAID.append, now_s=2e9):
        pass
    assert len(list(tmp_path.glob(f"*/{STATE}"))) == KEPT_RUNS + 2
