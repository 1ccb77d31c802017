//! States of a session, endpoints, and what a right request gets where.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// No session.
    None,
    /// Opened, not attested.
    Opened,
    /// Attested, and got its resource.
    Attested,
    /// Attested without success.
    Failed,
    /// Past its lifetime; it had attested.
    Expired,
    /// Another session of the same boot got its resource.
    Elsewhere,
}

pub(crate) const STATES: [State; 6] = [
    State::None,
    State::Opened,
    State::Attested,
    State::Failed,
    State::Expired,
    State::Elsewhere,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    Auth,
    Attest,
    Cookie,
    Bearer,
    /// Administration, which is not on the network.
    Admin,
}

/// What the right request gets: a code, or `granted`.
pub(crate) fn right(state: State, endpoint: Endpoint) -> &'static str {
    match (endpoint, state) {
        (Endpoint::Auth, _) => "granted",
        (Endpoint::Attest, State::None) => "R_SESSION_MISSING",
        (Endpoint::Attest, State::Opened) => "granted",
        (Endpoint::Attest, State::Attested | State::Failed) => "R_SESSION_USED",
        (Endpoint::Attest, State::Expired) => "R_SESSION_EXPIRED",
        (_, State::Elsewhere) => "R_BOOT_LATCHED",
        (Endpoint::Cookie | Endpoint::Bearer, State::Attested) => "granted",
        (Endpoint::Cookie | Endpoint::Bearer, _) => "R_TOKEN_MISSING",
        (Endpoint::Admin, _) => unreachable!(),
    }
}
