//! A server whose store goes back to an earlier state without saying so: a standby took over that had not received all.

use std::sync::{Arc, Mutex};

use crate::support::{
    Action, Answer, Client, TestServer, catch_up, flip_last, tamper_inbox, they_talk, user,
};
use larder_client::{GroupKey, GroupState, SendStatus};
use larder_wire::{Base64Url, Inbox, InboxKind, InboxRow, NextRequest, Position, Problem};

/// Syncs until the server is not at odds with this device any more, or is for good.
async fn come_to_terms(clients: &[&Client]) {
    for _ in 0..4 {
        for client in clients {
            match client.sync().await {
                Ok(_) => {}
                Err(error) => assert_eq!(error.code(), "went-back"),
            }
        }
    }
}

async fn status_of(client: &Client, group: &GroupKey, text: &str) -> SendStatus {
    let history = client.history(group, 100).await.unwrap();
    let found = history.iter().find(|message| message.text == text);
    found.expect("it is in the history").status
}

/// A store that has forgotten more requests of a device than those that it names is still the one that is older.
#[tokio::test]
async fn a_store_that_forgot_much_makes_no_device_an_old_copy() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let backup = server.backup();
    let mut said = Vec::new();
    for n in 0..20 {
        said.push(format!("{n}"));
        alice.send(&group, said.last().unwrap()).await.unwrap();
    }
    assert_eq!(bob.receive().await, said);
    alice.told().await;

    server.fail_over(&backup).await;
    let epoch = alice.epoch(&group).await;
    come_to_terms(&[&alice, &bob]).await;
    // She is ahead by numbers that she has not read: the next ones are hers again.
    alice.send(&group, "after the failover").await.unwrap();
    come_to_terms(&[&alice, &bob]).await;
    for client in [&alice, &bob] {
        assert_eq!(client.summary(&group).await.state, GroupState::Active);
        assert_eq!(client.epoch(&group).await, epoch);
    }
    for (client, heard) in [(&alice, 0), (&bob, 1)] {
        let told: Vec<_> = client
            .take_unread()
            .await
            .into_iter()
            .map(|message| message.text)
            .collect();
        assert!(!told.iter().any(|text| text.contains("older copy")), "{told:?}");
        let of_it = told.iter().filter(|text| *text == "after the failover");
        assert_eq!(of_it.count(), heard, "{told:?}");
    }

    // Its operator says so later on.
    let backup = server.backup();
    server.restore(&backup).await;
    catch_up(&[&alice, &bob]).await;
    they_talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn who_followed_a_commit_that_is_lost_comes_to_those_who_went_on_without_it() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let (carol, dave) = (server.client("carol").await, server.client("dave").await);
    let erin = server.client("erin").await;
    let group = alice.group_with(&[&bob, &dave, &erin]).await;
    catch_up(&[&alice, &bob, &dave, &erin]).await;
    let backup = server.backup();
    alice.invite(&group, &[user("carol")]).await.unwrap();
    alice.send(&group, "before the failover").await.unwrap();
    assert_eq!(bob.receive().await, ["before the failover"]);
    carol.sync().await.unwrap();

    server.fail_over(&backup).await;
    dave.remove(&group, &user("erin")).await.unwrap();
    // The server cannot know that it is for another group of this epoch.
    bob.send(&group, "written meanwhile").await.unwrap();
    come_to_terms(&[&alice, &bob, &dave]).await;
    assert_eq!(bob.users(&group).await, ["alice", "bob", "dave"]);
    assert_eq!(alice.epoch(&group).await, dave.epoch(&group).await);
    assert_eq!(bob.epoch(&group).await, dave.epoch(&group).await);
    assert_eq!(
        status_of(&bob, &group, "written meanwhile").await,
        SendStatus::Lost
    );
    // The number that it had is another's.
    assert_eq!(
        status_of(&alice, &group, "before the failover").await,
        SendStatus::Lost
    );
    for client in [&alice, &bob] {
        let told = client.told().await;
        let of_it = told.iter().filter(|text| text.contains("gone on without them"));
        assert_eq!(of_it.count(), 1, "{told:?}");
        // Nothing here shows why carol and erin are not there.
        assert_eq!(client.retry(&group).await.unwrap_err().code(), "held");
        for missing in ["carol", "erin"] {
            client.trust(&user(missing)).await.unwrap();
        }
        assert_eq!(client.retry(&group).await.unwrap(), 1);
    }
    let heard = dave.receive().await;
    assert!(
        heard.ends_with(&["before the failover".to_owned(), "written meanwhile".to_owned()]),
        "{heard:?}"
    );
    bob.take_unread().await;
    they_talk(&alice, &bob, &group).await;
    they_talk(&bob, &dave, &group).await;
}

#[tokio::test]
async fn whom_a_lost_commit_removed_is_gone_over_to_only_if_the_person_accepts_it() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let (dave, _erin) = (server.client("dave").await, server.client("erin").await);
    let group = alice.group_with(&[&bob, &dave]).await;
    catch_up(&[&alice, &bob, &dave]).await;
    let backup = server.backup();
    alice.remove(&group, &user("dave")).await.unwrap();
    catch_up(&[&bob]).await;
    server.fail_over(&backup).await;
    dave.invite(&group, &[user("erin")]).await.unwrap();
    let before = alice.epoch(&group).await;
    come_to_terms(&[&alice, &bob]).await;
    for client in [&alice, &bob] {
        assert_eq!(client.summary(&group).await.state, GroupState::Active);
        assert_eq!(client.epoch(&group).await, before);
        let told = client.told().await;
        let offers: Vec<_> = told
            .iter()
            .filter(|text| text.contains("unless you accept"))
            .collect();
        assert_eq!(offers.len(), 1, "{told:?}");
        assert!(offers[0].contains("dave, erin"), "{offers:?}");
    }
    alice.accept(&group).await.unwrap();
    alice.sync().await.unwrap();
    assert_eq!(alice.users(&group).await, ["alice", "bob", "dave", "erin"]);
    dave.sync().await.unwrap();
    they_talk(&alice, &dave, &group).await;
    assert_eq!(
        bob.users(&group).await,
        ["alice", "bob"],
        "he has not accepted it"
    );
    // By now somebody has signed it whom he knows, who does not show why the others are there: that he has accepted.
    bob.accept(&group).await.unwrap();
    bob.sync().await.unwrap();
    for member in [&alice, &dave] {
        member.sync().await.unwrap();
        they_talk(&bob, member, &group).await;
    }
}

#[tokio::test]
async fn a_group_that_the_server_has_at_an_earlier_epoch_holds_up_no_other() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let _carol = server.client("carol").await;
    let group = alice.group_with(&[&bob]).await;
    let other = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    bob.take_unread().await;
    let backup = server.backup();
    alice.invite(&group, &[user("carol")]).await.unwrap();
    server.fail_over(&backup).await;
    let sent = alice.send(&group, "it waits").await.unwrap();
    assert_eq!(sent.status, SendStatus::Pending);
    assert_eq!(sent.because.expect("it says why").code(), "went-back");
    let sent = alice.send(&other, "it does not wait").await.unwrap();
    assert_eq!(sent.status, SendStatus::Sent);
    bob.send(&other, "heard").await.unwrap();
    for _ in 0..2 {
        assert_eq!(alice.sync().await.unwrap_err().code(), "went-back");
    }
    assert!(
        alice
            .take_unread()
            .await
            .iter()
            .any(|message| message.text == "heard")
    );
    assert_eq!(bob.receive().await, ["it does not wait"]);
    assert_eq!(status_of(&alice, &group, "it waits").await, SendStatus::Pending);
}

#[tokio::test]
async fn what_is_refused_for_ever_for_its_epoch_is_sent_a_few_times_in_a_sync_and_holds_up_no_other_group() {
    let server = TestServer::start().await;
    let bob = server.client("bob").await;
    let (alice, proxy) = server.proxied("alice").await;
    let group = alice.group_with(&[&bob]).await;
    let other = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    bob.take_unread().await;
    let epoch = alice.epoch(&group).await;
    for named in [epoch - 1, epoch, epoch + 1] {
        let path = format!("/v1/groups/{group}/messages");
        proxy.rule(move |seen| match seen.path == path {
            true => Action::Answer(Answer::of_problem(&Problem::wrong_epoch(named))),
            false => Action::Forward,
        });
        let text = format!("refused for {named}");
        assert_eq!(
            alice.send(&group, &text).await.unwrap().status,
            SendStatus::Pending
        );
        let before = proxy.seen("POST", "/messages").len();
        let _ = alice.sync().await;
        let requests = proxy.seen("POST", "/messages").len() - before;
        assert!((1..=4).contains(&requests), "{named}: {requests} requests");
        alice.send(&other, "not held up").await.unwrap();
        assert_eq!(bob.receive().await, ["not held up"]);
        proxy.forward();
        assert_eq!(alice.sync().await.unwrap().rows, 0);
        assert_eq!(bob.receive().await, [text]);
    }
}

/// The store has lost that rows were read, more of them than a device remembers by their hashes, and the last ones of all. It takes
/// a while because there are so many.
#[tokio::test]
async fn what_is_read_again_after_a_failover_is_dropped_in_silence() {
    /// Beyond the rows that are remembered of a group.
    const MORE: usize = 300;
    let mut server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let carol = server.client("carol").await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let mut said = Vec::new();
    // Commits so early that they are forgotten, and more of them than there are past epochs whose messages can be read.
    for n in 0..6 {
        match n % 2 {
            0 => alice.invite(&group, &[user("carol")]).await.map(drop).unwrap(),
            _ => alice.remove(&group, &user("carol")).await.unwrap(),
        }
        for _ in 0..MORE / 6 {
            said.push(said.len().to_string());
            alice.post(&group, said.last().unwrap()).await.unwrap();
        }
        alice.sync().await.unwrap();
    }
    for _ in 0..1_024 {
        said.push(said.len().to_string());
        alice.post(&group, said.last().unwrap()).await.unwrap();
    }
    alice.sync().await.unwrap();
    let backup = server.backup();
    assert_eq!(bob.receive().await, said);
    alice.send(&group, "lost").await.unwrap();
    assert_eq!(bob.receive().await, ["lost"]);
    bob.take_unread().await;

    server.fail_over(&backup).await;
    let asked = |what: &str| proxy.seen("GET", what).len();
    let before = asked("/commits");
    assert_eq!(bob.sync().await.unwrap_err().code(), "went-back");
    come_to_terms(&[&alice, &bob]).await;
    let asked = asked("/commits") - before;
    assert!(asked <= 1, "{asked} requests");
    let told: Vec<_> = bob
        .take_unread()
        .await
        .into_iter()
        .map(|message| message.text)
        .collect();
    assert_eq!(told.len(), 1, "{:?}", &told[..told.len().min(9)]);
    assert!(
        told[0].contains("does not have all that it has delivered"),
        "{told:?}"
    );
    // What is new is read, and what cannot be is told.
    they_talk(&alice, &bob, &group).await;
    tamper_inbox(&proxy, InboxKind::Message, flip_last);
    alice.send(&group, "garbled").await.unwrap();
    assert_eq!(bob.told().await, ["a message of this group could not be read"]);
    proxy.forward();
    they_talk(&alice, &bob, &group).await;
    drop(carol);
}

/// The row by which a device has joined is read once more, and is none that it remembers.
#[tokio::test]
async fn a_welcome_that_is_read_again_is_no_invitation() {
    let server = TestServer::start().await;
    let alice = server.client_with_pool_of("alice", 4).await;
    let (bob, proxy) = server.proxied_with_pool_of("bob", 4).await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    let welcome: Arc<Mutex<Option<InboxRow>>> = Arc::default();
    let keeps = Arc::clone(&welcome);
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        let found = inbox.rows.iter().find(|row| row.kind == InboxKind::Welcome);
        if let Some(found) = found {
            *keeps.lock().unwrap() = Some(found.clone());
        }
    });
    assert_eq!(bob.sync().await.unwrap().joined, 1);
    let welcome = welcome.lock().unwrap().take().unwrap();
    // More rows than are remembered, all of them made up.
    let (of, mut told) = (group.clone(), false);
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        if !std::mem::replace(&mut told, true) {
            inbox.rows.extend((0..1_100).map(|number| InboxRow {
                group_id: Some(of.clone()),
                seq: 10 + number,
                first: Some(1),
                kind: InboxKind::DeviceChange,
                epoch: None,
                received_at: 0,
                gone: None,
                body: Base64Url(b"alice".to_vec()),
            }));
        }
    });
    come_to_terms(&[&bob]).await;
    proxy.forward();
    they_talk(&alice, &bob, &group).await;

    let problem = Problem::position_ahead(vec![Position {
        group_id: group.clone(),
        seq: 0,
    }]);
    let mut told = false;
    proxy.rule_for("POST", "/v1/inbox/next", move |seen| {
        let request: NextRequest = serde_json::from_slice(&seen.body).unwrap();
        match request.acknowledge.is_some() && !std::mem::replace(&mut told, true) {
            true => Action::Answer(Answer::json(409, &problem)),
            false => Action::Forward,
        }
    });
    alice.send(&group, "one").await.unwrap();
    assert_eq!(bob.sync().await.unwrap_err().code(), "went-back");
    let mut again = Some(InboxRow {
        first: Some(1),
        ..welcome
    });
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        inbox.rows.splice(0..0, again.take());
    });
    come_to_terms(&[&bob]).await;
    proxy.forward();
    let heard: Vec<_> = bob
        .take_unread()
        .await
        .into_iter()
        .map(|message| message.text)
        .collect();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard.contains(&"one".to_owned()), "{heard:?}");
    assert!(bob.quarantined_welcomes().await.unwrap().is_empty());
    they_talk(&alice, &bob, &group).await;
}
