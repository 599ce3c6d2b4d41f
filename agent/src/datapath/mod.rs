//! Everything that touches aya: load, attach, drain, events.
