//! TLS 1.3 with one suite, one group, one signature scheme and one root.
