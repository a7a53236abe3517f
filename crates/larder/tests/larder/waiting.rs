//! Messages that wait for the server, and are refused once it is there.

use larder_testkit::{Action, Proxy};
use serde_json::Value;

use crate::devices::linked;
use crate::support::{World, parse, texts};

/// Alice and bob in a group called room. Alice talks to the server through the proxy, also where she is not told to.
struct Scene {
    world: World,
    proxy: Proxy,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        world.register(&["bob"]);
        let proxy = Proxy::start(&world.url());
        let scene = Self { world, proxy };
        for command in [
            &["register", "--no-encryption", "alice"][..],
            &["group", "create", "room"],
            &["invite", "room", "bob"],
        ] {
            scene.alice(command);
        }
        scene.world.ok("bob", &["recv"]);
        scene
    }

    fn through<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["--server", &self.proxy.url], arguments].concat()
    }

    fn alice(&self, arguments: &[&str]) -> Vec<Value> {
        self.world.json("alice", &self.through(arguments))
    }

    /// Alice writes in a chat while she cannot reach the server, and this happens before she can again. Her exit code, and
    /// the last line that she was told.
    fn written_too_early(&self, meanwhile: impl FnOnce(&World)) -> (i32, Value) {
        self.proxy.rule(|_| Action::CutBefore);
        let mut chat = self
            .world
            .start("alice", &self.through(&["--json", "chat", "room"]));
        chat.types("too early");
        let kept = parse(&chat.line());
        assert_eq!(
            (&kept["status"], &kept["code"]),
            (&"pending".into(), &"unreachable".into())
        );
        meanwhile(&self.world);
        self.proxy.forward();
        chat.closes_input();
        let mut last = Value::Null;
        while let Some(line) = chat.next() {
            last = parse(&line);
        }
        (chat.ended(), last)
    }

    /// What has become of alice's message, as far as she knows.
    fn status(&self) -> Value {
        let mut rows = self.alice(&["history", "room"]);
        rows.retain(|row| row["text"] == "too early");
        assert_eq!(rows.len(), 1);
        rows[0]["status"].clone()
    }
}

/// What a chat says in the end of a message that was refused.
fn assert_told((exit, last): (i32, Value)) {
    assert_eq!((exit, &last["error"]["code"]), (3, &"not-sent".into()), "{last}");
    assert_eq!(
        last["error"]["message"],
        "a message that waited for the server was refused: larder retry sends it again"
    );
}

#[test]
fn who_was_removed_meanwhile_is_told_and_can_send_it_again() {
    let scene = Scene::new();
    assert_told(scene.written_too_early(|world| {
        world.ok("bob", &["remove", "room", "alice"]);
    }));
    assert_eq!(scene.status(), "failed");
    assert_eq!(texts(&scene.world.json("bob", &["recv"])), [] as [&str; 0]);
    scene.world.ok("bob", &["invite", "room", "alice"]);
    scene.alice(&["recv"]);
    scene.alice(&["retry", "room"]);
    assert_eq!(texts(&scene.world.json("bob", &["recv"])), ["too early"]);
}

#[test]
fn what_waited_does_not_reach_a_device_that_nobody_looked_at() {
    let scene = Scene::new();
    scene.alice(&["verify", "bob", "--mark"]);
    assert_told(scene.written_too_early(|world| linked(world, "phone", "bob")));
    assert_eq!(scene.status(), "failed");
    let retry = scene.world.run("alice", &scene.through(&["retry", "room"]));
    assert_eq!(retry.code, 3, "{retry:?}");
    let of_bob = || ["bob", "phone"].map(|device| texts(&scene.world.json(device, &["recv"])));
    assert_eq!(of_bob(), [[] as [String; 0], []]);
    scene.alice(&["verify", "bob", "--mark"]);
    scene.alice(&["retry", "room"]);
    assert_eq!(of_bob(), [["too early"], ["too early"]]);
}
