//! The one container: namespaces, mounts, limits, and its start.
