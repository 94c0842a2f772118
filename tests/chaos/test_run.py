"""What the command for the full counts runs, keeps and tells."""

from tests.chaos import strikes
from tests.chaos.report import estimate, failures, missed, summary, table
from tests.chaos.run import State, batches, in_turns
from tests.chaos.scenarios import SCENARIOS


def batch(reps, seed, **found):
    measured = {"seconds": 4.0, "struck_s": 2.0, "cpu_s": 2.0, "struck_cpu_s": 1.0}
    return {"reps": reps, "seed": seed, **measured, "recovered_s": [], "load": 1.0, **found}


def test_batches_come_to_what_is_aimed_at():
    for name, scenario in SCENARIOS.items():
        found = batches(name, scenario.aim, seed=1)

        assert sum(reps for _, reps, _ in found) == scenario.aim
        assert len(set(found)) == len(found)


def test_all_scenarios_advance_alike():
    found = in_turns({"L2": 1_000, "L5": 50}, seed=1)

    half = [name for name, _, _ in found[: len(found) // 2]]
    assert half.count("L2") in range(9, 12)
    assert half.count("L5") in range(2, 4)
    assert len(found) == 25


def test_a_state_file_goes_on_where_it_was_also_with_another_commit(tmp_path):
    path = tmp_path / "state"
    State(path, "abc").add("L1", batch(5, 10_000))
    State(path, "def").add("L1", batch(5, 10_001))

    assert State(path, "ghi").done == {
        "L1": {
            "5 with seed 10000": batch(5, 10_000, commit="abc"),
            "5 with seed 10001": batch(5, 10_001, commit="def"),
        }
    }


def test_what_failed_is_done_again_when_asked_and_stays_in_the_table(tmp_path):
    state = State(tmp_path / "state", "abc")
    state.add("L1", batch(5, 10_000, failure="lost"))
    state.add("L1", batch(5, 10_001))

    state.set_failures_aside()

    assert "5 with seed 10000" not in state.done["L1"]
    state.add("L1", batch(5, 10_000))
    assert [one.get("failure") for one in state.done["L1"].values()].count("lost") == 1
    assert "10 of 10 | 1 |" in table({"L1": list(state.done["L1"].values())}, aims={"L1": 10})


def test_a_summary_has_all_calls_and_how_soon_it_was_over():
    good = batch(5, 1, recovered_s=[0.1, 0.3], result=9, runs=10, again=1, accepted=3, commit="abc")
    found = {"L1": [good, batch(5, 2, failure="it broke", commit="def")]}

    said = summary(found)

    assert "5 faults in 1 clusters, 1 clusters in which a promise was broken" in said
    assert "Of 9 calls, 3 of them durable" in said
    assert "p50 0.10 s, p99 0.30 s, at most 0.30 s (2 times)" in said
    assert "abc (1 clusters)" in said
    assert failures(found) == "L1, seed 2, commit def:\n\nit broke"


def test_what_takes_longer_than_it_may_is_told_and_fails():
    found = {"L1": [batch(5, 1, recovered_s=[0.1, 3.5])], "L13": [batch(5, 1, recovered_s=[9.0])]}

    assert missed(found) == ["L1 misses its goal: p99 3.50 of 3.0 s."]
    assert "L1 misses its goal" in summary(found)


def test_goals_are_held_against_all_that_was_measured():
    def l1(running, adopted):
        return batch(5, 1, measured={strikes.RUNNING: [running], strikes.ADOPTED: [adopted]})

    assert missed({"L1": [l1(150, 148), l1(150, 150)]}) == []
    (line,) = missed({"L1": [l1(150, 148), l1(40, 39)]})
    assert line.endswith("187 of 190, at least 99%.")

    crashes = [0.1] * 99 + [1.5]
    assert missed({"L3": [batch(5, 1, measured={strikes.REPORTED: crashes})]}) == []
    assert missed({"L3": [batch(5, 1, measured={strikes.REPORTED: crashes * 2 + [1.5]})]})


def test_what_was_measured_beside_it_is_told_and_is_no_outcome():
    measured = {"running": [9], "seconds until": [0.25, 0.5]}
    found = {"L1": [batch(5, n, result=1, measured=measured) for n in (1, 2)]}

    said = summary(found)

    assert "Of 2 calls" in said
    assert "L1, running: 18." in said
    assert "L1, seconds until: p50 0.25, p99 0.50, at most 0.50 (4 times)." in said


def test_a_batch_that_failed_is_not_counted_as_done():
    one = batch(5, 1, recovered_s=[0.1, 0.3], result=9, runs=9, accepted=3)
    other = batch(5, 2, failure="lost")

    (_, _, row) = table({"L1": [one, other]}, aims={"L1": 10}).splitlines()

    assert row.startswith(
        "| L1 | broker killed under load | 5 of 10 | 1 | 9 | result 9 | 0 | 0.10 / 0.30"
    )


def test_an_estimate_counts_clusters_and_what_is_done_to_them():
    done = {"L5": {"a": batch(2, 1), "b": batch(2, 2), "c": batch(10, 3, failure="lost")}}

    said = estimate(done, jobs=4)

    # 5 clusters of 2 s each around 50 strikes of 1 s.
    assert "L5              50 times:    1.0 minutes of a cluster,   0.5 of a core (from 4)" in said
    assert "within two hours; not measured: L1, " in said
