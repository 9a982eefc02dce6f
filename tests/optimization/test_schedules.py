"""Schedules against closed formulas, their state, and what they refuse."""

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.optimization import LearningRateSchedule, learning_rate_factor

ANY = {
    "constant": {},
    "cosine": {"max_steps": 40},
    "linear": {"max_steps": 40, "final_learning_rate_share": 0.0},
    "wsd": {"max_steps": 40, "decay_steps": 10},
    "inverse_sqrt": {},
    "step": {"decay_interval": 7, "decay_start": 11, "decay_factor": 0.7},
    "plateau": {"decay_factor": 0.3, "patience": 1},
}


def make(schedule="constant", warmup_steps=0, learning_rates=(0.5,), **options):
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in learning_rates]
    return LearningRateSchedule(torch.optim.SGD(groups), schedule, warmup_steps, **options)


def advance(schedule, steps=1):
    """Returns the learning rate that each step is made with."""
    used = []
    for _ in range(steps):
        used.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return used


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(list(ANY)), st.integers(1, 10))
def test_every_schedule_warms_up_along_a_line_to_its_peak(name, warmup):
    schedule = make(name, warmup, **{**ANY[name], "final_learning_rate_share": None})
    used = advance(schedule, warmup + 1)
    assert used == pytest.approx([0.5 * (step + 1) / (warmup + 1) for step in range(warmup + 1)])


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 20), st.integers(1, 50), st.floats(0, 1), st.integers(0, 100))
def test_cosine_and_linear_fall_to_their_share(warmup, length, share, step):
    end = warmup + length
    done = min(1.0, step / length)
    cosine = learning_rate_factor(warmup + step, "cosine", warmup, end, share)
    linear = learning_rate_factor(warmup + step, "linear", warmup, end, share)
    assert cosine == pytest.approx(share + (1 - share) * (1 + math.cos(math.pi * done)) / 2)
    assert linear == pytest.approx(1 - (1 - share) * done)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 20), st.integers(0, 50), st.integers(1, 50), st.floats(0, 1))
def test_wsd_stays_and_falls_along_a_line_in_its_last_steps(warmup, stable, decay, share):
    end = warmup + stable + decay
    schedule = make("wsd", warmup, max_steps=end, decay_steps=decay, final_learning_rate_share=share)
    used = advance(schedule, end + 5)
    assert used[warmup : warmup + stable] == [0.5] * stable
    falling = [0.5 * (1 - (1 - share) * step / decay) for step in range(decay)]
    assert used[warmup + stable : end] == pytest.approx(falling)
    assert used[end:] == pytest.approx([0.5 * share] * 5)


def test_wsd_falls_over_a_tenth_unless_told_otherwise():
    used = advance(make("wsd", max_steps=200), 201)
    assert used[:181] == [0.5] * 181
    assert used[190] == pytest.approx(0.5 * 0.55)
    assert used[200] == pytest.approx(0.05)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 100), st.integers(0, 10_000))
def test_inverse_sqrt_is_that_of_the_transformer(warmup, step):
    ours = learning_rate_factor(warmup + step, "inverse_sqrt", warmup)
    vaswani = min((warmup + step) ** -0.5, (warmup + step) * warmup**-1.5)
    assert ours == pytest.approx(vaswani / warmup**-0.5)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(0, 6), st.floats(0.05, 0.95), st.integers(0, 12))
def test_step_is_that_of_zaremba_counted_in_epochs(steps_per_epoch, constant_epochs, factor, epoch):
    schedule = make(
        "step",
        decay_start=constant_epochs * steps_per_epoch,
        decay_interval=steps_per_epoch,
        decay_factor=factor,
    )
    used = advance(schedule, (epoch + 1) * steps_per_epoch)
    zaremba = 0.5 * factor ** max(epoch + 1 - constant_epochs, 0)
    assert used[-steps_per_epoch:] == pytest.approx([zaremba] * steps_per_epoch)


def test_step_begins_an_interval_after_the_warm_up_and_halves():
    used = advance(make("step", 3, decay_interval=5), 14)
    assert used[3:] == [0.5] * 5 + [0.25] * 5 + [0.125]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, math.nan, math.inf, -math.inf])), st.integers(0, 3))
def test_plateau_reduces_after_more_than_its_patience_without_a_new_best(losses, patience):
    schedule = make("plateau", decay_factor=0.5, patience=patience)
    best, waited, expected = None, 0, 0.5
    for loss in losses:
        if math.isfinite(loss) and (best is None or loss < best):
            best, waited = loss, 0
        elif waited == patience:
            waited, expected = 0, expected / 2
        else:
            waited += 1
        schedule.validated(loss)
        assert schedule.optimizer.param_groups[0]["lr"] == expected
        assert schedule.get_last_lr() == [expected]
        assert advance(schedule) == [expected]


def test_plateau_divides_by_four_unless_told_otherwise():
    schedule = make("plateau")
    for loss in (2.0, 1.0, 1.0):
        schedule.validated(loss)
    assert advance(schedule, 2) == [0.125, 0.125]


@pytest.mark.parametrize("name", [name for name in ANY if name != "plateau"])
def test_other_schedules_do_not_mind_validations(name):
    plain, validated = make(name, 3, **ANY[name]), make(name, 3, **ANY[name])
    for _ in range(20):
        validated.validated(math.nan)
        validated.validated(5.0)
        assert advance(validated) == advance(plain)


def test_every_group_keeps_its_own_learning_rate():
    schedule = make("linear", learning_rates=(1.0, 0.1), max_steps=10, final_learning_rate_share=0.0)
    advance(schedule, 5)
    assert [group["lr"] for group in schedule.optimizer.param_groups] == pytest.approx([0.5, 0.05])


# -- state ----------------------------------------------------------------------------------------------


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(list(ANY)), st.integers(0, 30), st.lists(st.floats(0, 9), min_size=40, max_size=40))
def test_goes_on_from_its_state_to_the_bit(name, stop, losses):
    def run(schedule, steps):
        used = []
        for step in steps:
            used += advance(schedule)
            schedule.validated(losses[step])
        return used

    whole = run(make(name, 4, **ANY[name]), range(40))
    first, second = make(name, 4, **ANY[name]), make(name, 4, **ANY[name])
    run(first, range(stop))
    state = through_a_file([first.optimizer.state_dict(), first.state_dict()])
    second.optimizer.load_state_dict(state[0])
    second.load_state_dict(state[1])
    assert run(second, range(stop, 40)) == whole[stop:]
    assert second.get_last_lr() == [group["lr"] for group in second.optimizer.param_groups]


def test_what_it_is_made_with_wins_over_the_state():
    old = make("linear", 2, max_steps=100, learning_rates=(1.0,))
    advance(old, 30)
    new = make("cosine", 5, max_steps=50, final_learning_rate_share=0.2)
    new.optimizer.load_state_dict(old.optimizer.state_dict())
    new.load_state_dict(old.state_dict())
    expected = [0.5 * learning_rate_factor(step, "cosine", 5, 50, 0.2) for step in (30, 31)]
    assert advance(new, 2) == expected
    assert new.optimizer.param_groups[0]["initial_lr"] == 0.5


def test_plateau_keeps_what_it_has_seen_and_takes_the_new_factor_and_patience():
    old = make("plateau", decay_factor=0.5)
    for loss in (1.0, 2.0):
        old.validated(loss)
    new = make("plateau", decay_factor=0.1, patience=1)
    new.load_state_dict(old.state_dict())
    assert new.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    new.validated(1.5)
    assert new.reductions == 1
    new.validated(1.5)
    assert new.reductions == 2


def test_plateau_does_not_begin_its_patience_anew():
    old, new = (make("plateau", patience=2) for _ in range(2))
    for loss in (1.0, 2.0, 2.0):
        old.validated(loss)
    new.load_state_dict(old.state_dict())
    new.validated(2.0)
    assert (old.reductions, new.reductions) == (0, 1)


def test_goes_on_from_a_checkpoint_of_a_lambda_schedule():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    old = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    for _ in range(10):
        optimizer.step()
        old.step()
    new = make("linear", max_steps=20, final_learning_rate_share=0.0)
    new.load_state_dict(through_a_file(old.state_dict()))
    assert advance(new) == [0.25]


def test_a_new_learning_rate_keeps_the_position():
    schedule = make("linear", max_steps=20, final_learning_rate_share=0.0)
    advance(schedule, 10)
    schedule.set_learning_rate(8.0)
    assert advance(schedule, 2) == pytest.approx([4.0, 3.6])


# -- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosin"}, r"schedule is 'cosin' \(did you mean 'cosine'\?\); it must be one of"),
        *[
            ({"schedule": name}, f"schedule '{name}' falls until the last step, and trainer.max_steps is not")
            for name in ("cosine", "linear", "wsd")
        ],
        ({"schedule": "inverse_sqrt"}, "schedule 'inverse_sqrt' .* warmup_steps is 0: give 1 or more"),
        ({"schedule": "step"}, "schedule 'step' needs decay_interval"),
        ({"warmup_steps": -1}, "warmup_steps is -1: give a whole number from 0 on"),
        ({"warmup_steps": 2.5}, "warmup_steps is 2.5: give a whole number from 0 on"),
        ({"schedule": "plateau", "patience": 0.5}, "patience is 0.5: give a whole number from 0"),
        ({"schedule": "wsd", "max_steps": 9, "decay_steps": 10}, "decay_steps 10 do not fit into .* 9"),
        (
            {"schedule": "wsd", "max_steps": 9, "decay_steps": 5, "warmup_steps": 5},
            "warmup_steps 5 and decay",
        ),
        (
            {"schedule": "wsd", "max_steps": 9, "decay_steps": 0},
            "decay_steps is 0: give a whole number from 1",
        ),
        ({"schedule": "step", "decay_interval": 0}, "decay_interval is 0: give a whole number from 1"),
        ({"schedule": "step", "decay_interval": 1, "decay_start": -1}, "decay_start is -1: .* from 0"),
        (
            {"schedule": "step", "decay_interval": 1, "decay_start": 3, "warmup_steps": 4},
            "decay_start is 3, before the warm-up ends at step 4: give 4 or more",
        ),
        ({"schedule": "plateau", "patience": -1}, "patience is -1: give a whole number from 0"),
        *[
            (
                {"schedule": "plateau", "decay_factor": value},
                f"decay_factor is {value}: give a number between",
            )
            for value in (-0.5, 0.0, 1.0, 2.0, math.nan)
        ],
        *[
            (
                {"schedule": "cosine", "max_steps": 9, "final_learning_rate_share": value},
                f"final_learning_rate_share is {value}: give a number in",
            )
            for value in (-0.1, 1.1, math.nan)
        ],
    ],
)
def test_refuses(options, message):
    with pytest.raises(InputError, match=message) as refusal:
        make(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "option", "users"),
    [
        ("constant", "final_learning_rate_share", "cosine or linear or wsd"),
        ("plateau", "final_learning_rate_share", "cosine or linear or wsd"),
        ("cosine", "decay_steps", "wsd"),
        ("plateau", "decay_start", "step"),
        ("linear", "decay_interval", "step"),
        ("wsd", "decay_factor", "step or plateau"),
        ("step", "patience", "plateau"),
    ],
)
def test_refuses_an_option_that_the_schedule_does_not_use(name, option, users):
    message = (
        f"{option} is 1, and schedule '{name}' does not use it: leave it out, or take schedule: {users}$"
    )
    with pytest.raises(InputError, match=message):
        make(name, 4, **{**ANY[name], option: 1})
