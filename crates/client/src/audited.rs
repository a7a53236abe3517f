use std::fmt;

use larder_wire::{AuditRow, KeyPackageRef};

/// What the directory tells of this device's KeyPackages, and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// Everything that happened, oldest first, as the server tells it.
    pub rows: Vec<AuditRow>,
    /// The beginning that the server has removed because of its age; `None` while all is there.
    pub pruned: Option<Pruned>,
    /// The server says that it was restored from a backup, and has forgotten rows that this device saw before.
    pub restored: bool,
    /// What is wrong first; `None` when all of it holds.
    pub flaw: Option<AuditFlaw>,
}

/// The beginning of an audit that was removed because of its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// The last row that was removed.
    pub through: u64,
    /// The last row that this device saw before, if rows after it were removed that it never saw: whether what it saw is the
    /// beginning of what is told now cannot be verified any more.
    pub unverifiable_after: Option<u64>,
}

impl fmt::Display for Pruned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            through,
            unverifiable_after,
        } = self;
        write!(f, "the rows up to {through} were removed after 90 days or more")?;
        match unverifiable_after {
            None => Ok(()),
            Some(seen) => write!(
                f,
                "; this device saw row {seen} before, and what came between cannot be verified"
            ),
        }
    }
}

/// Why an audit does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AuditFlaw {
    /// This row is missing, or its hash is not that of its content after the row before.
    Broken {
        /// The row's number.
        seq: u64,
    },
    /// The chain holds, but it is another one than this device saw before.
    Rewritten {
        /// The last row that was seen.
        seen: u64,
    },
    /// The chain is shorter than the one that this device saw before.
    Shortened {
        /// The last row that was seen.
        seen: u64,
        /// The last row now.
        now: u64,
    },
    /// The server has removed rows, as if they were too old, that cannot be so old yet.
    Hidden {
        /// The last row that was removed.
        through: u64,
    },
    /// This row cannot follow what happened to its KeyPackage before.
    Impossible {
        /// The row's number.
        seq: u64,
    },
    /// By this row a single-use KeyPackage was handed out a second time.
    HandedOutTwice {
        /// The row's number.
        seq: u64,
    },
    /// By this row a KeyPackage was uploaded that this device never had.
    NotOurs {
        /// The row's number.
        seq: u64,
    },
    /// This device joined a group with this KeyPackage, and the audit does not tell of it.
    Untold {
        /// The KeyPackage.
        key_package_ref: KeyPackageRef,
    },
}

impl AuditFlaw {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Broken { .. } => "broken",
            Self::Rewritten { .. } => "rewritten",
            Self::Shortened { .. } | Self::Hidden { .. } => "shortened",
            Self::Impossible { .. } => "impossible",
            Self::HandedOutTwice { .. } => "handed-out-twice",
            Self::NotOurs { .. } => "not-ours",
            Self::Untold { .. } => "untold",
        }
    }
}

impl fmt::Display for AuditFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { seq } => write!(f, "row {seq} is missing or was changed"),
            Self::Rewritten { seen } => {
                write!(
                    f,
                    "it was rewritten: row {seen} is not the one that this device saw before"
                )
            }
            Self::Shortened { seen, now } => {
                write!(f, "it ends with row {now}, and this device saw row {seen} before")
            }
            Self::Hidden { through } => {
                write!(
                    f,
                    "the rows up to {through} are gone, which cannot all be 90 days old yet"
                )
            }
            Self::Impossible { seq } => {
                write!(
                    f,
                    "row {seq} cannot follow what happened to its KeyPackage before"
                )
            }
            Self::HandedOutTwice { seq } => write!(f, "row {seq} hands a KeyPackage out a second time"),
            Self::NotOurs { seq } => {
                write!(f, "row {seq} uploads a KeyPackage that this device never had")
            }
            Self::Untold { key_package_ref } => write!(
                f,
                "this device joined a group with KeyPackage {key_package_ref}, and no row tells of it"
            ),
        }
    }
}
