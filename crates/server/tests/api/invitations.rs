//! Registration by invitation: a code is good for one account, until it expires or is withdrawn.

use std::sync::Arc;

use larder_lifecycle::UnixSeconds;
use larder_server::{Admin, InvitationId};
use larder_wire::{
    AccountRequest, InviteCode, LinkRequest, ProblemType, Registered, Registration, ServerInfo,
};
use sha2::{Digest, Sha256};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::{Answer, Device, TestServer};

const DAY: u64 = 24 * 60 * 60;

async fn server(registration: Registration) -> TestServer {
    TestServer::start_with(|config| config.registration = registration, false).await
}

async fn admin(server: &TestServer) -> Admin {
    Admin::open_in_use(&server.database.location()).await.unwrap()
}

/// One more code, for a day.
async fn code(server: &TestServer) -> InviteCode {
    let now = UnixSeconds(server.time());
    let invited = admin(server).await.invite(1, now, now.plus(DAY)).await.unwrap();
    invited[0].code.clone()
}

fn request(device: &Device, code: Option<&InviteCode>) -> AccountRequest {
    AccountRequest {
        device: device.register_request(),
        invite_code: code.cloned(),
    }
}

async fn register(device: &Device, code: Option<&InviteCode>) -> Answer {
    device.http.post("/v1/accounts", &request(device, code)).await
}

async fn outstanding(server: &TestServer) -> Vec<InvitationId> {
    let invitations = admin(server).await.invitations(UnixSeconds(server.time())).await;
    invitations
        .unwrap()
        .iter()
        .map(|invitation| invitation.id)
        .collect()
}

#[tokio::test]
async fn whoever_has_a_code_registers_once_and_all_else_is_refused_alike() {
    let server = server(Registration::Invited).await;
    let info: ServerInfo = server.http.get("/.well-known/larder").await.ok();
    assert_eq!(info.registration, Registration::Invited);
    let (used, withdrawn, expired) = (code(&server).await, code(&server).await, code(&server).await);
    let alice = Device::new(&server.http, "alice");
    register(&alice, Some(&used)).await.ok::<Registered>();
    let ids = outstanding(&server).await;
    assert_eq!(ids.len(), 2);
    let [first, ..] = <[u8; 32]>::from(Sha256::digest(withdrawn.secret()));
    let id = ids
        .iter()
        .find(|id| id.to_string().starts_with(&format!("{first:02x}")));
    assert!(
        admin(&server)
            .await
            .withdraw_invitation(*id.unwrap())
            .await
            .unwrap()
    );
    server.pass(DAY);

    let bob = Device::new(&server.http, "bob");
    let bodies: Vec<Vec<u8>> = [
        register(&bob, None).await,
        register(&bob, Some(&InviteCode::new([7; 16]))).await,
        register(&bob, Some(&used)).await,
        register(&bob, Some(&withdrawn)).await,
        register(&bob, Some(&expired)).await,
    ]
    .into_iter()
    .map(|answer| {
        answer.refused(ProblemType::InvitationRequired);
        answer.body
    })
    .collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    let fresh = code(&server).await;
    register(&bob, Some(&fresh)).await.ok::<Registered>();
}

/// The code and the account are one transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixty_four_who_register_with_one_code_at_once_one_does() {
    const RACERS: usize = 64;
    let server = server(Registration::Invited).await;
    let code = code(&server).await;
    let start = Arc::new(Barrier::new(RACERS));
    let mut racers = JoinSet::new();
    for number in 0..RACERS {
        let racer = Device::new(&server.http, &format!("racer{number}"));
        let (code, start) = (code.clone(), Arc::clone(&start));
        racers.spawn(async move {
            start.wait().await;
            register(&racer, Some(&code)).await
        });
    }
    let answers = racers.join_all().await;
    let (registered, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!((registered.len(), refused.len()), (1, RACERS - 1));
    for answer in refused {
        answer.refused(ProblemType::InvitationRequired);
    }
    for table in ["users", "devices"] {
        let count = server
            .database
            .count(&format!("SELECT count(*) FROM {table}"))
            .await;
        assert_eq!(count, 1, "{table}");
    }
    assert_eq!(server.database.count("SELECT count(*) FROM invitations").await, 0);
}

#[tokio::test]
async fn a_registration_that_is_refused_leaves_the_code_unused() {
    let server = server(Registration::Invited).await;
    let first = code(&server).await;
    let alice = Device::new(&server.http, "alice");
    register(&alice, Some(&first)).await.ok::<Registered>();

    let code = code(&server).await;
    let mut other = Device::new(&server.http, "alice");
    other.id = "another-device".parse().unwrap();
    register(&other, Some(&code))
        .await
        .refused(ProblemType::NameTaken);
    let bob = Device::new(&server.http, "bob");
    let mut forged = request(&bob, Some(&code));
    forged.device.proofs.mls.0[0] ^= 1;
    let answer = server.http.post("/v1/accounts", &forged).await;
    answer.refused(ProblemType::Unauthenticated);

    register(&bob, Some(&code)).await.ok::<Registered>();
}

#[tokio::test]
async fn without_an_invitation_nobody_learns_whether_a_name_is_taken() {
    let server = server(Registration::Invited).await;
    let code = code(&server).await;
    let alice = Device::new(&server.http, "alice");
    register(&alice, Some(&code)).await.ok::<Registered>();
    let taken = register(&alice, Some(&code)).await;
    let free = register(&Device::new(&server.http, "bob"), Some(&code)).await;
    taken.refused(ProblemType::InvitationRequired);
    assert_eq!(taken.body, free.body);
}

#[tokio::test]
async fn a_further_device_needs_no_code_whoever_may_register() {
    let server = server(Registration::Invited).await;
    let code = code(&server).await;
    let mut alice = Device::new(&server.http, "alice");
    register(&alice, Some(&code)).await.ok::<Registered>();
    alice.open_session().await;
    let further = alice.further(2);
    let request: LinkRequest = alice.link_request(&further);
    alice.http.post("/v1/devices", &request).await.ok::<Registered>();
}

#[tokio::test]
async fn a_server_that_is_open_or_closed_uses_no_code_up() {
    let open = server(Registration::Open).await;
    let unneeded = code(&open).await;
    let alice = Device::new(&open.http, "alice");
    register(&alice, Some(&unneeded)).await.ok::<Registered>();
    assert_eq!(outstanding(&open).await.len(), 1);

    let closed = server(Registration::Closed).await;
    let useless = code(&closed).await;
    let bob = Device::new(&closed.http, "bob");
    for code in [Some(&useless), None] {
        register(&bob, code)
            .await
            .refused(ProblemType::RegistrationClosed);
    }
    assert_eq!(outstanding(&closed).await.len(), 1);
}

#[tokio::test]
async fn a_code_travels_as_it_is_typed_and_a_mistyped_one_is_malformed() {
    let server = server(Registration::Invited).await;
    let code = code(&server).await;
    let alice = Device::new(&server.http, "alice");
    let mut request = serde_json::to_value(request(&alice, Some(&code))).unwrap();
    let text = code.reveal();
    // The last but one belongs to what tells mistakes.
    let (rest, last) = text.split_at(text.len() - 2);
    let other = if last.starts_with('0') { '1' } else { '0' };
    for wrong in [
        "",
        "larder-invite:",
        rest,
        &format!("{rest}{other}{}", &last[1..]),
    ] {
        request["invite_code"] = wrong.into();
        let problem = server.http.post("/v1/accounts", &request).await;
        let problem = problem.refused(ProblemType::Malformed);
        assert!(!problem.detail.unwrap_or_default().contains(&rest[14..19]));
    }
    request["invite_code"] = text.to_lowercase().replace('-', "").into();
    server
        .http
        .post("/v1/accounts", &request)
        .await
        .ok::<Registered>();
}

#[tokio::test]
async fn the_database_holds_no_code_and_nothing_of_one_that_is_over() {
    let server = server(Registration::Invited).await;
    let (used, expired) = (code(&server).await, code(&server).await);
    let everything = server.database.everything().await;
    let contains = |needle: &[u8]| everything.windows(needle.len()).any(|window| window == needle);
    for code in [&used, &expired] {
        // The scan finds what is there.
        let hash: [u8; 32] = Sha256::digest(code.secret()).into();
        assert!(contains(&hash));
        let text = code.reveal();
        let bare = text.strip_prefix("larder-invite:").unwrap();
        let secret = code.secret();
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        for spelling in [
            bare.as_bytes(),
            bare.replace('-', "").as_bytes(),
            secret,
            hex.as_bytes(),
        ] {
            assert!(!contains(spelling));
        }
    }
    let alice = Device::new(&server.http, "alice");
    register(&alice, Some(&used)).await.ok::<Registered>();
    let left = async || server.database.bytes("SELECT hash FROM invitations").await;
    assert_eq!(left().await, [Sha256::digest(expired.secret()).to_vec()]);
    server.pass(DAY);
    server.sweep().await;
    assert!(left().await.is_empty());
}

#[tokio::test]
async fn x2_a_restored_store_has_no_invitations_left() {
    let server = server(Registration::Invited).await;
    let code = code(&server).await;
    let admin = Admin::open(&server.database.location()).await.unwrap();
    admin.restored(UnixSeconds(server.time())).await.unwrap();
    let alice = Device::new(&server.http, "alice");
    register(&alice, Some(&code))
        .await
        .refused(ProblemType::InvitationRequired);
}
