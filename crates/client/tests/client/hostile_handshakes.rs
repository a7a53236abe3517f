//! A server that delivers what no member has made in the place of Commits and proposals, or nothing, or numbers that it makes up:
//! nobody loses a group over it, and with an honest server everybody is where the others are.
#![allow(clippy::disallowed_methods, reason = "an attacker passes no gate")]

use crate::forger::external_commit;
use crate::hostile_commits::{deliver, new_keys, public_view};
use crate::member::with_state;
use crate::support::{self, Action, Answer, Client, Proxy, Seen, TestServer, flip_last, they_talk, user};
use larder_client::{GroupKey, GroupState, SendStatus};
use larder_pool::openmls::prelude::OpenMlsProvider as _;
use larder_wire::{
    Base64Url, EpochAnswer, Gone, GroupInfoAnswer, Handshake, Handshakes, Inbox, InboxKind, MessageResult,
    MessagesSent, Problem, sign_with_label_content,
};
use openmls_traits::signatures::Signer as _;

/// The length of a tag in the tests' ciphersuite, and of a signature.
const MAC_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;

/// Alice and bob, who have talked; bob behind a proxy.
struct Scene {
    server: TestServer,
    alice: Client,
    bob: Client,
    proxy: Proxy,
    group: GroupKey,
}

impl Scene {
    async fn set() -> Self {
        let server = TestServer::start().await;
        let alice = server.client("alice").await;
        let (bob, proxy) = server.proxied("bob").await;
        let group = alice.group_with(&[&bob]).await;
        they_talk(&alice, &bob, &group).await;
        Self {
            server,
            alice,
            bob,
            proxy,
            group,
        }
    }

    /// Alice invites somebody.
    async fn invite(&self, name: &str) -> Client {
        let invited = self.server.client(name).await;
        self.alice.invite(&self.group, &[user(name)]).await.unwrap();
        invited
    }

    /// Bob is in the group as it was, has asked for no GroupInfo, and was told so many things.
    async fn assert_unmoved(&self, epoch: u64, told: usize) {
        let summary = self.bob.summary(&self.group).await;
        assert_eq!((summary.state, summary.epoch), (GroupState::Active, epoch));
        assert_eq!(self.proxy.seen("GET", "/info").len(), 0);
        let notices = self.bob.told().await;
        assert_eq!(notices.len(), told, "{notices:?}");
    }

    /// The server is honest again, and bob is where alice is without having come back from outside.
    async fn assert_together(&self) {
        self.proxy.forward();
        let before = self.proxy.seen("GET", "/info").len();
        they_talk(&self.alice, &self.bob, &self.group).await;
        they_talk(&self.bob, &self.alice, &self.group).await;
        assert_eq!(
            self.bob.epoch(&self.group).await,
            self.alice.epoch(&self.group).await
        );
        assert_eq!(
            self.bob.users(&self.group).await,
            self.alice.users(&self.group).await
        );
        assert_eq!(self.proxy.seen("GET", "/info").len(), before);
    }
}

/// Changes the Commits of the inbox.
fn changed_in_inbox(seen: &Seen, change: impl Fn(&mut Vec<u8>) + Send + 'static) -> Option<Action> {
    seen.is("POST", "/v1/inbox/next").then(|| {
        Action::rewrite_json(move |inbox: &mut Inbox| {
            for row in inbox.rows.iter_mut().filter(|row| row.kind == InboxKind::Commit) {
                change(&mut row.body.0);
            }
        })
    })
}

/// Changes the Commits and proposals that are fetched.
fn changed_when_fetched(
    seen: &Seen,
    change: impl Fn(&mut Vec<Handshake>) + Send + 'static,
) -> Option<Action> {
    seen.is("GET", "/commits")
        .then(|| Action::rewrite_json(move |told: &mut Handshakes| change(&mut told.handshakes)))
}

fn garbage(bytes: &mut Vec<u8>) {
    *bytes = b"garbage".to_vec();
}

fn flip(bytes: &mut [u8], from_the_end: usize) {
    let at = bytes.len() - from_the_end;
    bytes[at] ^= 1;
}

#[tokio::test]
async fn garbage_in_the_place_of_a_commit_changes_nothing() {
    let scene = Scene::set().await;
    let epoch = scene.bob.epoch(&scene.group).await;
    for _ in 0..5 {
        scene.alice.send(&scene.group, "swallowed").await.unwrap();
    }
    // At the epoch that the group is at, at others, and at none.
    let mut at = [Some(epoch + 1), Some(epoch + 9), Some(u64::MAX), Some(0), None].into_iter();
    scene
        .proxy
        .lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
            for row in inbox.rows.iter_mut().filter(|row| row.kind == InboxKind::Message) {
                row.kind = InboxKind::Commit;
                row.epoch = at.next().flatten();
                garbage(&mut row.body.0);
            }
        });
    scene.bob.sync().await.unwrap();
    scene.assert_unmoved(epoch, 1).await;
    scene.assert_together().await;
}

#[tokio::test]
async fn a_commit_that_was_changed_on_the_way_is_fetched_again() {
    // The tag of members, the tag of the new epoch, the signature, and what is signed.
    for from_the_end in [1, 1 + MAC_BYTES + 1, 2 * MAC_BYTES + 10, 200, 500] {
        let scene = Scene::set().await;
        let carol = scene.invite("carol").await;
        scene.alice.send(&scene.group, "welcome, carol").await.unwrap();
        scene.proxy.rule(move |seen| {
            changed_in_inbox(seen, move |bytes| flip(bytes, from_the_end)).unwrap_or(Action::Forward)
        });
        assert_eq!(scene.bob.receive().await, ["welcome, carol"], "{from_the_end}");
        assert_eq!(scene.bob.users(&scene.group).await, ["alice", "bob", "carol"]);
        scene
            .assert_unmoved(scene.alice.epoch(&scene.group).await, 0)
            .await;
        scene.assert_together().await;
        carol.sync().await.unwrap();
    }
}

#[tokio::test]
async fn a_commit_that_was_exchanged_for_garbage_is_fetched() {
    let scene = Scene::set().await;
    scene.invite("carol").await;
    scene.invite("dave").await;
    scene
        .proxy
        .rule(|seen| changed_in_inbox(seen, garbage).unwrap_or(Action::Forward));
    scene.bob.sync().await.unwrap();
    assert_eq!(
        scene.bob.users(&scene.group).await,
        ["alice", "bob", "carol", "dave"]
    );
    let epoch = scene.alice.epoch(&scene.group).await;
    assert_eq!(scene.bob.epoch(&scene.group).await, epoch);
    assert_eq!(scene.proxy.seen("GET", "/info").len(), 0);
    scene.assert_together().await;
}

#[tokio::test]
async fn a_commit_that_is_said_to_be_gone_is_fetched() {
    let scene = Scene::set().await;
    scene.invite("carol").await;
    scene.proxy.lie("POST", "/v1/inbox/next", |inbox: &mut Inbox| {
        for row in inbox.rows.iter_mut().filter(|row| row.kind == InboxKind::Commit) {
            row.gone = Some(Gone::Quota);
            row.body.0.clear();
        }
    });
    scene.bob.sync().await.unwrap();
    assert_eq!(scene.bob.users(&scene.group).await, ["alice", "bob", "carol"]);
    assert_eq!(scene.proxy.seen("GET", "/info").len(), 0);
    scene.assert_together().await;
}

#[tokio::test]
async fn commits_that_never_were_are_not_gone() {
    let scene = Scene::set().await;
    let epoch = scene.bob.epoch(&scene.group).await;
    for _ in 0..3 {
        scene.alice.send(&scene.group, "swallowed").await.unwrap();
    }
    scene
        .proxy
        .lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
            for row in inbox.rows.iter_mut().filter(|row| row.kind == InboxKind::Message) {
                row.kind = InboxKind::Commit;
                row.epoch = Some(epoch + 7);
                row.gone = Some(Gone::Age);
                row.body.0.clear();
            }
        });
    scene.bob.sync().await.unwrap();
    scene.assert_unmoved(epoch, 1).await;
    scene.assert_together().await;
}

#[tokio::test]
async fn an_epoch_that_a_refusal_makes_up_loses_no_group() {
    for made_up in [1, u64::MAX] {
        let scene = Scene::set().await;
        let epoch = scene.bob.epoch(&scene.group).await;
        let problem = Problem::wrong_epoch(epoch.saturating_add(made_up));
        scene.proxy.rule(move |seen| {
            if seen.is("POST", "/messages") {
                let problem = problem.clone();
                return Action::rewrite_json(|sent: &mut MessagesSent| {
                    sent.results.fill(MessageResult::Refused { problem });
                });
            }
            if seen.is("POST", "/commits") {
                let body = serde_json::to_vec(&problem).unwrap();
                return Action::Answer(Answer::of_type(problem.status, "application/problem+json", body));
            }
            Action::Forward
        });
        let sent = scene.bob.send(&scene.group, "anyone?").await.unwrap();
        assert_eq!(sent.status, SendStatus::Pending);
        scene.bob.sync().await.unwrap();
        scene.assert_unmoved(epoch, 1).await;
        let dave = scene.server.client("dave").await;
        let refused = scene.bob.invite(&scene.group, &[dave.me().user.clone()]).await;
        assert!(refused.is_err(), "{refused:?}");
        scene.assert_unmoved(epoch, 0).await;

        scene.proxy.forward();
        scene.bob.sync().await.unwrap();
        assert!(scene.alice.receive().await.contains(&"anyone?".to_owned()));
        scene.assert_together().await;
    }
}

#[tokio::test]
async fn a_server_that_has_only_garbage_is_waited_for() {
    let lies: [fn(&mut Vec<Handshake>); 6] = [
        |told| {
            for handshake in told {
                handshake.message = Some(Base64Url(b"garbage".to_vec()));
            }
        },
        |told| {
            for handshake in told {
                flip(&mut handshake.message.as_mut().unwrap().0, 2 * MAC_BYTES + 10);
            }
        },
        |told| {
            for handshake in told {
                handshake.message.as_mut().unwrap().0.truncate(90);
            }
        },
        Vec::clear,
        // Always more, and never of this epoch.
        |told| {
            for (more, handshake) in told.iter_mut().enumerate() {
                handshake.epoch += 1 + more as u64;
            }
        },
        |told| told.reverse(),
    ];
    for (nth, lie) in lies.into_iter().enumerate() {
        let scene = Scene::set().await;
        let epoch = scene.bob.epoch(&scene.group).await;
        scene.invite("carol").await;
        scene.invite("dave").await;
        scene.proxy.rule(move |seen| {
            changed_in_inbox(seen, |bytes| flip(bytes, 2 * MAC_BYTES + 10))
                .or_else(|| changed_when_fetched(seen, lie))
                .unwrap_or(Action::Forward)
        });
        for _ in 0..3 {
            scene.bob.sync().await.unwrap();
        }
        scene.assert_unmoved(epoch, 1).await;
        let fetched = scene.proxy.seen("GET", "/commits").len();
        assert!((1..=8).contains(&fetched), "{nth}: {fetched}");
        assert_eq!(scene.bob.users(&scene.group).await, ["alice", "bob"]);
        scene.assert_together().await;
        assert_eq!(
            scene.bob.users(&scene.group).await,
            ["alice", "bob", "carol", "dave"]
        );
    }
}

#[tokio::test]
async fn a_history_without_end_is_not_fetched_without_end() {
    let scene = Scene::set().await;
    let epoch = scene.bob.epoch(&scene.group).await;
    scene.invite("carol").await;
    scene.proxy.rule(|seen| {
        if let Some((_, from)) = seen.path.split_once("/commits?from_epoch=") {
            // One for each question, which is never of the epoch that was asked about.
            let handshake = Handshake {
                seq: 1,
                epoch: from.parse::<u64>().unwrap() + 1,
                message: None,
            };
            let handshakes = vec![handshake];
            return Action::Answer(Answer::json(200, &Handshakes { handshakes }));
        }
        changed_in_inbox(seen, |bytes| flip(bytes, 2 * MAC_BYTES + 10)).unwrap_or(Action::Forward)
    });
    scene.bob.sync().await.unwrap();
    assert_eq!(scene.bob.epoch(&scene.group).await, epoch);
    scene.assert_together().await;
}

/// Says that the group was another one at the epoch that is asked about, or that there was none.
const OTHER_HISTORIES: [fn(&Seen) -> Option<Action>; 2] = [
    |seen| {
        seen.path.contains("/epochs/").then(|| {
            Action::rewrite_json(|answer: &mut EpochAnswer| {
                flip_last(&mut answer.confirmed_transcript_hash.0);
            })
        })
    },
    |seen| seen.path.contains("/epochs/").then(nothing),
];

fn nothing() -> Action {
    Action::Answer(Answer::problem(larder_wire::ProblemType::NotFound))
}

#[tokio::test]
async fn a_server_that_says_it_has_another_history_and_shows_that_it_has_not_is_followed() {
    for lie in OTHER_HISTORIES {
        let scene = Scene::set().await;
        scene.invite("carol").await;
        scene.invite("dave").await;
        scene.proxy.rule(move |seen| {
            let lied = changed_in_inbox(seen, garbage).or_else(|| lie(seen));
            lied.unwrap_or(Action::Forward)
        });
        scene.bob.sync().await.unwrap();
        assert_eq!(
            scene.bob.epoch(&scene.group).await,
            scene.alice.epoch(&scene.group).await
        );
        scene.assert_together().await;
    }
}

#[tokio::test]
async fn a_server_that_has_another_history_which_no_member_vouches_for_moves_nobody() {
    for lie in OTHER_HISTORIES {
        for is_described in [false, true] {
            let scene = Scene::set().await;
            let epoch = scene.bob.epoch(&scene.group).await;
            scene.invite("carol").await;
            scene.proxy.rule(move |seen| {
                if seen.is("GET", "/commits") || (!is_described && seen.is("GET", "/info")) {
                    return nothing();
                }
                if seen.is("GET", "/info") {
                    return Action::rewrite_json(|answer: &mut GroupInfoAnswer| {
                        flip_last(&mut answer.group_info.0);
                    });
                }
                let lied = changed_in_inbox(seen, garbage).or_else(|| lie(seen));
                lied.unwrap_or(Action::Forward)
            });
            for _ in 0..3 {
                scene.bob.sync().await.unwrap();
            }
            let summary = scene.bob.summary(&scene.group).await;
            assert_eq!((summary.state, summary.epoch), (GroupState::Active, epoch));
            let notices = scene.bob.told().await;
            assert_eq!(notices.len(), 1, "{notices:?}");
            scene.assert_together().await;
        }
    }
}

#[tokio::test]
async fn a_lie_about_the_history_of_a_group_costs_no_more_than_a_rejoin_that_a_member_vouches_for() {
    let scene = Scene::set().await;
    scene.invite("carol").await;
    scene.proxy.rule(|seen| {
        if seen.is("GET", "/commits") {
            return nothing();
        }
        let lied = changed_in_inbox(seen, garbage).or_else(|| OTHER_HISTORIES[0](seen));
        lied.unwrap_or(Action::Forward)
    });
    scene.bob.sync().await.unwrap();
    scene.proxy.forward();
    assert_eq!(scene.bob.summary(&scene.group).await.state, GroupState::Active);
    // The Commit that let carol in was not shown.
    let held = scene.bob.send(&scene.group, "to whom?").await;
    assert_eq!(held.unwrap_err().code(), "held");
    scene.bob.trust(&user("carol")).await.unwrap();
    scene.bob.take_unread().await;
    they_talk(&scene.alice, &scene.bob, &scene.group).await;
    they_talk(&scene.bob, &scene.alice, &scene.group).await;
}

#[tokio::test]
async fn a_commit_whose_proposal_was_exchanged_is_fetched_with_it() {
    let scene = Scene::set().await;
    let carol = scene.invite("carol").await;
    carol.sync().await.unwrap();
    they_talk(&scene.alice, &scene.bob, &scene.group).await;
    carol.sync().await.unwrap();
    carol.leave(&scene.group).await.unwrap();
    scene.proxy.lie("POST", "/v1/inbox/next", |inbox: &mut Inbox| {
        for row in inbox
            .rows
            .iter_mut()
            .filter(|row| row.kind == InboxKind::Proposal)
        {
            flip_last(&mut row.body.0);
        }
    });
    scene.alice.sync().await.unwrap();
    assert_eq!(scene.alice.users(&scene.group).await, ["alice", "bob"]);
    scene.bob.sync().await.unwrap();
    assert_eq!(scene.bob.users(&scene.group).await, ["alice", "bob"]);
    assert_eq!(scene.proxy.seen("GET", "/info").len(), 0);
    scene.assert_together().await;
}

/// A fetch that does not come through is made again: the row waits for it.
#[tokio::test]
async fn a_row_waits_until_the_server_can_be_asked() {
    for path in ["/epochs/", "/commits"] {
        let mut scene = Scene::set().await;
        scene.invite("carol").await;
        scene.proxy.rule(move |seen| {
            if seen.method == "GET" && seen.path.contains(path) {
                return Action::CutBefore;
            }
            changed_in_inbox(seen, garbage).unwrap_or(Action::Forward)
        });
        let epoch = scene.bob.epoch(&scene.group).await;
        support::assert_unreachable(scene.bob.sync().await);
        assert_eq!(scene.bob.epoch(&scene.group).await, epoch);
        scene.bob.restart().await;
        scene.assert_together().await;
        assert_eq!(scene.bob.users(&scene.group).await, ["alice", "bob", "carol"]);
    }
}

/// The GroupInfo of alice's group with another tag, signed with her key or as it was.
fn with_another_tag(alice: &Client, group: &GroupKey, signs: bool) -> Vec<u8> {
    with_state(alice, group, |provider, state, keys| {
        let info = state.export_group_info(provider.crypto(), keys, false).unwrap();
        let mut info = info.to_bytes().unwrap();
        // The tag is followed by the signer and the signature; what is signed follows the version and the kind of the message.
        let signed = info.len() - 2 - SIGNATURE_BYTES;
        info[signed - 4 - 1] ^= 1;
        if signs {
            let signature = keys.sign(&sign_with_label_content("GroupInfoTBS", &info[4..signed]));
            info[signed + 2..].copy_from_slice(&signature.unwrap());
        }
        info
    })
}

/// A Commit's tags are not signed. Only a GroupInfo tells a member who made them wrong from a server that did.
#[tokio::test]
async fn tags_that_do_not_fit_are_a_members_only_if_it_signed_them() {
    for (signs, has_lied) in [(true, false), (false, false), (true, true)] {
        let scene = Scene::set().await;
        let epoch = scene.bob.epoch(&scene.group).await;
        if has_lied {
            // A Commit that nobody can have made, at the same epoch.
            scene.alice.send(&scene.group, "swallowed").await.unwrap();
            let view = public_view(&scene.alice, &scene.group);
            let forged = external_commit(&view, (b"mallory/m-1", &new_keys()), None, &[]);
            deliver(
                &scene.proxy,
                InboxKind::Message,
                &scene.group,
                epoch,
                vec![forged],
            );
            scene.bob.sync().await.unwrap();
            assert_eq!(scene.bob.epoch(&scene.group).await, epoch);
        }
        scene.invite("carol").await;
        let info = with_another_tag(&scene.alice, &scene.group, signs);
        scene.proxy.rule(move |seen| {
            if seen.is("GET", "/info") {
                let info = info.clone();
                return Action::rewrite_json(|answer: &mut GroupInfoAnswer| answer.group_info.0 = info);
            }
            // The tag of the new epoch, before that of members.
            let tag = MAC_BYTES + 1 + 1;
            changed_in_inbox(seen, move |bytes| flip(bytes, tag))
                .or_else(|| {
                    changed_when_fetched(seen, move |told| {
                        for handshake in told {
                            flip(&mut handshake.message.as_mut().unwrap().0, tag);
                        }
                    })
                })
                .unwrap_or(Action::Forward)
        });
        let sent = scene.proxy.seen("POST", "/commits").len();
        scene.bob.sync().await.unwrap();
        let summary = scene.bob.summary(&scene.group).await;
        let comes_back = scene.proxy.seen("POST", "/commits").len() > sent;
        assert_eq!(comes_back, signs);
        if !signs {
            assert_eq!((summary.state, summary.epoch), (GroupState::Active, epoch));
        }
        scene.proxy.forward();
        they_talk(&scene.alice, &scene.bob, &scene.group).await;
        assert_eq!(scene.bob.users(&scene.group).await, ["alice", "bob", "carol"]);
    }
}
