use larder_client::UnixSeconds;

use super::*;

fn entry(row: i64, text: &str) -> Entry {
    Entry {
        row,
        author: Author::User("bob".to_owned()),
        status: SendStatus::Sent,
        minute: "12:00".to_owned(),
        day: format!("day {}", row / 1000),
        text: text.to_owned(),
        wrapped: None,
    }
}

fn timeline(rows: impl IntoIterator<Item = i64>) -> Timeline {
    let mut timeline = Timeline {
        complete: true,
        ..Timeline::default()
    };
    for row in rows {
        timeline.put(entry(row, &format!("text {row}")));
    }
    timeline
}

fn rows(lines: &[Line]) -> Vec<i64> {
    lines
        .iter()
        .filter_map(|line| match line {
            Line::Text { row, .. } => Some(*row),
            Line::Day(_) | Line::New | Line::NotSent | Line::Lost => None,
        })
        .collect()
}

#[test]
fn the_newest_messages_are_shown_and_scrolling_shows_older_ones() {
    let mut timeline = timeline(1..=100);
    assert_eq!(rows(&timeline.view(80, 5).0), [96, 97, 98, 99, 100]);
    timeline.scroll_up(10);
    assert_eq!(rows(&timeline.view(80, 5).0), [86, 87, 88, 89, 90]);
    timeline.scroll_down(3);
    assert_eq!(rows(&timeline.view(80, 5).0), [89, 90, 91, 92, 93]);
    timeline.scroll_up(1_000_000);
    let (lines, _) = timeline.view(80, 5);
    assert_eq!(lines[0], Line::Day("day 0".to_owned()));
    assert_eq!(rows(&lines), [1, 2, 3, 4]);
}

#[test]
fn what_is_read_stays_on_the_screen_when_something_arrives() {
    let mut timeline = timeline(1..=100);
    timeline.view(40, 5);
    timeline.scroll_up(10);
    let before = timeline.view(40, 5).0;
    timeline.put(entry(101, &"long ".repeat(40)));
    timeline.put(entry(102, "short"));
    assert_eq!(timeline.view(40, 5).0, before);
    timeline.scroll_to_end();
    assert_eq!(rows(&timeline.view(40, 5).0).last(), Some(&102));
}

#[test]
fn older_messages_are_asked_for_once_when_the_beginning_comes_into_view() {
    let mut timeline = Timeline::default();
    assert!(timeline.view(80, 5).1);
    assert!(!timeline.view(80, 5).1);
    timeline.prepend((51..=100).map(|row| entry(row, "text")).collect(), false);
    assert!(!timeline.view(80, 5).1);
    timeline.scroll_up(1000);
    assert!(timeline.view(80, 5).1);
    timeline.prepend((1..=50).map(|row| entry(row, "text")).collect(), true);
    timeline.scroll_up(1000);
    let (lines, more) = timeline.view(80, 5);
    assert!(!more);
    assert_eq!(rows(&lines), [1, 2, 3, 4]);
}

#[test]
fn a_line_is_drawn_above_what_is_new() {
    let mut timeline = timeline(1..=4);
    timeline.set_new_after(Some(2));
    let (lines, _) = timeline.view(80, 10);
    assert_eq!(lines[3], Line::New);
    assert_eq!(rows(&lines[4..]), [3, 4]);
    timeline.set_new_after(Some(4));
    assert!(!timeline.view(80, 10).0.contains(&Line::New));
}

#[test]
fn the_first_screen_begins_with_what_is_new_where_not_all_of_it_fits() {
    let mut timeline = timeline(1..=100);
    timeline.set_new_after(Some(60));
    timeline.show_new();
    assert!(!timeline.is_at_end());
    let (lines, _) = timeline.view(80, 5);
    assert_eq!(lines[0], Line::New);
    assert_eq!(rows(&lines), [61, 62, 63, 64]);
    timeline.set_new_after(Some(98));
    timeline.show_new();
    assert_eq!(rows(&timeline.view(80, 5).0), [97, 98, 99, 100]);
    assert!(timeline.is_at_end());
}

#[test]
fn a_new_width_wraps_anew() {
    let mut timeline = timeline([]);
    timeline.put(entry(1, "one two three four five six seven"));
    assert_eq!(rows(&timeline.view(MARGIN + 40, 10).0).len(), 1);
    assert_eq!(rows(&timeline.view(MARGIN + 10, 10).0).len(), 4);
    assert_eq!(rows(&timeline.view(MARGIN + 40, 10).0).len(), 1);
}

#[test]
fn a_message_of_many_lines_is_wrapped_below_its_author() {
    let mut timeline = timeline([]);
    timeline.put(entry(1, "fn main() {\n    run();\n}"));
    let (lines, _) = timeline.view(80, 10);
    let texts: Vec<_> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Text { text, head, .. } => Some((text.as_str(), head.is_some())),
            Line::Day(_) | Line::New | Line::NotSent | Line::Lost => None,
        })
        .collect();
    assert_eq!(
        texts,
        [("fn main() {", true), ("    run();", false), ("}", false)]
    );
}

#[test]
fn lines_are_counted_as_they_are_made() {
    let mut timeline = timeline([1, 2, 1000, 1001]);
    for (row, status) in [(1002, SendStatus::Failed), (1003, SendStatus::Lost)] {
        let mut failed = entry(row, &"long ".repeat(30));
        failed.status = status;
        timeline.put(failed);
    }
    timeline.set_new_after(Some(1000));
    timeline.view(60, 10);
    for at in 0..6 {
        assert_eq!(timeline.height_of(at), timeline.lines_of(at).len());
    }
    assert_eq!(timeline.lines_of(4).last(), Some(&Line::NotSent));
    assert_eq!(timeline.lines_of(5).last(), Some(&Line::Lost));
}

#[test]
fn messages_can_be_pointed_at_and_come_onto_the_screen() {
    let mut timeline = timeline(1..=50);
    timeline.view(80, 5);
    assert_eq!(timeline.chosen().unwrap().row, 50);
    for _ in 0..10 {
        timeline.select(true);
    }
    assert_eq!(timeline.chosen().unwrap().row, 41);
    assert!(rows(&timeline.view(80, 5).0).contains(&41));
    for _ in 0..10 {
        timeline.select(false);
    }
    assert!(!timeline.unselect());
    assert!(timeline.is_at_end());
    assert!(timeline.select_row(7) && !timeline.select_row(77));
    assert!(rows(&timeline.view(80, 5).0).contains(&7));
}

#[test]
fn what_became_of_a_message_takes_its_place() {
    let mut timeline = timeline(1..=3);
    let mut pending = entry(4, "hi");
    pending.author = Author::Me;
    pending.status = SendStatus::Pending;
    timeline.put(pending.clone());
    assert_eq!(timeline.unsent().collect::<Vec<_>>(), [4]);
    pending.status = SendStatus::Sent;
    timeline.put(pending);
    assert_eq!(timeline.unsent().count(), 0);
    assert_eq!(rows(&timeline.view(80, 10).0), [1, 2, 3, 4]);
}

#[test]
fn an_entry_says_who_wrote_it() {
    let mut message = Message {
        row: 1,
        group: None,
        group_name: None,
        sender: Some("bob".parse().unwrap()),
        id: String::new(),
        kind: MessageKind::Text,
        text: "hi".to_owned(),
        sent_at: UnixSeconds(0),
        received_at: UnixSeconds(0),
        mine: false,
        status: SendStatus::Sent,
    };
    let author = |message: &Message| Entry::new(message.clone(), |at| (at.to_string(), String::new())).author;
    assert_eq!(author(&message), Author::User("bob".to_owned()));
    message.mine = true;
    assert_eq!(author(&message), Author::Me);
    message.kind = MessageKind::Added;
    assert_eq!(author(&message), Author::Event);
}
