//! Judging the volumes of a disk: each by itself, then all of them together.
//!
//! What one volume says can count against the others: a sleeping system goes on with
//! all that it had open, and swap is of use to it. Its image shows in swap and in
//! `hiberfil.sys`; where it could hide (in a LUKS volume, say), volumes that need not
//! have been unmounted are not believed. Swap is given up in a second reading, when the
//! first has shown that every volume was left as a shutdown leaves it.

use super::free_space::FreeSpace;
use super::judge::{Judge, Surveyed};
use super::places::{self, Content, Place};
use crate::compact::report::{VolumeReport, VolumeState};
use crate::compact::{Hook, Phase, Progress};
use crate::error::Result;
use crate::storage::Mapped;
use crate::volume::Allowances;

/// What came of judging all volumes.
#[derive(Default)]
pub struct Volumes {
    /// A sleeping system was found, so nothing of the disk is to be believed.
    pub hibernated: bool,
    pub reports: Vec<VolumeReport>,
    /// Whose maps were counted.
    pub free_space: FreeSpace,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// What volumes say for or against the others; names are those of the first.
#[derive(Default)]
struct Testimony {
    /// A sleeping system will go on with it.
    hibernated: Option<String>,
    /// It cannot be looked into: there may be a sleeping system in it.
    unseen: Option<String>,
    /// It was in use, or is damaged.
    in_use: Option<String>,
    /// At least one was unmounted, as a shutdown does.
    at_rest: bool,
    /// At least one need not have been.
    untold: bool,
}

/// Judges all `places`; `None` if the hook asked to stop.
pub fn judge(
    judge: &mut Judge<'_>,
    places: &[Place],
    allow: &Allowances,
    hook: &mut Hook<'_>,
) -> Result<Option<Volumes>> {
    let careful = Allowances { drop_swap: false, ..*allow };
    let Some((mut volumes, said)) = each(judge, places, careful, None, hook)? else {
        return Ok(None);
    };
    if let Some(name) = said.hibernated {
        judge.begin_again();
        volumes.distrust(&name);
        return Ok(Some(volumes));
    }
    let suspect = said.unseen.as_deref();
    if suspect.is_some() && said.untold {
        judge.begin_again();
        match each(judge, places, careful, suspect, hook)? {
            Some((judged, _)) => volumes = judged,
            None => return Ok(None),
        }
    }
    let has_swap = volumes.reports.iter().any(|v| v.swap_bytes.is_some_and(|n| n > 0));
    if !allow.drop_swap || !has_swap {
        return Ok(Some(volumes));
    }
    match said.in_use.or(said.unseen) {
        Some(name) => volumes.notes.push(format!(
            "swap was kept: {name} is not in a state that a shutdown leaves, or nobody can \
             tell, so a system may still need it"
        )),
        None if !said.at_rest => volumes.notes.push(
            "swap was kept: no volume of the disk tells that its system was shut down".into(),
        ),
        None => {
            judge.begin_again();
            let again = each(judge, places, *allow, None, hook)?;
            return Ok(again.map(|(volumes, _)| volumes));
        }
    }
    Ok(Some(volumes))
}

/// Judges one place after the other; `suspect` may hold a sleeping system.
fn each(
    judge: &mut Judge<'_>,
    places: &[Place],
    allow: Allowances,
    suspect: Option<&str>,
    hook: &mut Hook<'_>,
) -> Result<Option<(Volumes, Testimony)>> {
    let free_space = FreeSpace { allow, ..FreeSpace::default() };
    let mut volumes = Volumes { free_space, ..Volumes::default() };
    let mut said = Testimony::default();
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
        match identity {
            Err(reason) => {
                report.reason = report.reason.or(reason);
                if report.state != VolumeState::Trusted {
                    said.unseen.get_or_insert(name);
                }
            }
            Ok(identity) => {
                let surveyed =
                    judge.survey_volume(&volume, identity, &allow, suspect, hook)?;
                if judge.stopped {
                    return Ok(None);
                }
                if let Some(file_system) = surveyed.file_system {
                    volumes.free_space.trusted.push((file_system, mapping.clone()));
                }
                said.hear(&name, &surveyed);
                report = VolumeReport {
                    partition: report.partition,
                    logical_volume: report.logical_volume,
                    offset: report.offset,
                    length: report.length,
                    ..surveyed.report
                };
            }
        }
        volumes.reports.push(report);
    }
    Ok(Some((volumes, said)))
}

impl Testimony {
    fn hear(&mut self, name: &str, surveyed: &Surveyed) {
        let note = |first: &mut Option<String>, so: bool| {
            if so {
                first.get_or_insert_with(|| name.to_owned());
            }
        };
        note(&mut self.hibernated, surveyed.hibernated);
        note(&mut self.unseen, surveyed.unseen);
        note(&mut self.in_use, surveyed.at_rest == Some(false));
        let counted = surveyed.file_system.is_some();
        self.at_rest |= counted && surveyed.at_rest == Some(true);
        self.untold |= counted
            && surveyed.at_rest != Some(true)
            && surveyed.report.swap_bytes == Some(0);
    }
}

impl Volumes {
    /// Takes back the trust in all whose maps were counted, for the sake of a sleeping
    /// system that was found in volume `name`.
    fn distrust(&mut self, name: &str) {
        self.hibernated = true;
        self.free_space.trusted.clear();
        let counted = self.reports.iter_mut().filter(|report| {
            report.state == VolumeState::Trusted && report.free_bytes.is_some()
        });
        for report in counted {
            *report = VolumeReport {
                state: VolumeState::Untrusted,
                reason: Some(format!(
                    "{name} holds a hibernated system, or may, which will go on with this \
                     volume: start that system and shut it down fully"
                )),
                used_bytes: None,
                free_bytes: None,
                swap_bytes: None,
                ..report.clone()
            };
        }
    }
}
