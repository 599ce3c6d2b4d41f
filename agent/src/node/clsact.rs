//! The queueing discipline on which filters hang, where nobody's filter hangs any more.

use futures::TryStreamExt as _;
use netlink_packet_route::tc::TcHandle;

use super::error::Error;

/// Removes the clsact qdiscs of these interfaces, except those that have filters; gives how many
/// were removed.
///
/// # Errors
/// The kernel cannot be asked.
pub async fn remove_clsact(interfaces: &[u32]) -> Result<usize, Error> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let mut removed = 0;
    for ifindex in interfaces {
        let index = i32::try_from(*ifindex).unwrap_or_default();
        let failed = |source| Error::Dump {
            what: "traffic filters",
            source,
        };
        // One after the other: `execute` asks at once, and a socket on which a dump still runs
        // answers EBUSY to the next (`__netlink_dump_start`, net/netlink/af_netlink.c).
        let ingress = handle.traffic_filter(index).get().ingress().execute();
        let filters: Vec<_> = ingress.try_collect().await.map_err(failed)?;
        let egress = handle.traffic_filter(index).get().egress().execute();
        let others: Vec<_> = egress.try_collect().await.map_err(failed)?;
        if !filters.is_empty() || !others.is_empty() {
            continue;
        }
        let mut request = handle.qdisc().del(index);
        let header = &mut request.message_mut().header;
        header.parent = TcHandle::CLSACT;
        header.handle = TcHandle {
            major: u16::MAX,
            minor: 0,
        };
        match request.execute().await {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!(ifindex, %error, "the clsact qdisc stays"),
        }
    }
    connection.abort();
    Ok(removed)
}
