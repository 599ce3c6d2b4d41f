//! A small Kubernetes API server: real HTTP LIST and WATCH over an object store.
