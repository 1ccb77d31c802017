//! Why a boot ended: one stable code per cause.
//!
//! A code appears in init's last line, in the broker's log where the broker
//! refuses, and in `docs/codes.md`, which a test compares with this table.

use core::fmt;

macro_rules! codes {
    ($($name:ident $text:literal $meaning:literal;)*) => {
        /// A stable code; its text never changes once released.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            /// Every code, in the order of the boot.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it is printed.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// One sentence for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

codes! {
    Mount "E_MOUNT" "An early mount or kernel setting failed.";
    Cmdline "E_CMDLINE" "The kernel command line is outside the grammar.";
    Entropy "E_ENTROPY" "The processor has no working RDRAND, or the kernel gave no random bytes.";
    RootfsMissing "E_ROOTFS_MISSING" "No disk has the serial rootfs.";
    RootfsAmbiguous "E_ROOTFS_AMBIGUOUS" "Two or more disks have the serial rootfs.";
    RootfsSize "E_ROOTFS_SIZE" "The rootfs disk is shorter than the command line declares.";
    RootfsDevice "E_ROOTFS_DEVICE" "The kernel refused the rootfs's dm-verity device.";
    RootfsIntegrity "E_ROOTFS_INTEGRITY" "A block of the rootfs does not match the measured root hash.";
    Manifest "E_MANIFEST" "The manifest is not a valid manifest of this version.";
    NetworkDevice "E_NETWORK_DEVICE" "There is not exactly one network device, or it cannot be configured.";
    NetworkDhcp "E_NETWORK_DHCP" "No usable DHCP lease before the deadline.";
    NetworkDns "E_NETWORK_DNS" "The broker's name was not resolved before the deadline.";
    BrokerConnect "E_BROKER_CONNECT" "No connection to the broker.";
    BrokerTimeout "E_BROKER_TIMEOUT" "The broker did not finish an answer before the deadline.";
    TlsIssuer "E_TLS_ISSUER" "The broker's certificate is not issued by the CA in the manifest.";
    TlsName "E_TLS_NAME" "The broker's certificate is for another name.";
    TlsExpired "E_TLS_EXPIRED" "The broker's certificate has expired by init's clock.";
    TlsNotYetValid "E_TLS_NOT_YET_VALID" "The broker's certificate is not valid yet by init's clock.";
    TlsProtocol "E_TLS_PROTOCOL" "The TLS 1.3 handshake or record layer failed.";
    BrokerRedirect "E_BROKER_REDIRECT" "The broker answered with a redirect; none is followed.";
    BrokerSize "E_BROKER_SIZE" "The broker's answer is larger than the bound.";
    BrokerProtocol "E_BROKER_PROTOCOL" "The broker's answer is not what the protocol allows here.";
    TeeMissing "E_TEE_MISSING" "No TEE that the manifest allows is present.";
    Tpm "E_TPM" "The TPM refused a command or answered outside the specification.";
    Tsm "E_TSM" "The kernel gave no report of SEV-SNP or TDX, or a malformed one.";
    BrokerRefused "E_BROKER_REFUSED" "The broker refused the evidence or the resource.";
    JweAlgorithm "E_JWE_ALGORITHM" "The resource is encrypted with another algorithm than asked for.";
    JweDecrypt "E_JWE_DECRYPT" "The resource does not decrypt under this session's key.";
    KeyLength "E_KEY_LENGTH" "A key or a secret has a length that is not allowed.";
    BootMissing "E_BOOT_MISSING" "No disk has the serial boot.";
    BootAmbiguous "E_BOOT_AMBIGUOUS" "Two or more disks have the serial boot.";
    BootSize "E_BOOT_SIZE" "The boot filesystem's disk is shorter than the manifest declares.";
    BootDevice "E_BOOT_DEVICE" "The kernel refused the boot filesystem's dm-crypt or dm-verity device.";
    BootIntegrity "E_BOOT_INTEGRITY" "The boot filesystem does not match its root hash: altered, or another key.";
    VolumeMissing "E_VOLUME_MISSING" "No disk has the serial of a persistent volume.";
    VolumeAmbiguous "E_VOLUME_AMBIGUOUS" "Two or more disks have the serial of one persistent volume.";
    VolumeSize "E_VOLUME_SIZE" "The disk of a persistent volume is shorter than the manifest declares.";
    VolumeDevice "E_VOLUME_DEVICE" "The kernel refused a persistent volume's disk or one of its devices.";
    VolumeHeader "E_VOLUME_HEADER" "The header is not that of this volume: altered, or another volume, key, size or epoch.";
    VolumeSuperblock "E_VOLUME_SUPERBLOCK" "The dm-integrity superblock is not the only one that this volume can have.";
    VolumeIntegrity "E_VOLUME_INTEGRITY" "The filesystem of a persistent volume cannot be mounted: altered, or not whole.";
    Latch "E_LATCH" "The register that ends the right to keys was not in its expected state.";
    Container "E_CONTAINER" "The container could not be set up or started.";
    Supervise "E_SUPERVISE" "The running container could not be watched.";
    VolumeClose "E_VOLUME_CLOSE" "A persistent volume could not be written out and closed after the container ended.";
    Internal "E_INTERNAL" "Init found itself in a state that should not exist, and stopped.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn codes_are_unique_and_well_formed() {
        for (index, code) in Code::ALL.iter().enumerate() {
            let text = code.as_str();
            assert!(text.starts_with("E_"), "{text}");
            assert!(
                text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'),
                "{text}"
            );
            assert!(
                Code::ALL
                    .iter()
                    .skip(index + 1)
                    .all(|other| other.as_str() != text)
            );
        }
    }
}
