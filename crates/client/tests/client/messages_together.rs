//! Messages that wait go out together, in their order, and each comes to what it would have come to alone.

use crate::support::{Action, Client, Proxy, TestServer, assert_unreachable, user};
use larder_client::{Error, GroupKey, SendStatus};
use larder_wire::{MESSAGES_MAX, MessageResult, MessagesRequest, MessagesSent, Problem, ProblemType};

/// The sizes of the requests with messages, in messages.
fn requests(proxy: &Proxy) -> Vec<usize> {
    let seen = proxy.seen("POST", "/messages").into_iter().map(|request| {
        let request: MessagesRequest = serde_json::from_slice(&request.body).unwrap();
        request.messages.len()
    });
    seen.collect()
}

/// Alice behind a proxy and Bob in a group, and as many texts as she has posted and not sent.
async fn scene(posted: usize) -> (TestServer, Client, Proxy, Client, GroupKey, Vec<String>) {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    bob.sync().await.unwrap();
    let texts: Vec<String> = (0..posted).map(|number| format!("message {number}")).collect();
    for text in &texts {
        alice.post(&group, text).await.unwrap();
    }
    (server, alice, proxy, bob, group, texts)
}

#[tokio::test]
async fn what_waits_for_a_group_goes_out_in_as_few_requests_as_hold_it() {
    let (_server, alice, proxy, bob, _, texts) = scene(MESSAGES_MAX + 3).await;
    let before = requests(&proxy).len();
    alice.sync().await.unwrap();
    assert_eq!(requests(&proxy)[before..], [MESSAGES_MAX, 3]);
    assert_eq!(bob.receive().await, texts);
    assert!(alice.rows_that_are(SendStatus::Pending).await.is_empty());
}

#[tokio::test]
async fn what_is_large_goes_out_in_several_requests() {
    let (_server, alice, proxy, bob, group, _) = scene(0).await;
    let large = "x".repeat(32 * 1024);
    for _ in 0..12 {
        alice.post(&group, &large).await.unwrap();
    }
    let before = requests(&proxy).len();
    alice.sync().await.unwrap();
    let sizes = &requests(&proxy)[before..];
    assert!(sizes.len() > 1 && sizes.iter().sum::<usize>() == 12, "{sizes:?}");
    assert_eq!(bob.receive().await.len(), 12);
}

#[tokio::test]
async fn only_messages_to_one_group_go_out_together_and_a_commit_among_them_keeps_its_place() {
    let (server, alice, proxy, bob, group, _) = scene(0).await;
    let other = alice.group_with(&[&bob]).await;
    bob.sync().await.unwrap();
    for text in ["one", "two"] {
        alice.post(&group, text).await.unwrap();
    }
    alice.post(&other, "elsewhere").await.unwrap();
    alice.post(&group, "three").await.unwrap();
    let before = requests(&proxy).len();
    alice.sync().await.unwrap();
    assert_eq!(requests(&proxy)[before..], [3, 1]);
    assert_eq!(bob.receive().await.len(), 4);

    // Behind a Commit a message is made at the epoch that it leads to.
    let carol = server.client("carol").await;
    alice.post(&group, "before carol").await.unwrap();
    proxy.cut_before("POST", "/commits");
    assert_unreachable(alice.invite(&group, &[user("carol")]).await);
    alice.post(&group, "with carol").await.unwrap();
    proxy.forward();
    alice.sync().await.unwrap();
    assert_eq!(carol.receive().await, ["with carol"]);
}

#[tokio::test]
async fn messages_whose_answer_was_lost_arrive_once() {
    let (_server, alice, proxy, bob, group, mut texts) = scene(5).await;
    proxy.cut_after("POST", "/messages");
    assert_unreachable(alice.sync().await);
    assert_eq!(alice.rows_that_are(SendStatus::Pending).await.len(), 5);
    // What is written meanwhile goes with them.
    alice.post(&group, "more").await.unwrap();
    texts.push("more".to_owned());
    proxy.forward();
    let before = requests(&proxy).len();
    alice.sync().await.unwrap();
    assert_eq!(requests(&proxy)[before..], [6]);
    assert_eq!(bob.receive().await, texts);
}

/// What the server said of each message, changed.
fn results(proxy: &Proxy, change: impl FnOnce(&mut Vec<MessageResult>) + Send + 'static) {
    let mut change = Some(change);
    proxy.rule_for("POST", "/messages", move |_| match change.take() {
        Some(change) => Action::rewrite_json::<MessagesSent>(move |sent| change(&mut sent.results)),
        None => Action::Forward,
    });
}

fn refused(problem_type: ProblemType) -> MessageResult {
    MessageResult::Refused {
        problem: Problem::new(problem_type),
    }
}

#[tokio::test]
async fn one_message_that_is_refused_fails_and_the_others_do_not() {
    let (_server, alice, proxy, _bob, _, _) = scene(4).await;
    results(&proxy, |results| results[2] = refused(ProblemType::TooLarge));
    let rows = alice.rows_that_are(SendStatus::Pending).await;
    alice.sync().await.unwrap();
    let mut statuses = Vec::new();
    for row in rows {
        statuses.push(alice.message(row).await.unwrap().unwrap().status);
    }
    let (sent, failed) = (SendStatus::Sent, SendStatus::Failed);
    assert_eq!(statuses, [sent, sent, failed, sent]);
}

#[tokio::test]
async fn what_there_is_no_room_for_yet_waits_in_its_order() {
    let (_server, alice, proxy, bob, _, texts) = scene(4).await;
    results(&proxy, |results| {
        results[1..].fill(refused(ProblemType::RateLimited));
    });
    let refused = alice.sync().await;
    assert!(
        matches!(&refused, Err(Error::Refused(problem)) if problem.problem_type == ProblemType::RateLimited),
        "{refused:?}"
    );
    assert_eq!(alice.rows_that_are(SendStatus::Pending).await.len(), 3);
    alice.sync().await.unwrap();
    assert!(alice.rows_that_are(SendStatus::Pending).await.is_empty());
    assert_eq!(bob.receive().await, texts);
}

/// T8: an answer that does not say what became of each message says nothing.
#[tokio::test]
async fn an_answer_with_too_few_or_too_many_results_is_none() {
    let (_server, alice, proxy, bob, _, texts) = scene(3).await;
    for count in [0, 2, 4] {
        results(&proxy, move |results| {
            results.resize(count, MessageResult::Accepted { seq: 9 });
        });
        assert!(matches!(alice.sync().await, Err(Error::NotTheServer(_))));
        assert_eq!(alice.rows_that_are(SendStatus::Pending).await.len(), 3, "{count}");
    }
    alice.sync().await.unwrap();
    assert_eq!(bob.receive().await, texts);
}
