use std::collections::BTreeMap;

use larder_client::{
    ContactRequest, GroupKey, GroupState, GroupSummary, Message, MessageKind, SendStatus, UnixSeconds,
};
use ratatui::crossterm::event::{Event, KeyEvent};

use super::*;
use crate::tui::keys::Key;

pub(in crate::tui) fn app() -> App {
    let when = |at: UnixSeconds| {
        (
            format!("day {}", at.0 / 86_400),
            format!("{:02}:{:02}", at.0 / 3600 % 24, at.0 / 60 % 60),
        )
    };
    let keys = Keys::configured(&BTreeMap::new()).unwrap();
    App::new("alice/laptop".to_owned(), keys, when)
}

pub(in crate::tui) fn key(name: &str) -> GroupKey {
    GroupKey::from_bytes(name.as_bytes()).unwrap()
}

pub(in crate::tui) fn group(name: &str, unread: u64) -> GroupSummary {
    GroupSummary {
        id: key(name),
        name: Some(name.to_owned()),
        epoch: 1,
        members: 3,
        state: GroupState::Active,
        unread,
        read_up_to: 0,
        last_row: 0,
        muted: false,
        denied: false,
        held: Vec::new(),
        request: None,
    }
}

pub(in crate::tui) fn invitation_by(user: &str) -> ContactRequest {
    ContactRequest::Invitation {
        by: user.parse().unwrap(),
    }
}

pub(in crate::tui) fn message(row: i64, group: &str, sender: &str, text: &str) -> Message {
    Message {
        row,
        group: Some(key(group)),
        group_name: Some(group.to_owned()),
        sender: Some(sender.parse().unwrap()),
        id: row.to_string(),
        kind: MessageKind::Text,
        text: text.to_owned(),
        sent_at: UnixSeconds(43_200 + 60 * row.unsigned_abs()),
        received_at: UnixSeconds(43_200),
        mine: sender == "alice",
        status: SendStatus::Sent,
    }
}

pub(in crate::tui) fn press(app: &mut App, keys: &[&str]) {
    for key in keys {
        let key: Key = key.parse().unwrap();
        app.input(Event::Key(KeyEvent::new(key.code(), key.modifiers())));
    }
}

pub(in crate::tui) fn type_text(app: &mut App, text: &str) {
    for c in text.chars() {
        let key = match c {
            ' ' => "space".to_owned(),
            '-' => "minus".to_owned(),
            c => c.to_string(),
        };
        press(app, &[&key]);
    }
}

/// As drawing does it.
fn look(app: &mut App) {
    if let Some((_, timeline)) = app.shown()
        && timeline.view(80, 10).1
    {
        app.load_older();
    }
}

fn history(app: &mut App, group: &str, rows: std::ops::RangeInclusive<i64>) {
    let messages = rows.map(|row| message(row, group, "bob", "text")).collect();
    app.update(Update::History {
        group: key(group),
        messages,
        complete: true,
    });
}

fn with_groups() -> App {
    let mut app = app();
    let groups = vec![group("kitchen", 0), group("attic", 2), group("garden", 5)];
    app.update(Update::Groups(groups));
    app.effects();
    app
}

#[test]
fn moving_past_a_group_does_not_mark_it_read_and_going_there_does() {
    let mut app = with_groups();
    for (name, rows) in [("attic", 1..=2), ("garden", 3..=7), ("kitchen", 8..=8)] {
        history(&mut app, name, rows);
    }
    press(&mut app, &["alt-down", "alt-down", "alt-up", "alt-up", "alt-up"]);
    look(&mut app);
    assert!(app.effects().is_empty());
    assert_eq!(app.groups.shown().unwrap().name.as_deref(), Some("attic"));
    press(&mut app, &["enter"]);
    look(&mut app);
    assert!(app.effects().contains(&Effect::MarkRead {
        group: key("attic"),
        up_to: 2
    }));
    assert_eq!(app.groups.unread(), 5);
}

#[test]
fn unread_messages_that_do_not_fit_are_read_when_the_last_of_them_was_on_the_screen() {
    let mut app = with_groups();
    history(&mut app, "garden", 1..=50);
    look(&mut app);
    press(&mut app, &["alt-n"]);
    assert_eq!(app.groups.open(), Some(&key("garden")));
    look(&mut app);
    let read = |effects: Vec<Effect>| {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::MarkRead { .. }))
    };
    assert!(!read(app.effects()));
    press(&mut app, &["ctrl-end"]);
    look(&mut app);
    assert!(read(app.effects()));
}

#[test]
fn what_arrives_while_nobody_looks_is_new_and_rings_once() {
    let mut app = with_groups();
    history(&mut app, "kitchen", 1..=3);
    app.update(Update::Open(key("kitchen")));
    look(&mut app);
    app.effects();
    app.input(Event::FocusLost);
    app.update(Update::Messages(vec![
        message(10, "kitchen", "bob", "hi"),
        message(11, "kitchen", "bob", "there"),
    ]));
    assert_eq!(
        app.effects(),
        [Effect::Alert {
            group: "kitchen".to_owned(),
            count: 2
        }]
    );
    let (lines, _) = app.shown().unwrap().1.view(80, 10);
    assert!(lines.contains(&crate::tui::timeline::Line::New));
    app.input(Event::FocusGained);
    assert_eq!(
        app.effects(),
        [Effect::MarkRead {
            group: key("kitchen"),
            up_to: 11
        }]
    );
    // With somebody there, nothing rings.
    app.update(Update::Messages(vec![message(12, "kitchen", "bob", "again")]));
    assert!(
        !app.effects()
            .iter()
            .any(|effect| matches!(effect, Effect::Alert { .. }))
    );
}

#[test]
fn a_muted_group_and_own_messages_do_not_ring() {
    let mut app = app();
    let mut muted = group("kitchen", 0);
    muted.muted = true;
    app.update(Update::Groups(vec![muted, group("attic", 0)]));
    app.effects();
    app.update(Update::Messages(vec![
        message(1, "kitchen", "bob", "psst"),
        message(2, "attic", "alice", "from my phone"),
    ]));
    assert!(app.effects().is_empty());
}

#[test]
fn drafts_stay_with_their_groups() {
    let mut app = with_groups();
    press(&mut app, &["enter"]);
    type_text(&mut app, "for the attic");
    app.update(Update::Open(key("garden")));
    assert!(app.composer.is_empty());
    type_text(&mut app, "for the garden");
    app.update(Update::Open(key("attic")));
    assert_eq!(app.composer.text(), "for the attic");
}

#[test]
fn what_is_typed_while_looking_at_a_group_goes_there() {
    let mut app = with_groups();
    press(&mut app, &["enter", "alt-down"]);
    app.effects();
    type_text(&mut app, "hello");
    press(&mut app, &["alt-enter", "x", "enter"]);
    assert!(app.effects().contains(&Effect::Post {
        group: key("garden"),
        text: "hello\nx".to_owned()
    }));
    assert!(app.composer.is_empty());
}

#[test]
fn a_text_that_was_not_taken_comes_back() {
    let mut app = with_groups();
    press(&mut app, &["enter"]);
    let refused = || Update::NotPosted {
        group: key("attic"),
        text: "precious".to_owned(),
        why: "no".to_owned(),
    };
    app.update(refused());
    assert_eq!(app.composer.text(), "precious");
    assert!(app.word.as_ref().unwrap().is_failure);
    // Not over something else.
    app.composer.replace("other");
    app.update(refused());
    assert_eq!(app.composer.text(), "other");
}

#[test]
fn commands_are_completed_run_and_refused_with_a_word() {
    let mut app = with_groups();
    press(&mut app, &["enter"]);
    app.effects();
    type_text(&mut app, "/mem");
    press(&mut app, &["tab", "enter"]);
    assert_eq!(
        app.effects(),
        [Effect::Do {
            group: Some(key("attic")),
            slash: Slash::Members
        }]
    );
    type_text(&mut app, "/fly");
    press(&mut app, &["enter"]);
    assert!(app.word.as_ref().unwrap().is_failure);
    assert_eq!(app.composer.text(), "/fly");
    press(&mut app, &["ctrl-c", "ctrl-c"]);
    assert_eq!(app.effects(), [Effect::Quit]);
}

#[test]
fn a_group_is_gone_to_however_its_name_is_typed_unless_two_are_called_so() {
    let mut app = app();
    let mut asked = group("cafe\u{301} ", 0);
    asked.name = Some("Café".to_owned());
    asked.request = Some(invitation_by("mallory"));
    app.update(Update::Groups(vec![
        group("café", 0),
        group("garden", 0),
        asked.clone(),
    ]));
    let go = |app: &mut App, name: &str| {
        app.update(Update::Open(key("garden")));
        app.composer.replace(&format!("/group {name}"));
        press(app, &["enter"]);
        app.groups.open().cloned()
    };
    // A stranger's invitation does not take the name.
    for name in ["CAFE\u{301}", "café", "CAF"] {
        let expected = if name == "CAF" { "garden" } else { "café" };
        assert_eq!(go(&mut app, name), Some(key(expected)), "{name}");
    }
    asked.request = None;
    app.update(Update::Groups(vec![group("café", 0), group("garden", 0), asked]));
    assert_eq!(go(&mut app, "café"), Some(key("garden")));
    let word = app.word.as_ref().unwrap().text.clone();
    for id in [key("café"), key("cafe\u{301} ")] {
        assert!(word.contains(&id.to_string()), "{word}");
    }
    assert_eq!(go(&mut app, "attic"), Some(key("garden")));
    assert_eq!(app.word.as_ref().unwrap().text, "no group is called attic");
}

#[test]
fn nothing_is_sent_to_a_group_that_was_not_accepted() {
    let mut app = app();
    let mut asked = group("party", 0);
    asked.request = Some(invitation_by("mallory"));
    app.update(Update::Groups(vec![asked]));
    press(&mut app, &["enter"]);
    type_text(&mut app, "who is this");
    press(&mut app, &["enter"]);
    assert!(
        !app.effects()
            .iter()
            .any(|effect| matches!(effect, Effect::Post { .. }))
    );
    assert!(app.word.as_ref().unwrap().text.contains("mallory"));
    assert_eq!(app.composer.text(), "who is this");
    press(&mut app, &["ctrl-c"]);
    type_text(&mut app, "/accept");
    press(&mut app, &["enter"]);
    let accept = Effect::Do {
        group: Some(key("party")),
        slash: Slash::Accept,
    };
    assert!(app.effects().contains(&accept));
}

#[test]
fn a_message_that_was_found_is_fetched_and_pointed_at() {
    let mut app = with_groups();
    let hit = Hit {
        group: key("garden"),
        row: 7,
    };
    app.update(Update::Panel(Panel::of_hits(
        "1 message",
        vec![(hit, "found".to_owned())],
    )));
    app.effects();
    press(&mut app, &["enter"]);
    assert!(app.panel.is_none());
    let load = |before| Effect::Load {
        group: key("garden"),
        before,
    };
    assert!(app.effects().contains(&load(None)));
    app.update(Update::History {
        group: key("garden"),
        messages: (50..=60)
            .map(|row| message(row, "garden", "bob", "text"))
            .collect(),
        complete: false,
    });
    assert!(app.effects().contains(&load(Some(50))));
    history(&mut app, "garden", 1..=49);
    assert_eq!(app.shown().unwrap().1.chosen().unwrap().row, 7);
}

#[test]
fn what_concerns_no_group_is_said() {
    let mut app = with_groups();
    let mut notice = message(9, "attic", "bob", "an invitation \u{1b}[2J failed");
    notice.group = None;
    notice.kind = MessageKind::Notice;
    app.update(Update::Messages(vec![notice]));
    assert_eq!(app.word.as_ref().unwrap().text, r"an invitation \u{1b}[2J failed");
}

#[test]
fn escape_takes_away_one_thing_at_a_time() {
    let mut app = with_groups();
    history(&mut app, "attic", 1..=50);
    look(&mut app);
    press(&mut app, &["enter"]);
    look(&mut app);
    press(&mut app, &["shift-up", "f1"]);
    app.update(Update::Done("done".to_owned()));
    press(&mut app, &["esc"]);
    assert!(app.panel.is_none() && app.word.is_some());
    press(&mut app, &["esc"]);
    assert!(app.word.is_none());
    assert!(app.shown().unwrap().1.unselect());
}
