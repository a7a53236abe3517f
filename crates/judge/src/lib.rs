//! The verdict on a Commit: what anybody may change about who is in a group.
//!
//! MLS (RFC 9420) leaves to the application who a leaf is, and who may come in by an external Commit. [`Judge`] decides it,
//! in one place: the server asks before it accepts a Commit, every client before it takes one over and before it sends one of
//! its own, and whoever replays a group's Commits asks again. A proposal that waits for a Commit is judged in the same words.
//!
//! A device that was never in a group comes in by itself only with [`Evidence`] in its Commit's authenticated data: the
//! signatures by which a device that is in the group let it in, perhaps over others. One that leaves says so by a [`Departure`].
//!
//! [`named_in_tree`] tells who a tree names that nobody has verified.
//!
//! Whoever keeps the [`PublicState`] of a group can follow it later, from outside: a [`Replay`] of its Commits shows whether they
//! lead to the group that a GroupInfo describes.
//!
//! # Architecture invariant
//!
//! A verdict depends on nothing but the group's public state before, the name of the server that links are signed for, and the
//! bytes of the Commit; otherwise one member would take over what another refuses, and the group would be two. Absent here:
//! databases, networks, clocks (OpenMLS reads one when it judges the lifetime of an added KeyPackage), secrets of a group, and
//! whatever only one side knows: accounts, reservations, pinned and verified keys, devices that are known to be removed. Those
//! decide what else a server refuses, and what a client tells and sends; never the verdict.

mod compressed;
mod departure;
mod evidence;
mod handshake;
mod judge;
mod leaf;
mod link;
mod named;
mod parts;
mod public_state;
mod replay;
mod verdict;

pub use compressed::{compress, decompress};
pub use departure::{Departure, MalformedDeparture};
pub use evidence::{EVIDENCE_BYTES_MAX, Evidence, LINKS_MAX, MalformedEvidence};
pub use handshake::{Handshake, Unreadable};
pub use judge::Judge;
pub use leaf::{Leaf, who};
pub use link::{Link, link_verifies, removal_verifies};
pub use named::named_in_tree;
pub use public_state::{MalformedState, PublicState};
pub use replay::{Replay, signed_by};
pub use verdict::{Entrance, JudgedCommit, JudgedProposal, NotTaken, Rule};
