//! C8: a profile that was restored from an old copy never sends or serves until it is brought up to date.

use std::path::Path;
use std::time::Duration;

use crate::support::{Action, Client, TestServer, catch_up, count_rows, options, they_talk, user};
use larder_client::{Error, GroupState, MessageKind, MlsConnection, Probe, SendStatus};
use tempfile::TempDir;

const POOL: u32 = 3;

fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// A copy of a profile that is not open.
fn copy_of(profile: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_files(profile, copy.path());
    copy
}

/// Copies the profile as it is now; the client goes on.
async fn backup(client: &mut Client) -> TempDir {
    client.stop().await;
    let copy = copy_of(client.directory.path());
    client.restart().await;
    copy
}

/// Puts an old copy in the place of the profile.
async fn restore(client: &mut Client, copy: &TempDir) {
    client.stop().await;
    for file in std::fs::read_dir(client.directory.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    copy_files(copy.path(), client.directory.path());
    client.restart().await;
}

fn told_of_the_copy(notices: &[larder_client::Message]) -> usize {
    notices
        .iter()
        .filter(|message| message.kind == MessageKind::Notice && message.text.contains("older copy"))
        .count()
}

/// X2, X3: what the directory hands out can be opened here, no other private key is kept, and nothing is left to be done.
async fn pool_is_right(client: &Client) {
    client.refresh_key_packages().await.unwrap();
    let again = client.refresh_key_packages().await.unwrap();
    assert_eq!((again.minted, again.uploaded, again.revoked), (0, 0, 0));
    assert_eq!(again.health.available, POOL);
    assert!(matches!(client.probe(1).await.unwrap(), Probe::Addable { .. }));
    let profile = client.directory.path();
    let last_resorts = "SELECT count(*) FROM keypackage_pool_metadata WHERE kind = 1 AND ended_at IS NULL";
    assert_eq!(
        count_rows(profile, "SELECT count(*) FROM openmls_key_packages"),
        i64::from(again.health.available + again.health.reserved) + count_rows(profile, last_resorts),
    );
    assert_eq!(again.health.reserved, 0, "what was spent meanwhile is erased");
}

#[tokio::test]
async fn c8_x2_every_earlier_copy_is_brought_up_to_date_before_it_sends_or_serves() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let mut bob = server.client_with_pool_of("bob", POOL).await;
    let mut copies = vec![backup(&mut bob).await];
    let first = alice.group_with(&[&bob]).await;
    copies.push(backup(&mut bob).await);
    bob.send(&first, "one").await.unwrap();
    copies.push(backup(&mut bob).await);
    alice.send(&first, "two").await.unwrap();
    bob.sync().await.unwrap();
    copies.push(backup(&mut bob).await);
    let second = alice.group_with(&[&bob]).await;
    let own = bob.create_group("own").await.unwrap().id;
    copies.push(backup(&mut bob).await);
    bob.leave(&first).await.unwrap();
    catch_up(&[&alice, &bob]).await;
    bob.send(&second, "three").await.unwrap();
    assert_eq!(alice.receive().await, ["one", "three"]);

    for copy in &copies {
        restore(&mut bob, copy).await;
        let known = bob.sync().await.unwrap().rejoined;
        let rejoined = known + bob.accept_all().await;
        assert!(rejoined >= 2, "{rejoined}");
        assert_eq!(told_of_the_copy(&bob.take_unread().await), 1);
        for (group, state) in [
            (&first, GroupState::NeedsRejoin),
            (&second, GroupState::Active),
            (&own, GroupState::Active),
        ] {
            let groups = bob.groups().await.unwrap();
            let known = groups.iter().find(|summary| summary.id == *group);
            // A copy from before the first group does not know that it was ever in it. One from after it does not know that it
            // has left: the server says so, which alone ends nothing (T2).
            assert!(known.map_or(*group == first, |summary| {
                let is_over = *group == first && summary.state == GroupState::Left;
                is_over || (summary.state, summary.denied) == (state, *group == first)
            }));
        }
        they_talk(&alice, &bob, &second).await;
        pool_is_right(&bob).await;
        let third = alice.group_with(&[&bob]).await;
        they_talk(&bob, &alice, &third).await;
    }
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn the_last_state_is_no_copy_even_when_an_answer_was_lost() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (mut bob, proxy) = server.proxied_with_pool_of("bob", POOL).await;
    let group = alice.group_with(&[&bob]).await;
    for _ in 0..12 {
        proxy.rule(|seen| {
            if seen.is("GET", "") {
                Action::Forward
            } else {
                Action::CutAfter
            }
        });
        bob.send(&group, "lost").await.unwrap();
        bob.restart().await;
    }
    proxy.forward();
    let copy = backup(&mut bob).await;
    restore(&mut bob, &copy).await;
    bob.sync().await.unwrap();
    assert_eq!(told_of_the_copy(&bob.take_unread().await), 0);
    assert_eq!(alice.receive().await, ["lost"; 12]);
}

#[tokio::test]
async fn c8_a_copy_that_is_used_beside_the_other_is_refused_at_its_next_request_and_the_two_do_not_chase_each_other()
 {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let mut bob = server.client_with_pool_of("bob", POOL).await;
    let group = alice.group_with(&[&bob]).await;
    let profile = backup(&mut bob).await;
    let copy = MlsConnection::open(options(profile.path())).await.unwrap();
    // It opens its session before the other goes on.
    assert!(!copy.wait(Duration::ZERO).await.unwrap());
    bob.send(&group, "one").await.unwrap();

    let sent = copy.send(&group, "from the copy").await.unwrap();
    assert_eq!(sent.status, SendStatus::Pending);
    assert_eq!(alice.receive().await, ["one"], "it has sent nothing");
    let outcome = copy.invite(&group, &[user("nobody")]).await;
    assert!(matches!(outcome, Err(Error::NoKeyPackages { .. })), "{outcome:?}");
    alice.sync().await.unwrap();
    let texts = |messages: Vec<larder_client::Message>| -> Vec<String> {
        messages
            .into_iter()
            .filter(|message| message.kind == MessageKind::Text)
            .map(|message| message.text)
            .collect()
    };
    assert_eq!(texts(alice.take_unread().await), ["from the copy"], "X1: once");

    // Now the other is behind, and is brought up to date once; the copy then is not, for an hour.
    bob.sync().await.unwrap();
    assert_eq!(told_of_the_copy(&bob.take_unread().await), 1);
    let sent = copy.send(&group, "later").await.unwrap();
    assert_eq!(sent.status, SendStatus::Pending);
    for _ in 0..2 {
        let error = copy.sync().await.unwrap_err();
        assert_eq!(error.code(), "state-behind");
    }
    alice.sync().await.unwrap();
    alice.take_unread().await;
    bob.send(&group, "two").await.unwrap();
    assert_eq!(alice.receive().await, ["two"]);
}

#[tokio::test]
async fn x1_r_c15_what_a_copy_had_still_to_send_arrives_once_although_it_is_encrypted_twice() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (mut bob, proxy) = server.proxied_with_pool_of("bob", POOL).await;
    let group = alice.group_with(&[&bob]).await;
    proxy.cut_before("POST", "/messages");
    bob.send(&group, "one").await.unwrap();
    let copy = backup(&mut bob).await;
    proxy.forward();
    bob.sync().await.unwrap();
    bob.send(&group, "two").await.unwrap();
    assert_eq!(alice.receive().await, ["one", "two"]);
    restore(&mut bob, &copy).await;
    bob.sync().await.unwrap();
    assert_eq!(alice.receive().await, [] as [&str; 0], "X1: once");
    they_talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn c8_x3_bringing_a_copy_up_to_date_may_be_interrupted_at_every_request() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (mut bob, proxy) = server.proxied_with_pool_of("bob", POOL).await;
    let copy = backup(&mut bob).await;
    let group = alice.group_with(&[&bob]).await;
    for answered in [false, true] {
        for last in 0.. {
            restore(&mut bob, &copy).await;
            let mut seen = 0;
            proxy.rule(move |_| {
                seen += 1;
                match answered {
                    _ if seen <= last => Action::Forward,
                    true => Action::CutAfter,
                    false => Action::CutBefore,
                }
            });
            let interrupted = bob.sync().await.is_err();
            proxy.forward();
            bob.restart().await;
            bob.sync().await.unwrap();
            assert_eq!(told_of_the_copy(&bob.take_unread().await), 1);
            pool_is_right(&bob).await;
            catch_up(&[&alice, &bob]).await;
            if !interrupted {
                break;
            }
        }
    }
    bob.accept_all().await;
    they_talk(&alice, &bob, &group).await;
    bob.stop_and_audit().await;
}
