//! A full reading of the kernel's tables.

use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkExtentMask;
use netlink_packet_route::route::RouteMessage;
use rtnetlink::Handle;

use super::error::Error;
use super::event::{Event, address_of, fdb_of, neighbour_of, routes_of};
use super::interface::Interface;
use super::view::NodeView;

/// Reads everything that a [`NodeView`] holds.
pub(super) async fn dump(handle: &Handle) -> Result<NodeView, Error> {
    let mut view = NodeView::default();

    // Statistics are most of a link's message, and nobody reads them here.
    let request = handle.link().get();
    let request = request.set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
    let links: Vec<_> = request
        .execute()
        .try_collect()
        .await
        .map_err(failed("interfaces"))?;
    for interface in links.iter().filter_map(Interface::from_message) {
        view.apply(Event::Link(interface));
    }

    let addresses = handle.address().get().execute();
    let addresses: Vec<_> = addresses.try_collect().await.map_err(failed("addresses"))?;
    for (index, net) in addresses.iter().filter_map(address_of) {
        view.apply(Event::Address(index, net));
    }

    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let routes = handle.route().get(request).execute();
        let routes: Vec<_> = match routes.try_collect().await {
            Ok(routes) => routes,
            // A kernel with IPv6 compiled out or switched off has no such table.
            Err(_) if family == AddressFamily::Inet6 => Vec::new(),
            Err(source) => return Err(failed("routes")(source)),
        };
        let routes = routes.iter().flat_map(routes_of).collect();
        view.apply(Event::Routes {
            routes,
            replace: false,
        });
    }

    let mut neighbours = Box::pin(handle.neighbours().get().execute());
    while let Some(entry) = neighbours.next().await {
        let entry = entry.map_err(failed("neighbours"))?;
        if let Some(neighbour) = neighbour_of(&entry) {
            view.apply(Event::Neighbour(neighbour));
        }
    }

    let fdb = handle
        .neighbours()
        .get()
        .set_address_family(AddressFamily::Bridge);
    let mut fdb = Box::pin(fdb.execute());
    while let Some(entry) = fdb.next().await {
        let entry = entry.map_err(failed("bridge forwarding entries"))?;
        if let Some(entry) = fdb_of(&entry) {
            view.apply(Event::Fdb(entry));
        }
    }
    // Every namespace has at least its loopback: nothing at all is a reading cut short.
    if view.interfaces.is_empty() {
        return Err(failed("interfaces")(rtnetlink::Error::RequestFailed));
    }
    Ok(view)
}

fn failed(what: &'static str) -> impl Fn(rtnetlink::Error) -> Error {
    move |source| Error::Dump { what, source }
}
