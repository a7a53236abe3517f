//! A device leaves a group by its own word: at once, whoever is there to hear of it, and nobody can give that word for it.

use std::time::Duration;

use crate::member::with_state;
use crate::support::{
    self, Action, Answer, Client, Proxy, Seen, TestServer, catch_up, flip_last, keeps_no_commits,
    tamper_inbox, they_talk, user,
};
use larder_client::{ContactRequest, Error, GroupKey, GroupState, Heard, MessageKind, SendStatus};
use larder_judge::Departure;
use larder_wire::{Base64Url, Inbox, InboxKind, InboxRow, ProblemType};
use openmls_traits::signatures::Signer as _;

fn invitation_of(name: &str) -> ContactRequest {
    ContactRequest::Invitation { by: user(name) }
}

/// The texts that the history of a group has beside messages.
async fn told_of(client: &Client, group: &GroupKey) -> Vec<String> {
    let history = client.history(group, 100).await.unwrap();
    let told = history.into_iter().filter(|row| row.kind != MessageKind::Text);
    told.map(|row| row.text).collect()
}

async fn state(client: &Client, group: &GroupKey) -> GroupState {
    client.summary(group).await.state
}

#[tokio::test]
async fn who_leaves_is_out_at_once_and_the_others_commit_it_once() {
    let server = TestServer::start().await;
    let (alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let carol = server.client("carol").await;
    let group = alice.group_with(&[&bob, &carol]).await;
    catch_up(&[&alice, &bob, &carol]).await;
    alice.send(&group, "not read").await.unwrap();
    assert!(bob.leave(&group).await.unwrap());
    assert!(bob.leave(&group).await.unwrap(), "leaving twice is no error");
    assert_eq!(state(&bob, &group).await, GroupState::Left);
    alice.send(&group, "without bob").await.unwrap();
    bob.restart().await;
    assert_eq!(bob.sync().await.unwrap().rows, 0);
    assert!(matches!(
        bob.send(&group, "still here").await,
        Err(Error::GroupNotActive(GroupState::Left))
    ));

    let (a, c) = tokio::join!(alice.sync(), carol.sync());
    assert!(a.unwrap().committed + c.unwrap().committed >= 1);
    catch_up(&[&alice, &carol]).await;
    for client in [&alice, &carol] {
        assert_eq!(client.users(&group).await, ["alice", "carol"]);
        let told = told_of(client, &group).await;
        assert_eq!(
            told.iter().rfind(|text| text.contains("bob")).unwrap(),
            "bob left"
        );
        assert!(!told.iter().any(|text| text.contains("removed")), "{told:?}");
    }
    assert_eq!(alice.epoch(&group).await, carol.epoch(&group).await);
    they_talk(&alice, &carol, &group).await;

    // The last member just goes.
    carol.leave(&group).await.unwrap();
    alice.leave(&group).await.unwrap();
    assert_eq!(state(&alice, &group).await, GroupState::Left);
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn who_leaves_without_a_server_is_out_here_and_the_server_is_told_later() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (mut bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&bob, &alice]).await;
    proxy.rule(|_| Action::CutBefore);
    bob.send(&group, "waits").await.unwrap();
    assert!(!bob.leave(&group).await.unwrap());
    assert_eq!(state(&bob, &group).await, GroupState::Left);
    let history = bob.history(&group, 10).await.unwrap();
    let waits = history.iter().find(|row| row.text == "waits").unwrap();
    assert_eq!(waits.status, SendStatus::Failed);
    bob.restart().await;
    proxy.forward();
    bob.sync().await.unwrap();
    alice.sync().await.unwrap();
    assert_eq!(alice.users(&group).await, ["alice"]);
    assert_eq!(told_of(&alice, &group).await.last().unwrap(), "bob left");
}

/// Delivers rows without end, each after the one before.
fn deliver_without_end(proxy: &Proxy, group: &GroupKey) {
    let (group, mut seq) = (group.clone(), 1_000_u64);
    proxy.rule_for("POST", "/v1/inbox/next", move |_| {
        let first = Some(if seq == 1_000 { 1 } else { seq + 1 });
        seq += 1;
        let row = InboxRow {
            group_id: Some(group.clone()),
            seq,
            first,
            kind: InboxKind::Passed,
            epoch: None,
            received_at: 0,
            gone: None,
            body: Base64Url(Vec::new()),
        };
        Action::Answer(Answer::json(200, &Inbox { rows: vec![row] }))
    });
}

#[tokio::test]
async fn a_group_is_left_whatever_the_inbox_brings() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    for kind in [
        Some(ProblemType::DeviceRemoved),
        Some(ProblemType::Forbidden),
        None,
    ] {
        let group = alice.group_with(&[&bob]).await;
        catch_up(&[&alice, &bob]).await;
        match kind {
            Some(kind) => proxy.rule_for("POST", "/v1/inbox/next", move |_| {
                Action::Answer(Answer::problem(kind))
            }),
            None => deliver_without_end(&proxy, &group),
        }
        let _ = bob.leave(&group).await;
        assert_eq!(state(&bob, &group).await, GroupState::Left, "{kind:?}");
        proxy.forward();
        catch_up(&[&bob, &alice]).await;
        assert_eq!(alice.users(&group).await, ["alice"], "{kind:?}");
    }
}

#[tokio::test]
async fn an_inbox_without_end_holds_up_nothing_else() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    deliver_without_end(&proxy, &group);
    assert_eq!(bob.sync().await.unwrap().rows, 0);
    bob.send(&group, "said all the same").await.unwrap();
    // The server does not know what was acknowledged to the one in its place.
    bob.sync().await.unwrap();
    assert_eq!(alice.receive().await, ["said all the same"]);
}

#[tokio::test]
async fn who_leaves_while_the_answer_to_a_commit_is_lost_is_out_whether_it_happened_or_not() {
    let server = TestServer::start().await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    for happened in [true, false] {
        let (bob, proxy) = server.proxied(if happened { "bob" } else { "ben" }).await;
        let group = alice.group_with(&[&bob]).await;
        catch_up(&[&bob, &alice]).await;
        let cut_off = std::sync::atomic::AtomicBool::new(false);
        proxy.rule(move |seen| {
            let is_commit = seen.is("POST", "/commits");
            let was_cut_off = cut_off.fetch_or(is_commit, std::sync::atomic::Ordering::Relaxed);
            match (is_commit, happened) {
                _ if was_cut_off => Action::CutBefore,
                (true, true) => Action::CutAfter,
                (true, false) => Action::CutBefore,
                (false, _) => Action::Forward,
            }
        });
        support::assert_unreachable(bob.invite(&group, &[carol.me().user.clone()]).await);
        assert!(!bob.leave(&group).await.unwrap());
        assert_eq!(state(&bob, &group).await, GroupState::Left);
        proxy.forward();
        bob.sync().await.unwrap();
        catch_up(&[&alice]).await;
        let users = alice.users(&group).await;
        let expected: &[&str] = if happened { &["alice", "carol"] } else { &["alice"] };
        assert_eq!(users, expected);
        assert_eq!(bob.sync().await.unwrap().rows, 0);
        catch_up(&[&carol]).await;
    }
}

#[tokio::test]
async fn r_c12_a_member_who_has_heard_that_another_left_commits_that_before_it_writes() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let carol = server.client("carol").await;
    let group = alice.group_with(&[&bob, &carol]).await;
    catch_up(&[&alice, &bob, &carol]).await;
    let mut listening = carol.listen().await.unwrap();
    bob.leave(&group).await.unwrap();
    // Alice has not heard of it.
    let sent = alice.send(&group, "first").await.unwrap();
    assert_eq!(sent.status, SendStatus::Sent);
    // Carol has, and would let others be first; but what she writes is not for bob.
    while carol.users(&group).await.len() == 3
        && !told_of(&carol, &group).await.contains(&"bob left".to_owned())
    {
        assert_ne!(
            listening.next(Duration::from_secs(20)).await.unwrap(),
            Heard::Nothing
        );
    }
    let before = carol.epoch(&group).await;
    let sent = carol.send(&group, "second").await.unwrap();
    assert_eq!(sent.status, SendStatus::Sent);
    assert_eq!(carol.users(&group).await, ["alice", "carol"]);
    assert_eq!(carol.epoch(&group).await, before + 1);
    assert_eq!(alice.receive().await, ["second"]);
    assert_eq!(alice.users(&group).await, ["alice", "carol"]);
}

/// Who listens lets others be first for a time of its own, and does it then.
#[tokio::test]
async fn who_listens_removes_whoever_left_in_the_end() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&bob, &alice]).await;
    let mut listening = alice.listen().await.unwrap();
    bob.leave(&group).await.unwrap();
    while alice.users(&group).await.len() == 2 {
        if listening.next(Duration::from_secs(60)).await.unwrap() == Heard::More {
            alice.sync().await.unwrap();
        }
    }
}

#[tokio::test]
async fn who_left_is_invited_again_by_one_commit_that_removes_and_adds() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let bob = bob.asked().await;
    let group = alice.group_with(&[&bob]).await;
    bob.accept(&group).await.unwrap();
    catch_up(&[&bob, &alice]).await;
    // Alice listens, so that it is the turn of others to remove bob: of the times that she waits some are long enough.
    for _ in 0..8 {
        let mut listening = alice.listen().await.unwrap();
        bob.leave(&group).await.unwrap();
        while told_of(&alice, &group).await.last().unwrap() != "bob left" {
            assert_ne!(
                listening.next(Duration::from_secs(20)).await.unwrap(),
                Heard::Nothing
            );
        }
        drop(listening);
        let before = alice.epoch(&group).await;
        let invited = alice.invite(&group, &[user("bob")]).await.unwrap();
        assert_eq!(invited.added, [user("bob")]);
        let took = alice.epoch(&group).await - before;
        assert_eq!(alice.users(&group).await, ["alice", "bob"]);
        assert_eq!(told_of(&alice, &group).await.last().unwrap(), "alice added bob");
        assert_eq!(bob.sync().await.unwrap().joined, 1);
        assert_eq!(bob.summary(&group).await.request, Some(invitation_of("alice")));
        bob.accept(&group).await.unwrap();
        they_talk(&alice, &bob, &group).await;
        if took == 1 {
            return;
        }
    }
    panic!("it took two Commits every time");
}

#[tokio::test]
async fn a_user_leaves_with_all_devices_and_nobody_else_has_to_hear_of_it() {
    let server = TestServer::start().await;
    let (alice, one) = (server.client("alice").await, server.client("bob").await);
    let other = one.link().await;
    let group = alice.group_with(&[&one]).await;
    catch_up(&[&one, &other, &alice]).await;
    assert_eq!(alice.users(&group).await, ["alice", "bob", "bob"]);
    one.leave(&group).await.unwrap();
    other.sync().await.unwrap();
    assert_eq!(state(&other, &group).await, GroupState::Left);
    alice.sync().await.unwrap();
    assert_eq!(alice.users(&group).await, ["alice"]);
}

#[tokio::test]
async fn a_restored_server_that_has_forgotten_a_departure_is_told_again() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&bob, &alice]).await;
    let backup = server.backup();
    bob.leave(&group).await.unwrap();
    server.restore(&backup).await;
    alice.send(&group, "hello?").await.unwrap();
    bob.sync().await.unwrap();
    alice.sync().await.unwrap();
    assert_eq!(alice.users(&group).await, ["alice"]);
    assert_eq!(bob.sync().await.unwrap().rows, 0);
    assert_eq!(state(&bob, &group).await, GroupState::Left);
}

#[tokio::test]
async fn a_server_that_goes_on_delivering_is_told_again_and_nothing_of_it_is_taken_over() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&bob, &alice]).await;
    bob.leave(&group).await.unwrap();
    let words = || proxy.seen("DELETE", "/membership");
    assert_eq!(words().len(), 1);
    let told = told_of(&bob, &group).await;
    let mut left = 3_u64;
    let said = group.clone();
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        if left > 0 {
            left -= 1;
            inbox.rows.push(InboxRow {
                group_id: Some(said.clone()),
                seq: 1_000 - left,
                first: Some(1),
                kind: InboxKind::Message,
                epoch: Some(1),
                received_at: 1,
                gone: None,
                body: Base64Url(vec![1, 2, 3]),
            });
        }
    });
    for _ in 0..4 {
        bob.sync().await.unwrap();
    }
    let words = words();
    assert!((2..=4).contains(&words.len()), "{}", words.len());
    assert!(words.iter().all(|word| word.body == words[0].body));
    assert_eq!(told_of(&bob, &group).await, told);
    assert_eq!(state(&bob, &group).await, GroupState::Left);
}

#[tokio::test]
async fn a_server_that_denies_the_word_is_asked_for_the_leaf_and_not_for_ever() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&bob, &alice]).await;
    let deny = |seen: &Seen| match seen.is("DELETE", "/membership") {
        true => Action::Answer(Answer::problem(ProblemType::Forbidden)),
        false => Action::Forward,
    };
    proxy.rule(move |seen| deny(seen));
    bob.leave(&group).await.unwrap();
    assert_eq!(state(&bob, &group).await, GroupState::Left);
    assert_eq!(
        proxy.seen("DELETE", "/membership").len(),
        2,
        "the second by the server's leaf"
    );
    bob.sync().await.unwrap();
    assert_eq!(proxy.seen("DELETE", "/membership").len(), 3);
    proxy.forward();
    bob.sync().await.unwrap();
    alice.sync().await.unwrap();
    assert_eq!(alice.users(&group).await, ["alice"]);
}

#[tokio::test]
async fn who_has_lost_track_of_a_group_leaves_it_all_the_same() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let carol = server.client("carol").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&bob, &alice]).await;
    proxy.rule(|seen| match seen.is("GET", "/info") {
        true => Action::CutBefore,
        false => keeps_no_commits(seen).unwrap_or(Action::Forward),
    });
    alice.invite(&group, &[user("carol")]).await.unwrap();
    support::assert_unreachable(bob.sync().await);
    assert_eq!(state(&bob, &group).await, GroupState::NeedsRejoin);
    assert!(bob.leave(&group).await.unwrap());
    catch_up(&[&carol, &alice]).await;
    assert_eq!(alice.users(&group).await, ["alice", "carol"]);
    assert_eq!(bob.sync().await.unwrap().rejoined, 0);
}

#[tokio::test]
async fn an_invitation_whose_welcome_was_garbage_is_declined_like_any_other() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let bob = bob.asked().await;
    let group = alice.create_group("lunch").await.unwrap().id;
    tamper_inbox(&proxy, InboxKind::Welcome, flip_last);
    alice.invite(&group, &[user("bob")]).await.unwrap();
    catch_up(&[&bob]).await;
    let users = Some(vec![user("alice")]);
    assert_eq!(
        bob.summary(&group).await.request,
        Some(ContactRequest::Listed { users })
    );
    assert!(bob.decline(&group).await.unwrap().told);
    assert_eq!(bob.groups().await.unwrap(), []);
    alice.send(&group, "are you there?").await.unwrap();
    assert_eq!(bob.sync().await.unwrap().rows, 0);
    assert_eq!(alice.told().await, ["bob left"]);
    assert_eq!(alice.users(&group).await, ["alice"]);
}

/// Somebody's word that bob leaves, about the leaf that bob has in alice's state.
fn word_about_bob(alice: &Client, group: &GroupKey, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Departure {
    with_state(alice, group, |_, state, _| {
        let leaf = state
            .public_group()
            .treesync()
            .full_leaves()
            .map(|(_, leaf)| leaf.clone())
            .find(|leaf| larder_judge::Leaf::of_node(leaf).unwrap().user == user("bob"))
            .unwrap();
        let signed = Departure::signed_content(&leaf, "localhost", group).unwrap();
        Departure::of_leaf(&leaf, sign(&signed)).unwrap()
    })
}

/// The next message of the group becomes the word of somebody who leaves.
fn pass_off(proxy: &Proxy, body: Vec<u8>) {
    let mut body = Some(body);
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        let mut rows = inbox.rows.iter_mut();
        if let Some(row) = rows.find(|row| row.kind == InboxKind::Message)
            && let Some(body) = body.take()
        {
            (row.kind, row.epoch, row.body) = (InboxKind::Departure, None, Base64Url(body));
        }
    });
}

#[tokio::test]
async fn nobody_is_removed_for_a_word_that_they_have_not_given() {
    const UNSIGNED: &str = "the server says that somebody has left the group, and they have not signed that; it was not believed";
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bob, carol) = (server.client("bob").await, server.client("carol").await);
    let group = alice.group_with(&[&bob, &carol]).await;
    let other = alice.group_with(&[&bob]).await;
    catch_up(&[&bob, &carol, &alice]).await;
    let by_carol = |signed: &[u8]| with_state(&carol, &group, |_, _, keys| keys.sign(signed).unwrap());
    let forged = [
        b"garbage".to_vec(),
        word_about_bob(&alice, &group, |_| vec![0; 64]).to_bytes(),
        word_about_bob(&alice, &group, by_carol).to_bytes(),
        // His word for another group.
        Departure {
            signature: with_state(&bob, &other, |_, state, keys| {
                let leaf = state.own_leaf_node().unwrap();
                keys.sign(&Departure::signed_content(leaf, "localhost", &other).unwrap())
                    .unwrap()
            }),
            ..word_about_bob(&alice, &group, |_| Vec::new())
        }
        .to_bytes(),
    ];
    for (number, body) in forged.into_iter().enumerate() {
        pass_off(&proxy, body);
        carol.send(&group, &format!("lost {number}")).await.unwrap();
        assert_eq!(alice.told().await, [UNSIGNED], "{number}");
        assert_eq!(alice.users(&group).await, ["alice", "bob", "carol"]);
    }
    proxy.forward();
    they_talk(&alice, &bob, &group).await;

    // A word of before his present leaf: it was given, and is over.
    let leaf_before = word_about_bob(&alice, &group, |signed| {
        with_state(&bob, &group, |_, _, keys| keys.sign(signed).unwrap())
    });
    bob.leave(&group).await.unwrap();
    catch_up(&[&alice, &carol]).await;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    catch_up(&[&bob, &alice, &carol, &alice]).await;
    alice.take_unread().await;
    pass_off(&proxy, leaf_before.to_bytes());
    carol.send(&group, "lost again").await.unwrap();
    assert_eq!(alice.told().await, [""; 0]);
    assert_eq!(alice.users(&group).await, ["alice", "bob", "carol"]);
    proxy.forward();
    they_talk(&alice, &bob, &group).await;
}
