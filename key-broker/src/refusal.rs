//! Why the broker said no: one stable code per cause.
//!
//! A code is in the log line of the decision and in the `detail` the guest is
//! sent; `docs/codes.md` explains each, and a test compares it with this table.

use core::fmt;

macro_rules! refusals {
    ($($name:ident $text:literal $status:literal $kind:literal $meaning:literal;)*) => {
        /// A stable code; its text never changes once released.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Refusal {
            $(#[doc = $meaning] $name,)*
        }

        impl Refusal {
            /// Every code, in the order in which a guest can meet them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it is printed.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status of the answer.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Trustee's name of this kind of error, the last part of `type`.
            pub fn kind(self) -> &'static str {
                match self { $(Self::$name => $kind,)* }
            }

            /// One sentence for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

refusals! {
    Size "R_SIZE" 413 "HTTPFailed" "The body of the request is larger than 2 MiB.";
    Timeout "R_TIMEOUT" 408 "HTTPFailed" "The body of the request did not arrive before the deadline.";
    Path "R_PATH" 404 "InvalidRequestPath" "The path is outside the protocol.";
    Method "R_METHOD" 405 "HTTPFailed" "The method is not the one of this path.";
    Plugin "R_PLUGIN" 404 "PluginNotFound" "The broker has no plugin but resource.";
    Request "R_REQUEST" 401 "SerdeError" "The body is not the JSON of this request.";
    Version "R_VERSION" 401 "AttestationError" "The client speaks another version of the protocol.";
    TeeSample "R_TEE_SAMPLE" 401 "AttestationError" "Sample evidence proves nothing and is always refused.";
    TeeUnsupported "R_TEE_UNSUPPORTED" 401 "AttestationError" "Evidence of this TEE is not supported by this broker.";
    SessionsFull "R_SESSIONS_FULL" 401 "AttestationError" "Every session is attested and none has expired.";
    SessionMissing "R_SESSION_MISSING" 401 "AttestationError" "The request carries no session cookie.";
    SessionUnknown "R_SESSION_UNKNOWN" 401 "AttestationError" "No session has this cookie: never opened, or evicted.";
    SessionExpired "R_SESSION_EXPIRED" 401 "AttestationError" "The session is past its lifetime.";
    SessionUsed "R_SESSION_USED" 401 "AttestationError" "The session was attested before, with or without success.";
    Nonce "R_NONCE" 401 "AttestationError" "The nonce is not the one of this session.";
    TeeKey "R_TEE_KEY" 401 "JweError" "The public key is malformed or of an unsupported kind.";
    InitData "R_INIT_DATA" 401 "AttestationError" "Init-data is not supported by this broker.";
    AdditionalEvidence "R_ADDITIONAL_EVIDENCE" 401 "AttestationError" "Evidence of devices is not supported by this broker.";
    Evidence "R_EVIDENCE" 401 "AttestationError" "The evidence is not the JSON of this TEE.";
    AkUnknown "R_AK_UNKNOWN" 401 "AttestationError" "The TPM's attestation key is neither enrolled nor certified.";
    VekMissing "R_VEK_MISSING" 401 "AttestationError" "No certificate of this chip and firmware came with the report or is kept here.";
    Collateral "R_COLLATERAL" 401 "AttestationError" "No readable collateral of this kind of platform is kept here.";
    CollateralExpired "R_COLLATERAL_EXPIRED" 401 "AttestationError" "TCB info, QE identity or a CRL in the newest collateral of this kind of platform is past its next update.";
    Chain "R_CHAIN" 401 "AttestationError" "A certificate or signature does not hold, or not under a trusted root.";
    Crl "R_CRL" 401 "AttestationError" "No current list of what the trusted root revoked is kept here.";
    Revoked "R_REVOKED" 401 "AttestationError" "A key of the chain, or the platform, was revoked.";
    Signature "R_SIGNATURE" 401 "AttestationError" "The evidence is not signed by the key that it must be signed by.";
    Quote "R_QUOTE" 401 "AttestationError" "What the attestation key signed is not a TPM quote.";
    ReportData "R_REPORT_DATA" 401 "AttestationError" "The evidence is bound to another nonce or another public key.";
    PcrSelection "R_PCR_SELECTION" 401 "AttestationError" "The quote is not over exactly the 24 PCRs of the SHA-256 bank.";
    PcrDigest "R_PCR_DIGEST" 401 "AttestationError" "The PCR values sent are not the ones quoted.";
    Debug "R_DEBUG" 401 "AttestationError" "The guest was launched so that its host can debug it.";
    Migration "R_MIGRATION" 401 "AttestationError" "The guest was launched so that it can be migrated.";
    GuestPolicy "R_GUEST_POLICY" 401 "AttestationError" "The guest was launched with other attributes than the platform policy demands.";
    Vmpl "R_VMPL" 401 "AttestationError" "The report was asked for at another privilege level.";
    ServiceTd "R_SERVICE_TD" 401 "AttestationError" "A service TD is bound to the TD.";
    Seam "R_SEAM" 401 "AttestationError" "The TDX module is not Intel's, or is one for debugging.";
    Product "R_PRODUCT" 401 "AttestationError" "The processor's product is not accepted by the platform policy.";
    Tcb "R_TCB" 401 "AttestationError" "The processor's firmware is below the minimum, or another than was certified.";
    TcbStatus "R_TCB_STATUS" 401 "AttestationError" "The platform's TCB status is not accepted by the platform policy.";
    Chip "R_CHIP" 401 "AttestationError" "The report is of another chip than the certificate or the platform policy names.";
    EventLog "R_EVENT_LOG" 401 "AttestationError" "The event log does not give the registers that were signed.";
    LaunchDigest "R_LAUNCH_DIGEST" 401 "AttestationError" "The launch measurement is of no enrolled image.";
    ImageUnknown "R_IMAGE_UNKNOWN" 401 "AttestationError" "The registers match no enrolled image.";
    ImageRetired "R_IMAGE_RETIRED" 401 "AttestationError" "The image's version is below the minimum.";
    ReportId "R_REPORT_ID" 401 "AttestationError" "The report names no launch.";
    BootLatched "R_BOOT_LATCHED" 401 "AttestationError" "Another session of this boot already got its resources.";
    TokenMissing "R_TOKEN_MISSING" 401 "TokenNotFound" "The request carries neither an attested session nor its token.";
    ResourcePath "R_RESOURCE_PATH" 401 "PluginInternalError" "The path is not REPOSITORY/TYPE/TAG.";
    ResourceUnknown "R_RESOURCE_UNKNOWN" 401 "PluginInternalError" "The broker has no such resource.";
    ResourceImage "R_RESOURCE_IMAGE" 401 "PolicyDeny" "The resource is not bound to this image.";
    ResourceTee "R_RESOURCE_TEE" 401 "PolicyDeny" "The resource is not bound to this kind of TEE.";
    ResourceInstance "R_RESOURCE_INSTANCE" 401 "PolicyDeny" "The resource is not bound to this instance.";
    PolicyChanged "R_POLICY_CHANGED" 401 "PolicyDeny" "The platform policy, a trusted root, the endorsements that the store keeps or the image's reference values were changed since the session attested.";
    Internal "R_INTERNAL" 500 "PluginInternalError" "The broker cannot read its store or write its log.";
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn codes_are_unique_and_well_formed() {
        for (index, code) in Refusal::ALL.iter().enumerate() {
            let text = code.as_str();
            assert!(text.starts_with("R_"), "{text}");
            assert!(
                text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'),
                "{text}"
            );
            let mut later = Refusal::ALL.iter().skip(index + 1);
            assert!(later.all(|other| other.as_str() != text), "{text}");
        }
    }
}
