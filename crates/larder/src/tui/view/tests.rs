use larder_client::{Message, MessageKind, SendStatus};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::tui::app::tests::{app, group, invitation_by, key, message, press, type_text};
use crate::tui::app::{Look, Panel, PanelLine, PoolLevel, Update};

/// The screen as text.
fn screen(app: &mut App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw(frame, app, Theme::without_colours()))
        .unwrap();
    terminal.backend().to_string()
}

fn event(row: i64, text: &str) -> Message {
    Message {
        kind: MessageKind::Added,
        ..message(row, "kitchen", "bob", text)
    }
}

fn conversation() -> App {
    let mut app = app();
    let mut left = group("old flat", 0);
    left.state = larder_client::GroupState::Left;
    let mut request = group("free money", 0);
    request.request = Some(invitation_by("mallory"));
    let mut muted = group("announcements", 12);
    muted.muted = true;
    let mut kitchen = group("kitchen", 2);
    kitchen.read_up_to = 4;
    app.update(Update::Groups(vec![
        kitchen,
        group("garden", 3),
        muted,
        request,
        left,
    ]));
    let mut pending = message(8, "kitchen", "alice", "on my way");
    pending.status = SendStatus::Pending;
    let mut failed = message(7, "kitchen", "alice", "will anybody be there?");
    failed.status = SendStatus::Failed;
    app.update(Update::History {
        group: key("kitchen"),
        messages: vec![
            event(1, "you joined a group of 2"),
            message(2, "kitchen", "bob", "who has the recipe?"),
            message(3, "kitchen", "alice", "I do:\n  2 eggs\n  1 onion, and whatever else there is in the larder when you come home late"),
            event(4, "alice added carol"),
            message(5, "kitchen", "carol", "\u{1b}[2J\u{202e}evil\u{7} 你好 👩‍🍳"),
            message(6, "kitchen", "a-user-with-a-long-name", "ok"),
            failed,
            pending,
        ],
        complete: true,
    });
    app.update(Update::Open(key("kitchen")));
    app.update(Update::Connection(true));
    app.update(Update::Pool(PoolLevel {
        available: 31,
        target: 32,
        last_resort_used: false,
    }));
    app
}

#[test]
fn a_conversation_on_a_small_terminal() {
    insta::assert_snapshot!(screen(&mut conversation(), 80, 24));
}

#[test]
fn a_conversation_on_a_large_terminal() {
    insta::assert_snapshot!(screen(&mut conversation(), 200, 60));
}

#[test]
fn a_conversation_on_a_terminal_too_narrow_for_the_groups() {
    insta::assert_snapshot!(screen(&mut conversation(), 50, 14));
}

#[test]
fn what_should_not_be_overlooked() {
    let mut app = conversation();
    app.update(Update::Connection(false));
    app.update(Update::Pool(PoolLevel {
        available: 0,
        target: 32,
        last_resort_used: true,
    }));
    app.update(Update::Changed(vec!["bob".to_owned()]));
    app.update(Update::Failed(
        "carol was asked for too often; try again in 9 min".to_owned(),
    ));
    insta::assert_snapshot!(screen(&mut app, 120, 16));
}

#[test]
fn an_invitation_from_a_stranger() {
    let mut app = conversation();
    press(&mut app, &["alt-up", "alt-up", "alt-up"]);
    insta::assert_snapshot!(screen(&mut app, 80, 12));
}

#[test]
fn commands_are_suggested_while_they_are_typed() {
    let mut app = conversation();
    type_text(&mut app, "/re");
    press(&mut app, &["down"]);
    insta::assert_snapshot!(screen(&mut app, 80, 16));
}

#[test]
fn a_text_of_several_lines_is_written() {
    let mut app = conversation();
    type_text(&mut app, "one");
    press(&mut app, &["alt-enter"]);
    type_text(&mut app, "two");
    insta::assert_snapshot!(screen(&mut app, 80, 12));
}

#[test]
fn a_panel_covers_the_messages() {
    let mut app = conversation();
    let lines = vec![
        PanelLine::new("bob", Look::Strong),
        PanelLine::new("12345 67890", Look::Plain),
        PanelLine::new("█▀▀▀█", Look::Code),
    ];
    app.update(Update::Panel(Panel::new("verify", lines)));
    insta::assert_snapshot!(screen(&mut app, 80, 14));
}

#[test]
fn the_first_screen_of_a_new_account() {
    insta::assert_snapshot!(screen(&mut app(), 80, 16));
}

#[test]
fn no_terminal_is_too_small_to_draw_on() {
    let mut app = conversation();
    type_text(&mut app, "/");
    app.update(Update::Panel(Panel::new("a", Vec::new())));
    for width in 1..30 {
        for height in 1..12 {
            screen(&mut app, width, height);
        }
    }
}

#[test]
fn text_is_cut_and_padded_by_its_width_on_the_screen() {
    assert_eq!(fit("abc", 5), "abc  ");
    assert_eq!(fit("abcdef", 5), "abcd…");
    assert_eq!(fit("你好你好", 5), "你好…");
    assert_eq!(fit("你好你", 5), "你好…");
    assert_eq!(fit("x", 0), "");
    assert_eq!(fit("👩‍🍳👩‍🍳👩‍🍳", 4), "👩‍🍳… ");
}
