//! The devices and groups of one run.

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::device::{Device, Http};
use super::group::Group;
use super::store::{Rows, Store};
use super::{AT_ONCE, Plan, progress};

/// One device that does everything, those who receive it, and the groups that they are in.
pub(super) struct Scene {
    pub(super) engine: &'static str,
    pub(super) owner: Device,
    pub(super) devices: Vec<Device>,
    /// Those that are added and removed, with a KeyPackage for each group.
    pub(super) newcomers: Vec<Device>,
    /// First those of the plan's sizes, whose members are the first devices.
    pub(super) groups: Vec<Group>,
    pub(super) rows: Rows,
}

impl Scene {
    pub(super) async fn prepare(store: &Store, url: &str, plan: &Plan) -> Result<Self> {
        let http = Http::new(url)?;
        let largest = plan.sizes.last().copied().unwrap_or_default();
        progress(&format!("registering {largest} devices"));
        // Each group takes a KeyPackage of each of its members.
        let key_packages = |place: usize| plan.sizes.iter().filter(|size| place < **size).count();
        let owner = Device::register(&http, "owner", 0).await?;
        let devices = register(&http, "member", 0..largest, key_packages).await?;
        let newcomers = register(&http, "newcomer", 0..plan.commits, |_| plan.sizes.len()).await?;
        let mut groups = Vec::new();
        for size in plan.sizes {
            progress(&format!("adding {size} devices to a group"));
            groups.push(Group::create(&owner, &devices, 0..*size).await?);
        }
        Ok(Self {
            engine: store.engine(),
            owner,
            devices,
            newcomers,
            groups,
            rows: store.rows().await?,
        })
    }

    /// Registers further devices until there are so many, in groups of `crowd`.
    pub(super) async fn grow(&mut self, count: usize, crowd: usize) -> Result<()> {
        let before = self.devices.len();
        let http = self.owner.http.clone();
        progress(&format!(
            "registering {} devices more",
            count.saturating_sub(before)
        ));
        self.devices
            .extend(register(&http, "member", before..count, |_| 1).await?);
        for first in (before..count).step_by(crowd) {
            let members = first..count.min(first + crowd);
            self.groups
                .push(Group::create(&self.owner, &self.devices, members).await?);
        }
        Ok(())
    }

    /// The first devices have received all that there is so far.
    pub(super) async fn catch_up(&self, count: usize) -> Result<()> {
        let caught_up = self
            .devices
            .iter()
            .take(count)
            .enumerate()
            .map(|(place, device)| {
                let groups = self.groups.iter().filter(|group| group.members.contains(&place));
                device.acknowledge(groups.map(Group::position).collect())
            });
        stream::iter(caught_up)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }
}

/// Registers devices with KeyPackages, so many for each place.
async fn register(
    http: &Http,
    prefix: &str,
    places: std::ops::Range<usize>,
    key_packages: impl Fn(usize) -> usize,
) -> Result<Vec<Device>> {
    let devices = places.map(|place| {
        let count = key_packages(place);
        async move { Device::register(http, &format!("{prefix}{place}"), count).await }
    });
    stream::iter(devices).buffered(AT_ONCE).try_collect().await
}
