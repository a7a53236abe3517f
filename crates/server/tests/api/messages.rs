//! Several messages in one request.

use larder_wire::{
    MESSAGE_BYTES_MAX, MESSAGES_MAX, MessageResult, MessagesSent, ProblemType, SENDER_WAITING_BYTES_MAX, Sent,
};

use crate::delivery::scene;
use crate::support::TestServer;

/// What became of messages: the numbers, or why not.
fn verdicts(sent: MessagesSent) -> Vec<Result<u64, ProblemType>> {
    let results = sent.results.into_iter().map(|result| match result {
        MessageResult::Accepted { seq } => Ok(seq),
        MessageResult::Refused { problem } => Err(problem.problem_type),
    });
    results.collect()
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("message {number}")).collect()
}

/// What the server counts as waiting is what waits.
async fn counts_are_right(server: &TestServer) {
    let count = async |sql| server.database.count(sql).await;
    let waiting =
        count("SELECT CAST(coalesce(sum(size), 0) AS bigint) FROM log WHERE kind = 2 AND gone IS NULL").await;
    assert_eq!(
        count("SELECT CAST(sum(waiting_bytes) AS bigint) FROM groups").await,
        waiting
    );
    assert_eq!(
        count("SELECT CAST(sum(waiting_bytes) AS bigint) FROM members").await,
        waiting
    );
    let rows = count("SELECT count(*) FROM log").await;
    assert_eq!(
        count("SELECT max(next_seq) - 1 FROM groups").await,
        rows,
        "no gaps"
    );
}

#[tokio::test]
async fn messages_of_one_request_arrive_in_its_order() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, mut bobs, gid) = scene(&server).await;
    let said = texts(MESSAGES_MAX);
    let messages: Vec<_> = said.iter().map(|text| alice.encrypt(&mut alices, text)).collect();
    let sent = verdicts(alice.post_messages(&gid, &messages).await.ok());
    let numbers: Vec<_> = (2..2 + MESSAGES_MAX as u64).map(Ok).collect();
    assert_eq!(sent, numbers, "the Commit was 1");
    // Sent again, they are where they were.
    assert_eq!(verdicts(alice.post_messages(&gid, &messages).await.ok()), numbers);
    assert_eq!(bob.catch_up(&mut bobs).await, said);
    counts_are_right(&server).await;
}

#[tokio::test]
async fn a_request_has_one_message_at_least_and_not_more_than_its_bound() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, _, gid) = scene(&server).await;
    let messages: Vec<_> = texts(MESSAGES_MAX + 1)
        .iter()
        .map(|text| alice.encrypt(&mut alices, text))
        .collect();
    for count in [0, MESSAGES_MAX + 1] {
        let answer = alice.post_messages(&gid, &messages[..count]).await;
        answer.refused(ProblemType::Malformed);
    }
    // Whoever is no member learns nothing about it.
    let mallory = server.device("mallory").await;
    for count in [0, 2, MESSAGES_MAX + 1] {
        let answer = mallory.post_messages(&gid, &messages[..count]).await;
        answer.refused(ProblemType::NotFound);
    }
    assert!(bob.inbox().await.is_empty());
}

#[tokio::test]
async fn each_message_of_a_request_has_its_own_verdict() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, mut bobs, gid) = scene(&server).await;
    let too_late = alice.encrypt(&mut alices, "too late");
    for _ in 0..2 {
        let update = alice.stage_update(&mut alices);
        alice.commit(&mut alices, &update).await;
    }
    bob.catch_up(&mut bobs).await;
    let bobs_own = bob.encrypt(&mut bobs, "of bob");
    let of_bob = verdicts(
        bob.post_messages(&gid, std::slice::from_ref(&bobs_own))
            .await
            .ok(),
    );
    let known = alice.encrypt(&mut alices, "known");
    alice.post_message(&gid, &known).await.ok::<Sent>();
    let (one, two) = (
        alice.encrypt(&mut alices, "one"),
        alice.encrypt(&mut alices, "two"),
    );
    let large = vec![0; MESSAGE_BYTES_MAX + 1];
    let messages = [
        b"garbage".to_vec(),
        one.clone(),
        too_late,
        known,
        bobs_own,
        large,
        one,
        two,
        vec![],
    ];
    assert_eq!(of_bob, [Ok(4)]);
    let expected = [
        Err(ProblemType::Malformed),
        Ok(6),
        Err(ProblemType::WrongEpoch),
        Ok(5),
        Err(ProblemType::Forbidden),
        Err(ProblemType::TooLarge),
        Ok(6),
        Ok(7),
        Err(ProblemType::Malformed),
    ];
    for _ in 0..2 {
        let sent = alice.post_messages(&gid, &messages).await;
        assert_eq!(verdicts(sent.ok()), expected);
        counts_are_right(&server).await;
    }
    assert_eq!(bob.catch_up(&mut bobs).await, ["known", "one", "two"]);
}

/// What comes behind would be read before it.
#[tokio::test]
async fn behind_a_message_that_there_is_no_room_for_nothing_is_taken() {
    let server = TestServer::unswept().await;
    let (alice, mut alices, bob, _, gid) = scene(&server).await;
    let (large, small) = ("x".repeat(60_000), "small");
    let mut waiting = 0;
    let (cut, messages) = loop {
        let mut messages: Vec<_> = (0..MESSAGES_MAX - 1)
            .map(|_| alice.encrypt(&mut alices, &large))
            .collect();
        messages.push(alice.encrypt(&mut alices, small));
        let sent = verdicts(alice.post_messages(&gid, &messages).await.ok());
        counts_are_right(&server).await;
        match sent.iter().position(Result::is_err) {
            None => waiting += messages.iter().map(Vec::len).sum::<usize>(),
            Some(cut) => {
                waiting += messages[..cut].iter().map(Vec::len).sum::<usize>();
                assert!(
                    sent[cut..]
                        .iter()
                        .all(|verdict| *verdict == Err(ProblemType::RateLimited))
                );
                break (cut, messages);
            }
        }
    };
    let room = SENDER_WAITING_BYTES_MAX as usize - waiting;
    assert!(room < messages[cut].len(), "{room}");
    // The rest by itself is refused as a whole, with nothing done.
    let rest = &messages[cut..];
    alice
        .post_messages(&gid, rest)
        .await
        .refused(ProblemType::RateLimited);
    let again = verdicts(alice.post_messages(&gid, &messages).await.ok());
    assert_eq!(again.iter().filter(|verdict| verdict.is_ok()).count(), cut);
    // Once everybody has read, it fits.
    for device in [&alice, &bob] {
        while let Some(last) = device.every_row().await.last() {
            device.ack(last).await;
        }
    }
    let sent = verdicts(alice.post_messages(&gid, rest).await.ok());
    assert!(sent.iter().all(Result::is_ok), "{sent:?}");
    counts_are_right(&server).await;
}
