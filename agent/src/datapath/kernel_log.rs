//! The kernel side's own log lines.

use super::{Datapath, Error, chain};

/// The ring of log lines, by aya-log's name for it.
const LOG: &str = "AYA_LOGS";

impl Datapath {
    /// Passes the kernel side's own log lines to this process's log, until the task is dropped;
    /// `None` where the programs write none (without CAP_PERFMON).
    ///
    /// # Errors
    ///
    /// The ring of the log cannot be opened.
    pub fn forward_log(&mut self) -> Result<Option<tokio::task::JoinHandle<()>>, Error> {
        if self.ebpf.map(LOG).is_none() {
            return Ok(None);
        }
        let logger = aya_log::EbpfLogger::init(&mut self.ebpf)
            .map_err(|error| Error::Load(chain(&error)))?;
        let readable = tokio::io::Interest::READABLE;
        // SAFETY: the logger owns its ring's descriptor and keeps it open for as long as it lives.
        let mut logger =
            unsafe { tokio::io::unix::AsyncFd::register_with_interest(logger, readable) }
                .map_err(|error| Error::Load(error.to_string()))?;
        Ok(Some(tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        })))
    }
}
