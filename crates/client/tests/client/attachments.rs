//! Files: they arrive as they were, whole or not at all, however often something is cut, and nothing of them is readable on the
//! way.

use std::path::Path;

use crate::support::{self, Action, Answer, Client, Proxy, TestServer, catch_up, count_rows, user};
use larder_client::{ATTACHMENT_BYTES_MAX, Error, GroupKey, Message, MessageKind, SendStatus};
use larder_wire::ProblemType;

const BLOBS: &str = "/v1/blobs";
const ANY: &str = "application/octet-stream";

fn content(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from((at * 7 + at / 256) % 256).unwrap())
        .collect()
}

/// Syncs, and returns the unread files.
async fn files(client: &Client) -> Vec<Message> {
    client.sync().await.unwrap();
    let unread = client.take_unread().await.into_iter();
    unread
        .filter(|message| message.kind == MessageKind::Attachment)
        .collect()
}

async fn only_file(client: &Client) -> Message {
    let mut files = files(client).await;
    assert_eq!(files.len(), 1);
    files.remove(0)
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn uploads(client: &Client) -> i64 {
    count_rows(client.directory.path(), "SELECT count(*) FROM uploads")
}

async fn status_of(client: &Client, group: &GroupKey) -> SendStatus {
    let history = client.history(group, 50).await.unwrap();
    let mut files = history
        .iter()
        .filter(|message| message.kind == MessageKind::Attachment);
    files.next_back().unwrap().status
}

/// Does this to requests for blobs, both ways.
fn to_blobs(proxy: &Proxy, method: &'static str, mut action: impl FnMut() -> Action + Send + 'static) {
    proxy.rule(move |seen| {
        if seen.method == method && seen.path.starts_with(BLOBS) {
            action()
        } else {
            Action::Forward
        }
    });
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_and_touches_no_other() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    for length in [0, 1, 300_000] {
        let bytes = content(length);
        let sent = alice
            .attach(&group, "report.pdf", "application/pdf", bytes.clone())
            .await
            .unwrap();
        assert_eq!(sent.status, SendStatus::Sent);
        assert_eq!(uploads(&alice), 0, "what the server has is erased here");
        let message = only_file(&bob).await;
        assert_eq!((&message.id, message.mine), (&sent.id, false));
        let told = bob.attachment(message.row).await.unwrap().unwrap();
        assert_eq!(
            (told.name.as_str(), told.size, told.media_type.as_str()),
            ("report.pdf", length as u64, "application/pdf")
        );
        assert!(told.expires_at.is_some() && !told.is_expired);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("report.pdf"), "mine").unwrap();
        let saved = bob
            .save_attachment(message.row, directory.path(), None)
            .await
            .unwrap();
        assert_eq!(saved, directory.path().join("report (2).pdf"));
        assert!(std::fs::read(&saved).unwrap() == bytes);
        let again = bob
            .save_attachment(message.row, directory.path(), Some("other name.pdf"))
            .await
            .unwrap();
        assert!(std::fs::read(again).unwrap() == bytes);
        assert_eq!(
            std::fs::read(directory.path().join("report.pdf")).unwrap(),
            b"mine"
        );
        assert_eq!(
            entries(directory.path()),
            ["other name.pdf", "report (2).pdf", "report.pdf"]
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&saved).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
    assert_eq!(
        alice.history(&group, 1).await.unwrap()[0].text,
        "report.pdf, 293 KiB"
    );
    // Whoever sent it can have it, too.
    let own = alice.history(&group, 1).await.unwrap()[0].row;
    let directory = tempfile::tempdir().unwrap();
    let saved = alice.save_attachment(own, directory.path(), None).await.unwrap();
    assert!(std::fs::read(saved).unwrap() == content(300_000));
    let found = bob.search("REPORT", None, 9).await.unwrap();
    assert_eq!(found.len(), 3, "a file is found by its name");
}

#[tokio::test]
async fn an_upload_that_was_cut_is_resumed_by_the_next_sync_with_the_same_bytes_and_stored_once() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    for cut in [Proxy::cut_after, Proxy::cut_before] {
        let before = proxy.seen("POST", BLOBS).len();
        cut(&proxy, "POST", BLOBS);
        let sent = alice.attach(&group, "a.txt", ANY, content(5000)).await.unwrap();
        assert_eq!(sent.status, SendStatus::Pending);
        // Other messages do not wait for it.
        assert_eq!(
            alice.send(&group, "meanwhile").await.unwrap().status,
            SendStatus::Sent
        );
        assert_eq!(bob.receive().await, ["meanwhile"]);
        alice.restart().await;
        alice.sync().await.unwrap();
        assert!(files(&bob).await.is_empty());
        proxy.forward();
        alice.sync().await.unwrap();
        assert_eq!(status_of(&alice, &group).await, SendStatus::Sent);
        let message = only_file(&bob).await;
        assert_eq!(message.id, sent.id);
        let requests = &proxy.seen("POST", BLOBS)[before..];
        assert!(requests.len() > 2);
        for request in requests {
            assert!(request.repeats(&requests[0]));
        }
        let directory = tempfile::tempdir().unwrap();
        let saved = bob
            .save_attachment(message.row, directory.path(), None)
            .await
            .unwrap();
        assert!(std::fs::read(saved).unwrap() == content(5000));
        assert_eq!(uploads(&alice), 0);
    }
    let stored = server.backup();
    let database = rusqlite::Connection::open(stored.path().join("server.db")).unwrap();
    let blobs: i64 = database
        .query_row("SELECT count(*) FROM blobs", [], |row| row.get(0))
        .unwrap();
    assert_eq!(blobs, 2);
}

#[tokio::test]
async fn a_file_whose_message_was_cut_is_told_of_once() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    for cut in [Proxy::cut_after, Proxy::cut_before] {
        cut(&proxy, "POST", "/messages");
        let sent = alice.attach(&group, "a.txt", ANY, content(9)).await.unwrap();
        assert_eq!(sent.status, SendStatus::Pending);
        let stored = proxy.seen("POST", BLOBS).len();
        alice.restart().await;
        proxy.forward();
        alice.sync().await.unwrap();
        assert_eq!(only_file(&bob).await.id, sent.id);
        assert_eq!(proxy.seen("POST", BLOBS).len(), stored, "it is there already");
    }
}

#[tokio::test]
async fn a_download_that_was_cut_leaves_nothing_and_can_be_repeated() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    alice.attach(&group, "a.bin", ANY, content(70_000)).await.unwrap();
    let row = only_file(&bob).await.row;
    let directory = tempfile::tempdir().unwrap();
    for cut in [|| Action::CutBefore, || Action::CutAfter] {
        to_blobs(&proxy, "GET", cut);
        let failed = bob.save_attachment(row, directory.path(), None).await;
        assert!(matches!(failed, Err(Error::Unreachable(_))), "{failed:?}");
        assert!(entries(directory.path()).is_empty());
    }
    // Once only: the client asks again by itself.
    let mut cuts = 1;
    to_blobs(&proxy, "GET", move || {
        cuts -= 1;
        if cuts == 0 {
            Action::CutAfter
        } else {
            Action::Forward
        }
    });
    let saved = bob.save_attachment(row, directory.path(), None).await.unwrap();
    assert!(std::fs::read(saved).unwrap() == content(70_000));
}

#[tokio::test]
async fn what_is_not_what_was_sent_is_not_saved() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    alice.attach(&group, "a.bin", ANY, content(70_000)).await.unwrap();
    alice.attach(&group, "b.bin", ANY, content(71_000)).await.unwrap();
    let rows: Vec<i64> = files(&bob).await.iter().map(|message| message.row).collect();
    let directory = tempfile::tempdir().unwrap();
    let spoils: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes[0] ^= 1,
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        |bytes| bytes.truncate(bytes.len() - 1),
        Vec::clear,
        |bytes| bytes.resize(bytes.len() * 2, 0),
    ];
    for spoil in spoils {
        to_blobs(&proxy, "GET", move || {
            Action::rewrite_body(move |mut body| {
                spoil(&mut body);
                body
            })
        });
        let refused = bob.save_attachment(rows[0], directory.path(), None).await;
        assert!(matches!(refused, Err(Error::AttachmentDamaged)), "{refused:?}");
    }
    // Another file of the same sender is not this one either, nor is this one's key good for a wrong hash.
    proxy.forward();
    bob.save_attachment(rows[1], directory.path(), None)
        .await
        .unwrap();
    let database = rusqlite::Connection::open(bob.directory.path().join("larder.db")).unwrap();
    for sql in [
        "UPDATE attachments SET blob_id = (SELECT blob_id FROM attachments WHERE row = ?2) WHERE row = ?1",
        "UPDATE attachments SET sha256 = (SELECT sha256 FROM attachments WHERE row = ?1) WHERE row = ?2",
    ] {
        database.execute(sql, (rows[0], rows[1])).unwrap();
    }
    for row in rows {
        let refused = bob.save_attachment(row, directory.path(), None).await;
        assert!(matches!(refused, Err(Error::AttachmentDamaged)), "{refused:?}");
    }
    assert_eq!(entries(directory.path()), ["b.bin"]);
}

#[tokio::test]
async fn no_name_leads_out_of_the_directory_and_no_link_is_followed() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    alice
        .attach(&group, "../../.\u{202e}bashrc", ANY, content(9))
        .await
        .unwrap();
    let message = only_file(&bob).await;
    assert_eq!(message.text, "bashrc, 9 bytes");
    let around = tempfile::tempdir().unwrap();
    let directory = around.path().join("inside");
    std::fs::create_dir(&directory).unwrap();
    let victim = around.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&victim, directory.join("bashrc")).unwrap();
        std::os::unix::fs::symlink(around.path().join("dangling"), directory.join("bashrc (2)")).unwrap();
        let saved = bob.save_attachment(message.row, &directory, None).await.unwrap();
        assert_eq!(saved, directory.join("bashrc (3)"));
    }
    for name in ["../victim", "/victim", "..", r"..\victim", "\u{0}"] {
        let saved = bob
            .save_attachment(message.row, &directory, Some(name))
            .await
            .unwrap();
        assert_eq!(saved.parent().unwrap(), directory, "{name:?}");
    }
    assert_eq!(entries(around.path()), ["inside", "victim"]);
    assert_eq!(std::fs::read(victim).unwrap(), b"precious");
    let nowhere = bob
        .save_attachment(message.row, &around.path().join("no"), None)
        .await;
    assert!(matches!(nowhere, Err(Error::File(_))), "{nowhere:?}");
}

#[tokio::test]
async fn a_file_that_the_server_refuses_has_failed_and_can_be_sent_again() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    to_blobs(&proxy, "POST", || {
        Action::Answer(Answer::problem(ProblemType::TooLarge))
    });
    let refused = alice.attach(&group, "a.txt", ANY, content(9)).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert_eq!(status_of(&alice, &group).await, SendStatus::Failed);
    let tried = proxy.seen("POST", BLOBS).len();
    alice.sync().await.unwrap();
    assert_eq!(proxy.seen("POST", BLOBS).len(), tried, "not without being asked");
    // Before it is at the server it can be had from here.
    let own = alice.history(&group, 1).await.unwrap().remove(0);
    let directory = tempfile::tempdir().unwrap();
    let saved = alice
        .save_attachment(own.row, directory.path(), None)
        .await
        .unwrap();
    assert!(std::fs::read(saved).unwrap() == content(9));
    proxy.forward();
    assert_eq!(alice.retry(&group).await.unwrap(), 1);
    assert_eq!(status_of(&alice, &group).await, SendStatus::Sent);
    assert_eq!(only_file(&bob).await.id, own.id);
    assert_eq!(alice.retry(&group).await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_too_large_is_not_even_begun() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let group = alice.group_with(&[]).await;
    let fits = vec![7; 16 << 20];
    assert_eq!(
        alice.attach(&group, "fits", ANY, fits).await.unwrap().status,
        SendStatus::Sent
    );
    for bytes in [(16 << 20) + 1, usize::try_from(ATTACHMENT_BYTES_MAX).unwrap() + 1] {
        let refused = alice.attach(&group, "large", ANY, vec![7; bytes]).await;
        assert!(
            matches!(refused, Err(Error::AttachmentTooLarge { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(uploads(&alice), 0);
    let unknown = alice.save_attachment(99, Path::new("."), None).await;
    assert!(matches!(unknown, Err(Error::UnknownAttachment)), "{unknown:?}");
}

#[tokio::test]
async fn a_file_that_the_server_does_not_have_any_more_is_gone() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    alice.attach(&group, "a.txt", ANY, content(9)).await.unwrap();
    let row = only_file(&bob).await.row;
    server.sweep_after(31 * 86_400).await;
    let directory = tempfile::tempdir().unwrap();
    let gone = bob.save_attachment(row, directory.path(), None).await;
    assert!(matches!(gone, Err(Error::AttachmentGone)), "{gone:?}");
    assert!(!bob.attachment(row).await.unwrap().unwrap().is_expired);
    bob.pass(31 * 86_400);
    assert!(bob.attachment(row).await.unwrap().unwrap().is_expired);
}

#[tokio::test]
async fn a_file_on_its_way_to_a_group_that_was_left_has_failed_and_is_erased() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    proxy.cut_before("POST", BLOBS);
    alice.attach(&group, "a.txt", ANY, content(9)).await.unwrap();
    assert_eq!(uploads(&alice), 1);
    bob.remove(&group, &user("alice")).await.unwrap();
    alice.sync().await.unwrap();
    assert_eq!(status_of(&alice, &group).await, SendStatus::Failed);
    assert_eq!(uploads(&alice), 0);
}

#[tokio::test]
async fn a_file_for_a_group_that_has_to_be_rejoined_first_is_told_of_afterwards() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bob, carol) = (server.client("bob").await, server.client("carol").await);
    let group = alice.group_with(&[&bob]).await;
    proxy.cut_before("POST", BLOBS);
    let sent = alice.attach(&group, "a.txt", ANY, content(9)).await.unwrap();
    bob.invite(&group, &[user("carol")]).await.unwrap();
    support::tamper_inbox(&proxy, larder_wire::InboxKind::Commit, support::flip_last);
    alice.sync().await.unwrap();
    proxy.forward();
    catch_up(&[&alice, &bob, &carol]).await;
    assert_eq!(only_file(&bob).await.id, sent.id);
    assert_eq!(only_file(&carol).await.id, sent.id);
}

#[tokio::test]
async fn a_declined_invitation_leaves_no_key_of_a_file_behind() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await.asked().await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    alice.attach(&group, "a.txt", ANY, content(9)).await.unwrap();
    bob.sync().await.unwrap();
    let keys = "SELECT count(*) FROM attachments";
    assert_eq!(count_rows(bob.directory.path(), keys), 1);
    bob.decline(&group).await.unwrap();
    catch_up(&[&alice, &bob]).await;
    assert_eq!(count_rows(bob.directory.path(), keys), 0);
}

#[tokio::test]
async fn the_server_has_neither_the_file_nor_its_name_type_or_key() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    let canary = b"canary-of-the-content".repeat(400);
    alice
        .attach(&group, "canary-name.txt", "canary/type", canary.clone())
        .await
        .unwrap();
    let database = rusqlite::Connection::open(alice.directory.path().join("larder.db")).unwrap();
    let (key, blob): (Vec<u8>, Vec<u8>) = database
        .query_row("SELECT key, blob_id FROM attachments", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let stored = std::fs::read(server.backup().path().join("server.db")).unwrap();
    let has = |needle: &[u8]| stored.windows(needle.len()).any(|window| window == needle);
    assert!(has(&blob), "the search works");
    for secret in [&b"canary"[..], &key] {
        assert!(!has(secret));
    }
    // What it sees is a padded size.
    let backup = server.backup();
    let database = rusqlite::Connection::open(backup.path().join("server.db")).unwrap();
    let size: usize = database
        .query_row("SELECT size FROM blobs", [], |row| row.get(0))
        .unwrap();
    assert!(size > canary.len() + 16 && size < canary.len() * 113 / 100);
}
