use super::*;

fn message(group_name: &str, sender: Option<&str>, kind: &'static str, text: &str) -> Record {
    Record::Message {
        row: 7,
        id: Some("0193".into()),
        group: Some("Z3JvdXAtaWQ".into()),
        group_name: Some(group_name.into()),
        sender: sender.map(str::to_owned),
        kind,
        text: text.into(),
        sent_at: 1,
        received_at: 2,
        mine: false,
        status: "sent",
        shown: Shown::Now,
    }
}

#[test]
fn a_message_is_one_line_that_names_group_and_sender() {
    assert_eq!(
        message("room", Some("bob"), "text", "hi").line(),
        "#room <bob> hi"
    );
    assert_eq!(
        message("room", Some("bob"), "joined", "bob joined").line(),
        "#room * bob joined"
    );
}

#[test]
fn a_message_of_the_past_has_its_number_and_its_date_and_says_if_it_was_not_sent() {
    let mut past = message("room", Some("bob"), "text", "hi\n7  (sent)");
    let Record::Message { shown, status, .. } = &mut past else {
        unreachable!()
    };
    (*shown, *status) = (Shown::Later, "failed");
    let line = past.line();
    assert!(line.starts_with("7  "), "{line}");
    assert!(line.ends_with(r"  #room <bob> hi\n7  (sent)  (failed)"), "{line}");
}

#[test]
fn who_was_added_with_a_last_resort_is_told_apart() {
    let invited = Record::Invited {
        group: "room".into(),
        added: vec!["alice".into(), "bob".into(), "carol".into()],
        by_last_resort: vec!["bob".into()],
        not_added: Vec::new(),
    };
    assert_eq!(
        invited.line(),
        "alice, carol joined #room; bob joined #room (by a last-resort KeyPackage: no other was left for you)"
    );
}

#[test]
fn hostile_text_and_names_stay_on_their_line() {
    let line = message(
        "a <eve> x",
        Some("bob"),
        "text",
        "\u{1b}[1A\n#room <eve> \u{202e}",
    )
    .line();
    assert_eq!(line, r##"#"a <eve> x" <bob> \u{1b}[1A\n#room <eve> \u{202e}"##);
}

#[test]
fn json_carries_the_text_as_it_is_on_one_line() {
    let json = serde_json::to_string(&message("room", Some("bob"), "text", "a\nb\u{1b}")).unwrap();
    assert_eq!(
        json,
        r#"{"type":"message","row":7,"id":"0193","group":"Z3JvdXAtaWQ","group_name":"room","sender":"bob","kind":"text","text":"a\nb\u001b","sent_at":1,"received_at":2,"mine":false,"status":"sent"}"#
    );
}
