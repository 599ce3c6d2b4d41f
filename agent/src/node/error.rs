//! What can go wrong while reading the node.

/// Failure of the node room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error(
        "cannot open a rtnetlink socket: {0} (the agent needs AF_NETLINK sockets and CAP_NET_ADMIN)"
    )]
    Socket(#[from] std::io::Error),
    /// The kernel refused a dump.
    #[error("cannot read the node's {what} over rtnetlink: {source}")]
    Dump {
        /// Which table was asked for.
        what: &'static str,
        /// What the kernel or the connection said.
        #[source]
        source: rtnetlink::Error,
    },
    /// An interface glob that is no glob.
    #[error(
        "interface pattern {pattern:?} is not a valid glob: {reason} (examples: eth0, veth*, {{azv,lxc}}*)"
    )]
    Glob {
        /// As written in the configuration.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
}
