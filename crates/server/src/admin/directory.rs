//! A device's KeyPackages against its audit chain and against their own bytes.

use std::collections::BTreeMap;

use larder_lifecycle::{DirectoryState, End, Kind, ReservationState, UnixSeconds};
use larder_wire::{
    AUDIT_PAGE_ROWS_MAX, AuditChain, AuditTransition, KeyPackageCheck, KeyPackageHistory, KeyPackageRef,
};
use openmls_rust_crypto::RustCrypto;

use super::FindingCode;
use super::check::{Findings, of_device, policy};
use crate::directory::validate;
use crate::error::Fault;
use crate::store::{Content, DeviceRow, KeyPackageRow, Stored, Tx};

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
    let end_of_stock = tx.end_of_stock(device.key)?;
    for row in tx.key_packages_of(device.key)? {
        findings.key_packages += 1;
        let state = row.listed.state;
        let told = histories.take(&row.key_package_ref, row.uploaded_at);
        let open = match (row.listed.kind, &row.listed.reservation) {
            (Kind::LastResort, _) => tx.count_open_on_last_resort(device.key, &row.key_package_ref)?,
            // The audit tells of what was withdrawn, and not that nobody can use the reservation any more.
            (Kind::SingleUse, Some(held)) => u32::from(matches!(
                held.state,
                ReservationState::Open | ReservationState::Revoked
            )),
            (Kind::SingleUse, None) => 0,
        };
        if !tells_of(&told, &row.listed, open) {
            let detail = format!(
                "it is {:?} with {open} reservations, and the audit tells otherwise: {}",
                state.status(),
                in_words(&told)
            );
            findings.add(
                FindingCode::AuditState,
                of_device(&row.key_package_ref, device),
                detail,
            );
        }
        live += u32::from(row.listed.kind == Kind::SingleUse && !state.has_ended());
        if row.listed.kind == Kind::SingleUse
            && state == DirectoryState::Available
            && end_of_stock.is_none_or(|end| end > row.lifetime.not_after)
        {
            findings.add(
                FindingCode::KeyPackageRow,
                of_device(&row.key_package_ref, device),
                "it ends before its device's row says that any does".to_owned(),
            );
        }
        let content = tx.key_package_content(device.key, &row.key_package_ref)?;
        check_bytes(crypto, device, (&row, &content), findings);
    }
    if live > policy().hard_cap {
        let detail = format!("{live} live KeyPackages");
        findings.add(FindingCode::OverCap, device.identity(), detail);
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

/// Whether an audit tells of a KeyPackage in this state, with so many `open` reservations.
fn tells_of(told: &KeyPackageHistory, listed: &Stored, open: u32) -> bool {
    let ended = match listed.state {
        DirectoryState::Available | DirectoryState::Taken | DirectoryState::Retiring { .. } => None,
        // Its reservation tells.
        DirectoryState::Ended(End::Spent | End::Lapsed) => None,
        DirectoryState::Ended(End::Revoked) => Some(AuditTransition::Revoke),
        DirectoryState::Ended(End::Expired) if listed.kind == Kind::SingleUse => {
            Some(AuditTransition::Expire)
        }
        DirectoryState::Ended(End::Expired | End::Gone) => Some(AuditTransition::Gone),
    };
    let retired = match listed.state {
        DirectoryState::Retiring { .. } | DirectoryState::Ended(End::Gone) => Some(true),
        // A last resort may have retired before.
        DirectoryState::Ended(End::Expired | End::Revoked) if listed.kind == Kind::LastResort => None,
        DirectoryState::Available | DirectoryState::Taken | DirectoryState::Ended(_) => Some(false),
    };
    let (used, spent) = (
        u32::from(listed.used),
        u32::from(listed.state == DirectoryState::Ended(End::Spent)),
    );
    if told.pruned {
        // Nothing that is told may be too much.
        let fits = match listed.kind {
            Kind::SingleUse => told.reserved <= used && told.committed <= spent,
            Kind::LastResort => listed.used || told.reserved == 0,
        };
        return fits
            && told.open <= open
            && (retired != Some(false) || !told.retired)
            && (told.ended.is_none() || told.ended == ended);
    }
    let fits = match listed.kind {
        Kind::SingleUse => told.reserved == used && told.committed == spent,
        Kind::LastResort => listed.used == (told.reserved > 0),
    };
    let uploaded = *told != KeyPackageHistory::default();
    let retired = retired.is_none_or(|retired| retired == told.retired);
    uploaded && fits && retired && told.open == open && told.ended == ended
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

/// S6: the bytes are what the row says, and would be accepted as their owner's again.
fn check_bytes(
    crypto: &RustCrypto,
    device: &DeviceRow,
    (row, content): (&KeyPackageRow, &Content),
    findings: &mut Findings,
) {
    let mut wrong = |code, detail: &str| {
        findings.add(code, of_device(&row.key_package_ref, device), detail);
    };
    let bytes = match (&content.bytes, !row.listed.state.has_ended()) {
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
    let suites = [row.suite];
    let validated = match validate(crypto, bytes, device, (&policy(), &suites), row.uploaded_at) {
        Ok(validated) => validated,
        // A deployment may have accepted what the defaults would not.
        Err((named, KeyPackageCheck::LifetimeTooShort | KeyPackageCheck::NotYetValid)) => {
            if named.as_ref() != Some(&row.key_package_ref) {
                wrong(
                    FindingCode::KeyPackageRow,
                    "its bytes are those of another KeyPackage",
                );
            }
            return;
        }
        Err((_, check)) => return wrong(FindingCode::KeyPackageInvalid, check.code()),
    };
    if validated.key_package_ref != row.key_package_ref {
        wrong(
            FindingCode::KeyPackageRow,
            "its bytes are those of another KeyPackage",
        );
    } else if validated.init_key_hash[..] != content.init_key_hash {
        wrong(
            FindingCode::KeyPackageRow,
            "its init key is not the one in its row",
        );
    } else if validated.encryption_key_hash[..] != content.encryption_key_hash {
        wrong(
            FindingCode::KeyPackageRow,
            "its encryption key is not the one in its row",
        );
    } else if validated.lifetime != row.lifetime {
        wrong(
            FindingCode::KeyPackageRow,
            "its lifetime is not the one in its row",
        );
    } else if validated.kind != row.listed.kind {
        wrong(FindingCode::KeyPackageRow, "it is of the other kind");
    }
}
