"""Tables of a campaign against what can be counted from its rows by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from epsilon.report import tables
from epsilon.report.paper import paper_table, printed_averages, table1
from epsilon.report.results import Results
from epsilon.resampling import Resampler


@pytest.fixture(scope="module")
def league(results) -> pd.DataFrame:
    return tables.league(results).set_index(["site", "shown", "technique"])


def test_means_are_over_cells(frame, league):
    own = frame[(frame.technique == "epsilon/quartile") & (frame.site == "storage") & (frame.rate > 0) & frame.bit.isna()]
    cells = own.groupby(["point", "rate"])[["correct", "sdc", "images"]].sum()
    line = league.loc[("storage", "KVP", "epsilon/quartile")]
    assert line.accuracy == pytest.approx((cells.correct / cells.images).mean())
    assert line.sdc == pytest.approx((cells.sdc / cells.images).mean())
    assert (line.cells, line.maps, line.runs) == (4, 6, 12)
    assert line.cycles_per_image == pytest.approx((own.run_cycles + own.scan_cycles + own.probe_cycles).sum() / own.images.sum())
    assert line.energy_pj_per_image == pytest.approx(own.energy_pj.sum() / own.images.sum())


def test_every_value_lies_in_its_interval(league):
    for name in ("accuracy", "fault_free", "to_vanilla", "to_fault_free", "sdc"):
        known = league[league[name].notna()]
        assert len(known)
        assert ((known[f"{name}_low"] <= known[name]) & (known[name] <= known[f"{name}_high"])).all()
        assert (known[f"{name}_low"] < known[f"{name}_high"]).all()


def test_differences_are_those_of_the_same_maps(frame, league):
    own = frame[(frame.site == "array") & (frame.rate > 0)].set_index(["technique", "map_digest"])
    gap = own.loc["epsilon/nearest"].correct - own.loc["vanilla"].correct
    line = league.loc[("array", "KVP", "epsilon/nearest")]
    assert line.to_vanilla == pytest.approx((gap / 150).mean())
    assert line.to_vanilla_low > 0
    assert line.golden
    assert not league.loc[("array", "KVP", "epsilon/invert/map")].golden


def test_loss_is_paired_with_the_healthy_row(results, league):
    assert league.to_fault_free_paired.drop(("storage", "L2N", "vanilla")).all()
    assert not league.loc[("storage", "L2N", "vanilla")].to_fault_free_paired  # no row without faults under L2N
    rows = results.base[(results.base.technique == "epsilon/nearest") & (results.base.site == "storage") & results.base.bit.isna()]
    exact, loose = results.loss(rows), results.estimate(rows)
    assert exact.value == pytest.approx(loose.value - rows.correct_fault_free.iloc[0] / 150)
    assert exact.high - exact.low < loose.high - loose.low


def test_order_of_the_rows_does_not_matter(frame, results, league):
    shuffled = Results(frame.sample(frac=1, random_state=3), results.resampler)
    again = tables.league(shuffled).set_index(["site", "shown", "technique"])
    pd.testing.assert_frame_equal(league, again)


def test_settings_are_no_part_of_the_means(results):
    table = tables.accuracy_by_setting(results, "gamma")
    assert table.gamma.tolist() == [0.5, 0.7, 0.9]
    assert results.base.gamma_fitted.all()
    assert tables.accuracy_by_setting(results, "alpha").empty


def test_shares_of_exits_add_up(results):
    table = tables.exit_shares(results)
    total = table.groupby(["site", "shown", "technique"]).share.sum()
    assert total.to_numpy() == pytest.approx(1)
    vanilla = table[table.technique == "vanilla"]
    assert (vanilla.share == (vanilla.exit == 3)).all()


def test_the_sign_bit_costs_most(results):
    table = tables.vulnerability(results).set_index(["layer", "bit"])
    assert list(dict.fromkeys(table.index.get_level_values("layer"))) == ["conv1", "exit3_fc"]
    assert table.loc[("conv1", 7)].loss_high < table.loc[("conv1", 0)].loss_low
    assert set(table.technique) == {"vanilla"}


def test_roc_of_the_pattern_score(frame, results):
    found = tables.scores(results)
    assert (found.score[~found.faulty] == 0).all()
    # One line per layer of each map, however many techniques checked it.
    maps = frame[frame.scores.notna() & (frame.rate > 0)].drop_duplicates("map_digest")
    assert len(found) == sum(len(json.loads(text)) for text in maps.scores)
    for _, curve in tables.detector_roc(found).groupby(["site", "rate"]):
        assert curve.threshold.is_monotonic_decreasing
        assert curve.detected.is_monotonic_increasing
        assert (curve.detected.iloc[0], curve.detected.iloc[-1]) == (0, 1)
        assert (curve.false_alarms[curve.threshold >= 0].dropna() == 0).all()
        area, first = curve.area.iloc[0], curve[curve.threshold == 0]
        if not np.isnan(area):
            # With healthy scores all 0 the area is that of a trapezium through the point of threshold 0.
            assert area == pytest.approx((1 + first.detected.iloc[0]) / 2)


def test_roc_where_healthy_layers_have_scores():
    found = pd.DataFrame({"site": "storage", "rate": 0.1, "faulty": [True, True, False, False], "score": [3.0, 1.0, 2.0, 0.0]})
    curve = tables.detector_roc(found)
    assert curve.detected.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert curve.false_alarms.tolist() == [0, 0, 0, 0.5, 0.5, 1]
    assert curve.area.iloc[0] == 0.75


def test_bounds_beside_the_measured_rates(frame, results):
    table = tables.bounds(results)
    line = table[(table.technique == "epsilon/quartile") & (table.site == "storage") & (table.rate == 0.5)].iloc[0]
    own = frame[(frame.technique == "epsilon/quartile") & (frame.site == "storage") & (frame.rate == 0.5)]
    assert line.error == pytest.approx(1 - own.correct.sum() / own.images.sum())
    assert line.bound_missed == pytest.approx(own.bound_missed.mean())
    assert line.checked == (own.layers_missed + own.layers_detected).sum()
    assert line.error_low <= line.error <= line.error_high


def test_one_map_says_so(frame):
    one = Results(frame[(frame.seed == 1) & (frame.point == "FP4") & (frame.rate == 0.5) & frame.bit.isna()])
    table = tables.league(one).set_index(["shown", "technique"])
    assert set(table.interval) == {"images"}
    assert (table.maps == 1).all()


def test_confidence_widens_the_interval(frame):
    rows = frame[frame.site == "array"]
    narrow, wide = (tables.league(Results(rows, Resampler(confidence=level))).iloc[0] for level in (0.8, 0.99))
    assert wide.accuracy_low < narrow.accuracy_low < narrow.accuracy_high < wide.accuracy_high


def test_no_rows_are_refused(frame):
    with pytest.raises(ValueError, match="no row yet"):
        Results(frame.iloc[:0])


def test_paper_table_is_whole():
    cells = paper_table()
    assert len(cells) == 3 * 3 * 3 * 4 * 3
    assert len(printed_averages()) == 27
    assert cells["VGG16", "KVP", "EPSILON", "FP4", 0.5] == pytest.approx(0.2578)
    assert printed_averages()["VGG16", "KVP", "EPSILON"] == pytest.approx(0.8005)


def test_table1_lays_the_paper_beside_ours(cifar_rows):
    results = Results(pd.DataFrame.from_records(cifar_rows))
    table = table1(results).set_index(["technique", "point"])
    assert set(table.model) == {"MobileNet"}
    cell = table.loc[("vanilla", "FP4")]
    row = next(r for r in cifar_rows if r["technique"] == "vanilla" and r["point"] == "FP4")
    assert cell.accuracy == pytest.approx(row["correct"] / row["images"])
    assert cell.paper == pytest.approx(0.2332)
    average = table.loc[("epsilon/quartile", "average")]
    assert average.paper == pytest.approx((0.8355 + 0.2742) / 2)
    assert average.printed == pytest.approx(0.7336)
    assert table1(results, polarity="0").empty
