//! Judging the volumes of a disk: each by itself, then all of them together.
//!
//! What one volume says can count against the others: a sleeping system goes on with
//! all that it had open, and swap is of use to it. So swap is given up in a second
//! reading, when the first has shown that every volume was left as a system leaves it
//! that was shut down.

use super::judge::{Judge, Surveyed};
use super::places::{self, Content, Place};
use crate::compact::report::{VolumeReport, VolumeState};
use crate::compact::{Hook, Phase, Progress};
use crate::error::Result;
use crate::storage::{Mapped, Mapping};
use crate::volume::{Allowances, FileSystem};

/// What came of judging all volumes.
#[derive(Default)]
pub struct Volumes {
    pub reports: Vec<VolumeReport>,
    /// Whose maps were counted, and where their bytes lie.
    pub trusted: Vec<(&'static dyn FileSystem, Mapping)>,
    /// What was allowed when they were.
    pub allow: Allowances,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// The names of volumes that count against the others.
#[derive(Default)]
struct Against {
    /// The first that a sleeping system will go on with.
    hibernated: Option<String>,
    /// The first that is neither trusted nor without any signature.
    unsettled: Option<String>,
}

/// Judges all `places`; `None` if the hook asked to stop.
pub fn judge(
    judge: &mut Judge<'_>,
    places: &[Place],
    allow: &Allowances,
    hook: &mut Hook<'_>,
) -> Result<Option<Volumes>> {
    let careful = Allowances { drop_swap: false, ..*allow };
    let Some((mut volumes, against)) = each(judge, places, careful, hook)? else {
        return Ok(None);
    };
    if let Some(name) = against.hibernated {
        judge.begin_again();
        volumes.distrust(&name);
    }
    if !allow.drop_swap {
        return Ok(Some(volumes));
    }
    match against.unsettled {
        Some(name) => volumes.notes.push(format!(
            "swap was kept: {name} is not in a state that a shutdown leaves, or nobody can \
             tell, so a system may still need it"
        )),
        None if volumes.reports.iter().any(|v| v.swap_bytes.is_some_and(|n| n > 0)) => {
            judge.begin_again();
            let again = each(judge, places, *allow, hook)?;
            return Ok(again.map(|(volumes, _)| volumes));
        }
        None => {}
    }
    Ok(Some(volumes))
}

fn each(
    judge: &mut Judge<'_>,
    places: &[Place],
    allow: Allowances,
    hook: &mut Hook<'_>,
) -> Result<Option<(Volumes, Against)>> {
    let mut volumes = Volumes { allow, ..Volumes::default() };
    let mut against = Against::default();
    for place in places {
        let Place { report, mapping, space, content } = place;
        judge.reached = judge.reached.max(report.offset.min(judge.image.len()));
        let (done, total) = (judge.reached, judge.image.len());
        if hook(Progress { phase: Phase::Map, done, total }).is_break() {
            return Ok(None);
        }
        for range in space.iter() {
            judge.volume_space.insert(range);
        }
        let mut report = report.clone();
        let name = report.name();
        let volume = Mapped::new(judge.image, mapping);
        let logical;
        let identity = match content {
            Content::Opaque => Err(None),
            Content::Volume(identity) => Ok(identity),
            Content::LogicalVolume => {
                logical = places::identify_logical(&volume)?;
                logical.as_ref().map_err(|reason| Some(reason.clone()))
            }
        };
        let settled = match identity {
            Err(reason) => {
                report.reason = report.reason.or(reason);
                report.state == VolumeState::Trusted
            }
            Ok(identity) => {
                let Surveyed { report: surveyed, file_system, hibernated, settled } =
                    judge.survey_volume(&volume, identity, &allow, hook)?;
                if judge.stopped {
                    return Ok(None);
                }
                if let Some(file_system) = file_system {
                    volumes.trusted.push((file_system, mapping.clone()));
                }
                if hibernated {
                    against.hibernated.get_or_insert_with(|| name.clone());
                }
                report = VolumeReport {
                    partition: report.partition,
                    logical_volume: report.logical_volume,
                    offset: report.offset,
                    length: report.length,
                    ..surveyed
                };
                settled
            }
        };
        if !settled {
            against.unsettled.get_or_insert(name);
        }
        volumes.reports.push(report);
    }
    Ok(Some((volumes, against)))
}

impl Volumes {
    /// Takes back the trust in all whose maps were counted, for the sake of a sleeping
    /// system that was found in volume `name`.
    fn distrust(&mut self, name: &str) {
        self.trusted.clear();
        let counted = self.reports.iter_mut().filter(|report| {
            report.state == VolumeState::Trusted && report.free_bytes.is_some()
        });
        for report in counted {
            *report = VolumeReport {
                state: VolumeState::Untrusted,
                reason: Some(format!(
                    "{name} holds a hibernated system, which will go on with this volume: \
                     start that system and shut it down fully"
                )),
                used_bytes: None,
                free_bytes: None,
                swap_bytes: None,
                ..report.clone()
            };
        }
    }
}
