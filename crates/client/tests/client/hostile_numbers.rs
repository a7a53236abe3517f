//! A server that lies about numbers, once: it costs one error and one notice at most, and then everything works.

use std::time::Duration;

use crate::support::{Action, Answer, Client, Proxy, TestServer, catch_up, count_rows, they_talk, user};
use larder_client::{GroupKey, Heard, Listening, MessageKind};
use larder_wire::{
    Base64Url, GROUPS_PER_DEVICE_MAX, Gone, GroupId, Inbox, InboxKind, InboxRow, Inventory, NextRequest,
    Position, Problem, Session, StateMark,
};

/// The largest number that a database has.
const LARGEST: u64 = i64::MAX as u64;
const POOL: u32 = 4;

/// What is said of a row that is not so.
struct Lie {
    name: &'static str,
    change: fn(&mut InboxRow),
    /// Whether what the row says is lost by it: the server has kept it from us, whatever its number is.
    loses: bool,
}

const fn lie(name: &'static str, change: fn(&mut InboxRow)) -> Lie {
    Lie {
        name,
        change,
        loses: false,
    }
}

/// One for each number of a row.
const LIES: &[Lie] = &[
    lie("seq: the largest", |row| row.seq = LARGEST),
    lie("seq: beyond the largest", |row| row.seq = u64::MAX),
    lie("seq: the next one", |row| row.seq += 1),
    lie("seq: the one before", |row| row.seq -= 1),
    lie("seq: the first", |row| row.seq = 1),
    lie("seq: none", |row| row.seq = 0),
    lie("seq and first: up to the largest", |row| {
        row.first = Some(row.first.unwrap_or(row.seq));
        row.seq = LARGEST;
    }),
    lie("seq and first: beyond the head", |row| {
        row.first = Some(row.first.unwrap_or(row.seq));
        row.seq += 7;
    }),
    lie("first: none", |row| row.first = Some(0)),
    lie("first: the first", |row| row.first = Some(1)),
    lie("first: after seq", |row| row.first = Some(row.seq + 5)),
    lie("first: the largest", |row| row.first = Some(u64::MAX)),
    lie("epoch: none", |row| row.epoch = None),
    lie("epoch: the first", |row| row.epoch = Some(0)),
    lie("epoch: the largest", |row| row.epoch = Some(u64::MAX)),
    lie("received_at: the largest", |row| row.received_at = u64::MAX),
];

/// The same of rows whose body is gone, as the server says.
const GONE_LIES: &[Lie] = &[
    lie("gone", be_gone),
    lie("gone, seq: the largest", |row| {
        be_gone(row);
        row.seq = LARGEST;
    }),
    lie("gone, first: the largest", |row| {
        be_gone(row);
        row.first = Some(u64::MAX);
    }),
    lie("gone, epoch: the largest", |row| {
        be_gone(row);
        row.epoch = Some(u64::MAX);
    }),
    lie("gone, epoch: none", |row| {
        be_gone(row);
        row.epoch = None;
    }),
];

fn be_gone(row: &mut InboxRow) {
    row.gone = Some(Gone::Age);
    row.body = Base64Url::default();
}

/// Tells a lie about the first row of this kind that the inbox brings of the group; then the server is honest.
fn lie_once(proxy: &Proxy, group: &GroupKey, kind: InboxKind, change: fn(&mut InboxRow)) {
    let (group, mut lies) = (group.clone(), Some(change));
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        let mut rows = inbox.rows.iter_mut();
        if let Some(row) = rows.find(|row| row.kind == kind && row.group_id.as_ref() == Some(&group))
            && let Some(change) = lies.take()
        {
            change(row);
        }
    });
}

/// The same of the stream.
fn lie_once_in_events(proxy: &Proxy, group: &GroupKey, kind: InboxKind, change: fn(&mut InboxRow)) {
    let (group, mut lies) = (group.clone(), Some(change));
    proxy.lie_in_events(move |mut row| {
        if row.kind == kind
            && row.group_id.as_ref() == Some(&group)
            && let Some(change) = lies.take()
        {
            change(&mut row);
        }
        vec![row]
    });
}

/// What was said to somebody, and of how many things they were told.
async fn heard(client: &Client) -> (Vec<String>, Vec<String>) {
    let (mut texts, mut notices) = (Vec::new(), Vec::new());
    for message in client.take_unread().await {
        match message.kind {
            MessageKind::Text => texts.push(message.text),
            MessageKind::Notice => notices.push(message.text),
            _ => {}
        }
    }
    (texts, notices)
}

/// Syncs until nothing can be left; how often it failed.
async fn errors_of_syncs(client: &Client) -> Vec<&'static str> {
    let mut errors = Vec::new();
    for _ in 0..4 {
        errors.extend(client.sync().await.err().map(|error| error.code()));
    }
    errors
}

async fn pair(server: &TestServer) -> (Client, Client, Proxy) {
    let alice = server.client_with_pool_of("alice", POOL).await;
    let (bob, proxy) = server.proxied_with_pool_of("bob", POOL).await;
    (alice, bob, proxy)
}

/// Follows a stream as a program does: what fails, or has more to it, is left to a sync.
struct Follower<'c> {
    client: &'c Client,
    listening: Option<Listening>,
    errors: Vec<&'static str>,
}

impl<'c> Follower<'c> {
    async fn start(client: &'c Client) -> Self {
        client.sync().await.unwrap();
        Self {
            client,
            listening: Some(client.listen().await.unwrap()),
            errors: Vec::new(),
        }
    }

    async fn step(&mut self) {
        let heard = match &mut self.listening {
            Some(listening) => listening.next(Duration::from_millis(500)).await,
            None => {
                self.listening = Some(self.client.listen().await.unwrap());
                return;
            }
        };
        match heard {
            Ok(Heard::Nothing | Heard::Messages) => return,
            Ok(Heard::More) => {}
            Ok(_) => self.listening = None,
            Err(error) => {
                self.errors.push(error.code());
                self.listening = None;
            }
        }
        let synced = self.client.sync().await;
        self.errors.extend(synced.err().map(|error| error.code()));
    }

    /// Goes on until this is heard; what was heard before it, and the notices.
    async fn until(&mut self, text: &str) -> (Vec<String>, Vec<String>) {
        let (mut texts, mut notices) = (Vec::new(), Vec::new());
        for _ in 0..30 {
            self.step().await;
            let (new, told) = heard(self.client).await;
            texts.extend(new);
            notices.extend(told);
            if texts.last().is_some_and(|last| last == text) {
                return (texts, notices);
            }
        }
        panic!(
            "deaf: {text:?} never came, only {texts:?}, {notices:?}, {:?}",
            self.errors
        );
    }
}

async fn a_lie_about_a_row_costs_little(
    (alice, bob, proxy): (&Client, &Client, &Proxy),
    kind: InboxKind,
    lie: &Lie,
) {
    let name = lie.name;
    let group = alice.group_with(&[bob]).await;
    catch_up(&[alice, bob]).await;
    heard(bob).await;
    lie_once(proxy, &group, kind, lie.change);
    alice.send(&group, "one").await.unwrap();
    bob.send(&group, "mine").await.unwrap();
    alice.send(&group, "two").await.unwrap();
    let errors = errors_of_syncs(bob).await;
    proxy.forward();
    assert!(errors.len() <= 1, "{kind:?}, {name}: {errors:?}");
    let (texts, notices) = heard(bob).await;
    assert!(notices.len() <= 1, "{kind:?}, {name}: {notices:?}");
    let mut sorted = texts.clone();
    sorted.sort();
    let lost = usize::from(lie.loses);
    assert_eq!(sorted[..], ["one", "two"][lost..], "{kind:?}, {name}");
    they_talk(alice, bob, &group).await;
    let (_, notices) = heard(bob).await;
    assert_eq!(notices.len(), 0, "{kind:?}, {name}: {notices:?}");
}

#[tokio::test]
async fn a_lie_about_the_number_of_a_message_costs_one_error_and_one_notice() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    for lie in LIES {
        a_lie_about_a_row_costs_little((&alice, &bob, &proxy), InboxKind::Message, lie).await;
    }
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn a_lie_about_the_number_of_passed_rows_costs_one_error_and_one_notice() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    for lie in LIES {
        a_lie_about_a_row_costs_little((&alice, &bob, &proxy), InboxKind::Passed, lie).await;
    }
}

#[tokio::test]
async fn a_lie_about_the_number_of_what_is_gone_costs_one_error_and_one_notice() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    for lie in GONE_LIES {
        let name = lie.name;
        let group = alice.group_with(&[&bob]).await;
        catch_up(&[&alice, &bob]).await;
        heard(&bob).await;
        lie_once(&proxy, &group, InboxKind::Message, lie.change);
        alice.send(&group, "gone").await.unwrap();
        let errors = errors_of_syncs(&bob).await;
        proxy.forward();
        assert!(errors.len() <= 1, "{name}: {errors:?}");
        let (_, notices) = heard(&bob).await;
        // That something is gone is told, too.
        assert!(notices.len() <= 2, "{name}: {notices:?}");
        they_talk(&alice, &bob, &group).await;
    }
}

#[tokio::test]
async fn a_lie_about_the_number_of_a_welcome_costs_one_error_and_one_notice() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    let gone = lie("gone", |row| row.gone = Some(Gone::Age));
    for lie in LIES.iter().chain([&gone]) {
        let name = lie.name;
        let group = alice.create_group("lunch").await.unwrap().id;
        lie_once(&proxy, &group, InboxKind::Welcome, lie.change);
        alice.invite(&group, &[user("bob")]).await.unwrap();
        alice.send(&group, "welcome").await.unwrap();
        let errors = errors_of_syncs(&bob).await;
        proxy.forward();
        assert!(errors.len() <= 1, "{name}: {errors:?}");
        let (texts, notices) = heard(&bob).await;
        assert!(notices.len() <= 1, "{name}: {notices:?}");
        assert_eq!(texts, ["welcome"], "{name}");
        they_talk(&alice, &bob, &group).await;
        let (_, notices) = heard(&bob).await;
        assert_eq!(notices.len(), 0, "{name}: {notices:?}");
    }
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn a_lie_about_a_number_in_a_stream_does_not_make_deaf() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    for lie in LIES {
        for kind in [InboxKind::Message, InboxKind::Passed] {
            let name = lie.name;
            let group = alice.group_with(&[&bob]).await;
            catch_up(&[&alice, &bob]).await;
            heard(&bob).await;
            let mut follower = Follower::start(&bob).await;
            lie_once_in_events(&proxy, &group, kind, lie.change);
            bob.send(&group, "mine").await.unwrap();
            alice.send(&group, "lied about").await.unwrap();
            alice.send(&group, "after it").await.unwrap();
            let (mut texts, mut notices) = follower.until("after it").await;
            proxy.forward();
            alice.send(&group, "once more").await.unwrap();
            let (more, told) = follower.until("once more").await;
            texts.extend(more);
            notices.extend(told);
            let errors = follower.errors.clone();
            assert!(errors.len() <= 1, "{kind:?}, {name}: {errors:?}");
            assert!(notices.len() <= 1, "{kind:?}, {name}: {notices:?}");
            texts.sort();
            assert_eq!(texts, ["after it", "lied about", "once more"], "{kind:?}, {name}");
            they_talk(&alice, &bob, &group).await;
        }
    }
}

/// Answers every acknowledgement as a server that has stored it, and has nothing else.
fn swallow_acknowledgements(proxy: &Proxy) {
    proxy.rule_for("POST", "/v1/inbox/next", |seen| {
        let request: NextRequest = serde_json::from_slice(&seen.body).unwrap();
        match request.acknowledge {
            Some(_) => Action::Answer(Answer::json(200, &Inbox { rows: Vec::new() })),
            None => Action::Forward,
        }
    });
}

/// The device believes to be far ahead, and the server is believed to know it.
#[tokio::test]
async fn a_position_that_the_liar_has_acknowledged_does_not_make_deaf_in_the_same_stream() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    heard(&bob).await;
    let mut follower = Follower::start(&bob).await;
    swallow_acknowledgements(&proxy);
    lie_once_in_events(&proxy, &group, InboxKind::Message, |row| {
        row.first = Some(row.seq);
        row.seq = LARGEST;
    });
    let before = proxy.seen("POST", "/v1/inbox/next").len();
    alice.send(&group, "lied about").await.unwrap();
    follower.until("lied about").await;
    while proxy.seen("POST", "/v1/inbox/next").len() == before {
        follower.step().await;
    }
    assert!(follower.errors.is_empty());
    proxy.forward();
    alice.send(&group, "honest").await.unwrap();
    let (texts, notices) = follower.until("honest").await;
    assert_eq!(texts, ["honest"]);
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(follower.errors, ["went-back"]);
    for text in ["more", "and more"] {
        alice.send(&group, text).await.unwrap();
        let (_, notices) = follower.until(text).await;
        assert_eq!(notices.len(), 0, "{notices:?}");
    }
    assert_eq!(follower.errors, ["went-back"]);
    they_talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn a_row_that_a_stream_leaves_out_comes_with_the_acknowledgement() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    let group = alice.group_with(&[&bob]).await;
    let other = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    heard(&bob).await;
    let mut follower = Follower::start(&bob).await;
    let kept_back = group.clone();
    proxy.lie_in_events(move |row| match row.group_id.as_ref() == Some(&kept_back) {
        true => Vec::new(),
        false => vec![row],
    });
    alice.send(&group, "left out").await.unwrap();
    alice.send(&other, "delivered").await.unwrap();
    follower.until("left out").await;
    assert!(follower.errors.is_empty(), "{:?}", follower.errors);
}

#[tokio::test]
async fn a_lie_about_mail_loses_nothing_of_groups() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    let group = alice.group_with(&[&bob]).await;
    for seq in [0, 1, LARGEST, u64::MAX] {
        let mut told = false;
        proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
            if !std::mem::replace(&mut told, true) {
                inbox.rows.insert(0, mail(seq, "bob"));
            }
        });
        assert_eq!(errors_of_syncs(&bob).await, Vec::<&str>::new(), "{seq}");
        proxy.forward();
        they_talk(&alice, &bob, &group).await;
        assert_eq!(heard(&bob).await.1, Vec::<String>::new());
    }
}

fn mail(seq: u64, of: &str) -> InboxRow {
    InboxRow {
        group_id: None,
        seq,
        first: None,
        kind: InboxKind::DeviceChange,
        epoch: None,
        received_at: 0,
        gone: None,
        body: Base64Url(of.as_bytes().to_vec()),
    }
}

#[tokio::test]
async fn a_lie_about_positions_costs_one_error_and_one_notice() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    let group = alice.group_with(&[&bob]).await;
    let many = || (0..5_000_u32).map(|id| (GroupId::from_bytes(&id.to_be_bytes()).unwrap(), 1));
    let lies: [Vec<(GroupKey, u64)>; 5] = [
        vec![(group.clone(), 0)],
        vec![(group.clone(), 1)],
        vec![(group.clone(), u64::MAX)],
        Vec::new(),
        many().chain([(group.clone(), 0)]).collect(),
    ];
    for positions in lies {
        let named = positions.len();
        let positions = positions.into_iter();
        let positions = positions.map(|(group_id, seq)| Position { group_id, seq });
        let problem = Problem::position_ahead(positions.collect());
        let mut told = false;
        proxy.rule_for("POST", "/v1/inbox/next", move |seen| {
            let request: NextRequest = serde_json::from_slice(&seen.body).unwrap();
            match request.acknowledge.is_some() && !std::mem::replace(&mut told, true) {
                true => Action::Answer(Answer::json(409, &problem)),
                false => Action::Forward,
            }
        });
        alice.send(&group, "one").await.unwrap();
        let errors = errors_of_syncs(&bob).await;
        assert_eq!(errors, ["went-back"], "{named}");
        proxy.forward();
        alice.send(&group, "two").await.unwrap();
        assert_eq!(errors_of_syncs(&bob).await, Vec::<&str>::new(), "{named}");
        let (texts, notices) = heard(&bob).await;
        assert_eq!(texts, ["one", "two"]);
        assert!(notices.len() <= 1, "{notices:?}");
        they_talk(&alice, &bob, &group).await;
        assert_eq!(heard(&bob).await.1, Vec::<String>::new());
    }
}

/// Makes a client whose server names another incarnation than the store's, until it is in a group of this one and has nothing
/// left to do: nothing but the numbers that it acknowledges shows that it was misled.
async fn misled(server: &TestServer, alice: &Client) -> (Client, GroupKey, Proxy) {
    let proxy = Proxy::start(&server.url);
    let other = || "of another store".to_owned();
    proxy.rule(move |seen| {
        if seen.is("POST", "/v1/sessions") {
            return Action::rewrite_json(move |session: &mut Session| session.incarnation = Some(other()));
        }
        match seen.is("GET", "/v1/key-packages") {
            true => Action::rewrite_json(move |inventory: &mut Inventory| inventory.incarnation = other()),
            false => Action::Forward,
        }
    });
    let client = Client::register_with_clock(&proxy.url, "bob", 0).await.unwrap();
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    for _ in 0..3 {
        // What it acknowledges is refused all this time.
        let _ = client.sync().await;
    }
    heard(&client).await;
    alice.sync().await.unwrap();
    proxy.forward();
    (client, group, proxy)
}

#[tokio::test]
async fn a_lie_about_the_incarnation_costs_one_notice_however_much_waits() {
    let server = TestServer::start().await;
    let alice = server.client_with_pool_of("alice", POOL).await;
    let (bob, group, _proxy) = misled(&server, &alice).await;
    let said: Vec<String> = (0..80).map(|number| number.to_string()).collect();
    for text in &said {
        alice.send(&group, text).await.unwrap();
    }
    let errors = errors_of_syncs(&bob).await;
    assert!(errors.len() <= 1, "{errors:?}");
    let (texts, notices) = heard(&bob).await;
    assert_eq!(texts, said);
    assert!(notices.len() <= 1, "{notices:?}");
    they_talk(&alice, &bob, &group).await;
    assert_eq!(heard(&bob).await.1, Vec::<String>::new());
}

#[tokio::test]
async fn a_lie_about_the_incarnation_does_not_make_a_stream_deaf() {
    let server = TestServer::start().await;
    let alice = server.client_with_pool_of("alice", POOL).await;
    let (bob, group, _proxy) = misled(&server, &alice).await;
    let mut follower = Follower {
        client: &bob,
        listening: Some(bob.listen().await.unwrap()),
        errors: Vec::new(),
    };
    let mut told = 0;
    for text in ["one", "two", "three"] {
        alice.send(&group, text).await.unwrap();
        told += follower.until(text).await.1.len();
    }
    assert!(follower.errors.len() <= 1, "{:?}", follower.errors);
    assert!(told <= 1);
    they_talk(&alice, &bob, &group).await;
}

/// A known store is said to be another one, and is not.
#[tokio::test]
async fn an_incarnation_that_only_a_session_names_changes_nothing() {
    let server = TestServer::start().await;
    let (alice, mut bob, proxy) = pair(&server).await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    heard(&bob).await;
    bob.restart().await;
    let mut told = false;
    proxy.lie("POST", "/v1/sessions", move |session: &mut Session| {
        if !std::mem::replace(&mut told, true) {
            session.incarnation = Some("of another store".to_owned());
        }
    });
    assert_eq!(errors_of_syncs(&bob).await, Vec::<&str>::new());
    assert_eq!(heard(&bob).await.1, Vec::<String>::new());
    they_talk(&alice, &bob, &group).await;
}

/// Tells a mark that no state of the device has, to so many sessions.
fn lie_about_marks(proxy: &Proxy, mut sessions: u32) {
    proxy.lie("POST", "/v1/sessions", move |session: &mut Session| {
        if sessions > 0 {
            sessions -= 1;
            session.state = Some(StateMark::from_bytes(b"of another state").unwrap());
        }
    });
}

#[tokio::test]
async fn one_lie_about_the_state_mark_costs_nothing() {
    let server = TestServer::start().await;
    let (alice, mut bob, proxy) = pair(&server).await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    heard(&bob).await;
    for _ in 0..3 {
        let commits = proxy.seen("POST", "/commits").len();
        bob.restart().await;
        lie_about_marks(&proxy, 1);
        assert_eq!(errors_of_syncs(&bob).await, Vec::<&str>::new());
        assert_eq!(heard(&bob).await.1, Vec::<String>::new());
        assert_eq!(
            proxy.seen("POST", "/commits").len(),
            commits,
            "nothing is given up"
        );
        they_talk(&alice, &bob, &group).await;
    }
}

#[tokio::test]
async fn a_second_lie_about_the_state_mark_within_an_hour_costs_one_error() {
    let server = TestServer::start().await;
    let (alice, mut bob, proxy) = pair(&server).await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    heard(&bob).await;
    // The device is made to believe that it is an old copy, and is brought up to date.
    bob.restart().await;
    lie_about_marks(&proxy, 2);
    assert_eq!(errors_of_syncs(&bob).await, Vec::<&str>::new());
    they_talk(&alice, &bob, &group).await;
    bob.restart().await;
    lie_about_marks(&proxy, 2);
    assert_eq!(bob.sync().await.unwrap_err().code(), "state-behind");
    proxy.forward();
    assert_eq!(errors_of_syncs(&bob).await, Vec::<&str>::new());
    assert_eq!(heard(&bob).await.1, Vec::<String>::new());
    they_talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn a_welcome_leads_no_member_past_rows_that_it_has_not_seen() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    for ahead in [1, 2, 1_000, LARGEST] {
        let group = alice.group_with(&[&bob]).await;
        catch_up(&[&alice, &bob]).await;
        heard(&bob).await;
        let (of, mut told) = (group.clone(), false);
        proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
            let last = inbox.rows.iter().rfind(|row| row.group_id.as_ref() == Some(&of));
            if let Some(last) = last
                && !std::mem::replace(&mut told, true)
            {
                let mut welcome = last.clone();
                welcome.seq = welcome.seq.saturating_add(ahead);
                welcome.kind = InboxKind::Welcome;
                inbox.rows.insert(0, welcome);
            }
        });
        for text in ["one", "two", "three"] {
            alice.send(&group, text).await.unwrap();
        }
        let errors = errors_of_syncs(&bob).await;
        assert!(errors.len() <= 1, "{errors:?}");
        proxy.forward();
        let (texts, notices) = heard(&bob).await;
        assert_eq!(texts, ["one", "two", "three"], "{ahead}");
        assert!(notices.len() <= 1, "{notices:?}");
        they_talk(&alice, &bob, &group).await;
    }
}

/// A server that has forgotten what was acknowledged, or says so.
#[tokio::test]
async fn what_is_delivered_again_is_dropped_in_silence() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    for text in ["one", "two"] {
        alice.send(&group, text).await.unwrap();
    }
    let seen: std::sync::Arc<std::sync::Mutex<Vec<InboxRow>>> = std::sync::Arc::default();
    let keeps = std::sync::Arc::clone(&seen);
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        keeps.lock().unwrap().extend(inbox.rows.iter().cloned());
    });
    assert_eq!(errors_of_syncs(&bob).await, Vec::<&str>::new());
    assert_eq!(
        heard(&bob).await,
        (vec!["one".to_owned(), "two".to_owned()], vec![])
    );
    // Under their numbers, and under others.
    for by in [0, 1, 100] {
        let (again, mut told) = (std::sync::Arc::clone(&seen), false);
        proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
            if !std::mem::replace(&mut told, true) {
                let rows = again.lock().unwrap().clone().into_iter().map(|mut row| {
                    row.first = Some(row.first.unwrap_or(row.seq));
                    row.seq += by;
                    row
                });
                inbox.rows.splice(0..0, rows);
            }
        });
        let errors = errors_of_syncs(&bob).await;
        assert!(errors.len() <= usize::from(by > 0), "{by}: {errors:?}");
        proxy.forward();
        let (texts, notices) = heard(&bob).await;
        assert_eq!(texts, Vec::<String>::new());
        assert!(notices.len() <= usize::from(by > 0), "{by}: {notices:?}");
        they_talk(&alice, &bob, &group).await;
    }
    assert!(bob.quarantined_welcomes().await.unwrap().is_empty());
}

/// Another row under the number of one that was taken over: a store that went back, whatever it says.
#[tokio::test]
async fn a_log_that_was_rewritten_is_told_and_taken_over() {
    let server = TestServer::start().await;
    let (alice, bob, proxy) = pair(&server).await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    for text in ["one", "two", "three"] {
        alice.send(&group, text).await.unwrap();
    }
    assert_eq!(bob.receive().await, ["one", "two", "three"]);
    heard(&bob).await;
    // All numbers are less by two from here on, as if two rows had never been.
    proxy.lie("POST", "/v1/inbox/next", {
        let group = group.clone();
        move |inbox: &mut Inbox| {
            for row in inbox
                .rows
                .iter_mut()
                .filter(|row| row.group_id.as_ref() == Some(&group))
            {
                row.seq -= 2;
                row.first = row.first.map(|first| first - 2);
            }
        }
    });
    for text in ["four", "five", "six"] {
        alice.send(&group, text).await.unwrap();
    }
    assert_eq!(bob.sync().await.unwrap_err().code(), "went-back");
    let (texts, notices) = heard(&bob).await;
    assert_eq!(texts, ["four", "five", "six"]);
    assert_eq!(notices.len(), 1, "{notices:?}");
    proxy.forward();
    they_talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn groups_and_users_that_a_server_makes_up_are_not_remembered_without_bound() {
    let server = TestServer::start().await;
    let (alice, mut bob, proxy) = pair(&server).await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let mut pages = 0_u32;
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        if pages == 2 {
            return;
        }
        pages += 1;
        for number in 0..2_500 {
            let name = u64::from(pages) * 10_000 + number;
            let of_user = format!("u{name}");
            inbox.rows.push(mail(number, &of_user));
            inbox.rows.push(InboxRow {
                group_id: Some(GroupId::from_bytes(&name.to_be_bytes()).unwrap()),
                kind: InboxKind::DeviceChange,
                ..mail(number, &of_user)
            });
        }
    });
    assert_eq!(errors_of_syncs(&bob).await, Vec::<&str>::new());
    proxy.forward();
    they_talk(&alice, &bob, &group).await;
    bob.stop().await;
    let profile = bob.directory.path();
    let positions = count_rows(profile, "SELECT count(*) FROM positions");
    assert!(positions <= GROUPS_PER_DEVICE_MAX as i64 + 1, "{positions}");
    assert_eq!(count_rows(profile, "SELECT count(*) FROM device_checks"), 0);
    let seen = count_rows(profile, "SELECT count(DISTINCT group_id) FROM rows_seen");
    assert!(seen <= positions, "{seen}");
}

#[tokio::test]
async fn the_rows_that_are_remembered_of_a_group_are_bounded() {
    let server = TestServer::start().await;
    let (alice, mut bob, proxy) = pair(&server).await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let of = group.clone();
    let mut told = false;
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        if std::mem::replace(&mut told, true) {
            return;
        }
        inbox.rows = (0..1_500)
            .map(|number| InboxRow {
                group_id: Some(of.clone()),
                first: Some(1),
                ..mail(10 + number, "alice")
            })
            .collect();
    });
    let errors = errors_of_syncs(&bob).await;
    assert_eq!(errors, ["went-back"]);
    proxy.forward();
    they_talk(&alice, &bob, &group).await;
    bob.stop().await;
    let seen = count_rows(bob.directory.path(), "SELECT count(*) FROM rows_seen");
    assert!((1_000..=1_024).contains(&seen), "{seen}");
}
