"""The benchmark checks what it measures."""

import pytest
import torch

from epsilon.engine import bench as module
from epsilon.engine.bench import ENTRANTS, bench


def test_measures_and_checks():
    before = torch.get_num_threads()
    (measured,) = bench(["depthwise"], threads=[1], repeat=1)
    assert torch.get_num_threads() == before
    assert measured.exact
    assert set(measured.ms) == set(ENTRANTS)
    assert all(measured.ratio(entrant) == measured.ms[entrant] / measured.native_ms > 0 for entrant in ENTRANTS)


def test_a_wrong_sum_is_reported(monkeypatch):
    right = module.reference_sums

    def wrong(*args):
        sums = right(*args)
        sums[-1, -1] += 1
        return sums

    monkeypatch.setattr(module, "reference_sums", wrong)
    (measured,) = bench(["linear"], threads=[1], repeat=1)
    assert not measured.exact


def test_entrants_are_what_they_are_called():
    ranks = [len(make().terms or ()) for make in ENTRANTS.values()]
    assert ranks == [1, 3, 5, 0]


@pytest.mark.parametrize(
    ("names", "device", "sentence"), [(["conv"], "cpu", "shape must be one of"), ([], "gpu", "Cannot use the device")]
)
def test_refuses_what_it_does_not_know(names, device, sentence):
    with pytest.raises(ValueError, match=sentence):
        list(bench(names, threads=[1], repeat=1, device=device))
