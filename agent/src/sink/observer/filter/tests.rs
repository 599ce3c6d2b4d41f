//! Everything below `filter` is tested here, on records as the server makes them.
