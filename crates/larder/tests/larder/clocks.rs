//! A clock that is wrong, as the program tells of it. The one that can be set here is the server's: a proxy says another
//! `Date`, and the client cannot know which of the two is wrong.

use larder_testkit::{Action, Answer, Proxy};
use serde_json::Value;

use crate::support::World;
use crate::transcripts::fails;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

/// A server whose answers say a time that is so many seconds ahead.
fn ahead(world: &World, seconds: i64) -> Proxy {
    let proxy = Proxy::start(&world.url());
    set(&proxy, seconds);
    proxy
}

fn set(proxy: &Proxy, seconds: i64) {
    proxy.rule(move |_| {
        Action::Rewrite(Box::new(move |mut answer: Answer| {
            let told = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
            let date = jiff::fmt::rfc2822::DateTimePrinter::new()
                .timestamp_to_rfc9110_string(&told)
                .unwrap();
            answer
                .headers
                .retain(|(name, _)| !name.eq_ignore_ascii_case("date"));
            answer.with_header("date", date)
        }))
    });
}

/// What a command tells of the clocks.
fn told_of_clocks(world: &World, arguments: &[&str]) -> Value {
    let mut records = world.json("alice", arguments);
    records.retain(|record| record["type"] == "clock_off");
    assert_eq!(records.len(), 1, "{arguments:?}: {records:?}");
    records.remove(0)
}

#[test]
fn a_clock_that_is_two_hours_off_is_told_and_everything_works() {
    for (seconds, word) in [(2 * HOUR, "slow"), (-2 * HOUR, "fast")] {
        let world = World::new();
        world.register(&["bob"]);
        let proxy = ahead(&world, seconds);
        let at = |arguments: &[&'static str]| [&["--server", proxy.url.as_str()], arguments].concat();
        for command in [
            &["register", "--no-encryption", "alice"][..],
            &["pool", "refresh"],
            &["pool", "status"],
        ] {
            let told = told_of_clocks(&world, &at(command));
            let fast = told["seconds_fast"].as_i64().unwrap();
            assert!((fast + seconds).abs() < MINUTE, "{told}");
            let explanation = told["explanation"].as_str().unwrap();
            let expected = format!("this computer's clock is 2 h {word}: it says ");
            assert!(explanation.starts_with(&expected), "{explanation}");
            assert!(explanation.contains(", and the server's says "), "{explanation}");
        }
        assert_eq!(world.json("alice", &at(&["pool", "status"]))[0]["available"], 32);
        world.ok("alice", &at(&["group", "create", "room"]));
        world.ok("alice", &at(&["invite", "room", "bob"]));
        world.ok("bob", &["recv"]);
        world.ok("bob", &["group", "create", "yard"]);
        world.ok("bob", &["invite", "yard", "alice"]);
        world.ok("bob", &["send", "yard", "hello"]);
        assert!(world.ok("alice", &at(&["recv"])).contains("hello"));
    }
}

#[test]
fn a_clock_that_is_thirty_hours_off_is_refused_with_both_times() {
    for (seconds, word) in [(30 * HOUR, "slow"), (-30 * HOUR, "fast")] {
        let world = World::new();
        world.register(&["bob"]);
        let proxy = ahead(&world, seconds);
        let at = |arguments: &[&'static str]| [&["--server", proxy.url.as_str()], arguments].concat();
        let refused = |arguments: &[&'static str]| {
            let (exit, told, code) = fails(&world, "alice", &at(arguments));
            // What is logged comes before it.
            let told = told.lines().last().unwrap();
            assert_eq!(
                (exit, code.as_str()),
                (3, "clocks-apart"),
                "{arguments:?}: {told}"
            );
            let there = told.split_once(", and the server's says ");
            let (here, there) = there.unwrap_or_else(|| panic!("{told}"));
            let clock = format!("larder: this computer's clock is 30 h {word}: it says ");
            assert!(here.starts_with(&clock), "{told}");
            // Year, month, day, hour and minute of each.
            assert_eq!(here.len(), clock.len() + "2026-01-01 00:00".len(), "{told}");
            assert!(
                there.ends_with("; set the clock that is wrong, and try again"),
                "{told}"
            );
        };
        refused(&["register", "--no-encryption", "alice"]);
        // No account was made of it.
        set(&proxy, 0);
        world.ok("alice", &at(&["register", "--no-encryption", "alice"]));
        world.ok("alice", &at(&["group", "create", "room"]));
        set(&proxy, seconds);
        refused(&["pool", "refresh"]);
        refused(&["invite", "room", "bob"]);
        set(&proxy, 0);
        world.ok("alice", &at(&["invite", "room", "bob"]));
    }
}
