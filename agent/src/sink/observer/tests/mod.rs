//! The server as its clients see it, asked over gRPC.

mod behaviour;
mod network;
mod peers;
mod requests;
mod served;
mod status;
