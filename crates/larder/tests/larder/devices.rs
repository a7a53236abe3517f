//! A second device of a user: linked by a code, listed, removed.

use crate::admin::database;
use crate::support::{Running, World, parse, texts};
use crate::transcripts::fails;

/// Makes a profile a further device of a user, whose profile has the user's name.
pub(crate) fn linked(world: &World, profile: &str, user: &str) {
    let (mut linking, code, _) = link(world, profile, user);
    world.ok(user, &["device", "authorize", "--yes", &code]);
    linking.line();
    assert_eq!(linking.ended(), 0);
}

/// Starts `link`, and returns the process, its code and its fingerprint.
fn link(world: &World, profile: &str, user: &str) -> (Running, String, String) {
    let mut linking = world.start(profile, &["--json", "link", "--no-encryption", user]);
    let shown = parse(&linking.line());
    assert_eq!(shown["type"], "link_code");
    let text = |key: &str| shown[key].as_str().unwrap().to_owned();
    let (code, fingerprint) = (text("code"), text("fingerprint"));
    (linking, code, fingerprint)
}

#[test]
fn r_s7_r_c8_a_device_is_linked_by_a_code_everybody_is_told_once_and_it_is_removed_for_good() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("bob", &["recv"]);

    let (linking, code, fingerprint) = link(&world, "phone", "alice");
    // Interrupted and started again, it is the same device.
    linking.signal("INT");
    drop(linking);
    let (mut linking, again, _) = link(&world, "phone", "alice");
    assert_eq!(again, code);
    // Nobody who compares the fingerprints, no device.
    let unasked = world.run("alice", &["device", "authorize", &code]);
    assert_eq!((unasked.code, unasked.out.as_str()), (3, ""));
    assert!(unasked.err.contains(&fingerprint), "{}", unasked.err);
    let mut asked = world.start("alice", &["device", "authorize", &code]);
    asked.types("y");
    let authorized = asked.line();
    assert_eq!(asked.ended(), 0);
    let linked = parse(&linking.line());
    assert_eq!(linking.ended(), 0);
    let phone = linked["device_id"].as_str().unwrap().to_owned();
    assert_eq!(authorized, format!("device {phone} is yours now"));
    assert_eq!(
        (&linked["type"], &linked["user"]),
        (&"linked".into(), &"alice".into())
    );
    assert_eq!(
        (&linked["groups"], &linked["pool_available"]),
        (&1.into(), &32.into())
    );

    // It is a member like others, and has the group's name.
    let told = world.ok("bob", &["recv"]);
    let new = format!("#room * new device of alice: {}\n", &phone[..8]);
    assert_eq!(told, new);
    world.ok("alice", &["recv"]);
    world.ok("alice", &["send", "room", "from the desk"]);
    let received = world.json("phone", &["recv"]);
    assert_eq!(texts(&received), ["from the desk"]);
    world.ok("phone", &["send", "room", "from the phone"]);
    assert_eq!(texts(&world.json("alice", &["recv"])), ["from the phone"]);
    assert_eq!(
        world.ok("bob", &["recv"]),
        "#room <alice> from the desk\n#room <alice> from the phone\n"
    );
    let listed = world.json("alice", &["device", "list"]);
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (&listed[0]["me"], &listed[0]["authorized_by"]),
        (&true.into(), &().into())
    );
    assert_eq!(listed[1]["authorized_by"], listed[0]["device_id"]);
    assert_eq!(
        (
            &listed[1]["device_id"],
            &listed[1]["fingerprint"],
            &listed[1]["authorized"]
        ),
        (&phone.as_str().into(), &fingerprint.as_str().into(), &true.into())
    );

    // Lost: it can do nothing any more, and its leaves go.
    let removed = world.ok("alice", &["device", "remove", &phone[..8]]);
    assert_eq!(removed, format!("device {phone} was removed\n"));
    let (exit, sentence, code) = fails(&world, "phone", &["recv"]);
    assert_eq!((exit, code.as_str()), (3, "device-removed"));
    assert!(
        sentence.contains("larder: this device was removed from the account"),
        "{sentence}"
    );
    let told = world.ok("bob", &["recv"]);
    let by_list = format!("#room * alice removed the device {}\n", &phone[..8]);
    assert!(told.contains(&by_list), "{told}");
    assert_eq!(world.json("bob", &["members", "room"]).len(), 2 + 1);
    assert!(world.ok("alice", &["device", "list"]).ends_with("  (removed)\n"));
}

#[test]
fn a_code_or_a_device_that_makes_no_sense_is_named_in_the_answer() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    let (exit, sentence, code) = fails(&world, "alice", &["device", "authorize", "larder-link:AAAA"]);
    assert_eq!((exit, code.as_str()), (2, "invalid-link-code"));
    assert_eq!(
        sentence,
        "larder: not a link code, or one that was damaged on its way\n"
    );
    let (linking, of_alice, _) = link(&world, "phone", "alice");
    let (exit, sentence, code) = fails(&world, "bob", &["device", "authorize", "--yes", &of_alice]);
    assert_eq!((exit, code.as_str()), (3, "link-code-of-another"));
    assert_eq!(
        sentence,
        "larder: the link code is of a device for alice at localhost\n"
    );
    drop(linking);
    for nothing in ["", "nope", "0000000"] {
        let (exit, _, code) = fails(&world, "alice", &["device", "remove", nothing]);
        assert_eq!((exit, code.as_str()), (5, "unknown-device"), "{nothing:?}");
    }
    // The last device takes the account with it.
    let own = world.json("bob", &["device", "list"])[0]["device_id"].clone();
    let removed = world.ok("bob", &["device", "remove", own.as_str().unwrap()]);
    assert!(
        removed.contains("this profile can do nothing any more"),
        "{removed}"
    );
    let (exit, _, code) = fails(&world, "again", &["register", "--no-encryption", "bob"]);
    assert_eq!((exit, code.as_str()), (3, "name-taken"));
}

#[test]
fn r_c8_two_people_compare_numbers_and_a_new_device_of_a_verified_one_stops_what_is_sent() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("bob", &["recv"]);

    let shown = world.ok("alice", &["verify", "bob"]);
    assert!(shown.contains('\u{2588}'), "a code to scan: {shown}");
    assert!(shown.ends_with("\nbob is not verified\n"), "{shown}");
    let of_bob = world.json("bob", &["verify", "alice"]).remove(0);
    let number = of_bob["number"].as_str().unwrap();
    let lines: Vec<String> = number
        .split(' ')
        .collect::<Vec<_>>()
        .chunks(4)
        .map(|groups| groups.join(" "))
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| shown.contains(line)), "{shown}");
    assert!(
        !world
            .ok("alice", &["verify", "--no-qr", "bob"])
            .contains('\u{2588}')
    );

    for wrong in ["12345", "", &number[..number.len() - 6], "larder-safety:AAAA"] {
        let (exit, _, code) = fails(&world, "alice", &["verify", "bob", "--compare", wrong]);
        assert_eq!((exit, code.as_str()), (3, "numbers-differ"), "{wrong}");
    }
    let scanned = of_bob["qr"].as_str().unwrap();
    for right in [number, &number.replace(' ', ""), scanned] {
        let compared = world.ok("alice", &["verify", "bob", "--compare", right]);
        assert_eq!(compared, "bob is verified\n");
        let unmarked = world.ok("alice", &["verify", "bob", "--unmark"]);
        assert_eq!(unmarked, "bob is not verified\n");
    }
    let marked = world.json("alice", &["verify", "bob", "--mark"]).remove(0);
    assert_eq!(
        (&marked["type"], &marked["verification"]),
        (&"verified".into(), &"verified".into())
    );
    let members = world.ok("alice", &["members", "room"]);
    assert_eq!(members.matches("  verified\n").count(), 1, "{members}");

    linked(&world, "phone", "bob");
    let told = world.ok("alice", &["recv"]);
    assert!(
        told.contains("#room * WARNING: bob, whom you have verified"),
        "{told}"
    );
    let (exit, sentence, code) = fails(&world, "alice", &["send", "room", "secret"]);
    assert_eq!((exit, code.as_str()), (3, "verification-changed"));
    assert_eq!(
        sentence,
        "larder: the keys of bob are not those that you have verified: larder verify bob\n"
    );
    std::fs::write(world.path("plan"), "secret").unwrap();
    let file = world.path("plan").display().to_string();
    world.register(&["carol"]);
    for refused in [
        &["send", "room", "--attach", &file][..],
        &["send", "room", "--attach", &file, "and a text"],
        &["send", "room", "--offline", "secret"],
        &["group", "rename", "room", "secret"],
        &["invite", "room", "carol"],
        &["retry", "room"],
    ] {
        let (exit, _, code) = fails(&world, "alice", refused);
        assert_eq!((exit, code.as_str()), (3, "verification-changed"), "{refused:?}");
    }
    let told = world.json("phone", &["recv"]);
    assert!(texts(&told).is_empty(), "{told:?}");
    let shown = world.ok("alice", &["verify", "--no-qr", "bob"]);
    assert_eq!(shown.matches("  NEW\n").count(), 1, "{shown}");
    assert!(shown.contains("\nWARNING: bob has other keys"), "{shown}");
    world.ok("alice", &["verify", "bob", "--mark"]);
    world.ok("alice", &["send", "room", "not so secret"]);
    assert_eq!(texts(&world.json("phone", &["recv"])), ["not so secret"]);

    let (exit, _, code) = fails(&world, "alice", &["verify", "alice"]);
    assert_eq!((exit, code.as_str()), (2, "oneself"));
    let (exit, _, code) = fails(&world, "alice", &["verify", "zoe"]);
    assert_eq!((exit, code.as_str()), (5, "unknown-user"));
}

#[test]
fn who_registered_anew_is_compared_as_a_new_identity() {
    let mut world = World::new();
    world.register(&["alice"]);
    let (store, copy) = (database(&world), world.path("backup.db"));
    world.ok(
        "admin",
        &["admin", "backup", "--store", &store, copy.to_str().unwrap()],
    );
    world.register(&["bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("alice", &["verify", "bob", "--mark"]);
    let before = world.json("alice", &["verify", "bob"]).remove(0);
    assert_eq!(before["other_identity"], false);
    // The operator goes back to a store without bob's account.
    world.kill_server();
    for file in std::fs::read_dir(world.path("server")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    std::fs::copy(&copy, &store).unwrap();
    world.ok("admin", &["admin", "restored", "--store", &store]);
    world.start_server();
    world.ok("anew", &["register", "--no-encryption", "bob"]);
    let of_bob = world.json("anew", &["verify", "alice"]).remove(0);

    world.ok("alice", &["recv"]);
    world.ok("alice", &["group", "create", "again"]);
    let (exit, sentence, code) = fails(&world, "alice", &["invite", "again", "bob"]);
    assert_eq!((exit, code.as_str()), (3, "other-identity"));
    assert!(
        sentence.ends_with("larder verify bob --new-identity\n"),
        "{sentence}"
    );
    let shown = world.ok("alice", &["verify", "--no-qr", "bob"]);
    assert!(
        shown.ends_with("To compare: larder verify bob --new-identity\n"),
        "{shown}"
    );
    let both = world
        .json("alice", &["verify", "bob", "--new-identity"])
        .remove(0);
    assert_eq!(both["type"], "new_identity");
    assert_eq!(
        (&both["known"], &both["number"]),
        (&before["number"], &of_bob["number"])
    );
    let shown = world.ok("alice", &["verify", "--no-qr", "bob", "--new-identity"]);
    for number in [&both["known"], &both["number"]] {
        let digits: Vec<&str> = number.as_str().unwrap().split(' ').collect();
        assert!(
            digits.chunks(4).all(|groups| shown.contains(&groups.join(" "))),
            "{shown}"
        );
    }
    let old = before["number"].as_str().unwrap();
    let wrong = ["verify", "bob", "--new-identity", "--compare", old];
    let (exit, _, code) = fails(&world, "alice", &wrong);
    assert_eq!((exit, code.as_str()), (3, "numbers-differ"));
    let right = of_bob["qr"].as_str().unwrap();
    let compared = world.ok("alice", &["verify", "bob", "--new-identity", "--compare", right]);
    assert_eq!(compared, "bob is verified\n");
    world.ok("alice", &["invite", "again", "bob"]);
    world.ok("alice", &["send", "again", "welcome"]);
    assert_eq!(texts(&world.json("anew", &["recv"])), ["welcome"]);
    let (exit, _, code) = fails(&world, "alice", &["verify", "bob", "--new-identity"]);
    assert_eq!((exit, code.as_str()), (3, "no-other-identity"));
}
