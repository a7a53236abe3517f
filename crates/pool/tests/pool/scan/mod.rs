//! Looks for private keys in files, in every form in which something might have written them there.
#![allow(unreachable_pub, reason = "test binaries have no public interface")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A key counts as found when this many of its bytes in a row are.
const WINDOW_BYTES: usize = 12;
const PROBE_BYTES: usize = 8;

/// Searches for many keys at once.
pub struct Scanner {
    /// The needles by their first bytes.
    needles: BTreeMap<[u8; PROBE_BYTES], Vec<Needle>>,
    /// The first two bytes of the needles, to skip what cannot match.
    begins: Vec<bool>,
}

struct Needle {
    bytes: Vec<u8>,
    key: usize,
    form: &'static str,
}

/// A key, by its number, in a file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub file: PathBuf,
    pub key: usize,
    pub form: &'static str,
}

impl Scanner {
    pub fn new(keys: &[Vec<u8>]) -> Self {
        let mut scanner = Self {
            needles: BTreeMap::new(),
            begins: vec![false; 1 << 16],
        };
        for (key, bytes) in keys.iter().enumerate() {
            assert!(bytes.len() >= 2 * WINDOW_BYTES, "not a private key");
            for window in bytes.windows(WINDOW_BYTES) {
                for (form, bytes) in forms(window) {
                    scanner.begins[usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))] = true;
                    let probe = bytes[..PROBE_BYTES].try_into().unwrap();
                    let needle = Needle { bytes, key, form };
                    scanner.needles.entry(probe).or_default().push(needle);
                }
            }
        }
        scanner
    }

    /// The numbers of the keys that occur, with the form of their first occurrence.
    pub fn scan(&self, haystack: &[u8]) -> BTreeSet<(usize, &'static str)> {
        let mut found = BTreeSet::new();
        for (at, probe) in haystack.windows(PROBE_BYTES).enumerate() {
            if !self.begins[usize::from(u16::from_be_bytes([probe[0], probe[1]]))] {
                continue;
            }
            let candidates = self.needles.get(probe).into_iter().flatten();
            for needle in candidates.filter(|needle| haystack[at..].starts_with(&needle.bytes)) {
                found.insert((needle.key, needle.form));
            }
        }
        found
    }

    /// Scans every file of these directories: database, log, index of the log, journal and whatever else is there.
    pub fn scan_files(&self, directories: &[&Path]) -> BTreeSet<Finding> {
        let mut findings = BTreeSet::new();
        for directory in directories {
            for entry in fs::read_dir(directory).unwrap() {
                let file = entry.unwrap().path();
                let found = self.scan(&fs::read(&file).unwrap());
                findings.extend(found.into_iter().map(|(key, form)| Finding {
                    file: file.clone(),
                    key,
                    form,
                }));
            }
        }
        findings
    }

    /// How many of the keys are in any file of the directory.
    pub fn keys_in(&self, directory: &Path) -> usize {
        let findings = self.scan_files(&[directory]);
        let keys: BTreeSet<usize> = findings.into_iter().map(|finding| finding.key).collect();
        keys.len()
    }
}

/// What these bytes look like when they are stored as themselves, or as text, or as a list of numbers.
fn forms(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut forms = vec![
        ("raw", bytes.to_vec()),
        ("hex", hex(bytes)),
        ("HEX", hex(bytes).to_ascii_uppercase()),
        ("JSON", decimal(bytes, ",")),
        ("JSON with spaces", decimal(bytes, ", ")),
        ("CBOR", numbers(bytes, 24, 0x18)),
        ("MessagePack", numbers(bytes, 128, 0xcc)),
    ];
    for skipped in 0..3 {
        let standard = base64_inner(bytes, skipped);
        let url = standard
            .iter()
            .map(|&character| match character {
                b'+' => b'-',
                b'/' => b'_',
                other => other,
            })
            .collect();
        forms.push(("base64", standard));
        forms.push(("base64url", url));
    }
    forms
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .flat_map(|byte| format!("{byte:02x}").into_bytes())
        .collect()
}

fn decimal(bytes: &[u8], separator: &str) -> Vec<u8> {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    numbers.join(separator).into_bytes()
}

/// An array of integers: those below `small` are one byte, the others have a byte in front.
fn numbers(bytes: &[u8], small: u8, marker: u8) -> Vec<u8> {
    bytes
        .iter()
        .flat_map(|&byte| {
            if byte < small {
                vec![byte]
            } else {
                vec![marker, byte]
            }
        })
        .collect()
}

/// The base64 characters that these bytes alone decide when `skipped` bytes come before them.
fn base64_inner(bytes: &[u8], skipped: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = |at: usize| (bytes[at / 8 - skipped] >> (7 - at % 8)) & 1;
    let first = (8 * skipped).div_ceil(6);
    let end = 8 * (skipped + bytes.len()) / 6;
    (first..end)
        .map(|character| {
            let value = (6 * character..6 * character + 6).fold(0, |value, at| value << 1 | bits(at));
            ALPHABET[usize::from(value)]
        })
        .collect()
}

#[test]
fn every_form_of_a_key_is_recognised_and_other_bytes_are_not() {
    let key: Vec<u8> = (0..32u8).map(|n| n.wrapping_mul(41).wrapping_add(7)).collect();
    let scanner = Scanner::new(&[vec![0xee; 32], key.clone()]);
    let only = |haystack: &[u8], form: &str| {
        let found = scanner.scan(haystack);
        assert!(
            found.iter().any(|(key, found)| (*key, *found) == (1, form)),
            "{form}: {found:?}"
        );
        assert!(found.iter().all(|(key, _)| *key == 1));
    };
    let around = |inner: Vec<u8>| [b"before".to_vec(), inner, b"after".to_vec()].concat();
    only(&around(key.clone()), "raw");
    only(&around(key[9..9 + WINDOW_BYTES].to_vec()), "raw");
    only(&around(hex(&key)), "hex");
    only(&around(hex(&key).to_ascii_uppercase()), "HEX");
    only(compact_json(&key).as_bytes(), "JSON");
    only(&around(numbers(&key, 128, 0xcc)), "MessagePack");
    let mut cbor = Vec::new();
    ciborium::into_writer(&key, &mut cbor).unwrap();
    only(&cbor, "CBOR");
    // `base64 -w0` of the key behind no, one and two bytes; the middle of each depends on the key alone.
    for skipped in 0..3 {
        let padded = [vec![b'x'; skipped], key.clone()].concat();
        let encoded = base64_inner(&padded, 0);
        only(&encoded, "base64");
    }
    assert_eq!(base64_inner(b"any carnal pleas", 0), b"YW55IGNhcm5hbCBwbGVhc");
    assert!(scanner.scan(&around(key[..WINDOW_BYTES - 1].to_vec())).is_empty());
    assert!(scanner.scan(&[0x5a; 4096]).is_empty());
}

fn compact_json(bytes: &[u8]) -> String {
    format!("{{\"private\":{bytes:?}}}").replace(' ', "")
}
