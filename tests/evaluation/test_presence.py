import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.presence import (
    Presence,
    calibration_error,
    draw_questions,
    evidence,
    fit_presence,
)


def test_evidence_is_the_mean_of_the_surest_hundredth():
    probability = np.zeros((20, 50))
    probability[:2, :5] = 0.8  # ten of a thousand pixels
    assert evidence(probability) == pytest.approx(0.8)
    probability[0, 0] = 1.0
    assert evidence(probability) == pytest.approx(0.82)
    assert evidence(np.array([[0.3]])) == pytest.approx(0.3)


def test_a_fitted_curve_is_the_one_that_made_the_data():
    rng = np.random.default_rng(0)
    made = Presence(slope=2.0, intercept=-0.5)
    x = rng.random(20_000)
    present = rng.random(len(x)) < made.of(x)
    found = fit_presence(x, present)
    assert found.slope == pytest.approx(2.0, abs=0.1) and found.intercept == pytest.approx(-0.5, abs=0.1)
    assert calibration_error(found.of(x), present) < 0.02


def test_separable_data_keep_the_curve_finite():
    found = fit_presence([0.0, 0.1, 0.9, 1.0], [False, False, True, True])
    assert np.isfinite([found.slope, found.intercept]).all() and found.of(0.0) < 0.5 < found.of(1.0)


@pytest.mark.parametrize(("x", "y"), [([0.1, 0.2], [True, True]), ([0.1], [False]), ([0.1, 0.2], [True]), ([], [])])
def test_one_kind_alone_fits_nothing(x, y):
    with pytest.raises(LlafsError, match="some present and some absent"):
        fit_presence(x, y)


@given(st.floats(0.1, 5), st.floats(-5, 5), st.lists(st.floats(0, 1), min_size=2))
def test_confidence_is_a_probability_and_rises_with_evidence(slope, intercept, values):
    confidence = Presence(slope, intercept).of(np.sort(values))
    assert (confidence >= 0).all() and (confidence <= 1).all() and (np.diff(confidence) >= -1e-12).all()


def test_calibration_error():
    assert calibration_error([1, 1, 0, 0], [True, True, False, False]) == 0
    assert calibration_error([1, 1, 1, 1], [True, False, True, False]) == pytest.approx(0.5)


def test_half_of_the_questions_are_about_what_is_absent():
    shown = {1: {"cat", "dog"}, 2: {"dog"}, 3: set(), 4: {"cup"}}
    questions = draw_questions(shown, ("cat", "dog"), 6, 0)
    assert sum(there for *_, there in questions) == 3 and len(questions) == 6 == len(set(questions))
    assert all((name in shown[i]) == there for i, name, there in questions)
    assert questions == draw_questions(shown, ("cat", "dog"), 6, 0)
    assert draw_questions({1: set()}, ("cat",), 6, 0) == []
