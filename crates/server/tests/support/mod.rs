//! A real server on a free loopback port with a clock that tests can move, and devices to talk to it.

mod device;
mod groups;
mod http;
mod server;

pub(crate) use device::{Device, KeyPackageSpec, SIGNATURE_BYTES, SUITE, keys_of, message_bytes, of_suite};
pub(crate) use groups::{id_of, padded_leaf};
pub(crate) use http::{Answer, Http};
pub(crate) use server::{TestServer, generous};

use larder_wire::{DeviceOutcome, GroupId, InboxRow, Inventory, KeyPackageRef, KeyPackageState, Reserved};

/// What a refused request must leave as it was: pools, inboxes, and the epoch of a group.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    inventories: Vec<Inventory>,
    inboxes: Vec<Vec<InboxRow>>,
    epoch: Option<u64>,
}

/// Reads what must not change. The first device is the one whose group is looked at.
pub(crate) async fn snapshot(devices: &[&Device], group: Option<&GroupId>) -> Snapshot {
    let (mut inventories, mut inboxes) = (Vec::new(), Vec::new());
    for device in devices {
        inventories.push(device.inventory().await);
        inboxes.push(device.inbox().await);
    }
    let epoch = match group {
        Some(group) => Some(devices[0].epoch(group).await),
        None => None,
    };
    Snapshot {
        inventories,
        inboxes,
        epoch,
    }
}

/// The references that a reservation holds.
pub(crate) fn reserved_refs(reserved: &Reserved) -> Vec<KeyPackageRef> {
    reserved
        .users
        .iter()
        .flat_map(|user| &user.devices)
        .filter_map(|device| device.key_package_ref.clone())
        .collect()
}

/// The outcome for each device of a reserve request.
pub(crate) fn outcomes(reserved: &Reserved) -> Vec<DeviceOutcome> {
    reserved
        .users
        .iter()
        .flat_map(|user| &user.devices)
        .map(|device| device.outcome)
        .collect()
}

/// How many KeyPackages of an inventory are in `state`.
pub(crate) fn count(inventory: &Inventory, state: KeyPackageState) -> usize {
    inventory.items.iter().filter(|item| item.state == state).count()
}

/// The state of one KeyPackage in its owner's inventory.
pub(crate) async fn state_of(owner: &Device, key_package_ref: &KeyPackageRef) -> KeyPackageState {
    owner
        .inventory()
        .await
        .items
        .iter()
        .find(|item| item.key_package_ref == *key_package_ref)
        .expect("the owner's inventory has every KeyPackage")
        .state
}
