//! Where flows go: metrics, flow log, Hubble gRPC.
