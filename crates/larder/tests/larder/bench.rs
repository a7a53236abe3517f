//! What a server costs, as it is measured.

use serde_json::Value;

use crate::support::World;

/// The rows of `bench groups --quick`: work and devices. Another process's memory can be read on Linux.
fn rows() -> Vec<(&'static str, Option<u64>)> {
    let mut rows = vec![
        ("message", Some(3)),
        ("message", Some(10)),
        ("commit", Some(3)),
        ("commit", Some(10)),
        ("fan_out", Some(3)),
        ("fan_out", Some(10)),
    ];
    if cfg!(target_os = "linux") {
        rows.extend([
            ("idle", None),
            ("connected", Some(10)),
            ("connected", Some(20)),
            ("group_info", Some(10)),
        ]);
    }
    rows
}

#[test]
fn every_row_of_what_groups_cost_is_measured_and_nothing_is_left() {
    let world = World::without_server();
    let measured = world.json("p", &["bench", "groups", "--quick"]);
    let found: Vec<(&str, Option<u64>)> = measured
        .iter()
        .map(|row| (row["work"].as_str().unwrap(), row["devices"].as_u64()))
        .collect();
    assert_eq!(found, rows());
    for row in &measured {
        assert_eq!(
            (&row["type"], &row["engine"]),
            (&"measured".into(), &"sqlite".into())
        );
        for number in ["larder", "limit", "ratio", "samples"] {
            assert!(row[number].as_f64().is_some_and(|number| number > 0.0), "{row}");
        }
        let held_against = row["larder"].as_f64().unwrap() / row["limit"].as_f64().unwrap();
        let ratio = row["ratio"].as_f64().unwrap();
        // The figures are rounded each for itself.
        assert!((ratio - held_against).abs() <= 0.001 + 0.01 * ratio, "{row}");
    }
    let left: Vec<_> = std::fs::read_dir(world.path("")).unwrap().collect();
    assert!(left.iter().all(|entry| !is_of_bench(entry)), "{left:?}");
}

/// The rows of `bench server --quick`: work, and what it is held against.
const SERVER_ROWS: [(&str, &str); 8] = [
    ("reserve", "HTTP alone"),
    ("reserve", "a bare group commit"),
    ("reserve_p99", "HTTP alone"),
    ("reserve_hot", "HTTP alone"),
    ("reserve_hot", "a bare group commit"),
    ("read", "/healthz"),
    ("upload", "the same checked by OpenMLS alone"),
    ("session", "two requests of HTTP alone"),
];

#[test]
fn every_row_of_what_a_directory_costs_is_measured() {
    let world = World::without_server();
    let measured = world.json("p", &["bench", "server", "--quick", "--stored", "960"]);
    let found: Vec<(&str, &str)> = measured
        .iter()
        .map(|row| (row["work"].as_str().unwrap(), row["limit_of"].as_str().unwrap()))
        .collect();
    assert_eq!(found, SERVER_ROWS);
    for row in &measured {
        assert_eq!((&row["stored"], &row["connections"]), (&960.into(), &4.into()));
        for number in ["larder", "limit", "samples"] {
            assert!(row[number].as_f64().is_some_and(|number| number > 0.0), "{row}");
        }
        // A small one is rounded.
        assert!(row["ratio"].as_f64().is_some_and(|ratio| ratio >= 0.0), "{row}");
    }
    let left: Vec<_> = std::fs::read_dir(world.path("")).unwrap().collect();
    assert!(left.iter().all(|entry| !is_of_bench(entry)), "{left:?}");
}

fn is_of_bench(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
    let name = entry.as_ref().unwrap().file_name();
    name.to_string_lossy().starts_with("larder-bench-")
}

#[test]
fn people_get_a_table_with_a_line_for_each_row() {
    let world = World::without_server();
    let table = world.ok("p", &["bench", "groups", "--quick"]);
    let mut lines = table.lines();
    let heading: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(heading[..3], ["Larder", "limit", "ratio"]);
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), rows().len(), "{table}");
    for (line, (work, devices)) in lines.iter().zip(rows()) {
        let words = match work {
            "message" => "message to ",
            "commit" => "Commit adding one to ",
            "fan_out" => "fan-out to ",
            "idle" => "memory of an idle server",
            "connected" => "memory for each of ",
            _ => "memory for 12 reads at once, ",
        };
        let number = devices.map_or_else(String::new, |devices| devices.to_string());
        assert!(line.starts_with(&format!("{words}{number}")), "{line}");
        // Behind the widest of them come the two figures and the ratio.
        let (_, figures) = line.split_at(46);
        let ratio = figures
            .split_whitespace()
            .find_map(|word| word.parse::<f64>().ok());
        assert!(ratio.is_some(), "{line}");
    }
}

#[test]
fn only_a_database_of_postgresql_is_measured_instead() {
    let world = World::without_server();
    let bench = |store| world.run("p", &["bench", "groups", "--quick", "--json", "--store", store]);
    for store in [
        "larder.db",
        "sqlite://larder.db",
        "postgres://localhost/larder?options=-csearch_path%3Dmine",
    ] {
        let refused = bench(store);
        let told: Value = serde_json::from_str(&refused.out).unwrap();
        assert_eq!(
            (refused.code, told["error"]["code"].as_str()),
            (2, Some("not-postgresql")),
            "{store}: {told}"
        );
    }
}
