//! The Kubernetes API as an inventory: address → identity, services, endpoints.
