//! The kernel side's own log lines.

use super::{Datapath, Error, chain};

impl Datapath {
    /// Passes the kernel side's own log lines to this process's log, until the task is dropped.
    ///
    /// # Errors
    ///
    /// The ring of the log cannot be opened.
    pub fn forward_log(&mut self) -> Result<tokio::task::JoinHandle<()>, Error> {
        let logger = aya_log::EbpfLogger::init(&mut self.ebpf)
            .map_err(|error| Error::Load(chain(&error)))?;
        let readable = tokio::io::Interest::READABLE;
        // SAFETY: the logger owns its ring's descriptor and keeps it open for as long as it lives.
        let mut logger =
            unsafe { tokio::io::unix::AsyncFd::register_with_interest(logger, readable) }
                .map_err(|error| Error::Load(error.to_string()))?;
        Ok(tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        }))
    }
}
