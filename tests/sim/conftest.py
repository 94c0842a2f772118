"""How many seeds `pytest tests/sim` runs."""

SEEDS_DEFAULT = 200


def pytest_addoption(parser):
    parser.addoption("--seeds", type=int, default=SEEDS_DEFAULT, help="seeds for the simulator")


def pytest_generate_tests(metafunc):
    if "batch" in metafunc.fixturenames:
        seeds = metafunc.config.getoption("--seeds", default=SEEDS_DEFAULT)
        size = 25
        batches = [range(at, min(at + size, seeds)) for at in range(0, seeds, size)]
        metafunc.parametrize("batch", batches, ids=lambda b: f"{b.start}-{b.stop - 1}")
