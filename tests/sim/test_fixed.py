"""Who asks at once for what was seen in the fixed seeds shares the work of running them."""

import fcntl

from tests.sim import fixed
from tests.sim.fixed import Fixed, Seen


def test_a_batch_that_another_runs_is_waited_for_last(tmp_path, monkeypatch):
    other = (tmp_path / "seeds-20-30.json").open("w")
    fcntl.flock(other, fcntl.LOCK_EX)
    ran = []

    def run_batch(batch):
        ran.append(batch.start)
        if batch.start == 0:
            other.close()
        seen = Seen()
        seen.counts["seed"] += len(batch)
        return seen

    monkeypatch.setattr(fixed, "run_batch", run_batch)

    seen = Fixed(tmp_path, 30).run_all()

    assert ran == [10, 0, 20]
    assert seen.counts["seed"] == 30
