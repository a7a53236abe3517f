//! Who a ratchet tree names, before anything of it is verified.

use std::collections::BTreeSet;

use larder_wire::{DeviceId, UserName, parse_credential_identity};

use crate::parts::{MalformedPart, take};

/// A leaf, of the nodes of a ratchet tree (RFC 9420 §7.8).
const LEAF: u8 = 1;
const PARENT: u8 = 2;
/// A `basic` credential (RFC 9420 §5.3).
const BASIC: [u8; 2] = [0, 1];
/// The vectors of a leaf's capabilities (RFC 9420 §7.2).
const CAPABILITIES: usize = 5;
/// What a leaf was made in (RFC 9420 §7.2): a KeyPackage, an Update, a Commit.
const FROM_KEY_PACKAGE: u8 = 1;
const FROM_UPDATE: u8 = 2;
const FROM_COMMIT: u8 = 3;
/// The two times of a KeyPackage's lifetime, in bytes.
const LIFETIME_BYTES: usize = 16;

/// Reads who the leaves of a ratchet tree (RFC 9420 §12.4.3.3) name; `None` for bytes that are not one, and for a leaf that names
/// no device of a user. Nothing is verified: whoever gives the tree can name anybody.
pub fn named_in_tree(tree: &[u8]) -> Option<BTreeSet<(UserName, DeviceId)>> {
    read(tree).ok()
}

fn read(tree: &[u8]) -> Result<BTreeSet<(UserName, DeviceId)>, MalformedPart> {
    let (nodes, rest) = take(tree)?;
    if !rest.is_empty() {
        return Err(MalformedPart);
    }
    let mut rest = nodes.as_slice();
    let mut named = BTreeSet::new();
    while !rest.is_empty() {
        let (is_there, after) = byte(rest)?;
        rest = match is_there {
            0 => after,
            1 => node(after, &mut named)?,
            _ => return Err(MalformedPart),
        };
    }
    Ok(named)
}

fn node<'a>(bytes: &'a [u8], named: &mut BTreeSet<(UserName, DeviceId)>) -> Result<&'a [u8], MalformedPart> {
    let (kind, rest) = byte(bytes)?;
    match kind {
        // Encryption key, signature key, credential, capabilities, source, extensions, signature.
        LEAF => {
            let rest = skip(rest, 2)?;
            let (credential, rest) = rest.split_first_chunk().ok_or(MalformedPart)?;
            let (identity, rest) = take(rest)?;
            if *credential != BASIC {
                return Err(MalformedPart);
            }
            named.insert(parse_credential_identity(&identity).map_err(|_| MalformedPart)?);
            let (source, rest) = byte(skip(rest, CAPABILITIES)?)?;
            let rest = match source {
                FROM_KEY_PACKAGE => rest.get(LIFETIME_BYTES..).ok_or(MalformedPart)?,
                FROM_UPDATE => rest,
                FROM_COMMIT => skip(rest, 1)?,
                _ => return Err(MalformedPart),
            };
            skip(rest, 2)
        }
        // Encryption key, parent hash, unmerged leaves.
        PARENT => skip(rest, 3),
        _ => Err(MalformedPart),
    }
}

fn byte(bytes: &[u8]) -> Result<(u8, &[u8]), MalformedPart> {
    bytes
        .split_first()
        .map(|(byte, rest)| (*byte, rest))
        .ok_or(MalformedPart)
}

fn skip(bytes: &[u8], parts: usize) -> Result<&[u8], MalformedPart> {
    (0..parts).try_fold(bytes, |rest, _| take(rest).map(|(_, rest)| rest))
}
