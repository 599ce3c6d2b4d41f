//! The node: interfaces, routes, neighbours, network model, from netlink.
