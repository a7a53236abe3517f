//! What a chat interface needs: how far each group is read, pages of the history, searching it, names, trying again.

use std::path::Path;

use crate::support::{Action, Client, TestServer, catch_up, user};
use larder_client::{Error, GroupKey, GroupState, Message, MessageKind, SendStatus};

async fn name(client: &Client, group: &GroupKey) -> String {
    client.summary(group).await.name.expect("named")
}

fn texts(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.text.as_str()).collect()
}

#[tokio::test]
async fn each_group_is_read_for_itself_and_stays_so_after_a_restart() {
    let server = TestServer::start().await;
    let (alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let (lunch, dinner) = (alice.group_with(&[&bob]).await, alice.group_with(&[&bob]).await);
    for group in [&lunch, &dinner, &lunch] {
        alice.send(group, "soup").await.unwrap();
    }
    bob.sync().await.unwrap();
    bob.send(&lunch, "bread").await.unwrap();
    let of_lunch = bob.history(&lunch, 3).await.unwrap();
    assert_eq!(texts(&of_lunch), ["soup", "soup", "bread"]);
    let before = bob.summary(&lunch).await;
    assert_eq!((before.unread, before.last_row), (2, of_lunch[2].row));

    bob.mark_group_read(&lunch, of_lunch[0].row).await.unwrap();
    bob.restart().await;
    let after = bob.summary(&lunch).await;
    assert_eq!((after.unread, after.read_up_to), (1, of_lunch[0].row));
    assert_eq!(bob.summary(&dinner).await.unread, 1, "that is another group");
    assert_eq!(bob.unread().await.unwrap().len(), 2);

    // Never back, and never past what is there.
    bob.mark_group_read(&lunch, 1).await.unwrap();
    assert_eq!(bob.summary(&lunch).await.read_up_to, of_lunch[0].row);
    bob.mark_group_read(&lunch, i64::MAX).await.unwrap();
    let read = bob.summary(&lunch).await;
    assert_eq!((read.unread, read.read_up_to), (0, read.last_row));
    alice.send(&lunch, "more").await.unwrap();
    bob.sync().await.unwrap();
    assert_eq!(bob.summary(&lunch).await.unread, 1);

    // And everything at once.
    let unread = bob.unread().await.unwrap();
    assert_eq!(texts(&unread), ["soup", "more"]);
    bob.mark_read(unread[1].row).await.unwrap();
    assert!(bob.unread().await.unwrap().is_empty());
    let dinner = bob.summary(&dinner).await;
    assert_eq!((dinner.unread, dinner.read_up_to), (0, dinner.last_row));
    let nowhere = GroupKey::from_bytes(b"nowhere").unwrap();
    assert!(matches!(
        bob.mark_group_read(&nowhere, 1).await,
        Err(Error::UnknownGroup)
    ));
}

#[tokio::test]
async fn an_interface_follows_all_groups_and_learns_what_became_of_its_messages() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let mut row = bob.messages_after(0, 100).await.unwrap().last().unwrap().row;

    proxy.rule(|_| Action::CutBefore);
    bob.send(&group, "one").await.unwrap();
    bob.send(&group, "two").await.unwrap();
    let new = bob.messages_after(row, 1).await.unwrap();
    assert_eq!((texts(&new), new[0].status), (vec!["one"], SendStatus::Pending));
    row = new[0].row;
    let pending = bob.rows_that_are(SendStatus::Pending).await;
    assert_eq!(pending, [row, row + 1]);
    proxy.forward();
    bob.sync().await.unwrap();
    assert!(bob.rows_that_are(SendStatus::Pending).await.is_empty());
    for row in pending {
        let message = bob.message(row).await.unwrap().unwrap();
        assert_eq!((message.mine, message.status), (true, SendStatus::Sent));
    }
    alice.send(&group, "three").await.unwrap();
    bob.sync().await.unwrap();
    assert_eq!(
        texts(&bob.messages_after(row, 100).await.unwrap()),
        ["two", "three"]
    );
    assert!(bob.message(row + 100).await.unwrap().is_none());
}

/// Puts messages of others into a profile that is not in use.
fn fill(profile: &Path, group: &GroupKey, count: u32, other_groups: u32) {
    let mut database = rusqlite::Connection::open(profile.join("larder.db")).unwrap();
    let transaction = database.transaction().unwrap();
    for number in 0..count {
        transaction
            .execute(
                "INSERT INTO messages (group_id, sender, message_id, kind, text, sent_at, received_at, mine, status)
                 VALUES (?1, 'bob/d1', ?2, 0, ?3, 1, 1, 0, 0)",
                (group.as_bytes(), number.to_string(), format!("number {number}: {}", "Brötchen ".repeat(12))),
            )
            .unwrap();
    }
    for number in 0..other_groups {
        let id = format!("other group {number}");
        transaction
            .execute(
                "INSERT INTO groups (group_id, state, joined_epoch) VALUES (?1, 3, 0)",
                [id.as_bytes()],
            )
            .unwrap();
        transaction
            .execute(
                "INSERT INTO messages (group_id, sender, message_id, kind, text, sent_at, received_at, mine, status)
                 VALUES (?1, 'bob/d1', 'x', 0, 'elsewhere', 1, 1, 0, 0)",
                [id.as_bytes()],
            )
            .unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_long_history_is_read_in_pages_and_searched_to_its_beginning() {
    let server = TestServer::start().await;
    let mut alice = server.client("alice").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.stop().await;
    fill(alice.directory.path(), &group, 10_000, 200);
    alice.restart().await;

    let (mut before, mut pages, mut numbers) = (None, 0, Vec::new());
    loop {
        let page = alice.history_before(&group, before, 3000).await.unwrap();
        let Some(first) = page.first() else { break };
        assert!(page.is_sorted_by_key(|message| message.row));
        before = Some(first.row);
        pages += 1;
        numbers.extend(
            page.iter()
                .rev()
                .map(|message| message.id.parse::<u32>().unwrap()),
        );
    }
    assert_eq!(pages, 4);
    assert!(numbers.iter().copied().eq((0..10_000).rev()), "each once");
    assert_eq!(alice.summary(&group).await.unread, 10_000);
    assert_eq!(alice.unread().await.unwrap().len(), 10_200);

    let found = alice.search("NUMBER 0: BRÖT", None, 10).await.unwrap();
    assert_eq!(found.len(), 1, "the oldest");
    assert_eq!(found[0].id, "0");
    assert_eq!(
        alice.search("number 4", Some(&group), 2000).await.unwrap().len(),
        1111
    );
    let newest = alice.search("brötchen", None, 2).await.unwrap();
    assert_eq!(
        newest
            .iter()
            .map(|message| message.id.as_str())
            .collect::<Vec<_>>(),
        ["9999", "9998"]
    );
}

#[tokio::test]
async fn a_search_knows_the_letters_of_all_scripts_and_only_what_people_wrote() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let (lunch, dinner) = (alice.group_with(&[&bob]).await, alice.group_with(&[&bob]).await);
    for text in [
        "Straßenbahn",
        "ΟΔΟΣ",
        "Привет, мир",
        "100% soup_",
        "日本語のテキスト",
    ] {
        alice.send(&lunch, text).await.unwrap();
    }
    alice.send(&dinner, "привет").await.unwrap();
    for (wanted, found) in [
        ("STRAßENBAHN", vec!["Straßenbahn"]),
        ("ПРИВЕТ", vec!["привет", "Привет, мир"]),
        ("0% s", vec!["100% soup_"]),
        ("0_", vec![]),
        ("のテ", vec!["日本語のテキスト"]),
        ("bob", vec![]),
        ("", vec![]),
    ] {
        assert_eq!(
            texts(&alice.search(wanted, None, 10).await.unwrap()),
            found,
            "{wanted}"
        );
    }
    let of_lunch = alice.search("привет", Some(&lunch), 10).await.unwrap();
    assert_eq!(texts(&of_lunch), ["Привет, мир"]);
    assert!(alice.search("привет", None, 0).await.unwrap().is_empty());
    let nowhere = GroupKey::from_bytes(b"nowhere").unwrap();
    assert!(matches!(
        alice.search("x", Some(&nowhere), 1).await,
        Err(Error::UnknownGroup)
    ));
}

#[tokio::test]
async fn a_muted_group_stays_muted_until_it_is_not() {
    let server = TestServer::start().await;
    let mut alice = server.client("alice").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    assert!(!alice.summary(&group).await.muted);
    alice.set_muted(&group, true).await.unwrap();
    alice.restart().await;
    assert!(alice.summary(&group).await.muted);
    alice.set_muted(&group, false).await.unwrap();
    assert!(!alice.summary(&group).await.muted);
    let nowhere = GroupKey::from_bytes(b"nowhere").unwrap();
    assert!(matches!(
        alice.set_muted(&nowhere, true).await,
        Err(Error::UnknownGroup)
    ));
}

#[tokio::test]
async fn what_could_not_be_sent_to_a_group_that_was_left_is_sent_once_it_is_joined_again() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    proxy.rule(|_| Action::CutBefore);
    let sent = [
        bob.send(&group, "one").await.unwrap(),
        bob.send(&group, "two").await.unwrap(),
    ];
    alice.remove(&group, &user("bob")).await.unwrap();
    proxy.forward();
    bob.sync().await.unwrap();
    let failed = bob.history(&group, 3).await.unwrap();
    assert_eq!(failed[0].status, SendStatus::Failed);
    assert!(matches!(
        bob.retry(&group).await,
        Err(Error::GroupNotActive(GroupState::Left))
    ));

    alice.invite(&group, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    proxy.rule(|_| Action::CutBefore);
    assert_eq!(bob.retry(&group).await.unwrap(), 2);
    assert_eq!(
        bob.rows_that_are(SendStatus::Pending).await,
        [failed[0].row, failed[1].row]
    );
    assert_eq!(bob.retry(&group).await.unwrap(), 0, "they wait already");
    proxy.forward();
    bob.sync().await.unwrap();
    alice.sync().await.unwrap();
    let received: Vec<Message> = alice
        .take_unread()
        .await
        .into_iter()
        .filter(|message| message.kind == MessageKind::Text)
        .collect();
    assert_eq!(texts(&received), ["one", "two"]);
    let ids = [received[0].id.clone(), received[1].id.clone()];
    assert_eq!(ids, sent.map(|sent| sent.id));
    for row in [failed[0].row, failed[1].row] {
        assert_eq!(bob.message(row).await.unwrap().unwrap().status, SendStatus::Sent);
    }
    assert_eq!(bob.retry(&group).await.unwrap(), 0);
}

#[tokio::test]
async fn any_member_names_the_group_and_the_history_says_who() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let carol = server.client("carol").await;
    let group = alice.group_with(&[&bob]).await;
    bob.rename_group(&group, "din\"ner").await.unwrap();
    let told = r#"bob renamed the group to "din\"ner""#;
    assert_eq!(alice.told().await, [told]);
    assert_eq!(name(&alice, &group).await, "din\"ner");
    let own = bob.history(&group, 1).await.unwrap().remove(0);
    assert_eq!((own.text.as_str(), own.mine), (told, true));
    assert_eq!(bob.summary(&group).await.unread, 0);

    // Newcomers learn it, and nobody is told again.
    alice.invite(&group, &[user("carol")]).await.unwrap();
    catch_up(&[&carol, &bob, &alice]).await;
    assert_eq!(name(&carol, &group).await, "din\"ner");
    assert!(carol.told().await.iter().all(|told| !told.contains("renamed")));
    assert!(bob.told().await.iter().all(|told| !told.contains("renamed")));

    bob.rename_group(&group, "din\"ner").await.unwrap();
    assert!(alice.told().await.is_empty(), "it has that name already");
    assert!(matches!(
        bob.rename_group(&group, "a\nb").await,
        Err(Error::InvalidGroupName)
    ));
    alice.remove(&group, &user("bob")).await.unwrap();
    bob.sync().await.unwrap();
    assert!(matches!(
        bob.rename_group(&group, "breakfast").await,
        Err(Error::GroupNotActive(GroupState::Left))
    ));
}

#[tokio::test]
async fn members_who_name_a_group_at_the_same_time_end_up_with_one_name() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    for round in ["first", "second"] {
        let later = format!("of bob, {round}");
        alice.rename_group(&group, "of alice").await.unwrap();
        bob.rename_group(&group, &later).await.unwrap();
        catch_up(&[&alice, &bob]).await;
        assert_eq!(name(&alice, &group).await, later);
        assert_eq!(name(&bob, &group).await, later);
    }
    // The other way round on the way to the server.
    bob.rename_group(&group, "of bob again").await.unwrap();
    alice.rename_group(&group, "of alice again").await.unwrap();
    catch_up(&[&alice, &bob]).await;
    assert_eq!(name(&alice, &group).await, name(&bob, &group).await);
}
