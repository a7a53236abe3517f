//! R-D8: what the directory tells an owner is verified, and a server that tells something else is found out.

use crate::support::{Action, Client, Proxy, TestServer};
use larder_client::{AuditFlaw, AuditTransition, Pruned};
use larder_wire::{AuditCheckpoint, AuditHead, AuditPage, AuditRow, Base64Url, KeyPackageRef};

const POOL: u32 = 3;
/// A day, in seconds.
const DAY: u64 = 24 * 60 * 60;

/// Changes the rows of an audit on their way, and the head to that of the last row.
fn tamper(proxy: &Proxy, change: impl Fn(&mut Vec<AuditRow>) + Send + Clone + 'static) {
    tamper_page(proxy, move |page| change(&mut page.rows));
}

/// Changes an audit on its way, and then the head to that of the last row.
fn tamper_page(proxy: &Proxy, change: impl Fn(&mut AuditPage) + Send + Clone + 'static) {
    proxy.rule(move |seen| {
        if !seen.is("GET", "/audit") {
            return Action::Forward;
        }
        let change = change.clone();
        Action::rewrite_body(move |body| {
            let mut page: AuditPage = serde_json::from_slice(&body).unwrap();
            change(&mut page);
            if let Some(last) = page.rows.last() {
                page.head = AuditHead {
                    seq: last.seq,
                    hash: last.hash.clone(),
                };
            }
            serde_json::to_vec(&page).unwrap()
        })
    });
}

/// Numbers and hashes the rows anew, as a server that rewrites its history would.
fn chained(rows: &mut [AuditRow]) {
    let mut previous = vec![0; 32];
    for (seq, row) in (1..).zip(rows) {
        row.seq = seq;
        row.hash = Base64Url(row.hash_after(&previous).to_vec());
        previous.clone_from(&row.hash.0);
    }
}

async fn flaw(client: &Client) -> Option<AuditFlaw> {
    client.audit().await.unwrap().flaw
}

/// Bob, whom alice has invited once, and whose audit was verified before and after, if asked for.
async fn scene(server: &TestServer, verified: bool) -> (Client, Proxy) {
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied_with_pool_of("bob", POOL).await;
    if verified {
        assert_eq!(flaw(&bob).await, None);
    }
    alice.group_with(&[&bob]).await;
    if verified {
        assert_eq!(flaw(&bob).await, None);
    }
    (bob, proxy)
}

#[tokio::test]
async fn r_d8_an_owner_is_told_who_took_what_for_which_group() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client_with_pool_of("bob", POOL).await;
    let group = alice.group_with(&[&bob]).await;
    let audited = bob.audit().await.unwrap();
    assert_eq!((audited.flaw, audited.restored), (None, false));
    let taken: Vec<_> = audited
        .rows
        .iter()
        .filter(|row| row.transition != AuditTransition::Upload)
        .map(|row| (row.transition, row.actor.clone(), row.group_id.clone()))
        .collect();
    let by = Some(format!("alice/{}", alice.me().device_id));
    assert_eq!(
        taken,
        [
            (AuditTransition::Reserve, by.clone(), Some(group.clone())),
            (AuditTransition::Commit, by, Some(group)),
        ]
    );
    assert_eq!(audited.rows.len(), POOL as usize + 1 + 2 + 1, "with the refill");
}

#[tokio::test]
async fn a_changed_or_dropped_row_breaks_the_chain() {
    let server = TestServer::start().await;
    let (bob, proxy) = scene(&server, false).await;
    tamper(&proxy, |rows| {
        for row in rows {
            if row.transition == AuditTransition::Reserve {
                row.actor = Some("carol/carol-1".to_owned());
            }
        }
    });
    let broken = flaw(&bob).await;
    assert!(matches!(broken, Some(AuditFlaw::Broken { .. })), "{broken:?}");
    tamper(&proxy, |rows| drop(rows.remove(1)));
    assert_eq!(flaw(&bob).await, Some(AuditFlaw::Broken { seq: 2 }));
    tamper(&proxy, |rows| rows.swap(1, 2));
    assert_eq!(flaw(&bob).await, Some(AuditFlaw::Broken { seq: 2 }));
    proxy.rule(|seen| match seen.is("GET", "/audit") {
        false => Action::Forward,
        // The head is right, and the last row is withheld.
        true => Action::rewrite_body(|body| {
            let mut page: AuditPage = serde_json::from_slice(&body).unwrap();
            page.rows.pop();
            serde_json::to_vec(&page).unwrap()
        }),
    });
    let broken = flaw(&bob).await;
    assert!(matches!(broken, Some(AuditFlaw::Broken { .. })), "{broken:?}");
    proxy.forward();
    assert_eq!(flaw(&bob).await, None);
}

#[tokio::test]
async fn a_history_that_is_rewritten_or_cut_after_it_was_seen_is_found_although_its_chain_holds() {
    let server = TestServer::start().await;
    let (mut bob, proxy) = scene(&server, true).await;
    bob.restart().await;
    let seen = bob.audit().await.unwrap().rows.len() as u64;
    tamper(&proxy, |rows| {
        rows[0].time -= 1;
        chained(rows);
    });
    assert_eq!(flaw(&bob).await, Some(AuditFlaw::Rewritten { seen }));
    tamper(&proxy, |rows| drop(rows.pop()));
    let now = seen - 1;
    assert_eq!(flaw(&bob).await, Some(AuditFlaw::Shortened { seen, now }));
    proxy.forward();
    assert_eq!(flaw(&bob).await, None);
}

/// Lets time pass for a server and a client, and the server sweep.
async fn pass(server: &TestServer, client: &Client, days: u64) {
    server.pass(days * DAY);
    client.pass(days * DAY);
    server.sweep().await;
}

/// A checkpoint that hides the first `count` rows, the last of which it says happened at `time`.
fn hide(page: &mut AuditPage, count: usize, time: u64) {
    let last = page.rows.drain(..count).next_back().unwrap();
    page.checkpoint = Some(AuditCheckpoint {
        seq: last.seq,
        hash: last.hash,
        time,
    });
}

#[tokio::test]
async fn what_is_too_old_is_told_as_that_and_not_as_rewritten() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let mut bob = server.client_with_pool_of("bob", POOL).await;
    let seen = bob.audit().await.unwrap().rows.len() as u64;
    alice.group_with(&[&bob]).await;
    // What was seen is among what was removed, and so is what came after it.
    pass(&server, &bob, 91).await;
    bob.restart().await;
    let audited = bob.audit().await.unwrap();
    let through = audited.pruned.unwrap().through;
    assert!(through > seen, "{audited:?}");
    let pruned = Pruned {
        through,
        unverifiable_after: Some(seen),
    };
    assert_eq!(
        (audited.pruned, audited.flaw, audited.restored),
        (Some(pruned), None, false)
    );
    assert!(audited.rows.iter().all(|row| row.seq > through));
    // It goes on from what it has seen now.
    let audited = bob.audit().await.unwrap();
    let pruned = Pruned {
        unverifiable_after: None,
        ..pruned
    };
    assert_eq!((audited.pruned, audited.flaw), (Some(pruned), None));
}

#[tokio::test]
async fn a_seen_audit_is_verified_after_its_beginning_is_gone() {
    let server = TestServer::start().await;
    let (bob, proxy) = scene(&server, true).await;
    pass(&server, &bob, 60).await;
    // Between, the pool was renewed.
    assert_eq!(flaw(&bob).await, None);
    pass(&server, &bob, 31).await;
    let audited = bob.audit().await.unwrap();
    let through = audited.pruned.unwrap().through;
    assert_eq!(
        (audited.pruned.unwrap().unverifiable_after, audited.flaw),
        (None, None)
    );
    let seen = audited.rows.last().map_or(through, |row| row.seq);
    // Another beginning, from which everything follows.
    tamper_page(&proxy, |page| {
        let Some(checkpoint) = &mut page.checkpoint else {
            return;
        };
        checkpoint.hash.0[0] ^= 1;
        let mut previous = checkpoint.hash.0.clone();
        for row in &mut page.rows {
            row.hash = Base64Url(row.hash_after(&previous).to_vec());
            previous.clone_from(&row.hash.0);
        }
        page.head.hash = Base64Url(previous);
    });
    assert_eq!(flaw(&bob).await, Some(AuditFlaw::Rewritten { seen }));
    proxy.forward();
    assert_eq!(flaw(&bob).await, None);
}

#[tokio::test]
async fn rows_that_are_hidden_as_if_they_were_too_old_are_found() {
    for verified in [false, true] {
        let server = TestServer::start().await;
        let (bob, proxy) = scene(&server, verified).await;
        // From a device that is not ninety days old, or has looked since.
        for time in [0, u64::MAX] {
            tamper_page(&proxy, move |page| hide(page, page.rows.len(), time));
            let found = flaw(&bob).await;
            let expected = match (verified, time) {
                // It has seen all of it, and it links up; but it was invited since.
                (true, 0) => "untold",
                _ => "shortened",
            };
            assert_eq!(found.unwrap().code(), expected, "{verified} {time}");
        }
    }
    // Once it is old enough, the server has to say so of each row.
    let server = TestServer::start().await;
    let (mut bob, proxy) = scene(&server, false).await;
    bob.pass(100 * DAY);
    server.pass(100 * DAY);
    bob.restart().await;
    tamper_page(&proxy, |page| {
        let young = page.rows.last().unwrap().time + 20 * DAY;
        hide(page, page.rows.len(), young);
    });
    let found = flaw(&bob).await;
    assert!(matches!(found, Some(AuditFlaw::Hidden { .. })), "{found:?}");
}

#[tokio::test]
async fn a_checkpoint_that_can_be_none_breaks_the_chain() {
    let server = TestServer::start().await;
    let (bob, proxy) = scene(&server, false).await;
    for (seq, bytes) in [(0, 32), (1, 31), (1, 0), (u64::MAX, 32)] {
        tamper_page(&proxy, move |page| {
            page.checkpoint = Some(AuditCheckpoint {
                seq,
                hash: Base64Url(vec![1; bytes]),
                time: 0,
            });
        });
        bob.set_clock(0);
        let found = flaw(&bob).await;
        // With the right one it is told that nothing can be so old.
        assert!(
            matches!(found, Some(AuditFlaw::Broken { .. } | AuditFlaw::Hidden { .. })),
            "{found:?}"
        );
        // A clock that is far off can say nothing about that.
        bob.set_clock(200 * DAY.cast_signed());
        let found = flaw(&bob).await;
        assert!(matches!(found, Some(AuditFlaw::Broken { .. })), "{found:?}");
    }
}

#[tokio::test]
async fn a_chain_that_holds_and_contradicts_the_pool_is_found() {
    let server = TestServer::start().await;
    let (bob, proxy) = scene(&server, false).await;
    let at =
        |rows: &[AuditRow], transition| rows.iter().position(|row| row.transition == transition).unwrap();
    // Handed out once more.
    tamper(&proxy, move |rows| {
        let reserve = at(rows, AuditTransition::Reserve);
        rows.insert(reserve + 1, rows[reserve].clone());
        chained(rows);
    });
    let found = flaw(&bob).await;
    assert!(
        matches!(found, Some(AuditFlaw::HandedOutTwice { .. })),
        "{found:?}"
    );
    // Spent without being handed out.
    tamper(&proxy, move |rows| {
        rows.remove(at(rows, AuditTransition::Reserve));
        chained(rows);
    });
    let found = flaw(&bob).await;
    assert!(matches!(found, Some(AuditFlaw::Impossible { .. })), "{found:?}");
}

#[tokio::test]
async fn an_invitation_that_is_not_told_of_and_a_strange_key_package_are_found() {
    let server = TestServer::start().await;
    let (bob, proxy) = scene(&server, false).await;
    tamper(&proxy, |rows| {
        rows.retain(|row| row.transition == AuditTransition::Upload);
        chained(rows);
    });
    let found = flaw(&bob).await;
    assert!(matches!(found, Some(AuditFlaw::Untold { .. })), "{found:?}");
    let server = TestServer::start().await;
    let (bob, proxy) = scene(&server, false).await;
    tamper(&proxy, |rows| {
        let mut strange = rows[0].clone();
        strange.key_package_ref = KeyPackageRef::from_bytes(&[7; 32]).unwrap();
        rows.push(strange);
        chained(rows);
    });
    let found = flaw(&bob).await;
    assert!(matches!(found, Some(AuditFlaw::NotOurs { .. })), "{found:?}");
}
