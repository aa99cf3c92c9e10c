//! Signature checks, on a thread of their own: a flood of records delays no probe.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
};

use skein_protocol::{
    engine::{Checked, Job, JobId},
    limits,
    trust::Crypto,
};

/// The way to the thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Verifier {
    jobs: mpsc::SyncSender<(JobId, Box<Job>)>,
}

impl Verifier {
    pub(super) fn start(
        crypto: Arc<dyn Crypto>,
        done: tokio::sync::mpsc::Sender<(JobId, Box<Checked>)>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<(JobId, Box<Job>)>(QUEUE);
        std::thread::Builder::new().name("skein-verify".to_owned()).spawn(move || {
            while let Ok((id, job)) = queue.recv() {
                // A bug of ours in a check must not end the agent, and every other that is told
                // the same record.
                let run = AssertUnwindSafe(|| job.run(&*crypto));
                let checked = Box::new(catch_unwind(run).unwrap_or_else(|_| job.broke()));
                if done.blocking_send((id, checked)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs })
    }

    pub(super) fn check(&self, id: JobId, job: Box<Job>) {
        // The engine has at most VERIFY_IN_FLIGHT jobs and the revocations of one Hello out.
        if self.jobs.try_send((id, job)).is_err() {
            tracing::error!("a signature check was dropped: more are out than their bound");
        }
    }
}

const QUEUE: usize = limits::VERIFY_IN_FLIGHT + limits::REVOCATIONS_MAX;
