//! The TPM behind `/dev/tpmrm0`.
