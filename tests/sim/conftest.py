"""Cuts the seeds that `--seeds` asks for into tests that each take a second or two."""

BATCH = 25


def pytest_generate_tests(metafunc):
    if "batch" in metafunc.fixturenames:
        seeds = metafunc.config.getoption("--seeds")
        batches = [range(at, min(at + BATCH, seeds)) for at in range(0, seeds, BATCH)]
        metafunc.parametrize("batch", batches, ids=lambda b: f"{b.start}-{b.stop - 1}")
