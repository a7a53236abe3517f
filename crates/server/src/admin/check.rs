use larder_lifecycle::DirectoryPolicy;
use larder_wire::{GroupId, KeyPackageRef};
use openmls_rust_crypto::RustCrypto;

use super::directory::check_device;
use super::{Admin, Checked, Finding, FindingCode, fault};
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceRow, Tx};

/// Findings of one kind that concern no device and no group are reported up to this number.
const STRAYS_MAX: u32 = 1000;

/// What a check of a part of the store collects.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) found: Vec<Finding>,
    pub(super) key_packages: u64,
}

impl Findings {
    pub(super) fn add(&mut self, code: FindingCode, subject: impl ToString, detail: impl Into<String>) {
        self.found.push(Finding {
            code,
            subject: subject.to_string(),
            detail: detail.into(),
        });
    }
}

impl Admin {
    /// Checks all that is stored against itself: the audit chains against the states of the KeyPackages, these against
    /// their bytes, the rosters against the groups' public states, the numbers of their logs, and blobs against their parts. Changes nothing. Each device and each group is read in one snapshot and held in memory alone; `report` is called for
    /// each finding, as it comes.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read. What cannot be understood is a finding.
    pub async fn check(&self, mut report: impl FnMut(Finding)) -> Result<Checked, Fault> {
        let mut checked = Checked::default();
        let mut tell = |findings: Findings, checked: &mut Checked| {
            checked.key_packages += findings.key_packages;
            checked.findings += findings.found.len() as u64;
            findings.found.into_iter().for_each(&mut report);
        };
        let mut last = None;
        while let Some((device, findings)) = self.read(move |tx| next_device(tx, last)).await? {
            last = Some(device);
            checked.devices += 1;
            tell(findings, &mut checked);
        }
        let mut last: Option<GroupId> = None;
        loop {
            let after = last.clone();
            let next = self.read(move |tx| next_group(tx, after.as_ref())).await?;
            let Some((group, findings)) = next else {
                break;
            };
            last = Some(group);
            checked.groups += 1;
            tell(findings, &mut checked);
        }
        tell(self.read(strays).await?, &mut checked);
        Ok(checked)
    }

    async fn read<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: Fn(&Tx<'_>) -> Result<T, Fault> + Send + 'static,
    {
        self.store.read(move |tx| Ok(work(tx)?)).await.map_err(fault)
    }
}

/// Checks a part of the store; what of it cannot be understood is a finding about `subject`.
fn understood(
    subject: &str,
    check: impl FnOnce(&mut Findings) -> Result<(), ServiceError>,
) -> Result<Findings, Fault> {
    let mut findings = Findings::default();
    match check(&mut findings).map_err(fault) {
        Ok(()) => {}
        Err(Fault::Corrupt(what)) => findings.add(FindingCode::Unreadable, subject, what),
        Err(other) => return Err(other),
    }
    Ok(findings)
}

fn next_device(
    tx: &Tx<'_>,
    after: Option<crate::store::DeviceKey>,
) -> Result<Option<(crate::store::DeviceKey, Findings)>, Fault> {
    let Some(device) = tx.device_after(after)? else {
        return Ok(None);
    };
    let subject = device.identity();
    let findings = understood(&subject, |findings| {
        if !tx.is_registered(&device)? {
            let detail = "its name, its signature key or its user's name is not registered for it";
            findings.add(FindingCode::Registry, &subject, detail);
        }
        check_device(tx, &RustCrypto::default(), &device, findings)?;
        Ok(())
    })?;
    Ok(Some((device.key, findings)))
}

fn next_group(tx: &Tx<'_>, after: Option<&GroupId>) -> Result<Option<(GroupId, Findings)>, Fault> {
    let Some(group) = tx.group_after(after)? else {
        return Ok(None);
    };
    let findings = understood(&group.to_string(), |findings| {
        crate::delivery::check_group(tx, &group, |problem| {
            let code = match problem {
                crate::delivery::GroupProblem::Roster(_) => FindingCode::Roster,
                crate::delivery::GroupProblem::State(_) => FindingCode::GroupState,
            };
            findings.add(code, &group, problem.detail());
        })?;
        check_sequence(tx, &group, findings)?;
        Ok(())
    })?;
    Ok(Some((group, findings)))
}

fn check_sequence(tx: &Tx<'_>, group: &GroupId, findings: &mut Findings) -> Result<(), Fault> {
    let numbers = tx.log_numbers(group)?;
    let mut wrong = |detail: &str| findings.add(FindingCode::GroupSequence, group, detail);
    if numbers.highest.is_some_and(|highest| highest >= numbers.next) {
        wrong("something was accepted under a number that was not given yet");
    }
    if numbers.commits != numbers.commit_epochs {
        wrong("an epoch has more than one Commit");
    }
    if numbers
        .highest_commit_epoch
        .is_some_and(|epoch| epoch >= numbers.epoch)
    {
        wrong("a Commit was accepted in an epoch that has not ended");
    }
    if numbers.commits != numbers.epoch {
        wrong("there is an epoch that no Commit has led to");
    }
    if numbers.highest_handshake.unwrap_or(0) != numbers.state {
        wrong("the public state is not the one after the last Commit or proposal");
    }
    if numbers.message_bytes != numbers.waiting_bytes
        || numbers.commit_and_proposal_bytes != numbers.handshake_bytes
    {
        wrong("the bytes of the bodies are not those that were counted");
    }
    if numbers.intervals_beyond > 0 {
        let detail = "a member's rows begin, end or are acknowledged where there are none yet";
        findings.add(FindingCode::InboxNumbers, group, detail);
    }
    Ok(())
}

/// What belongs to no device and no group.
fn strays(tx: &Tx<'_>) -> Result<Findings, Fault> {
    let mut findings = Findings::default();
    for (group, seq) in tx.bodies_without_a_row(STRAYS_MAX)? {
        let detail = format!("there is a body of row {seq}, which has none");
        findings.add(FindingCode::Body, group, detail);
    }
    for (group, seq) in tx.rows_without_a_body(STRAYS_MAX)? {
        let detail = format!("row {seq} has no body, or one of another size");
        findings.add(FindingCode::Body, group, detail);
    }
    for (group, seq) in tx.trees_without_a_welcome(STRAYS_MAX)? {
        let detail = format!("there is a ratchet tree of row {seq}, which has no Welcome");
        findings.add(FindingCode::RatchetTree, group, detail);
    }
    for (key_package_ref, owner) in tx.reservations_of_nothing(STRAYS_MAX)? {
        let detail = format!("it is reserved, and device {owner} has no such KeyPackage");
        findings.add(FindingCode::Reservation, key_package_ref, detail);
    }
    let (counted, stored) = (tx.blob_bytes()?, tx.sizes_of_blobs()?);
    if counted != stored {
        let detail = format!("{counted} bytes were counted, and there are {stored}");
        findings.add(FindingCode::Totals, "files", detail);
    }
    for (blob, stored) in tx.blobs_of_other_sizes(STRAYS_MAX)? {
        let detail = format!("its parts are not, in order, the {stored} bytes that are stored of it");
        findings.add(FindingCode::Blob, blob, detail);
    }
    for blob in tx.blobs_without_a_name(STRAYS_MAX)? {
        findings.add(FindingCode::Blob, blob, "nobody finds it by its name");
    }
    for (what, id) in tx.names_of_nothing(STRAYS_MAX)? {
        let detail = format!("what is registered for a {what} is not that of any");
        findings.add(FindingCode::Registry, id, detail);
    }
    for blob in tx.parts_of_no_blob(STRAYS_MAX)? {
        findings.add(
            FindingCode::Blob,
            blob,
            "there are parts of it, and it is not there",
        );
    }
    Ok(findings)
}

/// A KeyPackage of `device`, in a finding's words.
pub(super) fn of_device(key_package_ref: &KeyPackageRef, device: &DeviceRow) -> String {
    format!("{key_package_ref} of {}", device.identity())
}

/// What the check takes as the bounds of KeyPackages: a deployment may be stricter.
pub(super) fn policy() -> DirectoryPolicy {
    DirectoryPolicy::default()
}
