//! Clusters built out of network namespaces.
