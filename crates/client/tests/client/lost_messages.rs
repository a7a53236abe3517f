//! Messages that the server had accepted and has lost with what came after its backup.

use crate::support::{Client, TestServer, catch_up, they_talk, user};
use larder_client::{GroupKey, MessageKind, SendStatus};
use larder_wire::{Gap, Memberships};

/// What a client has written, and what became of it.
async fn own(client: &Client, group: &GroupKey) -> Vec<(String, SendStatus)> {
    let history = client.history(group, 100).await.unwrap();
    history
        .into_iter()
        .filter(|message| message.mine && matches!(message.kind, MessageKind::Text | MessageKind::Attachment))
        .map(|message| (message.text, message.status))
        .collect()
}

async fn told(client: &Client, part: &str) -> usize {
    let told = client.told().await;
    told.iter().filter(|text| text.contains(part)).count()
}

#[tokio::test]
async fn what_a_restored_server_has_lost_is_sent_again_when_one_says_so() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let carol = server.client("carol").await;
    let group = alice.group_with(&[&bob, &carol]).await;
    catch_up(&[&alice, &bob, &carol]).await;
    alice.send(&group, "kept").await.unwrap();
    for client in [&bob, &carol] {
        assert_eq!(client.receive().await, ["kept"]);
    }
    let backup = server.backup();
    alice.send(&group, "heard by bob").await.unwrap();
    assert_eq!(bob.receive().await, ["heard by bob"]);
    alice.send(&group, "heard by nobody").await.unwrap();
    assert_eq!(alice.rows_that_are(SendStatus::Lost).await, Vec::<i64>::new());

    server.restore(&backup).await;
    // Somebody else is there first: the numbers behind the gap are used already.
    bob.sync().await.unwrap();
    bob.send(&group, "hello?").await.unwrap();
    let said = alice.told().await;
    assert!(
        said.iter()
            .any(|text| text.contains("2 messages that you sent here")),
        "{said:?}"
    );
    assert!(
        said.iter().all(|text| !text.contains("does not have all")),
        "it says itself that it was restored: {said:?}"
    );
    assert_eq!(alice.rows_that_are(SendStatus::Lost).await.len(), 2);
    let expected = [
        ("kept", SendStatus::Sent),
        ("heard by bob", SendStatus::Lost),
        ("heard by nobody", SendStatus::Lost),
    ];
    assert_eq!(
        own(&alice, &group).await,
        expected.map(|(text, status)| (text.to_owned(), status))
    );
    for _ in 0..2 {
        alice.sync().await.unwrap();
    }
    assert_eq!(bob.receive().await, [""; 0], "nothing goes out by itself");
    assert_eq!(carol.receive().await, ["hello?"]);

    assert_eq!(alice.retry(&group).await.unwrap(), 2);
    assert!(
        own(&alice, &group)
            .await
            .iter()
            .all(|(_, status)| *status == SendStatus::Sent)
    );
    assert_eq!(bob.receive().await, ["heard by nobody"]);
    assert_eq!(carol.receive().await, ["heard by bob", "heard by nobody"]);
    assert_eq!(alice.retry(&group).await.unwrap(), 0);
    they_talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn what_was_lost_with_its_epoch_is_sent_again_in_another() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let _carol = server.client("carol").await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    bob.take_unread().await;
    let backup = server.backup();
    alice.invite(&group, &[user("carol")]).await.unwrap();
    alice.send(&group, "welcome carol").await.unwrap();
    server.restore(&backup).await;
    catch_up(&[&alice, &bob]).await;
    assert_eq!(alice.rows_that_are(SendStatus::Lost).await.len(), 1);
    bob.take_unread().await;
    assert_eq!(alice.retry(&group).await.unwrap(), 1);
    assert_eq!(bob.receive().await, ["welcome carol"]);
}

#[tokio::test]
async fn what_the_first_of_two_restores_has_lost_is_found_after_the_second() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let first = server.backup();
    alice.send(&group, "lost by the first").await.unwrap();
    server.restore(&first).await;
    bob.sync().await.unwrap();
    bob.send(&group, "between").await.unwrap();
    let second = server.backup();
    server.restore(&second).await;
    assert_eq!(told(&alice, "a message that you sent here").await, 1);
    assert_eq!(
        own(&alice, &group).await,
        [("lost by the first".to_owned(), SendStatus::Lost)]
    );
    alice.retry(&group).await.unwrap();
    bob.take_unread().await;
    assert_eq!(bob.receive().await, ["lost by the first"]);
}

#[tokio::test]
async fn a_server_that_has_lost_nothing_says_so_of_no_message() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    for text in ["one", "two"] {
        alice.send(&group, text).await.unwrap();
        let backup = server.backup();
        server.restore(&backup).await;
        assert_eq!(told(&alice, "sent here").await, 0);
        assert_eq!(alice.rows_that_are(SendStatus::Lost).await, Vec::<i64>::new());
    }
    bob.take_unread().await;
    assert_eq!(bob.receive().await, ["one", "two"]);
}

#[tokio::test]
async fn a_server_that_loses_everything_again_and_again_has_nothing_sent() {
    let mut server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    they_talk(&alice, &bob, &group).await;
    proxy.lie("GET", "/v1/groups", |listed: &mut Memberships| {
        for group in &mut listed.groups {
            group.gaps = vec![
                Gap {
                    first: 0,
                    last: u64::MAX
                };
                5000
            ];
        }
    });
    let sent = proxy.seen("POST", "/messages").len();
    let (mut restored, mut lost) = (0, 0);
    for _ in 0..4 {
        let backup = server.backup();
        server.restore(&backup).await;
        let said = alice.told().await;
        restored += said
            .iter()
            .filter(|text| text.contains("restored from a backup"))
            .count();
        lost += said.iter().filter(|text| text.contains("sent here")).count();
    }
    assert_eq!((restored, lost), (1, 1));
    assert_eq!(proxy.seen("POST", "/messages").len(), sent);
    proxy.forward();
    // Nobody reads it twice, whatever the person says.
    bob.take_unread().await;
    alice.retry(&group).await.unwrap();
    assert_eq!(bob.receive().await, [""; 0]);
    they_talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn a_file_that_was_lost_with_its_message_is_told_and_not_announced() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let backup = server.backup();
    alice.send(&group, "look").await.unwrap();
    alice
        .attach(&group, "plan.pdf", "application/pdf", vec![7; 5000])
        .await
        .unwrap();
    server.restore(&backup).await;
    assert_eq!(told(&alice, "2 messages that you sent here").await, 1);
    for retried in [1, 0] {
        assert_eq!(alice.retry(&group).await.unwrap(), retried);
        assert_eq!(
            told(&alice, "plan.pdf, 5 KiB is not at the server any more").await as u64,
            retried
        );
    }
    bob.take_unread().await;
    bob.sync().await.unwrap();
    let history = bob.history(&group, 100).await.unwrap();
    assert!(history.iter().any(|message| message.text == "look"));
    assert!(history.iter().all(|message| !message.text.contains("plan.pdf")));
}
