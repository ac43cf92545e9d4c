//! What a run does and which faults it meets: named sets, so that a seed and a name are the whole story.

use crate::disk::{DiskOptions, FaultPlan};
use crate::rng::{Chance, Rng};

/// What a network between initiators and targets does most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// A little of everything, or nothing.
    Mixed,
    /// It loses connections.
    Cuts,
    /// Nothing; it is the initiators that manage tasks, too late and too early and twice.
    Manages,
    /// It changes bits.
    Damages,
}

#[derive(Clone, Debug)]
pub struct Profile {
    pub name: &'static str,
    pub disk: DiskOptions,
    pub faults: FaultPlan,
    /// Bits rotted between rounds, at most.
    pub rot_max: u64,
    /// Whether the disk gets full now and then.
    pub fills_disk: bool,
    /// Whether power fails, or only processes die.
    pub loses_power: bool,
    /// Whether unsynced pages may turn to garbage at power loss.
    pub garbage: bool,
    /// Whether vDisks are created, renamed, resized and deleted along the way.
    pub verbs: bool,
    /// Of a step to be about snapshots, clones or rollbacks.
    pub snapshots: Chance,
    /// Of a step to be about the past.
    pub rewinds: Chance,
    /// Whether part of the writes are copies that share extents.
    pub copies: bool,
    pub loses_metadata: bool,
    /// Clients reach their vDisks over iSCSI, on such a network.
    pub over_iscsi: Option<Network>,
    pub vdisks_max: usize,
    pub vdisk_bytes_max: u64,
    pub request_bytes_max: u64,
    pub depth_max: u64,
    pub rounds_max: u64,
    pub steps_per_round_max: u64,
}

pub const NAMES: [&str; 35] = [
    "calm",
    "crash",
    "deep",
    "wide",
    "sync",
    "error",
    "full",
    "corrupt",
    "metadata",
    "iscsi",
    "iscsi-cut",
    "iscsi-manage",
    "iscsi-damage",
    "snap-calm",
    "snap-crash",
    "snap-deep",
    "snap-sync",
    "snap-error",
    "snap-full",
    "snap-corrupt",
    "snap-metadata",
    "snap-often",
    "rewind-calm",
    "rewind-crash",
    "rewind-deep",
    "rewind-sync",
    "rewind-error",
    "rewind-full",
    "rewind-metadata",
    "copies-crash",
    "copies-deep",
    "copies-sync",
    "copies-error",
    "copies-full",
    "copies-metadata",
];

/// Of a step to be about snapshots, in the profiles that are one of the others with them.
const SNAPSHOTS: Chance = Chance::percent(12);
/// The same for the past.
const REWINDS: Chance = Chance::percent(10);

fn crash() -> Profile {
    Profile {
        name: "crash",
        disk: DiskOptions::default(),
        faults: FaultPlan::none(),
        rot_max: 0,
        fills_disk: false,
        loses_power: true,
        garbage: false,
        verbs: true,
        snapshots: Chance::NEVER,
        rewinds: Chance::NEVER,
        copies: false,
        loses_metadata: false,
        over_iscsi: None,
        vdisks_max: 3,
        vdisk_bytes_max: 1 << 20,
        request_bytes_max: 64 << 10,
        depth_max: 16,
        rounds_max: 6,
        steps_per_round_max: 150,
    }
}

fn over_iscsi(name: &'static str, network: Network) -> Profile {
    let steps_per_round_max = if network == Network::Mixed { 300 } else { 150 };
    Profile { name, over_iscsi: Some(network), rounds_max: 4, steps_per_round_max, ..crash() }
}

impl Profile {
    pub fn named(name: &str) -> Option<Profile> {
        if let Some(of) = name.strip_prefix("snap-").filter(|of| *of != "often") {
            let name = NAMES.into_iter().find(|with| *with == name)?;
            return Some(Profile { name, snapshots: SNAPSHOTS, ..Profile::named(of)? });
        }
        if let Some(of) = name.strip_prefix("rewind-") {
            let name = NAMES.into_iter().find(|with| *with == name)?;
            return Some(Profile { name, snapshots: SNAPSHOTS, rewinds: REWINDS, ..Profile::named(of)? });
        }
        if let Some(of) = name.strip_prefix("copies-") {
            let name = NAMES.into_iter().find(|with| *with == name)?;
            return Some(Profile { name, snapshots: SNAPSHOTS, copies: true, ..Profile::named(of)? });
        }
        let base = crash();
        let profile = match name {
            // No crash at all but the final restart: the engine by itself.
            "calm" => Profile { name: "calm", rounds_max: 1, steps_per_round_max: 1500, ..base },
            "crash" => base,
            // Long rounds on little space: checkpoints, re-packing, reclaim.
            "deep" => Profile {
                name: "deep",
                vdisks_max: 2,
                vdisk_bytes_max: 512 << 10,
                steps_per_round_max: 1200,
                rounds_max: 3,
                ..base
            },
            "wide" => {
                Profile { name: "wide", vdisks_max: 8, vdisk_bytes_max: 64 << 20, request_bytes_max: 512 << 10, ..base }
            }
            "sync" => Profile {
                name: "sync",
                faults: FaultPlan { sync_error: Chance::percent(2), ..FaultPlan::none() },
                ..base
            },
            "error" => Profile {
                name: "error",
                faults: FaultPlan {
                    write_error: Chance(4_000),
                    read_error: Chance(4_000),
                    sync_error: Chance(5_000),
                    name_error: Chance(5_000),
                    stall: Chance(500),
                    ..FaultPlan::none()
                },
                ..base
            },
            "full" => Profile { name: "full", fills_disk: true, loses_power: true, ..base },
            "corrupt" => Profile {
                name: "corrupt",
                faults: FaultPlan { lost_write: Chance(300), misdirected_write: Chance(300), ..FaultPlan::none() },
                rot_max: 1,
                // The last verb may be what one damaged place hides.
                verbs: false,
                ..base
            },
            "metadata" => Profile { name: "metadata", loses_metadata: true, ..base },
            // For short histories that are crashed everywhere: most steps are about snapshots.
            "snap-often" => Profile {
                name: "snap-often",
                snapshots: Chance::percent(60),
                request_bytes_max: 16 << 10,
                steps_per_round_max: 60,
                ..base
            },
            "iscsi" => over_iscsi("iscsi", Network::Mixed),
            "iscsi-cut" => over_iscsi("iscsi-cut", Network::Cuts),
            "iscsi-manage" => over_iscsi("iscsi-manage", Network::Manages),
            "iscsi-damage" => over_iscsi("iscsi-damage", Network::Damages),
            _ => return None,
        };
        Some(profile)
    }

    /// The profile of a seed when none is asked for.
    pub fn of_seed(seed: u64) -> Profile {
        let name = NAMES[(seed % NAMES.len() as u64) as usize];
        Profile::named(name).expect("every name in the list is known")
    }

    /// Small differences from seed to seed within one profile.
    pub fn vary(mut self, rng: &mut Rng) -> Profile {
        self.disk.controls_space = rng.below(8) != 0;
        self.disk.evict_after_failed_sync = rng.chance(Chance::HALF);
        self.disk.instant_percent = *rng.pick(&[0, 30, 90]).expect("three of them");
        self.depth_max = rng.between(1, self.depth_max);
        self
    }
}
