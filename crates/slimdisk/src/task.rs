//! Tasks: an operation on a thread of its own, to be watched, waited for and
//! cancelled.
//!
//! Source: the Virtual Server 2005 reference, `IVMTask`, `IVMTask2` and
//! `VMTaskResult`.

#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::progress::{Hook, Phase, Progress};

/// How a task ended.
///
/// The numbers are those of `VMTaskResult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[repr(i32)]
pub enum TaskResult {
    /// All of it was done.
    Success = 0,
    /// It was stopped on request; the image is sound.
    Cancelled = 1,
    /// It failed for a reason that has no number of its own.
    UnexpectedError = 2,
    /// There was not enough memory.
    OutOfMemory = 3,
    /// The disk is full, or could not be read or written.
    DiskRelatedError = 4,
    /// A saved state stands in the way.
    IncompatibleSavedState = 5,
    /// It has not ended yet.
    TimeOut = 6,
    /// It was asked for something that makes no sense.
    IllegalValue = 7,
    /// Its thread crashed.
    ThreadCrash = 8,
}

/// What a task's work comes to.
pub(crate) struct Ended {
    /// Whether it was stopped on request.
    pub cancelled: bool,
    /// Why it failed, if it did.
    pub error: Option<Arc<Error>>,
    /// Its report as JSON.
    pub report: Option<String>,
}

/// A phase and its share of the whole, in percent.
pub(crate) type Share = (Phase, u8);

/// An operation that runs, or ran.
///
/// A cheap handle: clones are the same task. Dropping all of them does not stop it.
#[derive(Clone)]
pub struct Task(Arc<Shared>);

struct Shared {
    id: u32,
    description: String,
    shares: &'static [Share],
    cancel: AtomicBool,
    state: Mutex<State>,
    ended: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    at: Option<Progress>,
    phase_began: Instant,
    /// What had been done already when it was first heard of in this phase.
    done_at_begin: u64,
    percent: u8,
    end: Option<End>,
}

struct End {
    when: Instant,
    result: TaskResult,
    error: Option<Arc<Error>>,
    report: Option<String>,
}

impl Task {
    /// Runs `work` on a thread of its own.
    pub(crate) fn spawn(
        id: u32,
        description: String,
        shares: &'static [Share],
        work: impl FnOnce(&mut Hook<'_>) -> Ended + Send + 'static,
    ) -> Result<Task> {
        let state = State {
            at: None,
            phase_began: Instant::now(),
            done_at_begin: 0,
            percent: 0,
            end: None,
        };
        let task = Task(Arc::new(Shared {
            id,
            description,
            shares,
            cancel: AtomicBool::new(false),
            state: Mutex::new(state),
            ended: Condvar::new(),
            thread: Mutex::new(None),
        }));
        let own = task.clone();
        let thread = std::thread::Builder::new()
            .name(format!("slimdisk task {id}"))
            .spawn(move || own.run(work))
            .map_err(|e| Error::io("cannot start a thread for the task", e))?;
        *task.thread() = Some(thread);
        Ok(task)
    }

    fn run(&self, work: impl FnOnce(&mut Hook<'_>) -> Ended) {
        let done = catch_unwind(AssertUnwindSafe(|| {
            work(&mut |progress| {
                self.step(progress);
                if self.0.cancel.load(SeqCst) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        }));
        let (result, error, report) = match done {
            Ok(Ended { error: Some(error), report, .. }) => {
                (result_of(error.kind()), Some(error), report)
            }
            Ok(Ended { cancelled: true, report, .. }) => {
                (TaskResult::Cancelled, None, report)
            }
            Ok(Ended { report, .. }) => (TaskResult::Success, None, report),
            Err(_) => {
                let what = "the task's thread crashed: the image is sound, and running \
                            again continues; please report this as a bug";
                let error = Arc::new(Error::new(Kind::Unexpected, what));
                (TaskResult::ThreadCrash, Some(error), None)
            }
        };
        let mut state = self.state();
        if result == TaskResult::Success {
            state.percent = 100;
        }
        state.end = Some(End { when: Instant::now(), result, error, report });
        drop(state);
        self.0.ended.notify_all();
    }

    fn step(&self, progress: Progress) {
        let mut state = self.state();
        if state.at.is_none_or(|at| at.phase != progress.phase) {
            state.phase_began = Instant::now();
            state.done_at_begin = progress.done;
        }
        state.at = Some(progress);
        let percent = percent(self.0.shares, progress);
        state.percent = state.percent.max(percent);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is written under the lock is whole at every moment.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.0.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its number, unique among the tasks of its host.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// What it does, in a few words.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.0.description
    }

    /// How far it has come: 0 to 100. Never goes back; 100 only when all is done.
    #[must_use]
    pub fn percent(&self) -> u8 {
        self.state().percent
    }

    /// The step it is in; `None` before the first.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        self.state().at.map(|at| at.phase)
    }

    /// Bytes done in this phase.
    #[must_use]
    pub fn bytes_done(&self) -> u64 {
        self.state().at.map_or(0, |at| at.done)
    }

    /// Bytes to do in this phase.
    #[must_use]
    pub fn bytes_total(&self) -> u64 {
        self.state().at.map_or(0, |at| at.total)
    }

    /// Bytes done a second in this phase; `None` while too little is known, and when
    /// the task has ended.
    #[must_use]
    pub fn bytes_per_second(&self) -> Option<u64> {
        self.state().rate()
    }

    /// How long the rest of this phase will take at that rate.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let state = self.state();
        let (rate, at) = (state.rate()?, state.at?);
        let millis =
            u128::from(at.total.saturating_sub(at.done)) * 1000 / u128::from(rate.max(1));
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
    }

    /// Whether it has ended, in whatever way.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state().end.is_some()
    }

    /// Whether [`cancel`](Task::cancel) can still have an effect.
    #[must_use]
    pub fn is_cancelable(&self) -> bool {
        !self.is_complete()
    }

    /// Asks it to stop at its next sound point, and returns at once. `false` if it has
    /// ended already.
    ///
    /// A task that is past its last sound point still ends as
    /// [`Success`](TaskResult::Success).
    #[expect(clippy::must_use_candidate, reason = "asking is the point")]
    pub fn cancel(&self) -> bool {
        let state = self.state();
        if state.end.is_some() {
            return false;
        }
        self.0.cancel.store(true, SeqCst);
        true
    }

    /// Waits until it has ended, or for `timeout`; says whether it has.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.state();
        while state.end.is_none() {
            state = match until {
                None => self.0.ended.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let Some(left) = until.checked_duration_since(Instant::now()) else {
                        return false;
                    };
                    let woken = self.0.ended.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        drop(state);
        // Whoever has waited may unload the program's code: its thread is gone, too.
        let mut thread = self.thread();
        if let Some(thread) = thread.take() {
            // It has caught its own panics.
            let _ = thread.join();
        }
        true
    }

    /// How it ended; `None` while it runs.
    #[must_use]
    pub fn result(&self) -> Option<TaskResult> {
        self.state().end.as_ref().map(|end| end.result)
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn error(&self) -> Option<Arc<Error>> {
        self.state().end.as_ref().and_then(|end| end.error.clone())
    }

    /// The report of the operation as JSON, once it has ended.
    #[must_use]
    pub fn report_json(&self) -> Option<String> {
        self.state().end.as_ref().and_then(|end| end.report.clone())
    }

    /// How long ago it ended; `None` while it runs.
    #[must_use]
    pub fn ended_ago(&self) -> Option<Duration> {
        self.state().end.as_ref().map(|end| end.when.elapsed())
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("id", &self.id())
            .field("description", &self.description())
            .field("percent", &self.percent())
            .field("result", &self.result())
            .finish_non_exhaustive()
    }
}

impl State {
    fn rate(&self) -> Option<u64> {
        if self.end.is_some() {
            return None;
        }
        let took = self.phase_began.elapsed();
        let done = self.at?.done.saturating_sub(self.done_at_begin);
        if took < Duration::from_millis(200) || done == 0 {
            return None;
        }
        u64::try_from(u128::from(done) * 1000 / took.as_millis()).ok()
    }
}

/// How much of the whole is done, short of all of it.
fn percent(shares: &[Share], at: Progress) -> u8 {
    let mut before = 0;
    for (phase, share) in shares {
        if *phase == at.phase {
            let part = if at.total == 0 {
                u128::from(*share)
            } else {
                u128::from(*share) * u128::from(at.done.min(at.total))
                    / u128::from(at.total)
            };
            return u8::try_from(u128::from(before) + part).unwrap_or(99).min(99);
        }
        before = share.saturating_add(before);
    }
    // A phase that nobody counted on.
    0
}

fn result_of(kind: Kind) -> TaskResult {
    match kind {
        Kind::DiskFull | Kind::FileTooLarge | Kind::Io => TaskResult::DiskRelatedError,
        Kind::InvalidArgument
        | Kind::InvalidName
        | Kind::BadPath
        | Kind::PathTooLong
        | Kind::DiskTooLarge
        | Kind::DiskTooSmall => TaskResult::IllegalValue,
        _ => TaskResult::UnexpectedError,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const SHARES: &[Share] = &[(Phase::Map, 40), (Phase::Copy, 60)];

    fn at(phase: Phase, done: u64, total: u64) -> Progress {
        Progress { phase, done, total }
    }

    const DONE: Ended = Ended { cancelled: false, error: None, report: None };

    #[test]
    fn percents_add_up_and_stop_before_the_end() {
        assert_eq!(percent(SHARES, at(Phase::Map, 0, 10)), 0);
        assert_eq!(percent(SHARES, at(Phase::Map, 5, 10)), 20);
        assert_eq!(percent(SHARES, at(Phase::Map, u64::MAX, u64::MAX)), 40);
        assert_eq!(percent(SHARES, at(Phase::Copy, 5, 10)), 70);
        assert_eq!(percent(SHARES, at(Phase::Copy, 11, 10)), 99);
        assert_eq!(percent(SHARES, at(Phase::Copy, 0, 0)), 99);
        assert_eq!(percent(SHARES, at(Phase::Merge, 5, 10)), 0);
    }

    #[test]
    fn a_task_tells_how_far_it_is_and_never_goes_back() {
        let (go, wait) = channel::<()>();
        let (told, tell) = channel();
        let task = Task::spawn(7, "Test".into(), SHARES, move |hook| {
            for progress in
                [at(Phase::Copy, 50, 100), at(Phase::Map, 1, 10), at(Phase::Copy, 90, 90)]
            {
                assert!(hook(progress).is_continue());
                told.send(()).unwrap();
                wait.recv().unwrap();
            }
            Ended { report: Some("{}".into()), ..DONE }
        })
        .unwrap();
        tell.recv().unwrap();
        assert_eq!((task.id(), task.description(), task.percent()), (7, "Test", 70));
        assert_eq!(task.phase(), Some(Phase::Copy));
        assert_eq!((task.bytes_done(), task.bytes_total()), (50, 100));
        assert_eq!((task.result(), task.is_complete()), (None, false));
        assert!(task.is_cancelable() && !task.wait(Some(Duration::from_millis(20))));
        assert!(task.ended_ago().is_none() && task.report_json().is_none());
        go.send(()).unwrap();
        tell.recv().unwrap();
        assert_eq!((task.phase(), task.percent()), (Some(Phase::Map), 70));
        go.send(()).unwrap();
        tell.recv().unwrap();
        assert_eq!(task.percent(), 99);
        go.send(()).unwrap();
        assert!(task.wait(None));
        assert_eq!((task.percent(), task.result()), (100, Some(TaskResult::Success)));
        assert_eq!(task.report_json().as_deref(), Some("{}"));
        assert!(task.ended_ago().is_some() && !task.is_cancelable() && !task.cancel());
    }

    #[test]
    fn a_rate_and_the_time_left_come_from_the_phase() {
        let (go, wait) = channel::<()>();
        let (told, tell) = channel();
        let task = Task::spawn(1, String::new(), SHARES, move |hook| {
            let _ = hook(at(Phase::Copy, 1 << 40, 3 << 40));
            told.send(()).unwrap();
            wait.recv().unwrap();
            let _ = hook(at(Phase::Copy, (1 << 40) + 1000, (1 << 40) + 2000));
            told.send(()).unwrap();
            wait.recv().unwrap();
            DONE
        })
        .unwrap();
        tell.recv().unwrap();
        assert_eq!((task.bytes_per_second(), task.time_left()), (None, None));
        std::thread::sleep(Duration::from_millis(250));
        go.send(()).unwrap();
        tell.recv().unwrap();
        // What had been done before the phase was heard of says nothing of the rate.
        let rate = task.bytes_per_second().unwrap();
        assert!((1..=4000).contains(&rate), "{rate}");
        assert!(task.time_left().unwrap() >= Duration::from_millis(200));
        go.send(()).unwrap();
        assert!(task.wait(None));
        assert_eq!((task.bytes_per_second(), task.time_left()), (None, None));
    }

    #[test]
    fn results_say_how_it_ended() {
        let run = |work: fn(&mut Hook<'_>) -> Ended| {
            let task = Task::spawn(1, String::new(), SHARES, work).unwrap();
            assert!(task.wait(Some(Duration::from_secs(20))));
            (task.result().unwrap(), task.error().map(|e| e.kind()), task.percent())
        };
        let failed = |_: &mut Hook<'_>| Ended {
            error: Some(Arc::new(Error::new(Kind::DiskFull, "full"))),
            ..DONE
        };
        let full = (TaskResult::DiskRelatedError, Some(Kind::DiskFull), 0);
        assert_eq!(run(failed), full);
        let crashed = (TaskResult::ThreadCrash, Some(Kind::Unexpected), 0);
        assert_eq!(run(|_| panic!("on purpose")), crashed);
        let task = Task::spawn(1, String::new(), SHARES, |hook| {
            while hook(at(Phase::Map, 0, 1)).is_continue() {
                std::thread::yield_now();
            }
            Ended { cancelled: true, ..DONE }
        })
        .unwrap();
        assert!(task.cancel());
        assert!(task.wait(None));
        assert_eq!(task.result(), Some(TaskResult::Cancelled));
    }
}
