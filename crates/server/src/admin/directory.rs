//! A device's KeyPackages against its audit chain and against their own bytes.

use std::collections::BTreeMap;

use larder_lifecycle::{DirectoryState, LastResortState, Lifetime, UnixSeconds};
use larder_wire::{
    AUDIT_PAGE_ROWS_MAX, AuditChain, AuditTransition, KeyPackageCheck, KeyPackageHistory, KeyPackageRef,
};
use openmls_rust_crypto::RustCrypto;

use super::FindingCode;
use super::check::{Findings, of_device, policy};
use crate::directory::validate;
use crate::error::Fault;
use crate::store::{Content, DeviceRow, Tx};

/// What an audit tells of each KeyPackage.
#[derive(Default)]
struct Histories {
    told: BTreeMap<KeyPackageRef, KeyPackageHistory>,
    /// What happened up to then may have been removed because of its age.
    pruned_until: Option<UnixSeconds>,
}

impl Histories {
    fn take(&mut self, key_package_ref: &KeyPackageRef, uploaded_at: UnixSeconds) -> KeyPackageHistory {
        let told = self.told.remove(key_package_ref);
        told.unwrap_or_else(|| match self.pruned_until {
            Some(until) if uploaded_at <= until => KeyPackageHistory::pruned(),
            _ => KeyPackageHistory::default(),
        })
    }
}

pub(super) fn check_device(
    tx: &Tx<'_>,
    crypto: &RustCrypto,
    device: &DeviceRow,
    findings: &mut Findings,
) -> Result<(), Fault> {
    let mut histories = check_audit(tx, device, findings)?;
    let mut live = 0;
    for row in tx.key_packages_of(device.key)? {
        findings.key_packages += 1;
        let status = row.state.status();
        let told = histories.take(&row.key_package_ref, row.uploaded_at);
        if !tells_of(&told, &row.state) {
            let detail = format!(
                "it is {status:?}, and the audit tells otherwise: {}",
                in_words(&told)
            );
            findings.add(
                FindingCode::AuditState,
                of_device(&row.key_package_ref, device),
                detail,
            );
        }
        live += u32::from(!status.is_terminal());
        let stored = Stored {
            key_package_ref: &row.key_package_ref,
            suite: row.suite,
            lifetime: row.lifetime,
            uploaded_at: row.uploaded_at,
            content: tx.key_package_content(&row.key_package_ref)?,
            kept: !status.is_terminal(),
            last_resort: false,
        };
        check_bytes(crypto, device, &stored, findings);
    }
    if live > policy().hard_cap {
        let detail = format!("{live} live KeyPackages");
        findings.add(FindingCode::OverCap, device.identity(), detail);
    }
    for row in tx.last_resorts_of(device.key)? {
        findings.key_packages += 1;
        let told = histories.take(&row.key_package_ref, row.uploaded_at);
        let reservations = tx.count_last_resort_reservations(&row.key_package_ref)?;
        if !tells_of_last_resort(&told, row.state, row.used, reservations) {
            let detail = format!(
                "the last resort is {:?} with {reservations} reservations, and the audit tells otherwise: {}",
                row.state,
                in_words(&told)
            );
            findings.add(
                FindingCode::AuditState,
                of_device(&row.key_package_ref, device),
                detail,
            );
        }
        let stored = Stored {
            key_package_ref: &row.key_package_ref,
            suite: row.suite,
            lifetime: row.lifetime,
            uploaded_at: row.uploaded_at,
            content: tx.last_resort_content(&row.key_package_ref)?,
            kept: row.state != LastResortState::Gone,
            last_resort: true,
        };
        check_bytes(crypto, device, &stored, findings);
    }
    // The rest was forgotten, long after its end.
    for (key_package_ref, told) in histories.told {
        let over = told.ended.is_some() || told.reserved > 0 || told.pruned;
        if told.open > 0 || !over {
            let detail = format!(
                "it is not there, and the audit tells otherwise: {}",
                in_words(&told)
            );
            findings.add(
                FindingCode::AuditState,
                of_device(&key_package_ref, device),
                detail,
            );
        }
    }
    Ok(())
}

/// Walks the chain, and gathers what it tells of each KeyPackage.
fn check_audit(tx: &Tx<'_>, device: &DeviceRow, findings: &mut Findings) -> Result<Histories, Fault> {
    let (mut chain, mut histories) = (AuditChain::default(), Histories::default());
    if let Some(checkpoint) = tx.audit_checkpoint(device.key)? {
        chain = AuditChain::after(&checkpoint).ok_or(Fault::Corrupt("the checkpoint of an audit"))?;
        histories.pruned_until = Some(UnixSeconds(checkpoint.time));
    }
    let (mut last, mut whole) = (0, true);
    let mut oldest = None;
    loop {
        let rows = tx.audit_rows(device.key, last, AUDIT_PAGE_ROWS_MAX)?;
        for row in &rows {
            last = row.seq;
            oldest = oldest.or(Some(UnixSeconds(row.time)));
            if whole && let Err(broken) = chain.follow(row) {
                whole = false;
                findings.add(FindingCode::AuditBroken, device.identity(), broken.to_string());
            }
            let begins = histories.pruned_until.is_none() || row.transition == AuditTransition::Upload;
            let history = histories.told.entry(row.key_package_ref.clone());
            let history = history.or_insert_with(|| match begins {
                true => KeyPackageHistory::default(),
                false => KeyPackageHistory::pruned(),
            });
            if let Err(impossible) = history.follow(row.transition) {
                let detail = format!("row {}: {impossible}", row.seq);
                findings.add(FindingCode::AuditTransition, device.identity(), detail);
            }
        }
        if rows.is_empty() {
            break;
        }
    }
    if whole && !chain.ends_at(&tx.audit_head(device.key)?) {
        let detail = format!("the chain ends with row {last}, and the device's row names another end");
        findings.add(FindingCode::AuditHead, device.identity(), detail);
    }
    if oldest != tx.audit_oldest(device.key)? {
        let detail = "the device's row names another time of the oldest row".to_owned();
        findings.add(FindingCode::AuditHead, device.identity(), detail);
    }
    Ok(histories)
}

/// Whether an audit tells of a KeyPackage in this state.
fn tells_of<D, G>(told: &KeyPackageHistory, state: &DirectoryState<D, G>) -> bool {
    let KeyPackageHistory {
        reserved,
        open,
        committed,
        ended,
        pruned,
        ..
    } = *told;
    let uploaded = *told != KeyPackageHistory::default();
    let expected = match state {
        DirectoryState::Available => (0, 0, 0, None),
        DirectoryState::Reserved { .. } => (1, 1, 0, None),
        DirectoryState::Spent { .. } => (1, 0, 1, None),
        DirectoryState::Lapsed => (1, 0, 0, None),
        DirectoryState::Expired => (0, 0, 0, Some(AuditTransition::Expire)),
        DirectoryState::Revoked => (reserved.min(1), reserved.min(1), 0, Some(AuditTransition::Revoke)),
    };
    if pruned {
        // Nothing that is told may be too much.
        let (most_reserved, most_open, most_committed, end) = expected;
        return !told.retired
            && reserved <= most_reserved
            && open <= most_open
            && committed <= most_committed
            && (ended.is_none() || ended == end);
    }
    uploaded && !told.retired && (reserved, open, committed, ended) == expected
}

/// Whether an audit tells of a last resort in this state.
fn tells_of_last_resort(
    told: &KeyPackageHistory,
    state: LastResortState,
    used: bool,
    reservations: u32,
) -> bool {
    let over = matches!(told.ended, Some(AuditTransition::Gone | AuditTransition::Revoke));
    let fits = match state {
        LastResortState::Active => told.ended.is_none() && !told.retired,
        LastResortState::Retiring { .. } => told.ended.is_none() && (told.retired || told.pruned),
        LastResortState::Gone => over || (told.pruned && told.ended.is_none()),
    };
    let uploaded = *told != KeyPackageHistory::default();
    if told.pruned {
        return fits && (used || told.reserved == 0) && told.open <= reservations;
    }
    uploaded && fits && used == (told.reserved > 0) && told.open == reservations
}

fn in_words(told: &KeyPackageHistory) -> String {
    if told.pruned {
        return "its first rows are gone, and the others do not fit".to_owned();
    }
    if *told == KeyPackageHistory::default() {
        return "never uploaded".to_owned();
    }
    let KeyPackageHistory {
        reserved,
        open,
        committed,
        retired,
        ended,
        ..
    } = told;
    let mut words = format!("reserved {reserved} times, {open} open, {committed} committed");
    if *retired {
        words.push_str(", retired");
    }
    if let Some(ended) = ended {
        words.push_str(", ended by ");
        words.push_str(ended.code());
    }
    words
}

/// A KeyPackage as it is stored.
struct Stored<'a> {
    key_package_ref: &'a KeyPackageRef,
    suite: u16,
    lifetime: Lifetime,
    uploaded_at: UnixSeconds,
    content: Content,
    /// Whether its bytes are kept.
    kept: bool,
    last_resort: bool,
}

/// S6: the bytes are what the row says, and would be accepted as their owner's again.
fn check_bytes(crypto: &RustCrypto, device: &DeviceRow, stored: &Stored<'_>, findings: &mut Findings) {
    let mut wrong = |code, detail: &str| {
        findings.add(code, of_device(stored.key_package_ref, device), detail);
    };
    let bytes = match (&stored.content.bytes, stored.kept) {
        (Some(bytes), true) => bytes,
        (None, false) => return,
        (None, true) => return wrong(FindingCode::KeyPackageBytes, "its bytes are missing"),
        (Some(_), false) => {
            return wrong(
                FindingCode::KeyPackageBytes,
                "it is over, and its bytes are still there",
            );
        }
    };
    let suites = [stored.suite];
    let validated = match validate(crypto, bytes, device, (&policy(), &suites), stored.uploaded_at) {
        Ok(validated) => validated,
        // A deployment may have accepted what the defaults would not.
        Err((named, KeyPackageCheck::LifetimeTooShort | KeyPackageCheck::NotYetValid)) => {
            if named.as_ref() != Some(stored.key_package_ref) {
                wrong(
                    FindingCode::KeyPackageRow,
                    "its bytes are those of another KeyPackage",
                );
            }
            return;
        }
        Err((_, check)) => return wrong(FindingCode::KeyPackageInvalid, check.code()),
    };
    if validated.key_package_ref != *stored.key_package_ref {
        wrong(
            FindingCode::KeyPackageRow,
            "its bytes are those of another KeyPackage",
        );
    } else if validated.init_key_hash[..] != stored.content.init_key_hash {
        wrong(
            FindingCode::KeyPackageRow,
            "its init key is not the one in its row",
        );
    } else if validated.encryption_key_hash[..] != stored.content.encryption_key_hash {
        wrong(
            FindingCode::KeyPackageRow,
            "its encryption key is not the one in its row",
        );
    } else if validated.lifetime != stored.lifetime {
        wrong(
            FindingCode::KeyPackageRow,
            "its lifetime is not the one in its row",
        );
    } else if validated.is_last_resort != stored.last_resort {
        wrong(FindingCode::KeyPackageRow, "it is of the other kind");
    }
}
