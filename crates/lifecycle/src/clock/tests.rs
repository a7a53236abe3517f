use proptest::prelude::*;

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const HOUR: u64 = 60 * 60;

/// A machine whose clock can be set.
#[derive(Clone, Copy)]
struct Machine {
    true_time: u64,
    off_by: i64,
}

impl Machine {
    fn new() -> Self {
        Self {
            true_time: NOW.0,
            off_by: 0,
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.true_time += seconds;
    }

    fn read(&self) -> ClockReading {
        ClockReading {
            wall: UnixSeconds(self.true_time.saturating_add_signed(self.off_by)),
            since_boot: self.true_time - NOW.0 + 77,
        }
    }

    fn time(&self) -> UnixSeconds {
        UnixSeconds(self.true_time)
    }
}

/// Days, as seconds that a clock is off by.
const fn days(days: i64) -> i64 {
    days * DAY.cast_signed()
}

const TO_1970: i64 = -NOW.0.cast_signed();

#[test]
fn a_step_either_way_suspends_and_the_way_back_resumes() {
    for step in [
        days(40),
        days(-40),
        days(700),
        days(-700),
        days(95),
        TO_1970,
        3601,
        -3601,
    ] {
        let mut machine = Machine::new();
        let mut guard = ClockGuard::start(machine.read(), None);
        machine.pass(30);
        machine.off_by = step;
        assert_eq!(guard.observe(machine.read()), machine.time(), "{step}");
        let suspension = guard.suspension().unwrap();
        assert_eq!(suspension.doubt, ClockDoubt::Stepped);
        assert_eq!(suspension.since, machine.time());
        let error = match step {
            0.. => ClockError::Ahead(step.unsigned_abs()),
            _ => ClockError::Behind(step.unsigned_abs().min(machine.true_time)),
        };
        assert_eq!(suspension.error, error);
        machine.pass(3);
        assert_eq!(guard.observe(machine.read()), machine.time(), "{step}");
        machine.off_by = 0;
        assert_eq!(guard.observe(machine.read()), machine.time());
        assert_eq!(guard.suspension(), None);
    }
}

#[test]
fn what_is_no_step_is_the_clocks_time() {
    let mut machine = Machine::new();
    let mut guard = ClockGuard::start(machine.read(), None);
    for off_by in [3600, -3600, 0, 59] {
        machine.off_by = off_by;
        assert_eq!(guard.observe(machine.read()), machine.read().wall);
        assert_eq!(guard.suspension(), None);
    }
    // A machine that slept for a year.
    machine.pass(365 * DAY);
    assert_eq!(guard.observe(machine.read()), machine.read().wall);
    assert_eq!(guard.suspension(), None);
}

#[test]
fn many_small_steps_within_a_day_are_one() {
    let mut machine = Machine::new();
    let mut guard = ClockGuard::start(machine.read(), None);
    for minute in 0..120 {
        machine.pass(30);
        machine.off_by += 60;
        guard.observe(machine.read());
        assert_eq!(guard.suspension().is_some(), minute >= 60, "{minute}");
    }
}

#[test]
fn a_clock_that_drifts_by_a_minute_in_a_day_is_followed() {
    let mut machine = Machine::new();
    let mut guard = ClockGuard::start(machine.read(), None);
    for _ in 0..400 {
        machine.pass(DAY);
        machine.off_by += 60;
        assert_eq!(guard.observe(machine.read()), machine.read().wall);
        assert_eq!(guard.suspension(), None);
    }
}

#[test]
fn a_step_of_three_days_is_accepted_after_a_steady_day() {
    for (step, accepted) in [
        (days(3), true),
        (days(-3), true),
        (days(3) + 1, false),
        (days(-3) - 1, false),
    ] {
        let mut machine = Machine::new();
        let mut guard = ClockGuard::start(machine.read(), None);
        machine.off_by = step;
        guard.observe(machine.read());
        machine.pass(DAY - 1);
        guard.observe(machine.read());
        assert!(guard.suspension().is_some());
        machine.pass(1);
        let time = guard.observe(machine.read());
        assert_eq!(guard.suspension().is_none(), accepted, "{step}");
        assert_eq!(time == machine.read().wall, accepted);
        machine.pass(365 * DAY);
        guard.observe(machine.read());
        assert_eq!(guard.suspension().is_none(), accepted, "{step}");
    }
}

#[test]
fn another_step_makes_the_steady_day_begin_anew() {
    let mut machine = Machine::new();
    let mut guard = ClockGuard::start(machine.read(), None);
    machine.off_by = days(2);
    guard.observe(machine.read());
    machine.pass(DAY - 1);
    machine.off_by = days(1);
    guard.observe(machine.read());
    machine.pass(DAY - 1);
    guard.observe(machine.read());
    assert!(guard.suspension().is_some());
    machine.pass(1);
    assert_eq!(guard.observe(machine.read()), machine.read().wall);
    assert_eq!(guard.suspension(), None);
}

#[test]
fn at_start_the_clock_has_to_fit_the_last_sweep() {
    let machine = Machine::new();
    for (since_last_sweep, plausible) in [
        (0, true),
        (-3600, true),
        (-3601, false),
        (days(-40), false),
        (days(30), true),
        (days(40) - 1, true),
        (days(40), false),
        (days(700), false),
    ] {
        let last_sweep = UnixSeconds(NOW.0.saturating_add_signed(-since_last_sweep));
        let mut guard = ClockGuard::start(machine.read(), Some(last_sweep));
        assert_eq!(guard.suspension().is_none(), plausible, "{since_last_sweep}");
        let expected = if plausible { NOW } else { last_sweep };
        assert_eq!(guard.observe(machine.read()), expected, "{since_last_sweep}");
    }
    let from_1970 = ClockReading {
        wall: UnixSeconds(0),
        since_boot: 5,
    };
    assert!(ClockGuard::start(from_1970, Some(NOW)).suspension().is_some());
}

#[test]
fn a_machine_that_learns_the_time_after_its_start_is_believed() {
    let mut machine = Machine::new();
    let last_sweep = UnixSeconds(NOW.0 - 20 * DAY);
    machine.off_by = TO_1970;
    let mut guard = ClockGuard::start(machine.read(), Some(last_sweep));
    machine.pass(9);
    assert_eq!(guard.observe(machine.read()), last_sweep.plus(9));
    machine.off_by = 0;
    assert_eq!(guard.observe(machine.read()), machine.time());
    // From here on it is a step again.
    machine.off_by = days(10);
    assert_eq!(guard.observe(machine.read()), machine.time());
    assert!(guard.suspension().is_some());
}

#[test]
fn an_error_is_told_in_two_units() {
    for (error, text) in [
        (ClockError::Ahead(40 * DAY + 59), "40 d 0 h ahead"),
        (ClockError::Behind(20_833 * DAY + 8 * HOUR), "20833 d 8 h behind"),
        (ClockError::Ahead(2 * HOUR + 300), "2 h 5 min ahead"),
        (ClockError::Behind(61), "1 min behind"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn what_an_operator_accepts_is_the_time() {
    for step in [days(700), days(-700), TO_1970] {
        let mut machine = Machine::new();
        let mut guard = ClockGuard::start(machine.read(), None);
        machine.off_by = step;
        guard.observe(machine.read());
        guard.correct(machine.read().wall, machine.read());
        assert_eq!(guard.suspension(), None);
        machine.pass(HOUR);
        assert_eq!(guard.observe(machine.read()), machine.read().wall);
        assert_eq!(guard.suspension(), None);
    }
}

#[test]
fn a_node_with_another_time_than_was_accepted_goes_by_that() {
    let mut machine = Machine::new();
    let mut guard = ClockGuard::start(machine.read(), None);
    let told = NOW.plus(50 * DAY);
    guard.correct(told, machine.read());
    assert_eq!(guard.suspension().unwrap().doubt, ClockDoubt::Disagrees);
    machine.pass(60);
    assert_eq!(guard.observe(machine.read()), told.plus(60));
    machine.off_by = days(50);
    assert_eq!(guard.observe(machine.read()), told.plus(60));
    assert_eq!(guard.suspension(), None);
}

proptest! {
    /// However a clock is set and set back, the time never differs from the true one by more than what is no step.
    #[test]
    fn no_steps_lead_the_time_astray_unless_accepted(
        steps in prop::collection::vec((0..7200u64, prop_oneof![
            Just(0), Just(TO_1970), -days(700)..days(700), -7200..7200i64,
        ]), 1..99),
        last_sweep in prop::option::of(0..days(40).cast_unsigned()),
    ) {
        let mut machine = Machine::new();
        let last_sweep = last_sweep.map(|ago| UnixSeconds(NOW.0 - ago));
        let mut guard = ClockGuard::start(machine.read(), last_sweep);
        let mut total = 0;
        for (passed, off_by) in steps {
            // Less than a day in all: nothing is accepted.
            total += passed;
            if total >= CLOCK_STEADY_SECONDS {
                break;
            }
            machine.pass(passed);
            machine.off_by = off_by;
            let time = guard.observe(machine.read());
            let error = ClockError::of(time, machine.time());
            prop_assert!(error.seconds() <= CLOCK_STEP_SECONDS_MAX, "{error:?}");
            let is_step = off_by.unsigned_abs() > CLOCK_STEP_SECONDS_MAX;
            prop_assert_eq!(guard.suspension().is_some(), is_step);
        }
    }

    /// What is believed never changes by itself while the clock is wrong by more than three days.
    #[test]
    fn a_large_step_is_never_accepted_by_itself(
        off_by in days(3) + 1..days(20_000), behind: bool, looks in prop::collection::vec(0..days(3).cast_unsigned(), 1..99),
    ) {
        let mut machine = Machine::new();
        let mut guard = ClockGuard::start(machine.read(), None);
        machine.off_by = if behind { -off_by } else { off_by };
        for passed in looks {
            machine.pass(passed);
            prop_assert_eq!(guard.observe(machine.read()), machine.time());
            prop_assert!(guard.suspension().is_some());
        }
    }
}
